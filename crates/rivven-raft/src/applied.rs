//! The replicated state of a node: what applies to it, what reads it, what restores it.

use std::{
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use openraft::{
    EntryPayload,
    storage::{ApplyResponder, EntryResponder},
};
use serde::de::DeserializeOwned;
use tokio::sync::{RwLock, watch};

use crate::{
    ApplyCtx, StateMachine,
    codec::{KIND_BLANK, KIND_COMMAND, KIND_MEMBERSHIP},
    growth::{Growth, SnapshotRule},
    membership::{Gate, Journal},
    snapshot::SnapshotData,
    system::{
        Admission, Features, Reply, SessionTag, System, SystemCommand, SystemResponse, body_crc,
        encode_response, encode_system_response,
    },
    types::{
        LogCommand, LogEntry, LogId, LogReply, NAMESPACE_APPLICATION, NAMESPACE_SESSION, NAMESPACE_SYSTEM,
        SnapshotMeta, StoredMembership, TypeConfig, term_of,
    },
};

/// The state machine, shared between the core, which applies, and everyone who reads.
///
/// It outlives the core: what is applied is committed, whether or not this node's own log still has it.
pub(crate) struct Shared<S> {
    state: RwLock<Applied<S>>,
    /// What this node supports.
    features: Features,
    applied: watch::Sender<Option<u64>>,
    gate: Arc<Gate>,
    journal: Arc<Journal>,
    growth: Arc<Growth>,
}

struct Applied<S> {
    machine: S,
    system: System,
    last: Option<LogId>,
    membership: StoredMembership,
    gate: Arc<Gate>,
    journal: Arc<Journal>,
}

impl<S: StateMachine> Shared<S> {
    pub(crate) fn new(machine: S, features: Features, snapshots: SnapshotRule) -> Self {
        let system = System {
            features: features.clone(),
            ..System::default()
        };
        let state = Applied {
            machine,
            system,
            last: None,
            membership: StoredMembership::default(),
            gate: Arc::default(),
            journal: Arc::default(),
        };
        Self {
            gate: Arc::clone(&state.gate),
            journal: Arc::clone(&state.journal),
            state: RwLock::new(state),
            features,
            applied: watch::Sender::new(None),
            growth: Arc::new(Growth::new(snapshots)),
        }
    }

    /// Who may speak to this node, as the state says.
    pub(crate) const fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The last changes of the membership.
    pub(crate) const fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// When the next snapshot is due.
    pub(crate) const fn growth(&self) -> &Arc<Growth> {
        &self.growth
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

    /// Applies entries in order, leaving out those that are applied already.
    ///
    /// # Errors
    /// The state machine failed, or the entries are not what was applied before.
    pub(crate) async fn apply(
        &self,
        batch: Vec<io::Result<EntryResponder<TypeConfig>>>,
    ) -> io::Result<Vec<(ApplyResponder<TypeConfig>, LogReply)>> {
        let mut replies = Vec::new();
        let (mut entries, mut bytes) = (0_usize, 0_usize);
        let mut state = self.state.write().await;
        for item in batch {
            let (entry, responder) = item?;
            if state.has(&entry.log_id)? {
                // A proposal of this core's has an index of its own, beyond everything applied before.
                if responder.is_some() {
                    let text = format!("{} was proposed and is applied already", entry.log_id);
                    return Err(io::Error::other(text));
                }
                continue;
            }
            entries += 1;
            if let EntryPayload::Normal(command) = &entry.payload {
                bytes = bytes.saturating_add(command.body.len());
            }
            let reply = state.apply(entry).map_err(io::Error::other)?;
            replies.extend(responder.map(|responder| (responder, reply)));
        }
        let last = state.last.map(|id| id.index);
        if let Some(last) = last {
            contain(|| state.machine.batch_applied(last)).map_err(io::Error::other)?;
        }
        drop(state);
        self.growth.add(entries, bytes);
        self.announce(last);
        Ok(replies)
    }

    /// The state to write into a snapshot, and its place in the log.
    pub(crate) async fn snapshot(&self) -> (System, S::Snapshot, SnapshotMeta) {
        let state = self.state.read().await;
        let meta = SnapshotMeta {
            last_log_id: state.last,
            last_membership: state.membership.clone(),
        };
        (state.system.clone(), state.machine.snapshot(), meta)
    }

    fn announce(&self, last: Option<u64>) {
        self.applied.send_if_modified(|applied| {
            let changed = *applied != last;
            *applied = last;
            changed
        });
    }

    /// Reads a snapshot into a state aside; `None` if the state is as far already. Blocks: runs where that is
    /// allowed. Meanwhile the state is read, and entries may be applied to it.
    ///
    /// # Errors
    /// The snapshot cannot be restored. The state is as it was.
    pub(crate) fn decode(&self, meta: &SnapshotMeta, data: &SnapshotData) -> io::Result<Option<Decoded<S>>> {
        if !self.state.blocking_read().is_behind(meta) {
            return Ok(None);
        }
        Decoded::read(self.features.clone(), &mut data.content())
            .map(Some)
            .map_err(|cause| io::Error::other(format!("the snapshot cannot be restored: {cause}")))
    }

    /// Replaces the state by a snapshot of so many bytes, unless it has come as far meanwhile. Blocks; readers
    /// wait for moments, without blocking their threads.
    ///
    /// # Errors
    /// The state machine panicked: nothing is known of the state any more.
    pub(crate) fn restore(&self, meta: &SnapshotMeta, decoded: Decoded<S>, bytes: u64) -> io::Result<()> {
        let mut state = self.state.blocking_write();
        if !state.is_behind(meta) {
            return Ok(());
        }
        let replaced = state.replace(meta, decoded).map_err(io::Error::other)?;
        self.growth.restored(bytes);
        let last = state.last.map(|id| id.index);
        if let Some(last) = last {
            contain(|| state.machine.batch_applied(last)).map_err(io::Error::other)?;
        }
        drop(state);
        self.announce(last);
        // To drop a large state takes long: only once nobody waits for it.
        drop(replaced);
        Ok(())
    }
}

/// What was read of a snapshot: a state beside the one that is served.
pub(crate) struct Decoded<S: StateMachine> {
    system: System,
    machine: S::Snapshot,
}

impl<S: StateMachine> Decoded<S> {
    /// Reads all of a snapshot. Blocks.
    ///
    /// # Errors
    /// It is damaged, or this release and this application make no state of it.
    pub(crate) fn read(features: Features, input: &mut dyn io::Read) -> Result<Self, String> {
        let read = contain(|| {
            let system = System::decode(features, input)?;
            let machine = S::decode_snapshot(input)?;
            // Reading to the end checks what the state machine had no use for.
            io::copy(input, &mut io::sink())?;
            Ok::<_, io::Error>(Self { system, machine })
        });
        read?.map_err(|error| error.to_string())
    }
}

/// In the digest for a reply that is given again.
const REPEATED: &[u8] = b"repeated";

/// What an entry is answered with.
struct Answer {
    reply: Bytes,
    /// What goes into the digest, if not the reply itself.
    digested: Option<Bytes>,
}

impl Answer {
    fn of(reply: &Reply) -> Result<Self, postcard::Error> {
        let digested = match reply {
            Reply::Refused(refusal) => Some(Reply::Refused(refusal.without_text()).encode()?),
            Reply::Response(_) | Reply::NoSession | Reply::NotKept | Reply::Passed => None,
        };
        Ok(Self {
            reply: reply.encode()?,
            digested,
        })
    }
}

impl<S: StateMachine> Applied<S> {
    /// Whether an entry is part of the state already.
    fn has(&self, id: &LogId) -> io::Result<bool> {
        match self.last {
            Some(last) if last.index == id.index && last != *id => Err(io::Error::other(format!(
                "{id} is committed where {last} was applied; this node has diverged, rebuild it with \
                 `rivven-node member replace`"
            ))),
            last => Ok(last.is_some_and(|last| id.index <= last.index)),
        }
    }

    /// Replaces the state, and gives back what was there.
    fn replace(&mut self, meta: &SnapshotMeta, decoded: Decoded<S>) -> Result<Decoded<S>, String> {
        let machine = contain(|| {
            // Shares the old state, and so keeps it from being dropped while readers wait.
            let replaced = self.machine.snapshot();
            self.machine.restore(decoded.machine);
            replaced
        })?;
        let system = mem::replace(&mut self.system, decoded.system);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.gate.follow(&self.system.members);
        Ok(Decoded { system, machine })
    }

    fn is_behind(&self, meta: &SnapshotMeta) -> bool {
        self.last.map(|id| id.index) < meta.last_log_id.map(|id| id.index)
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
                let membership = StoredMembership::new(Some(id), membership);
                self.journal.membership(id.index, &self.membership, &membership);
                self.membership = membership;
                add(KIND_MEMBERSHIP, 0, &[], &[], &mut self.system);
                Bytes::new()
            }
            EntryPayload::Normal(command) => {
                let Answer { reply, digested } = self.command(&id, &command)?;
                add(
                    KIND_COMMAND,
                    command.namespace,
                    &command.body,
                    digested.as_ref().unwrap_or(&reply),
                    &mut self.system,
                );
                reply
            }
        };
        self.last = Some(id);
        Ok(LogReply(reply))
    }

    fn command(&mut self, id: &LogId, command: &LogCommand) -> Result<Answer, String> {
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

    fn system_command(&mut self, id: &LogId, body: &Bytes) -> Result<Answer, String> {
        let command: SystemCommand = decode(id, body)?;
        let response = match command {
            SystemCommand::Tick { now_ms } => {
                self.system.tick(now_ms);
                let ctx = self.ctx(id);
                contain(|| self.machine.tick(&ctx)).map_err(|cause| at(id, &cause))?;
                SystemResponse::Done
            }
            SystemCommand::Refound(refound) => {
                self.system.refound(*refound);
                let ctx = self.ctx(id);
                contain(|| self.machine.refounded(&ctx)).map_err(|cause| at(id, &cause))?;
                self.gate.follow(&self.system.members);
                SystemResponse::Done
            }
            command => self.change_system(id, command)?,
        };
        let encode = |response| encode_system_response(response).map_err(|error| not_encoded(id, &error));
        Ok(Answer {
            reply: encode(&response)?,
            digested: response.without_texts().as_ref().map(encode).transpose()?,
        })
    }

    fn change_system(&mut self, id: &LogId, command: SystemCommand) -> Result<SystemResponse, String> {
        let member = match &command {
            SystemCommand::Member(command) => Some(command.clone()),
            _ => None,
        };
        let response = self
            .system
            .apply(id.index, command)
            .map_err(|cause| at(id, &cause))?;
        if let (Some(command), SystemResponse::Done) = (member, &response) {
            self.journal.command(id.index, &command);
            self.gate.follow(&self.system.members);
        }
        Ok(response)
    }

    /// Carries out a session's proposal unless an entry before has done so.
    fn session_command(&mut self, id: &LogId, body: &Bytes) -> Result<Answer, String> {
        let (tag, command) =
            SessionTag::decode(body).ok_or_else(|| at(id, "it is too short for a session"))?;
        let crc = body_crc(&command);
        let reply = match self.system.sessions.admit(tag, crc) {
            Admission::New => {
                let answer = self.application_command(id, &command)?;
                self.system.sessions.keep(tag, id.index, crc, &answer.reply);
                return Ok(answer);
            }
            // The digest has it from the entry that was answered with it.
            Admission::Repeated(reply) => {
                return Ok(Answer {
                    reply,
                    digested: Some(Bytes::from_static(REPEATED)),
                });
            }
            Admission::NotKept => Reply::NotKept,
            Admission::NoSession => Reply::NoSession,
            Admission::Passed => Reply::Passed,
            Admission::Reused(refusal) => Reply::Refused(refusal),
        };
        Answer::of(&reply).map_err(|error| not_encoded(id, &error))
    }

    fn application_command(&mut self, id: &LogId, body: &Bytes) -> Result<Answer, String> {
        let command: S::Command = decode(id, body)?;
        if let Err(refusal) = self.system.features.check(S::requires(&command)) {
            let refused = Answer::of(&Reply::Refused(refusal));
            return refused.map_err(|error| not_encoded(id, &error));
        }
        let ctx = self.ctx(id);
        let response = contain(|| self.machine.apply(&ctx, command)).map_err(|cause| at(id, &cause))?;
        let encode = |response| encode_response(response).map_err(|error| not_encoded(id, &error));
        Ok(Answer {
            reply: encode(&response)?,
            digested: S::without_texts(&response).as_ref().map(encode).transpose()?,
        })
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
pub(crate) fn contain<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // After a panic the state is never used again: the caller fails, and the core with it.
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        format!("the state machine panicked: {}", text.unwrap_or("no message"))
    })
}

#[cfg(test)]
mod tests;
