//! A node's status as a snapshot and what changes after it.

use std::collections::BTreeSet;

use futures_util::Stream;
use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

use super::{RaftStatus, RaftWatch, Role};

/// What a watch of a node's status delivers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StatusUpdate {
    /// All there is, first.
    Snapshot(Box<RaftStatus>),
    /// What differs from what was delivered before: at least one change, of each field at most one.
    Changes(Vec<StatusChange>),
}

/// A field of [`RaftStatus`] that has another value now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StatusChange {
    /// See [`RaftStatus::role`].
    Role(Role),
    /// See [`RaftStatus::term`].
    Term(u64),
    /// See [`RaftStatus::leader`].
    Leader(Option<NodeId>),
    /// See [`RaftStatus::commit_index`].
    Committed(Option<u64>),
    /// See [`RaftStatus::applied_index`].
    Applied(Option<u64>),
    /// See [`RaftStatus::last_log_index`].
    LastLog(Option<u64>),
    /// See [`RaftStatus::snapshot_index`].
    Snapshot(Option<u64>),
    /// See [`RaftStatus::voters`] and [`RaftStatus::learners`].
    Members {
        /// Who votes.
        voters: BTreeSet<NodeId>,
        /// Who receives the log without voting.
        learners: BTreeSet<NodeId>,
    },
    /// See [`RaftStatus::initialized`].
    Initialized(bool),
    /// See [`RaftStatus::suspended`].
    Suspended(Option<String>),
    /// See [`RaftStatus::snapshot_failure`].
    SnapshotFailure(Option<String>),
    /// See [`RaftStatus::divergence`].
    Divergence(Option<String>),
    /// See [`RaftStatus::removed`].
    Removed(bool),
    /// See [`RaftStatus::stopped`].
    Stopped(Option<String>),
}

impl RaftStatus {
    /// What makes `before` this status.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Vec<StatusChange> {
        // Without a rest: a field that is added is added here.
        let Self {
            node_id: _,
            role,
            term,
            leader,
            commit_index,
            applied_index,
            last_log_index,
            snapshot_index,
            voters,
            learners,
            initialized,
            suspended,
            snapshot_failure,
            divergence,
            removed,
            stopped,
        } = self.clone();
        let same_members = voters == before.voters && learners == before.learners;
        let members = (!same_members).then_some(StatusChange::Members { voters, learners });
        let changes = [
            (role != before.role).then_some(StatusChange::Role(role)),
            (term != before.term).then_some(StatusChange::Term(term)),
            (leader != before.leader).then_some(StatusChange::Leader(leader)),
            (commit_index != before.commit_index).then_some(StatusChange::Committed(commit_index)),
            (applied_index != before.applied_index).then_some(StatusChange::Applied(applied_index)),
            (last_log_index != before.last_log_index).then_some(StatusChange::LastLog(last_log_index)),
            (snapshot_index != before.snapshot_index).then_some(StatusChange::Snapshot(snapshot_index)),
            members,
            (initialized != before.initialized).then_some(StatusChange::Initialized(initialized)),
            (suspended != before.suspended).then_some(StatusChange::Suspended(suspended)),
            (snapshot_failure != before.snapshot_failure)
                .then_some(StatusChange::SnapshotFailure(snapshot_failure)),
            (divergence != before.divergence).then_some(StatusChange::Divergence(divergence)),
            (removed != before.removed).then_some(StatusChange::Removed(removed)),
            (stopped != before.stopped).then_some(StatusChange::Stopped(stopped)),
        ];
        changes.into_iter().flatten().collect()
    }

    /// Makes the change.
    pub fn apply(&mut self, change: StatusChange) {
        match change {
            StatusChange::Role(role) => self.role = role,
            StatusChange::Term(term) => self.term = term,
            StatusChange::Leader(leader) => self.leader = leader,
            StatusChange::Committed(index) => self.commit_index = index,
            StatusChange::Applied(index) => self.applied_index = index,
            StatusChange::LastLog(index) => self.last_log_index = index,
            StatusChange::Snapshot(index) => self.snapshot_index = index,
            StatusChange::Members { voters, learners } => {
                self.voters = voters;
                self.learners = learners;
            }
            StatusChange::Initialized(initialized) => self.initialized = initialized,
            StatusChange::Suspended(cause) => self.suspended = cause,
            StatusChange::SnapshotFailure(cause) => self.snapshot_failure = cause,
            StatusChange::Divergence(cause) => self.divergence = cause,
            StatusChange::Removed(removed) => self.removed = removed,
            StatusChange::Stopped(cause) => self.stopped = cause,
        }
    }
}

impl RaftWatch {
    /// The status as it is, and from the second call on what has changed in it since. What changes twice between two
    /// calls is delivered once, so a slow reader costs nobody anything.
    ///
    /// A node that has stopped says so, and then nothing more: the future stays pending.
    ///
    /// Cancel safety: a dropped future loses nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use rivven_raft::{Fabric, KvStore, RaftConfig, RaftNode, StatusChange, StatusUpdate};
    ///
    /// let config = RaftConfig {
    ///     node_id: 1,
    ///     peers: vec![],
    ///     election_timeout_ms: 150..300,
    ///     heartbeat_interval_ms: 50,
    /// };
    /// let builder = RaftNode::builder(config).fabric(&Fabric::new());
    /// let node = builder.state_machine(KvStore::new()).start().await?;
    /// let mut watch = node.watch();
    /// let StatusUpdate::Snapshot(mut status) = watch.next().await else { panic!("the first is all there is") };
    /// node.shutdown().await;
    /// while status.stopped.is_none() {
    ///     let StatusUpdate::Changes(changes) = watch.next().await else { panic!("it comes once") };
    ///     changes.into_iter().for_each(|change| status.apply(change));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> StatusUpdate {
        if !self.opened {
            self.opened = true;
            self.last = self.source.status();
            return StatusUpdate::Snapshot(Box::new(self.last.clone()));
        }
        let before = self.last.clone();
        StatusUpdate::Changes(self.changed().await.changes_since(&before))
    }

    /// The updates as a stream, which ends once the node has said that it has stopped.
    pub fn into_stream(self) -> impl Stream<Item = StatusUpdate> {
        futures_util::stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            let update = watch.next().await;
            let rest = watch.last.stopped.is_none().then_some(watch);
            Some((update, rest))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn status()(
            role in prop_oneof![Just(Role::Leader), Just(Role::Follower), Just(Role::Stopped)],
            numbers in any::<[Option<bool>; 5]>(),
            flags in any::<[bool; 2]>(),
            texts in any::<[Option<bool>; 4]>(),
            members in any::<[bool; 2]>(),
        ) -> RaftStatus {
            let number = |at: usize| numbers[at].map(u64::from);
            let text = |at: usize| texts[at].map(|text| text.to_string());
            let set = |at: usize| BTreeSet::from([u64::from(members[at])]);
            RaftStatus {
                node_id: 1,
                role,
                term: number(0).unwrap_or(7),
                leader: number(0),
                commit_index: number(1),
                applied_index: number(2),
                last_log_index: number(3),
                snapshot_index: number(4),
                voters: set(0),
                learners: set(1),
                initialized: flags[0],
                suspended: text(0),
                snapshot_failure: text(1),
                divergence: text(2),
                removed: flags[1],
                stopped: text(3),
            }
        }
    }

    proptest! {
        #[test]
        fn changes_make_one_status_of_another(before in status(), after in status()) {
            let changes = after.changes_since(&before);
            prop_assert_eq!(changes.is_empty(), before == after);
            let mut made = before;
            changes.into_iter().for_each(|change| made.apply(change));
            prop_assert_eq!(made, after);
        }
    }
}
