//! Settings of a log: sizes, bounds, whose log it is, and who writes it.

use std::{fmt, time::Duration};

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
    /// Operations that may be under way: waiting for the owner thread, or written and not answered yet.
    /// Default 4,096; beyond that callers wait.
    pub queue_len: usize,
    /// Bytes that may be under way. Default 64 MiB; beyond that callers wait. An operation counts with at
    /// least `queue_bytes / queue_len`.
    pub queue_bytes: usize,
    /// A transaction takes no further operation once it has this many bytes. Default 1 MiB. Larger shares
    /// an fsync among more entries, but lets the first of them wait for longer.
    pub batch_bytes: usize,
    /// A transaction takes no further operation once it has this many entries. Default 4,096.
    pub batch_entries: usize,
    /// A committed id that no other operation has taken along is written by itself, with a sync of its own,
    /// once the log has been quiet for this long. Default 1 s. Shorter costs syncs on a quiet node; longer
    /// makes a node that lost power know less of what was committed, which the leader tells it anyway.
    /// Without effect with [`WriterMode::Inline`], where it is written at the end.
    pub committed_flush: Duration,
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
            queue_len: 4096,
            queue_bytes: 64 << 20,
            batch_bytes: 1 << 20,
            batch_entries: 4096,
            committed_flush: Duration::from_secs(1),
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
