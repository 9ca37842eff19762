//! foca as a machine of the simulation, with its defaults for a local network.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    num::NonZeroU32,
    time::Duration,
};

use anyhow::Result;
use foca::{Config, Foca, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer};
use rand_pcg::Pcg64;
use rivven_swim::{
    BootEpoch, Identity, InstanceId, NodeId, Time,
    sim::{Host, Machine, Outgoing, Verdict, socket_addr},
};
use serde::{Deserialize, Serialize};

use super::contender::Contender;

/// Address, and a counter that a member raises when it was declared dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name {
    host: Host,
    port: u16,
    bump: u16,
}

impl foca::Identity for Name {
    type Addr = Host;

    fn renew(&self) -> Option<Self> {
        let bump = self.bump.wrapping_add(1);
        Some(Self { bump, ..*self })
    }

    fn addr(&self) -> Host {
        self.host
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.bump > adversary.bump
    }
}

const fn name(host: Host, bump: u16) -> Name {
    Name {
        host,
        port: 7946,
        bump,
    }
}

/// What foca asks of its surroundings.
#[derive(Default)]
struct Surroundings {
    now: Time,
    sends: VecDeque<(Host, Vec<u8>)>,
    timers: BTreeMap<(Time, u64), Timer<Name>>,
    serial: u64,
    verdicts: VecDeque<(NodeId, Verdict)>,
    alive: BTreeSet<Host>,
}

impl Runtime<Name> for &mut Surroundings {
    fn notify(&mut self, notification: Notification<'_, Name>) {
        let verdict = match notification {
            Notification::MemberUp(who) => {
                self.alive.insert(who.host);
                (who, Verdict::Alive)
            }
            Notification::MemberDown(who) => {
                self.alive.remove(&who.host);
                (who, Verdict::Dead)
            }
            Notification::ProbeFailed(_, who) => (who, Verdict::Doubted),
            Notification::Rejoin(who) => (who, Verdict::Renewed),
            _ => return,
        };
        self.verdicts.push_back((verdict.0.host.into(), verdict.1));
    }

    fn send_to(&mut self, to: Name, data: &[u8]) {
        self.sends.push_back((to.host, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Name>, after: Duration) {
        self.serial += 1;
        self.timers.insert((self.now + after, self.serial), event);
    }
}

/// A member that runs foca.
pub(super) struct FocaMember {
    foca: Foca<Name, PostcardCodec, Pcg64, NoCustomBroadcast>,
    around: Surroundings,
    host: Host,
}

impl Contender for FocaMember {
    const NAME: &'static str = "foca";

    fn create(host: Host, start: u16, size: u32, now: Time, seed: u64) -> Result<Self> {
        let size = NonZeroU32::new(size).unwrap_or(NonZeroU32::MIN);
        let rng = Pcg64::new(seed.into(), 0x00a0_2bdb_f7bb_3c0a_7ac2_8fa1_6a64_abf9);
        let foca = Foca::new(name(host, start), Config::new_lan(size), rng, PostcardCodec);
        let around = Surroundings {
            now,
            ..Surroundings::default()
        };
        Ok(Self { foca, around, host })
    }

    fn preload(&mut self, hosts: Host) -> Result<()> {
        let others = (1..=hosts).filter(|host| *host != self.host);
        let members = others.map(|host| foca::Member::alive(name(host, 0)));
        self.foca.apply_many(members, false, &mut self.around)?;
        self.around.verdicts.clear();
        Ok(())
    }

    fn join(&mut self, now: Time, seed: Host) {
        self.around.now = now;
        // An error here is one of the codec, which cannot fail into a vector.
        let _ = self.foca.announce(name(seed, 0), &mut self.around);
    }

    fn believes_in(&self, host: Host) -> bool {
        host == self.host || self.around.alive.contains(&host)
    }

    fn has_flagged(&self, host: Host) -> bool {
        !self.believes_in(host)
    }
}

impl Machine for FocaMember {
    fn identity(&self) -> Identity {
        Identity {
            node: self.host.into(),
            instance: InstanceId::from_bytes([0; 16]),
            boot_epoch: BootEpoch(1),
        }
    }

    fn overhead(&self) -> usize {
        0
    }

    fn datagram(&mut self, now: Time, _from: SocketAddr, _sender: Identity, payload: &[u8]) {
        self.around.now = now;
        // What it refuses, such as news from the dead, is part of how it works.
        let _ = self.foca.handle_data(payload, &mut self.around);
    }

    fn timeout(&mut self, now: Time) {
        self.around.now = now;
        while let Some(first) = self.around.timers.first_entry() {
            if first.key().0 > now {
                break;
            }
            let timer = first.remove();
            let _ = self.foca.handle_timer(timer, &mut self.around);
        }
    }

    fn deadline(&self) -> Option<Time> {
        self.around.timers.first_key_value().map(|((at, _), _)| *at)
    }

    fn outgoing(&mut self, payload: &mut Vec<u8>) -> Option<Outgoing> {
        let (to, bytes) = self.around.sends.pop_front()?;
        *payload = bytes;
        Some(Outgoing::Datagram(socket_addr(to)))
    }

    fn verdict(&mut self) -> Option<(NodeId, Verdict)> {
        self.around.verdicts.pop_front()
    }
}
