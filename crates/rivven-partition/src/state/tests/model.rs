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
    Applied, LeaderEpoch, NodeStatus, PartitionChange, PartitionCommand, PartitionEpoch, PartitionResponse,
    PartitionState, TopicId, testing::registration,
};

/// A command whose numbers fit a small cluster now and then.
fn command() -> impl Strategy<Value = PartitionCommand> {
    use PartitionCommand as C;
    let node = || 1..6u64;
    let name = || select(vec!["a", "b", "c", "not a name"]).prop_map(String::from);
    let status = select(vec![
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
                assignment,
            }
        ),
        2 => (name(), vec(subsequence(vec![1, 2, 3], 1..=3).prop_shuffle(), 1..4)).prop_map(
            |(name, assignment)| C::CreateTopic {
                name,
                replication_factor: 3,
                allow_fewer_replicas: true,
                assignment,
            }
        ),
        1 => name().prop_map(|name| C::DeleteTopic { name }),
        6 => vec(change(), 1..3).prop_map(|changes| C::ChangeLeaders { changes }),
    ]
}

fn change() -> impl Strategy<Value = PartitionChange> {
    let epochs = (0..4u64, 0..4u64);
    let nodes = (vec(1..5u64, 1..5), option::of(1..6u64));
    (0..4u64, 0..3u32, epochs, nodes).prop_map(|(topic, partition, epochs, (in_sync, leader))| {
        PartitionChange {
            topic: TopicId(topic),
            partition,
            leader_epoch: LeaderEpoch(epochs.0),
            partition_epoch: PartitionEpoch(epochs.1),
            in_sync,
            leader,
        }
    })
}

/// Makes a random change one that fits the epochs and the replicas, so that many are accepted.
fn fit(state: &PartitionState, mut change: PartitionChange) -> PartitionChange {
    let topics: Vec<_> = state.topics_by_id().collect();
    let wanted = usize::try_from(change.topic.0).unwrap();
    if let Some(topic) = topics.get(wanted % topics.len().max(1)) {
        let numbered: Vec<_> = (0..).zip(&topic.partitions).collect();
        let (number, partition) = numbered[change.partition as usize % numbered.len()];
        let in_sync = partition
            .replicas
            .iter()
            .filter(|node| change.in_sync.contains(node));
        change = PartitionChange {
            topic: topic.id,
            partition: number,
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            in_sync: in_sync.copied().collect(),
            leader: change.leader,
        };
        change.leader = change.leader.and(change.in_sync.first().copied());
    }
    change
}

type Epochs = BTreeMap<(TopicId, usize), (LeaderEpoch, PartitionEpoch)>;

fn epochs(state: &PartitionState) -> Epochs {
    let topics = state.topics_by_id();
    let partitions = topics.flat_map(|topic| {
        let numbered = topic.partitions.iter().enumerate();
        numbered.map(move |(at, p)| ((topic.id, at), (p.leader_epoch, p.partition_epoch)))
    });
    partitions.collect()
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

    let older = epochs(&before);
    for (at, new) in epochs(state) {
        let Some(old) = older.get(&at) else { continue };
        prop_assert!(new.0 >= old.0 && new.1 >= old.1);
        let partition = |state: &PartitionState| {
            let topic = state.topics_by_id().find(|topic| topic.id == at.0);
            topic.unwrap().partitions[at.1].clone()
        };
        let (old_partition, new_partition) = (partition(&before), partition(state));
        prop_assert_eq!(new.1 > old.1, old_partition != new_partition);
        prop_assert_eq!(new.0 > old.0, old_partition.leader != new_partition.leader);
    }

    // Everything replicated survives its bytes.
    let bytes = postcard::to_allocvec(&(&command, &response, &*state)).unwrap();
    let back: (PartitionCommand, PartitionResponse, PartitionState) = postcard::from_bytes(&bytes).unwrap();
    prop_assert_eq!((&back.0, &back.1, &back.2), (&command, &response, &*state));
    Ok(response.is_ok())
}

#[test]
fn no_sequence_of_commands_breaks_an_invariant() {
    let accepted = Cell::new(0);
    proptest!(ProptestConfig::with_cases(96), |(commands in vec((command(), any::<bool>()), 1..80))| {
        let mut state = PartitionState::default();
        for node in 1..4 {
            step(&mut state, node, PartitionCommand::RegisterNode(registration(node, 1, None)))?;
        }
        for (log_index, (mut command, fitted)) in (10..).zip(commands) {
            if let PartitionCommand::ChangeLeaders { changes } = &mut command && fitted {
                *changes = changes.drain(..).map(|change| fit(&state, change)).collect();
                changes.sort_by_key(|change| (change.topic, change.partition));
            }
            let changes_leaders = matches!(command, PartitionCommand::ChangeLeaders { .. });
            let done = step(&mut state, log_index, command)?;
            accepted.set(accepted.get() + usize::from(done && changes_leaders));
        }
    });
    // A model that refuses everything would pass all of the above.
    let accepted = accepted.get();
    assert!(accepted > 80, "only {accepted} batches of changes were accepted");
}
