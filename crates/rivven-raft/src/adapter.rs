//! Between the consensus core and the replicated state: applying, building and installing snapshots.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    StateMachine,
    applied::{Decoded, Shared, contain},
    growth::{Growth, Reach},
    runtime::NodeScope,
    snapshot::{SnapshotData, Snapshots},
    snapshot_keeper::SnapshotNews,
    system::System,
    types::{LogEntry, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig},
};

/// Entries applied under one lock, so that readers get their turn and responses leave early.
const APPLY_BATCH: usize = 256;

/// Why the adapter made the core end. The core keeps only a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There was no room for a file.
    Full(String),
    /// A snapshot that arrived cannot be restored. It is set aside, and the state is as it was.
    NotRestored(String),
}

/// The first fault of one core.
pub(crate) type FaultCell = Arc<OnceLock<Fault>>;

/// A place in the log, and the membership there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

impl Place {
    pub(crate) fn of(meta: &SnapshotMeta) -> Self {
        Self {
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
        }
    }

    fn advance(&mut self, entry: &LogEntry) {
        self.last = Some(entry.log_id);
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
        }
    }
}

/// What the core drives.
pub(crate) struct Machine<S: StateMachine> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) snapshots: Snapshots,
    pub(crate) news: watch::Sender<SnapshotNews>,
    pub(crate) scope: NodeScope,
    /// How far the core believes the state to be: what this node's snapshots and log bear out. The state
    /// is further while a core after the first goes through the log.
    pub(crate) at: Place,
    pub(crate) fault: FaultCell,
}

impl<S: StateMachine> Machine<S> {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.scope
            .group()
            .blocking(work)
            .await
            .map_err(io::Error::other)?
    }

    async fn builder(&self) -> SnapshotTask<S> {
        // Before the state is taken, which then has at least as much.
        let reach = self.shared.growth().reach();
        let (system, state, meta) = self.shared.snapshot().await;
        SnapshotTask {
            snapshot: Mutex::new(Some((system, state))),
            meta,
            snapshots: self.snapshots.clone(),
            news: self.news.clone(),
            growth: Arc::clone(self.shared.growth()),
            reach,
            scope: self.scope.clone(),
        }
    }
}

impl<S: StateMachine> RaftStateMachine<TypeConfig> for Machine<S> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotTask<S>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.at.last, self.at.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(APPLY_BATCH);
        while let Some(batch) = batches.next().await {
            for (entry, _) in batch.iter().flatten() {
                self.at.advance(entry);
            }
            for (responder, reply) in self.shared.apply(batch).await? {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotTask<S>> {
        // A snapshot from beyond what the core knows to be committed would confuse it.
        let caught_up = self.shared.applied_index() <= self.at.last.map(|id| id.index);
        let may_write = self.news.borrow().may_write(Instant::now());
        if force || (caught_up && may_write) {
            Some(self.builder().await)
        } else {
            None
        }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotTask<S> {
        self.builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let (shared, snapshots) = (Arc::clone(&self.shared), self.snapshots.clone());
        let (fault, installed) = (Arc::clone(&self.fault), meta.clone());
        let install = move || {
            // Kept first: once the state shows it, the log before it may be purged.
            snapshots.keep(&installed, &snapshot).inspect_err(|error| {
                if is_full(error) {
                    let _ = fault.set(Fault::Full(error.to_string()));
                }
            })?;
            let decoded = decode_or_set_aside(&shared, &snapshots, &installed, &snapshot);
            let decoded = decoded.inspect_err(|error| {
                let _ = fault.set(Fault::NotRestored(error.to_string()));
            })?;
            decoded.map_or(Ok(()), |decoded| {
                shared.restore(&installed, decoded, snapshot.len())
            })
        };
        self.blocking(install).await?;
        self.at = Place::of(meta);
        self.news.send_modify(SnapshotNews::was_kept);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<SnapshotData>>, io::Error> {
        let snapshots = self.snapshots.clone();
        let latest = self.blocking(move || Ok(snapshots.latest())).await?;
        Ok(latest.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Reads a kept snapshot, unless the state is as far already. One that cannot be restored is kept no longer,
/// so that an older one or that of a peer can take its place. Blocks.
pub(crate) fn decode_or_set_aside<S: StateMachine>(
    shared: &Shared<S>,
    snapshots: &Snapshots,
    meta: &SnapshotMeta,
    data: &SnapshotData,
) -> io::Result<Option<Decoded<S>>> {
    shared.decode(meta, data).or_else(|error| {
        let cause = error.to_string();
        let aside = snapshots.set_aside(data, &cause)?;
        Err(io::Error::other(format!("{cause}; {aside}")))
    })
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A snapshot to be written while later entries are applied.
pub(crate) struct SnapshotTask<S: StateMachine> {
    /// Behind a lock only because the core wants the task to be `Sync`.
    snapshot: Mutex<Option<(System, S::Snapshot)>>,
    meta: SnapshotMeta,
    snapshots: Snapshots,
    news: watch::Sender<SnapshotNews>,
    growth: Arc<Growth>,
    reach: Reach,
    scope: NodeScope,
}

impl<S: StateMachine> RaftSnapshotBuilder<TypeConfig> for SnapshotTask<S> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot<SnapshotData>, io::Error> {
        let taken = self
            .snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some((system, state)) = taken else {
            return Err(io::Error::other("a snapshot task runs only once"));
        };
        let (meta, snapshots) = (self.meta.clone(), self.snapshots.clone());
        let write = move || {
            let write = |out: &mut dyn io::Write| {
                system.encode(out)?;
                contain(|| S::encode_snapshot(&state, out))
                    .unwrap_or_else(|cause| Err(io::Error::other(cause)))
            };
            let snapshot = snapshots.write(&meta, write)?;
            Ok(Snapshot { meta, snapshot })
        };
        let written = self.scope.group().blocking(write).await;
        match written.map_err(io::Error::other)? {
            Ok(snapshot) => {
                self.growth.kept(self.reach, snapshot.snapshot.len());
                self.news.send_modify(SnapshotNews::was_kept);
                Ok(snapshot)
            }
            Err(error) if is_full(&error) => Ok(self.not_written(&error)),
            Err(error) => Err(error),
        }
    }
}

impl<S: StateMachine> SnapshotTask<S> {
    /// Without room the log is kept and another attempt made later. The core is told of the snapshot that it
    /// knows already, which changes nothing: any error would end it.
    fn not_written(&self, error: &io::Error) -> Snapshot<SnapshotData> {
        tracing::warn!(%error, "there is no room for a snapshot; the log is kept, and it is tried again");
        let failed = |news: &mut SnapshotNews| news.failed(error.to_string(), Instant::now());
        self.news.send_modify(failed);
        let known = self.snapshots.latest();
        let (meta, snapshot) =
            known.unwrap_or_else(|| (SnapshotMeta::default(), SnapshotData::Memory(Bytes::new())));
        Snapshot { meta, snapshot }
    }
}
