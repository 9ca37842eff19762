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
        let answered = |(transmit, _): &(Transmit, _)| matches!(transmit, Transmit::Response { .. });
        if !self.transmits.range(before..).any(answered) {
            self.refuse(reply);
        }
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
