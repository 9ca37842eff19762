//! Streams beside datagrams, the file of peers, messages, and batches of events.

use std::collections::BTreeSet;

use rivven_transport::{MemoryNetwork, Router};

use super::{super::peers, *};

/// Member 2 of three tells others an address where nobody listens. Whether member 1 comes to doubt it.
async fn is_doubted_although_it_lives(streams: bool, limit: Duration) -> bool {
    let key = GossipKey::from_bytes([3; 32]);
    let network = MemoryNetwork::new();
    let mut nodes: Vec<SwimNode> = Vec::new();
    for node in 1..=3 {
        let seed: Vec<SocketAddr> = nodes.first().map(SwimNode::local_addr).into_iter().collect();
        let router = Router::new();
        let transport = network.join(local(node, 1), router.clone()).unwrap();
        let mut builder = SwimNode::builder(config(any_port(), &seed))
            .identity(local(node, 1))
            .key(key.clone());
        if node == 2 {
            // The port of this socket is closed again at once.
            let closed = free_socket().local_addr().unwrap();
            builder = builder.advertise(closed.into());
        }
        if streams {
            builder = builder.streams(transport, router);
        }
        nodes.push(builder.start().await.unwrap());
    }
    let mut events = nodes[0].events();
    let doubt = async {
        while let Some(event) = events.next().await {
            if matches!(event, MemberEvent::Suspect(view) if view.node == 2) {
                return;
            }
        }
    };
    let doubted = tokio::time::timeout(limit, doubt).await.is_ok();
    assert!(doubted || sees(&nodes[0], 2, MemberState::Alive));
    for node in nodes {
        node.shutdown().await;
    }
    doubted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_datagrams_do_not_reach_lives_by_its_streams() {
    assert!(is_doubted_although_it_lives(false, PATIENCE).await);
    assert!(!is_doubted_although_it_lives(true, Duration::from_secs(4)).await);
}

#[tokio::test]
async fn members_are_found_again_through_the_file_of_peers() {
    let key = GossipKey::from_bytes([3; 32]);
    let one = start(1, 1, any_port(), &[], &key).await;
    let two = start(2, 1, any_port(), &[one.local_addr()], &key).await;
    wait_for("meeting", || {
        sees(&one, 2, MemberState::Alive) && sees(&two, 1, MemberState::Alive)
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gossip.peers");
    let tasks = TaskGroup::current();
    peers::update(&tasks, &two.inner.shared, &path, &mut BTreeSet::new()).await;
    two.shutdown().await;

    // No peer is configured any more.
    let builder = SwimNode::builder(config(any_port(), &[]))
        .identity(local(2, 2))
        .key(key.clone());
    let two = builder.peers_file(&path).start().await.unwrap();
    wait_for("return", || {
        let back = one.member(2).is_some_and(|view| view.boot_epoch == BootEpoch(2));
        back && sees(&two, 1, MemberState::Alive)
    })
    .await;
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test]
async fn messages_and_metadata_reach_all_and_changes_come_in_batches() {
    let key = GossipKey::from_bytes([3; 32]);
    let one = start(1, 1, any_port(), &[], &key).await;
    let seed = [one.local_addr()];
    let mut batches = one.batches();
    let two = start(2, 1, any_port(), &seed, &key).await;
    let three = start(3, 1, any_port(), &seed, &key).await;
    let nodes = [&one, &two, &three];
    wait_for("meeting", || {
        nodes
            .iter()
            .all(|node| (1..=3).all(|other| sees(node, other, MemberState::Alive)))
    })
    .await;
    let mut met = BTreeSet::new();
    while met.len() < 2 {
        for event in tokio::time::timeout(PATIENCE, batches.next())
            .await
            .unwrap()
            .unwrap()
        {
            if let MemberEvent::Alive(view) | MemberEvent::Updated(view) = event {
                met.insert(view.node);
            }
        }
    }

    let (mut at_one, mut at_three) = (one.messages(), three.messages());
    two.broadcast(b"hello").unwrap();
    for messages in [&mut at_one, &mut at_three] {
        let message = tokio::time::timeout(PATIENCE, messages.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!((message.from, &message.body[..]), (2, &b"hello"[..]));
    }
    let long = two.broadcast(&[0; 513]).unwrap_err();
    assert_eq!(long.code(), "gossip-broadcast-too-long");

    let meta: Vec<u8> = (0..=255).cycle().take(4_096).collect();
    two.set_meta(&meta).unwrap();
    assert_eq!(
        two.set_meta(&[0; 4_097]).unwrap_err().code(),
        "gossip-meta-too-long"
    );
    wait_for("new metadata", || {
        [&one, &three]
            .iter()
            .all(|node| node.member(2).is_some_and(|view| view.meta == meta))
    })
    .await;
    for node in nodes {
        node.shutdown().await;
    }
    assert_eq!(at_one.next().await, None);
    // What changed before the end is still told.
    while tokio::time::timeout(PATIENCE, batches.next())
        .await
        .unwrap()
        .is_some()
    {}
}
