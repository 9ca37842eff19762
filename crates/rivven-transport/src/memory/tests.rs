//! Links with faults, and that the same seed gives the same trace.

mod ends;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use rivven_types::{BootEpoch, ClusterId, InstanceId};
use tokio::time::sleep;

use super::*;
use crate::{
    CallCtx, CallError, Class, Method, PeerStatus, TaskGroup,
    identity::{Role, Roles},
};

struct Echo;

impl Method for Echo {
    const ID: u16 = 0x8000;
    const NAME: &'static str = "echo";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = 64;
    type Request = String;
    type Response = (NodeId, String);
}

/// Sleeps for so many milliseconds.
struct Sleep;

impl Method for Sleep {
    const ID: u16 = 0x8001;
    const NAME: &'static str = "sleep";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 16;
    type Request = u64;
    type Response = ();
}

/// Panics.
struct Panic;

impl Method for Panic {
    const ID: u16 = 0x8003;
    const NAME: &'static str = "panic";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 16;
    type Request = ();
    type Response = ();
}

/// For operators and clients alone.
struct Report;

impl Method for Report {
    const ID: u16 = 0x8002;
    const NAME: &'static str = "report";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 64;
    const ROLES: Roles = Roles::of(&[Role::Operator, Role::Client]);
    type Request = ();
    type Response = String;
}

/// How many handlers of [`Sleep`] began, ended, and were dropped before their end.
#[derive(Clone, Default)]
struct Slept(Arc<[AtomicUsize; 3]>);

impl Slept {
    fn counts(&self) -> [usize; 3] {
        [0, 1, 2].map(|at| self.0[at].load(Ordering::Relaxed))
    }
}

struct Witness(Slept, usize);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.0[self.1].fetch_add(1, Ordering::Relaxed);
    }
}

fn join_with(network: &MemoryNetwork, node: NodeId, slept: &Slept) -> Transport {
    let identity = LocalIdentity {
        cluster: ClusterId::from_bytes([1; 16]),
        node,
        instance: InstanceId::from_bytes([2; 16]),
        boot_epoch: BootEpoch(1),
    };
    let router = Router::new();
    router.register::<Echo, _, _>(|caller, text| async move { Ok((caller.peer.node, text)) });
    let slept = slept.clone();
    router.register::<Sleep, _, _>(move |_, ms| {
        let slept = slept.clone();
        async move {
            slept.0[0].fetch_add(1, Ordering::Relaxed);
            let mut witness = Witness(slept, 2);
            sleep(Duration::from_millis(ms)).await;
            witness.1 = 1;
            Ok(())
        }
    });
    router.register::<Panic, _, _>(|_, ()| async move { panic!("as the test wants") });
    network.join(identity, router).unwrap()
}

fn join(network: &MemoryNetwork, node: NodeId) -> Transport {
    join_with(network, node, &Slept::default())
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ctx(timeout_ms: u64) -> CallCtx {
    CallCtx::timeout(ms(timeout_ms))
}

async fn echo(from: &Transport, to: NodeId, timeout_ms: u64) -> Result<(NodeId, String), CallError> {
    from.call::<Echo>(to, &"hi".into(), ctx(timeout_ms)).await
}

async fn said(from: &Transport, to: NodeId, timeout_ms: u64) -> String {
    match echo(from, to, timeout_ms).await {
        Ok(_) => "ok".into(),
        Err(error) => error.code().into(),
    }
}

#[tokio::test(start_paused = true)]
async fn calls_reach_the_named_peer_and_carry_the_callers_identity() {
    let network = MemoryNetwork::new();
    let (one, _two) = (join(&network, 1), join(&network, 2));
    assert_eq!(echo(&one, 2, 1_000).await.unwrap(), (1, "hi".into()));
    assert_eq!(said(&one, 3, 1_000).await, "unreachable");
    let long = one
        .call::<Echo>(2, &"x".repeat(65), ctx(1_000))
        .await
        .unwrap_err();
    assert_eq!(long.code(), "not-sent");
}

#[tokio::test(start_paused = true)]
async fn a_cut_link_runs_into_the_deadline_in_either_direction() {
    let network = MemoryNetwork::new();
    let (one, _two) = (join(&network, 1), join(&network, 2));
    for (from, to) in [(1, 2), (2, 1)] {
        network.cut(from, to);
        assert_eq!(said(&one, 2, 1_000).await, "deadline");
        network.heal();
    }
    assert_eq!(said(&one, 2, 1_000).await, "ok");
    assert_eq!(
        network.stats().cut,
        3,
        "a request, its cancellation, and a response"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_dies_of_one_silent_direction_and_comes_back_when_healed() {
    let network = MemoryNetwork::new();
    let slept = Slept::default();
    let (one, two) = (join(&network, 1), join_with(&network, 2, &slept));
    let tasks = TaskGroup::current();
    let caller = one.clone();
    let in_flight = tasks.spawn(async move { caller.call::<Sleep>(2, &60_000, ctx(60_000)).await });
    sleep(ms(1_000)).await;
    network.cut(2, 1);
    assert_eq!(one.status(2), PeerStatus::Up);
    let start = Instant::now();
    let error = in_flight.await.unwrap().unwrap().unwrap_err();
    assert_eq!((error.code(), start.elapsed()), ("maybe-executed", ms(4_000)));
    sleep(ms(1)).await;
    assert_eq!(slept.counts(), [1, 0, 1], "the handler ends with the connection");
    assert_eq!(one.status(2), PeerStatus::Down);

    let start = Instant::now();
    assert_eq!(said(&one, 2, 300).await, "unreachable");
    assert_eq!(said(&two, 1, 300).await, "unreachable");
    assert_eq!(
        start.elapsed(),
        ms(600),
        "a call waits for a connection until its deadline"
    );

    let caller = one.clone();
    let waiting = tasks.spawn(async move { said(&caller, 2, 5_000).await });
    sleep(ms(200)).await;
    network.heal_link(2, 1);
    assert_eq!(waiting.await.unwrap().unwrap(), "ok");
}

#[tokio::test(start_paused = true)]
async fn a_partition_separates_its_sides_and_nothing_else() {
    let network = MemoryNetwork::new();
    let nodes = [1, 2, 3, 4].map(|node| join(&network, node));
    network.partition(&[1, 2], &[3, 4]);
    for (at, one) in nodes.iter().enumerate() {
        for to in 1..=4 {
            let together = (at < 2) == (to <= 2);
            assert_eq!(said(one, to, 100).await, if together { "ok" } else { "deadline" });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn delay_and_bandwidth_take_their_time() {
    let network = MemoryNetwork::new();
    let (one, _two) = (join(&network, 1), join(&network, 2));
    let delay = LinkProfile {
        delay: ms(20),
        ..LinkProfile::default()
    };
    network.link(1, 2, delay);
    network.link(
        2,
        1,
        LinkProfile {
            delay: ms(30),
            ..delay
        },
    );
    let start = Instant::now();
    echo(&one, 2, 1_000).await.unwrap();
    assert_eq!(start.elapsed(), ms(50));

    // Four requests of 20 + 3 bytes over 1,000 bytes per second.
    network.link(
        1,
        2,
        LinkProfile {
            bandwidth: Some(1_000),
            ..LinkProfile::default()
        },
    );
    network.link(2, 1, LinkProfile::default());
    let start = Instant::now();
    let calls = futures_util::future::join_all((0..4).map(|_| echo(&one, 2, 1_000))).await;
    assert!(calls.iter().all(Result::is_ok));
    assert_eq!(start.elapsed(), ms(4 * 23));
}

#[tokio::test(start_paused = true)]
async fn frames_keep_their_order_unless_the_link_reorders() {
    let orders = |profile: LinkProfile| async move {
        let network = MemoryNetwork::seeded(3);
        let (one, _two) = (join(&network, 1), join(&network, 2));
        network.link(1, 2, profile);
        let done = Mutex::new(Vec::new());
        let calls = (0..50).map(|call| {
            let (one, done) = (one.clone(), &done);
            async move {
                echo(&one, 2, 5_000).await.unwrap();
                done.lock().unwrap().push(call);
            }
        });
        futures_util::future::join_all(calls).await;
        (done.into_inner().unwrap(), network.stats().reordered)
    };
    let jitter = LinkProfile {
        delay: ms(1),
        jitter: ms(50),
        ..LinkProfile::default()
    };
    let in_order: Vec<_> = (0..50).collect();
    assert_eq!(orders(jitter).await, (in_order.clone(), 0));
    let (order, reordered) = orders(LinkProfile {
        reorder: 0.5,
        ..jitter
    })
    .await;
    assert!(order != in_order && reordered > 10, "{reordered} in {order:?}");
}

#[tokio::test(start_paused = true)]
async fn lost_frames_leave_the_outcome_open_and_duplicates_run_twice() {
    let network = MemoryNetwork::seeded(1);
    let slept = Slept::default();
    let (one, _two) = (join(&network, 1), join_with(&network, 2, &slept));
    network.link(
        2,
        1,
        LinkProfile {
            loss: 1.0,
            ..LinkProfile::default()
        },
    );
    let error = one.call::<Sleep>(2, &1, ctx(100)).await.unwrap_err();
    assert_eq!(
        (error.code(), error.outcome()),
        ("deadline", crate::Outcome::Unknown)
    );
    assert_eq!(slept.counts(), [1, 1, 0], "only the response was lost");

    network.link(2, 1, LinkProfile::default());
    network.link(
        1,
        2,
        LinkProfile {
            duplicate: 1.0,
            ..LinkProfile::default()
        },
    );
    one.call::<Sleep>(2, &1, ctx(100)).await.unwrap();
    sleep(ms(10)).await;
    assert_eq!(slept.counts()[0], 3);
    assert_eq!((network.stats().lost, network.stats().duplicated), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_handler_ends_with_its_caller_after_the_cancellation_has_travelled() {
    let network = MemoryNetwork::new();
    let slept = Slept::default();
    let (one, _two) = (join(&network, 1), join_with(&network, 2, &slept));
    network.default_link(LinkProfile {
        delay: ms(50),
        ..LinkProfile::default()
    });
    let timed_out = tokio::time::timeout(ms(100), one.call::<Sleep>(2, &10_000, ctx(20_000))).await;
    assert!(timed_out.is_err());
    sleep(ms(40)).await;
    assert_eq!(slept.counts(), [1, 0, 0]);
    sleep(ms(11)).await;
    assert_eq!(slept.counts(), [1, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_ends_the_calls_in_both_directions() {
    let network = MemoryNetwork::new();
    let slept = Slept::default();
    let (one, two) = (join_with(&network, 1, &slept), join_with(&network, 2, &slept));
    let tasks = TaskGroup::current();
    let calls = [(one.clone(), 2), (two.clone(), 1)]
        .map(|(from, to)| tasks.spawn(async move { from.call::<Sleep>(to, &60_000, ctx(60_000)).await }));
    sleep(ms(10)).await;
    let closing = two.clone();
    let closed = tasks.spawn(async move { closing.shutdown(ms(500)).await });
    sleep(ms(10)).await;
    assert_eq!(said(&one, 2, 100).await, "shutting-down");
    closed.await.unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().unwrap_err().code(), "maybe-executed");
    }
    sleep(ms(1)).await;
    assert_eq!(slept.counts(), [2, 0, 2]);
    assert_eq!(said(&one, 2, 100).await, "unreachable");
}

#[tokio::test(start_paused = true)]
async fn a_denied_node_loses_the_calls_in_flight_in_both_directions_at_once() {
    let network = MemoryNetwork::new();
    let slept = Slept::default();
    let (one, two) = (join_with(&network, 1, &slept), join_with(&network, 2, &slept));
    let three = join_with(&network, 3, &slept);
    let tasks = TaskGroup::current();
    let calls = [(one.clone(), 2), (two.clone(), 1)]
        .map(|(from, to)| tasks.spawn(async move { from.call::<Sleep>(to, &60_000, ctx(60_000)).await }));
    let other = three.clone();
    let other = tasks.spawn(async move { other.call::<Sleep>(2, &50, ctx(1_000)).await });
    sleep(ms(10)).await;
    let start = Instant::now();
    one.deny(2);
    for call in calls {
        let error = call.await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.code(), "maybe-executed");
        assert!(error.to_string().contains("denies"), "{error}");
    }
    assert_eq!(start.elapsed(), ms(0));
    for (from, to, code) in [(&one, 2, "unreachable"), (&two, 1, "member-removed")] {
        assert_eq!(said(from, to, 100).await, code);
    }
    assert!(
        other.await.unwrap().unwrap().is_ok(),
        "a third node is not concerned"
    );
    assert_eq!(slept.counts(), [3, 1, 2], "the handlers end with the connection");
    one.allow(2);
    assert_eq!(said(&one, 2, 100).await, "ok");
}

/// The same as `quic::tests::roles`.
#[tokio::test(start_paused = true)]
async fn a_method_is_open_to_the_roles_it_names() {
    let network = MemoryNetwork::new();
    let one = LocalIdentity {
        cluster: ClusterId::from_bytes([1; 16]),
        node: 1,
        instance: InstanceId::from_bytes([1; 16]),
        boot_epoch: BootEpoch(1),
    };
    let router = Router::new();
    router.register::<Echo, _, _>(|caller, text| async move { Ok((caller.peer.node, text)) });
    router.register::<Report, _, _>(|caller, ()| async move { Ok(format!("{:?}", caller.role)) });
    let one = network.join(one, router).unwrap();
    for (node, role, echoes, reports) in [
        (2, Role::Node, true, false),
        (3, Role::Observer, false, false),
        (0, Role::Operator, false, true),
        (0, Role::Client, false, true),
    ] {
        let identity = LocalIdentity {
            node,
            ..one.local().clone()
        };
        let peer = network.join_as(identity, role, Router::new()).unwrap();
        let echoed = said(&peer, 1, 100).await;
        assert_eq!(echoed, if echoes { "ok" } else { "role-not-allowed" }, "{role}");
        match peer.call::<Report>(1, &(), ctx(100)).await {
            Ok(found) => assert!(reports && found == format!("{:?}", Some(role))),
            Err(error) => assert!(!reports && error.code() == "role-not-allowed", "{error}"),
        }
        // Members can be found and called back; operators and clients are no peers.
        assert_eq!(one.peer(node).is_some(), role.is_member(), "{role}");
        assert_ne!(said(&one, node, 100).await, "ok", "it serves no method");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_beyond_the_bounds_wait_and_then_are_refused_unsent() {
    let network = MemoryNetwork::new();
    let slept = Slept::default();
    let (one, _two) = (join(&network, 1), join_with(&network, 2, &slept));
    let calls =
        (0..limits::MAX_IN_FLIGHT + limits::MAX_WAITING + 1).map(|_| one.call::<Sleep>(2, &1_000, ctx(500)));
    let calls = async {
        let mut codes = std::collections::BTreeMap::new();
        for call in futures_util::future::join_all(calls).await {
            *codes.entry(call.unwrap_err().code().to_owned()).or_insert(0) += 1;
        }
        codes
    };
    // Another class keeps its own bounds.
    let (codes, other) = tokio::join!(calls, said(&one, 2, 100));
    assert_eq!(codes["deadline"], limits::MAX_IN_FLIGHT);
    assert_eq!(codes["overloaded"], limits::MAX_WAITING + 1);
    assert_eq!(other, "ok");
    assert_eq!(slept.counts()[0], limits::MAX_IN_FLIGHT);
}

#[tokio::test]
async fn a_dropped_node_frees_its_id_and_a_live_one_keeps_it() {
    let network = MemoryNetwork::new();
    let one = join(&network, 1);
    let again = network.join(one.local().clone(), Router::new());
    assert_eq!(again.unwrap_err(), MemoryNetworkError::DuplicateNode(1));
    drop(one);
    join(&network, 1);
}

/// Three nodes that call each other over bad links; what each call said, and what the network did.
async fn rough_day(seed: u64) -> (Vec<(u64, String)>, MemoryStats) {
    let network = MemoryNetwork::seeded(seed);
    let nodes = [1, 2, 3].map(|node| join(&network, node));
    network.default_link(LinkProfile {
        delay: ms(2),
        jitter: ms(8),
        loss: 0.1,
        duplicate: 0.05,
        reorder: 0.2,
        bandwidth: Some(100_000),
    });
    let start = Instant::now();
    let callers = nodes.iter().map(|from| {
        let network = network.clone();
        async move {
            let mut heard = Vec::new();
            for call in 0..200u64 {
                if from.local().node == 1 && call % 50 == 10 {
                    network.partition(&[1], &[2]);
                }
                if from.local().node == 1 && call % 50 == 30 {
                    network.heal();
                }
                let to = (from.local().node + call) % 3 + 1;
                let said_now = said(from, to, 100).await;
                heard.push((u64::try_from(start.elapsed().as_nanos()).unwrap(), said_now));
            }
            heard
        }
    });
    let said = futures_util::future::join_all(callers).await.concat();
    (said, network.stats())
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_trace_and_another_one_does_not() {
    let (first, again, other) = (rough_day(5).await, rough_day(5).await, rough_day(6).await);
    assert_eq!(first, again);
    assert_ne!(first.1.trace, other.1.trace);
    let stats = first.1;
    let faults = [stats.lost, stats.cut, stats.duplicated, stats.reordered];
    assert!(faults.iter().all(|count| *count > 10), "{stats:?}");
}
