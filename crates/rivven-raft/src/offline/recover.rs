//! A group whose quorum is lost for good goes on with what one survivor has.

use openraft::{EntryPayload, entry::RaftEntry, storage::RaftLogStorage};
use rivven_raft_store::{
    LogOptions, LogReport, NodeDir, RedbLogStore, SnapshotError, SnapshotStore, WriterMode, verify_each,
};
use rivven_types::{ClusterId, InstanceId, NodeId};

use super::{LogPlace, MemberPlace, OfflineError, Sole, append_refounding, report::members, voters};
use crate::{
    Refounding, RefoundingCause,
    codec::LogCodec,
    types::{LogEntry, LogId, StoredMembership, TypeConfig, term_of},
};

/// What a survivor has, and what a recovery would make of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryPlan {
    /// The cluster.
    pub cluster: ClusterId,
    /// The survivor.
    pub node: NodeId,
    /// Its data directory.
    pub instance: InstanceId,
    /// The last entry that it has. Of several survivors recover the one whose last entry has the highest term,
    /// and among those of one term the highest index: it lacks least.
    pub last: LogPlace,
    /// The last entry that it knows to be committed. What follows is kept all the same, since it may be.
    pub committed: Option<LogPlace>,
    /// The highest term that it has voted or heard in.
    pub term: u64,
    /// Who belongs to the group, by its own log.
    pub members: Vec<MemberPlace>,
}

impl RecoveryPlan {
    /// Who votes, by the survivor's own log.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> {
        self.members
            .iter()
            .filter(|member| member.votes)
            .map(|member| member.node)
    }

    /// Every other member: whatever comes back of them is shut out.
    pub fn lost(&self) -> impl Iterator<Item = &MemberPlace> {
        self.members.iter().filter(|member| member.node != self.node)
    }

    /// How many entries are kept that are not known to be committed.
    #[must_use]
    pub fn uncertain(&self) -> u64 {
        let committed = self.committed.map_or(0, |place| place.index);
        self.last.index.saturating_sub(committed)
    }
}

/// Everything that a decision is based on.
struct Survey {
    log: LogReport<TypeConfig>,
    /// The newest membership in the log, or else in the snapshot.
    membership: StoredMembership,
    /// Up to where the newest snapshot reaches.
    snapshot: Option<LogId>,
}

/// Says what a recovery of the node in `dir` would do. Changes nothing. Blocks.
///
/// # Errors
/// It cannot be done; see [`OfflineError`].
pub fn plan_recovery(dir: &NodeDir) -> Result<RecoveryPlan, OfflineError> {
    decide(dir, &survey(dir)?)
}

/// Gives up every member but the node in `dir`, and makes its log the truth. For when a majority of the voters is
/// lost **for good**: whatever was committed without this node is lost with them.
///
/// The whole log is kept, whether committed or not. The node leads alone once it is started; every other member
/// is shut out by its data directory, and joins again under any id with an empty one. Numbers that serve as names
/// or fencing tokens jump ([`REFOUNDING_GAP`](crate::REFOUNDING_GAP)). What was done stands in the replicated
/// state ([`RaftNode::refoundings`](crate::RaftNode::refoundings)). Written in one transaction: interrupted, it
/// was done or not. Blocks.
///
/// # Errors
/// Nothing was changed; see [`OfflineError`].
pub async fn recover(dir: &NodeDir, at_ms: u64) -> Result<Refounding, OfflineError> {
    let survey = survey(dir)?;
    let plan = decide(dir, &survey)?;
    let record = Refounding {
        cause: RefoundingCause::Recovered,
        at_ms,
        node: plan.node,
        instance: plan.instance,
        cluster: plan.cluster,
        voters: plan.voters().collect(),
        last_term: plan.last.term,
        last_index: plan.last.index,
    };
    let own = plan.members.iter().find(|member| member.node == plan.node);
    let own = own.ok_or(OfflineError::NoMember { node: plan.node })?;
    let sole = Sole {
        node: plan.node,
        instance: plan.instance,
        addr: own.addr.clone(),
    };
    let options = LogOptions {
        writer: WriterMode::Inline,
        ..LogOptions::default()
    };
    let mut log: RedbLogStore<TypeConfig, LogCodec> = dir.open_log(options)?;
    let last = crate::types::log_id(plan.last.term, plan.last.index);
    let appended = async {
        // A snapshot that arrived, and outran the log.
        if survey.log.last < Some(last) && survey.log.purged < Some(last) {
            log.purge(last).await?;
        }
        let at = (last, plan.term);
        append_refounding(&mut log, at, sole, &survey.membership, record.clone()).await
    };
    appended.await.map_err(|source| SnapshotError::Io {
        path: dir.log_path(),
        source,
    })?;
    tracing::warn!(
        cluster = %record.cluster,
        node_id = record.node,
        instance = %record.instance,
        voters = ?record.voters,
        last_term = record.last_term,
        last_index = record.last_index,
        at_ms,
        "the quorum was given up: this node's log is the truth from here on"
    );
    Ok(record)
}

fn survey(dir: &NodeDir) -> Result<Survey, OfflineError> {
    let newest = SnapshotStore::<TypeConfig, LogCodec>::newest(dir.snapshots_path(), dir.cluster())?;
    let meta = newest.map(|snapshot| snapshot.meta().clone()).unwrap_or_default();
    let mut membership = meta.last_membership;
    let log = verify_each::<TypeConfig, LogCodec>(dir.log_path(), |entry: &LogEntry| {
        // A snapshot may have outrun the log.
        if let EntryPayload::Membership(newer) = &entry.payload
            && membership.log_id().as_ref() < Some(&entry.log_id())
        {
            membership = StoredMembership::new(Some(entry.log_id()), newer.clone());
        }
    })?;
    Ok(Survey {
        log,
        membership,
        snapshot: meta.last_log_id,
    })
}

/// What a recovery would do, or why it cannot be done.
fn decide(dir: &NodeDir, survey: &Survey) -> Result<RecoveryPlan, OfflineError> {
    let Survey {
        log,
        membership,
        snapshot,
    } = survey;
    let node = dir.node();
    if let Some(purged) = log
        .purged
        .filter(|purged| snapshot.map(|id| id.index) < Some(purged.index))
    {
        return Err(OfflineError::NoState {
            path: dir.path().to_path_buf(),
            purged: purged.index,
        });
    }
    let last = log.last.max(log.purged).max(*snapshot);
    let members = members(membership);
    let (Some(last), true) = (last, members.iter().any(|member| member.node == node)) else {
        return Err(OfflineError::NoMember { node });
    };
    if voters(membership).into_iter().eq([node]) {
        return Err(OfflineError::NotNeeded { node });
    }
    let committed = log.committed.max(*snapshot);
    Ok(RecoveryPlan {
        cluster: dir.cluster(),
        node,
        instance: dir.instance(),
        last: LogPlace::of(&last),
        committed: committed.as_ref().map(LogPlace::of),
        term: log
            .vote
            .as_ref()
            .map_or(0, |vote| vote.leader_id().term)
            .max(term_of(&last)),
        members,
    })
}
