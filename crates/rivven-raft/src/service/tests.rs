//! A peer that is played by the test, against a real node.

use std::time::Duration;

use bytes::Bytes;
use rivven_transport::{CallCtx, CallError, Transport};

use super::*;
use crate::{
    Fabric, KvCommand, KvStore, RaftConfig, RaftNode,
    snapshot::Snapshots,
    types::{StoredMembership, log_id, vote},
    wire::SNAPSHOT_CHUNK_BYTES,
};

/// Node 1 of two, and the network end of node 2.
async fn node_and_peer() -> (RaftNode<KvStore>, Transport) {
    let fabric = Fabric::new();
    let config = RaftConfig {
        node_id: 1,
        peers: vec![2],
        election_timeout_ms: 150..300,
        heartbeat_interval_ms: 50,
    };
    let builder = RaftNode::builder(config.clone()).fabric(&fabric);
    let node = builder.state_machine(KvStore::new()).start().await.unwrap();
    let voters = config.voters().unwrap();
    let peer = fabric.join(2, "test", &voters, Router::new()).unwrap();
    (node, peer)
}

async fn call<M: Method>(peer: &Transport, request: &M::Request) -> Result<M::Response, CallError> {
    peer.call::<M>(1, request, CallCtx::timeout(Duration::from_secs(5)))
        .await
}

/// A snapshot of `keys` large values as a leader of term 9 would send it, and its bytes.
fn snapshot(keys: u64) -> (WireSnapshotOffer, Bytes) {
    let mut kv = KvStore::new();
    for key in 0..keys {
        let command = KvCommand::put(key.to_string(), vec![7; 300_000]);
        kv.apply(&crate::ApplyCtx::new(key, 9), command);
    }
    let voters = [1_u64, 2].map(|id| (id, crate::fabric::fabric_addr(id)));
    let membership = openraft::Membership::new(
        vec![[1, 2].into()],
        voters.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    )
    .unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(9, 1_000)),
        last_membership: StoredMembership::new(Some(log_id(0, 0)), membership),
    };
    let data = Snapshots::memory()
        .write(&meta, |out| {
            crate::system::System::default().encode(out)?;
            KvStore::encode_snapshot(&kv, out)
        })
        .unwrap();
    let bytes = data.read_transfer(0, usize::MAX).unwrap();
    let offer = WireSnapshotOffer {
        vote: vote(9, 2, true).into(),
        meta: (&meta).into(),
        len: data.transfer_len(),
        checksum: data.transfer().checksum,
    };
    (offer, bytes)
}

fn chunk(offer: &WireSnapshotOffer, bytes: &Bytes, offset: u64) -> WireSnapshotChunk {
    let start = usize::try_from(offset).unwrap();
    let end = bytes.len().min(start + SNAPSHOT_CHUNK_BYTES);
    WireSnapshotChunk {
        checksum: offer.checksum,
        offset,
        data: bytes.slice(start..end),
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_snapshot_goes_on_where_it_was() {
    let (node, peer) = node_and_peer().await;
    let (offer, bytes) = snapshot(12);
    assert!(bytes.len() > 3 * SNAPSHOT_CHUNK_BYTES);
    let first = call::<SnapshotOffer>(&peer, &offer).await.unwrap();
    assert_eq!(first, WireSnapshotProgress::Next(0));
    let next = call::<SnapshotChunk>(&peer, &chunk(&offer, &bytes, 0))
        .await
        .unwrap();
    assert_eq!(next, WireSnapshotProgress::Next(SNAPSHOT_CHUNK_BYTES as u64));
    // The sender starts over, as after a lost connection. A repeated chunk changes nothing.
    assert_eq!(call::<SnapshotOffer>(&peer, &offer).await.unwrap(), next);
    let repeated = call::<SnapshotChunk>(&peer, &chunk(&offer, &bytes, 0)).await;
    assert_eq!(repeated.unwrap(), next);
    let early = call::<SnapshotInstall>(&peer, &offer).await.unwrap();
    assert!(matches!(early, WireSnapshotInstalled::Incomplete), "{early:?}");

    let mut progress = call::<SnapshotOffer>(&peer, &offer).await.unwrap();
    while let WireSnapshotProgress::Next(offset) = progress
        && offset < offer.len
    {
        progress = call::<SnapshotChunk>(&peer, &chunk(&offer, &bytes, offset))
            .await
            .unwrap();
    }
    let installed = call::<SnapshotInstall>(&peer, &offer).await.unwrap();
    assert!(
        matches!(installed, WireSnapshotInstalled::Done(_)),
        "{installed:?}"
    );
    let read = node.read(crate::Consistency::Stale, KvStore::len).await.unwrap();
    assert_eq!((read.value, read.applied_index), (12, Some(1_000)));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_with_other_bytes_is_not_installed() {
    let (node, peer) = node_and_peer().await;
    let (offer, bytes) = snapshot(1);
    call::<SnapshotOffer>(&peer, &offer).await.unwrap();
    let mut wrong = bytes.to_vec();
    wrong[1_000] ^= 1;
    let sent = chunk(&offer, &wrong.into(), 0);
    let progress = call::<SnapshotChunk>(&peer, &sent).await.unwrap();
    assert_eq!(progress, WireSnapshotProgress::Next(offer.len));
    let refused = call::<SnapshotInstall>(&peer, &offer).await.unwrap();
    assert!(
        matches!(refused, WireSnapshotInstalled::Incomplete),
        "{refused:?}"
    );
    let unknown = call::<SnapshotChunk>(&peer, &sent).await.unwrap();
    assert_eq!(unknown, WireSnapshotProgress::Unknown);
    assert_eq!(
        node.read(crate::Consistency::Stale, KvStore::len)
            .await
            .unwrap()
            .value,
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_an_older_term_cannot_send_snapshots() {
    let (node, peer) = node_and_peer().await;
    // Standing for election raises the node's own term above 0.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let request = openraft::raft::VoteRequest::new(vote(50, 2, false), Some(log_id(40, 100)));
    call::<RequestVote>(&peer, &request.into()).await.unwrap();
    assert_eq!(node.status().term, 50);
    let (offer, _) = snapshot(1);
    let refused = call::<SnapshotOffer>(&peer, &offer).await.unwrap();
    assert_eq!(
        refused,
        WireSnapshotProgress::HigherVote(vote(50, 2, false).into())
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_speaks_in_another_nodes_name() {
    let (_node, peer) = node_and_peer().await;
    let request = |node| {
        let request = openraft::raft::VoteRequest::new(vote(5, node, false), None);
        WireVoteRequest::from(request)
    };
    for claimed in [1, 3] {
        let refused = call::<RequestVote>(&peer, &request(claimed)).await.unwrap_err();
        assert_eq!(refused.code(), "sender-mismatch");
        let refused = call::<RequestPreVote>(&peer, &request(claimed))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), "sender-mismatch");
    }
    let (mut offer, _) = snapshot(1);
    offer.vote = vote(9, 3, true).into();
    let refused = call::<SnapshotOffer>(&peer, &offer).await.unwrap_err();
    assert_eq!(refused.code(), "sender-mismatch");
}

#[tokio::test(start_paused = true)]
async fn malformed_messages_are_refused_and_harm_nothing() {
    let (node, peer) = node_and_peer().await;
    let entry = |index| crate::types::LogEntry {
        log_id: log_id(9, index),
        payload: openraft::EntryPayload::Blank,
    };
    let append = AppendEntriesRequest {
        vote: vote(9, 2, true),
        prev_log_id: None,
        entries: vec![entry(0), entry(2)],
        leader_commit: None,
    };
    let refused = call::<AppendEntries>(&peer, &append.into()).await.unwrap_err();
    assert_eq!(refused.code(), "malformed-request");
    let proposal = WireProposal {
        namespace: NAMESPACE_APPLICATION,
        body: Bytes::from_static(b"\xff\xff"),
    };
    let refused = call::<Propose>(&peer, &proposal).await.unwrap_err();
    assert_eq!(refused.code(), "malformed-request");
    // Time is told by the leader alone, and what a namespace means is not guessed.
    let tick = postcard::to_allocvec(&SystemCommand::Tick { now_ms: u64::MAX }).unwrap();
    for (namespace, body) in [(NAMESPACE_SYSTEM, tick), (9, Vec::new())] {
        let body = body.into();
        let proposal = WireProposal { namespace, body };
        let refused = call::<Propose>(&peer, &proposal).await.unwrap();
        assert!(matches!(refused, WireProposeResponse::Refused(_)), "{refused:?}");
    }
    let short = WireProposal {
        namespace: NAMESPACE_SESSION,
        body: Bytes::from_static(&[0; 15]),
    };
    let refused = call::<Propose>(&peer, &short).await.unwrap_err();
    assert_eq!(refused.code(), "malformed-request");
    // Limits hold for forwarded proposals too.
    let long = KvCommand::put("k".repeat(crate::MAX_KEY_BYTES + 1), "v");
    let long = WireProposal {
        namespace: NAMESPACE_APPLICATION,
        body: postcard::to_allocvec(&long).unwrap().into(),
    };
    let refused = call::<Propose>(&peer, &long).await.unwrap();
    assert!(matches!(refused, WireProposeResponse::Refused(_)), "{refused:?}");
    assert!(node.status().stopped.is_none());
}
