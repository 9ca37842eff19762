//! What the cluster replicates: the key-value map and the partitions, changed together or not at all.

use std::{
    fmt,
    io::{self, Read, Write},
    sync::Arc,
};

use rivven_partition::{PartitionCommand, PartitionResponse, PartitionState};
use rivven_raft::{ApplyCtx, KvCommand, KvResponse, KvStore, Refusal, StateMachine};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, SeqAccess, Visitor},
    ser::SerializeTuple as _,
};

use crate::published::Published;

/// Namespace of the key-value map in a command. 0 is the system's; user modules start at 1,024.
const KV: u16 = 1;

/// Namespace of topics and partitions.
const PARTITIONS: u16 = 2;

/// Version of the snapshot's frame. 0 is unstable: the next release may refuse it.
const SNAPSHOT_VERSION: u8 = 0;

/// Longest encoded partition state that is restored.
const MAX_PARTITIONS_BYTES: u64 = 1 << 30;

/// Most operations in one command (design section 6).
pub(crate) const MAX_OPS: usize = 128;

/// A change of one module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Kv(KvCommand),
    Partitions(PartitionCommand),
}

/// What a module answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum OpResponse {
    Kv(KvResponse),
    Partitions(PartitionResponse),
}

impl AsRef<KvStore> for ClusterState {
    fn as_ref(&self) -> &KvStore {
        &self.kv
    }
}

/// One log entry: operations on several modules that take effect together or, if one is refused, not at
/// all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClusterCommand {
    pub(crate) ops: Vec<Op>,
}

/// One answer per operation, up to and with the first refusal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClusterResponse {
    pub(crate) results: Vec<OpResponse>,
}

/// The replicated state, and where its changes are announced.
///
/// Both modules share what has not changed with their clones, so a snapshot costs a few counters.
#[derive(Debug)]
pub(crate) struct ClusterState {
    pub(crate) kv: KvStore,
    pub(crate) partitions: PartitionState,
    published: Arc<Published>,
}

impl ClusterState {
    /// An empty state whose partitions are published once per applied batch.
    pub(crate) fn new(published: Arc<Published>) -> Self {
        Self {
            kv: KvStore::new(),
            partitions: PartitionState::default(),
            published,
        }
    }

    fn apply_op(&mut self, ctx: &ApplyCtx, op: Op) -> OpResponse {
        match op {
            Op::Kv(command) => OpResponse::Kv(self.kv.apply(ctx, command)),
            Op::Partitions(command) => OpResponse::Partitions(self.partitions.apply(ctx.log_index, command)),
        }
    }
}

impl OpResponse {
    /// Whether the operation changed nothing because the state did not allow it.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Kv(response) => response.is_refusal(),
            Self::Partitions(response) => response.is_err(),
        }
    }
}

impl StateMachine for ClusterState {
    type Command = ClusterCommand;
    type Response = ClusterResponse;
    type Snapshot = (KvStore, PartitionState);

    fn check(command: &ClusterCommand) -> Result<(), Refusal> {
        if command.ops.is_empty() || command.ops.len() > MAX_OPS {
            let message = format!("{} operations; give 1 to {MAX_OPS}", command.ops.len());
            return Err(Refusal::new("operations-out-of-range", message));
        }
        command.ops.iter().try_for_each(|op| match op {
            Op::Kv(command) => KvStore::check(command),
            Op::Partitions(_) => Ok(()),
        })
    }

    fn apply(&mut self, ctx: &ApplyCtx, command: ClusterCommand) -> ClusterResponse {
        // A lone operation changes nothing when it is refused; several need somewhere to go back to.
        let before = (command.ops.len() > 1).then(|| (self.kv.clone(), self.partitions.clone()));
        let mut results = Vec::with_capacity(command.ops.len().min(MAX_OPS));
        for op in command.ops {
            let result = self.apply_op(ctx, op);
            let refused = result.is_refusal();
            results.push(result);
            if refused {
                if let Some((kv, partitions)) = before {
                    self.kv = kv;
                    self.partitions = partitions;
                }
                break;
            }
        }
        ClusterResponse { results }
    }

    fn needs_ticks(&self) -> bool {
        self.kv.needs_ticks()
    }

    fn tick(&mut self, ctx: &ApplyCtx) {
        self.kv.tick(ctx);
    }

    fn batch_applied(&mut self, _last: u64) {
        self.published.publish(&self.partitions);
    }

    fn snapshot(&self) -> Self::Snapshot {
        (self.kv.clone(), self.partitions.clone())
    }

    /// Version, the map in its own format, then the partitions behind their length.
    fn encode_snapshot((kv, partitions): &Self::Snapshot, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&[SNAPSHOT_VERSION])?;
        KvStore::encode_snapshot(kv, out)?;
        let bytes = postcard::to_allocvec(partitions).map_err(io::Error::other)?;
        out.write_all(&(bytes.len() as u64).to_le_bytes())?;
        out.write_all(&bytes)
    }

    fn restore(&mut self, input: &mut dyn Read) -> io::Result<()> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut version = [0];
        input.read_exact(&mut version)?;
        if version != [SNAPSHOT_VERSION] {
            let what = "the snapshot of the cluster has an unknown version; upgrade this node";
            return Err(invalid(what.into()));
        }
        let mut kv = KvStore::new();
        kv.restore(input)?;
        let mut len = [0; 8];
        input.read_exact(&mut len)?;
        let len = u64::from_le_bytes(len);
        if len > MAX_PARTITIONS_BYTES {
            return Err(invalid(format!(
                "the partitions of the snapshot claim {len} bytes"
            )));
        }
        // Grows as bytes arrive, so that a wrong length allocates nothing.
        let mut bytes = Vec::new();
        input.take(len).read_to_end(&mut bytes)?;
        let partitions = postcard::from_bytes(&bytes).map_err(|error| invalid(error.to_string()))?;
        self.kv = kv;
        self.partitions = partitions;
        self.published.publish(&self.partitions);
        Ok(())
    }
}

/// Namespace, then the module's own command. A namespace this release does not know is an error: skipping
/// an operation that others carry out would make this node's state differ.
impl Serialize for Op {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        match self {
            Self::Kv(command) => {
                tuple.serialize_element(&KV)?;
                tuple.serialize_element(command)?;
            }
            Self::Partitions(command) => {
                tuple.serialize_element(&PARTITIONS)?;
                tuple.serialize_element(command)?;
            }
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Op {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(2, OpVisitor)
    }
}

struct OpVisitor;

impl<'de> Visitor<'de> for OpVisitor {
    type Value = Op;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a namespace and a command")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Op, A::Error> {
        let missing = || A::Error::custom("the operation ends early");
        let namespace: u16 = seq.next_element()?.ok_or_else(missing)?;
        match namespace {
            KV => Ok(Op::Kv(seq.next_element()?.ok_or_else(missing)?)),
            PARTITIONS => Ok(Op::Partitions(seq.next_element()?.ok_or_else(missing)?)),
            other => Err(A::Error::custom(format_args!(
                "namespace {other} is not known to this release; upgrade this node"
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
