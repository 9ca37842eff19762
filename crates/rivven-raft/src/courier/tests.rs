//! What goes together.

use std::time::Duration;

use bytes::Bytes;

use super::*;

fn way(sizes: &[usize]) -> Way {
    let parcel = |(number, len): (u64, &usize)| Parcel {
        number,
        proposal: WireProposal {
            namespace: 1,
            body: Bytes::from(vec![0; *len]),
        },
        deadline: Instant::now(),
        answer: oneshot::channel().0,
        trace: None,
    };
    let mut way = Way::default();
    (0..).zip(sizes).map(parcel).for_each(|parcel| way.push(parcel));
    way
}

#[test]
fn what_waits_goes_together_within_the_limits_of_a_message() {
    let check = |sizes: &[usize], expected: &[usize]| {
        let mut way = way(sizes);
        let mut next = 0;
        for expected in expected {
            let taken = way.take();
            assert_eq!(taken.len(), *expected);
            for parcel in taken {
                assert_eq!(parcel.number, next, "in their order");
                next += 1;
            }
        }
        assert!(way.take().is_empty());
    };
    check(&[], &[]);
    check(&[10; 3], &[3]);
    check(&[10; MAX_BATCH + 1], &[MAX_BATCH, 1]);
    check(&[BATCH_BYTES, 1, BATCH_BYTES / 2, BATCH_BYTES / 2, 1], &[1, 2, 2]);
    check(&[4 << 20, 4 << 20], &[1, 1]);
}

#[test]
fn a_message_leaves_beside_another_only_if_it_is_full() {
    let due = |sizes: &[usize], carriers| {
        Way {
            carriers,
            ..way(sizes)
        }
        .is_due()
    };
    assert!(due(&[10], 0));
    assert!(!due(&[10; MAX_BATCH - 1], 1));
    for full in [&[10; MAX_BATCH][..], &[BATCH_BYTES]] {
        assert!(due(full, 1) && due(full, MAX_CARRIERS - 1) && !due(full, MAX_CARRIERS));
    }
    // Of two carriers that come back, one takes what is not full.
    let mut way = Way {
        carriers: 2,
        ..way(&[10; MAX_BATCH + 1])
    };
    assert_eq!(way.next().map(|parcels| parcels.len()), Some(MAX_BATCH));
    assert!(way.next().is_none());
    assert_eq!(way.next().map(|parcels| parcels.len()), Some(1));
    assert!(way.next().is_none());
    assert_eq!((way.carriers, way.bytes), (0, 0));
}

#[test]
fn what_is_taken_back_makes_no_message_full() {
    let mut way = way(&[BATCH_BYTES, 10]);
    assert!(way.is_full() && way.withdraw(0) && !way.withdraw(0));
    assert!(!way.is_full());
    assert_eq!(way.take().len(), 1);
    assert_eq!(way.bytes, 0);
}

#[tokio::test]
async fn a_message_carries_the_first_sampled_trace_among_its_proposals() {
    use rivven_transport::{BootEpoch, ClusterId, InstanceId, LocalIdentity, MemoryNetwork, Router};

    let network = MemoryNetwork::new();
    let identity = |node| LocalIdentity {
        cluster: ClusterId::from_bytes([1; 16]),
        node,
        instance: InstanceId::from_bytes([2; 16]),
        boot_epoch: BootEpoch(1),
    };
    let (router, seen) = (Router::new(), Arc::<Mutex<Vec<Option<TraceContext>>>>::default());
    let seeing = Arc::clone(&seen);
    router.register::<ProposeMany, _, _>(move |caller, proposals: Vec<WireProposal>| {
        seeing.lock().unwrap().push(caller.trace);
        async move {
            Ok(proposals
                .iter()
                .map(|_| WireProposeResponse::Overloaded)
                .collect())
        }
    });
    let _leader = network.join(identity(2), router).unwrap();
    let transport = network.join(identity(1), Router::new()).unwrap();
    let courier = Arc::new(Courier::new(transport, TaskGroup::current()));
    let carry = || {
        let proposal = WireProposal {
            namespace: 1,
            body: Bytes::new(),
        };
        courier.carry(2, proposal, Instant::now() + Duration::from_secs(5))
    };
    let trace = |id, flags| TraceContext::new([id; 16], [1; 8], flags).unwrap();
    carry().await.unwrap();
    trace(1, 0).scope(carry()).await.unwrap();
    trace(2, 1).scope(carry()).await.unwrap();
    // The carrier of the first has not left when the others come.
    let (none, first, second) = (carry(), trace(3, 1).scope(carry()), trace(4, 1).scope(carry()));
    let together = tokio::join!(none, first, second);
    together.0.and(together.1).and(together.2).unwrap();
    let expected = [None, None, Some(trace(2, 1)), Some(trace(3, 1))];
    assert_eq!(*seen.lock().unwrap(), expected);
}
