//! When the next snapshot is due: by what the log has grown since the last one.

use tokio::sync::watch;

/// Bytes by which the log grows before the next snapshot, however small the last one was.
const MIN_GROWTH_BYTES: u64 = 8 << 20;

/// The most bytes by which it grows, however large that was, unless the application says otherwise.
pub(crate) const DEFAULT_MAX_GROWTH_BYTES: u64 = 256 << 20;

/// Counted for each entry beside its command: its id, its place in a page.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// When snapshots are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotRule {
    /// After so many entries.
    Entries(u64),
    /// Once the log has grown by as many bytes as the last snapshot has, and at most by this many. So writing
    /// snapshots costs no more than writing the log does, unless the state is larger than that.
    Growth { most: u64 },
}

/// How much was applied that no snapshot of this node covers.
///
/// It outlives cores, so it knows only what is so and nothing of who was told: what is due stays due until a snapshot
/// is kept, however many cores end before one is.
#[derive(Debug)]
pub(crate) struct Growth {
    rule: SnapshotRule,
    /// Announced when a snapshot becomes due.
    counts: watch::Sender<Counts>,
}

/// Bytes of log applied so far, for a snapshot to say what it covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reach(u64);

#[derive(Debug, Default)]
struct Counts {
    applied: Reach,
    /// Of that, what the snapshots kept cover.
    covered: Reach,
    /// Bytes of the last snapshot.
    last: u64,
}

impl Counts {
    fn due(&self, rule: SnapshotRule) -> bool {
        match rule {
            SnapshotRule::Entries(_) => false,
            SnapshotRule::Growth { most } => {
                self.applied.0.saturating_sub(self.covered.0) >= bound(self.last, most)
            }
        }
    }

    fn kept(&mut self, upto: Reach, bytes: u64) {
        // The one that reaches further counts, in whatever order they come.
        if upto >= self.covered {
            (self.covered, self.last) = (upto, bytes);
        }
    }
}

impl Growth {
    pub(crate) fn new(rule: SnapshotRule) -> Self {
        Self {
            rule,
            counts: watch::Sender::default(),
        }
    }

    /// So many entries were applied, with commands of so many bytes.
    pub(crate) fn add(&self, entries: usize, bytes: usize) {
        let entries = u64::try_from(entries).unwrap_or(u64::MAX);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let added = bytes.saturating_add(entries.saturating_mul(ENTRY_OVERHEAD_BYTES));
        self.counts.send_if_modified(|counts| {
            let before = counts.due(self.rule);
            counts.applied.0 = counts.applied.0.saturating_add(added);
            !before && counts.due(self.rule)
        });
    }

    /// What a snapshot that is taken of the state now covers.
    pub(crate) fn reach(&self) -> Reach {
        self.counts.borrow().applied
    }

    /// A snapshot of so many bytes was kept, which covers what was applied `upto` there.
    pub(crate) fn kept(&self, upto: Reach, bytes: u64) {
        // Nobody waits for a snapshot not to be due.
        self.counts.send_if_modified(|counts| {
            counts.kept(upto, bytes);
            false
        });
    }

    /// The state comes from a snapshot of so many bytes.
    pub(crate) fn restored(&self, bytes: u64) {
        self.kept(self.reach(), bytes);
    }

    /// Resolves while a snapshot is due.
    ///
    /// Cancel safe.
    pub(crate) async fn due(&self) {
        let mut counts = self.counts.subscribe();
        // The sender lives as long as this borrow.
        let _ = counts.wait_for(|counts| counts.due(self.rule)).await;
    }
}

/// Growth of the log after which the next snapshot is due.
fn bound(last: u64, most: u64) -> u64 {
    last.min(most).max(MIN_GROWTH_BYTES)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    fn is_due(growth: &Growth) -> bool {
        growth.due().now_or_never().is_some()
    }

    #[test]
    fn a_snapshot_is_due_when_the_log_has_grown_by_as_much_as_the_last_one_has() {
        let most = 100 << 20;
        for (last, growth) in [
            (0, 8 << 20),
            (9 << 20, 9 << 20),
            (1 << 30, most),
            (u64::MAX, most),
        ] {
            assert_eq!(bound(last, most), growth, "{last}");
        }
        assert_eq!(bound(1 << 30, 1), MIN_GROWTH_BYTES);
    }

    fn by_growth() -> Growth {
        Growth::new(SnapshotRule::Growth {
            most: DEFAULT_MAX_GROWTH_BYTES,
        })
    }

    #[test]
    fn the_count_begins_anew_with_what_a_snapshot_that_was_kept_covers() {
        let growth = by_growth();
        growth.add(1, (8 << 20) - 65);
        assert!(!is_due(&growth));
        growth.add(0, 1);
        assert!(is_due(&growth));
        let first = growth.reach();
        // While it is written, the log goes on growing.
        growth.add(0, 15 << 20);
        growth.kept(first, 20 << 20);
        assert!(!is_due(&growth));
        growth.add(0, 5 << 20);
        assert!(is_due(&growth));
        growth.restored(8 << 20);
        growth.add(0, 8 << 20);
        assert!(is_due(&growth));
        growth.kept(first, 1);
        assert!(
            is_due(&growth),
            "an older one, which took longer, covers nothing more"
        );
    }

    #[test]
    fn what_is_due_stays_due_for_the_next_core_until_a_snapshot_is_kept() {
        let growth = by_growth();
        growth.add(0, 8 << 20);
        assert!(is_due(&growth));
        assert!(is_due(&growth), "the core that was asked has ended");
        let taken = growth.reach();
        assert!(is_due(&growth), "the next one has ended while it wrote");
        growth.kept(taken, 1);
        assert!(!is_due(&growth));
    }

    #[tokio::test]
    async fn whoever_waits_is_told_when_a_snapshot_becomes_due() {
        let growth = by_growth();
        let mut waits = pin!(growth.due());
        growth.add(0, (8 << 20) - 1);
        assert!(waits.as_mut().now_or_never().is_none());
        growth.add(0, 1);
        waits.await;
    }

    #[test]
    fn a_rule_by_entries_is_left_to_the_core() {
        let growth = Growth::new(SnapshotRule::Entries(1));
        growth.add(usize::MAX, usize::MAX);
        assert!(!is_due(&growth));
    }
}
