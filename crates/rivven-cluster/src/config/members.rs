//! What the configuration says of who votes and who leads.

use std::{ops::RangeInclusive, time::Duration};

use rivven_raft::{MAX_PRIORITY, Replace};

use super::{ClusterConfig, ConfigError, RaftSection, validate::Check};

/// More voters than 9 only make every write wait for more disks.
const VOTER_TARGET: RangeInclusive<u64> = 1..=9;

/// Votes that move because of a pause are moved for nothing; after a week nobody waits.
const REPLACE_AFTER_MS: RangeInclusive<u64> = 1_000..=604_800_000;

const PRIORITY: RangeInclusive<u64> = 0..=MAX_PRIORITY as u64;

/// Below a second leadership could be passed to and fro; breaks are remembered for an hour.
const PRIORITY_HOLD_MS: RangeInclusive<u64> = 1_000..=3_600_000;

/// Whoever wants to wait longer than a month finalises by hand.
const AUTO_FINALIZE_AFTER_MS: RangeInclusive<u64> = 0..=2_592_000_000;

/// How many nodes vote when the file says nothing (design section 5).
const DEFAULT_VOTER_TARGET: u32 = 5;

/// How long a voter may be silent when the file says nothing.
const DEFAULT_REPLACE_AFTER_MS: u64 = 600_000;

/// How long a voter of higher priority has to have lived when the file says nothing.
const DEFAULT_PRIORITY_HOLD_MS: u64 = 30_000;

/// Who votes and who leads, and what they agree on by themselves, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MembersConfig {
    pub(crate) voter_target: usize,
    pub(crate) voter_replace_after: Duration,
    pub(crate) priority: u16,
    pub(crate) priority_hold: Duration,
    pub(crate) replace: Replace,
    pub(crate) auto_finalize_after: Option<Duration>,
}

/// Fills in what the file leaves out.
pub(super) fn fill(raft: &mut RaftSection) {
    raft.voter_target.get_or_insert(DEFAULT_VOTER_TARGET);
    raft.voter_replace_after_ms
        .get_or_insert(DEFAULT_REPLACE_AFTER_MS);
    raft.priority_hold_ms.get_or_insert(DEFAULT_PRIORITY_HOLD_MS);
}

/// Checks what has been filled in.
pub(super) fn check(check: &Check<'_>, full: &ClusterConfig) -> Result<MembersConfig, ConfigError> {
    let raft = &full.raft;
    let target = raft.voter_target.unwrap_or_default();
    let after = raft.voter_replace_after_ms.unwrap_or_default();
    let hold = raft.priority_hold_ms.unwrap_or_default();
    check.range("cluster.raft.voter_target", target.into(), VOTER_TARGET)?;
    check.range("cluster.raft.voter_replace_after_ms", after, REPLACE_AFTER_MS)?;
    check.range("cluster.raft.priority", raft.priority.into(), PRIORITY)?;
    check.range("cluster.raft.priority_hold_ms", hold, PRIORITY_HOLD_MS)?;
    if let Some(after) = raft.auto_finalize_after_ms {
        check.range(
            "cluster.raft.auto_finalize_after_ms",
            after,
            AUTO_FINALIZE_AFTER_MS,
        )?;
    }
    Ok(MembersConfig {
        voter_target: usize::try_from(target).unwrap_or(usize::MAX),
        voter_replace_after: Duration::from_millis(after),
        priority: raft.priority,
        priority_hold: Duration::from_millis(hold),
        replace: raft.replace,
        auto_finalize_after: raft.auto_finalize_after_ms.map(Duration::from_millis),
    })
}
