//! A watch from outside: changes are asked for in order, and the answer waits until there are some.

use std::{fmt, time::Duration};

use futures_util::Stream;
use tokio::time::sleep;

use super::{Client, kv};
use crate::{
    Consistency, KeyRange, KvEvent, KvReadError, KvStore, KvUpdate, KvWatchError, ReadError, StateMachine,
    WatchFrom,
    kv::{KvAnswer, KvQuery, Place},
    kv_watch::SNAPSHOT_KEYS,
};

/// How long a node may keep an answer back while nothing changes.
const WAIT: Duration = Duration::from_secs(10);

/// How long the watch rests when other keys than its own have changed: writes that do not concern it must not be
/// asked about one by one.
const REST: Duration = Duration::from_millis(10);

/// Follows the keys of a range from outside the group. From [`Client::watch_kv`].
///
/// It delivers what a [`KvWatch`](crate::KvWatch) on a node does, over whichever nodes can be reached, each change
/// once. Nothing is kept for it anywhere: it asks when it is asked, and ends with [`KvWatchError::Compacted`] when
/// that is too late.
pub struct KvClientWatch<S: StateMachine> {
    client: Client<S>,
    range: KeyRange,
    state: State,
}

enum State {
    /// Nothing was delivered.
    New,
    /// The snapshot was delivered up to where `rest` begins.
    Snapshot { revision: u64, rest: KeyRange },
    /// Changes.
    Changes(Reading),
}

/// How far changes were read.
struct Reading {
    next: Place,
    /// Changes of the revision of `next`, which is not read to its end.
    held: Vec<KvEvent>,
    /// Every change up to this index was read; `None`: there may be more, to be asked for at once.
    applied: Option<u64>,
}

impl Reading {
    const fn from(revision: u64, applied: Option<u64>) -> Self {
        Self {
            next: Place::at(revision),
            held: Vec::new(),
            applied,
        }
    }

    /// Takes changes up to `next` over, and returns those whose revisions are whole.
    fn take(&mut self, events: Vec<KvEvent>, next: Place) -> Vec<KvEvent> {
        self.held.extend(events);
        self.next = next;
        let whole = self.held.partition_point(|event| event.revision < next.revision);
        let rest = self.held.split_off(whole);
        std::mem::replace(&mut self.held, rest)
    }
}

impl<S: StateMachine> fmt::Debug for KvClientWatch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvClientWatch")
            .field("range", &self.range)
            .field("next_revision", &self.next_revision())
            .finish_non_exhaustive()
    }
}

impl<S: StateMachine> KvClientWatch<S> {
    pub(super) const fn new(client: Client<S>, range: KeyRange, from: WatchFrom) -> Self {
        let state = match from {
            WatchFrom::Current => State::New,
            WatchFrom::Revision(revision) => State::Changes(Reading::from(revision, None)),
        };
        Self { client, range, state }
    }

    /// The revision to go on from with another watch, once the whole snapshot was delivered.
    #[must_use]
    pub const fn next_revision(&self) -> Option<u64> {
        match &self.state {
            State::New | State::Snapshot { .. } => None,
            State::Changes(reading) => Some(reading.next.revision),
        }
    }
}

impl<S: StateMachine + AsRef<KvStore>> KvClientWatch<S> {
    /// Waits for the next update, for as long as it takes.
    ///
    /// Cancel safety: a dropped future loses nothing.
    ///
    /// # Errors
    /// [`KvWatchError::Compacted`] for good. After [`KvWatchError::Lost`], when no node answered within the client's
    /// timeout, the watch goes on where it was.
    pub async fn next(&mut self) -> Result<KvUpdate, KvWatchError> {
        loop {
            match &mut self.state {
                State::New => {
                    let range = self.range.clone();
                    return self.page(range, None).await;
                }
                State::Snapshot { revision, rest } => {
                    let (revision, rest) = (*revision, rest.clone());
                    return self.page(rest, Some(revision)).await;
                }
                State::Changes(reading) => {
                    let events = changes(&self.client, &self.range, reading).await?;
                    if !events.is_empty() {
                        return Ok(KvUpdate::Changes { events });
                    }
                    if reading.applied.is_some() {
                        sleep(REST).await;
                    }
                }
            }
        }
    }

    /// The next part of the snapshot.
    async fn page(&mut self, range: KeyRange, revision: Option<u64>) -> Result<KvUpdate, KvWatchError> {
        let limit = SNAPSHOT_KEYS as u64;
        let page = self
            .client
            .range(range.clone(), limit, revision, Consistency::Linearizable);
        let read = page.await?;
        let (page, applied) = (read.value, read.applied_index);
        let revision = page.revision;
        let last = page.entries.last().filter(|_| page.more);
        self.state = match last {
            Some((key, _)) => State::Snapshot {
                revision,
                rest: range.after(key),
            },
            None => State::Changes(Reading::from(revision.saturating_add(1), applied)),
        };
        Ok(KvUpdate::Snapshot {
            revision,
            last: !page.more,
            entries: page.entries,
        })
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

/// Asks for what follows, and waits while there is nothing. Returns the changes of whole revisions.
async fn changes<S: StateMachine + AsRef<KvStore>>(
    client: &Client<S>,
    range: &KeyRange,
    reading: &mut Reading,
) -> Result<Vec<KvEvent>, KvWatchError> {
    let query = kv::encode(&KvQuery::Changes {
        range: range.clone(),
        from: reading.next,
    })?;
    let read = client.query_beyond(reading.applied, query, WAIT).await?;
    match kv::decode(&read.value)? {
        // One that says there is more and does not go on would be asked forever.
        KvAnswer::Changes { next, more: true, .. } if next == reading.next => Err(KvWatchError::Lost {
            cause: "a node says that there are more changes and gives none".into(),
        }),
        KvAnswer::Changes { events, next, more } => {
            reading.applied = read.applied_index.filter(|_| !more);
            Ok(reading.take(events, next))
        }
        other => Err(other.into_error().into()),
    }
}

impl From<ReadError> for KvWatchError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Revision(KvReadError::Compacted { oldest }) => Self::Compacted { oldest },
            ReadError::Refused(refusal) => Self::Refused(refusal),
            error => Self::Lost {
                cause: error.to_string(),
            },
        }
    }
}
