//! Settings of a log: sizes, bounds, whose log it is, and who writes it.

use std::fmt;

use rivven_types::{ClusterId, InstanceId, NodeId};

/// Settings of a [`RedbLogStore`](crate::RedbLogStore). The defaults suit a control plane.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Memory for pages of the file, in bytes. Default 16 MiB, sane from 1 MiB to 256 MiB: a purged log is
    /// small, and what is read often is in the tail.
    pub cache_bytes: usize,
    /// Newest entries kept in memory for readers, in encoded bytes. Default 8 MiB. Followers that lag by
    /// more than this are served from the file. Entries not yet durable are kept in any case.
    pub tail_bytes: usize,
    /// Operations that may wait for the owner thread. Default 1,024; beyond that callers wait.
    pub queue_len: usize,
    /// Bytes that may wait for the owner thread. Default 64 MiB; beyond that callers wait.
    pub queue_bytes: usize,
    /// A transaction takes no further operation once it has this many bytes. Default 1 MiB. Larger shares
    /// an fsync among more entries, but lets the first of them wait for longer.
    pub batch_bytes: usize,
    /// A transaction takes no further operation once it has this many entries. Default 4,096.
    pub batch_entries: usize,
    /// Largest encoded entry. Default 8 MiB. An append with a larger one is refused as a whole.
    pub max_entry_bytes: usize,
    /// Whose log it is: written into a new log, compared with what stands in an old one. Default: anybody's.
    pub owner: Option<LogOwner>,
    /// Who writes. Default: a thread of the store's own.
    pub writer: WriterMode,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            tail_bytes: 8 << 20,
            queue_len: 1024,
            queue_bytes: 64 << 20,
            batch_bytes: 1 << 20,
            batch_entries: 4096,
            max_entry_bytes: 8 << 20,
            owner: None,
            writer: WriterMode::default(),
        }
    }
}

/// Who executes the operations of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriterMode {
    /// A thread named `rivven-raft-log`, started by the store and joined when it is dropped.
    #[default]
    Thread,
    /// The caller, before its call returns: deterministic and without group commit. For simulation, and for
    /// every test with tokio's clock paused, which runs ahead while only a thread is at work.
    Inline,
}

/// The node that a log belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOwner {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number in the cluster.
    pub node: NodeId,
    /// Its data directory.
    pub instance: InstanceId,
}

impl fmt::Display for LogOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster,
            node,
            instance,
        } = self;
        write!(f, "node {node} of cluster {cluster}, instance {instance}")
    }
}
