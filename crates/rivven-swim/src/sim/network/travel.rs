//! How what hosts send gets to others, if it does, and what it costs.

use core::time::Duration;

use super::{Run, Sim, What};
use crate::{
    Time,
    sim::{Host, Machine, Outgoing, host_of, socket_addr},
};

/// IPv4 and UDP headers.
const HEADERS: usize = 28;

/// What QUIC and TLS add to a datagram that carries one short frame.
const STREAM_OVERHEAD: usize = 45;

/// Both flights of a handshake with mutual TLS, on the wire.
const HANDSHAKE_BYTES: u64 = 15_500;

/// A connection that was not used for so long is gone.
const STREAM_IDLE: Duration = Duration::from_secs(4);

/// First wait for the repetition of a lost flight; doubles. Three times an initial round trip of 20 ms.
const STREAM_PTO: Duration = Duration::from_millis(60);

/// After so many lost flights in a row there is no way.
const STREAM_TRIES: u32 = 6;

/// Shortest and longest time a datagram takes, in microseconds.
const DELAY: (u64, u64) = (200, 1_000);

impl<M: Machine> Sim<M> {
    pub(super) fn send(&mut self, from: Host, outgoing: Outgoing, payload: &[u8]) {
        let Some(slot) = self.slots.get_mut(&from) else {
            return;
        };
        let sender = slot.machine.identity();
        match outgoing {
            Outgoing::Datagram(to) => {
                self.load.datagrams += 1;
                self.load.bytes += (payload.len() + slot.machine.overhead() + HEADERS) as u64;
                if let Some(to) = host_of(to)
                    && self.passes(from, to)
                {
                    let at = self.now + self.delay();
                    self.push(at, to, What::Datagram(socket_addr(from), sender, payload.into()));
                }
            }
            Outgoing::Call { to, id } => {
                self.load.calls += 1;
                let to = self.places.get(&to).copied();
                match to.and_then(|to| Some((to, self.flight(from, to, payload.len())?))) {
                    Some((to, at)) => self.push(at, to, What::Call(from, id, sender, payload.into())),
                    None => self.fail_call(from, id),
                }
            }
            Outgoing::Answer(serial) => {
                let Some((asker, id)) = slot.asked.remove(&serial) else {
                    return;
                };
                match self.flight(from, asker, payload.len()) {
                    Some(at) => self.push(at, asker, What::Answer(id, Some((sender, payload.into())))),
                    None => self.fail_call(asker, id),
                }
            }
        }
    }

    fn fail_call(&mut self, host: Host, id: u64) {
        let at = self.now + STREAM_PTO * 2_u32.pow(STREAM_TRIES);
        self.push(at, host, What::Answer(id, None));
    }

    /// When `len` bytes over a stream arrive; `None` if there is no way.
    fn flight(&mut self, from: Host, to: Host, len: usize) -> Option<Time> {
        let mut at = self.now;
        let mut flights = 1;
        let used = self.slots.get(&from)?.streams.get(&to);
        if used.is_none_or(|used| self.now.since(*used) > STREAM_IDLE) {
            self.load.bytes += HANDSHAKE_BYTES;
            flights += 2;
        }
        for _ in 0..flights {
            let mut tries = 0;
            while !self.passes(from, to) {
                at = at + STREAM_PTO * 2_u32.pow(tries);
                tries += 1;
                self.load.bytes += (len + HEADERS + STREAM_OVERHEAD) as u64;
                if tries == STREAM_TRIES {
                    return None;
                }
            }
            at = at + self.delay();
        }
        // The bytes, and an acknowledgement back.
        self.load.bytes += (len + 2 * (HEADERS + STREAM_OVERHEAD)) as u64;
        for (one, other) in [(from, to), (to, from)] {
            self.slots.get_mut(&one)?.streams.insert(other, at);
        }
        Some(at)
    }

    fn delay(&mut self) -> Duration {
        let (shortest, longest) = DELAY;
        let span = usize::try_from(longest - shortest).unwrap_or(0);
        Duration::from_micros(shortest + self.rng.below(span) as u64)
    }

    /// Whether one datagram gets through.
    fn passes(&mut self, from: Host, to: Host) -> bool {
        let Some((sender, receiver)) = self.slots.get(&from).zip(self.slots.get(&to)) else {
            return false;
        };
        let cut = sender.group != receiver.group || receiver.run == Run::Down;
        let chances = [self.loss, sender.lost_out, receiver.lost_in];
        !cut && chances
            .into_iter()
            .all(|lost| lost == 0 || self.rng.below(1_000) as u64 >= lost)
    }
}
