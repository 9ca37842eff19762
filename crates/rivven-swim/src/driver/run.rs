//! The loop between socket and machine: it moves bytes and decides nothing.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
    vec,
    vec::Vec,
};

use rivven_transport::{TaskGroup, datagram::SealError};
use tokio::{net::UdpSocket, sync::broadcast, time::Instant};
use tracing::{debug, info, trace, warn};

use super::{
    Shared,
    envelope::{Envelope, Refused},
    knock::Knocks,
    streams::Streams,
};
use crate::{Broadcast, Event, MAX_DATAGRAM_LEN, MemberEvent, StreamEvent, Time, Transmit};

/// Most datagrams taken in before timers get their turn.
const BATCH: usize = 256;

/// How often at most refused datagrams are reported.
const REFUSAL_REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Wait after the socket itself failed, so that a lasting failure does not spin.
const SOCKET_ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Where what the machine tells its user goes.
pub(super) struct Publishers {
    pub(super) events: broadcast::Sender<MemberEvent>,
    pub(super) messages: broadcast::Sender<Broadcast>,
}

/// Owner of the socket.
pub(super) struct Runner {
    shared: Arc<Shared>,
    socket: UdpSocket,
    local_addr: SocketAddr,
    envelope: Envelope,
    publishers: Publishers,
    knocks: Knocks,
    streams: Option<Streams>,
    tasks: Option<TaskGroup>,
    waits_for_keys: bool,
    refused: u64,
    reported: Option<Instant>,
    /// One byte more than is allowed, so that too long is seen.
    datagram: Vec<u8>,
    payload: Vec<u8>,
}

impl Runner {
    pub(super) fn new(
        shared: Arc<Shared>,
        socket: UdpSocket,
        local_addr: SocketAddr,
        envelope: Envelope,
        publishers: Publishers,
    ) -> Self {
        Self {
            shared,
            socket,
            local_addr,
            envelope,
            publishers,
            knocks: Knocks::new(),
            streams: None,
            tasks: None,
            waits_for_keys: false,
            refused: 0,
            reported: None,
            datagram: vec![0; MAX_DATAGRAM_LEN + 1],
            payload: Vec::with_capacity(MAX_DATAGRAM_LEN),
        }
    }

    /// Lets it knock at ports and use streams, with tasks of `tasks`.
    pub(super) fn reach(&mut self, tasks: TaskGroup, streams: Option<Streams>) {
        self.tasks = Some(tasks);
        self.streams = streams;
    }

    /// Runs until its task group ends it.
    pub(super) async fn run(mut self) {
        // Until the runtime has seen the socket writable once, every send would be refused.
        if let Err(error) = self.socket.writable().await {
            warn!(%error, "gossip socket failed; trying again");
        }
        loop {
            let deadline = self.flush();
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(self.shared.origin + micros(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shared.commanded.notified() => {}
                ready = self.socket.readable() => {
                    if let Err(error) = ready {
                        warn!(%error, "gossip socket failed; trying again");
                        tokio::time::sleep(SOCKET_ERROR_PAUSE).await;
                    }
                }
                () = due => {}
            }
            // What has arrived is heard before anything is concluded from its absence.
            self.receive();
            let mut swim = self.shared.swim();
            swim.handle_timeout(self.shared.now());
        }
    }

    /// Takes every output of the machine; returns when it wants to be woken.
    fn flush(&mut self) -> Option<Time> {
        let mut transmits = Vec::new();
        let mut events = Vec::new();
        let mut payload = Vec::new();
        let deadline = {
            let mut swim = self.shared.swim();
            while let Some(transmit) = swim.poll_transmit(&mut payload) {
                transmits.push((transmit, core::mem::take(&mut payload)));
            }
            while let Some(event) = swim.poll_event() {
                events.push(event);
            }
            swim.poll_timeout()
        };
        for event in events {
            self.publish(event);
        }
        for (transmit, payload) in transmits {
            self.carry_out(transmit, payload);
        }
        deadline
    }

    fn carry_out(&mut self, transmit: Transmit, payload: Vec<u8>) {
        match transmit {
            Transmit::Datagram { to } => self.send(to, &payload),
            Transmit::Knock { to, node } => {
                if let Some(tasks) = self.tasks.clone()
                    && self.pack(&payload)
                {
                    let datagram = self.payload.clone();
                    self.knocks.knock(&tasks, &self.shared, (node, to), datagram);
                }
            }
            Transmit::Request { to, id } => match self.streams.as_ref().zip(self.tasks.as_ref()) {
                Some((streams, tasks)) => streams.request(tasks, &self.shared, (to, id), payload),
                None => self.shared.stream(StreamEvent::Failed { id }),
            },
            Transmit::Response { id } => self.shared.answers.give(id, payload),
        }
    }

    fn publish(&self, event: Event) {
        match event {
            Event::Member(event) => {
                log(&event);
                // Nobody listening is no fault.
                let _ = self.publishers.events.send(event);
            }
            Event::LeaveComplete => {
                self.shared.left.send_replace(true);
            }
            Event::Broadcast(message) => {
                let _ = self.publishers.messages.send(message);
            }
        }
    }

    /// Puts `payload` into its envelope, in `self.payload`.
    fn pack(&mut self, payload: &[u8]) -> bool {
        if let Err(error) = self.envelope.pack(payload, &mut self.payload) {
            self.count(error.code());
            // One that waits for its keys says so once; every probe until then is lost.
            if error != SealError::NoKeys || !std::mem::replace(&mut self.waits_for_keys, true) {
                warn!(%error, code = error.code(), "gossip datagram not sealed");
            }
            return false;
        }
        self.waits_for_keys = false;
        true
    }

    fn send(&mut self, to: SocketAddr, payload: &[u8]) {
        if !self.pack(payload) {
            return;
        }
        // Datagrams may be lost anywhere, so a full send buffer is one more place.
        if let Err(error) = self
            .socket
            .try_send_to(&self.payload, reachable(to, self.local_addr))
        {
            trace!(%to, %error, "gossip datagram not sent");
        }
    }

    fn receive(&mut self) {
        for _ in 0..BATCH {
            let (len, from) = match self.socket.try_recv_from(&mut self.datagram) {
                Ok(received) => received,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    trace!(%error, "gossip datagram not received");
                    continue;
                }
            };
            let datagram = self.datagram.get(..len).unwrap_or_default();
            match self.envelope.unpack(datagram, &mut self.payload) {
                Ok(sender) => {
                    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                    let mut swim = self.shared.swim();
                    swim.handle_datagram(self.shared.now(), from, sender, &self.payload);
                }
                Err(refused) => self.refuse(from, refused),
            }
        }
    }

    fn count(&self, code: &'static str) {
        let mut dropped = self.shared.dropped();
        let count = dropped.entry(code).or_default();
        *count = count.saturating_add(1);
    }

    /// Drops a datagram. Its sender gets no answer, whoever it is.
    fn refuse(&mut self, from: SocketAddr, refused: Refused) {
        self.count(refused.code());
        self.refused = self.refused.saturating_add(1);
        let due = self
            .reported
            .is_none_or(|at| at.elapsed() >= REFUSAL_REPORT_INTERVAL);
        if due {
            self.reported = Some(Instant::now());
            warn!(%from, reason = refused.code(), total = self.refused, "refused gossip datagram");
        } else {
            debug!(%from, reason = refused.code(), "refused gossip datagram");
        }
    }
}

const fn micros(at: Time) -> Duration {
    Duration::from_micros(at.as_micros())
}

/// `to` in the family of the socket: one bound to `[::]` reaches IPv4 only by mapped addresses.
fn reachable(to: SocketAddr, local: SocketAddr) -> SocketAddr {
    match (to.ip(), local.ip()) {
        (IpAddr::V4(v4), IpAddr::V6(_)) => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
        (IpAddr::V4(_) | IpAddr::V6(_), IpAddr::V4(_) | IpAddr::V6(_)) => to,
    }
}

/// Puts what an operator should see into the log.
pub(super) fn log(event: &MemberEvent) {
    match event {
        MemberEvent::Alive(m) => {
            info!(node = m.node, boot_epoch = m.boot_epoch.0, addr = %m.addr, "member is alive");
        }
        MemberEvent::Updated(m) => debug!(node = m.node, addr = %m.addr, "member changed"),
        MemberEvent::Degraded(m) => info!(node = m.node, "member is degraded"),
        MemberEvent::Recovered(m) => info!(node = m.node, "member has recovered"),
        MemberEvent::Suspect(m) => info!(node = m.node, "member is suspect"),
        MemberEvent::Confirmed(m) => info!(node = m.node, "suspicion is confirmed"),
        MemberEvent::Dead(m) => warn!(node = m.node, addr = %m.addr, "member is dead"),
        MemberEvent::Left(m) => info!(node = m.node, "member left"),
        MemberEvent::Forgotten(node) => debug!(node, "member is forgotten"),
        MemberEvent::Conflict {
            node,
            known,
            other,
            addr,
        } => warn!(
            node,
            %known,
            %other,
            %addr,
            "two data directories use one node id; the one known first is kept: give the other node its \
             own id or its old data directory"
        ),
        MemberEvent::Superseded { known } => warn!(
            known = known.0,
            "others know a later start of this node: its data directory is an old copy or in use twice, \
             and they ignore this node"
        ),
        MemberEvent::Missed { .. } => {}
    }
}
