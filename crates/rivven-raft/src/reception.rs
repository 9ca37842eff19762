//! A snapshot on its way in, kept between the attempts to send it.

use std::{
    io,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use rivven_raft_store::SnapshotTransfer;
use rivven_transport::{Caller, Offered, Rejection, Router, TaskGroup};
use tokio::sync::Mutex;

use crate::{
    StateMachine,
    node::Inner,
    service::{malformed, own_vote, running, stopped},
    snapshot::{Incoming, SnapshotData, Snapshots},
    types::{Snapshot, SnapshotMeta, Vote},
    wire::{InstallSnapshot, WireSnapshotOffer, WireSnapshotReceipt},
};

/// The snapshot on its way in. One at a time: there is one leader, and the latest attempt counts.
pub(crate) type Reception = Arc<Mutex<Option<Received>>>;

/// What has arrived of a snapshot.
#[derive(Debug)]
pub(crate) struct Received {
    transfer: SnapshotTransfer,
    /// The attempt that may add to it.
    attempt: Arc<()>,
    incoming: Incoming,
}

/// One attempt to receive a snapshot, superseded by the next.
struct Attempt {
    reception: Reception,
    group: TaskGroup,
    attempt: Arc<()>,
}

/// Takes snapshots for `node`, which is held weakly for as long as one is on its way.
pub(crate) fn register<S: StateMachine>(router: &Router, node: &Arc<Inner<S>>) {
    let node = Arc::downgrade(node);
    router.register_transfer::<InstallSnapshot, _, _>(move |caller, offer, offered| {
        receive(Weak::clone(&node), caller, offer, offered)
    });
}

async fn receive<S: StateMachine>(
    node: Weak<Inner<S>>,
    caller: Caller,
    offer: WireSnapshotOffer,
    offered: Offered,
) -> Result<WireSnapshotReceipt, Rejection> {
    own_vote(&caller, offer.vote)?;
    let meta = SnapshotMeta::try_from(offer.meta).map_err(malformed)?;
    let transfer = SnapshotTransfer {
        len: offer.len,
        checksum: offer.checksum,
    };
    let (attempt, snapshots) = {
        let node = running(&node)?;
        node.shared.gate().vet(&caller)?;
        // Disk and memory are taken only for a leader that is not already superseded.
        let current = node.current_vote();
        if current > Vote::from(offer.vote) {
            return Ok(WireSnapshotReceipt::HigherVote(current.into()));
        }
        let attempt = Attempt {
            reception: Arc::clone(&node.reception),
            group: node.scope.group().clone(),
            attempt: Arc::new(()),
        };
        (attempt, node.snapshots.clone())
    };
    let offset = attempt.begin(snapshots, transfer).await?;
    let mut incoming = offered.accept_from(offset).await;
    while let Some(chunk) = incoming.chunk().await? {
        attempt.write(chunk).await?;
    }
    let Some(snapshot) = attempt.finish(&meta).await? else {
        return Ok(WireSnapshotReceipt::Damaged);
    };
    let node = running(&node)?;
    let snapshot = Snapshot { meta, snapshot };
    let raft = node.raft().map_err(stopped)?;
    let vote = offer.vote.into();
    let installed = raft.call(move |raft| async move { raft.install_full_snapshot(vote, snapshot).await });
    let installed = installed.await.map_err(stopped)?;
    Ok(WireSnapshotReceipt::Installed(installed.vote.into()))
}

impl Attempt {
    /// Makes this the attempt that counts, and says from which offset it goes on: where an interrupted
    /// transfer of the same bytes has come to, whoever sent them, or 0.
    async fn begin(&self, snapshots: Snapshots, transfer: SnapshotTransfer) -> Result<u64, Rejection> {
        let mut reception = Arc::clone(&self.reception).lock_owned().await;
        if let Some(received) = reception
            .as_mut()
            .filter(|received| received.transfer == transfer)
        {
            received.attempt = Arc::clone(&self.attempt);
            return Ok(received.incoming.offset());
        }
        let attempt = Arc::clone(&self.attempt);
        // The lock goes along: a cancelled attempt must not leave behind what the next one does not know of.
        let open = self.group.blocking(move || {
            // First, because what arrives takes the one place there is.
            *reception = None;
            let incoming = snapshots.receive(transfer)?;
            let offset = incoming.offset();
            *reception = Some(Received {
                transfer,
                attempt,
                incoming,
            });
            Ok(offset)
        });
        open.await
            .map_err(io::Error::other)
            .and_then(|opened| opened)
            .map_err(not_received)
    }

    /// Puts the next bytes behind those that are there.
    async fn write(&self, chunk: Bytes) -> Result<(), Rejection> {
        let mut reception = Arc::clone(&self.reception).lock_owned().await;
        let attempt = Arc::clone(&self.attempt);
        // The lock goes along: the next attempt must not begin at a half-written chunk.
        let write = self.group.blocking(move || {
            let received = reception
                .as_mut()
                .filter(|received| Arc::ptr_eq(&received.attempt, &attempt));
            let received = received.ok_or_else(superseded)?;
            let end = received.incoming.offset().saturating_add(chunk.len() as u64);
            let written = if end > received.transfer.len {
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "more bytes than were offered",
                ))
            } else {
                received.incoming.write(&chunk)
            };
            if written.is_err() {
                *reception = None;
            }
            written
        });
        write
            .await
            .map_err(io::Error::other)
            .and_then(|written| written)
            .map_err(not_received)
    }

    /// The snapshot, synced and verified; none if what arrived is not what was offered.
    async fn finish(&self, meta: &SnapshotMeta) -> Result<Option<SnapshotData>, Rejection> {
        let received = {
            let mut reception = self.reception.lock().await;
            reception.take_if(|received| Arc::ptr_eq(&received.attempt, &self.attempt))
        };
        let received = received.ok_or_else(superseded).map_err(not_received)?;
        let (arrived, expected) = (received.incoming.offset(), received.transfer.len);
        if arrived != expected {
            tracing::warn!(arrived, expected, "a snapshot ended before it was complete");
            return Ok(None);
        }
        let finish = self.group.blocking(move || received.incoming.finish());
        let snapshot = match finish.await.map_err(io::Error::other).and_then(|done| done) {
            Ok(snapshot) => snapshot,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "a received snapshot is not what was offered");
                return Ok(None);
            }
            Err(error) => return Err(not_received(error)),
        };
        if !snapshot.is_of(meta) {
            tracing::warn!("a received snapshot is not of the place in the log that was offered");
            return Ok(None);
        }
        Ok(Some(snapshot))
    }
}

fn superseded() -> io::Error {
    io::Error::other("a later attempt to send it has begun")
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn not_received(error: io::Error) -> Rejection {
    Rejection::new("snapshot-not-received", error.to_string())
}

#[cfg(test)]
mod tests;
