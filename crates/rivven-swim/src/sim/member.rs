//! [`Swim`] as a machine of the simulation.

use alloc::{collections::VecDeque, vec::Vec};
use core::net::SocketAddr;

use super::{
    Host, Machine, Outgoing, Truth, Verdict,
    audit::{Seen, audit},
    socket_addr,
};
use crate::{
    BootEpoch, Broadcast, Command, ConfigError, Event, Health, Identity, InstanceId, MAX_STREAM_LEN,
    MemberEvent, MemberState, NodeId, Settings, StreamEvent, Swim, SwimConfig, Time, Transmit,
};

/// Bytes of the seal around a datagram of a member with a durable boot epoch.
const SEAL: usize = 61;

/// Longest payload: what a datagram holds beside the longest seal.
const MAX_PAYLOAD: usize = 1_323;

/// Start number `boot_epoch` of the data directory of node `node`.
#[must_use]
pub fn identity(node: NodeId, boot_epoch: u64) -> Identity {
    let mut bytes = [7; 16];
    for (to, from) in bytes.iter_mut().zip(node.to_be_bytes()) {
        *to = from;
    }
    Identity {
        node,
        instance: InstanceId::from_bytes(bytes),
        boot_epoch: BootEpoch(boot_epoch),
    }
}

/// A member with what its user has heard from it.
#[derive(Debug)]
pub struct SimMember {
    swim: Swim,
    seen: Seen,
    verdicts: VecDeque<(NodeId, Verdict)>,
    events: Vec<MemberEvent>,
    /// Whether every event is kept for [`Self::take_events`].
    pub keep_events: bool,
    left: bool,
    messages: Vec<Broadcast>,
}

impl SimMember {
    /// A member with the usual settings, and streams to all members, at the address of `host`.
    ///
    /// # Errors
    /// As [`Swim::new`].
    pub fn new(
        host: Host,
        identity: Identity,
        period_ms: u64,
        meta: &[u8],
        now: Time,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        let addr = socket_addr(host);
        let config = SwimConfig {
            bind_addr: addr.into(),
            known_peers: Vec::new(),
            protocol_period_ms: period_ms,
            suspect_timeout_ms: 5 * period_ms,
        };
        let settings = Settings::new(&config, addr)?
            .max_datagram(MAX_PAYLOAD)?
            .with_streams();
        Ok(Self::of(Swim::new(settings, identity, meta, now, seed)?))
    }

    /// A member around a machine.
    #[must_use]
    pub fn of(swim: Swim) -> Self {
        Self {
            swim,
            seen: Seen::default(),
            verdicts: VecDeque::new(),
            events: Vec::new(),
            keep_events: false,
            left: false,
            messages: Vec::new(),
        }
    }

    /// Makes `members`, each on the host of its number, known as if they had long been alive.
    pub fn preload(&mut self, members: impl IntoIterator<Item = (Host, Identity)>) {
        let members = members.into_iter();
        self.swim
            .preload(members.map(|(host, identity)| (identity, socket_addr(host))));
    }

    /// Gives it a command.
    pub fn command(&mut self, now: Time, command: Command) {
        self.swim.command(now, command);
    }

    /// The machine.
    #[must_use]
    pub const fn swim(&self) -> &Swim {
        &self.swim
    }

    /// The machine, for what is no command.
    #[must_use]
    pub const fn swim_mut(&mut self) -> &mut Swim {
        &mut self.swim
    }

    /// What it believes of `subject`.
    #[must_use]
    pub fn state_of(&self, subject: NodeId) -> Option<MemberState> {
        self.swim.state_of(subject)
    }

    /// Whether it takes `subject` for degraded.
    #[must_use]
    pub fn is_degraded(&self, subject: NodeId) -> bool {
        self.swim.health_of(subject) == Some(Health::Degraded)
    }

    /// Whether its goodbye has been told.
    #[must_use]
    pub const fn has_left(&self) -> bool {
        self.left
    }

    /// Takes the events that were kept.
    pub fn take_events(&mut self) -> Vec<MemberEvent> {
        core::mem::take(&mut self.events)
    }

    /// Messages of other members' users, in the order in which they came.
    #[must_use]
    pub fn messages(&self) -> &[Broadcast] {
        &self.messages
    }

    fn hear(&mut self, event: MemberEvent) {
        let verdict = match &event {
            MemberEvent::Alive(view) => Some((view.node, Verdict::Alive)),
            MemberEvent::Suspect(view) => Some((view.node, Verdict::Doubted)),
            MemberEvent::Dead(view) => Some((view.node, Verdict::Dead)),
            MemberEvent::Left(view) => Some((view.node, Verdict::Left)),
            MemberEvent::Degraded(view) => Some((view.node, Verdict::Degraded)),
            MemberEvent::Recovered(view) => Some((view.node, Verdict::Recovered)),
            MemberEvent::Updated(_)
            | MemberEvent::Confirmed(_)
            | MemberEvent::Forgotten(_)
            | MemberEvent::Conflict { .. }
            | MemberEvent::Superseded { .. }
            | MemberEvent::Missed { .. } => None,
        };
        self.verdicts.extend(verdict);
        if self.keep_events {
            self.events.push(event);
        }
    }
}

impl Machine for SimMember {
    fn identity(&self) -> Identity {
        self.swim.identity()
    }

    fn overhead(&self) -> usize {
        SEAL
    }

    fn datagram(&mut self, now: Time, from: SocketAddr, sender: Identity, payload: &[u8]) {
        self.swim.handle_datagram(now, from, sender, payload);
    }

    fn call(&mut self, now: Time, id: u64, sender: Identity, body: &[u8]) {
        self.swim
            .handle_stream(now, StreamEvent::Request { id, sender, body });
    }

    fn answer(&mut self, now: Time, id: u64, answer: Option<(Identity, &[u8])>) {
        let event = match answer {
            Some((sender, body)) => StreamEvent::Response { id, sender, body },
            None => StreamEvent::Failed { id },
        };
        self.swim.handle_stream(now, event);
    }

    fn timeout(&mut self, now: Time) {
        self.swim.handle_timeout(now);
    }

    fn deadline(&self) -> Option<Time> {
        self.swim.poll_timeout()
    }

    fn outgoing(&mut self, payload: &mut Vec<u8>) -> Option<Outgoing> {
        let transmit = self.swim.poll_transmit(payload)?;
        let limit = match transmit {
            Transmit::Datagram { .. } | Transmit::Knock { .. } => MAX_PAYLOAD,
            Transmit::Request { .. } | Transmit::Response { .. } => MAX_STREAM_LEN,
        };
        assert!(payload.len() <= limit, "{transmit:?} has {} bytes", payload.len());
        Some(match transmit {
            Transmit::Datagram { to } | Transmit::Knock { to, .. } => Outgoing::Datagram(to),
            Transmit::Request { to, id } => Outgoing::Call { to, id },
            Transmit::Response { id } => Outgoing::Answer(id),
        })
    }

    fn verdict(&mut self) -> Option<(NodeId, Verdict)> {
        while let Some(event) = self.swim.poll_event() {
            match event {
                Event::Member(event) => self.hear(event),
                Event::LeaveComplete => self.left = true,
                Event::Broadcast(broadcast) => self.messages.push(broadcast),
            }
        }
        self.verdicts.pop_front()
    }

    fn audit(&mut self, truth: &mut Truth) {
        audit(&self.swim, &mut self.seen, truth);
    }
}
