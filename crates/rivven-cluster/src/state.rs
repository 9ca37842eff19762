//! What the cluster replicates: the key-value map, the partitions and the join tokens, changed together or
//! not at all.

use std::{
    fmt,
    io::{self, Read, Write},
    sync::Arc,
};

use rivven_partition::{PartitionCommand, PartitionResponse, PartitionState};
use rivven_raft::{ApplyCtx, KvCommand, KvResponse, KvStore, REFOUNDING_GAP, Refusal, StateMachine};
use rivven_transport::{
    identity::Role,
    join::{TokenBook, TokenRefusal},
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, SeqAccess, Visitor},
    ser::SerializeTuple as _,
};

use crate::{
    WriteError,
    kv::unexpected,
    published::Published,
    tokens::{self, TokenCommand},
};

/// Namespace of the key-value map in a command. 0 is the system's; user modules start at 1,024.
const KV: u16 = 1;

/// Namespace of topics and partitions.
const PARTITIONS: u16 = 2;

/// Namespace of join tokens.
const TOKENS: u16 = 3;

/// Version of the snapshot's frame. 0 is unstable: the next release may refuse it.
const SNAPSHOT_VERSION: u8 = 0;

/// Longest encoded partition state that is restored.
const MAX_PARTITIONS_BYTES: u64 = 1 << 30;

/// Longest encoded tokens that are restored: those of a full book need about a tenth.
const MAX_TOKENS_BYTES: u64 = 1 << 20;

/// Most operations in one command (design section 6).
pub(crate) const MAX_OPS: usize = 128;

/// A change of one module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Kv(KvCommand),
    Partitions(PartitionCommand),
    Tokens(TokenCommand),
}

/// What a module answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum OpResponse {
    Kv(KvResponse),
    Partitions(PartitionResponse),
    Tokens(Result<(), TokenRefusal>),
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
/// All modules share what has not changed with their clones, so a snapshot costs a few counters.
#[derive(Debug)]
pub(crate) struct ClusterState {
    pub(crate) kv: KvStore,
    pub(crate) partitions: PartitionState,
    pub(crate) tokens: Arc<TokenBook>,
    published: Arc<Published>,
}

impl ClusterState {
    /// An empty state whose partitions are published once per applied batch.
    pub(crate) fn new(published: Arc<Published>) -> Self {
        Self {
            kv: KvStore::new(),
            partitions: PartitionState::default(),
            tokens: Arc::default(),
            published,
        }
    }

    fn apply_op(&mut self, ctx: &ApplyCtx, op: Op) -> OpResponse {
        match op {
            Op::Kv(command) => OpResponse::Kv(self.kv.apply(ctx, command)),
            Op::Partitions(command) => OpResponse::Partitions(self.partitions.apply(ctx.log_index, command)),
            Op::Tokens(command) => {
                OpResponse::Tokens(tokens::apply(Arc::make_mut(&mut self.tokens), command))
            }
        }
    }
}

impl From<Op> for ClusterCommand {
    fn from(op: Op) -> Self {
        Self { ops: vec![op] }
    }
}

impl ClusterResponse {
    /// The answer to a lone operation.
    pub(crate) fn only(mut self) -> Result<OpResponse, WriteError> {
        match (self.results.pop(), self.results.is_empty()) {
            (Some(result), true) => Ok(result),
            (result, _) => Err(unexpected(&result)),
        }
    }
}

impl OpResponse {
    /// Whether the operation changed nothing because the state did not allow it.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Kv(response) => response.is_refusal(),
            Self::Partitions(response) => response.is_err(),
            Self::Tokens(response) => response.is_err(),
        }
    }
}

impl StateMachine for ClusterState {
    type Command = ClusterCommand;
    type Response = ClusterResponse;
    type Snapshot = (KvStore, PartitionState, Arc<TokenBook>);

    fn check(command: &ClusterCommand) -> Result<(), Refusal> {
        if command.ops.is_empty() || command.ops.len() > MAX_OPS {
            let message = format!("{} operations; give 1 to {MAX_OPS}", command.ops.len());
            return Err(Refusal::new("operations-out-of-range", message));
        }
        command.ops.iter().try_for_each(|op| match op {
            Op::Kv(command) => KvStore::check(command),
            Op::Partitions(_) | Op::Tokens(_) => Ok(()),
        })
    }

    /// Programs outside change the map. Partitions and tokens are changed on a node, which checks what is asked.
    fn open_to(role: Role, command: &ClusterCommand) -> bool {
        command.ops.iter().all(|op| match op {
            Op::Kv(command) => KvStore::open_to(role, command),
            Op::Partitions(_) | Op::Tokens(_) => false,
        })
    }

    /// Programs outside read the map.
    fn query(&self, role: Role, query: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.kv.query(role, query)
    }

    fn apply(&mut self, ctx: &ApplyCtx, command: ClusterCommand) -> ClusterResponse {
        // A lone operation changes nothing when it is refused; several need somewhere to go back to.
        let before = (command.ops.len() > 1).then(|| self.snapshot());
        let mut results = Vec::with_capacity(command.ops.len().min(MAX_OPS));
        for op in command.ops {
            let result = self.apply_op(ctx, op);
            let refused = result.is_refusal();
            results.push(result);
            if refused {
                if let Some((kv, partitions, tokens)) = before {
                    self.kv = kv;
                    self.partitions = partitions;
                    self.tokens = tokens;
                }
                break;
            }
        }
        ClusterResponse { results }
    }

    fn without_texts(response: &ClusterResponse) -> Option<ClusterResponse> {
        // A refusal is the last result: nothing is done after it.
        let (last, before) = response.results.split_last()?;
        let OpResponse::Kv(last) = last else { return None };
        let last = OpResponse::Kv(KvStore::without_texts(last)?);
        let results = before.iter().cloned().chain([last]).collect();
        Some(ClusterResponse { results })
    }

    fn needs_ticks(&self) -> bool {
        self.kv.needs_ticks()
    }

    fn tick(&mut self, ctx: &ApplyCtx) {
        self.kv.tick(ctx);
    }

    /// Revisions and leases of the map jump, and so do the epochs of partitions, the numbers of topics and the
    /// generations of assignments.
    fn refounded(&mut self, ctx: &ApplyCtx) {
        self.kv.refounded(ctx);
        self.partitions.refounded(ctx.log_index, REFOUNDING_GAP);
    }

    fn batch_applied(&mut self, _last: u64) {
        self.published.publish(&self.partitions);
    }

    fn snapshot(&self) -> Self::Snapshot {
        (self.kv.clone(), self.partitions.clone(), Arc::clone(&self.tokens))
    }

    /// Version, the map in its own format, then the partitions and the tokens, each behind its length.
    fn encode_snapshot((kv, partitions, tokens): &Self::Snapshot, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&[SNAPSHOT_VERSION])?;
        KvStore::encode_snapshot(kv, out)?;
        write_part(partitions, out)?;
        write_part(&**tokens, out)
    }

    fn decode_snapshot(input: &mut dyn Read) -> io::Result<Self::Snapshot> {
        let mut version = [0];
        input.read_exact(&mut version)?;
        if version != [SNAPSHOT_VERSION] {
            let what = "the snapshot of the cluster has an unknown version; upgrade this node";
            return Err(invalid(what));
        }
        let kv = KvStore::decode_snapshot(input)?;
        let partitions = read_part("partitions", MAX_PARTITIONS_BYTES, input)?;
        let tokens = read_part("tokens", MAX_TOKENS_BYTES, input)?;
        Ok((kv, partitions, Arc::new(tokens)))
    }

    fn restore(&mut self, (kv, partitions, tokens): Self::Snapshot) {
        self.kv = kv;
        self.partitions = partitions;
        self.tokens = tokens;
        self.published.publish(&self.partitions);
    }
}

/// A module's state in postcard, behind its length.
fn write_part(part: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    let bytes = postcard::to_allocvec(part).map_err(io::Error::other)?;
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(&bytes)
}

/// What [`write_part`] wrote, of at most `limit` bytes.
fn read_part<T: DeserializeOwned>(what: &str, limit: u64, input: &mut dyn Read) -> io::Result<T> {
    let mut len = [0; 8];
    input.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    if len > limit {
        return Err(invalid(format!("the {what} of the snapshot claim {len} bytes")));
    }
    // Grows as bytes arrive, so that a wrong length allocates nothing.
    let mut bytes = Vec::new();
    input.take(len).read_to_end(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(|error| invalid(error.to_string()))
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
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
            Self::Tokens(command) => {
                tuple.serialize_element(&TOKENS)?;
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
            TOKENS => Ok(Op::Tokens(seq.next_element()?.ok_or_else(missing)?)),
            other => Err(A::Error::custom(format_args!(
                "namespace {other} is not known to this release; upgrade this node"
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
