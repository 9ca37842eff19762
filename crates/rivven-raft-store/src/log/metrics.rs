//! What a log tells the `metrics` facade. The names are listed in the crate's README.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// Handles are taken when the log is opened, so a recorder must be installed before.
pub(super) struct LogMetrics {
    queue_depth: Gauge,
    batch_entries: Histogram,
    batch_bytes: Histogram,
    commit_seconds: Histogram,
    written_bytes: Counter,
    tail_entries: Counter,
    file_entries: Counter,
}

impl LogMetrics {
    pub(super) fn new() -> Self {
        Self {
            queue_depth: gauge!("raft_log_queue_depth"),
            batch_entries: histogram!("raft_log_batch_entries"),
            batch_bytes: histogram!("raft_log_batch_bytes"),
            commit_seconds: histogram!("raft_log_commit_seconds"),
            written_bytes: counter!("raft_log_written_bytes_total"),
            tail_entries: counter!("raft_log_tail_entries_total"),
            file_entries: counter!("raft_log_file_entries_total"),
        }
    }

    /// An operation waits for the owner thread.
    pub(super) fn queued(&self) {
        self.queue_depth.increment(1.0);
    }

    /// The owner thread has taken an operation.
    pub(super) fn dequeued(&self) {
        self.queue_depth.decrement(1.0);
    }

    /// A batch became durable.
    pub(super) fn committed(&self, entries: usize, bytes: usize, took: Duration) {
        self.batch_entries.record(count(entries));
        self.batch_bytes.record(count(bytes));
        self.commit_seconds.record(took.as_secs_f64());
        self.written_bytes.increment(bytes as u64);
    }

    /// Entries were read: from memory, and from the file.
    pub(super) fn read(&self, tail: usize, file: usize) {
        self.tail_entries.increment(tail as u64);
        self.file_entries.increment(file as u64);
    }

    /// The log stopped. Rare, so the handle is taken on the spot.
    pub(super) fn failed(code: &'static str) {
        counter!("raft_log_failures_total", "code" => code).increment(1);
    }
}

/// A gauge takes floating point; what is counted here is far below 2^32.
fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}
