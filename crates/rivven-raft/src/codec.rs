//! How log entries, votes and memberships are written to disk: ours, field by field.
//!
//! Every value opens with [`FORMAT`]. Numbers are little endian.

use bytes::Bytes;
use openraft::EntryPayload;
use rivven_raft_store::{CodecError, EntryCodec, FieldReader, get_membership, put_membership, put_u64};
use rivven_types::{InstanceId, PeerAddr};

use crate::types::{
    LogCommand, LogEntry, LogId, Seat, StoredMembership, TypeConfig, Vote, log_id, term_of, vote,
};

/// Version of the encoding. 0 is unstable: refused once there is a 1.
const FORMAT: u8 = 0;

pub(crate) const KIND_BLANK: u8 = 0;
pub(crate) const KIND_COMMAND: u8 = 1;
pub(crate) const KIND_MEMBERSHIP: u8 = 2;

/// The codec of the node's log and snapshots.
#[derive(Debug)]
pub(crate) struct LogCodec;

impl EntryCodec<TypeConfig> for LogCodec {
    fn encode_entry(entry: &LogEntry, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.push(FORMAT);
        match &entry.payload {
            EntryPayload::Blank => out.push(KIND_BLANK),
            EntryPayload::Normal(command) => {
                out.push(KIND_COMMAND);
                out.extend_from_slice(&command.namespace.to_le_bytes());
                out.extend_from_slice(&command.body);
            }
            EntryPayload::Membership(membership) => {
                out.push(KIND_MEMBERSHIP);
                put_membership(out, membership, put_seat);
            }
        }
        Ok(())
    }

    fn decode_entry(log_id: LogId, body: &[u8]) -> Result<LogEntry, CodecError> {
        let mut fields = FieldReader::versioned(body, FORMAT)?;
        let payload = match fields.u8()? {
            KIND_BLANK => EntryPayload::Blank,
            KIND_COMMAND => {
                let namespace = fields.u16()?;
                let body = Bytes::copy_from_slice(fields.take(fields.rest().len())?);
                EntryPayload::Normal(LogCommand { namespace, body })
            }
            KIND_MEMBERSHIP => EntryPayload::Membership(get_membership(&mut fields, get_seat)?),
            kind => {
                return Err(CodecError::Unknown {
                    what: "entry kind",
                    value: kind.into(),
                });
            }
        };
        fields.finish()?;
        Ok(LogEntry { log_id, payload })
    }

    fn encode_log_id(id: &LogId, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put_u64(out, term_of(id));
        put_u64(out, id.index);
    }

    fn decode_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
        let mut fields = FieldReader::versioned(bytes, FORMAT)?;
        let id = log_id(fields.u64()?, fields.u64()?);
        fields.finish()?;
        Ok(id)
    }

    fn encode_vote(vote: &Vote, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put_u64(out, vote.leader_id().term);
        put_u64(out, vote.leader_id().voted_for);
        out.push(u8::from(vote.is_committed()));
    }

    fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
        let mut fields = FieldReader::versioned(bytes, FORMAT)?;
        let vote = vote(fields.u64()?, fields.u64()?, fields.bool()?);
        fields.finish()?;
        Ok(vote)
    }

    fn encode_membership(stored: &StoredMembership, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.push(FORMAT);
        out.push(u8::from(stored.log_id().is_some()));
        if let Some(id) = stored.log_id() {
            put_u64(out, term_of(id));
            put_u64(out, id.index);
        }
        put_membership(out, stored.membership(), put_seat);
        Ok(())
    }

    fn decode_membership(bytes: &[u8]) -> Result<StoredMembership, CodecError> {
        let mut fields = FieldReader::versioned(bytes, FORMAT)?;
        let id = if fields.bool()? {
            Some(log_id(fields.u64()?, fields.u64()?))
        } else {
            None
        };
        let membership = get_membership(&mut fields, get_seat)?;
        fields.finish()?;
        Ok(StoredMembership::new(id, membership))
    }
}

/// Of a place: 0, or 1 and the 16 bytes of its data directory; then the address to the end.
fn put_seat(place: &Seat, out: &mut Vec<u8>) {
    out.push(u8::from(place.instance.is_some()));
    if let Some(instance) = place.instance {
        out.extend_from_slice(&instance.to_bytes());
    }
    out.extend_from_slice(place.addr.to_string().as_bytes());
}

fn get_seat(bytes: &[u8]) -> Result<Seat, CodecError> {
    let mut fields = FieldReader::new(bytes);
    let instance = if fields.bool()? {
        let bytes = fields.take(16)?.try_into().map_err(CodecError::invalid)?;
        Some(InstanceId::from_bytes(bytes))
    } else {
        None
    };
    let addr = std::str::from_utf8(fields.take(fields.rest().len())?).map_err(CodecError::invalid)?;
    let addr: PeerAddr = addr.parse().map_err(CodecError::invalid)?;
    Ok(Seat { addr, instance })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::types::Membership;

    fn place(node: u64) -> Seat {
        Seat {
            addr: format!("node{node}:9093").parse().unwrap(),
            instance: (node == 1).then(|| InstanceId::from_bytes([7; 16])),
        }
    }

    fn some_membership() -> Membership {
        let configs = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])];
        let nodes: BTreeMap<_, _> = (1..=5).map(|node| (node, place(node))).collect();
        Membership::new(configs, nodes).unwrap()
    }

    fn payloads() -> Vec<EntryPayload<LogCommand, u64, Seat>> {
        let command = LogCommand {
            namespace: 1,
            body: Bytes::from_static(b"body"),
        };
        vec![
            EntryPayload::Blank,
            EntryPayload::Normal(command),
            EntryPayload::Membership(some_membership()),
        ]
    }

    #[test]
    fn everything_comes_back_as_it_was() {
        for payload in payloads() {
            let entry = LogEntry {
                log_id: log_id(3, 7),
                payload,
            };
            let mut bytes = Vec::new();
            LogCodec::encode_entry(&entry, &mut bytes).unwrap();
            assert_eq!(LogCodec::decode_entry(entry.log_id, &bytes).unwrap(), entry);
        }
        for committed in [false, true] {
            let mut bytes = Vec::new();
            LogCodec::encode_vote(&vote(3, 7, committed), &mut bytes);
            assert_eq!(LogCodec::decode_vote(&bytes).unwrap(), vote(3, 7, committed));
        }
        for stored in [
            StoredMembership::default(),
            StoredMembership::new(Some(log_id(1, 2)), some_membership()),
        ] {
            let mut bytes = Vec::new();
            LogCodec::encode_membership(&stored, &mut bytes).unwrap();
            assert_eq!(LogCodec::decode_membership(&bytes).unwrap(), stored);
        }
        let mut bytes = Vec::new();
        LogCodec::encode_log_id(&log_id(u64::MAX, 1), &mut bytes);
        assert_eq!(LogCodec::decode_log_id(&bytes).unwrap(), log_id(u64::MAX, 1));
    }

    /// The bytes of version 0, written out: a change of these is a change of the format.
    #[test]
    fn the_bytes_are_those_of_version_0() {
        let entry = LogEntry {
            log_id: log_id(3, 7),
            payload: payloads().remove(1),
        };
        let mut bytes = Vec::new();
        LogCodec::encode_entry(&entry, &mut bytes).unwrap();
        assert_eq!(bytes, b"\x00\x01\x01\x00body");
        bytes.clear();
        LogCodec::encode_vote(&vote(3, 7, true), &mut bytes);
        assert_eq!(bytes, b"\x00\x03\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x01");
        bytes.clear();
        let membership = Membership::new(
            vec![BTreeSet::from([1])],
            BTreeMap::from([(1, place(1)), (2, place(2))]),
        )
        .unwrap();
        let stored = StoredMembership::new(Some(log_id(2, 5)), membership);
        LogCodec::encode_membership(&stored, &mut bytes).unwrap();
        let numbers = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let expected = [
            b"\x00\x01".to_vec(),
            numbers(&[2, 5, 1, 1, 1, 2, 1, 27]),
            b"\x01".to_vec(),
            vec![7; 16],
            b"node1:9093".to_vec(),
            numbers(&[2, 11]),
            b"\x00node2:9093".to_vec(),
        ];
        assert_eq!(bytes, expected.concat());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_an_error_or_a_value(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = LogCodec::decode_entry(log_id(1, 1), &bytes);
            let _ = LogCodec::decode_vote(&bytes);
            let _ = LogCodec::decode_membership(&bytes);
            let _ = LogCodec::decode_log_id(&bytes);
        }

        #[test]
        fn a_cut_membership_is_an_error(cut in 0_usize..100) {
            let mut bytes = Vec::new();
            LogCodec::encode_membership(&StoredMembership::new(None, some_membership()), &mut bytes).unwrap();
            bytes.truncate(cut.min(bytes.len() - 1));
            prop_assert!(LogCodec::decode_membership(&bytes).is_err());
        }
    }
}
