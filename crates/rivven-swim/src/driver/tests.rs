//! Real sockets on loopback, with short periods.

use std::{format, vec};

use rivven_types::ClusterId;

use super::*;
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
