//! Opening a long log again, and the memory that writing it took.

use std::fs;

use anyhow::Result;
use rivven_raft_store::openraft::storage::RaftLogStorage as _;
use tokio::time::Instant;

use super::{
    Bench,
    log::{Store, append, entries, options},
};
use crate::bench::usage;

/// Entries of one append.
const BATCH: usize = 1024;

impl Bench {
    /// A log of a million entries: what memory it takes, and how long opening it does.
    pub(super) async fn reopen(&mut self) -> Result<()> {
        let total: u64 = if self.quick { 100_000 } else { 1_000_000 };
        let case = format!("{total} entries");
        if !case.contains(&self.case) {
            return Ok(());
        }
        println!("\na log of {total} entries; an open verifies every page");
        let path = self.path();
        let mut store = Store::open(&path, options())?;
        let resident = || usage::resident_bytes().unwrap_or_default();
        let before = resident();
        let (mut tenth, mut whole) = (0, 0);
        for start in (0..total).step_by(BATCH) {
            append(&mut store, entries(start..total.min(start + BATCH as u64))).await?;
            whole = resident().saturating_sub(before);
            if start <= total / 10 {
                tenth = whole;
            }
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let at_tenth = [("at a tenth of them", mib(tenth))];
        self.report
            .add(case.as_str(), "memory", (mib(whole), "MiB"), &at_tenth);
        // What a killed process leaves: redb repairs it first.
        let killed = self.path();
        fs::copy(&path, &killed)?;
        drop(store);
        for (metric, path) in [("reopen", &path), ("reopen killed", &killed)] {
            let begin = Instant::now();
            let mut store = Store::open(path, options())?;
            let took = begin.elapsed().as_secs_f64();
            let last = store.get_log_state().await?.last_log_id.map(|id| id.index);
            anyhow::ensure!(
                last == Some(total - 1),
                "entries are missing: the last is {last:?}"
            );
            self.report.add(case.as_str(), metric, (took, "s"), &[]);
        }
        Ok(())
    }
}
