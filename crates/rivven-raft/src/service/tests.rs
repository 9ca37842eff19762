//! A peer that is played by the test, against a real node.

use std::time::Duration;

use bytes::Bytes;
use rivven_transport::{CallCtx, CallError, Transport};

use super::*;
use crate::{
    Fabric, JoinRequest, KvCommand, KvStore, MemberChange, MemberRole, RaftConfig, RaftNode,
    membership::{WireAnswer, WireAsk},
    system::SystemCommand,
    types::{NAMESPACE_APPLICATION, NAMESPACE_SESSION, NAMESPACE_SYSTEM, log_id, vote},
    wire::{WireProposal, WireProposeResponse, client::MAX_BATCH},
};

/// Node 1 of two, and the network end of node 2.
pub(crate) async fn node_and_peer() -> (RaftNode<KvStore>, Transport) {
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
    let peer = fabric
        .join((2, "test"), None, Some(&voters), Router::new())
        .unwrap();
    (node, peer)
}

pub(crate) async fn call<M: Method>(
    peer: &Transport,
    request: &M::Request,
) -> Result<M::Response, CallError> {
    peer.call::<M>(1, request, CallCtx::timeout(Duration::from_secs(5)))
        .await
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
}

#[tokio::test(start_paused = true)]
async fn whoever_is_no_member_may_ask_to_join_for_itself_and_nothing_else() {
    let fabric = Fabric::new();
    let config = RaftConfig {
        node_id: 1,
        peers: Vec::new(),
        election_timeout_ms: 150..300,
        heartbeat_interval_ms: 50,
    };
    let builder = RaftNode::builder(config).fabric(&fabric);
    let node = builder.state_machine(KvStore::new()).start().await.unwrap();
    let stranger = fabric.join((3, "test"), None, None, Router::new()).unwrap();
    let local = stranger.local();
    let request = |node| JoinRequest {
        node,
        instance: local.instance,
        addr: "node3:9093".parse().unwrap(),
        zone: String::new(),
        role: MemberRole::Auto,
        priority: crate::DEFAULT_PRIORITY,
    };
    let remove = MemberChange::Remove { node: 1 };
    for (ask, code) in [
        (WireAsk::View, "not-a-member"),
        (
            WireAsk::Change {
                change: remove,
                force: None,
            },
            "not-a-member",
        ),
        (WireAsk::ForwardedJoin(request(4)), "not-a-member"),
        (WireAsk::Join(request(4)), "sender-mismatch"),
    ] {
        let refused = call::<AskMembership>(&stranger, &ask).await.unwrap_err();
        assert_eq!(refused.code(), code, "{ask:?}");
    }
    let joined = call::<AskMembership>(&stranger, &WireAsk::Join(request(3))).await;
    assert_eq!(joined.unwrap(), WireAnswer::Joined);
    assert!(node.membership().await.unwrap().member(3).is_some());
}

fn proposal_of(body: &'static [u8]) -> WireProposal {
    WireProposal {
        namespace: NAMESPACE_APPLICATION,
        body: Bytes::from_static(body),
    }
}

/// The code with which a proposal is refused.
async fn refusal(peer: &Transport, proposal: WireProposal) -> String {
    let answers = call::<ProposeMany>(peer, &vec![proposal]).await.unwrap();
    match answers.as_slice() {
        [WireProposeResponse::Refused(refusal)] => refusal.code.clone(),
        other => panic!("{other:?}"),
    }
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
    let proposal = proposal_of(b"\xff\xff");
    assert_eq!(refusal(&peer, proposal).await, "malformed-request");
    // Time is told by the leader alone, and what a namespace means is not guessed.
    let tick = postcard::to_allocvec(&SystemCommand::Tick { now_ms: u64::MAX }).unwrap();
    for (namespace, body) in [(NAMESPACE_SYSTEM, tick), (9, Vec::new())] {
        let body = body.into();
        let proposal = WireProposal { namespace, body };
        assert_eq!(refusal(&peer, proposal).await, "unknown-namespace");
    }
    let short = WireProposal {
        namespace: NAMESPACE_SESSION,
        body: Bytes::from_static(&[0; 15]),
    };
    assert_eq!(refusal(&peer, short).await, "malformed-request");
    // Limits hold for forwarded proposals too.
    let long = KvCommand::put("k".repeat(crate::MAX_KEY_BYTES + 1), "v");
    let long = WireProposal {
        namespace: NAMESPACE_APPLICATION,
        body: postcard::to_allocvec(&long).unwrap().into(),
    };
    assert_eq!(refusal(&peer, long).await, "key-too-long");
    let many = vec![proposal_of(&[]); MAX_BATCH + 1];
    let refused = call::<ProposeMany>(&peer, &many).await.unwrap_err();
    assert_eq!(refused.code(), "malformed-request");
    assert!(node.status().stopped.is_none());
}
