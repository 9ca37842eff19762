//! Where a node keeps its log: in a file, or on the disk of a simulation.

use std::{io, sync::Arc};

use rivven_raft_store::{LogOptions, NodeDir, RedbLogStore, SimulatedDisk, StoreError, WriterMode};
use rivven_transport::TaskGroup;

use crate::{codec::LogCodec, types::TypeConfig};

/// Where the log of a durable node is, and who writes it.
#[derive(Clone)]
pub(crate) struct LogDisk {
    pub(crate) dir: Arc<NodeDir>,
    pub(crate) writer: WriterMode,
    pub(crate) simulated: Option<SimulatedDisk>,
}

impl LogDisk {
    /// The directory refuses to begin a second log: a node that forgot its vote could elect a second leader.
    pub(crate) fn open_log(
        &self,
        group: &TaskGroup,
    ) -> Result<RedbLogStore<TypeConfig, LogCodec>, StoreError> {
        let options = LogOptions {
            writer: self.writer,
            ..LogOptions::default()
        };
        let Some(disk) = &self.simulated else {
            return self.dir.open_log(options);
        };
        let (log, owner) = self.dir.open_simulated_log(disk, options)?;
        drop(group.spawn(owner));
        Ok(log)
    }

    /// Whether this many bytes can be written. Blocks.
    pub(crate) fn has_room(&self, bytes: u64) -> io::Result<bool> {
        match &self.simulated {
            Some(disk) => Ok(disk.has_room()),
            None => self.dir.has_room(bytes),
        }
    }
}
