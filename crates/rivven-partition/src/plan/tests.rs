//! Plans: exact shares, zones and pins kept, no more copies than must be, nothing to do twice.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    NodeStatus, PartitionCommand, RebalanceCommand, TopicSpec,
    testing::{Members, apply, cluster, create, registration, set_status, settle},
};

/// Begins a plan and lets the controller carry it out.
fn carry_out(state: &mut PartitionState, members: &Members, plan: &Plan) {
    begin(state, plan);
    settle(state, members, 1 << 40);
    assert_eq!(state.map().rebalance(), None, "ended");
}

fn begin(state: &mut PartitionState, plan: &Plan) {
    let batches = plan.batches();
    let last = batches.len().checked_sub(1).unwrap();
    let mut id = 0;
    for (at, moves) in batches.into_iter().enumerate() {
        let more = at < last;
        let command = if at == 0 {
            RebalanceCommand::Begin {
                against: plan.against(),
                at_ms: 0,
                moves,
                more,
            }
        } else {
            RebalanceCommand::Fill { id, moves, more }
        };
        apply(state, PartitionCommand::Rebalance(command));
        id = state.map().rebalance().unwrap().id;
    }
}

/// Adds a live node.
fn join(state: &mut PartitionState, members: &mut Members, node: NodeId, zone: &str, weight: u16) {
    let mut new = registration(node, 1, (!zone.is_empty()).then_some(zone));
    new.weight = weight;
    apply(state, PartitionCommand::RegisterNode(new));
    set_status(state, node, NodeStatus::Active);
    members.insert(node, Liveness::Alive);
}

type Set = Vec<NodeId>;

fn sets(state: &PartitionState) -> Vec<Set> {
    let partitions = state.map().topics().flat_map(|topic| topic.partitions());
    partitions
        .map(|partition| partition.replicas().collect())
        .collect()
}

fn targets(state: &PartitionState, plan: &Plan) -> Vec<Set> {
    let mut by_spot: BTreeMap<(TopicId, u32), Set> = BTreeMap::new();
    for topic in state.map().topics() {
        for (number, partition) in (0..).zip(topic.partitions()) {
            by_spot.insert((topic.id, number), partition.replicas().collect());
        }
    }
    for planned in plan.moves() {
        by_spot.insert((planned.topic, planned.partition), planned.target);
    }
    by_spot.into_values().collect()
}

fn counts(sets: &[Set], nodes: impl Iterator<Item = NodeId>) -> (Vec<u64>, Vec<u64>) {
    let nodes: Vec<NodeId> = nodes.collect();
    let replicas = nodes
        .iter()
        .map(|node| sets.iter().flatten().filter(|other| *other == node).count() as u64);
    let leaders = nodes
        .iter()
        .map(|node| sets.iter().filter(|set| set.first() == Some(node)).count() as u64);
    (replicas.collect(), leaders.collect())
}

fn spread(counts: &[u64]) -> u64 {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

#[test]
fn a_placed_cluster_needs_no_plan() {
    let (mut state, members) = cluster(&["a", "b", "c", "a", "b", "c"]);
    create(&mut state, &members, "orders", &TopicSpec::new(60));
    let plan = plan(&state, &members, &Goal::default()).unwrap();
    assert_eq!(
        (plan.is_empty(), plan.summary().lower_bound),
        (true, 0),
        "{plan:?}"
    );
    assert!((plan.summary().ratio() - 1.0).abs() < 1e-9);
}

#[test]
fn a_new_node_gets_its_share_and_nothing_else_moves() {
    let (mut state, mut members) = cluster(&[""; 4]);
    create(&mut state, &members, "orders", &TopicSpec::new(100));
    join(&mut state, &mut members, 5, "", 100);
    let made = plan(&state, &members, &Goal::default()).unwrap();
    assert_eq!(
        (made.summary().replica_moves, made.summary().lower_bound),
        (60, 60)
    );
    let (replicas, leaders) = counts(&targets(&state, &made), 1..6);
    assert_eq!((replicas, leaders), (vec![60; 5], vec![20; 5]));
    for (was, is) in sets(&state).iter().zip(targets(&state, &made)) {
        assert!(is.iter().all(|node| was.contains(node) || *node == 5));
    }
    let expected = targets(&state, &made);
    carry_out(&mut state, &members, &made);
    assert_eq!(sets(&state), expected);
    assert!(plan(&state, &members, &Goal::default()).unwrap().is_empty());
}

#[test]
fn weights_count_and_weight_zero_empties() {
    let (mut state, mut members) = cluster(&[""; 4]);
    create(
        &mut state,
        &members,
        "orders",
        &TopicSpec::new(120).replication_factor(2),
    );
    join(&mut state, &mut members, 5, "", 200);
    for (node, weight) in [(1, Some(0)), (2, Some(50))] {
        apply(&mut state, PartitionCommand::SetNodeWeight { node, weight });
    }
    let made = plan(&state, &members, &Goal::default()).unwrap();
    let (replicas, leaders) = counts(&targets(&state, &made), 1..6);
    // Weights 50, 100, 100 and 200; no more of node 5 than one of each partition.
    assert_eq!(replicas[0], 0);
    assert_eq!(replicas.iter().sum::<u64>(), 240);
    assert!(
        replicas[1].abs_diff(27) <= 1 && replicas[4].abs_diff(107) <= 1,
        "{replicas:?}"
    );
    assert_eq!(leaders[0], 0);
    assert!(
        leaders[1].abs_diff(13) <= 1 && leaders[4].abs_diff(53) <= 1,
        "{leaders:?}"
    );
}

#[test]
fn pinned_partitions_stay_and_excluded_nodes_are_emptied() {
    let (mut state, members) = cluster(&[""; 5]);
    create(
        &mut state,
        &members,
        "orders",
        &TopicSpec::new(50).replication_factor(2),
    );
    create(
        &mut state,
        &members,
        "fixed",
        &TopicSpec::new(10).replication_factor(2),
    );
    let topics: Vec<TopicId> = state.map().topics().map(|topic| topic.id).collect();
    let goal = Goal {
        exclude: BTreeSet::from([3]),
        pins: (0..10).map(|partition| (topics[0], partition)).collect(),
        pinned_topics: BTreeSet::from([topics[1]]),
        ..Goal::default()
    };
    let made = plan(&state, &members, &goal).unwrap();
    for planned in made.moves() {
        assert!(planned.topic == topics[0] && planned.partition >= 10);
        assert!(!planned.target.contains(&3));
    }
    let after = targets(&state, &made);
    assert!(after[10..50].iter().all(|set| !set.contains(&3)));
    let (replicas, _) = counts(&after, [1, 2, 4, 5].into_iter());
    assert!(
        spread(&replicas) <= 1,
        "{replicas:?} of all partitions, pinned ones too"
    );
}

#[test]
fn what_is_down_waits_unless_it_is_to_be_replaced() {
    let (mut state, mut members) = cluster(&[""; 5]);
    create(&mut state, &members, "orders", &TopicSpec::new(50));
    members.insert(2, Liveness::Dead);
    let waits = plan(&state, &members, &Goal::default()).unwrap();
    assert!(
        waits
            .moves()
            .all(|planned| sets(&state)[planned.partition as usize].contains(&2)
                == planned.target.contains(&2))
    );
    assert_eq!(waits.summary().replica_moves, 0);
    let goal = Goal {
        replace_down: true,
        ..Goal::default()
    };
    let replaced = plan(&state, &members, &goal).unwrap();
    assert!(
        targets(&state, &replaced)
            .iter()
            .all(|set| !set.contains(&2) && set.len() == 3)
    );
    assert_eq!(replaced.summary().replica_moves, 30);
}

#[test]
fn a_factor_that_changed_is_planned_for_and_hard_zones_are_never_shared() {
    let (mut state, members) = cluster(&["a", "a", "b", "b"]);
    create(
        &mut state,
        &members,
        "orders",
        &TopicSpec::new(24).replication_factor(2),
    );
    let topic = state.map().topic("orders").unwrap().id;
    let command = PartitionCommand::SetReplicationFactor {
        topic,
        replication_factor: 3,
    };
    apply(&mut state, command);
    let made = plan(&state, &members, &Goal::default()).unwrap();
    let after = targets(&state, &made);
    assert!(after.iter().all(|set| set.len() == 3));
    let (replicas, leaders) = counts(&after, 1..5);
    assert_eq!((replicas, leaders), (vec![18; 4], vec![6; 4]));
    assert_eq!(made.summary().replica_moves, 24);
    // With hard zones, two zones hold two replicas, so nothing is added.
    let goal = Goal {
        zones: Some(ZoneRule::Hard),
        ..Goal::default()
    };
    assert!(plan(&state, &members, &goal).unwrap().is_empty());
}

/// Everything that must hold of any plan.
fn check_plan(state: &PartitionState, members: &Members, made: &Plan) -> Result<(), TestCaseError> {
    let zone = |node: NodeId| state.map().node(node).unwrap().zone().map(String::from);
    let takers: Vec<NodeId> = members
        .keys()
        .copied()
        .filter(|node| state.map().node(*node).unwrap().weight() > 0)
        .collect();
    let mut sizes: BTreeMap<Option<String>, usize> = BTreeMap::new();
    takers
        .iter()
        .for_each(|node| *sizes.entry(zone(*node)).or_insert(0) += 1);
    let after = targets(state, made);
    let mut copies = 0;
    for (was, is) in sets(state).iter().zip(&after) {
        let distinct: BTreeSet<_> = is.iter().collect();
        prop_assert_eq!(distinct.len(), is.len());
        prop_assert!(is.iter().all(|node| takers.contains(node)), "{is:?}");
        let level = (1..).find(|level| sizes.values().map(|size| size.min(level)).sum::<usize>() >= is.len());
        for here in sizes.keys() {
            let crowd = is.iter().filter(|node| zone(**node) == *here).count();
            prop_assert!(crowd <= level.unwrap(), "{is:?} in {here:?}");
        }
        copies += is.iter().filter(|node| !was.contains(node)).count() as u64;
    }
    let summary = made.summary();
    prop_assert_eq!(copies, summary.replica_moves);
    prop_assert!(copies >= summary.lower_bound, "{summary:?}");
    prop_assert_eq!(summary.stuck, 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn plans_are_legal_exact_near_the_bound_and_made_once(
        zones in vec(0..4usize, 4..10),
        partitions in 4..90u32,
        replicas in 1..4u16,
        joins in vec((0..4usize, 1..3u16), 0..3),
        leaves in 0..3u64,
    ) {
        let name = |zone: usize| ["", "a", "b", "c"][zone];
        let zones: Vec<&str> = zones.into_iter().map(name).collect();
        let (mut state, mut members) = cluster(&zones);
        create(&mut state, &members, "orders", &TopicSpec::new(partitions).replication_factor(replicas));
        let mut weighted = false;
        for (node, (zone, weight)) in (20..).zip(joins) {
            weighted |= weight > 1;
            join(&mut state, &mut members, node, name(zone), weight * 100);
        }
        for node in 1..=leaves.min(zones.len() as u64 - 3) {
            apply(&mut state, PartitionCommand::SetNodeWeight { node, weight: Some(0) });
        }
        let made = plan(&state, &members, &Goal::default()).unwrap();
        check_plan(&state, &members, &made)?;
        // Where zones forbid the straight way a detour costs a copy, never more than one each.
        let summary = made.summary();
        prop_assert!(summary.replica_moves <= summary.lower_bound * 2, "{summary:?}");
        let alive = members.keys().copied().filter(|node| state.map().node(*node).unwrap().weight() > 0);
        let by_zone: BTreeMap<_, Vec<NodeId>> = alive.fold(BTreeMap::new(), |mut zones, node| {
            zones.entry(state.map().node(node).unwrap().zone()).or_insert_with(Vec::new).push(node);
            zones
        });
        if !weighted {
            let after = targets(&state, &made);
            for nodes in by_zone.values() {
                prop_assert!(spread(&counts(&after, nodes.iter().copied()).0) <= 1);
            }
        }
        if !made.is_empty() {
            let expected = targets(&state, &made);
            carry_out(&mut state, &members, &made);
            prop_assert_eq!(sets(&state), expected);
        }
        let again = plan(&state, &members, &Goal::default()).unwrap();
        prop_assert!(again.is_empty(), "{:?}", again.summary());
    }
}

#[test]
fn a_full_zone_is_left_by_the_replica_of_the_fullest_node() {
    let (mut state, members) = cluster(&["a", "a", "b", "b"]);
    let assignment = vec![vec![3, 1], vec![1, 3], vec![1, 2], vec![3, 4]];
    let command = PartitionCommand::CreateTopic {
        name: "orders".into(),
        replication_factor: 2,
        allow_fewer_replicas: false,
        settings: BTreeMap::new(),
        assignment,
    };
    apply(&mut state, command);
    let made = plan(&state, &members, &Goal::default()).unwrap();
    assert_eq!(made.summary().replica_moves, 2, "{:?}", made.summary());
    check_plan(&state, &members, &made).unwrap();
}

/// The fewest copies with which these sets become exactly balanced, by trying everything.
fn fewest(sets: &[Set], choices: &[Set], held: &mut BTreeMap<NodeId, u64>, quota: (u64, u64)) -> Option<u64> {
    let Some((set, rest)) = sets.split_first() else {
        let even = held.values().all(|count| (quota.0..=quota.1).contains(count));
        return even.then_some(0);
    };
    let mut best = None;
    for choice in choices {
        if choice.iter().any(|node| held[node] >= quota.1) {
            continue;
        }
        choice.iter().for_each(|node| *held.get_mut(node).unwrap() += 1);
        let copies = choice.iter().filter(|node| !set.contains(node)).count() as u64;
        let more = fewest(rest, choices, held, quota).map(|more| more + copies);
        best = [best, more].into_iter().flatten().min();
        choice.iter().for_each(|node| *held.get_mut(node).unwrap() -= 1);
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn small_plans_copy_no_more_than_the_best_that_trying_everything_finds(
        placed in vec((1..5u64, 1..5u64), 2..6),
        apart in any::<bool>(),
    ) {
        // Two zones of two nodes, or one of four; partitions of two replicas anywhere.
        let zones = if apart { ["a", "a", "b", "b"] } else { [""; 4] };
        let (mut state, members) = cluster(&zones);
        let zone = |node: NodeId| zones[usize::try_from(node).unwrap() - 1];
        let legal = |set: &[NodeId]| set[0] != set[1] && (!apart || zone(set[0]) != zone(set[1]));
        let assignment: Vec<Set> = placed.into_iter().map(|(a, b)| if a == b { vec![a, b % 4 + 1] } else { vec![a, b] }).collect();
        let command = PartitionCommand::CreateTopic {
            name: "orders".into(),
            replication_factor: 2,
            allow_fewer_replicas: false,
            settings: BTreeMap::new(),
            assignment: assignment.clone(),
        };
        apply(&mut state, command);
        let pairs = (1..5).flat_map(|a| (a + 1..5).map(move |b| vec![a, b]));
        let choices: Vec<Set> = pairs.filter(|set| legal(set)).collect();
        let total = 2 * assignment.len() as u64;
        let quota = (total / 4, total.div_ceil(4));
        let mut held: BTreeMap<NodeId, u64> = (1..5).map(|node| (node, 0)).collect();
        let best = fewest(&assignment, &choices, &mut held, quota).unwrap();
        let made = plan(&state, &members, &Goal::default()).unwrap();
        check_plan(&state, &members, &made)?;
        let (replicas, _) = counts(&targets(&state, &made), 1..5);
        prop_assert!(spread(&replicas) <= 1, "{replicas:?}");
        prop_assert!(made.summary().replica_moves <= best + u64::from(apart), "{:?}, best {best}", made.summary());
    }
}
