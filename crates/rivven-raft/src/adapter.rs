//! Between the consensus core and a [`StateMachine`]: applying, reading, building and restoring snapshots.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};
use serde::de::DeserializeOwned;
use tokio::sync::{RwLock, watch};

use crate::{
    ApplyCtx, StateMachine,
    codec::{KIND_BLANK, KIND_COMMAND, KIND_MEMBERSHIP},
    runtime::NodeScope,
    snapshot::{SnapshotData, Snapshots},
    system::{
        Admission, Features, Reply, SessionTag, System, SystemCommand, SystemResponse, body_crc,
        encode_response, encode_system_response,
    },
    types::{
        LogCommand, LogEntry, LogId, LogReply, NAMESPACE_APPLICATION, NAMESPACE_SESSION, NAMESPACE_SYSTEM,
        Snapshot, SnapshotMeta, StoredMembership, TypeConfig, term_of,
    },
};

/// Entries applied under one lock, so that readers get their turn and responses leave early.
const APPLY_BATCH: usize = 256;

/// The state machine, shared between the core, which applies, and everyone who reads.
pub(crate) struct Shared<S> {
    state: RwLock<Applied<S>>,
    applied: watch::Sender<Option<u64>>,
}

struct Applied<S> {
    machine: S,
    system: System,
    last: Option<LogId>,
    membership: StoredMembership,
}

impl<S: StateMachine> Shared<S> {
    pub(crate) fn new(machine: S, features: Features) -> Self {
        let system = System {
            features,
            ..System::default()
        };
        let state = Applied {
            machine,
            system,
            last: None,
            membership: StoredMembership::default(),
        };
        Self {
            state: RwLock::new(state),
            applied: watch::Sender::new(None),
        }
    }

    /// Index of the last entry applied.
    pub(crate) fn applied_index(&self) -> Option<u64> {
        *self.applied.borrow()
    }

    /// Announces every advance of [`Self::applied_index`].
    pub(crate) fn watch_applied(&self) -> watch::Receiver<Option<u64>> {
        self.applied.subscribe()
    }

    /// The state and the index it stands at.
    pub(crate) async fn read<T>(&self, read: impl FnOnce(&S) -> T) -> (T, Option<u64>) {
        let state = self.state.read().await;
        (read(&state.machine), state.last.map(|id| id.index))
    }

    /// The system state.
    pub(crate) async fn read_system<T>(&self, read: impl FnOnce(&System) -> T) -> T {
        read(&self.state.read().await.system)
    }

    /// The log time, if anything waits for it to pass.
    pub(crate) async fn awaited_time(&self) -> Option<u64> {
        let state = self.state.read().await;
        let awaited = state.system.needs_ticks() || state.machine.needs_ticks();
        awaited.then_some(state.system.log_time_ms)
    }

    async fn apply(
        &self,
        batch: Vec<io::Result<EntryResponder<TypeConfig>>>,
    ) -> io::Result<Vec<(ApplyResponder<TypeConfig>, LogReply)>> {
        let mut replies = Vec::new();
        let mut state = self.state.write().await;
        for item in batch {
            let (entry, responder) = item?;
            let reply = state.apply(entry).map_err(io::Error::other)?;
            replies.extend(responder.map(|responder| (responder, reply)));
        }
        let last = state.last.map(|id| id.index);
        if let Some(last) = last {
            contain(|| state.machine.batch_applied(last)).map_err(io::Error::other)?;
        }
        drop(state);
        self.applied.send_replace(last);
        Ok(replies)
    }

    /// Blocks: runs where that is allowed. Readers wait without blocking their threads.
    fn restore(&self, meta: &SnapshotMeta, data: &SnapshotData) -> io::Result<()> {
        let mut input = data.content();
        let mut state = self.state.blocking_write();
        let restored = contain(|| {
            state.system.restore(&mut input)?;
            state.machine.restore(&mut input)?;
            // Reading to the end checks what the state machine had no use for.
            io::copy(&mut input, &mut io::sink())
        });
        restored
            .and_then(|read| read.map_err(|error| format!("the snapshot cannot be restored: {error}")))
            .map_err(io::Error::other)?;
        state.last = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        let last = meta.last_log_id.map(|id| id.index);
        if let Some(last) = last {
            contain(|| state.machine.batch_applied(last)).map_err(io::Error::other)?;
        }
        drop(state);
        self.applied.send_replace(last);
        Ok(())
    }
}

impl<S: StateMachine> Applied<S> {
    /// Applies one entry, and adds it with its reply to the digest.
    fn apply(&mut self, entry: LogEntry) -> Result<LogReply, String> {
        let id = entry.log_id;
        let add = |kind: u8, namespace: u16, command: &[u8], reply: &[u8], system: &mut System| {
            let [low, high] = namespace.to_le_bytes();
            system
                .chain
                .add(term_of(&id), id.index, &[kind, low, high], command, reply);
        };
        let reply = match entry.payload {
            EntryPayload::Blank => {
                add(KIND_BLANK, 0, &[], &[], &mut self.system);
                Bytes::new()
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                add(KIND_MEMBERSHIP, 0, &[], &[], &mut self.system);
                Bytes::new()
            }
            EntryPayload::Normal(command) => {
                let reply = self.command(&id, &command)?;
                add(
                    KIND_COMMAND,
                    command.namespace,
                    &command.body,
                    &reply,
                    &mut self.system,
                );
                reply
            }
        };
        self.last = Some(id);
        Ok(LogReply(reply))
    }

    fn command(&mut self, id: &LogId, command: &LogCommand) -> Result<Bytes, String> {
        match command.namespace {
            NAMESPACE_SYSTEM => self.system_command(id, &command.body),
            NAMESPACE_APPLICATION => self.application_command(id, &command.body),
            NAMESPACE_SESSION => self.session_command(id, &command.body),
            namespace => Err(format!(
                "log entry {} is for namespace {namespace}, which this release does not know; upgrade this node",
                id.index
            )),
        }
    }

    fn system_command(&mut self, id: &LogId, body: &Bytes) -> Result<Bytes, String> {
        let command: SystemCommand = decode(id, body)?;
        let response = if let SystemCommand::Tick { now_ms } = command {
            self.system.tick(now_ms);
            let ctx = self.ctx(id);
            contain(|| self.machine.tick(&ctx)).map_err(|cause| at(id, &cause))?;
            SystemResponse::Done
        } else {
            self.system
                .apply(id.index, command)
                .map_err(|cause| at(id, &cause))?
        };
        encode_system_response(&response).map_err(|error| not_encoded(id, &error))
    }

    /// Carries out a session's proposal unless an entry before has done so.
    fn session_command(&mut self, id: &LogId, body: &Bytes) -> Result<Bytes, String> {
        let (tag, command) =
            SessionTag::decode(body).ok_or_else(|| at(id, "it is too short for a session"))?;
        let crc = body_crc(&command);
        let reply = match self.system.sessions.admit(tag, crc) {
            Admission::New => {
                let reply = self.application_command(id, &command)?;
                self.system.sessions.keep(tag, id.index, crc, &reply);
                return Ok(reply);
            }
            Admission::Repeated(reply) => return Ok(reply),
            Admission::NotKept => Reply::NotKept,
            Admission::NoSession => Reply::NoSession,
            Admission::Passed => Reply::Passed,
            Admission::Reused(refusal) => Reply::Refused(refusal),
        };
        reply.encode().map_err(|error| not_encoded(id, &error))
    }

    fn application_command(&mut self, id: &LogId, body: &Bytes) -> Result<Bytes, String> {
        let command: S::Command = decode(id, body)?;
        if let Err(refusal) = self.system.features.check(S::requires(&command)) {
            let refused = Reply::Refused(refusal).encode();
            return refused.map_err(|error| not_encoded(id, &error));
        }
        let ctx = self.ctx(id);
        let response = contain(|| self.machine.apply(&ctx, command)).map_err(|cause| at(id, &cause))?;
        encode_response(&response).map_err(|error| not_encoded(id, &error))
    }

    fn ctx(&self, id: &LogId) -> ApplyCtx {
        ApplyCtx::new(id.index, term_of(id)).at(self.system.log_time_ms)
    }
}

fn decode<T: DeserializeOwned>(id: &LogId, body: &[u8]) -> Result<T, String> {
    postcard::from_bytes(body).map_err(|error| {
        format!(
            "log entry {} cannot be decoded ({error}); a newer release may have written it: upgrade this node",
            id.index
        )
    })
}

fn at(id: &LogId, cause: &str) -> String {
    format!("{cause} at log entry {}", id.index)
}

fn not_encoded(id: &LogId, error: &postcard::Error) -> String {
    format!(
        "the response to log entry {} cannot be encoded: {error}",
        id.index
    )
}

/// Turns a panic of the state machine into the reason for which the node stops.
fn contain<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // After a panic the state is never used again: the caller fails, and the core with it.
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        format!("the state machine panicked: {}", text.unwrap_or("no message"))
    })
}

/// What the core drives.
pub(crate) struct Machine<S> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) snapshots: Snapshots,
    pub(crate) scope: NodeScope,
}

impl<S: StateMachine> RaftStateMachine<TypeConfig> for Machine<S> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotTask<S>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.shared.state.read().await;
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(APPLY_BATCH);
        while let Some(batch) = batches.next().await {
            for (responder, reply) in self.shared.apply(batch).await? {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotTask<S> {
        let state = self.shared.state.read().await;
        SnapshotTask {
            snapshot: Mutex::new(Some((state.system.clone(), state.machine.snapshot()))),
            meta: SnapshotMeta {
                last_log_id: state.last,
                last_membership: state.membership.clone(),
            },
            snapshots: self.snapshots.clone(),
            scope: self.scope.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let (shared, snapshots) = (Arc::clone(&self.shared), self.snapshots.clone());
        let meta = meta.clone();
        let restore = move || {
            // Kept first: once the state shows it, the log before it may be purged.
            snapshots.keep(&meta, &snapshot)?;
            shared.restore(&meta, &snapshot)
        };
        self.scope
            .group()
            .blocking(restore)
            .await
            .map_err(io::Error::other)?
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<SnapshotData>>, io::Error> {
        let snapshots = self.snapshots.clone();
        let latest = self.scope.group().blocking(move || snapshots.latest());
        let latest = latest.await.map_err(io::Error::other)?;
        Ok(latest.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// A snapshot to be written while later entries are applied.
pub(crate) struct SnapshotTask<S: StateMachine> {
    /// Behind a lock only because the core wants the task to be `Sync`.
    snapshot: Mutex<Option<(System, S::Snapshot)>>,
    meta: SnapshotMeta,
    snapshots: Snapshots,
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
        self.scope
            .group()
            .blocking(write)
            .await
            .map_err(io::Error::other)?
    }
}
