//! A peer that is played by the test sends snapshots to a real node.

use std::sync::Mutex as StdMutex;

use rivven_transport::{MAX_CHUNK_BYTES, TransferCtx, TransferError, Transport};

use super::*;
use crate::{
    Consistency, KvCommand, KvStore, RaftNode,
    service::tests::{call, node_and_peer},
    types::{StoredMembership, log_id, vote},
    wire::RequestVote,
};

/// A snapshot of `keys` large values as a leader of term 9 would send it, and its bytes.
fn snapshot(keys: u64) -> (WireSnapshotOffer, Bytes) {
    let mut kv = KvStore::new();
    for key in 0..keys {
        let command = KvCommand::put(key.to_string(), vec![7; 300_000]);
        kv.apply(&crate::ApplyCtx::new(key, 9), command);
    }
    let voters = [1_u64, 2].map(|id| (id, crate::types::Seat::unbound(crate::fabric::fabric_addr(id))));
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
        len: data.transfer().len,
        checksum: data.transfer().checksum,
    };
    (offer, bytes)
}

/// Sends the first `len` bytes, and says at which offset it began.
async fn send(
    peer: &Transport,
    offer: &WireSnapshotOffer,
    bytes: &Bytes,
    len: usize,
) -> (Result<WireSnapshotReceipt, TransferError>, Option<u64>) {
    let first = StdMutex::new(None);
    let source = |offset: u64| {
        first.lock().unwrap().get_or_insert(offset);
        let start = usize::try_from(offset).unwrap();
        let piece = bytes.slice(start..len.min(start + MAX_CHUNK_BYTES).max(start));
        let cut = piece.is_empty() && len < bytes.len();
        async move {
            if cut {
                return Err(io::Error::other("cut"));
            }
            Ok(piece)
        }
    };
    let sent = peer
        .send_stream::<InstallSnapshot, _, _>(1, offer, source, TransferCtx::new())
        .await;
    let first = *first.lock().unwrap();
    (sent, first)
}

async fn keys(node: &RaftNode<KvStore>) -> (usize, Option<u64>) {
    let read = node.read(Consistency::Stale, KvStore::len).await.unwrap();
    (read.value, read.applied_index)
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_snapshot_goes_on_where_it_was() {
    let (node, peer) = node_and_peer().await;
    let (offer, bytes) = snapshot(2);
    let mut held = 0;
    for chunks in 0..=bytes.len() / MAX_CHUNK_BYTES {
        let (cut, first) = send(&peer, &offer, &bytes, chunks * MAX_CHUNK_BYTES).await;
        assert_eq!(cut.unwrap_err().code(), "transfer-source-failed");
        let first = first.unwrap();
        // What was on its way when the sender gave up may be lost, what was held is not.
        assert!(first >= held && first <= chunks.saturating_sub(1) as u64 * MAX_CHUNK_BYTES as u64);
        held = first;
        assert_eq!(keys(&node).await.0, 0);
    }
    assert!(held > 0);
    let (sent, first) = send(&peer, &offer, &bytes, bytes.len()).await;
    assert!(matches!(sent.unwrap(), WireSnapshotReceipt::Installed(_)));
    assert!(first.unwrap() >= held);
    assert_eq!(keys(&node).await, (2, Some(1_000)));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_with_other_bytes_is_not_installed_and_can_be_sent_again() {
    let (node, peer) = node_and_peer().await;
    let (offer, bytes) = snapshot(1);
    let mut wrong = bytes.to_vec();
    wrong[1_000] ^= 1;
    let (sent, _) = send(&peer, &offer, &wrong.into(), bytes.len()).await;
    assert_eq!(sent.unwrap(), WireSnapshotReceipt::Damaged);
    let short = bytes.slice(..bytes.len() - 1);
    let (sent, first) = send(&peer, &offer, &short, short.len()).await;
    assert_eq!((sent.unwrap(), first), (WireSnapshotReceipt::Damaged, Some(0)));
    let long: Bytes = [&bytes[..], b"x"].concat().into();
    let (sent, _) = send(&peer, &offer, &long, long.len()).await;
    assert_eq!(sent.unwrap_err().code(), "snapshot-not-received");
    assert_eq!(keys(&node).await.0, 0);
    let (sent, first) = send(&peer, &offer, &bytes, bytes.len()).await;
    assert!(matches!(sent.unwrap(), WireSnapshotReceipt::Installed(_)));
    assert_eq!((first, keys(&node).await.0), (Some(0), 1));
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_an_older_term_cannot_send_snapshots() {
    let (node, peer) = node_and_peer().await;
    // Standing for election raises the node's own term above 0.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let request = openraft::raft::VoteRequest::new(vote(50, 2, false), Some(log_id(40, 100)));
    call::<RequestVote>(&peer, &request.into()).await.unwrap();
    assert_eq!(node.status().term, 50);
    let (offer, bytes) = snapshot(1);
    let (refused, first) = send(&peer, &offer, &bytes, bytes.len()).await;
    let expected = WireSnapshotReceipt::HigherVote(vote(50, 2, false).into());
    assert_eq!((refused.unwrap(), first), (expected, None));
}

#[tokio::test(start_paused = true)]
async fn nobody_sends_a_snapshot_in_another_nodes_name() {
    let (_node, peer) = node_and_peer().await;
    let (mut offer, bytes) = snapshot(1);
    offer.vote = vote(9, 3, true).into();
    let (refused, first) = send(&peer, &offer, &bytes, bytes.len()).await;
    assert_eq!((refused.unwrap_err().code(), first), ("sender-mismatch", None));
}

#[tokio::test(start_paused = true)]
async fn the_latest_attempt_counts() {
    let (node, peer) = node_and_peer().await;
    let ((large, bytes), (other, other_bytes)) = (snapshot(3), snapshot(1));
    let hanging = async {
        let source = |offset: u64| {
            let start = usize::try_from(offset).unwrap();
            let piece = bytes.slice(start..(start + MAX_CHUNK_BYTES).min(bytes.len()));
            async move {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                Ok(piece)
            }
        };
        peer.send_stream::<InstallSnapshot, _, _>(1, &large, source, TransferCtx::new())
            .await
    };
    let later = async {
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
        send(&peer, &other, &other_bytes, other_bytes.len()).await.0
    };
    let (first, second) = tokio::join!(hanging, later);
    assert_eq!(first.unwrap_err().code(), "snapshot-not-received");
    assert!(matches!(second.unwrap(), WireSnapshotReceipt::Installed(_)));
    assert_eq!(keys(&node).await.0, 1);
}
