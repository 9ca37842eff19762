//! Whether there is room on a disk, found out by using it.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write},
    path::Path,
};

use crate::error::is_full;

/// Bytes written at a time.
const PIECE: usize = 64 << 10;

/// Writes `bytes` to `path` and removes them again.
pub(super) fn has_room(path: &Path, bytes: u64) -> io::Result<bool> {
    let written = fill(path, bytes);
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    match written {
        Ok(()) => removed.map(|()| true),
        Err(error) if is_full(&error) => removed.map(|()| false),
        Err(error) => Err(error),
    }
}

fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let mut file = options.open(path)?;
    // Not zeroes, which some file systems store as a hole.
    let piece = vec![0xa5; PIECE];
    let mut left = bytes;
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let (now, _) = piece.split_at_checked(len).unwrap_or((&piece, &[]));
        file.write_all(now)?;
        left = left.saturating_sub(now.len() as u64);
    }
    // Some file systems find out only then.
    file.sync_data()
}
