//! `rivven-node check`: whether everything that a stopped node has stored is whole.

use std::path::Path;

use rivven_cluster::offline::{self, DirCheck};

use super::{Failure, LogFormat, Output, log};

pub(super) fn run(data_dir: &Path, out: &mut Output) -> Result<(), Failure> {
    log::start(LogFormat::Text)?;
    let DirCheck { log, snapshot, .. } = offline::check(data_dir)?;
    out.line(format_args!(
        "log       {} bytes, {} entries, all checked; term {}",
        log.bytes, log.entries, log.term
    ));
    for (name, place) in [
        ("first", log.first),
        ("last", log.last),
        ("committed", log.committed),
    ] {
        match place {
            Some(place) => out.line(format_args!("{name:<9} {place}")),
            None => out.line(format_args!("{name:<9} none")),
        }
    }
    match &snapshot {
        Some(snapshot) => out.line(format_args!(
            "snapshot  {} bytes, CRC32C {:08x}, all checked; up to {}",
            snapshot.bytes, snapshot.crc32c, snapshot.last
        )),
        None => out.line("snapshot  none, and none is needed"),
    }
    out.line("the node can be started");
    Ok(())
}
