//! The protocol in a simulated network: what members know, and when. Every event is audited.

mod chaos;
mod life;
mod sick;
mod storms;

use core::{
    ops::{Deref, DerefMut},
    time::Duration,
};
use std::{collections::BTreeSet, format, println, vec, vec::Vec};

use super::{Host, Sim, SimMember, Verdict, identity, socket_addr};
use crate::{Command, Identity, MemberState, NodeId, Swim};

/// Members numbered from 1, each on the host of its number, who know only the first two.
struct Cluster {
    sim: Sim<SimMember>,
    period_ms: u64,
    seed: u64,
}

impl Deref for Cluster {
    type Target = Sim<SimMember>;

    fn deref(&self) -> &Self::Target {
        &self.sim
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.sim
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Cluster {
    /// `count` members that all start at once.
    fn new(count: u32, seed: u64) -> Self {
        Self::with_period(count, seed, 1_000)
    }

    /// As [`Self::new`], slower or faster.
    fn with_period(count: u32, seed: u64, period_ms: u64) -> Self {
        println!("seed {seed}: replay with Cluster::with_period({count}, {seed}, {period_ms})");
        let mut sim = Sim::new(seed);
        sim.strict = true;
        let mut cluster = Self { sim, period_ms, seed };
        for host in 1..=count {
            cluster.launch(host, identity(host.into(), 1));
        }
        cluster
    }

    /// As [`Self::new`], run until all know all.
    fn converged(count: u32, seed: u64) -> Self {
        let mut cluster = Self::new(count, seed);
        let took = cluster.until(30, Self::all_agree).expect("the cluster forms");
        println!("formed in {took:?}");
        cluster.run(secs(5));
        cluster.news.clear();
        cluster
    }

    /// Starts `identity` on `host`.
    fn launch(&mut self, host: Host, identity: Identity) {
        self.seed = self.seed.wrapping_add(1);
        let (now, seed) = (self.now(), self.seed);
        let meta = format!("node {}", identity.node);
        let mut member = SimMember::new(host, identity, self.period_ms, meta.as_bytes(), now, seed).unwrap();
        member.keep_events = true;
        member.command(now, Command::Seeds(vec![socket_addr(1), socket_addr(2)]));
        self.start(host, member);
    }

    fn command(&mut self, host: Host, command: Command) {
        self.tell(host, |member, now| member.command(now, command));
    }

    fn until(&mut self, seconds: u64, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let begun = self.now();
        let step = Duration::from_millis(self.period_ms / 20);
        let end = begun + secs(seconds);
        while self.now() < end {
            self.run(step);
            if done(self) {
                return Some(self.now().since(begun));
            }
        }
        None
    }

    fn swim(&self, host: Host) -> &Swim {
        self.machine(host).unwrap().swim()
    }

    fn state(&self, observer: Host, subject: NodeId) -> Option<MemberState> {
        self.machine(observer)?.state_of(subject)
    }

    /// Whether every running member has every running member alive, and all views are equal.
    fn all_agree(&self) -> bool {
        let up: Vec<_> = self.up().collect();
        let digest = self.swim(up[0]).digest();
        up.iter().all(|observer| {
            let swim = self.swim(*observer);
            swim.digest() == digest
                && up.iter().all(|subject| {
                    let node = self.swim(*subject).identity().node;
                    self.state(*observer, node) == Some(MemberState::Alive)
                })
        })
    }

    /// Whether every running member but that of host `subject` sees its node in `state`.
    fn all_see(&self, subject: Host, state: MemberState) -> bool {
        self.up()
            .filter(|observer| *observer != subject)
            .all(|observer| self.state(observer, subject.into()) == Some(state))
    }

    /// How often a member that runs was declared dead.
    fn evictions(&self) -> usize {
        let up: BTreeSet<NodeId> = self.up().map(NodeId::from).collect();
        self.count(|verdict, subject| verdict == Verdict::Dead && up.contains(&subject))
    }

    fn count(&self, is: impl Fn(Verdict, NodeId) -> bool) -> usize {
        self.news
            .iter()
            .filter(|news| is(news.verdict, news.subject))
            .count()
    }
}
