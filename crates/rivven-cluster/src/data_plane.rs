//! Who holds the data of partitions on this node: the user's program (design D14).

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use rivven_types::NodeId;
use tokio::task::JoinHandle;

use crate::{
    Duty, Follow, Lead, Release, Replica,
    duty::{Desk, Duties, Spot},
    inner::Inner,
};

/// Duties that are carried out at a time; further ones wait, and of one partition there is one at a time.
const MAX_AT_ONCE: usize = 64;

/// The program that holds the data of partitions, for [`Cluster::start_with`](crate::Cluster::start_with).
///
/// Each method is called on a task of its own and may take its time; the next duty of the same partition waits for
/// its end. A method that panics is logged, and counts as done.
///
/// A cluster with such a program does not take a live replica for one in sync: leaders say which are
/// ([`Lead::report`]). The first node that starts with one sets that for all (the setting `in-sync`).
///
/// ```no_run
/// use rivven_cluster::{Cluster, ClusterConfig, DataPlane, Follow, Lead, Release, Replica};
///
/// struct Store;
///
/// impl DataPlane for Store {
///     async fn lead(&self, lead: &Lead) {
///         println!("{} is ours from epoch {} on", lead.replica(), lead.epoch().0);
///     }
///
///     async fn follow(&self, follow: &Follow) {
///         let from = follow.leader_endpoint("replication");
///         println!("{} is copied from {from:?}", follow.replica);
///     }
///
///     async fn release(&self, release: &Release) {
///         println!("{} is flushed for node {:?}", release.replica(), release.to());
///     }
///
///     async fn close(&self, replica: &Replica) {
///         println!("{replica} is removed");
///     }
/// }
///
/// # async fn run(config: ClusterConfig) -> Result<(), rivven_cluster::StartError> {
/// let cluster = Cluster::start_with(config, Store).await?;
/// # Ok(())
/// # }
/// ```
pub trait DataPlane: Send + Sync + 'static {
    /// Whether replicas hold anything beside their metadata. Without data no method is called, and every live
    /// replica counts as in sync.
    const HOLDS_DATA: bool = true;

    /// Leads a partition: opens it for writing. When this returns, the partition counts as open ([`Lead::ready`]).
    ///
    /// Keep a clone of `lead` to check and to report with, for as long as the partition is led.
    fn lead(&self, lead: &Lead) -> impl Future<Output = ()> + Send;

    /// Follows a leader: whatever was led is led no more, what the leader does not have is to be cut off, and the
    /// rest copied from there.
    fn follow(&self, follow: &Follow) -> impl Future<Output = ()> + Send;

    /// Stops leading a partition and flushes. When this returns, another node leads ([`Release::released`]).
    fn release(&self, release: &Release) -> impl Future<Output = ()> + Send;

    /// Closes a partition and removes what was kept of it.
    fn close(&self, replica: &Replica) -> impl Future<Output = ()> + Send;
}

/// No data: replicas are names in a map, and one that lives is in sync. What `rivven-node` runs with.
///
/// Right for a program that asks who leads and keeps its data elsewhere, or has none; it can follow
/// [`PartitionManager::local`](crate::PartitionManager::local) all the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetadataOnly;

impl DataPlane for MetadataOnly {
    const HOLDS_DATA: bool = false;

    async fn lead(&self, _: &Lead) {}

    async fn follow(&self, _: &Follow) {}

    async fn release(&self, _: &Release) {}

    async fn close(&self, _: &Replica) {}
}

/// Has `plane` carry out the duties of the node until that stops.
pub(crate) async fn drive<D: DataPlane>(inner: Arc<Inner>, desk: Arc<Desk>, plane: Arc<D>) {
    let mut duties = Duties::new(Some(desk), inner.start());
    let mut busy = BTreeSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        let room = running.len() < MAX_AT_ONCE;
        tokio::select! {
            biased;
            Some(done) = running.next(), if !running.is_empty() => {
                let spot: Spot = done;
                busy.remove(&spot);
            }
            duty = duties.next_but(&busy), if room => {
                let Some(duty) = duty else { return };
                let replica = duty.replica().clone();
                let spot = (replica.topic_id, replica.partition);
                busy.insert(spot);
                let task = inner.tasks.spawn(carry_out(Arc::clone(&plane), duty));
                running.push(finish(inner.local.node, replica, task));
            }
        }
    }
}

async fn finish(node_id: NodeId, replica: Replica, task: JoinHandle<Option<()>>) -> Spot {
    if let Err(error) = task.await
        && error.is_panic()
    {
        tracing::error!(node_id, partition = %replica, "the data plane has panicked over a partition");
    }
    (replica.topic_id, replica.partition)
}

async fn carry_out<D: DataPlane>(plane: Arc<D>, duty: Duty) {
    match duty {
        Duty::Lead(lead) => {
            plane.lead(&lead).await;
            lead.open();
        }
        Duty::Follow(follow) => plane.follow(&follow).await,
        Duty::Release(release) => {
            plane.release(&release).await;
            let replica = release.replica().clone();
            if let Err(error) = release.released().await {
                tracing::warn!(partition = %replica, code = error.code(), %error, "not released in order");
            }
        }
        Duty::Close(replica) => plane.close(&replica).await,
    }
}
