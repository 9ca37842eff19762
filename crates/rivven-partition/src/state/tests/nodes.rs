//! Nodes: who may register, what is decided about them, and what settings and sizes topics may have.

use rivven_types::InstanceId;

use super::*;
use crate::{MAX_BOOT_EPOCH, MAX_ENDPOINTS, MAX_WEIGHT, TopicSpec, grow, testing::create};

#[test]
fn a_registration_said_again_changes_nothing() {
    let (mut state, _) = cluster(&["a"]);
    let again = state.apply(7, PartitionCommand::RegisterNode(registration(1, 1, Some("a"))));
    assert_eq!(again, Ok(Applied::Unchanged { generation: 2 }));
    apply(
        &mut state,
        PartitionCommand::RegisterNode(registration(1, 2, Some("b"))),
    );
    assert_eq!(state.map().node(1).unwrap().zone(), Some("b"));
}

#[test]
fn a_registration_from_the_past_or_of_another_disk_is_refused() {
    let (mut state, _) = cluster(&["a"]);
    apply(
        &mut state,
        PartitionCommand::RegisterNode(registration(1, 3, Some("a"))),
    );
    let stale = PartitionCommand::RegisterNode(registration(1, 2, Some("a")));
    let (registered, offered) = (BootEpoch(3), BootEpoch(2));
    let error = refused(&mut state, stale);
    assert_eq!(
        error,
        PartitionError::StaleBootEpoch {
            node: 1,
            registered,
            offered
        }
    );

    let offered = InstanceId::from_random([99; 16]);
    let registered = state.map().node(1).unwrap().registration.instance;
    let other_disk = crate::Registration {
        instance: offered,
        ..registration(1, 1, None)
    };
    let other_disk = PartitionCommand::RegisterNode(other_disk);
    let error = refused(&mut state, other_disk.clone());
    assert_eq!(
        error,
        PartitionError::InstanceMismatch {
            node: 1,
            registered,
            offered
        }
    );

    // Once removed, the node may come with another disk only.
    set_status(&mut state, 1, NodeStatus::Removed);
    let same_disk = PartitionCommand::RegisterNode(registration(1, 3, Some("a")));
    assert_eq!(
        refused(&mut state, same_disk),
        PartitionError::NodeRemoved { node: 1 }
    );
    apply(&mut state, other_disk);
    assert_eq!(state.map().node(1).unwrap().status, NodeStatus::Joining);

    for zone in ["", "a\nb", "x".repeat(256).as_str()] {
        let command = PartitionCommand::RegisterNode(registration(2, 1, Some(zone)));
        assert_eq!(
            refused(&mut state, command),
            PartitionError::InvalidZone { node: 2 }
        );
    }
}

#[test]
fn a_drain_mark_ends_with_the_process_it_was_meant_for() {
    let (mut state, _) = cluster(&[""]);
    set_status(&mut state, 1, NodeStatus::Draining);
    apply(
        &mut state,
        PartitionCommand::RegisterNode(registration(1, 1, Some("moved"))),
    );
    assert_eq!(state.map().node(1).unwrap().status, NodeStatus::Draining);
    apply(
        &mut state,
        PartitionCommand::RegisterNode(registration(1, 2, None)),
    );
    assert_eq!(state.map().node(1).unwrap().status, NodeStatus::Active);

    // A decision about the process before comes too late.
    let (registered, offered) = (BootEpoch(2), BootEpoch(1));
    let (status, at_ms) = (NodeStatus::Down, 0);
    let late = PartitionCommand::SetNodeStatus {
        node: 1,
        boot_epoch: offered,
        status,
        at_ms,
    };
    let error = refused(&mut state, late);
    assert_eq!(
        error,
        PartitionError::StaleBootEpoch {
            node: 1,
            registered,
            offered
        }
    );
}

#[test]
fn a_node_that_leads_is_not_removed() {
    let mut state = one_partition();
    let (boot_epoch, status, at_ms) = (BootEpoch(1), NodeStatus::Removed, 0);
    let remove = |node| PartitionCommand::SetNodeStatus {
        node,
        boot_epoch,
        status,
        at_ms,
    };
    let error = refused(&mut state, remove(1));
    assert_eq!(
        error,
        PartitionError::NodeLeads {
            node: 1,
            partitions: 1
        }
    );
    assert_eq!(
        refused(&mut state, remove(9)),
        PartitionError::UnknownNode { node: 9 }
    );
    apply(&mut state, batch(&[change(0, (1, 1), &[2, 3], Some(2))]));
    apply(&mut state, remove(1));
}

#[test]
fn every_removal_counts_whoever_takes_the_number_afterwards() {
    let (mut state, _) = cluster(&["", "", ""]);
    assert_eq!(state.map().removals(), 0);
    set_status(&mut state, 2, NodeStatus::Removed);
    set_status(&mut state, 2, NodeStatus::Removed);
    assert_eq!(state.map().removals(), 1, "once for each removal");
    let mut again = registration(2, 1, None);
    again.instance = InstanceId::from_bytes([9; 16]);
    apply(&mut state, PartitionCommand::RegisterNode(again));
    assert_eq!(state.map().removals(), 1, "the number is taken again");
    set_status(&mut state, 3, NodeStatus::Removed);
    assert_eq!(state.map().removals(), 2, "as many are removed as before");

    let bytes = postcard::to_allocvec(&state).unwrap();
    assert_eq!(postcard::from_bytes::<PartitionState>(&bytes).unwrap(), state);
    // Fewer removals than there are removed nodes cannot be.
    let mut forged = state;
    forged.map.removals = 0;
    let bytes = postcard::to_allocvec(&forged).unwrap();
    assert!(postcard::from_bytes::<PartitionState>(&bytes).is_err());
}

#[test]
fn an_unfit_registration_is_refused() {
    let (mut state, _) = cluster(&[]);
    let mut check = |edit: fn(&mut crate::Registration), code: &str| {
        let mut new = registration(1, 1, None);
        edit(&mut new);
        assert_eq!(
            refused(&mut state, PartitionCommand::RegisterNode(new)).code(),
            code
        );
    };
    check(|new| new.weight = MAX_WEIGHT + 1, "invalid-weight");
    check(
        |new| new.boot_epoch = BootEpoch(MAX_BOOT_EPOCH + 1),
        "boot-epoch-too-large",
    );
    check(
        |new| drop(new.endpoints.insert("my api".into(), "host:1".parse().unwrap())),
        "invalid-endpoints",
    );
    check(
        |new| {
            let names = (0..=MAX_ENDPOINTS).map(|i| (format!("e{i}"), "host:1".parse().unwrap()));
            new.endpoints = names.collect();
        },
        "invalid-endpoints",
    );
}

#[test]
fn a_weight_is_set_taken_back_and_limited() {
    let (mut state, _) = cluster(&["", ""]);
    let weigh = |node, weight| PartitionCommand::SetNodeWeight { node, weight };
    apply(&mut state, weigh(1, Some(0)));
    assert_eq!(state.map().node(1).unwrap().weight(), 0);
    apply(&mut state, weigh(1, None));
    assert_eq!(state.map().node(1).unwrap().weight(), crate::NORMAL_WEIGHT);
    let code = |state: &mut PartitionState, command| refused(state, command).code();
    assert_eq!(code(&mut state, weigh(1, Some(MAX_WEIGHT + 1))), "invalid-weight");
    assert_eq!(code(&mut state, weigh(9, Some(1))), "unknown-node");
    set_status(&mut state, 2, NodeStatus::Removed);
    assert_eq!(code(&mut state, weigh(2, Some(1))), "node-removed");
}

#[test]
fn a_topic_grows_and_never_shrinks() {
    let (mut state, members) = cluster(&["a", "b", "c"]);
    create(&mut state, &members, "orders", &TopicSpec::new(4));
    let command = grow(&state, &members, "orders", 10).unwrap();
    apply(&mut state, command.clone());
    let topic = state.map().topic("orders").unwrap();
    assert_eq!(topic.partition_count(), 10);
    assert!(
        topic
            .partitions()
            .all(|partition| partition.replicas().len() == 3)
    );
    let code = |error: PartitionError| error.code();
    assert_eq!(code(refused(&mut state, command)), "partition-count-changed");
    for (partitions, expected) in [
        (10, "partitions-only-grow"),
        (0, "partitions-only-grow"),
        (MAX_PARTITIONS_PER_TOPIC + 1, "invalid-partition-count"),
    ] {
        assert_eq!(
            code(grow(&state, &members, "orders", partitions).unwrap_err()),
            expected
        );
    }
    assert_eq!(
        code(grow(&state, &members, "payments", 4).unwrap_err()),
        "unknown-topic"
    );
}

#[test]
fn a_record_key_has_its_partition_for_ever() {
    let (mut state, members) = cluster(&[""]);
    create(
        &mut state,
        &members,
        "orders",
        &TopicSpec::new(12).replication_factor(1),
    );
    let topic = state.map().topic("orders").unwrap();
    // From the vectors of the ring's specification.
    for key in [&b"user-4711"[..], b"", b"a"] {
        assert_eq!(
            topic.partition_for_key(key),
            rivven_hashring::key_partition(key, 12)
        );
    }
    let spread: std::collections::BTreeSet<u32> = (0..200u32)
        .map(|key| topic.partition_for_key(&key.to_le_bytes()))
        .collect();
    assert_eq!(spread.len(), 12);
}

#[test]
fn a_partition_of_three_replicas_takes_less_than_eighty_bytes() {
    let (mut state, members) = cluster(&["a", "b", "c"]);
    for topic in 0..5 {
        create(&mut state, &members, &format!("t{topic}"), &TopicSpec::new(2_000));
    }
    let bytes = state.map().heap_size();
    assert_eq!(state.map().partition_count(), 10_000);
    // A million take less than 80 MB; the bound that is promised is 200 MB.
    assert!(bytes < 80 * 10_000, "{bytes} bytes");
}
