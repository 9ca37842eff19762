//! Real sockets on loopback, with short periods.

mod many;
mod reach;

use std::{format, net::Ipv4Addr, vec};

use rivven_transport::{
    LocalIdentity,
    datagram::{GossipKey, GossipKeys, KeyRing},
};
use rivven_types::{BootEpoch, ClusterId, InstanceId, PeerAddr};
use tokio::net::UdpSocket;

use super::{builder::identity_of, envelope::Envelope, *};
use crate::MemberState;

/// Longer than anything takes on a busy machine; reached only by a failure.
const PATIENCE: Duration = Duration::from_secs(30);

fn local(node: NodeId, epoch: u64) -> LocalIdentity {
    LocalIdentity {
        cluster: ClusterId::from_bytes([1; 16]),
        node,
        instance: InstanceId::from_bytes([node.to_le_bytes()[0]; 16]),
        boot_epoch: BootEpoch(epoch),
    }
}

fn config(bind: SocketAddr, peers: &[SocketAddr]) -> SwimConfig {
    SwimConfig {
        bind_addr: bind.into(),
        known_peers: peers.iter().map(|peer| PeerAddr::from(*peer)).collect(),
        protocol_period_ms: 100,
        suspect_timeout_ms: 1_000,
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

async fn start(
    node: NodeId,
    epoch: u64,
    bind: SocketAddr,
    peers: &[SocketAddr],
    key: &GossipKey,
) -> SwimNode {
    let builder = SwimNode::builder(config(bind, peers))
        .identity(local(node, epoch))
        .key(key.clone());
    builder
        .meta(format!("node {node}").into_bytes())
        .start()
        .await
        .unwrap()
}

async fn wait_for(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, waiting).await.is_ok(),
        "{what} did not happen"
    );
}

fn sees(observer: &SwimNode, subject: NodeId, state: MemberState) -> bool {
    observer.member(subject).is_some_and(|view| view.state == state)
}

#[tokio::test]
async fn three_sealed_nodes_meet_miss_the_dead_and_let_go_of_the_leaving() {
    let key = GossipKey::from_bytes([3; 32]);
    let one = start(1, 1, any_port(), &[], &key).await;
    let seed = [one.local_addr()];
    let two = start(2, 1, any_port(), &seed, &key).await;
    let three = start(3, 1, any_port(), &seed, &key).await;
    let nodes = [&one, &two, &three];
    let full = || {
        nodes
            .iter()
            .all(|node| (1..=3).all(|other| sees(node, other, MemberState::Alive)))
    };
    wait_for("meeting", full).await;
    assert_eq!(two.member(3).unwrap().meta, b"node 3");
    assert_eq!(two.member(3).unwrap().addr, three.local_addr());

    let mut events = one.events();
    let port = three.local_addr();
    three.shutdown().await;
    three.shutdown().await;
    let dead = || [&one, &two].iter().all(|node| sees(node, 3, MemberState::Dead));
    wait_for("death", dead).await;
    let mut states = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            MemberEvent::Suspect(view) => states.push((view.node, "suspect")),
            MemberEvent::Dead(view) => {
                states.push((view.node, "dead"));
                break;
            }
            _ => {}
        }
    }
    assert_eq!(states, [(3, "suspect"), (3, "dead")]);

    let three = start(3, 2, port, &seed, &key).await;
    wait_for("return", || {
        let back = |node: &SwimNode| node.member(3).is_some_and(|view| view.boot_epoch == BootEpoch(2));
        [&one, &two]
            .iter()
            .all(|node| back(node) && sees(node, 3, MemberState::Alive))
    })
    .await;

    three.leave().await;
    wait_for("leaving", || {
        [&one, &two].iter().all(|node| sees(node, 3, MemberState::Left))
    })
    .await;
    for node in [one, two, three] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_stranger_without_the_key_is_not_a_member() {
    let key = GossipKey::from_bytes([3; 32]);
    let one = start(1, 1, any_port(), &[], &key).await;
    let seed = [one.local_addr()];
    let stranger = start(2, 1, any_port(), &seed, &GossipKey::from_bytes([4; 32])).await;
    let open = SwimNode::builder(config(any_port(), &seed))
        .insecure()
        .start()
        .await
        .unwrap();
    let three = start(3, 1, any_port(), &seed, &key).await;
    wait_for("joining", || sees(&one, 3, MemberState::Alive)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(one.members().len(), 2);
    assert_eq!(
        [
            stranger.members().len(),
            open.members().len(),
            three.members().len()
        ],
        [1, 1, 2]
    );
}

#[tokio::test]
async fn the_promised_configuration_starts_although_its_peer_does_not_resolve() {
    let config = SwimConfig {
        bind_addr: "127.0.0.1:0".parse().unwrap(),
        known_peers: vec!["node2.invalid:7946".parse().unwrap()],
        protocol_period_ms: 1_000,
        suspect_timeout_ms: 5_000,
    };
    let node = SwimNode::new(config.clone()).await.unwrap();
    let twin = SwimNode::new(config).await.unwrap();
    assert_eq!(node.members().len(), 1);
    assert_ne!(node.identity().node, twin.identity().node);
}

#[tokio::test]
async fn open_nodes_bound_to_all_addresses_learn_where_they_are() {
    let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let one = SwimNode::new(config(all, &[])).await.unwrap();
    let seed = SocketAddr::from((Ipv4Addr::LOCALHOST, one.local_addr().port()));
    let two = SwimNode::new(config(all, &[seed])).await.unwrap();
    let (a, b) = (one.identity().node, two.identity().node);
    wait_for("meeting", || {
        sees(&one, b, MemberState::Alive) && sees(&two, a, MemberState::Alive)
    })
    .await;
    let expected = SocketAddr::from((Ipv4Addr::LOCALHOST, two.local_addr().port()));
    assert_eq!(one.member(b).unwrap().addr, expected);
    wait_for("observing", || two.member(b).unwrap().addr == expected).await;
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let taken = UdpSocket::bind(any_port()).await.unwrap();
    let addr = taken.local_addr().unwrap();
    let error = SwimNode::new(config(addr, &[])).await.unwrap_err();
    assert_eq!(error.code(), "port-in-use", "{error}");
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
    let error = SwimNode::new(config(elsewhere, &[])).await.unwrap_err();
    assert_eq!(error.code(), "gossip-bind", "{error}");
    let error = SwimNode::builder(config(any_port(), &[]))
        .start()
        .await
        .unwrap_err();
    assert_eq!(error.code(), "gossip-no-key");
    let key = GossipKey::from_bytes([3; 32]);
    let error = SwimNode::builder(config(any_port(), &[]))
        .key(key)
        .start()
        .await
        .unwrap_err();
    assert_eq!(error.code(), "gossip-no-identity");
    let hasty = SwimConfig {
        protocol_period_ms: 0,
        ..config(any_port(), &[])
    };
    let error = SwimNode::new(hasty).await.unwrap_err();
    assert_eq!(error.code(), "gossip-protocol-period");
}

#[tokio::test]
async fn dropping_the_last_handle_frees_the_port_and_ends_the_events() {
    let node = SwimNode::new(config(any_port(), &[])).await.unwrap();
    let addr = node.local_addr();
    let mut events = node.events();
    drop(node.clone());
    assert!(UdpSocket::bind(addr).await.is_err());
    drop(node);
    assert_eq!(tokio::time::timeout(PATIENCE, events.next()).await.unwrap(), None);
    assert!(UdpSocket::bind(addr).await.is_ok());
}

#[tokio::test]
async fn shutdown_ends_the_events_of_every_handle() {
    let node = SwimNode::new(config(any_port(), &[])).await.unwrap();
    let mut events = node.events();
    node.shutdown().await;
    assert_eq!(tokio::time::timeout(PATIENCE, events.next()).await.unwrap(), None);
    assert_eq!(node.events().next().await, None);
    node.leave().await;
}

#[test]
fn plain_envelopes_hold_their_sender() {
    let me = identity_of(&local(5, 6));
    let mut envelope = Envelope::Plain(me);
    let (mut datagram, mut payload) = (Vec::new(), Vec::new());
    envelope.pack(b"hello", &mut datagram).unwrap();
    assert_eq!(datagram.len(), 5 + envelope.overhead());
    assert_eq!(envelope.unpack(&datagram, &mut payload).unwrap(), me);
    assert_eq!(payload, b"hello");
    for len in 0..envelope.overhead() {
        assert_eq!(
            envelope
                .unpack(&datagram[..len], &mut payload)
                .unwrap_err()
                .code(),
            "datagram-not-plain"
        );
    }
}

fn free_socket() -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind(any_port()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

/// The port must not even show that somebody listens there who knows what gossip is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_to_whoever_cannot_seal() {
    let key = GossipKey::from_bytes([3; 32]);
    let node = start(1, 1, any_port(), &[], &key).await;
    let stranger = free_socket();
    let mut sent = 0;
    let mut send = |datagram: &[u8]| {
        stranger.send_to(datagram, node.local_addr()).unwrap();
        sent += 1;
    };
    // A real ping, for anybody who opens it: from a member whose seed is the stranger's socket.
    let seed = free_socket();
    let asking = [seed.local_addr().unwrap()];
    let twin = start(2, 1, any_port(), &asking, &key).await;
    let mut genuine = [0; 2_000];
    let len = tokio::task::block_in_place(|| {
        seed.set_read_timeout(Some(PATIENCE)).unwrap();
        seed.recv(&mut genuine).unwrap()
    });
    twin.shutdown().await;
    let genuine = &genuine[..len];
    for len in [0, 1, 60, 61, 62, 600, 1_400, 1_401, 1_500] {
        send(&vec![0; len]);
        send(&vec![0xa5; len]);
    }
    let mut text = b"rv-open\0".to_vec();
    text.extend([0; 60]);
    send(&text);
    for bit in 0..genuine.len() * 8 {
        let mut altered = genuine.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        send(&altered);
        if bit % 64 == 0 {
            // The node's receive buffer holds no more than a few hundred.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let other_key = GossipKey::from_bytes([4; 32]);
    let mut foreign = rivven_transport::datagram::DatagramSealer::new(&other_key, &local(2, 1));
    let mut sealed = Vec::new();
    foreign.seal(&[0; 100], &mut sealed).unwrap();
    send(&sealed);
    let counted = || node.dropped().values().sum::<u64>();
    // Some may have been lost before the node saw them.
    wait_for("dropping", || counted() >= sent / 2).await;
    let silent = tokio::task::block_in_place(|| stranger.recv(&mut [0; 2_000]).is_err());
    assert!(silent, "{:?}", node.dropped());
    assert_eq!(node.members().len(), 1);
    for reason in [
        "datagram-not-authentic",
        "datagram-unknown-key",
        "datagram-version",
    ] {
        assert!(node.dropped().contains_key(reason), "{:?}", node.dropped());
    }

    // The same port answers who can: the silence above was meant.
    stranger.send_to(genuine, node.local_addr()).unwrap();
    let answered = tokio::task::block_in_place(|| {
        stranger.set_read_timeout(Some(PATIENCE)).unwrap();
        stranger.recv(&mut [0; 2_000]).is_ok()
    });
    assert!(answered);
    node.shutdown().await;
}

/// Each member changes keys at a moment of its own, while all gossip, and nobody is ever suspected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_change_keys_under_live_gossip_and_nobody_is_suspected() {
    let made = |byte| GossipKey::from_bytes([byte; 32]);
    let mut ring = KeyRing::bootstrap(made(1));
    let keys = [(); 3].map(|()| GossipKeys::fixed(made(1)));
    let mut nodes = Vec::new();
    for (node, keys) in (1..).zip(&keys) {
        let seed: Vec<SocketAddr> = nodes.first().map(SwimNode::local_addr).into_iter().collect();
        // Slow enough that a busy machine is no reason for a suspicion.
        let patient = SwimConfig {
            protocol_period_ms: 400,
            suspect_timeout_ms: 4_000,
            ..config(any_port(), &seed)
        };
        let builder = SwimNode::builder(patient).identity(local(node, 1)).key(keys);
        nodes.push(builder.start().await.unwrap());
    }
    let full = || {
        nodes
            .iter()
            .all(|node| (1..=3).all(|other| sees(node, other, MemberState::Alive)))
    };
    wait_for("meeting", full).await;
    let mut events: Vec<_> = nodes.iter().map(SwimNode::events).collect();
    for round in 2..=4 {
        let staged = ring.stage(made(round), 1, 0, 0, false);
        let activated = staged.activate(1, 0);
        let retired = activated.retire(1, 0);
        for step in [staged, activated, retired] {
            ring = step;
            for keys in &keys {
                keys.set(Arc::new(ring.clone()));
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            // What is under way must have arrived before the key that opens it goes.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    for node in &nodes {
        node.shutdown().await;
        assert_eq!(node.dropped(), BTreeMap::new());
    }
    assert!(full());
    for events in &mut events {
        while let Some(event) = events.next().await {
            assert!(
                !matches!(event, MemberEvent::Suspect(_) | MemberEvent::Dead(_)),
                "{event:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_member_whose_keys_come_late_is_mute_until_they_do() {
    let key = GossipKey::from_bytes([3; 32]);
    let one = start(1, 1, any_port(), &[], &key).await;
    let keys = GossipKeys::empty();
    let two = SwimNode::builder(config(any_port(), &[one.local_addr()]))
        .identity(local(2, 1))
        .key(&keys)
        .without_boot_epoch()
        .start()
        .await
        .unwrap();
    wait_for("a datagram that is not sealed", || {
        two.dropped().contains_key("datagram-no-keys")
    })
    .await;
    assert_eq!(one.members().len(), 1);
    keys.set(Arc::new(KeyRing::bootstrap(key)));
    wait_for("meeting", || sees(&one, 2, MemberState::Alive)).await;
    wait_for("meeting", || sees(&two, 1, MemberState::Alive)).await;
    // One that knows no key asks for it.
    keys.set(Arc::new(KeyRing::bootstrap(GossipKey::from_bytes([4; 32]))));
    let missed = tokio::time::timeout(PATIENCE, keys.missing()).await;
    assert!(missed.is_ok());
}
