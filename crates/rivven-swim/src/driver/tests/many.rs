//! Twenty members on loopback.

use super::*;

#[tokio::test]
async fn twenty_members_meet_lose_one_and_welcome_it_back() {
    const COUNT: NodeId = 20;
    let key = GossipKey::from_bytes([3; 32]);
    let patient = |peers: &[SocketAddr]| SwimConfig {
        protocol_period_ms: 300,
        suspect_timeout_ms: 3_000,
        ..config(any_port(), peers)
    };
    let start = async |node, epoch, bind: SocketAddr, peers: &[SocketAddr]| {
        let config = SwimConfig {
            bind_addr: bind.into(),
            ..patient(peers)
        };
        let builder = SwimNode::builder(config)
            .identity(local(node, epoch))
            .key(key.clone());
        builder.start().await.unwrap()
    };
    let mut nodes = vec![start(1, 1, any_port(), &[]).await];
    let seed = [nodes[0].local_addr()];
    for node in 2..=COUNT {
        nodes.push(start(node, 1, any_port(), &seed).await);
    }
    let all_see = |nodes: &[SwimNode], subject, state| {
        let mut others = nodes.iter().filter(|node| node.identity().node != subject);
        others.all(|observer| sees(observer, subject, state))
    };
    let full = |nodes: &[SwimNode]| (1..=COUNT).all(|node| all_see(nodes, node, MemberState::Alive));
    wait_for("meeting", || full(&nodes)).await;

    let last = nodes.pop().unwrap();
    let port = last.local_addr();
    last.shutdown().await;
    wait_for("death", || all_see(&nodes, COUNT, MemberState::Dead)).await;
    nodes.push(start(COUNT, 2, port, &seed).await);
    wait_for("return", || full(&nodes)).await;
    for node in &nodes {
        assert_eq!(node.dropped(), BTreeMap::new());
        node.shutdown().await;
    }
}
