//! What must hold at every moment of a run: the properties of the Raft paper, figure 3, as far as nodes show
//! them, and that equal positions in the log mean equal states.

use std::collections::BTreeMap;

use rivven_raft::{NodeId, RaftStatus, Role};

/// What a node says of itself, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The node.
    pub node: NodeId,
    /// Which start of it.
    pub boot: u64,
    /// Its term.
    pub term: u64,
    /// Whether it leads.
    pub leads: bool,
    /// The leader it follows.
    pub leader: Option<NodeId>,
    /// Last index it knows to be committed.
    pub commit: Option<u64>,
    /// Last index it has applied.
    pub applied: Option<u64>,
    /// Last index of its log.
    pub last: Option<u64>,
    /// Last index of its snapshot.
    pub snapshot: Option<u64>,
}

impl Said {
    /// What `status` says in the start `boot` of its node.
    #[must_use]
    pub fn of(boot: u64, status: &RaftStatus) -> Self {
        Self {
            node: status.node_id,
            boot,
            term: status.term,
            leads: status.role == Role::Leader,
            leader: status.leader,
            commit: status.commit_index,
            applied: status.applied_index,
            last: status.last_log_index,
            snapshot: status.snapshot_index,
        }
    }
}

/// Watches what nodes say of themselves, and knows what they must never say.
#[derive(Debug, Default)]
pub struct Invariants {
    /// Who leads each term.
    leaders: BTreeMap<u64, NodeId>,
    /// The state at each index that any node was seen at, and who was seen there first.
    states: BTreeMap<u64, (u128, NodeId)>,
    /// The greatest index committed by the end of each term that was seen.
    committed: BTreeMap<u64, u64>,
    /// What each start of each node said last.
    last: BTreeMap<(NodeId, u64), Said>,
    /// How many things were looked at.
    pub looks: u64,
}

impl Invariants {
    /// Takes what a node says of itself. Gives what is wrong with it.
    pub fn said(&mut self, said: Said) -> Vec<String> {
        self.looks += 1;
        let mut wrong = Vec::from_iter(self.only_forward(said));
        wrong.extend(
            said.leader
                .and_then(|leader| self.one_leader(said.term, leader, said.node)),
        );
        if said.leads {
            wrong.extend(self.one_leader(said.term, said.node, said.node));
            wrong.extend(self.complete_leader(said));
        }
        if let Some(commit) = said.commit {
            let known = self.committed.entry(said.term).or_default();
            *known = commit.max(*known);
        }
        if said.applied > said.commit.max(said.snapshot) {
            wrong.push(format!("applied and not committed: {said:?}"));
        }
        wrong
    }

    /// Election safety: at most one leader can be elected in a given term.
    fn one_leader(&mut self, term: u64, leader: NodeId, says: NodeId) -> Option<String> {
        let known = *self.leaders.entry(term).or_insert(leader);
        (known != leader).then(|| {
            format!("election safety: node {says} says that {leader} leads term {term}, which {known} leads")
        })
    }

    /// Leader completeness: an entry committed in a term is in the logs of the leaders of all later terms.
    fn complete_leader(&self, said: Said) -> Option<String> {
        let committed = self.committed.range(..said.term).map(|(_, index)| *index).max()?;
        (said.last < Some(committed))
            .then(|| format!("leader completeness: {committed} was committed in an earlier term: {said:?}"))
    }

    /// Terms and indexes of one start never go back.
    fn only_forward(&mut self, said: Said) -> Option<String> {
        let before = self.last.insert((said.node, said.boot), said)?;
        let back = said.term < before.term || said.commit < before.commit || said.applied < before.applied;
        back.then(|| format!("going back: from {before:?} to {said:?}"))
    }

    /// State machine safety and log matching: nodes that have applied the same index have applied the same
    /// entries up to there, with the same effect. Holds over restarts, so what is committed never changes.
    pub fn state(&mut self, node: NodeId, index: u64, digest: u128) -> Option<String> {
        self.looks += 1;
        let (known, first) = *self.states.entry(index).or_insert((digest, node));
        (known != digest).then(|| {
            format!(
                "state machine safety: at index {index} node {node} has {digest:032x} where node {first} had \
                 {known:032x}"
            )
        })
    }

    /// How far entries were committed in the terms before `term`, if `node` led it.
    #[must_use]
    pub fn committed_before_led(&self, node: NodeId, term: u64) -> Option<Option<u64>> {
        let led = self.leaders.get(&term) == Some(&node);
        led.then(|| self.committed.range(..term).map(|(_, index)| *index).max())
    }

    /// How many terms had a leader.
    #[must_use]
    pub fn terms(&self) -> usize {
        self.leaders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(node: NodeId, term: u64) -> Said {
        Said {
            node,
            boot: 1,
            term,
            leads: false,
            leader: None,
            commit: Some(10),
            applied: Some(10),
            last: Some(12),
            snapshot: None,
        }
    }

    fn check(said: &[Said], rule: Option<&str>) {
        let mut invariants = Invariants::default();
        let wrong: Vec<String> = said.iter().flat_map(|said| invariants.said(*said)).collect();
        match rule {
            None => assert!(wrong.is_empty(), "{wrong:?}"),
            Some(rule) => assert!(wrong.len() == 1 && wrong[0].starts_with(rule), "{wrong:?}"),
        }
    }

    #[test]
    fn two_leaders_of_a_term_are_wrong_whoever_names_them() {
        let leads = |node, term| Said {
            leads: true,
            leader: Some(node),
            ..said(node, term)
        };
        let follows = |node, leader, term| Said {
            leader: Some(leader),
            ..said(node, term)
        };
        check(&[leads(1, 2), follows(2, 1, 2), leads(2, 3)], None);
        check(&[leads(1, 2), follows(3, 2, 2)], Some("election safety"));
        check(&[follows(1, 1, 2), follows(3, 2, 2)], Some("election safety"));
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_wrong() {
        let short = Said {
            leads: true,
            commit: Some(3),
            applied: Some(3),
            last: Some(9),
            ..said(2, 5)
        };
        check(&[said(1, 4), short], Some("leader completeness"));
        // Entries of its own term or of a later one it need not have yet.
        check(&[said(1, 5), short], None);
        check(
            &[
                said(1, 4),
                Said {
                    last: Some(10),
                    ..short
                },
            ],
            None,
        );
    }

    #[test]
    fn going_back_is_wrong_within_one_start() {
        let behind = Said {
            commit: Some(9),
            applied: Some(9),
            ..said(1, 4)
        };
        check(&[said(1, 4), behind], Some("going back"));
        check(&[said(1, 4), said(1, 3)], Some("going back"));
        check(&[said(1, 4), Said { boot: 2, ..behind }], None);
    }

    #[test]
    fn applying_what_is_not_committed_is_wrong() {
        let early = Said {
            applied: Some(11),
            ..said(1, 4)
        };
        check(&[early], Some("applied and not committed"));
        check(
            &[Said {
                snapshot: Some(11),
                ..early
            }],
            None,
        );
    }

    #[test]
    fn two_states_at_one_index_are_wrong() {
        let mut invariants = Invariants::default();
        assert_eq!(invariants.state(1, 5, 77), None);
        assert_eq!(invariants.state(2, 5, 77), None);
        assert_eq!(invariants.state(2, 6, 78), None);
        assert!(invariants.state(3, 6, 77).is_some());
    }
}
