//! The envelope around every record on disk: format version, CRC32C, then the codec's bytes.
//!
//! redb verifies its pages when it opens a file, not when it reads one, so a page that goes bad afterwards
//! would be believed. The checksum also covers which record it is: the right bytes under the wrong index
//! are damage too. `docs/formats/disk.md` has the layout.

use openraft::{RaftTypeConfig, entry::RaftEntry, type_config::alias::LogIdOf};

use crate::{
    codec::{CodecError, EntryCodec, FieldReader},
    error::Record,
};

/// Version of the records that this build writes. 0 is unstable: the next release may refuse it.
pub(crate) const RECORD_VERSION: u8 = 0;

/// Version and checksum.
const HEADER_BYTES: usize = 1 + 4;

/// Why a record cannot be used.
#[derive(Debug)]
pub(crate) enum RecordError {
    /// The checksum holds, but this build does not know what it covers.
    Newer {
        what: &'static str,
        found: u64,
    },
    Damaged(CodecError),
}

impl From<CodecError> for RecordError {
    /// Content is decoded once its checksum holds, so an unknown value in it is not rot: a newer release
    /// wrote it.
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Unknown { what, value } => Self::Newer { what, found: value },
            other => Self::Damaged(other),
        }
    }
}

/// Appends a record whose content `write` appends.
pub(crate) fn seal<E>(
    record: Record,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    out.push(RECORD_VERSION);
    out.extend_from_slice(&[0; 4]);
    write(out)?;
    let body = out.get(start + HEADER_BYTES..).unwrap_or_default();
    let sum = checksum(record, RECORD_VERSION, body).to_le_bytes();
    if let Some(space) = out.get_mut(start + 1..start + HEADER_BYTES) {
        space.copy_from_slice(&sum);
    }
    Ok(())
}

/// The content of a record, once its checksum and version have been checked.
pub(crate) fn unseal(record: Record, bytes: &[u8]) -> Result<&[u8], RecordError> {
    let mut fields = FieldReader::new(bytes);
    let version = fields.u8()?;
    let sum = fields.u32()?;
    if checksum(record, version, fields.rest()) != sum {
        return Err(CodecError::invalid("its checksum does not match").into());
    }
    if version > RECORD_VERSION {
        return Err(RecordError::Newer {
            what: "format version",
            found: version.into(),
        });
    }
    Ok(fields.rest())
}

fn checksum(record: Record, version: u8, body: &[u8]) -> u32 {
    let sum = crc32c::crc32c(record.key().as_bytes());
    let sum = match record {
        Record::Entry(index) => crc32c::crc32c_append(sum, &index.to_le_bytes()),
        Record::Vote | Record::Purged | Record::Committed | Record::Owner => sum,
    };
    crc32c::crc32c_append(crc32c::crc32c_append(sum, &[version]), body)
}

/// Appends the record of an entry: its log id behind a length, then its body.
pub(crate) fn seal_entry<C: RaftTypeConfig, K: EntryCodec<C>>(
    entry: &C::Entry,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let log_id = entry.log_id();
    seal(Record::Entry(log_id.index), out, |out| {
        // The length goes in front of the id once it is known; a buffer of its own would cost an allocation
        // per entry.
        let start = out.len();
        out.extend_from_slice(&[0; 2]);
        K::encode_log_id(&log_id, out);
        let len = out.len().saturating_sub(start + 2);
        let len = u16::try_from(len).map_err(|_| CodecError::invalid("the log id exceeds 64 KiB"))?;
        if let Some(space) = out.get_mut(start..start + 2) {
            space.copy_from_slice(&len.to_le_bytes());
        }
        K::encode_entry(entry, out)
    })
}

/// The log id and the body of the entry at `index`.
pub(crate) fn split_entry<C: RaftTypeConfig, K: EntryCodec<C>>(
    index: u64,
    bytes: &[u8],
) -> Result<(LogIdOf<C>, &[u8]), RecordError> {
    let mut fields = FieldReader::new(unseal(Record::Entry(index), bytes)?);
    let len = fields.u16()?;
    let log_id = K::decode_log_id(fields.take(len.into())?)?;
    if log_id.index != index {
        let found = log_id.index;
        return Err(CodecError::invalid(format!("it says it is entry {found}")).into());
    }
    Ok((log_id, fields.rest()))
}

/// The entry at `index`.
pub(crate) fn unseal_entry<C: RaftTypeConfig, K: EntryCodec<C>>(
    index: u64,
    bytes: &[u8],
) -> Result<C::Entry, RecordError> {
    let (log_id, body) = split_entry::<C, K>(index, bytes)?;
    let entry = K::decode_entry(log_id, body)?;
    Ok(entry)
}
