//! The decision, the keeper, and a cluster that changes keys while its network fails.

mod simulation;

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId};

use super::*;
use crate::{
    LocalIdentity, MemoryNetwork, Router, TaskGroup, Transport,
    datagram::{GossipKey, KeyRing},
};

fn made(byte: u8) -> GossipKey {
    GossipKey::from_bytes([byte; 32])
}

fn local(node: NodeId, boot_epoch: u64) -> LocalIdentity {
    LocalIdentity {
        cluster: ClusterId::from_bytes([1; 16]),
        node,
        instance: InstanceId::from_bytes([node.to_le_bytes()[0]; 16]),
        boot_epoch: BootEpoch(boot_epoch),
    }
}

const POLICY: RotationPolicy = RotationPolicy {
    interval: Duration::from_secs(100),
    grace: Duration::from_secs(5),
    urgent_wait: Duration::from_secs(10),
};

/// `members` in short: `+` has the ring, `.` has not answered, `o` is dead and has not, `-` has no keys.
#[track_caller]
fn check(ring: Option<&KeyRing>, members: &str, demand: KeyDemand, now_s: u64, expected: Option<KeyStep>) {
    let held = ring.map_or(Answer::Empty, |ring| Answer::Holds(ring.version()));
    let member = |kind| KeyMember {
        alive: kind != 'o',
        answer: match kind {
            '+' => held,
            '-' => Answer::Empty,
            '?' => Answer::Holds(KeyRing::bootstrap(made(99)).version()),
            _ => Answer::None,
        },
    };
    let members: Vec<KeyMember> = members.chars().map(member).collect();
    let planned = plan(ring, &members, demand, now_s * 1_000, &POLICY);
    assert_eq!(planned, expected, "at {now_s} s");
}

const CALM: KeyDemand = KeyDemand {
    by_hand: false,
    removals: 0,
};
const BY_HAND: KeyDemand = KeyDemand {
    by_hand: true,
    removals: 0,
};

#[test]
fn keys_are_made_once_a_majority_and_every_live_member_says_that_it_has_none() {
    check(None, "--.", CALM, 0, None);
    check(None, "--o", CALM, 0, Some(KeyStep::Found));
    check(None, "-oo", CALM, 0, None);
    check(None, "--?", CALM, 0, None);
    check(None, "-", CALM, 0, Some(KeyStep::Found));
    check(None, "", CALM, 0, None);
}

#[test]
fn a_change_waits_for_every_live_member_and_a_majority_of_all() {
    let settled = KeyRing::bootstrap(made(1));
    let stage = Some(KeyStep::Stage { urgent: false });
    check(Some(&settled), "+++", CALM, 99, None);
    check(Some(&settled), "+++", CALM, 100, stage);
    check(Some(&settled), "++.", CALM, 100, None);
    check(Some(&settled), "++-", CALM, 100, None);
    check(Some(&settled), "++o", CALM, 100, stage);
    check(Some(&settled), "+oo", CALM, 100, None);
    let staged = settled.stage(made(2), 1, 100_000, 0, false);
    check(Some(&staged), "+++", CALM, 100, Some(KeyStep::Activate));
    check(Some(&staged), "++?", CALM, 1_000, None);
    let activated = staged.activate(1, 101_000);
    check(Some(&activated), "+++", CALM, 105, None);
    check(Some(&activated), "+++", CALM, 106, Some(KeyStep::Retire));
    check(Some(&activated), "++.", CALM, 1_000, None);
    let retired = activated.retire(1, 106_000);
    check(Some(&retired), "+++", CALM, 205, None);
    check(Some(&retired), "+++", CALM, 206, stage);
}

#[test]
fn an_operator_and_a_removed_node_ask_for_another_key_at_once_and_only_once() {
    let removed = KeyDemand {
        by_hand: false,
        removals: 2,
    };
    let urgent = Some(KeyStep::Stage { urgent: true });
    let settled = KeyRing::bootstrap(made(1));
    check(Some(&settled), "+++", BY_HAND, 1, urgent);
    check(Some(&settled), "+++", removed, 1, urgent);
    let staged = settled.stage(made(2), 1, 1_000, 2, true);
    let activated = staged.activate(1, 2_000);
    check(Some(&activated), "+++", removed, 2, None);
    check(Some(&activated), "+++", BY_HAND, 2, urgent);
    check(Some(&activated.retire(1, 9_000)), "+++", removed, 9, None);
}

#[test]
fn an_urgent_change_waits_so_long_and_no_longer_and_never_without_a_majority() {
    let staged = KeyRing::bootstrap(made(1)).stage(made(2), 1, 1_000, 0, true);
    check(Some(&staged), "++.", BY_HAND, 10, None);
    check(Some(&staged), "++.", BY_HAND, 11, Some(KeyStep::Activate));
    check(Some(&staged), "+..", BY_HAND, 1_000, None);
}

#[test]
fn a_clock_set_back_does_not_keep_a_key_for_ever() {
    let ring = KeyRing::found(made(1), 1, 1_000_000_000);
    check(Some(&ring), "+", CALM, 1_000_000, None);
    check(Some(&ring), "+", CALM, 999_950, None);
    check(Some(&ring), "+", CALM, 0, Some(KeyStep::Stage { urgent: false }));
}

fn keeper(ring: Option<&KeyRing>) -> Arc<KeyKeeper> {
    KeyKeeper::holding(ring.cloned(), None, TaskGroup::current())
}

/// A node that answers for `keeper`.
fn join(network: &MemoryNetwork, node: NodeId, keeper: &Arc<KeyKeeper>) -> Transport {
    let router = Router::new();
    keeper.serve(&router, |caller| Standing {
        belongs: caller != 66,
        removals: 3,
    });
    network.join(local(node, 1), router).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_fetches_what_is_greater_and_offers_what_it_has() {
    let network = MemoryNetwork::new();
    let old = KeyRing::bootstrap(made(1));
    let new = old.stage(made(2), 1, 0, 0, false).activate(1, 0);
    let (one, two, none) = (keeper(Some(&old)), keeper(Some(&new)), keeper(None));
    let to_one = join(&network, 1, &one);
    let to_two = join(&network, 2, &two);
    let to_none = join(&network, 3, &none);
    assert!(
        one.fetch(&to_one, 3).await.unwrap(),
        "node 3 has none, node 1 has"
    );
    assert!(two.fetch(&to_two, 1).await.unwrap());
    assert_eq!(two.held().unwrap().version(), new.version());
    assert!(none.held().is_none());
    assert!(one.fetch(&to_one, 2).await.unwrap());
    assert_eq!(one.held().unwrap().version(), new.version());
    assert_eq!(one.keys().ring().unwrap().version(), new.version());
    // Whoever offers something lesser hears what is greater.
    assert_eq!(one.offer(&to_one, 2, &old).await.unwrap(), new.version());
    assert_eq!(one.offer(&to_one, 3, &new).await.unwrap(), new.version());
    assert_eq!(none.held().unwrap().version(), new.version());
    drop(to_none);
    let removed = keeper(None);
    let stranger = join(&network, 66, &removed);
    let refused = removed.fetch(&stranger, 1).await.unwrap_err();
    assert_eq!(refused.code(), "node-removed");
    assert_eq!(
        removed.offer(&stranger, 1, &old).await.unwrap_err().code(),
        "node-removed"
    );
}

#[tokio::test(start_paused = true)]
async fn keys_made_after_a_removal_come_from_nobody_who_has_not_heard_of_it() {
    let network = MemoryNetwork::new();
    // The nodes of these tests know of three removals, and so cannot tell who the fourth one was.
    let ring = KeyRing::bootstrap(made(1)).stage(made(2), 1, 0, 4, true);
    let known = KeyRing::bootstrap(made(1)).stage(made(2), 1, 0, 3, true);
    let (behind, up_to_date, asking) = (keeper(Some(&ring)), keeper(Some(&known)), keeper(None));
    let _nodes = [join(&network, 1, &behind), join(&network, 2, &up_to_date)];
    let transport = join(&network, 3, &asking);
    let refused = asking.fetch(&transport, 1).await.unwrap_err();
    assert_eq!(refused.code(), "removals-not-applied");
    assert!(asking.held().is_none());
    assert!(asking.fetch(&transport, 2).await.unwrap());
    assert_eq!(asking.held().unwrap().version(), known.version());
}

#[tokio::test(start_paused = true)]
async fn a_starting_node_asks_before_it_gossips_and_does_not_wait_for_ever() {
    let network = MemoryNetwork::new();
    let old = KeyRing::bootstrap(made(1));
    let new = old.stage(made(2), 1, 0, 0, false).activate(1, 0);
    let tasks = TaskGroup::current();
    let late = keeper(Some(&old));
    let transport = join(&network, 1, &late);
    tasks.spawn(Arc::clone(&late).follow(transport, || vec![2], false));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(late.keys().ring().is_none(), "node 2 may have newer keys");
    let ahead = keeper(Some(&new));
    let _ahead = join(&network, 2, &ahead);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(late.keys().ring().unwrap().version(), new.version());

    let first = keeper(Some(&old));
    let transport = join(&network, 4, &first);
    tasks.spawn(Arc::clone(&first).follow(transport, || vec![5], false));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(first.keys().ring().unwrap().version(), old.version());
    tasks.abort();
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_fetched_but_not_as_often_as_forgeries_ask() {
    let network = MemoryNetwork::new();
    let ring = KeyRing::bootstrap(made(1));
    let (one, two) = (keeper(Some(&ring)), keeper(Some(&ring)));
    let (to_one, _to_two) = (join(&network, 1, &one), join(&network, 2, &two));
    let tasks = TaskGroup::current();
    tasks.spawn(Arc::clone(&one).follow(to_one, || vec![1, 2], false));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = network.stats();
    for _ in 0..1_000 {
        one.keys().report_missing();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let calls = network.stats().sent - before.sent;
    assert!((10..=60).contains(&calls), "{calls} frames in ten seconds");
    two.adopt(ring.stage(made(2), 1, 0, 0, false)).await.unwrap();
    one.keys().report_missing();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(one.held().unwrap().version(), two.held().unwrap().version());
    tasks.abort();
}

/// Node 1 went away when it had acknowledged key 1, and comes back when the others have dropped key 0. It
/// reads all that they send, so that it has no reason of its own to look for keys.
#[tokio::test(start_paused = true)]
async fn a_node_that_only_the_others_can_not_read_learns_of_it_without_a_controller() {
    let network = MemoryNetwork::new();
    let staged = KeyRing::bootstrap(made(1)).stage(made(2), 1, 0, 0, false);
    let retired = staged.activate(1, 0).retire(1, 0);
    let tasks = TaskGroup::current();
    let keepers = [&staged, &retired, &retired, &retired, &retired].map(|ring| keeper(Some(ring)));
    for (node, keeper) in (1..).zip(&keepers) {
        let transport = join(&network, node, keeper);
        let peers = || (1..=5).collect();
        tasks.spawn(Arc::clone(keeper).follow(transport, peers, node == 1));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..60 {
        keepers[1].keys().report_missing();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(keepers[0].held().unwrap().version(), retired.version());
    tasks.abort();
}

#[tokio::test]
async fn a_ring_is_kept_across_restarts_readable_by_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gossip.keys");
    let open = |bootstrap| KeyKeeper::open(Some(path.clone()), bootstrap, TaskGroup::current());
    assert!(open(None).unwrap().held().is_none());
    let keeper = open(Some(made(1))).unwrap();
    assert!(keeper.keys().ring().is_none() && !path.exists());
    let ring = KeyRing::bootstrap(made(1)).stage(made(2), 1, 0, 0, false);
    assert!(keeper.adopt(ring.clone()).await.unwrap());
    assert!(!keeper.adopt(ring.clone()).await.unwrap());
    assert!(!keeper.adopt(KeyRing::bootstrap(made(1))).await.unwrap());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let again = open(Some(made(1))).unwrap();
    assert_eq!(again.held().unwrap().version(), ring.version());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(open(None).unwrap_err().code(), "gossip-keys-exposed");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 1]).unwrap();
    assert_eq!(open(None).unwrap_err().code(), "gossip-keys-malformed");
    let missing = dir.path().join("no/such/gossip.keys");
    let keeper = KeyKeeper::open(Some(missing), None, TaskGroup::current()).unwrap();
    let refused = keeper.adopt(ring).await.unwrap_err();
    assert_eq!(
        (refused.code(), keeper.held().is_none()),
        ("gossip-keys-io", true)
    );
}

#[tokio::test(start_paused = true)]
async fn without_any_key_the_first_is_made_for_all_and_then_replaced_in_time() {
    let network = MemoryNetwork::new();
    let keepers: Vec<_> = (0..3).map(|_| keeper(None)).collect();
    let transports: Vec<_> = (1..)
        .zip(&keepers)
        .map(|(node, keeper)| join(&network, node, keeper))
        .collect();
    let mut rotation = KeyRotation::new();
    let mut now_ms = 1_000_000;
    let mut steps = Vec::new();
    for _ in 0..400 {
        let input = RotationInput {
            term: 4,
            now_ms,
            members: (1..=3).map(|node| (node, true)).collect::<BTreeMap<_, _>>(),
            demand: CALM,
            policy: POLICY,
        };
        let confirm = || async { true };
        let done = rotation.round(&keepers[0], &transports[0], &input, confirm).await;
        if !done.is_empty() {
            steps.push(done);
        }
        assert!(rotation.waiting_for(&keepers[0], &input).is_empty());
        now_ms += 1_000;
    }
    let change = || {
        [
            vec![KeyStep::Stage { urgent: false }, KeyStep::Activate],
            vec![KeyStep::Retire],
        ]
    };
    let expected: Vec<_> = [vec![KeyStep::Found]]
        .into_iter()
        .chain((0..3).flat_map(|_| change()))
        .collect();
    assert_eq!(steps, expected);
    for keeper in &keepers {
        assert_eq!(keeper.held().unwrap().current().epoch(), 4);
    }
}
