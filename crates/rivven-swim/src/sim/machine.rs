//! What a protocol must offer to take part in a simulation.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Truth;
use crate::{Identity, NodeId, Time};

/// A machine with an address of its own, numbered from 1. Its network card outlives its member.
pub type Host = u32;

/// Port of every member.
const PORT: u16 = 7946;

/// Where the member of `host` listens: the low 24 bits of its number below 10.0.0.0.
#[must_use]
pub const fn socket_addr(host: Host) -> SocketAddr {
    let [_, a, b, c] = host.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, a, b, c)), PORT)
}

/// The host at `addr`, if that is an address of the simulation.
#[must_use]
pub const fn host_of(addr: SocketAddr) -> Option<Host> {
    match addr.ip() {
        IpAddr::V4(ip) => {
            let [net, a, b, c] = ip.octets();
            let ours = net == 10 && addr.port() == PORT;
            if ours {
                Some(Host::from_be_bytes([0, a, b, c]))
            } else {
                None
            }
        }
        IpAddr::V6(_) => None,
    }
}

/// Something that a member wants sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A datagram: it may be lost.
    Datagram(SocketAddr),
    /// A request over a reliable stream; answered, or failed.
    Call {
        /// Whose member is asked.
        to: NodeId,
        /// Chosen by the asking member.
        id: u64,
    },
    /// The answer to the request that came with this number.
    Answer(u64),
}

/// What a member concludes about another, or does with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The subject takes part.
    Alive,
    /// The subject did not answer somebody.
    Doubted,
    /// The subject is given up.
    Dead,
    /// The subject said goodbye.
    Left,
    /// The subject, which is the observer itself, has taken a new identity.
    Renewed,
    /// The subject is of little use at the moment, by its own word or by what was seen of it.
    Degraded,
    /// The subject is of full use again.
    Recovered,
}

/// One conclusion of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// When.
    pub at: Time,
    /// Who concluded.
    pub observer: Host,
    /// About whom: a node id, which in most simulations is the number of a host.
    pub subject: NodeId,
    /// What.
    pub verdict: Verdict,
}

/// A protocol as a pure machine. After every input the simulation takes all outputs.
pub trait Machine {
    /// Who it is; goes with everything it sends, as a seal would prove it.
    fn identity(&self) -> Identity;

    /// Bytes around a payload, beside IP and UDP.
    fn overhead(&self) -> usize;

    /// A datagram came.
    fn datagram(&mut self, now: Time, from: SocketAddr, sender: Identity, payload: &[u8]);

    /// A request came over a stream, to be answered with [`Outgoing::Answer`].
    fn call(&mut self, _now: Time, _id: u64, _sender: Identity, _body: &[u8]) {}

    /// The answer to a request came; `None` if there is no way to the other end.
    fn answer(&mut self, _now: Time, _id: u64, _answer: Option<(Identity, &[u8])>) {}

    /// Its deadline has passed.
    fn timeout(&mut self, now: Time);

    /// When to call [`Self::timeout`].
    fn deadline(&self) -> Option<Time>;

    /// What to send next; the payload replaces the content of `payload`.
    fn outgoing(&mut self, payload: &mut Vec<u8>) -> Option<Outgoing>;

    /// What it has concluded.
    fn verdict(&mut self) -> Option<(NodeId, Verdict)>;

    /// Compares its view with what really happened. Called after every event if the simulation is strict.
    ///
    /// # Panics
    /// If an invariant of the protocol is broken.
    fn audit(&mut self, _truth: &mut Truth) {}
}
