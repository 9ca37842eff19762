//! Replies that did not fit the answer to their proposals, kept until they are fetched.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

/// Most bytes of replies kept. Beyond it the oldest are dropped: their commands are applied, and their
/// proposers learn that but not the reply.
const MAX_BYTES: usize = 64 << 20;

/// How long a reply is kept. Its proposer asks for it at once.
const KEEP: Duration = Duration::from_secs(10);

/// Replies by ticket, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    last: u32,
    replies: BTreeMap<u64, (Instant, Bytes)>,
    bytes: usize,
}

impl Shelf {
    /// Keeps `reply`; `secret` makes its ticket one that nobody else guesses.
    pub(crate) fn put(&mut self, reply: Bytes, secret: u64, now: Instant) -> u64 {
        self.bytes += reply.len();
        self.last = self.last.wrapping_add(1);
        let ticket = u64::from(self.last) << 32 | secret >> 32;
        self.replies.insert(ticket, (now + KEEP, reply));
        self.sweep(now);
        ticket
    }

    /// The reply of `ticket`, once.
    pub(crate) fn take(&mut self, ticket: u64, now: Instant) -> Option<Bytes> {
        self.sweep(now);
        let (_, reply) = self.replies.remove(&ticket)?;
        self.bytes -= reply.len();
        Some(reply)
    }

    fn sweep(&mut self, now: Instant) {
        while let Some(oldest) = self.replies.first_entry()
            && (self.bytes > MAX_BYTES || oldest.get().0 <= now)
        {
            let (_, reply) = oldest.remove();
            self.bytes -= reply.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_given_once_and_only_for_a_while() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        let one = shelf.put(Bytes::from_static(b"one"), 7 << 32, now);
        let two = shelf.put(Bytes::from_static(b"two"), 7 << 32, now);
        assert_eq!(shelf.take(one, now).as_deref(), Some(&b"one"[..]));
        assert_eq!(shelf.take(one, now), None);
        assert_eq!(shelf.take(two ^ 1, now), None, "a ticket is not guessed");
        assert_eq!(shelf.take(two, now + KEEP), None);
        assert_eq!(shelf.bytes, 0);
    }

    #[test]
    fn the_oldest_replies_make_room() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        let large = Bytes::from(vec![0; MAX_BYTES / 2]);
        let tickets = [(); 3].map(|()| shelf.put(large.clone(), 0, now));
        let left = tickets.map(|ticket| shelf.take(ticket, now).is_some());
        assert_eq!(left, [false, true, true]);
    }
}
