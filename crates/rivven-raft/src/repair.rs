//! A node whose snapshots no longer reach its log fetches one of a peer before its core starts.
//!
//! This is not how a follower catches up: that is the leader's business and needs a running core. A core
//! without the state behind its log would start from an empty one.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use openraft::storage::RaftLogStorage;
use rivven_raft_store::{SnapshotError, SnapshotGap, SnapshotReceiver, SnapshotStore, SnapshotTransfer};
use rivven_transport::{CallCtx, Class, Method, Rejection, Router, TaskGroup, Transport};
use rivven_types::NodeId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{StartError, StateMachine, codec::LogCodec, node::Inner, service::stopped, types::TypeConfig};

/// How long a node looks for a peer that has a snapshot. A cluster that is started as a whole has formed by
/// then.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two rounds through all peers.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one answer may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of a snapshot in one answer.
const PART_BYTES: usize = 1 << 20;

/// Most bytes of a message without a part.
const MAX_SMALL_BYTES: usize = 1024;

/// What the newest snapshot is called, if it reaches the index asked for.
#[derive(Debug)]
struct FindSnapshot;

impl Method for FindSnapshot {
    const ID: u16 = 0x0120;
    const NAME: &'static str = "raft.snapshot-find";
    const CLASS: Class = Class::Bulk;
    const MAX_REQUEST: usize = MAX_SMALL_BYTES;
    const MAX_RESPONSE: usize = MAX_SMALL_BYTES;
    type Request = u64;
    type Response = Option<WireTransfer>;
}

/// Bytes of a snapshot from an offset on; none if it is kept no longer.
#[derive(Debug)]
struct ReadSnapshot;

impl Method for ReadSnapshot {
    const ID: u16 = 0x0121;
    const NAME: &'static str = "raft.snapshot-read";
    const CLASS: Class = Class::Bulk;
    const MAX_REQUEST: usize = MAX_SMALL_BYTES;
    const MAX_RESPONSE: usize = PART_BYTES + MAX_SMALL_BYTES;
    type Request = (WireTransfer, u64);
    type Response = Option<Bytes>;
}

/// [`SnapshotTransfer`] on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WireTransfer {
    len: u64,
    checksum: u32,
}

impl From<SnapshotTransfer> for WireTransfer {
    fn from(SnapshotTransfer { len, checksum }: SnapshotTransfer) -> Self {
        Self { len, checksum }
    }
}

impl From<WireTransfer> for SnapshotTransfer {
    fn from(WireTransfer { len, checksum }: WireTransfer) -> Self {
        Self { len, checksum }
    }
}

/// Registers what a node answers peers in need.
pub(crate) fn register<S: StateMachine>(router: &Router, node: &Arc<Inner<S>>) {
    let find = Arc::downgrade(node);
    router.register::<FindSnapshot, _, _>(move |_caller, needed| {
        let node = running(&find);
        async move { find_snapshot(&*node?, needed).await }
    });
    let read = Arc::downgrade(node);
    router.register::<ReadSnapshot, _, _>(move |_caller, (transfer, offset)| {
        let node = running(&read);
        async move { read_snapshot(&*node?, transfer, offset).await }
    });
}

fn running<S: StateMachine>(node: &Weak<Inner<S>>) -> Result<Arc<Inner<S>>, Rejection> {
    let node = node.upgrade().filter(|node| node.stop_reason().is_none());
    node.ok_or_else(|| Rejection::new("not-running", "the Raft node of this process has stopped"))
}

/// Takes a snapshot if none reaches far enough, though the state does; the peer asks again.
async fn find_snapshot<S: StateMachine>(
    node: &Inner<S>,
    needed: u64,
) -> Result<Option<WireTransfer>, Rejection> {
    if let Some((meta, data)) = node.snapshots.latest()
        && meta.last_log_id.is_some_and(|id| id.index >= needed)
    {
        return Ok(Some(data.transfer().into()));
    }
    if node.shared.applied_index() >= Some(needed) {
        let raft = node.raft().map_err(stopped)?;
        let begun = raft.call(|raft| async move { raft.trigger().snapshot().await });
        begun.await.map_err(stopped)?;
    }
    Ok(None)
}

async fn read_snapshot<S: StateMachine>(
    node: &Inner<S>,
    transfer: WireTransfer,
    offset: u64,
) -> Result<Option<Bytes>, Rejection> {
    // Any of those kept: a peer that is slow must not begin again with each that is made meanwhile.
    let mut kept = node.snapshots.kept().into_iter().map(|(_, data)| data);
    let Some(data) = kept.find(|data| WireTransfer::from(data.transfer()) == transfer) else {
        return Ok(None);
    };
    let most = node.snapshot_rate.piece_bytes(PART_BYTES);
    let read = node
        .scope
        .group()
        .blocking(move || data.read_transfer(offset, most));
    let part = read.await.map_err(io::Error::other).and_then(|part| part);
    let part = part.map_err(|error| Rejection::new("snapshot-not-read", error.to_string()))?;
    node.snapshot_rate.admit(part.len()).await;
    Ok(Some(part))
}

/// A node that has to be repaired before it can start.
pub(crate) struct Patient<'a> {
    pub(crate) transport: &'a Transport,
    pub(crate) group: &'a TaskGroup,
    /// Who may have a snapshot.
    pub(crate) peers: &'a BTreeSet<NodeId>,
    pub(crate) snapshots: &'a SnapshotStore<TypeConfig, LogCodec>,
}

impl Patient<'_> {
    /// Fetches a peer's snapshot that fills `gap`. Vote and log stay.
    pub(crate) async fn repair<L>(&self, log: &mut L, gap: &SnapshotGap<TypeConfig>) -> Result<(), StartError>
    where
        L: RaftLogStorage<TypeConfig>,
    {
        tracing::warn!(%gap, "looking for a peer with a snapshot");
        let needed = gap.purged.index;
        let give_up = Instant::now() + PATIENCE;
        let others = || {
            self.peers
                .iter()
                .filter(|peer| **peer != self.transport.local().node)
        };
        while Instant::now() < give_up && others().next().is_some() {
            for peer in others() {
                match self.fetch(*peer, needed, log).await {
                    Ok(true) => {
                        tracing::info!(
                            peer,
                            needed,
                            "a snapshot of a peer has taken the place of the damaged ones"
                        );
                        return Ok(());
                    }
                    Ok(false) => {}
                    Err(cause) => tracing::debug!(peer, cause, "a peer gave no snapshot"),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(StartError::NoSnapshot { gap: gap.to_string() })
    }

    /// False if the peer has no snapshot that reaches `needed` yet, or another than a moment ago.
    async fn fetch<L>(&self, peer: NodeId, needed: u64, log: &mut L) -> Result<bool, String>
    where
        L: RaftLogStorage<TypeConfig>,
    {
        let found = self.call::<FindSnapshot>(peer, &needed).await?;
        let Some(transfer) = found else {
            return Ok(false);
        };
        let store = self.snapshots.clone();
        let mut receiver = self.blocking(move || store.receive(transfer.into())).await?;
        while receiver.offset() < transfer.len {
            let part = self
                .call::<ReadSnapshot>(peer, &(transfer, receiver.offset()))
                .await?;
            let Some(part) = part.filter(|part| !part.is_empty()) else {
                return Ok(false);
            };
            receiver = self.blocking(move || write(receiver, &part)).await?;
        }
        let snapshot = self.blocking(move || receiver.finish()).await?;
        let repaired = self.snapshots.repair(log, &snapshot).await;
        repaired.map(|()| true).map_err(|error| error.to_string())
    }

    async fn call<M: Method>(&self, peer: NodeId, request: &M::Request) -> Result<M::Response, String> {
        let ctx = CallCtx::timeout(CALL_TIMEOUT);
        let answer = self.transport.call::<M>(peer, request, ctx).await;
        answer.map_err(|error| error.to_string())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, String> {
        match self.group.blocking(work).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn write(
    mut receiver: SnapshotReceiver<TypeConfig, LogCodec>,
    part: &[u8],
) -> Result<SnapshotReceiver<TypeConfig, LogCodec>, SnapshotError> {
    receiver.write(part)?;
    Ok(receiver)
}
