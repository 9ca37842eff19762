//! Two nodes share their connections, whoever dials, and change from one to another without losing a call.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;

use super::*;
use crate::quic::hello::Purpose;

/// A node whose connections can be counted, and the calls that its handlers have carried out.
struct Counted {
    transport: Transport,
    shared: Arc<Shared>,
    executed: Arc<Mutex<Vec<(NodeId, u64)>>>,
}

/// Says its number, once.
struct Mark<const BULK: bool>;

impl<const BULK: bool> Method for Mark<BULK> {
    const ID: u16 = if BULK { 0x8021 } else { 0x8020 };
    const NAME: &'static str = "mark";
    const CLASS: Class = if BULK { Class::Bulk } else { Class::Raft };
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 16;
    type Request = u64;
    type Response = u64;
}

impl Counted {
    fn start(identity: NodeIdentity, boot_epoch: u64) -> Self {
        let executed = Arc::<Mutex<Vec<_>>>::default();
        let router = router(&Slept::default());
        let mark = {
            let executed = Arc::clone(&executed);
            move |caller: crate::Caller, number: u64| {
                lock(&executed).push((caller.peer.node, number));
                async move { Ok(number) }
            }
        };
        router.register::<Mark<false>, _, _>(mark.clone());
        router.register::<Mark<true>, _, _>(mark);
        let local = local(&identity, boot_epoch);
        let network = QuicTransport::builder(identity, local)
            .router(router)
            .start_network()
            .unwrap();
        Self {
            shared: Arc::clone(&network.shared),
            transport: Transport::new(network),
            executed,
        }
    }

    /// Connections with `node` that have not ended, main and bulk.
    fn connections(&self, node: NodeId) -> usize {
        self.shared.peer(node).map_or(0, |peer| peer.open_connections())
    }

    /// Connections this node has greeted others on.
    fn dialled(&self) -> u64 {
        lock(&self.shared.peers).values().map(|peer| peer.dialled()).sum()
    }

    /// Leaves every connection with `node`.
    fn leave(&self, node: NodeId) {
        for purpose in [Purpose::Main, Purpose::Bulk] {
            self.shared.peer(node).unwrap().leave(purpose);
        }
    }

    async fn mark(&self, to: NodeId, number: u64, bulk: bool) {
        let ctx = ctx(20_000);
        let answer = if bulk {
            self.transport.call::<Mark<true>>(to, &number, ctx).await
        } else {
            self.transport.call::<Mark<false>>(to, &number, ctx).await
        };
        assert_eq!(answer.unwrap(), number);
    }
}

/// Waits until both ends have `expected` connections with each other. `again` is done until they have.
async fn settle(one: &Counted, two: &Counted, expected: usize, again: impl Fn()) {
    let end = Instant::now() + Duration::from_secs(20);
    let ends = || {
        (
            one.connections(two.transport.local().node),
            two.connections(one.transport.local().node),
        )
    };
    while ends() != (expected, expected) {
        assert!(Instant::now() < end, "{:?}, not {expected} at each end", ends());
        again();
        sleep(Duration::from_millis(5)).await;
    }
}

/// Nodes of one process. In each round every one dials, and is dialled by, one to its right and one to its left.
const NODES: usize = 8;

/// Rounds; between two of them the connections are left, so that everybody dials anew.
const ROUNDS: usize = 125;

/// Calls of each node to each of both while they meet.
const CALLS: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_simultaneous_dials_leave_one_connection_each_and_no_call_lost_or_doubled() {
    let ca = authority();
    let nodes: Vec<_> = (1..=NODES)
        .map(|node| Counted::start(identity(&ca, node as NodeId), 1))
        .collect();
    for one in &nodes {
        for two in &nodes {
            introduce(&one.transport, &two.transport);
        }
    }
    let mut met = 0;
    for round in 0..ROUNDS {
        let distance = 1 + round % (NODES / 2 - 1);
        let pairs = || (0..NODES).map(|at| (&nodes[at], &nodes[(at + distance) % NODES]));
        met += pairs().count();
        // In some rounds both connections meet, in the others main alone.
        let kinds: &[bool] = if round % 5 == 0 { &[false, true] } else { &[false] };
        let calls = pairs().flat_map(|(one, two)| {
            let ids = (one.transport.local().node, two.transport.local().node);
            (0..CALLS).flat_map(move |number| {
                let number = number + round as u64 * CALLS;
                kinds.iter().flat_map(move |bulk| {
                    let number = 2 * number + u64::from(*bulk);
                    [one.mark(ids.1, number, *bulk), two.mark(ids.0, number, *bulk)]
                })
            })
        });
        join_all(calls).await;
        for (one, two) in pairs() {
            settle(one, two, kinds.len(), || {}).await;
        }
        for (one, two) in pairs() {
            // Either end may be the first to leave.
            let (first, second) = if round % 2 == 0 { (one, two) } else { (two, one) };
            // A dial that crossed may come through only after this.
            settle(one, two, 0, || first.leave(second.transport.local().node)).await;
        }
    }
    assert!(met >= 1_000, "{met}");
    let dialled: u64 = nodes.iter().map(Counted::dialled).sum();
    // Where both dialled, there was one connection too many.
    let crossed = dialled - (NODES * (ROUNDS + ROUNDS.div_ceil(5))) as u64;
    assert!(crossed >= 100, "only {crossed} dials crossed");
    let mut executed = 0;
    for node in &nodes {
        let marks = lock(&node.executed);
        let distinct: BTreeSet<_> = marks.iter().collect();
        assert_eq!(distinct.len(), marks.len(), "a call was carried out twice");
        executed += marks.len() as u64;
    }
    let bulk_rounds = ROUNDS.div_ceil(5);
    let expected = 2 * CALLS * (NODES * (ROUNDS + bulk_rounds)) as u64;
    assert_eq!(executed, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_under_load_leaves_no_call_in_doubt() {
    let ca = authority();
    let one = Counted::start(identity(&ca, 1), 1);
    let mut next = 0..;
    for boot_epoch in 1..=5 {
        let two = Counted::start(identity(&ca, 2), boot_epoch);
        introduce(&one.transport, &two.transport);
        one.mark(2, next.next().unwrap(), false).await;
        let numbers: Vec<_> = next.by_ref().take(16).collect();
        let leaving = &AtomicBool::new(false);
        let load = numbers.into_iter().map(|first| {
            let one = &one;
            async move {
                // The last number is that of the call that was refused.
                let mut number = first * 1_000_000;
                loop {
                    number += 1;
                    // Once the peer is gone a call waits in vain, and need not for long.
                    let patience = if leaving.load(Ordering::SeqCst) {
                        1_000
                    } else {
                        10_000
                    };
                    match one.transport.call::<Mark<false>>(2, &number, ctx(patience)).await {
                        Ok(_) => {}
                        Err(error) => return (number, error),
                    }
                }
            }
        });
        let shutdown = async {
            sleep(Duration::from_millis(50)).await;
            leaving.store(true, Ordering::SeqCst);
            two.transport.shutdown(Duration::from_secs(10)).await;
        };
        let (refused, ()) = tokio::join!(join_all(load), shutdown);
        let executed: BTreeSet<_> = lock(&two.executed).iter().map(|(_, number)| *number).collect();
        assert_eq!(executed.len(), lock(&two.executed).len());
        for (refused, error) in refused {
            assert_eq!(error.outcome(), crate::Outcome::NotDone, "{error}");
            assert!(!executed.contains(&refused), "{error}");
            let began = refused - refused % 1_000_000;
            assert!((began + 1..refused).all(|number| executed.contains(&number)));
            assert!(refused > began + 1, "there was no load: {error}");
        }
    }
}

#[tokio::test]
async fn a_left_connection_answers_what_is_in_flight_while_new_calls_take_another() {
    let (ca, slept) = (authority(), Slept::default());
    let one = Counted::start(identity(&ca, 1), 1);
    let two = identity(&ca, 2);
    let two_local = local(&two, 1);
    let two = start_with(two, two_local, &slept);
    introduce(&one.transport, &two);
    let slow = one.transport.call::<Sleep>(2, &300, ctx(10_000));
    let leaving = async {
        slept.wait_for(&["began"]).await;
        one.leave(2);
        echo(&one.transport, 2, ctx(5_000)).await.unwrap();
        // The handler still sleeps.
        assert_eq!(*lock(&slept.0), ["began"]);
        assert_eq!(one.connections(2), 2);
    };
    let (slow, ()) = tokio::join!(slow, leaving);
    slow.unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while one.connections(2) > 1 {
        assert!(Instant::now() < end);
        sleep(Duration::from_millis(5)).await;
    }
}
