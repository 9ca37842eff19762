//! Random commands, sensible and not: no invariant breaks, refusals change nothing, epochs only grow.

use std::{cell::Cell, collections::BTreeMap};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};
use rivven_types::{BootEpoch, InstanceId};

use crate::{
    Applied, InSyncReport, LeaderEpoch, MovePhase, NodeStatus, Partition, PartitionChange, PartitionCommand,
    PartitionEpoch, PartitionResponse, PartitionState, PlannedMove, RebalanceCommand, Start, Step, TopicId,
    UncleanElection, testing::registration,
};

/// A command whose numbers fit a small cluster now and then.
fn command() -> impl Strategy<Value = PartitionCommand> {
    use PartitionCommand as C;
    let node = || 1..6u64;
    let name = || select(vec!["a", "b", "c", "not a name"]).prop_map(String::from);
    let status = select(vec![
        NodeStatus::Joining,
        NodeStatus::Active,
        NodeStatus::Draining,
        NodeStatus::Down,
        NodeStatus::Removed,
    ]);
    let boot_epoch = || (1..3u64).prop_map(BootEpoch);
    let nodes = || vec(node(), 0..4);
    prop_oneof![
        2 => (node(), boot_epoch(), any::<bool>()).prop_map(|(node, boot_epoch, new_disk)| {
            let mut registration = registration(node, boot_epoch.0, None);
            if new_disk {
                registration.instance = InstanceId::from_random([77; 16]);
            }
            C::RegisterNode(registration)
        }),
        2 => (node(), boot_epoch(), status, 0..100u64).prop_map(|(node, boot_epoch, status, at_ms)| {
            C::SetNodeStatus {
                node,
                boot_epoch,
                status,
                at_ms,
            }
        }),
        1 => (name(), 0..4u16, any::<bool>(), vec(nodes(), 0..3)).prop_map(
            |(name, replication_factor, allow_fewer_replicas, assignment)| C::CreateTopic {
                name,
                replication_factor,
                allow_fewer_replicas,
                settings: BTreeMap::new(),
                assignment,
            }
        ),
        2 => (name(), vec(subsequence(vec![1, 2, 3], 1..=3).prop_shuffle(), 1..4)).prop_map(
            |(name, assignment)| C::CreateTopic {
                name,
                replication_factor: 3,
                allow_fewer_replicas: true,
                settings: BTreeMap::from([("min-in-sync-replicas".into(), "2".into())]),
                assignment,
            }
        ),
        1 => name().prop_map(|name| C::DeleteTopic { name }),
        12 => vec(change(), 1..3).prop_map(|changes| {
            let starts = Vec::new();
            C::ChangePartitions { starts, changes }
        }),
        12 => upkeep(),
    ]
}

/// A command about topics that exist, or about leaders.
fn upkeep() -> impl Strategy<Value = PartitionCommand> {
    use PartitionCommand as C;
    let node = || 1..6u64;
    let nodes = || vec(node(), 0..4);
    prop_oneof![
        1 => (node(), option::of(0..200u16)).prop_map(|(node, weight)| C::SetNodeWeight { node, weight }),
        1 => (topic(), 0..4u32, vec(nodes(), 1..3)).prop_map(|(topic, first, assignment)| {
            C::AddPartitions { topic, first, assignment }
        }),
        1 => (topic(), 0..5u16).prop_map(|(topic, replication_factor)| {
            C::SetReplicationFactor { topic, replication_factor }
        }),
        1 => (option::of(topic()), option::of(0..4u8)).prop_map(|(topic, value)| {
            let value = value.map(|value| value.to_string());
            let changes = BTreeMap::from([("min-in-sync-replicas".into(), value)]);
            C::Configure { topic, changes }
        }),
        4 => rebalance().prop_map(C::Rebalance),
        2 => (node(), topic(), 0..3u32).prop_map(|(node, topic, partition)| {
            C::Release {
                leader: registration(node, 1, None).start(),
                released: vec![(topic, partition, LeaderEpoch(1))],
            }
        }),
        2 => (node(), topic(), 0..3u32).prop_map(|(node, topic, partition)| {
            let report = InSyncReport {
                topic,
                partition,
                leader_epoch: LeaderEpoch(1),
                partition_epoch: PartitionEpoch(1),
                in_sync: vec![node],
            };
            let leader = registration(node, 1, None).start();
            C::ReportInSync { leader, starts: Vec::new(), reports: vec![report] }
        }),
        1 => (node(), topic(), 0..3u32).prop_map(|(node, topic, partition)| {
            C::ElectUnclean(UncleanElection {
                topic,
                partition,
                partition_epoch: PartitionEpoch(1),
                leader: registration(node, 1, None).start(),
                at_ms: 3,
                reason: "a test".into(),
            })
        }),
    ]
}

fn topic() -> impl Strategy<Value = TopicId> {
    (0..4u64).prop_map(TopicId)
}

fn rebalance() -> impl Strategy<Value = RebalanceCommand> {
    use RebalanceCommand as R;
    let moves = || {
        let target = subsequence(vec![1, 2, 3, 4, 5], 1..4).prop_shuffle();
        let planned = (topic(), 0..3u32, target);
        let planned = planned.prop_map(|(topic, partition, target)| PlannedMove {
            topic,
            partition,
            target,
        });
        vec(planned, 1..3)
    };
    prop_oneof![
        4 => (moves(), any::<bool>()).prop_map(|(moves, more)| {
            let (against, at_ms) = (0, 5);
            R::Begin { against, at_ms, moves, more }
        }),
        1 => (moves(), any::<bool>()).prop_map(|(moves, more)| R::Fill { id: 0, moves, more }),
        1 => Just(R::Pause { id: 0 }),
        1 => Just(R::Resume { id: 0 }),
        1 => Just(R::Cancel { id: 0 }),
        2 => Just(R::End { id: 0 }),
    ]
}

fn change() -> impl Strategy<Value = PartitionChange> {
    let epochs = (0..4u64, 0..4u64);
    let nodes = (vec(1..5u64, 1..5), option::of(1..6u64));
    let target = subsequence(vec![1, 2, 3, 4, 5], 1..4).prop_shuffle();
    let step = prop_oneof![
        3 => Just(Step::Stay),
        3 => target.prop_map(Step::Begin),
        3 => Just(Step::Finish),
        1 => Just(Step::Revert),
        1 => Just(Step::Forget),
        2 => (1..4u64).prop_map(|to| Step::HandOver { to, at_ms: 4 }),
    ];
    (0..4u64, 0..3u32, epochs, nodes, step).prop_map(|(topic, partition, epochs, (in_sync, leader), step)| {
        PartitionChange {
            topic: TopicId(topic),
            partition,
            leader_epoch: LeaderEpoch(epochs.0),
            partition_epoch: PartitionEpoch(epochs.1),
            in_sync,
            leader,
            step,
        }
    })
}

/// A partition that exists, found by numbers that may not fit any.
fn some_partition(
    state: &PartitionState,
    (topic, partition): (TopicId, u32),
) -> Option<(TopicId, u32, Partition<'_>)> {
    let count = state.map().topic_count();
    let topic = state
        .map()
        .topics()
        .nth(usize::try_from(topic.0).unwrap() % count.max(1))?;
    let number = partition % topic.partition_count();
    Some((topic.id, number, topic.partition(number).unwrap()))
}

/// Makes a random change one that fits the epochs and the replicas, so that many are accepted.
fn fit(state: &PartitionState, mut change: PartitionChange) -> PartitionChange {
    let Some((topic, number, partition)) = some_partition(state, (change.topic, change.partition)) else {
        return change;
    };
    (change.topic, change.partition) = (topic, number);
    change.leader_epoch = partition.leader_epoch();
    change.partition_epoch = partition.partition_epoch();
    let active = matches!(
        partition.move_phase(),
        Some(MovePhase::Adding | MovePhase::Undoing)
    );
    match (&mut change.step, partition.move_phase()) {
        (step @ Step::Begin(_), Some(MovePhase::Queued)) => *step = Step::Begin(partition.target().collect()),
        (Step::Begin(_), _) if active => change.step = Step::Finish,
        _ => {}
    }
    let replicas: Vec<u64> = match change.step {
        Step::Finish => partition.target().collect(),
        Step::Revert => {
            let adding: Vec<u64> = partition.adding().collect();
            partition
                .replicas()
                .filter(|node| !adding.contains(node))
                .collect()
        }
        Step::HandOver { .. } | Step::Begin(_) | Step::Forget => partition.in_sync().collect(),
        Step::Stay => partition
            .replicas()
            .filter(|node| change.in_sync.contains(node))
            .collect(),
    };
    change.in_sync = replicas;
    change.leader = match change.step {
        Step::HandOver { .. } | Step::Begin(_) | Step::Forget => partition.leader(),
        Step::Stay | Step::Finish | Step::Revert => change.leader.and(change.in_sync.first().copied()),
    };
    if let Step::HandOver { to, .. } = &mut change.step {
        *to = change
            .in_sync
            .iter()
            .copied()
            .find(|node| Some(*node) != change.leader)
            .unwrap_or(0);
    }
    change
}

/// The starts of all nodes that were not removed.
fn starts(state: &PartitionState) -> Vec<Start> {
    let nodes = state
        .map()
        .nodes()
        .filter(|node| node.status != NodeStatus::Removed);
    nodes.map(|node| node.registration.start()).collect()
}

/// Makes a random command one that is likely to be accepted.
fn fit_command(state: &PartitionState, command: &mut PartitionCommand) {
    match command {
        PartitionCommand::ChangePartitions {
            starts: named,
            changes,
        } => {
            *named = starts(state);
            *changes = changes.drain(..).map(|change| fit(state, change)).collect();
            changes.sort_by_key(|change| (change.topic, change.partition));
        }
        PartitionCommand::Rebalance(command) => fit_rebalance(state, command),
        PartitionCommand::Release { leader, released } => {
            let (topic, partition, _) = released[0];
            if let Some((topic, number, partition)) = some_partition(state, (topic, partition)) {
                released[0] = (topic, number, partition.leader_epoch());
                *leader = partition.leader_start().unwrap_or(*leader);
            }
        }
        PartitionCommand::ReportInSync {
            leader,
            starts: named,
            reports,
        } => {
            let at = (reports[0].topic, reports[0].partition);
            if let Some((topic, number, partition)) = some_partition(state, at) {
                *named = starts(state);
                *leader = partition.leader_start().unwrap_or(*leader);
                reports[0] = InSyncReport {
                    topic,
                    partition: number,
                    leader_epoch: partition.leader_epoch(),
                    partition_epoch: partition.partition_epoch(),
                    in_sync: partition.replicas().collect(),
                };
            }
        }
        PartitionCommand::ElectUnclean(election) => {
            if let Some((topic, number, partition)) =
                some_partition(state, (election.topic, election.partition))
            {
                election.topic = topic;
                election.partition = number;
                election.partition_epoch = partition.partition_epoch();
                let last = partition.replicas().last().unwrap();
                election.leader = state.map().node(last).unwrap().registration.start();
            }
        }
        _ => {}
    }
}

fn fit_rebalance(state: &PartitionState, command: &mut RebalanceCommand) {
    let running = state.map().rebalance().map_or(0, |running| running.id);
    match command {
        RebalanceCommand::Begin { against, moves, .. } => {
            *against = state.map().placement_generation();
            fit_moves(state, moves);
        }
        RebalanceCommand::Fill { id, moves, .. } => {
            *id = running;
            fit_moves(state, moves);
        }
        RebalanceCommand::Pause { id }
        | RebalanceCommand::Resume { id }
        | RebalanceCommand::Cancel { id }
        | RebalanceCommand::End { id } => *id = running,
    }
}

fn fit_moves(state: &PartitionState, moves: &mut Vec<PlannedMove>) {
    for planned in moves.iter_mut() {
        if let Some((topic, number, _)) = some_partition(state, (planned.topic, planned.partition)) {
            (planned.topic, planned.partition) = (topic, number);
        }
        planned.target.retain(|node| state.map().node(*node).is_some());
    }
    moves.sort();
    moves.dedup_by_key(|planned| (planned.topic, planned.partition));
}

type Epochs = BTreeMap<(TopicId, u32), (LeaderEpoch, PartitionEpoch)>;

fn epochs(state: &PartitionState) -> Epochs {
    let partitions = state.map().topics().flat_map(|topic| {
        let numbered = (0..).zip(topic.partitions());
        numbered.map(move |(at, p)| ((topic.id, at), (p.leader_epoch(), p.partition_epoch())))
    });
    partitions.collect()
}

/// What has changed between two states is all in the list of changes.
fn check_changes(before: &PartitionState, after: &PartitionState) -> Result<(), TestCaseError> {
    let changes = after.map().changes_since(before.generation()).unwrap();
    for node in after.map().nodes() {
        let same = before.map().node(node.id()) == Some(node);
        prop_assert_eq!(!same, changes.nodes.contains(&node.id()));
    }
    let ids = |state: &PartitionState| state.map().topics().map(|topic| topic.id).collect::<Vec<_>>();
    for id in ids(before).into_iter().filter(|id| !ids(after).contains(id)) {
        prop_assert!(changes.topics.contains(&id), "deleted");
    }
    for topic in after.map().topics() {
        if before.map().topic_of(topic.id).is_none() {
            prop_assert!(changes.topics.contains(&topic.id), "created");
        }
    }
    let rebalance = before.map().rebalance() != after.map().rebalance();
    prop_assert!(!rebalance || changes.rebalance);
    let settings = before.map().settings() != after.map().settings();
    prop_assert!(!settings || changes.settings);
    Ok(())
}

/// Applies one command and checks everything that must hold for any.
fn step(
    state: &mut PartitionState,
    log_index: u64,
    command: PartitionCommand,
) -> Result<bool, TestCaseError> {
    let before = state.clone();
    let response = state.apply(log_index, command.clone());
    match &response {
        Ok(Applied::Unchanged { generation }) => {
            prop_assert_eq!((&*state, *generation), (&before, before.generation()));
        }
        Ok(Applied::Changed { generation } | Applied::TopicCreated { generation, .. }) => {
            prop_assert_eq!((state.generation(), *generation), (log_index, log_index));
        }
        Err(_) => prop_assert_eq!(&*state, &before),
    }
    prop_assert_eq!(state.check(), Ok(()));
    check_changes(&before, state)?;

    let changes = state.map().changes_since(before.generation()).unwrap();
    let older = epochs(&before);
    for (at, new) in epochs(state) {
        let Some(old) = older.get(&at) else { continue };
        prop_assert!(new.0 >= old.0 && new.1 >= old.1);
        let was = before.map().partition_of(at.0, at.1).unwrap();
        let is = state.map().partition_of(at.0, at.1).unwrap();
        prop_assert_eq!(new.1 > old.1, changes.partitions.contains(&at));
        prop_assert_eq!(new.1 > old.1, format!("{was:?}") != format!("{is:?}"));
        prop_assert!(new.0 > old.0 || was.leader_start() == is.leader_start());
        if let PartitionCommand::ChangePartitions { changes, .. } = &command {
            let change = changes
                .iter()
                .find(|change| (change.topic, change.partition) == at);
            let stays = change.is_none_or(|change| change.step != Step::Stay);
            prop_assert!(new.0 == old.0 || !stays || was.leader_start() != is.leader_start());
            if response.is_ok() {
                check_move(change, was, is)?;
            }
        }
    }

    // Everything replicated survives its bytes.
    let bytes = postcard::to_allocvec(&(&command, &response, &*state)).unwrap();
    let back: (PartitionCommand, PartitionResponse, PartitionState) = postcard::from_bytes(&bytes).unwrap();
    prop_assert_eq!((&back.0, &back.1, &back.2), (&command, &response, &*state));
    Ok(response.is_ok())
}

/// A move never takes a replica away whose successors are not in sync.
fn check_move(
    change: Option<&PartitionChange>,
    was: Partition<'_>,
    is: Partition<'_>,
) -> Result<(), TestCaseError> {
    let left = was
        .replicas()
        .any(|node| !is.replicas().any(|other| other == node));
    match change.map(|change| &change.step) {
        Some(Step::Finish) => {
            prop_assert!(was.adding().all(|node| is.in_sync().any(|other| other == node)));
            prop_assert!(was.target().eq(is.replicas()));
        }
        Some(Step::Revert) => {
            prop_assert!(is.replicas().all(|node| !was.adding().any(|other| other == node)));
        }
        _ => prop_assert!(!left),
    }
    Ok(())
}

#[test]
fn no_sequence_of_commands_breaks_an_invariant() {
    let accepted = Cell::new([0; 4]);
    proptest!(ProptestConfig::with_cases(128), |(commands in vec((command(), 0..8u8), 1..100))| {
        let mut state = PartitionState::default();
        for node in 1..6 {
            step(&mut state, node, PartitionCommand::RegisterNode(registration(node, 1, None)))?;
        }
        for (log_index, (mut command, wild)) in (10..).zip(commands) {
            if wild > 0 {
                fit_command(&state, &mut command);
            }
            let kind = match &command {
                PartitionCommand::ChangePartitions { .. } => Some(0),
                PartitionCommand::Rebalance(_) => Some(1),
                PartitionCommand::ReportInSync { .. } => Some(2),
                PartitionCommand::ElectUnclean(_) | PartitionCommand::Release { .. } => Some(3),
                _ => None,
            };
            let done = step(&mut state, log_index, command)?;
            if let Some(kind) = kind.filter(|_| done) {
                let mut counts = accepted.get();
                counts[kind] += 1;
                accepted.set(counts);
            }
        }
    });
    // A model that refuses everything would pass all of the above. By far more are accepted in most runs: the bounds are
    // such that no run of luck is below them.
    let accepted = accepted.get();
    assert!(
        accepted[0] > 100 && accepted.iter().all(|count| *count > 10),
        "accepted: {accepted:?}"
    );
}
