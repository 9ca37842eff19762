//! [`RedbLogReader`]: entries from memory where they are there, from the file otherwise.

use std::{
    fmt::{self, Debug},
    io,
    marker::PhantomData,
    ops::{Range, RangeBounds},
    sync::Arc,
};

use futures_util::{Stream, TryStreamExt, stream};
use openraft::{OptionalSend, RaftLogReader, RaftTypeConfig, entry::RaftEntry, type_config::alias::VoteOf};
use redb::{ReadTransaction, ReadableDatabase};

use super::{shared::Shared, writer::LOG};
use crate::{
    codec::EntryCodec,
    error::{Record, StoreError},
    record,
};

/// Encoded bytes of entries that are read at once where a shorter answer is allowed.
const CHUNK_BYTES: usize = 1 << 20;

/// Reads the entries and the vote of a [`RedbLogStore`](crate::RedbLogStore).
///
/// The newest entries are in memory, readable from the moment their append returned. Older ones are read
/// from the file, each checked against its checksum; that blocks for as long as the disk takes.
pub struct RedbLogReader<C: RaftTypeConfig, K: EntryCodec<C>> {
    shared: Arc<Shared<C>>,
    codec: PhantomData<fn() -> K>,
}

impl<C: RaftTypeConfig, K: EntryCodec<C>> Clone for RedbLogReader<C, K> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

impl<C: RaftTypeConfig, K: EntryCodec<C>> Debug for RedbLogReader<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbLogReader")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}

impl<C: RaftTypeConfig, K: EntryCodec<C>> RedbLogReader<C, K> {
    pub(super) const fn new(shared: Arc<Shared<C>>) -> Self {
        Self {
            shared,
            codec: PhantomData,
        }
    }
}

impl<C, K> RedbLogReader<C, K>
where
    C: RaftTypeConfig,
    C::Entry: Clone,
    K: EntryCodec<C>,
{
    /// The entries of the log in `range`, up to about `limit` bytes of them but at least one.
    pub(super) fn read(
        &self,
        range: impl RangeBounds<u64>,
        limit: usize,
    ) -> Result<Vec<C::Entry>, StoreError> {
        let mut entries = Vec::new();
        let guard = self.shared.db();
        let db = guard.as_ref().ok_or_else(|| self.shared.closed())?;
        let (older, txn) = {
            let state = self.shared.state();
            self.shared.check()?;
            let range = state.window.clip(&range);
            let older = range.start..range.end.min(state.window.tail_start()).max(range.start);
            // What memory no longer has, the newest transaction has: it left memory after that commit. Taken
            // under the same lock, the two fit together whatever is truncated or purged meanwhile.
            let begin = || {
                db.begin_read()
                    .map_err(|error| StoreError::from_redb(&self.shared.path, error))
            };
            let txn = if older.is_empty() {
                None
            } else {
                Some(self.contain(begin)?)
            };
            let mut bytes = 0_usize;
            for (entry, size) in state.window.slots(&range) {
                if bytes >= limit {
                    break;
                }
                // An answer that may be short and begins in the file ends there.
                if txn.is_some() && limit != usize::MAX {
                    break;
                }
                bytes = bytes.saturating_add(size);
                entries.push(entry.clone());
            }
            (older, txn)
        };
        let Some(txn) = txn else {
            self.shared.metrics.read(entries.len(), 0);
            return Ok(entries);
        };
        let mut from_file = self.contain(|| self.read_file(&txn, older, limit))?;
        self.shared.metrics.read(entries.len(), from_file.len());
        from_file.append(&mut entries);
        Ok(from_file)
    }

    /// The entries of `range`, all of which must be in the file.
    fn read_file(
        &self,
        txn: &ReadTransaction,
        range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<C::Entry>, StoreError> {
        let path = &self.shared.path;
        let table = txn
            .open_table(LOG)
            .map_err(|error| StoreError::from_redb(path, error))?;
        let mut entries = Vec::new();
        let mut bytes = 0_usize;
        let mut expected = range.start;
        let end = range.end;
        for row in table
            .range(range)
            .map_err(|error| StoreError::from_redb(path, error))?
        {
            let (index, value) = row.map_err(|error| StoreError::from_redb(path, error))?;
            if index.value() != expected {
                break;
            }
            let entry = record::unseal_entry::<C, K>(expected, value.value())
                .map_err(|error| StoreError::from_record(path, Record::Entry(expected), error))?;
            entries.push(entry);
            expected = expected.saturating_add(1);
            bytes = bytes.saturating_add(value.value().len());
            if bytes >= limit {
                return Ok(entries);
            }
        }
        if expected == end {
            Ok(entries)
        } else {
            Err(StoreError::MissingEntry {
                path: path.clone(),
                index: expected,
            })
        }
    }

    /// Runs code of redb; an error or a panic stops the store, for a log that lies must not be read on.
    fn contain<T>(&self, run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.shared.contain(run).map_err(|error| {
            if error.is_echo() {
                // The writer has met the cause, and is about to say it.
                return error;
            }
            let cause = self.shared.fail(error);
            StoreError::Poisoned { cause }
        })
    }
}

impl<C, K> RaftLogReader<C> for RedbLogReader<C, K>
where
    C: RaftTypeConfig,
    C::Entry: Clone,
    K: EntryCodec<C>,
{
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<C::Entry>, io::Error> {
        Ok(self.read(range, usize::MAX)?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<C::Entry>, io::Error> {
        Ok(self.read(start..end, CHUNK_BYTES)?)
    }

    /// Reads as it goes, so that a long range never is in memory as a whole.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<C::Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let reader = self.clone();
        let range = reader.shared.state().window.clip(&range);
        let chunks = stream::try_unfold(range, move |mut rest| {
            let chunk = if rest.is_empty() {
                Ok(Vec::new())
            } else {
                reader.read(rest.clone(), CHUNK_BYTES)
            };
            let shared = Arc::clone(&reader.shared);
            async move {
                let chunk = chunk?;
                if rest.is_empty() {
                    return Ok(None);
                }
                // The range was there when the stream began, and a hole in the file is an error of its own.
                if chunk.first().map(RaftEntry::index) != Some(rest.start) {
                    let path = shared.path.clone();
                    return Err(StoreError::Overtaken {
                        path,
                        index: rest.start,
                    }
                    .into());
                }
                rest.start = rest.start.saturating_add(chunk.len() as u64);
                Ok::<_, io::Error>(Some((stream::iter(chunk.into_iter().map(Ok)), rest)))
            }
        });
        Box::pin(chunks.try_flatten())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<C>>, io::Error> {
        self.shared.check()?;
        Ok(self.shared.state().vote.clone())
    }
}
