//! Watches: the changes of a replicated `KvStore`, in order, as this node applies them.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use futures_util::Stream;
use tokio::sync::watch;

use crate::{
    KeyRange, KvEntry, KvEvent, KvReadError, KvStore, RaftNode, Refusal, StateMachine, applied::Shared,
    status::StatusSource,
};

/// Most keys in one part of a [`KvUpdate::Snapshot`].
pub(crate) const SNAPSHOT_KEYS: usize = 1_000;

/// Most bytes of keys and values in one part of a [`KvUpdate::Snapshot`], if it has more than one key.
const SNAPSHOT_BYTES: usize = 1 << 20;

/// Changes looked at in one go. The state is locked meanwhile.
const CHANGES: usize = 1_024;

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// With the keys as they are, followed by what changes.
    Current,
    /// With the changes of this revision. Go on with the one after the last that was seen.
    Revision(u64),
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvUpdate {
    /// Keys as they were at `revision`, in order. Changes of later revisions follow the last part.
    Snapshot {
        /// The revision of every part.
        revision: u64,
        /// Some of the keys.
        entries: Vec<(String, KvEntry)>,
        /// Whether this is the last part.
        last: bool,
    },
    /// Changes, all of each revision.
    Changes {
        /// The changes; at least one.
        events: Vec<KvEvent>,
    },
}

/// Why a watch ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvWatchError {
    /// The reader was slower than the history is long, or a snapshot took this node past it. Begin again
    /// with [`WatchFrom::Current`].
    #[error("the changes that follow are forgotten, up to revision {oldest}; begin with the current state")]
    Compacted {
        /// The oldest revision that can be read. Changes after it can be watched.
        oldest: u64,
    },
    /// The node has stopped. Go on at another one, from the revision after the last that was seen.
    #[error("the node has stopped; go on at another one")]
    Stopped,
    /// No node has answered in time a watch from outside, which goes on where it was when it is asked again.
    #[error("no node answers the watch: {cause}; ask it again")]
    Lost {
        /// What the last attempt ran into.
        cause: String,
    },
    /// A watch from outside is refused, mostly because of the role in the certificate.
    #[error("the watch was refused: {0}")]
    Refused(Refusal),
}

impl KvWatchError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Compacted { .. } => "compacted",
            Self::Stopped => "stopped",
            Self::Lost { .. } => "watch-lost",
            Self::Refused(refusal) => &refusal.code,
        }
    }
}

/// Follows the keys of a range. From [`RaftNode::watch_kv`].
///
/// Nothing is buffered for it: it reads the store's history when it is asked, so a slow reader costs others
/// nothing, and one that falls behind the history ends with [`KvWatchError::Compacted`]. It holds no lock
/// between calls and does not keep the node alive. A follower delivers the same changes as the leader, a
/// little later.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rivven_raft::{Fabric, KeyRange, KvCommand, KvStore, KvUpdate, RaftConfig, RaftNode, WatchFrom};
///
/// let config = RaftConfig {
///     node_id: 1,
///     peers: vec![],
///     election_timeout_ms: 150..300,
///     heartbeat_interval_ms: 50,
/// };
/// let builder = RaftNode::builder(config).fabric(&Fabric::new());
/// let node = builder.state_machine(KvStore::new()).start().await?;
/// let mut watch = node.watch_kv(KeyRange::prefix("jobs/"), WatchFrom::Current);
/// assert!(matches!(watch.next().await?, KvUpdate::Snapshot { last: true, .. }));
/// node.propose(KvCommand::put("other", "1")).await?;
/// node.propose(KvCommand::put("jobs/7", "2")).await?;
/// let KvUpdate::Changes { events } = watch.next().await? else { panic!("no changes") };
/// assert_eq!((events[0].key.as_str(), events[0].revision), ("jobs/7", 2));
/// # Ok(())
/// # }
/// ```
pub struct KvWatch<S> {
    shared: Weak<Shared<S>>,
    source: Arc<StatusSource>,
    applied: watch::Receiver<Option<u64>>,
    range: KeyRange,
    state: State,
}

enum State {
    /// Nothing was delivered.
    New,
    /// The store as it was when the watch began, which shares its parts with the live one, and the last key
    /// delivered.
    Snapshot {
        store: Box<KvStore>,
        after: Option<String>,
    },
    /// Every change before this revision was delivered.
    Changes { next: u64 },
}

impl<S> fmt::Debug for KvWatch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvWatch")
            .field("range", &self.range)
            .field("next_revision", &self.next_revision())
            .finish_non_exhaustive()
    }
}

impl<S: StateMachine + AsRef<KvStore>> RaftNode<S> {
    /// Follows the keys of `range`, as this node applies changes of them.
    #[must_use]
    pub fn watch_kv(&self, range: KeyRange, from: WatchFrom) -> KvWatch<S> {
        let node = self.inner();
        KvWatch {
            shared: Arc::downgrade(&node.shared),
            source: Arc::clone(&node.source),
            applied: node.shared.watch_applied(),
            range,
            state: match from {
                WatchFrom::Current => State::New,
                WatchFrom::Revision(next) => State::Changes { next },
            },
        }
    }
}

impl<S> KvWatch<S> {
    /// The revision to go on from with another watch, once the whole snapshot was delivered.
    #[must_use]
    pub const fn next_revision(&self) -> Option<u64> {
        match &self.state {
            State::New | State::Snapshot { .. } => None,
            State::Changes { next } => Some(*next),
        }
    }
}

impl<S: StateMachine + AsRef<KvStore>> KvWatch<S> {
    /// Waits for the next update.
    ///
    /// Cancel safety: a dropped future loses nothing.
    ///
    /// # Errors
    /// The watch has ended. Asked again, it says so again.
    pub async fn next(&mut self) -> Result<KvUpdate, KvWatchError> {
        loop {
            if self.source.stop_reason().is_some() {
                return Err(KvWatchError::Stopped);
            }
            let shared = self.shared.upgrade().ok_or(KvWatchError::Stopped)?;
            // Seen before the state is read, so that what is applied meanwhile wakes the watch.
            self.applied.mark_unchanged();
            match &mut self.state {
                State::New => {
                    let (store, _) = shared.read(|state| Box::new(state.as_ref().clone())).await;
                    self.state = State::Snapshot { store, after: None };
                    continue;
                }
                State::Snapshot { store, after } => {
                    let (update, next) = part(store, &self.range, after);
                    if let Some(next) = next {
                        self.state = State::Changes { next };
                    }
                    return Ok(update);
                }
                State::Changes { next } => {
                    let from = *next;
                    let range = &self.range;
                    let (changes, _) = shared
                        .read(|state| {
                            let store = state.as_ref();
                            (store.changes(range, from, CHANGES), store.revision())
                        })
                        .await;
                    let (changes, revision) = changes;
                    let changes = changes.map_err(|error| match error {
                        KvReadError::Compacted { oldest } => KvWatchError::Compacted { oldest },
                        KvReadError::FutureRevision { .. } => KvWatchError::Stopped,
                    })?;
                    *next = changes.next;
                    if !changes.events.is_empty() {
                        let events = changes.events;
                        return Ok(KvUpdate::Changes { events });
                    }
                    if *next <= revision {
                        continue;
                    }
                }
            }
            drop(shared);
            tokio::select! {
                biased;
                () = self.source.until_stopped() => return Err(KvWatchError::Stopped),
                changed = self.applied.changed() => changed.map_err(|_| KvWatchError::Stopped)?,
            }
        }
    }

    /// The updates as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<KvUpdate, KvWatchError>> {
        futures_util::stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            let update = watch.next().await;
            let rest = update.is_ok().then_some(watch);
            Some((update, rest))
        })
    }
}

/// The next part of a snapshot and, if it is the last, the revision that changes go on from.
fn part(store: &KvStore, range: &KeyRange, after: &mut Option<String>) -> (KvUpdate, Option<u64>) {
    let from = after.as_deref().unwrap_or(range.start());
    let mut left = store
        .range_from(from)
        .skip_while(|(key, _)| after.as_deref() == Some(*key))
        .take_while(|(key, _)| range.contains(key))
        .peekable();
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some((key, entry)) = left.next_if(|(key, entry)| {
        bytes += key.len() + entry.value.len();
        entries.is_empty() || (entries.len() < SNAPSHOT_KEYS && bytes <= SNAPSHOT_BYTES)
    }) {
        entries.push((key.to_owned(), entry.clone()));
    }
    let last = left.peek().is_none();
    drop(left);
    *after = entries.last().map(|(key, _): &(String, KvEntry)| key.clone());
    let revision = store.revision();
    let update = KvUpdate::Snapshot {
        revision,
        entries,
        last,
    };
    (update, last.then_some(revision + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ApplyCtx, KvCommand};

    #[test]
    fn a_snapshot_comes_in_bounded_parts_that_together_are_the_range() {
        let mut store = KvStore::new();
        let mut put = |key: String, value: usize| {
            let index = store.revision() + 1;
            store.apply(&ApplyCtx::new(index, 1), KvCommand::put(key, vec![0; value]));
        };
        for i in 0..2_500 {
            put(format!("a/{i:05}"), 10);
        }
        for i in 0..5 {
            put(format!("b/{i}"), crate::MAX_VALUE_BYTES);
        }
        put("c".into(), 1);
        let range = KeyRange::from_to("a/00001", "c");
        let (mut keys, mut sizes, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let (update, next) = part(&store, &range, &mut after);
            let KvUpdate::Snapshot {
                revision,
                entries,
                last,
            } = update
            else {
                panic!("{update:?}")
            };
            assert_eq!((revision, next), (2_506, last.then_some(2_507)));
            sizes.push(entries.len());
            keys.extend(entries.into_iter().map(|(key, _)| key));
            if last {
                break;
            }
        }
        assert_eq!(sizes, [1_000, 1_000, 499, 1, 1, 1, 1, 1]);
        assert!(
            keys.iter()
                .map(String::as_str)
                .eq(store.range(&range).map(|(key, _)| key))
        );
        let none = KeyRange::prefix("x");
        let (update, next) = part(&store, &none, &mut None);
        assert!(matches!(update, KvUpdate::Snapshot { last: true, .. }) && next == Some(2_507));
    }
}
