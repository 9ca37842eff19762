//! Sessions: a proposal that is repeated is applied once (Raft dissertation, section 6.3).

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Refusal,
    expiry::{Deadline, Expiry},
    shared_map::SharedMap,
};

/// How far behind the highest number of its session a proposal may be: proposals that wait for their
/// outcome at the same time. A number further behind is refused, since nothing is known of it any more.
pub const SESSION_WINDOW: u64 = 256;

/// Most sessions at one time. Opening more is refused.
pub const MAX_SESSIONS: usize = 10_000;

/// Most bytes of responses kept for repetitions, of all sessions together. Beyond it the oldest are dropped:
/// their proposals stay applied once, and a repetition learns that but not the response.
pub const MAX_SESSION_REPLY_BYTES: usize = 32 << 20;

/// Longest response that is kept for repetitions.
pub const MAX_KEPT_REPLY_BYTES: usize = 64 << 10;

/// Shortest time without a proposal after which a session ends, in milliseconds.
pub const MIN_SESSION_TTL_MS: u64 = 5_000;

/// Longest such time, in milliseconds: seven days.
pub const MAX_SESSION_TTL_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// Sessions that end at one tick; the rest wait for the next.
const MAX_ENDED_PER_TICK: usize = 256;

/// Counted for each kept response beside its bytes: what the trees take.
const REPLY_OVERHEAD_BYTES: usize = 128;

/// Names a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which proposal of which session. Stands before the command, 8 bytes each, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionTag {
    pub(crate) session: SessionId,
    /// From 1.
    pub(crate) seq: u64,
}

impl SessionTag {
    pub(crate) const BYTES: usize = 16;

    pub(crate) fn encode(self) -> [u8; Self::BYTES] {
        let whole = u128::from(self.session.0) | u128::from(self.seq) << 64;
        whole.to_le_bytes()
    }

    /// The tag and what is behind it.
    pub(crate) fn decode(body: &Bytes) -> Option<(Self, Bytes)> {
        let (session, rest) = body.split_first_chunk::<8>()?;
        let (seq, _) = rest.split_first_chunk::<8>()?;
        let tag = Self {
            session: SessionId(u64::from_le_bytes(*session)),
            seq: u64::from_le_bytes(*seq),
        };
        Some((tag, body.slice(Self::BYTES..)))
    }
}

/// What a session's proposal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The first of its number: apply it, then [`Sessions::keep`] the reply.
    New,
    /// It was applied before, with this reply.
    Repeated(Bytes),
    /// It was applied before, and the reply is no longer kept.
    NotKept,
    /// There is no such session.
    NoSession,
    /// Its number is so far behind that nothing is known of it.
    Passed,
    /// The number was used for another command.
    Reused(Refusal),
}

/// Every session with its window and the replies kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    expiry: Expiry,
    windows: SharedMap<u64, Window>,
    /// By session, then by number.
    replies: SharedMap<(u64, u64), Kept>,
    /// By the index of the entry that was answered.
    by_age: SharedMap<u64, (u64, u64)>,
    bytes: usize,
}

/// Which of the last numbers of a session were applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    pub(super) highest: u64,
    /// Bit `n` of the whole: whether `highest - n` was applied. The lowest bits come first.
    pub(super) applied: [u64; 4],
}

/// A reply kept for repetitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) index: u64,
    /// CRC32C of the command: a number must not be used for two commands.
    pub(super) crc: u32,
    pub(super) reply: Bytes,
}

impl Window {
    fn applied(&self, seq: u64) -> bool {
        let behind = self.highest - seq;
        let word = usize::try_from(behind / 64)
            .ok()
            .and_then(|at| self.applied.get(at));
        word.is_some_and(|word| word >> (behind % 64) & 1 == 1)
    }

    /// Notes that `seq` is applied; moves the window if it is the highest so far.
    fn apply(&mut self, seq: u64) {
        if seq > self.highest {
            for _ in 0..(seq - self.highest).min(SESSION_WINDOW) {
                let mut carry = 0;
                for word in &mut self.applied {
                    let next = *word >> 63;
                    *word = *word << 1 | carry;
                    carry = next;
                }
            }
            self.highest = seq;
        }
        let behind = self.highest - seq;
        let word = usize::try_from(behind / 64)
            .ok()
            .and_then(|at| self.applied.get_mut(at));
        if let Some(word) = word {
            *word |= 1 << (behind % 64);
        }
    }
}

impl Sessions {
    pub(super) const fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Opens a session named by the index of its entry.
    pub(super) fn open(&mut self, index: u64, ttl_ms: u64) -> Result<SessionId, Refusal> {
        if self.windows.len() >= MAX_SESSIONS {
            let message = format!("{MAX_SESSIONS} sessions are open; close some, or wait until some end");
            return Err(Refusal::new("too-many-sessions", message));
        }
        self.windows.insert(index, Window::default());
        self.expiry.renew(index, ttl_ms);
        Ok(SessionId(index))
    }

    pub(super) fn renew(&mut self, id: SessionId) -> Option<()> {
        let ttl_ms = self.expiry.get(id.0)?.ttl_ms;
        self.expiry.renew(id.0, ttl_ms);
        Some(())
    }

    pub(super) fn close(&mut self, id: SessionId) -> Option<()> {
        self.windows.remove(&id.0)?;
        self.expiry.remove(id.0);
        self.drop_replies(id.0, u64::MAX);
        Some(())
    }

    /// Decides what a proposal is, and renews its session.
    pub(crate) fn admit(&mut self, tag: SessionTag, crc: u32) -> Admission {
        let Some(window) = self.windows.get(&tag.session.0).copied() else {
            return Admission::NoSession;
        };
        self.renew(tag.session);
        if tag.seq == 0 || window.highest.saturating_sub(tag.seq) >= SESSION_WINDOW {
            return Admission::Passed;
        }
        if tag.seq > window.highest || !window.applied(tag.seq) {
            return Admission::New;
        }
        match self.replies.get(&(tag.session.0, tag.seq)) {
            Some(kept) if kept.crc == crc => Admission::Repeated(kept.reply.clone()),
            Some(_) => {
                let message = format!(
                    "number {} of session {} was used for another command; give each its own",
                    tag.seq, tag.session
                );
                Admission::Reused(Refusal::new("session-number-reused", message))
            }
            None => Admission::NotKept,
        }
    }

    /// Notes that an admitted proposal was answered by the entry at `index`.
    pub(crate) fn keep(&mut self, tag: SessionTag, index: u64, crc: u32, reply: &Bytes) {
        let id = tag.session.0;
        let Some(mut window) = self.windows.get(&id).copied() else {
            return;
        };
        window.apply(tag.seq);
        self.windows.insert(id, window);
        self.drop_replies(id, window.highest.saturating_sub(SESSION_WINDOW));
        if reply.len() <= MAX_KEPT_REPLY_BYTES {
            let reply = reply.clone();
            // An admitted number has no reply yet, and an entry answers one proposal.
            let _ = self.insert_reply(id, tag.seq, Kept { index, crc, reply });
        }
        while self.bytes > MAX_SESSION_REPLY_BYTES
            && let Some((&age, &oldest)) = self.by_age.first()
        {
            self.remove_reply(oldest);
            // Gone with the reply; what is not must not be met again.
            self.by_age.remove(&age);
        }
    }

    /// Ends sessions that were not used, and begins the time of those that were.
    pub(super) fn tick(&mut self, now_ms: u64) {
        for _ in 0..MAX_ENDED_PER_TICK {
            let Some(id) = self.expiry.pop(now_ms) else { break };
            self.windows.remove(&id);
            self.drop_replies(id, u64::MAX);
        }
        self.expiry.begin(now_ms);
    }

    /// False, and nothing is changed, if there is one of this proposal or of this entry.
    #[must_use]
    pub(super) fn insert_reply(&mut self, id: u64, seq: u64, kept: Kept) -> bool {
        if self.replies.get(&(id, seq)).is_some() || self.by_age.get(&kept.index).is_some() {
            return false;
        }
        self.bytes += kept.reply.len() + REPLY_OVERHEAD_BYTES;
        self.by_age.insert(kept.index, (id, seq));
        self.replies.insert((id, seq), kept);
        true
    }

    fn remove_reply(&mut self, at: (u64, u64)) {
        if let Some(kept) = self.replies.remove(&at) {
            self.bytes -= kept.reply.len() + REPLY_OVERHEAD_BYTES;
            self.by_age.remove(&kept.index);
        }
    }

    /// Drops the replies of a session up to and with a number.
    fn drop_replies(&mut self, id: u64, upto: u64) {
        while let Some((&at, _)) = self.replies.iter_from(|at| *at < (id, 0)).next()
            && at.0 == id
            && at.1 <= upto
        {
            self.remove_reply(at);
        }
    }

    /// Every session: id, time, window.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Deadline, Window)> {
        let with = |(id, deadline)| Some((id, deadline, *self.windows.get(&id)?));
        self.expiry.iter().filter_map(with)
    }

    /// Every reply kept: session, number, reply.
    pub(super) fn replies(&self) -> impl Iterator<Item = (u64, u64, &Kept)> {
        self.replies.iter().map(|(&(id, seq), kept)| (id, seq, kept))
    }

    /// How many sessions and how many replies there are.
    pub(crate) const fn lens(&self) -> (usize, usize) {
        (self.windows.len(), self.replies.len())
    }

    pub(super) fn insert(&mut self, id: u64, deadline: Deadline, window: Window) {
        self.expiry.insert(id, deadline);
        self.windows.insert(id, window);
    }

    /// Whether a snapshot's reply is of a session and of a number that is applied there.
    pub(super) fn expects(&self, id: u64, seq: u64) -> bool {
        let window = self.windows.get(&id);
        window.is_some_and(|window| seq <= window.highest && window.applied(seq))
    }
}

/// Tells commands under one number apart.
pub(crate) fn body_crc(body: &[u8]) -> u32 {
    crc32c::crc32c(body)
}

pub(super) fn check_ttl(ttl_ms: u64) -> Result<(), Refusal> {
    if (MIN_SESSION_TTL_MS..=MAX_SESSION_TTL_MS).contains(&ttl_ms) {
        return Ok(());
    }
    let message = format!(
        "a session's time of {ttl_ms} ms is not within {MIN_SESSION_TTL_MS} to {MAX_SESSION_TTL_MS} ms; choose \
         one that is"
    );
    Err(Refusal::new("ttl-out-of-range", message))
}
