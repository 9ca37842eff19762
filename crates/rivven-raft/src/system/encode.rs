//! The system state in a snapshot, before the application's.

use std::io::{self, Read, Write};

use super::{
    Chain, Digest, Features, Levels, MAX_KEPT_REPLY_BYTES, Refoundings, System,
    session::{Kept, SessionId, Window},
};
use rivven_types::NodeId;

use crate::{
    expiry::Deadline,
    membership::MemberRecord,
    records::{invalid, read_record, read_u64, read_version, write_record, write_u64},
};

/// Version of the encoding. 0 is unstable: refused once there is a 1.
const VERSION: u8 = 0;

/// Most bytes of one record: a kept reply with its numbers, or every feature with its level.
const MAX_RECORD_BYTES: usize = MAX_KEPT_REPLY_BYTES + 128;

/// Of a session: id, time to live, when it ends, window.
type SessionRecord = (SessionId, u64, Option<u64>, Window);

impl System {
    /// Version, log time, the last digest, finalised features; kept digests, sessions, replies and members,
    /// each group behind its number; removed nodes and fenced data directories; how often the group began
    /// anew, and the number and a record of each time that is remembered.
    pub(crate) fn encode(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&[VERSION])?;
        write_u64(out, self.log_time_ms)?;
        write_record(out, &self.chain.last())?;
        write_record(out, self.features.finalized())?;
        write_u64(out, self.chain.kept().len() as u64)?;
        for digest in self.chain.kept() {
            write_record(out, &digest)?;
        }
        let (sessions, replies) = self.sessions.lens();
        write_u64(out, sessions as u64)?;
        for (id, deadline, window) in self.sessions.iter() {
            let record: SessionRecord = (SessionId(id), deadline.ttl_ms, deadline.at_ms, window);
            write_record(out, &record)?;
        }
        write_u64(out, replies as u64)?;
        for (id, seq, kept) in self.sessions.replies() {
            write_record(out, &(id, seq, kept))?;
        }
        write_u64(out, self.members.len() as u64)?;
        for (node, record) in self.members.iter() {
            write_record(out, &(node, record))?;
        }
        write_record(out, &self.members.shut_out())?;
        write_u64(out, self.refoundings.count())?;
        write_u64(out, self.refoundings.iter().len() as u64)?;
        for refounding in self.refoundings.iter() {
            write_record(out, refounding)?;
        }
        Ok(())
    }

    /// Reads what [`Self::encode`] wrote, on a node with these features: what they say is finalised is replaced.
    pub(crate) fn decode(features: Features, input: &mut dyn Read) -> io::Result<Self> {
        read_version(input, VERSION, "the system state")?;
        let mut system = Self {
            log_time_ms: read_u64(input)?,
            features,
            ..Self::default()
        };
        let last: Option<Digest> = read_record(input, MAX_RECORD_BYTES)?;
        system.chain = Chain::starting_at(last);
        let finalized: Levels = read_record(input, MAX_RECORD_BYTES)?;
        system.features.restore(finalized).map_err(invalid)?;
        for _ in 0..read_u64(input)? {
            system.chain.keep(read_record(input, MAX_RECORD_BYTES)?);
        }
        for _ in 0..read_u64(input)? {
            let (id, ttl_ms, at_ms, window): SessionRecord = read_record(input, MAX_RECORD_BYTES)?;
            system.sessions.insert(id.0, Deadline { ttl_ms, at_ms }, window);
        }
        for _ in 0..read_u64(input)? {
            let (id, seq, kept): (u64, u64, Kept) = read_record(input, MAX_RECORD_BYTES)?;
            if !system.sessions.expects(id, seq) {
                return Err(invalid("a kept response is of no session"));
            }
            if !system.sessions.insert_reply(id, seq, kept) {
                return Err(invalid("two kept responses are of one proposal or of one entry"));
            }
        }
        for _ in 0..read_u64(input)? {
            let (node, record): (NodeId, MemberRecord) = read_record(input, MAX_RECORD_BYTES)?;
            system.members.restore(node, record).map_err(invalid)?;
        }
        system
            .members
            .restore_shut_out(read_record(input, MAX_RECORD_BYTES)?);
        system.refoundings = Refoundings::starting_at(read_u64(input)?);
        for _ in 0..read_u64(input)? {
            system.refoundings.keep(read_record(input, MAX_RECORD_BYTES)?);
        }
        Ok(system)
    }
}
