//! Snapshots as streams of records, each behind its length.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// An error that says what is wrong with a snapshot.
pub(crate) fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(crate) fn write_u64(out: &mut dyn Write, number: u64) -> io::Result<()> {
    out.write_all(&number.to_le_bytes())
}

pub(crate) fn read_u64(input: &mut dyn Read) -> io::Result<u64> {
    let mut number = [0; 8];
    input.read_exact(&mut number)?;
    Ok(u64::from_le_bytes(number))
}

/// Reads the byte that opens a part, which must be `version`.
pub(crate) fn read_version(input: &mut dyn Read, version: u8, what: &str) -> io::Result<()> {
    let mut found = [0];
    input.read_exact(&mut found)?;
    if found == [version] {
        return Ok(());
    }
    Err(invalid(format!(
        "the snapshot of {what} has an unknown version; upgrade this node"
    )))
}

/// Length in 4 bytes, then postcard.
pub(crate) fn write_record<T: Serialize>(out: &mut dyn Write, record: &T) -> io::Result<()> {
    let bytes = postcard::to_allocvec(record).map_err(io::Error::other)?;
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(&bytes)
}

/// Refuses records longer than `max` before anything is allocated for them.
pub(crate) fn read_record<T: DeserializeOwned>(input: &mut dyn Read, max: usize) -> io::Result<T> {
    let mut len = [0; 4];
    input.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > max {
        return Err(invalid(format!(
            "a record of the snapshot has {len} bytes, the limit is {max}"
        )));
    }
    let mut bytes = vec![0; len];
    input.read_exact(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(|error| invalid(error.to_string()))
}
