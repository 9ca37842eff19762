//! Watches from outside.

use super::*;
use crate::{KvClientWatch, KvEvent, KvUpdate, KvWatchError, WatchFrom};

async fn put(client: &Client<KvStore>, key: &str, value: &str) -> u64 {
    match client
        .propose(KvCommand::put(key, value.to_owned()))
        .await
        .unwrap()
    {
        KvResponse::Written { revision, .. } => revision,
        other => panic!("{other:?}"),
    }
}

/// Keys and values of the next changes.
async fn changed(watch: &mut KvClientWatch<KvStore>) -> Vec<(String, Option<Bytes>)> {
    let KvUpdate::Changes { events } = watch.next().await.unwrap() else {
        panic!("no changes");
    };
    let seen = |event: KvEvent| (event.key, event.entry.map(|entry| entry.value));
    events.into_iter().map(seen).collect()
}

fn seen(key: &str, value: &'static str) -> (String, Option<Bytes>) {
    (key.to_owned(), Some(Bytes::from_static(value.as_bytes())))
}

#[tokio::test(start_paused = true)]
async fn a_watch_delivers_the_keys_as_they_are_and_then_each_change_of_them() {
    let network = MemoryNetwork::new();
    let _nodes = group(&network).await;
    let client = client(&network, Role::Client);
    put(&client, "a/1", "one").await;
    put(&client, "b", "other").await;
    let mut watch = client.watch_kv(KeyRange::prefix("a/"), WatchFrom::Current);
    let KvUpdate::Snapshot {
        revision,
        entries,
        last,
    } = watch.next().await.unwrap()
    else {
        panic!("no snapshot");
    };
    assert_eq!((revision, entries.len(), last), (2, 1, true));
    put(&client, "b", "still other").await;
    put(&client, "a/2", "two").await;
    assert_eq!(changed(&mut watch).await, [seen("a/2", "two")]);
    client.propose(KvCommand::delete("a/1")).await.unwrap();
    assert_eq!(changed(&mut watch).await, [("a/1".to_owned(), None)]);
    assert_eq!(watch.next_revision(), Some(6));
    // Another one goes on anywhere in the history.
    let mut again = client.watch_kv(KeyRange::prefix("a/"), WatchFrom::Revision(4));
    let both = [seen("a/2", "two"), ("a/1".to_owned(), None)];
    assert_eq!(changed(&mut again).await, both);
}

#[tokio::test(start_paused = true)]
async fn a_change_arrives_at_once_and_silence_costs_a_question_a_second() {
    let network = MemoryNetwork::new();
    let _nodes = group(&network).await;
    let client = client(&network, Role::Client);
    put(&client, "k", "1").await;
    let mut watch = client.watch_kv(KeyRange::all(), WatchFrom::Revision(2));
    let frames = || network.stats().sent;
    let quiet = {
        let before = frames();
        sleep(Duration::from_secs(60)).await;
        frames() - before
    };
    let before = frames();
    let waited = tokio::time::timeout(Duration::from_secs(60), watch.next()).await;
    assert!(waited.is_err(), "nothing changed");
    // Each with its answer, and six for the changes themselves.
    let asked = (frames() - before).saturating_sub(quiet);
    assert!(asked < 150, "{asked} frames more than without the watch");
    let began = Instant::now();
    let (changes, _) = tokio::join!(changed(&mut watch), async {
        sleep(Duration::from_secs(3)).await;
        put(&client, "k", "2").await
    });
    assert_eq!(changes, [seen("k", "2")]);
    let after = began.elapsed().saturating_sub(Duration::from_secs(3));
    assert!(after < Duration::from_millis(100), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_misses_nothing_and_repeats_nothing_while_leaders_are_replaced() {
    let network = MemoryNetwork::new();
    let nodes = group(&network).await;
    let client = client(&network, Role::Client);
    let session = client.open_session(Duration::from_secs(60)).await.unwrap();
    let mut watch = client.watch_kv(KeyRange::all(), WatchFrom::Current);
    watch.next().await.unwrap();
    let writing = async {
        for round in 0..5_u32 {
            for i in 0..20_u32 {
                let put = KvCommand::put("k", format!("{}", round * 20 + i));
                session.propose(put, Duration::from_secs(10)).await.unwrap();
            }
            let old = leader(&nodes);
            let others: Vec<NodeId> = (1..=3).filter(|node| *node != old).collect();
            network.partition(&[old], &[others[0], others[1], 100]);
            let last = KvCommand::put("k", format!("cut {round}"));
            session.propose(last, Duration::from_secs(10)).await.unwrap();
            network.heal();
            sleep(Duration::from_secs(1)).await;
        }
    };
    let reading = async {
        let mut values = Vec::new();
        while values.len() < 105 {
            match watch.next().await {
                Ok(KvUpdate::Changes { events }) => {
                    values.extend(events.into_iter().map(|event| event.entry.unwrap().value));
                }
                Err(KvWatchError::Lost { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        values
    };
    let (values, ()) = tokio::join!(reading, writing);
    let expected = (0..5_u32).flat_map(|round| {
        let numbers = (0..20_u32).map(move |i| format!("{}", round * 20 + i));
        numbers.chain([format!("cut {round}")])
    });
    assert!(
        values.iter().eq(expected.collect::<Vec<_>>().iter()),
        "{values:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_leaves_a_node_that_is_cut_off_or_dead() {
    let network = MemoryNetwork::new();
    let nodes = group(&network).await;
    let client = client(&network, Role::Client);
    put(&client, "k", "1").await;
    let mut watch = client.watch_kv(KeyRange::all(), WatchFrom::Revision(1));
    assert_eq!(changed(&mut watch).await, [seen("k", "1")]);
    for (dead, value) in [(false, "2"), (true, "3")] {
        let old = leader(&nodes);
        let mut others: Vec<NodeId> = (1..=3).filter(|node| *node != old).collect();
        if dead {
            others.push(100);
        }
        network.partition(&[old], &others);
        let began = Instant::now();
        let (changes, _) = tokio::join!(changed(&mut watch), async {
            let session = client.open_session(Duration::from_secs(60)).await.unwrap();
            let put = KvCommand::put("k", value);
            session.propose(put, Duration::from_secs(10)).await.unwrap()
        });
        assert_eq!(changes, [seen("k", value)]);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        network.heal();
        sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn large_snapshots_and_large_revisions_come_in_parts_and_arrive_whole() {
    let network = MemoryNetwork::new();
    let _nodes = group(&network).await;
    let client = client(&network, Role::Client);
    let puts = (0..2_500).map(|i| KvCommand::put(format!("k{i:04}"), vec![7; 2_000]));
    for outcome in client.propose_many(puts, Duration::from_secs(30)).await {
        outcome.unwrap();
    }
    let mut watch = client.watch_kv(KeyRange::all(), WatchFrom::Current);
    let (mut keys, mut parts) = (Vec::new(), 0);
    loop {
        let update = watch.next().await.unwrap();
        let KvUpdate::Snapshot {
            revision,
            entries,
            last,
        } = update
        else {
            panic!("{update:?}");
        };
        parts += 1;
        keys.extend(entries.into_iter().map(|(key, _)| key));
        assert_eq!(revision, 2_500);
        if parts == 1 {
            // What happens meanwhile belongs to what follows.
            client.propose(KvCommand::delete("k2400")).await.unwrap();
        }
        if last {
            break;
        }
    }
    assert_eq!((keys.len(), parts), (2_500, 3));
    assert!(keys.is_sorted());
    assert_eq!(changed(&mut watch).await, [("k2400".to_owned(), None)]);
    // One revision of 5 MB and more changes than are looked at for one answer.
    let txn = KvTxn::new().then(KvOp::DeleteRange {
        range: KeyRange::prefix("k"),
    });
    client.propose(KvCommand::Txn(txn)).await.unwrap();
    let KvUpdate::Changes { events } = watch.next().await.unwrap() else {
        panic!("no changes");
    };
    assert_eq!(events.len(), 2_499, "all of a revision at once");
    assert!(
        events
            .iter()
            .all(|event| { event.revision == 2_502 && event.entry.is_none() && event.previous.is_some() })
    );
    put(&client, "later", "1").await;
    assert_eq!(changed(&mut watch).await, [seen("later", "1")]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_cannot_go_on_says_why() {
    let network = MemoryNetwork::new();
    let _nodes = group(&network).await;
    let mut refused = client(&network, Role::Observer).watch_kv(KeyRange::all(), WatchFrom::Revision(1));
    let error = refused.next().await.unwrap_err();
    assert!(matches!(error, KvWatchError::Lost { .. }), "{error}");
    let transport = network
        .join_as(identity(101), Role::Client, Router::new())
        .unwrap();
    let client = Client::<KvStore>::over(transport, members());
    for i in 0..3 {
        put(&client, "k", &i.to_string()).await;
    }
    client.propose(KvCommand::Compact { revision: 2 }).await.unwrap();
    let mut late = client.watch_kv(KeyRange::all(), WatchFrom::Revision(1));
    assert_eq!(late.next().await, Err(KvWatchError::Compacted { oldest: 2 }));
    assert_eq!(late.next().await, Err(KvWatchError::Compacted { oldest: 2 }));
    let past = client
        .range(KeyRange::all(), 10, Some(1), Consistency::Linearizable)
        .await;
    assert_eq!(past.unwrap_err().code(), "compacted");
    // Cut off, and then not: it goes on where it was.
    let mut watch = client.watch_kv(KeyRange::all(), WatchFrom::Revision(3));
    assert_eq!(changed(&mut watch).await, [seen("k", "2")]);
    network.partition(&[101], &[1, 2, 3]);
    let error = watch.next().await.unwrap_err();
    assert!(matches!(error, KvWatchError::Lost { .. }), "{error}");
    network.heal();
    put(&client, "k", "3").await;
    assert_eq!(changed(&mut watch).await, [seen("k", "3")]);
}
