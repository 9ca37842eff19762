//! [`PlainCodec`]: a ready codec for type configurations that keep openraft's defaults.

use openraft::{
    BasicNode, Entry, EntryPayload, RaftTypeConfig,
    entry::RaftEntry,
    impls::{Vote, leader_id_adv::LeaderId},
    type_config::alias::{EntryPayloadOf, LogIdOf, StoredMembershipOf},
    vote::RaftLeaderId,
};

use crate::{
    codec::{CodecError, EntryCodec, FieldReader, put_bytes, put_u64},
    membership::{get_membership, put_membership},
};

/// Version of these bytes. 0 is unstable: refused once there is a 1.
const FORMAT: u8 = 0;

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// A command as [`PlainCodec`] writes it.
///
/// The bytes outlive every release of the program: keep a version in them once they may change.
pub trait CommandCodec: Sized {
    /// Appends the command to `out`.
    ///
    /// # Errors
    /// The command cannot be encoded. The append is refused and nothing is written.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// The command, from exactly what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are not a command.
    fn decode(bytes: &[u8]) -> Result<Self, CodecError>;
}

/// Text is its UTF-8 bytes; openraft's default command is a `String`.
impl CommandCodec for String {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(self.as_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let text = std::str::from_utf8(bytes).map_err(CodecError::invalid)?;
        Ok(text.to_owned())
    }
}

/// The codec for a type configuration with openraft's default types and a command of its own.
///
/// The defaults are what `openraft::declare_raft_types!` uses where nothing is said: node ids and terms are
/// `u64`, nodes are [`BasicNode`], leader ids those of the advanced mode. Whoever deviates writes an
/// [`EntryCodec`]. The layout is in `docs/formats/disk.md`.
#[derive(Clone, Copy, Debug)]
pub struct PlainCodec;

/// The leader id that `declare_raft_types!` uses by default.
type PlainLeaderId = LeaderId<u64, u64>;

impl<C> EntryCodec<C> for PlainCodec
where
    C: RaftTypeConfig<
            NodeId = u64,
            Node = BasicNode,
            Term = u64,
            LeaderId = PlainLeaderId,
            Vote = Vote<PlainLeaderId>,
            Entry = Entry<<PlainLeaderId as RaftLeaderId>::Committed, EntryPayloadOf<C>>,
        >,
    C::D: CommandCodec,
{
    fn encode_entry(entry: &C::Entry, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.push(FORMAT);
        match &entry.payload {
            EntryPayload::Blank => out.push(BLANK),
            EntryPayload::Normal(command) => {
                out.push(COMMAND);
                command.encode(out)?;
            }
            EntryPayload::Membership(membership) => {
                out.push(MEMBERSHIP);
                put_membership(out, membership, put_node);
            }
        }
        Ok(())
    }

    fn decode_entry(log_id: LogIdOf<C>, body: &[u8]) -> Result<C::Entry, CodecError> {
        let mut fields = FieldReader::versioned(body, FORMAT)?;
        let payload = match fields.u8()? {
            BLANK => EntryPayload::Blank,
            COMMAND => {
                return Ok(Entry::new(
                    log_id,
                    EntryPayload::Normal(C::D::decode(fields.rest())?),
                ));
            }
            MEMBERSHIP => EntryPayload::Membership(get_membership(&mut fields, get_node)?),
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

    fn encode_log_id(log_id: &LogIdOf<C>, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put_leader(out, &log_id.leader_id);
        put_u64(out, log_id.index);
    }

    fn decode_log_id(bytes: &[u8]) -> Result<LogIdOf<C>, CodecError> {
        let mut fields = FieldReader::versioned(bytes, FORMAT)?;
        let leader = get_leader(&mut fields)?;
        let index = fields.u64()?;
        fields.finish()?;
        Ok(LogIdOf::<C>::new(leader, index))
    }

    fn encode_vote(vote: &Vote<PlainLeaderId>, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put_leader(out, &vote.leader_id);
        out.push(u8::from(vote.committed));
    }

    fn decode_vote(bytes: &[u8]) -> Result<Vote<PlainLeaderId>, CodecError> {
        let mut fields = FieldReader::versioned(bytes, FORMAT)?;
        let vote = Vote {
            leader_id: get_leader(&mut fields)?,
            committed: fields.bool()?,
        };
        fields.finish()?;
        Ok(vote)
    }

    fn encode_membership(membership: &StoredMembershipOf<C>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.push(FORMAT);
        let mut id = Vec::new();
        if let Some(log_id) = membership.log_id() {
            <Self as EntryCodec<C>>::encode_log_id(log_id, &mut id);
        }
        put_bytes(out, &id);
        put_membership(out, membership.membership(), put_node);
        Ok(())
    }

    fn decode_membership(bytes: &[u8]) -> Result<StoredMembershipOf<C>, CodecError> {
        let mut fields = FieldReader::versioned(bytes, FORMAT)?;
        let log_id = match fields.bytes()? {
            [] => None,
            id => Some(<Self as EntryCodec<C>>::decode_log_id(id)?),
        };
        let membership = get_membership(&mut fields, get_node)?;
        fields.finish()?;
        Ok(StoredMembershipOf::<C>::new(log_id, membership))
    }
}

fn put_leader(out: &mut Vec<u8>, leader: &PlainLeaderId) {
    put_u64(out, leader.term());
    put_u64(out, *leader.node_id());
}

fn get_leader(fields: &mut FieldReader<'_>) -> Result<PlainLeaderId, CodecError> {
    Ok(PlainLeaderId::new(fields.u64()?, fields.u64()?))
}

fn put_node(node: &BasicNode, out: &mut Vec<u8>) {
    out.extend_from_slice(node.addr.as_bytes());
}

fn get_node(bytes: &[u8]) -> Result<BasicNode, CodecError> {
    let addr = std::str::from_utf8(bytes).map_err(CodecError::invalid)?;
    Ok(BasicNode::new(addr))
}
