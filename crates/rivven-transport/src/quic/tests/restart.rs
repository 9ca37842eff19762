//! Peers that come, go, and come back.

use tokio::time::timeout;

use super::*;
use crate::quic::tap::begins_to_listen;

/// Node 2, to be started again and again on one port.
struct Restarting {
    identity: NodeIdentity,
    addr: SocketAddr,
    keys: QuicKeys,
}

impl Restarting {
    fn new(ca: &CertificateAuthority) -> Self {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        Self {
            identity: identity(ca, 2),
            addr: free.local_addr().unwrap(),
            keys: QuicKeys::generate().unwrap(),
        }
    }

    /// The port of the process before is free only once its last task has noticed that it is gone.
    async fn start(&self, boot_epoch: u64, keys: QuicKeys) -> Transport {
        self.start_with(boot_epoch, keys, &Slept::default()).await
    }

    /// Waits until somebody knocks where nobody answers yet.
    async fn hear_a_packet(&self) {
        let socket = tokio::net::UdpSocket::bind(self.addr).await.unwrap();
        socket.recv_from(&mut [0; 2_000]).await.unwrap();
    }

    async fn start_with(&self, boot_epoch: u64, keys: QuicKeys, slept: &Slept) -> Transport {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let started = QuicTransport::builder(self.identity.clone(), local(&self.identity, boot_epoch))
                .bind(self.addr)
                .router(router(slept))
                .keys(keys.clone())
                .start();
            match started {
                Ok(transport) => return transport,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_unreachable_until_it_comes_up() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let two = Restarting::new(&ca);
    let unknown = echo(&one, 2, ctx(5000)).await.unwrap_err();
    assert!(unknown.to_string().contains("no address"), "{unknown}");
    assert_eq!(one.status(2), PeerStatus::Unknown);
    one.set_address(2, two.addr.into());
    assert_eq!(echo(&one, 2, ctx(100)).await.unwrap_err().code(), "unreachable");
    let waiting = echo(&one, 2, ctx(10_000));
    let coming = async {
        // The call is dialling by then.
        two.hear_a_packet().await;
        two.start(1, two.keys.clone()).await
    };
    let (answer, _two) = tokio::join!(waiting, coming);
    assert_eq!(answer.unwrap(), (1, "hi".into()));
}

#[tokio::test]
async fn a_peer_that_shuts_down_and_restarts_is_used_again_at_once() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let two = Restarting::new(&ca);
    one.set_address(2, two.addr.into());
    let mut running = two.start(1, two.keys.clone()).await;
    for boot_epoch in 2..5 {
        echo(&one, 2, ctx(5000)).await.unwrap();
        running.shutdown(Duration::from_secs(1)).await;
        drop(running);
        let other_keys = QuicKeys::generate().unwrap();
        running = two.start(boot_epoch, other_keys).await;
        let began = Instant::now();
        echo(&one, 2, ctx(5000)).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(one.peer(2).unwrap().boot_epoch, BootEpoch(boot_epoch));
    }
}

/// Lets packets through to whichever endpoint is the current one, so that a node can vanish without a
/// word, as a killed process does, and another take its place.
struct Relay {
    addr: SocketAddr,
    to: Arc<Mutex<Option<SocketAddr>>>,
}

impl Relay {
    async fn start(tasks: &TaskGroup) -> Self {
        let outside = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let inside = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = outside.local_addr().unwrap();
        let to = Arc::new(Mutex::new(None));
        let target = Arc::clone(&to);
        tasks.spawn(async move {
            let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
            let mut client = None;
            loop {
                tokio::select! {
                    Ok((len, from)) = outside.recv_from(&mut there) => {
                        client = Some(from);
                        let target = *lock(&target);
                        if let Some(target) = target {
                            let _ = inside.send_to(&there[..len], target).await;
                        }
                    }
                    Ok((len, from)) = inside.recv_from(&mut back) => {
                        let current = *lock(&target) == Some(from);
                        if let (Some(client), true) = (client, current) {
                            let _ = outside.send_to(&back[..len], client).await;
                        }
                    }
                }
            }
        });
        Self { addr, to }
    }
}

/// Kills node 2 without a word and starts it again; returns how long the next call took.
async fn kill_and_restart(same_keys: bool) -> Duration {
    let ca = authority();
    let tasks = TaskGroup::current();
    let relay = Relay::start(&tasks).await;
    let one = start(identity(&ca, 1));
    one.set_address(2, relay.addr.into());
    let two = identity(&ca, 2);
    let keys = QuicKeys::generate().unwrap();
    let start_two = |boot_epoch, keys| {
        let started = QuicTransport::builder(two.clone(), local(&two, boot_epoch))
            .router(router(&Slept::default()))
            .keys(keys)
            .start()
            .unwrap();
        *lock(&relay.to) = started.local_addr();
        started
    };
    let killed = start_two(1, keys.clone());
    echo(&one, 2, ctx(5000)).await.unwrap();
    let keys = if same_keys {
        keys
    } else {
        QuicKeys::generate().unwrap()
    };
    let _restarted = start_two(2, keys);
    let began = Instant::now();
    while echo(&one, 2, ctx(200)).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "never again");
    }
    drop(killed);
    tasks.abort();
    began.elapsed()
}

#[tokio::test]
async fn a_killed_peer_that_restarts_with_its_keys_is_used_again_at_once() {
    let took = kill_and_restart(true).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_killed_peer_that_restarts_with_other_keys_is_used_again_once_its_pings_are_missed() {
    let took = kill_and_restart(false).await;
    assert!(
        took > limits::PING_INTERVAL,
        "the keys make the difference: {took:?}"
    );
    assert!(took < limits::IDLE_TIMEOUT, "{took:?}");
}

#[tokio::test]
async fn a_peer_that_dies_without_a_word_is_noticed_by_its_missed_pings() {
    let ca = authority();
    let tasks = TaskGroup::current();
    let relay = Relay::start(&tasks).await;
    let (one, two) = (start(identity(&ca, 1)), start(identity(&ca, 2)));
    one.set_address(2, relay.addr.into());
    *lock(&relay.to) = two.local_addr();
    echo(&one, 2, ctx(5000)).await.unwrap();
    *lock(&relay.to) = None;
    let began = Instant::now();
    let error = echo(&one, 2, ctx(10_000)).await.unwrap_err();
    assert_eq!(
        (error.code(), began.elapsed().as_secs()),
        ("maybe-executed", 0),
        "{error}"
    );
    assert!(error.to_string().contains("fell silent"), "{error}");
    tasks.abort();
}

#[tokio::test]
async fn a_peer_that_dies_while_it_shuts_down_is_noticed_by_the_pings_it_owes() {
    let (ca, tasks, slept) = (authority(), TaskGroup::current(), Slept::default());
    let relay = Relay::start(&tasks).await;
    let one = identity(&ca, 1);
    let one = start_with(one.clone(), local(&one, 1), &slept);
    one.set_address(2, relay.addr.into());
    let two = start(identity(&ca, 2));
    *lock(&relay.to) = two.local_addr();
    echo(&one, 2, ctx(5000)).await.unwrap();
    // Its own call keeps it from being done, on the connection that node 1 dialled.
    let held = two.call::<Sleep>(1, &60_000, ctx(60_000));
    let shutdown = async {
        slept.wait_for(&["began"]).await;
        two.shutdown(Duration::from_secs(60)).await;
    };
    let killed = async {
        let end = Instant::now() + Duration::from_secs(10);
        while echo(&one, 2, ctx(100))
            .await
            .map_err(|error| error.code() == "not-sent")
            != Err(true)
        {
            assert!(Instant::now() < end, "the shutdown was not heard");
        }
        // As long as it is there it may take its time.
        sleep(limits::PING_INTERVAL * (limits::MAX_MISSED_PINGS + 3)).await;
        assert_eq!(echo(&one, 2, ctx(100)).await.unwrap_err().code(), "not-sent");
        *lock(&relay.to) = None;
        let began = Instant::now();
        while echo(&one, 2, ctx(10)).await.unwrap_err().code() == "not-sent" {
            sleep(Duration::from_millis(10)).await;
        }
        began.elapsed()
    };
    let (took, held, ()) = tokio::join!(killed, held, shutdown);
    assert_eq!(held.unwrap_err().code(), "maybe-executed");
    assert!(took < limits::IDLE_TIMEOUT / 2, "{took:?}");
    tasks.abort();
}

/// Blocks the thread of whoever runs it.
struct Block;

impl Method for Block {
    const ID: u16 = 0x8010;
    const NAME: &'static str = "block";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 16;
    type Request = u64;
    type Response = ();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn handlers_that_block_every_thread_delay_no_pings() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let busy = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let two = {
        let _entered = busy.enter();
        let router = router(&Slept::default());
        router.register::<Block, _, _>(|_, ms| async move {
            #[expect(clippy::disallowed_methods, reason = "a handler that does what it should not")]
            std::thread::sleep(Duration::from_millis(ms));
            Ok(())
        });
        let two = identity(&ca, 2);
        let local = local(&two, 1);
        QuicTransport::builder(two, local).router(router).start().unwrap()
    };
    introduce(&one, &two);
    // Far longer than a peer may be silent. Both handlers share one thread, so the second one waits too.
    let blocked = 2 * limits::PING_INTERVAL * (limits::MAX_MISSED_PINGS + 1);
    let ms = u64::try_from(blocked.as_millis()).unwrap();
    let (first, second) = tokio::join!(
        one.call::<Block>(2, &ms, ctx(10_000)),
        one.call::<Block>(2, &ms, ctx(10_000))
    );
    first.unwrap();
    second.unwrap();
    assert_eq!(one.status(2), PeerStatus::Up);
    // The threads move packets themselves again, and once more they do not.
    for blocked in [0, ms, 0] {
        one.call::<Block>(2, &blocked, ctx(10_000)).await.unwrap();
    }
    busy.shutdown_background();
}

#[tokio::test]
async fn a_transport_whose_callers_runtime_has_ended_still_speaks_for_its_node() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let callers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let two = {
        let _entered = callers.enter();
        start(identity(&ca, 2))
    };
    introduce(&one, &two);
    echo(&one, 2, ctx(5_000)).await.unwrap();
    callers.shutdown_background();
    // Nobody is left to carry calls out, and the peer need not find that out by its pings.
    let end = Instant::now() + limits::PING_INTERVAL * limits::MAX_MISSED_PINGS;
    while one.status(2) == PeerStatus::Up {
        assert!(Instant::now() < end, "nobody said that the calls have ended");
        sleep(Duration::from_millis(5)).await;
    }
    // What is left of it still shakes hands.
    let found = one.discover(two.local_addr().unwrap().into(), ctx(5_000)).await;
    assert_eq!(found.unwrap().node, 2);
}

#[tokio::test]
async fn a_later_start_supersedes_and_an_earlier_one_is_refused() {
    let ca = authority();
    let (one, slept) = (start(identity(&ca, 1)), Slept::default());
    let two = identity(&ca, 2);
    let start_two = |boot_epoch| {
        let started = start_with(two.clone(), local(&two, boot_epoch), &slept);
        introduce(&started, &one);
        started
    };
    let first = start_two(5);
    introduce(&one, &first);
    echo(&first, 1, ctx(5000)).await.unwrap();
    // In flight from node 1 to the first start when the second one says hello.
    let in_flight = one.call::<Sleep>(2, &60_000, ctx(60_000));
    let second = async {
        slept.wait_for(&["began"]).await;
        let second = start_two(6);
        echo(&second, 1, ctx(5000)).await.unwrap();
        second
    };
    let (in_flight, _second) = tokio::join!(in_flight, second);
    assert_eq!(in_flight.unwrap_err().code(), "maybe-executed");
    assert_eq!(one.peer(2).unwrap().boot_epoch, BootEpoch(6));
    // It may have begun this call before the end of its connection reached it.
    let error = loop {
        let error = echo(&first, 1, ctx(1_500)).await.unwrap_err();
        if error.code() != "maybe-executed" {
            break error;
        }
    };
    assert!(
        error.to_string().contains("boot epoch went back from 6 to 5"),
        "{error}"
    );
}

#[tokio::test]
async fn a_dropped_transport_frees_its_port_and_tells_its_peers() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let two = Restarting::new(&ca);
    one.set_address(2, two.addr.into());
    let slept = Slept::default();
    let running = two.start_with(1, two.keys.clone(), &slept).await;
    let in_flight = one.call::<Sleep>(2, &60_000, ctx(60_000));
    let dropping = async {
        slept.wait_for(&["began"]).await;
        drop(running);
    };
    let (in_flight, ()) = tokio::join!(in_flight, dropping);
    let error = in_flight.unwrap_err();
    assert_eq!(error.code(), "maybe-executed");
    assert!(error.to_string().contains("shutting down"), "{error}");
    two.start(2, two.keys.clone()).await;
}

#[tokio::test]
async fn a_port_is_free_as_soon_as_its_transport_is_shut_down() {
    let ca = authority();
    let one = identity(&ca, 1);
    let slept = Slept::default();
    let one = start_with(one.clone(), local(&one, 1), &slept);
    let two = Restarting::new(&ca);
    one.set_address(2, two.addr.into());
    for boot_epoch in 1..8 {
        lock(&slept.0).clear();
        let running = two.start_with(boot_epoch, two.keys.clone(), &slept).await;
        introduce(&running, &one);
        echo(&one, 2, ctx(5000)).await.unwrap();
        echo(&running, 1, ctx(5000)).await.unwrap();
        // Neither a call in flight nor a handler keeps the socket.
        let held = one.call::<Sleep>(2, &60_000, ctx(60_000));
        let holding = running.call::<Sleep>(1, &60_000, ctx(60_000));
        let shutdown = async {
            slept.wait_for(&["began", "began"]).await;
            running.shutdown(Duration::ZERO).await;
            UdpSocket::bind(two.addr).unwrap();
        };
        let (_, _, ()) = tokio::join!(held, holding, shutdown);
    }
}

#[tokio::test]
async fn a_peer_that_begins_to_listen_is_noticed_and_one_that_always_did_is_not() {
    let ca = authority();
    let two = Restarting::new(&ca);
    let waits = begins_to_listen(two.addr, limits::TAP_INTERVAL);
    let coming = async {
        // The first tap meets nobody who answers.
        two.hear_a_packet().await;
        two.start(1, two.keys.clone()).await
    };
    let ((), running) = timeout(Duration::from_secs(10), async { tokio::join!(waits, coming) })
        .await
        .unwrap();
    let again = begins_to_listen(running.local_addr().unwrap(), limits::TAP_INTERVAL);
    assert!(timeout(20 * limits::TAP_INTERVAL, again).await.is_err());
}

#[tokio::test]
async fn a_peer_that_was_gone_for_long_is_used_again_at_once() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let two = Restarting::new(&ca);
    one.set_address(2, two.addr.into());
    let tasks = TaskGroup::current();
    let (caller, (answered, mut answers)) = (one.clone(), tokio::sync::mpsc::channel(1));
    tasks.spawn(async move {
        while echo(&caller, 2, ctx(60_000)).await.is_err() {}
        answered.send(()).await.unwrap();
    });
    // Longer than the attempts that begin with quick repetitions.
    sleep((limits::QUICK_ATTEMPTS + 2) * limits::DIAL_TIMEOUT).await;
    let _running = two.start(1, two.keys.clone()).await;
    let answer = timeout(Duration::from_secs(1), answers.recv()).await;
    assert_eq!(answer, Ok(Some(())));
    tasks.abort();
}

#[tokio::test]
async fn a_silent_peer_delays_nobody_else() {
    let (one, _two) = pair();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    one.set_address(3, silent.local_addr().unwrap().into());
    // As many as may be under way to the silent one, and some that wait behind them.
    let waiting = (0..limits::MAX_IN_FLIGHT + 50).map(|_| echo(&one, 3, ctx(60_000)));
    let answered = async {
        for _ in 0..100 {
            echo(&one, 2, ctx(60_000)).await.unwrap();
        }
    };
    tokio::select! {
        biased;
        ended = futures_util::future::join_all(waiting) => panic!("none should have ended: {ended:?}"),
        () = answered => {}
    }
    let error = echo(&one, 3, ctx(500)).await.unwrap_err();
    assert_eq!(error.code(), "unreachable");
}
