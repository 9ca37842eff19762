//! Faults around a network in memory and around the real one.

use std::sync::atomic::{AtomicU64, Ordering};

use rivven_types::{BootEpoch, ClusterId, InstanceId};

use super::*;
use crate::{
    Class, MemoryNetwork, Method, Outcome, QuicTransport, Router,
    identity::{CertificateAuthority, NodeIdentity},
};

/// Counts its calls.
struct Count;

impl Method for Count {
    const ID: u16 = 0x8000;
    const NAME: &'static str = "count";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 16;
    type Request = ();
    type Response = u64;
}

fn router(count: &Arc<AtomicU64>) -> Router {
    let (router, count) = (Router::new(), Arc::clone(count));
    router.register::<Count, _, _>(move |_, ()| {
        let count = count.fetch_add(1, Ordering::Relaxed) + 1;
        async move { Ok(count) }
    });
    router
}

fn local(cluster: ClusterId, node: NodeId) -> LocalIdentity {
    LocalIdentity {
        cluster,
        node,
        instance: InstanceId::from_bytes([2; 16]),
        boot_epoch: BootEpoch(1),
    }
}

async fn count(from: &Transport, timeout_ms: u64) -> Result<u64, CallError> {
    let ctx = CallCtx::timeout(Duration::from_millis(timeout_ms));
    from.call::<Count>(2, &(), ctx).await
}

/// What holds of every network under the layer. A call must take well below `patience_ms`.
async fn check(one: Transport, counted: &AtomicU64, patience_ms: u64) {
    let faults = FaultLayer::seeded(1);
    let one = faults.wrap(one);
    assert_eq!(count(&one, 10_000).await.unwrap(), 1);

    let lossy = |lose_request, lose_response, duplicate| FaultProfile {
        lose_request,
        lose_response,
        duplicate,
        ..FaultProfile::default()
    };
    for (profile, counts) in [(lossy(1.0, 0.0, 0.0), 1), (lossy(0.0, 1.0, 0.0), 2)] {
        faults.profile(1, 2, profile);
        let error = count(&one, patience_ms).await.unwrap_err();
        assert_eq!((error.code(), error.outcome()), ("deadline", Outcome::Unknown));
        assert_eq!(counted.load(Ordering::Relaxed), counts);
    }
    faults.profile(1, 2, lossy(0.0, 0.0, 1.0));
    assert!(count(&one, 10_000).await.is_ok());
    assert_eq!(counted.load(Ordering::Relaxed), 4);

    faults.profile(1, 2, FaultProfile::default());
    for (from, to, counts) in [(1, 2, 4), (2, 1, 5)] {
        faults.cut(from, to);
        assert_eq!(count(&one, patience_ms).await.unwrap_err().code(), "deadline");
        faults.heal();
        assert_eq!(counted.load(Ordering::Relaxed), counts);
    }
    assert_eq!(count(&one, 10_000).await.unwrap(), 6);
    let expected = FaultStats {
        calls: 7,
        lost_requests: 1,
        lost_responses: 1,
        cut: 2,
        duplicated: 1,
        broken_transfers: 0,
    };
    assert_eq!(faults.stats(), expected);
}

#[tokio::test(start_paused = true)]
async fn around_the_network_in_memory() {
    let (network, cluster, counted) = (
        MemoryNetwork::new(),
        ClusterId::from_bytes([1; 16]),
        Arc::default(),
    );
    let one = network.join(local(cluster, 1), Router::new()).unwrap();
    let _two = network.join(local(cluster, 2), router(&counted)).unwrap();
    check(one, &counted, 100).await;
}

#[tokio::test]
async fn around_the_real_network() {
    let ca = CertificateAuthority::generate(ClusterId::from_bytes([1; 16])).unwrap();
    let counted = Arc::default();
    let start = |node, router| {
        let issued = ca.issue(node).unwrap();
        let identity = NodeIdentity::from_pem(ca.cert_pem(), issued.cert_pem(), issued.key_pem()).unwrap();
        let local = local(identity.cluster(), node);
        QuicTransport::builder(identity, local)
            .router(router)
            .start()
            .unwrap()
    };
    let (one, two) = (start(1, Router::new()), start(2, router(&counted)));
    one.set_address(2, two.local_addr().unwrap().into());
    check(one, &counted, 500).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_does_the_same_to_the_same_calls() {
    let run = |seed| async move {
        let (network, cluster) = (MemoryNetwork::new(), ClusterId::from_bytes([1; 16]));
        let _two = network.join(local(cluster, 2), router(&Arc::default())).unwrap();
        let faults = FaultLayer::seeded(seed);
        faults.default_profile(FaultProfile {
            lose_request: 0.2,
            lose_response: 0.2,
            duplicate: 0.2,
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(20),
        });
        let one = faults.wrap(network.join(local(cluster, 1), Router::new()).unwrap());
        let start = Instant::now();
        let mut said = Vec::new();
        for _ in 0..100 {
            let answer = count(&one, 50).await.ok();
            said.push((answer, start.elapsed()));
        }
        (said, faults.stats())
    };
    let (first, again, other) = (run(1).await, run(1).await, run(2).await);
    assert_eq!(first, again);
    assert_ne!(first.0, other.0);
}

/// Answers its first call after a second, and every later one at once, with its number.
#[tokio::test(start_paused = true)]
async fn the_first_response_to_a_repeated_request_counts() {
    let (network, cluster) = (MemoryNetwork::new(), ClusterId::from_bytes([1; 16]));
    let (router, begun, ended) = (
        Router::new(),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let done = Arc::clone(&ended);
    router.register::<Count, _, _>(move |_, ()| {
        let (number, ended) = (begun.fetch_add(1, Ordering::Relaxed) + 1, Arc::clone(&ended));
        async move {
            if number == 1 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            ended.fetch_add(1, Ordering::Relaxed);
            Ok(number)
        }
    });
    let _two = network.join(local(cluster, 2), router).unwrap();
    let faults = FaultLayer::seeded(1);
    let one = faults.wrap(network.join(local(cluster, 1), Router::new()).unwrap());
    let twice = FaultProfile {
        duplicate: 1.0,
        ..FaultProfile::default()
    };
    faults.default_profile(twice);
    let start = Instant::now();
    assert_eq!(count(&one, 10_000).await.unwrap(), 2);
    assert_eq!(
        (start.elapsed(), done.load(Ordering::Relaxed)),
        (Duration::ZERO, 1)
    );
    // The other request is under way all the same.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(done.load(Ordering::Relaxed), 2);
}
