//! One log entry changes several modules together or not at all.

use rivven_partition::{NodeAddrs, Registration};
use rivven_transport::join::TokenId;
use rivven_types::{BootEpoch, InstanceId, NodeId};

use super::*;

fn state() -> ClusterState {
    ClusterState::new(Arc::new(Published::new()))
}

fn put(key: &str) -> Op {
    Op::Kv(KvCommand::put(key, "v"))
}

/// Refused: the key does not exist, and is expected to.
fn conflict() -> Op {
    Op::Kv(KvCommand::cas("missing", Some(1), Some("v".into())))
}

fn register(node: NodeId) -> Op {
    let addr = || "node:1".parse().unwrap();
    Op::Partitions(PartitionCommand::RegisterNode(Registration {
        node,
        instance: InstanceId::from_bytes([1; 16]),
        boot_epoch: BootEpoch(1),
        addrs: NodeAddrs {
            quic: addr(),
            gossip: addr(),
            admin: None,
        },
        zone: None,
        weight: rivven_partition::NORMAL_WEIGHT,
        endpoints: std::collections::BTreeMap::new(),
    }))
}

const TOKEN: TokenId = TokenId::from_bytes([1; 32]);

fn issue() -> Op {
    Op::Tokens(TokenCommand::Issue {
        token: TOKEN,
        node: 4,
        expires_s: 100,
        now_s: 1,
    })
}

fn spend(key: u8) -> Op {
    Op::Tokens(TokenCommand::Spend {
        token: TOKEN,
        node: 4,
        key: [key; 32],
        now_s: 2,
    })
}

fn delete_topic() -> Op {
    Op::Partitions(PartitionCommand::DeleteTopic {
        name: "missing".into(),
    })
}

fn apply(state: &mut ClusterState, index: u64, ops: Vec<Op>) -> usize {
    let response = state.apply(&ApplyCtx::new(index, 1), ClusterCommand { ops });
    state.batch_applied(index);
    response.results.len()
}

#[test]
fn operations_on_several_modules_take_effect_together_or_not_at_all() {
    let mut state = state();
    assert_eq!(apply(&mut state, 1, vec![put("a"), register(1), put("b")]), 3);
    assert_eq!((state.kv.len(), state.partitions.map().nodes().count()), (2, 1));

    for refused in [conflict(), delete_topic()] {
        let before = (state.kv.revision(), state.partitions.clone());
        let answered = apply(&mut state, 2, vec![put("c"), register(2), refused, put("d")]);
        assert_eq!(answered, 3, "the refusal is the last answer");
        assert_eq!((state.kv.revision(), state.partitions.clone()), before);
        assert_eq!(state.kv.get("c"), None);
    }
}

#[test]
fn a_token_is_spent_once_whoever_asks_and_wherever_the_state_came_from() {
    let mut state = state();
    let answer = |state: &mut ClusterState, op| {
        let command = ClusterCommand { ops: vec![op] };
        match state.apply(&ApplyCtx::new(1, 1), command).results.remove(0) {
            OpResponse::Tokens(answer) => answer,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(answer(&mut state, spend(1)), Err(TokenRefusal::Unknown));
    assert_eq!(answer(&mut state, issue()), Ok(()));
    // Refused together with what it came with, it is not spent.
    apply(&mut state, 2, vec![spend(1), conflict()]);
    assert_eq!(answer(&mut state, spend(2)), Ok(()));
    assert_eq!(answer(&mut state, spend(1)), Err(TokenRefusal::Used));
    let mut bytes = Vec::new();
    ClusterState::encode_snapshot(&state.snapshot(), &mut bytes).unwrap();
    let mut restored = self::state();
    restored.restore(ClusterState::decode_snapshot(&mut bytes.as_slice()).unwrap());
    assert_eq!(answer(&mut restored, spend(1)), Err(TokenRefusal::Used));
    assert_eq!(answer(&mut restored, spend(2)), Ok(()));
}

#[test]
fn partitions_are_published_when_they_change() {
    let mut state = state();
    let published = Arc::clone(&state.published);
    let changed = published.subscribe();
    apply(&mut state, 1, vec![put("a")]);
    assert!(!changed.has_changed().unwrap());
    apply(&mut state, 2, vec![register(1)]);
    assert!(changed.has_changed().unwrap());
    assert_eq!(published.read(PartitionState::generation), 2);
}

#[test]
fn a_snapshot_restores_both_modules_and_publishes_them() {
    let mut original = state();
    apply(&mut original, 1, vec![put("a"), register(1)]);
    let mut bytes = Vec::new();
    ClusterState::encode_snapshot(&original.snapshot(), &mut bytes).unwrap();

    let decoded = |mut bytes: &[u8]| ClusterState::decode_snapshot(&mut bytes);
    let mut restored = state();
    restored.restore(decoded(&bytes).unwrap());
    assert_eq!(restored.kv.get("a"), original.kv.get("a"));
    assert_eq!(restored.partitions, original.partitions);
    assert_eq!(restored.published.read(PartitionState::generation), 1);

    for len in 0..bytes.len() {
        assert!(decoded(&bytes[..len]).is_err(), "cut at {len}");
    }
    bytes[0] = 1;
    let error = decoded(&bytes).unwrap_err();
    assert!(error.to_string().contains("unknown version"), "{error}");
}

#[test]
fn no_number_of_a_partition_is_given_out_again_when_the_cluster_begins_anew() {
    let mut state = state();
    let topic = |name: &str| {
        Op::Partitions(PartitionCommand::CreateTopic {
            name: name.into(),
            replication_factor: 1,
            allow_fewer_replicas: false,
            settings: std::collections::BTreeMap::new(),
            assignment: vec![vec![1]],
        })
    };
    apply(&mut state, 1, vec![register(1)]);
    apply(&mut state, 2, vec![topic("orders")]);
    state.refounded(&ApplyCtx::new(3, 1));
    state.batch_applied(3);
    apply(&mut state, 4, vec![topic("late")]);
    let (epochs, topics) = state.published.read(|state| {
        let partition = state.map().partition("orders", 0).unwrap();
        let epochs = (partition.leader_epoch().0, partition.partition_epoch().0);
        (epochs, state.map().topic("late").unwrap().get().id.0)
    });
    assert!(epochs.0 > REFOUNDING_GAP && epochs.1 > REFOUNDING_GAP && topics > 1 << 32);
    assert_eq!(state.partitions.generation(), REFOUNDING_GAP + 4);
}

#[test]
fn a_command_carries_its_namespace_and_an_unknown_one_is_an_error() {
    let command = ClusterCommand {
        ops: vec![put("k"), delete_topic()],
    };
    let bytes = postcard::to_allocvec(&command).unwrap();
    // Two operations; namespace 1, variant put, "k", "v", unlimited; namespace 2, variant delete topic, "missing".
    assert_eq!(bytes, b"\x02\x01\x00\x01k\x01v\x00\x02\x03\x07missing");
    assert_eq!(postcard::from_bytes::<ClusterCommand>(&bytes).unwrap(), command);
    let token = postcard::to_allocvec(&ClusterCommand { ops: vec![issue()] }).unwrap();
    // Namespace 3, variant issue, the id, node 4, the end, the time.
    assert_eq!(token, [&[1, 3, 0][..], &[1; 32], &[4, 100, 1]].concat());
    let token = postcard::to_allocvec(&ClusterCommand { ops: vec![spend(9)] }).unwrap();
    assert_eq!(token, [&[1, 3, 1][..], &[1; 32], &[4], &[9; 32], &[2]].concat());
    assert!(postcard::from_bytes::<ClusterCommand>(b"\x01\x04\x00\x01k\x01v").is_err());
    assert!(postcard::from_bytes::<ClusterCommand>(b"\x01\x01").is_err());
}

#[test]
fn commands_beyond_the_limits_are_refused_before_they_are_proposed() {
    let check = |ops: Vec<Op>, code: Option<&str>| {
        let refused = ClusterState::check(&ClusterCommand { ops }).err();
        assert_eq!(refused.map(|refusal| refusal.code).as_deref(), code);
    };
    check(vec![put("k"); MAX_OPS], None);
    check(vec![put("k"); MAX_OPS + 1], Some("operations-out-of-range"));
    check(vec![], Some("operations-out-of-range"));
    check(vec![put("k"), put("")], Some("empty-key"));
}

#[test]
fn programs_outside_change_and_read_keys_and_nothing_else() {
    let open = |role, ops: &[Op]| {
        let ops = ops.to_vec();
        ClusterState::open_to(role, &ClusterCommand { ops })
    };
    for role in [Role::Client, Role::Operator] {
        assert!(open(role, &[put("a"), conflict()]));
        for other in [register(4), delete_topic(), issue(), spend(1)] {
            assert!(!open(role, &[put("a"), other]), "{role}");
        }
        assert_eq!(state().query(role, &[9]).unwrap_err().code, "malformed-request");
    }
    assert!(!open(Role::Observer, &[put("a")]));
    assert_eq!(
        state().query(Role::Observer, &[9]).unwrap_err().code,
        "role-not-allowed"
    );
}
