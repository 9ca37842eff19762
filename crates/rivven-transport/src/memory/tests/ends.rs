//! How calls end as on the real network: by a panic, a shutdown, the longest life of a call, a full mailbox.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_handler_reaches_neither_a_peer_nor_a_node_that_calls_itself() {
    let network = MemoryNetwork::new();
    let (one, _two) = (join(&network, 1), join(&network, 2));
    for to in [1, 2] {
        let error = one.call::<Panic>(to, &(), ctx(1_000)).await.unwrap_err();
        let expected = ("maybe-executed", crate::Outcome::Unknown);
        assert_eq!((error.code(), error.outcome()), expected, "node {to}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_the_calls_that_the_node_makes_and_begins_no_other() {
    let network = MemoryNetwork::new();
    let (one, _two) = (join(&network, 1), join(&network, 2));
    let tasks = TaskGroup::current();
    let calling = one.clone();
    let call = tasks.spawn(async move { calling.call::<Sleep>(2, &300, ctx(5_000)).await });
    sleep(ms(10)).await;
    let begun = Instant::now();
    let closing = one.clone();
    let closed = tasks.spawn(async move { closing.shutdown(ms(5_000)).await });
    sleep(ms(10)).await;
    assert_eq!(
        [said(&one, 2, 100).await, said(&one, 1, 100).await],
        ["not-sent"; 2]
    );
    closed.await.unwrap();
    assert_eq!(begun.elapsed(), ms(290));
    call.await.unwrap().unwrap().unwrap();
    assert_eq!(said(&one, 2, 100).await, "not-sent");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_way_ends_unsent_when_its_node_shuts_down() {
    let network = MemoryNetwork::new();
    let (one, _two) = (join(&network, 1), join(&network, 2));
    assert_eq!(said(&one, 2, 100).await, "ok");
    network.cut(1, 2);
    sleep(ms(10_000)).await;
    let begun = Instant::now();
    let (waited, ()) = tokio::join!(said(&one, 2, 60_000), async {
        sleep(ms(500)).await;
        one.shutdown(ms(5_000)).await;
    });
    assert_eq!((waited.as_str(), begun.elapsed()), ("not-sent", ms(500)));
}

#[tokio::test(start_paused = true)]
async fn a_call_may_have_any_timeout_and_none_lasts_longer_than_its_handler_may() {
    let network = MemoryNetwork::new();
    let (one, _two) = (join(&network, 1), join(&network, 2));
    let begun = Instant::now();
    for to in [1, 2] {
        let ctx = CallCtx::timeout(Duration::MAX);
        let error = one.call::<Sleep>(to, &7_300_000, ctx).await.unwrap_err();
        assert_eq!(error.code(), "deadline");
    }
    assert_eq!(begun.elapsed(), 2 * crate::MAX_CALL_TIME);
}

#[tokio::test(start_paused = true)]
async fn frames_beyond_the_bound_of_a_mailbox_are_lost_and_counted() {
    let network = MemoryNetwork::new();
    let (one, two) = (join(&network, 1), join(&network, 2));
    let slow = LinkProfile {
        delay: ms(1_000),
        ..LinkProfile::default()
    };
    network.link(1, 2, slow);
    let peer = network.lock().ends[&2].clone();
    let frame = link::Frame {
        kind: link::Kind::Cancel,
        class: Class::Client,
        method: 1,
        len: 0,
    };
    for _ in 0..limits::MAX_UNDER_WAY + 3 {
        let nothing = serve::Delivery::Cancel(tokio_util::sync::CancellationToken::new());
        network.send(1, &peer, frame, nothing);
    }
    assert_eq!(network.stats().overflowed, 3);
    sleep(ms(1_100)).await;
    assert_eq!(said(&one, 2, 2_000).await, "ok");
    drop(two);
}
