//! A Raft type configuration of its own, its codec, and small helpers.

use std::{fmt, io, pin::Pin};

use openraft::{
    BasicNode, EntryPayload, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage, RaftLogStorageExt},
    type_config::{
        TypeConfigExt,
        alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf},
    },
    vote::RaftLeaderId,
};
use rivven_raft_store::{
    CodecError, EntryCodec, FieldReader, LogOptions, RedbLogStore, StoreError, WriterMode, get_membership,
    put_bytes, put_membership, put_u64,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Vec<u8>);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Command,
        R = (),
);

pub(crate) type Entry = EntryOf<Types>;
pub(crate) type LogId = LogIdOf<Types>;
pub(crate) type Vote = VoteOf<Types>;
pub(crate) type LeaderId = openraft::type_config::alias::LeaderIdOf<Types>;
pub(crate) type Store = RedbLogStore<Types, Codec>;

pub(crate) struct Codec;

fn put_node(node: &BasicNode, out: &mut Vec<u8>) {
    out.extend_from_slice(node.addr.as_bytes());
}

fn get_node(bytes: &[u8]) -> Result<BasicNode, CodecError> {
    let addr = std::str::from_utf8(bytes).map_err(CodecError::invalid)?;
    Ok(BasicNode::new(addr))
}

fn put_leader(out: &mut Vec<u8>, leader: &LeaderId) {
    put_u64(out, leader.term());
    put_u64(out, *leader.node_id());
}

fn get_leader(fields: &mut FieldReader<'_>) -> Result<LeaderId, CodecError> {
    Ok(LeaderId::new(fields.u64()?, fields.u64()?))
}

impl EntryCodec<Types> for Codec {
    fn encode_entry(entry: &Entry, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match &entry.payload {
            EntryPayload::Blank => out.push(0),
            EntryPayload::Normal(command) => {
                out.push(1);
                put_bytes(out, &command.0);
            }
            EntryPayload::Membership(membership) => {
                out.push(2);
                put_membership(out, membership, put_node);
            }
        }
        Ok(())
    }

    fn decode_entry(log_id: LogId, body: &[u8]) -> Result<Entry, CodecError> {
        let mut fields = FieldReader::new(body);
        let payload = match fields.u8()? {
            0 => EntryPayload::Blank,
            1 => EntryPayload::Normal(Command(fields.bytes()?.to_vec())),
            2 => EntryPayload::Membership(get_membership(&mut fields, get_node)?),
            kind => {
                return Err(CodecError::Unknown {
                    what: "entry kind",
                    value: kind.into(),
                });
            }
        };
        fields.finish()?;
        Ok(Entry::new(log_id, payload))
    }

    fn encode_log_id(log_id: &LogId, out: &mut Vec<u8>) {
        put_leader(out, &log_id.leader_id);
        put_u64(out, log_id.index);
    }

    fn decode_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
        let mut fields = FieldReader::new(bytes);
        let log_id = LogId::new(get_leader(&mut fields)?, fields.u64()?);
        fields.finish()?;
        Ok(log_id)
    }

    fn encode_vote(vote: &Vote, out: &mut Vec<u8>) {
        put_leader(out, &vote.leader_id);
        out.push(u8::from(vote.committed));
    }

    fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
        let mut fields = FieldReader::new(bytes);
        let vote = Vote {
            leader_id: get_leader(&mut fields)?,
            committed: fields.bool()?,
        };
        fields.finish()?;
        Ok(vote)
    }

    fn encode_membership(
        membership: &StoredMembershipOf<Types>,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let mut id = Vec::new();
        if let Some(log_id) = membership.log_id() {
            Self::encode_log_id(log_id, &mut id);
        }
        put_bytes(out, &id);
        put_membership(out, membership.membership(), put_node);
        Ok(())
    }

    fn decode_membership(bytes: &[u8]) -> Result<StoredMembershipOf<Types>, CodecError> {
        let mut fields = FieldReader::new(bytes);
        let log_id = match fields.bytes()? {
            [] => None,
            id => Some(Self::decode_log_id(id)?),
        };
        let membership = get_membership(&mut fields, get_node)?;
        fields.finish()?;
        Ok(StoredMembershipOf::<Types>::new(log_id, membership))
    }
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, 1), index)
}

/// An entry whose body is a function of its id, so that a reader knows what it must contain.
pub(crate) fn entry(term: u64, index: u64) -> Entry {
    let len = usize::try_from((term * 7 + index * 13) % 300).unwrap();
    let body = format!("{term}.{index} ")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(len)
        .collect();
    Entry::new(log_id(term, index), EntryPayload::Normal(Command(body)))
}

pub(crate) fn entries(term: u64, range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(|index| entry(term, index)).collect()
}

pub(crate) fn vote(term: u64) -> Vote {
    Vote::new(term, 1)
}

/// No thread: what a call does is done when it returns.
pub(crate) fn inline() -> LogOptions {
    LogOptions {
        writer: WriterMode::Inline,
        tail_bytes: 1024,
        cache_bytes: 1 << 20,
        ..LogOptions::default()
    }
}

pub(crate) fn threaded() -> LogOptions {
    LogOptions {
        tail_bytes: 1024,
        ..LogOptions::default()
    }
}

/// Appends and waits until the entries are durable.
pub(crate) async fn append<S: RaftLogStorage<Types>>(store: &mut S, entries: Vec<Entry>) -> io::Result<()> {
    store.blocking_append(entries).await.map_err(io::Error::other)
}

/// Resolves once the entries of an append are durable, or never will be.
pub(crate) type Outcome = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Appends without waiting; the receiver tells the outcome.
pub(crate) async fn submit<S: RaftLogStorage<Types>>(
    store: &mut S,
    entries: Vec<Entry>,
) -> io::Result<Outcome> {
    let (done, outcome) = Types::oneshot();
    store.append(entries, IOFlushed::signal(done)).await?;
    Ok(Box::pin(async { outcome.await.map_err(io::Error::other)? }))
}

pub(crate) async fn read_all<S: RaftLogStorage<Types>>(store: &mut S) -> io::Result<Vec<Entry>> {
    store.get_log_reader().await.try_get_log_entries(..).await
}

/// The store's own error inside an [`io::Error`].
pub(crate) fn store_error(error: &io::Error) -> &StoreError {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref())
        .unwrap_or_else(|| panic!("not of the store: {error}"))
}

/// splitmix64: the tests' only source of chance.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
