//! Calls: answers, refusals, limits, deadlines, cancellation.

use futures_util::future::join_all;

use super::*;
use crate::{MethodSpec, Outcome, TraceContext};

#[tokio::test]
async fn calls_of_every_class_are_answered_in_both_directions() {
    let (one, two) = pair();
    assert_eq!(echo(&one, 2, ctx(5000)).await.unwrap(), (1, "hi".into()));
    assert_eq!(echo(&two, 1, ctx(5000)).await.unwrap(), (2, "hi".into()));
    one.call::<Sleep>(2, &0, ctx(5000)).await.unwrap();
    let bulk = vec![7; 1_000_000];
    assert_eq!(one.call::<BulkEcho>(2, &bulk, ctx(5000)).await.unwrap(), bulk);
    assert_eq!(one.status(2), PeerStatus::Up);
    let seen = one.peer(2).unwrap();
    assert_eq!((seen.node, seen.boot_epoch), (2, BootEpoch(1)));
    assert_eq!(one.observed_ip(), Some("127.0.0.1".parse().unwrap()));
}

#[tokio::test]
async fn a_node_calls_itself_without_a_connection() {
    let (one, _two) = pair();
    assert_eq!(echo(&one, 1, ctx(100)).await.unwrap(), (1, "hi".into()));
    let panicked = one.call::<Fail>(1, &"panic".into(), ctx(5000)).await.unwrap_err();
    let expected = ("maybe-executed", Outcome::Unknown);
    assert_eq!((panicked.code(), panicked.outcome()), expected);
}

#[tokio::test]
async fn many_calls_travel_at_once_and_answers_overtake_each_other() {
    let (one, _two) = pair();
    let slow = one.call::<Sleep>(2, &60_000, ctx(60_000));
    let many = async {
        let texts: Vec<_> = (0..1_000).map(|n| format!("{n}{}", "x".repeat(n * 7))).collect();
        let calls = texts.iter().map(|text| one.call::<Echo>(2, text, ctx(30_000)));
        for (text, answer) in texts.iter().zip(join_all(calls).await) {
            assert_eq!(answer.unwrap().1, *text);
        }
        // On the lane of the sleeping call too.
        one.call::<Sleep>(2, &0, ctx(30_000)).await.unwrap();
    };
    tokio::select! {
        biased;
        slow = slow => panic!("the call that began first had its answer first: {slow:?}"),
        () = many => {}
    }
}

#[tokio::test]
async fn refusals_of_handlers_and_their_panics_are_told_apart() {
    let (one, two) = pair();
    let rejected = one.call::<Fail>(2, &"bad".into(), ctx(5000)).await.unwrap_err();
    assert_eq!(
        (rejected.code(), rejected.outcome()),
        ("no-such-luck", Outcome::NotDone)
    );
    let panicked = one.call::<Fail>(2, &"panic".into(), ctx(5000)).await.unwrap_err();
    assert_eq!(
        (panicked.code(), panicked.outcome()),
        ("maybe-executed", Outcome::Unknown)
    );
    two.shutdown(Duration::ZERO).await;
    let (one, _two) = {
        let ca = authority();
        let one = start(identity(&ca, 1));
        let two = identity(&ca, 2);
        let local = local(&two, 1);
        let two = QuicTransport::builder(two, local).start().unwrap();
        introduce(&one, &two);
        (one, two)
    };
    assert_eq!(
        echo(&one, 2, ctx(5000)).await.unwrap_err().code(),
        "unknown-method"
    );
}

/// Echo with other limits: what a peer of another release might send.
macro_rules! other_echo {
    ($name:ident, $class:expr, $request:expr, $response:expr) => {
        struct $name;

        impl Method for $name {
            const ID: u16 = Echo::ID;
            const NAME: &'static str = "other-echo";
            const CLASS: Class = $class;
            const MAX_REQUEST: usize = $request;
            const MAX_RESPONSE: usize = $response;
            type Request = String;
            type Response = (NodeId, String);
        }
    };
}

other_echo!(LongEcho, Class::Client, 4 << 20, 1 << 20);
other_echo!(ShortEcho, Class::Client, 64, 1);
other_echo!(RaftEcho, Class::Raft, 64, 64);

#[tokio::test]
async fn oversize_bodies_are_refused_where_they_are_noticed() {
    let (one, _two) = pair();
    let long = "x".repeat(Echo::MAX_REQUEST);
    let own_limit = one.call::<Echo>(2, &long, ctx(5000)).await.unwrap_err();
    assert_eq!(own_limit.code(), "not-sent");
    let peers_limit = one.call::<LongEcho>(2, &long, ctx(5000)).await.unwrap_err();
    assert_eq!(peers_limit.code(), "request-too-large");
    // Below the types nothing keeps the limits of a method within those of its class.
    let spec = MethodSpec {
        max_request: usize::MAX,
        ..MethodSpec::of::<LongEcho>()
    };
    let body = vec![0; 8 << 20].into();
    let class_limit = one.network().call(2, spec, body, ctx(5000)).await.unwrap_err();
    assert_eq!(class_limit.code(), "not-sent");
    let wrong_class = one.call::<RaftEcho>(2, &"x".into(), ctx(5000)).await.unwrap_err();
    assert_eq!(wrong_class.code(), "wrong-class");
    let response = one
        .call::<ShortEcho>(2, &"hi".into(), ctx(5000))
        .await
        .unwrap_err();
    assert_eq!(
        (response.code(), response.outcome()),
        ("maybe-executed", Outcome::Unknown)
    );
    // The connection was closed for that; the next call makes a new one.
    echo(&one, 2, ctx(5000)).await.unwrap();
}

#[tokio::test]
async fn a_call_whose_deadline_passed_before_it_left_was_not_sent() {
    let (one, _two) = pair();
    echo(&one, 2, ctx(5000)).await.unwrap();
    let late = echo(&one, 2, ctx(0)).await.unwrap_err();
    assert_eq!((late.code(), late.outcome()), ("not-sent", Outcome::NotDone));
}

#[tokio::test]
async fn calls_that_wait_for_a_connection_are_bounded() {
    let one = start(identity(&authority(), 1));
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    one.set_address(2, nobody.local_addr().unwrap().into());
    let calls = (0..=limits::MAX_WAITING).map(|_| echo(&one, 2, ctx(300)));
    let codes = join_all(calls).await;
    let overloaded = codes.iter().flat_map(|call| call.as_ref().err());
    let overloaded = overloaded.filter(|error| error.code() == "overloaded").count();
    assert_eq!(overloaded, 1, "the last one");
    // Whoever has stopped waiting leaves room.
    assert_eq!(echo(&one, 2, ctx(50)).await.unwrap_err().code(), "unreachable");
}

#[tokio::test]
async fn a_dropped_call_and_a_missed_deadline_end_the_handler() {
    let ca = authority();
    let slept = Slept::default();
    let one = start(identity(&ca, 1));
    let two = identity(&ca, 2);
    let two_local = local(&two, 1);
    let two = start_with(two, two_local, &slept);
    introduce(&one, &two);
    let call = one.call::<Sleep>(2, &60_000, ctx(60_000));
    tokio::select! {
        biased;
        _ = call => unreachable!("the handler sleeps for a minute"),
        () = slept.wait_for(&["began"]) => {}
    }
    slept.wait_for(&["began", "cancelled"]).await;
    let late = one.call::<Sleep>(2, &60_000, ctx(100)).await.unwrap_err();
    assert_eq!((late.code(), late.outcome()), ("deadline", Outcome::Unknown));
    slept
        .wait_for(&["began", "cancelled", "began", "cancelled"])
        .await;
    one.call::<Sleep>(2, &0, ctx(5000)).await.unwrap();
}

#[tokio::test]
async fn what_exceeds_the_calls_in_flight_waits_and_then_is_overloaded() {
    let (one, _two) = pair();
    one.call::<Sleep>(2, &0, ctx(5000)).await.unwrap();
    let ctx = ctx(500);
    let calls = (0..limits::MAX_IN_FLIGHT + 5).map(|_| one.call::<Sleep>(2, &60_000, ctx));
    let mut codes: Vec<_> = join_all(calls)
        .await
        .into_iter()
        .map(|result| result.unwrap_err().code().to_owned())
        .collect();
    codes.sort_unstable();
    let overloaded = codes.iter().filter(|code| *code == "overloaded").count();
    assert_eq!((overloaded, codes[0].as_str()), (5, "deadline"));
}

#[tokio::test]
async fn a_shutdown_answers_what_is_in_flight_and_refuses_the_rest() {
    let (one, two) = pair();
    echo(&one, 2, ctx(5000)).await.unwrap();
    let in_flight = one.call::<Sleep>(2, &300, ctx(5000));
    let later = async {
        sleep(Duration::from_millis(100)).await;
        one.call::<Sleep>(2, &0, ctx(5000)).await
    };
    let shutdown = async {
        sleep(Duration::from_millis(50)).await;
        two.shutdown(Duration::from_secs(5)).await;
    };
    let (in_flight, later, ()) = tokio::join!(in_flight, later, shutdown);
    in_flight.unwrap();
    let later = later.unwrap_err();
    assert_eq!((later.code(), later.outcome()), ("not-sent", Outcome::NotDone));
    assert!(later.to_string().contains("node 2 is shutting down"), "{later}");
    assert_eq!(echo(&two, 1, ctx(100)).await.unwrap_err().code(), "not-sent");
    two.shutdown(Duration::from_secs(5)).await;
}

/// Answers with the caller's trace.
struct Traced;

impl Method for Traced {
    const ID: u16 = 0x8011;
    const NAME: &'static str = "traced";
    const CLASS: Class = Class::Raft;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 128;
    type Request = ();
    type Response = Option<String>;
}

#[tokio::test]
async fn a_trace_reaches_the_handler_of_the_call_that_has_one_and_no_other() {
    let ca = authority();
    let router = router(&Slept::default());
    router.register::<Traced, _, _>(
        |caller, ()| async move { Ok(caller.trace.map(|trace| trace.to_string())) },
    );
    let one = start(identity(&ca, 1));
    let two = identity(&ca, 2);
    let local = local(&two, 1);
    let two = QuicTransport::builder(two, local).router(router).start().unwrap();
    introduce(&one, &two);
    let trace = TraceContext::new([7; 16], [8; 8], 1).unwrap();
    for to in [2, 2] {
        let traced = one.call::<Traced>(to, &(), ctx(5000).with_trace(trace)).await;
        assert_eq!(traced.unwrap(), Some(trace.to_string()));
        assert_eq!(one.call::<Traced>(to, &(), ctx(5000)).await.unwrap(), None);
    }
    let own = two.call::<Traced>(2, &(), ctx(5000).with_trace(trace)).await;
    assert_eq!(own.unwrap(), Some(trace.to_string()));
}

/// Has another node answer [`Traced`].
struct Relayed;

impl Method for Relayed {
    const ID: u16 = 0x8012;
    const NAME: &'static str = "relayed";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 128;
    type Request = NodeId;
    type Response = Option<String>;
}

#[tokio::test]
async fn a_sampled_trace_follows_its_calls_from_node_to_node_and_one_that_is_not_goes_nowhere() {
    let ca = authority();
    let nodes: Vec<_> = [1, 2, 3]
        .map(|node| {
            let identity = identity(&ca, node);
            let (router, local) = (router(&Slept::default()), local(&identity, 1));
            router.register::<Traced, _, _>(|caller, ()| async move {
                // It has to wait, and so moves to a task of its own.
                sleep(Duration::from_millis(1)).await;
                assert_eq!(caller.trace, TraceContext::current());
                Ok(caller.trace.map(|trace| trace.to_string()))
            });
            let transport = QuicTransport::builder(identity, local).router(router.clone());
            (transport.start().unwrap(), router)
        })
        .into();
    for (one, _) in &nodes {
        for (two, _) in &nodes {
            introduce(one, two);
        }
    }
    let middle = nodes[1].0.clone();
    nodes[1].1.register::<Relayed, _, _>(move |_, to| {
        let middle = middle.clone();
        async move {
            let relayed = middle.call::<Traced>(to, &(), ctx(5000)).await;
            relayed.map_err(|error| Rejection::new(error.code(), error.to_string()))
        }
    });
    for (flags, to) in [(1, 3), (1, 2), (0, 3)] {
        let trace = TraceContext::new([7; 16], [8; 8], flags).unwrap();
        let called = trace.scope(nodes[0].0.call::<Relayed>(2, &to, ctx(5000))).await;
        let expected = trace.is_sampled().then(|| trace.to_string());
        assert_eq!(called.unwrap(), expected, "{trace} to {to}");
    }
    nodes[1].1.clear();
}
