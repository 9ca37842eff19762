//! A program that is no member, over QUIC with its own certificate.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use rivven_raft::{Client, Consistency, KvCommand, KvStore, NodeId, PeerAddr, ProposeOptions, RaftNode};
use rivven_transport::{
    BootEpoch, ClusterId, InstanceId, LocalIdentity, QuicTransport, Router, Transport,
    identity::{CertificateAuthority, CertificateName, Label, NodeIdentity, Subject, Validity},
};

use crate::common::*;

/// A transport with a certificate for `subject`, and where it listens.
fn transport(authority: &CertificateAuthority, subject: Subject, port: u16, router: Router) -> Transport {
    let cluster = authority.cluster();
    let name = CertificateName { cluster, subject };
    let validity = Validity::from_now(Duration::from_secs(3_600));
    let issued = authority.issue_as(name, validity).unwrap();
    let identity = NodeIdentity::from_pem(authority.cert_pem(), issued.cert_pem(), issued.key_pem()).unwrap();
    let local = LocalIdentity {
        cluster,
        node: identity.node(),
        instance: InstanceId::from_bytes([u8::try_from(identity.node()).unwrap(); 16]),
        boot_epoch: BootEpoch(1),
    };
    let builder = QuicTransport::builder(identity, local).bind((Ipv4Addr::LOCALHOST, port).into());
    builder.router(router).start().unwrap()
}

fn free_ports() -> Vec<u16> {
    let sockets: Vec<_> = (0..3)
        .map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
        .collect();
    sockets
        .iter()
        .map(|socket| socket.local_addr().unwrap().port())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_proposes_reads_and_outlives_the_leader() {
    let authority = CertificateAuthority::generate(ClusterId::from_bytes([7; 16])).unwrap();
    let ports = free_ports();
    let members: BTreeMap<NodeId, PeerAddr> = (1..)
        .zip(&ports)
        .map(|(node, port)| (node, format!("127.0.0.1:{port}").parse().unwrap()))
        .collect();
    let mut nodes = Vec::new();
    for (node_id, port) in (1..).zip(&ports) {
        let router = Router::new();
        let transport = transport(&authority, Subject::Node(node_id), *port, router.clone());
        for (node, addr) in &members {
            transport.set_address(*node, addr.clone());
        }
        let builder = RaftNode::builder(config(node_id, 3)).transport(transport.clone(), router);
        let node = builder.state_machine(KvStore::new()).start().await.unwrap();
        nodes.push((node, transport));
    }
    nodes[0].0.initialize(members.clone()).await.unwrap();

    let label = Label::new("test").unwrap();
    let outside = transport(&authority, Subject::Client(label), 0, Router::new());
    // One address is enough to find the others.
    let seeds = [members[&2].clone()];
    let client = Client::<KvStore>::connect(outside.clone(), &seeds, WAIT)
        .await
        .unwrap();
    let session = client.open_session(Duration::from_secs(60)).await.unwrap();
    session.propose(KvCommand::put("k", "1"), WAIT).await.unwrap();
    let read = client.get("k", Consistency::Linearizable).await.unwrap();
    assert_eq!(read.value.unwrap().value, "1");

    let leader = client.leader().unwrap();
    let at = nodes
        .iter()
        .position(|(node, _)| node.status().node_id == leader)
        .unwrap();
    let (node, transport) = nodes.remove(at);
    node.kill().await;
    transport.shutdown(Duration::ZERO).await;
    session.propose(KvCommand::put("k", "2"), WAIT).await.unwrap();
    let read = client
        .get("k", Consistency::Linearizable)
        .await
        .unwrap()
        .value
        .unwrap();
    assert_eq!((&read.value[..], read.version), (&b"2"[..], 2));

    // Without a quorum nothing is said to be done.
    let (node, transport) = nodes.remove(0);
    node.kill().await;
    transport.shutdown(Duration::ZERO).await;
    let options = ProposeOptions {
        deadline: Duration::from_secs(1),
        ..ProposeOptions::default()
    };
    client
        .propose_with(KvCommand::put("k", "3"), options)
        .await
        .unwrap_err();
    outside.shutdown(Duration::ZERO).await;
}
