//! Requests and answers over reliable streams: the last ping of a probe, and pages of a long view.

use rivven_types::NodeId;

use super::{Letter, Reply, Swim, Transmit};
use crate::{
    Identity, Time,
    wire::{self, Item, MAX_STREAM_LEN, Payload},
};

/// What happens on a stream. The transport has proven who is at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamEvent<'a> {
    /// A member asks. The machine answers with [`Transmit::Response`], at once.
    Request {
        /// Comes back in the answer; chosen by the driver.
        id: u64,
        /// Who asks.
        sender: Identity,
        /// What it sent, at most [`MAX_STREAM_LEN`] bytes.
        body: &'a [u8],
    },
    /// A member answers [`Transmit::Request`].
    Response {
        /// As in the request.
        id: u64,
        /// Who answers.
        sender: Identity,
        /// What it sent, at most [`MAX_STREAM_LEN`] bytes.
        body: &'a [u8],
    },
    /// A [`Transmit::Request`] found no way to the member, or no answer. It proves nothing about it.
    Failed {
        /// As in the request.
        id: u64,
    },
}

impl Swim {
    /// Takes in what happened on a stream.
    ///
    /// Bodies have the form of datagrams, but may be longer, and are as little trusted.
    pub fn handle_stream(&mut self, now: Time, event: StreamEvent<'_>) {
        self.notice_lag(now);
        let (reply, sender, body) = match event {
            StreamEvent::Request { id, sender, body } => (Reply::Stream(id), sender, body),
            StreamEvent::Response { sender, body, .. } => (Reply::None, sender, body),
            StreamEvent::Failed { id } => {
                if let Ok(seq) = u32::try_from(id) {
                    self.retry_pull(now, seq);
                }
                return;
            }
        };
        let Ok(items) = wire::decode(body, MAX_STREAM_LEN) else {
            self.dropped = self.dropped.saturating_add(1);
            self.refuse(reply);
            return;
        };
        let known = self.members.get(sender.node).map(|member| member.socket_addr());
        let letter = Letter {
            // Streams come from ports of their own; where the member listens is known, or will be told.
            from: known.unwrap_or_else(|| ([0, 0, 0, 0], 0).into()),
            reply,
            sender,
            len: body.len(),
            accuses_me: self.accuses_me(&items),
        };
        let before = self.transmits.len();
        self.handle_letter(now, &letter, &items);
        if !self.keep_one_answer(before) {
            self.refuse(reply);
        }
    }

    /// Drops all answers over a stream behind the first of those that were queued from `begin` on: whoever asks
    /// several things at once is answered what it asked first. False if there is none.
    fn keep_one_answer(&mut self, begin: usize) -> bool {
        let mut answered = false;
        let mut number = 0;
        self.transmits.retain(|(transmit, _)| {
            let is_answer = number >= begin && matches!(transmit, Transmit::Response { .. });
            number += 1;
            let surplus = is_answer && answered;
            answered |= is_answer;
            !surplus
        });
        answered
    }

    /// An empty answer, so that nobody waits for one.
    fn refuse(&mut self, reply: Reply) {
        if let Reply::Stream(id) = reply {
            self.transmit(Transmit::Response { id }, Payload::new(1));
        }
    }

    /// The last resort of a probe: datagrams may be lost or blocked where a stream gets through.
    pub(super) fn ping_over_stream(&mut self, seq: u32, target: NodeId) {
        let mut payload = Payload::new(self.settings.max_datagram);
        payload.push(&Item::Ping(self.ping(seq, target)));
        let (to, id) = (target, u64::from(seq));
        self.transmit(Transmit::Request { to, id }, payload);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, vec::Vec};

    use super::*;
    use crate::{BootEpoch, InstanceId, PeerAddr, Settings, SwimConfig};

    fn identity(node: NodeId) -> Identity {
        Identity {
            node,
            instance: InstanceId::from_bytes([9; 16]),
            boot_epoch: BootEpoch(1),
        }
    }

    /// An empty request, one ping, a page and a ping, and no payload at all.
    #[test]
    fn whoever_asks_over_a_stream_is_answered_once_whatever_it_asks() {
        let bound = SocketAddr::from(([10, 0, 0, 1], 7946));
        let config = SwimConfig {
            bind_addr: PeerAddr::from(bound),
            known_peers: Vec::new(),
            protocol_period_ms: 1_000,
            suspect_timeout_ms: 5_000,
        };
        let settings = Settings::new(&config, bound).unwrap().with_streams();
        let mut swim = Swim::new(settings, identity(300), b"me", Time::ZERO, 1).unwrap();
        let ping = [1, 0x0b, 0, 1, 0xac, 2, 1, 2, 3, 4, 5, 6, 7, 8];
        let page = [6, 3, 0, 0, 5, 1];
        let bodies = [
            [0].to_vec(),
            [&[0], ping.as_slice()].concat(),
            [&[0], page.as_slice(), ping.as_slice()].concat(),
            [&[0], ping.as_slice(), ping.as_slice()].concat(),
            [7].to_vec(),
        ];
        for (body, id) in bodies.iter().zip(0..) {
            let sender = identity(2);
            swim.handle_stream(Time::ZERO, StreamEvent::Request { id, sender, body });
            let (mut answers, mut out) = (Vec::new(), Vec::new());
            while let Some(transmit) = swim.poll_transmit(&mut out) {
                answers.extend(match transmit {
                    Transmit::Response { id } => Some(id),
                    _ => None,
                });
            }
            assert_eq!(answers, [id], "{body:?}");
        }
    }
}
