//! What a protocol must offer to be measured, and a cluster of it.

use std::time::Duration;

use anyhow::Result;
use rivven_swim::{
    Command, MemberState, Time,
    sim::{Host, Load, Machine, Sim, SimMember, identity, socket_addr},
};

/// A protocol under test.
pub(super) trait Contender: Machine + Sized {
    /// Its name in the report.
    const NAME: &'static str;

    /// Start number `start` of the member of `host`, in a cluster meant for `size` members.
    fn create(host: Host, start: u16, size: u32, now: Time, seed: u64) -> Result<Self>;

    /// Makes the members of hosts 1 to `hosts` known as alive.
    fn preload(&mut self, hosts: Host) -> Result<()>;

    /// Asks the member of `seed` to be let in.
    fn join(&mut self, now: Time, seed: Host);

    /// Whether it takes the member of `host` for alive, or suspect at most.
    fn believes_in(&self, host: Host) -> bool;

    /// Whether it would not give the member of `host` new work.
    fn has_flagged(&self, host: Host) -> bool;
}

impl Contender for SimMember {
    const NAME: &'static str = "rivven";

    fn create(host: Host, start: u16, _size: u32, now: Time, seed: u64) -> Result<Self> {
        let identity = identity(host.into(), u64::from(start) + 1);
        Ok(Self::new(host, identity, 1_000, b"", now, seed)?)
    }

    fn preload(&mut self, hosts: Host) -> Result<()> {
        Self::preload(self, (1..=hosts).map(|host| (host, identity(host.into(), 1))));
        Ok(())
    }

    fn join(&mut self, now: Time, seed: Host) {
        self.command(now, Command::Seeds(vec![socket_addr(seed)]));
    }

    fn believes_in(&self, host: Host) -> bool {
        self.state_of(host.into()).is_some_and(MemberState::is_live)
    }

    fn has_flagged(&self, host: Host) -> bool {
        !self.believes_in(host) || self.is_degraded(host.into())
    }
}

/// A cluster that knows itself.
pub(super) fn cluster<C: Contender>(size: u32, seed: u64) -> Result<Sim<C>> {
    let mut sim = Sim::new(seed);
    for host in 1..=size {
        let mut member = C::create(host, 0, size, Time::ZERO, seed ^ u64::from(host) << 20)?;
        member.preload(size)?;
        sim.start(host, member);
    }
    // Round-trip times are measured, and what start-up caused is over.
    sim.run(Duration::from_secs(10));
    sim.news.clear();
    sim.load = Load::default();
    Ok(sim)
}

/// Whether every running member believes in every running member.
pub(super) fn all_believe<C: Contender>(sim: &Sim<C>) -> bool {
    let up: Vec<Host> = sim.up().collect();
    let believes = |observer: Host, subject: Host| {
        let machine = sim.machine(observer);
        machine.is_some_and(|machine| machine.believes_in(subject))
    };
    up.iter()
        .all(|observer| up.iter().all(|subject| believes(*observer, *subject)))
}

/// The value that `permille` of a thousand do not exceed, of sorted times.
pub(super) fn quantile(sorted: &[f64], permille: usize) -> f64 {
    let at = (sorted.len() * permille / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Seconds since `since`.
pub(super) fn seconds(at: Time, since: Time) -> f64 {
    at.since(since).as_secs_f64()
}
