//! Placement: exact quotas, zones apart, leaders even; and what is refused.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    NodeStatus,
    testing::{Members, cluster, create, registration, set_status},
};

fn sets(state: &PartitionState, members: &Members, spec: &TopicSpec) -> Vec<Vec<NodeId>> {
    match place(state, members, "orders", spec).unwrap() {
        PartitionCommand::CreateTopic { assignment, .. } => assignment,
        other => panic!("{other:?}"),
    }
}

fn spread(counts: impl IntoIterator<Item = u64>) -> u64 {
    let counts: Vec<_> = counts.into_iter().collect();
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

/// How often each node of the cluster occurs, zeros included.
fn counts(state: &PartitionState, nodes: impl Iterator<Item = NodeId>) -> BTreeMap<NodeId, u64> {
    let mut counts: BTreeMap<_, _> = state
        .map()
        .nodes()
        .map(|node| (node.registration.node, 0))
        .collect();
    nodes.for_each(|node| *counts.get_mut(&node).unwrap() += 1);
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn replicas_are_distinct_even_and_as_far_apart_as_can_be(
        zones in vec(0..4usize, 1..12),
        partitions in 1..80u32,
        replicas in 1..6u16,
    ) {
        let names: Vec<_> = zones.iter().map(|zone| ["", "a", "b", "c"][*zone]).collect();
        let (mut state, members) = cluster(&names);
        let spec = TopicSpec::new(partitions).replication_factor(replicas).allow_fewer_replicas();
        let sets = sets(&state, &members, &spec);
        prop_assert_eq!(sets.len(), partitions as usize);
        let replicas = usize::from(replicas).min(names.len());
        let zone_of: BTreeMap<NodeId, &str> = (1..).zip(names.iter().copied()).collect();
        let mut sizes = BTreeMap::new();
        names.iter().for_each(|zone| *sizes.entry(*zone).or_insert(0) += 1);
        let level = (1..).find(|level| sizes.values().map(|size| size.min(level)).sum::<usize>() >= replicas);

        for set in &sets {
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>().len(), replicas);
            prop_assert_eq!(set.len(), replicas);
            for zone in sizes.keys() {
                let here = set.iter().filter(|node| zone_of[node] == *zone).count();
                prop_assert!(here <= level.unwrap(), "{here} replicas of {set:?} in one zone");
            }
        }
        // Even within each zone; even over all nodes if zones are no constraint.
        let held = counts(&state, sets.iter().flatten().copied());
        for zone in sizes.keys() {
            let here = held.iter().filter(|(node, _)| zone_of[*node] == *zone);
            prop_assert!(spread(here.map(|(_, count)| *count)) <= 1);
        }
        if sizes.len() == 1 {
            prop_assert!(spread(held.into_values()) <= 1);
        }
        // The state accepts it, and the second topic evens out the remainders of the first.
        create(&mut state, &members, "orders", &spec);
        create(&mut state, &members, "payments", &spec);
        if sizes.len() == 1 {
            let held = state.map().topics().flat_map(|topic| topic.partitions()).flat_map(|partition| partition.replicas());
            prop_assert!(spread(counts(&state, held).into_values()) <= 1);
        }
    }

    #[test]
    fn leaders_are_even_within_two(nodes in 1..12usize, partitions in 1..100u32, replicas in 1..4u16) {
        let (state, members) = cluster(&vec![""; nodes]);
        let spec = TopicSpec::new(partitions).replication_factor(replicas).allow_fewer_replicas();
        let leaders = sets(&state, &members, &spec).into_iter().map(|set| set[0]);
        let leads = counts(&state, leaders);
        prop_assert!(spread(leads.values().copied()) <= 2, "{leads:?}");
    }
}

#[test]
fn zones_of_different_sizes_share_by_size_as_far_as_replicas_stay_apart() {
    // Two replicas of each partition in three zones of 4, 1 and 1 nodes: the large zone holds one of every
    // partition, the small ones share the other.
    let (state, members) = cluster(&["a", "a", "a", "a", "b", "c"]);
    let sets = sets(&state, &members, &TopicSpec::new(12).replication_factor(2));
    let held = counts(&state, sets.into_iter().flatten());
    assert_eq!(held.into_values().collect::<Vec<_>>(), [3, 3, 3, 3, 6, 6]);
}

#[test]
fn a_lost_node_leaves_its_leaders_to_many() {
    // Sets that all pair the same nodes would double the load of one survivor.
    let (state, members) = cluster(&[""; 6]);
    let sets = sets(&state, &members, &TopicSpec::new(60).replication_factor(3));
    let partners: BTreeSet<_> = sets.iter().filter(|set| set[0] == 1).map(|set| set[1]).collect();
    assert!(partners.len() >= 4, "{partners:?}");
}

#[test]
fn only_live_and_active_nodes_are_used() {
    let (mut state, mut members) = cluster(&[""; 7]);
    set_status(&mut state, 1, NodeStatus::Draining);
    set_status(&mut state, 2, NodeStatus::Down);
    set_status(&mut state, 3, NodeStatus::Removed);
    members.insert(4, Liveness::Suspect);
    members.remove(&5);
    let used: BTreeSet<_> = sets(&state, &members, &TopicSpec::new(9).replication_factor(2))
        .concat()
        .into_iter()
        .collect();
    assert_eq!(used, BTreeSet::from([6, 7]));

    let error = place(&state, &members, "orders", &TopicSpec::new(9)).unwrap_err();
    assert_eq!(
        error,
        PartitionError::NotEnoughNodes {
            wanted: 3,
            available: 2
        }
    );
    assert!(error.to_string().contains("lower the replication factor"));
    let fewer = sets(&state, &members, &TopicSpec::new(9).allow_fewer_replicas());
    assert!(fewer.iter().all(|set| set.len() == 2));
}

#[test]
fn an_unfit_request_is_refused() {
    let (state, members) = cluster(&[""]);
    let check = |name, spec: TopicSpec, code| {
        assert_eq!(place(&state, &members, name, &spec).unwrap_err().code(), code);
    };
    check("no such name", TopicSpec::new(1), "invalid-topic-name");
    check("orders", TopicSpec::new(0), "invalid-partition-count");
    check("orders", TopicSpec::new(20_000), "invalid-partition-count");
    check(
        "orders",
        TopicSpec::new(1).replication_factor(0),
        "invalid-replication-factor",
    );
    check(
        "orders",
        TopicSpec::new(1).replication_factor(16),
        "invalid-replication-factor",
    );
    let nobody = Members::new();
    let spec = TopicSpec::new(1).allow_fewer_replicas();
    let error = place(&state, &nobody, "orders", &spec).unwrap_err();
    assert_eq!(
        error,
        PartitionError::NotEnoughNodes {
            wanted: 3,
            available: 0
        }
    );
}

#[test]
fn placement_depends_on_nothing_but_its_input() {
    let (state, members) = cluster(&["a", "b", "a", ""]);
    let mut other = PartitionState::default();
    for (node, zone) in [(4, None), (2, Some("b")), (3, Some("a")), (1, Some("a"))] {
        other
            .apply(1, PartitionCommand::RegisterNode(registration(node, 1, zone)))
            .unwrap();
    }
    let spec = TopicSpec::new(40);
    assert_eq!(
        place(&state, &members, "orders", &spec),
        place(&other, &members, "orders", &spec)
    );
}
