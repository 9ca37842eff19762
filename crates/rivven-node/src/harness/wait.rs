//! Waiting for a cluster to reach a state, with a deadline.

use std::{collections::BTreeSet, future::Future, time::Duration};

use rivven_admin::{AssignmentsBody, StatusBody};
use rivven_cluster::NodeId;
use tokio::time::Instant;

use super::Harness;
use crate::client::AdminClient;

/// How often a condition is asked for.
const POLL: Duration = Duration::from_millis(10);
/// How long one question may take: less than any deadline, so that a hanging node costs one poll.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks `condition` until it answers with a value; its last refusal becomes the error.
///
/// # Errors
/// When `limit` passes before that.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut condition: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let refusal = match condition().await {
            Ok(value) => return Ok(value),
            Err(refusal) => refusal,
        };
        if Instant::now() >= deadline {
            anyhow::bail!("{what}: not after {limit:?}; last seen: {refusal}");
        }
        tokio::time::sleep(POLL).await;
    }
}

impl Harness {
    /// A client of node `id` that does not wait long, for questions that are repeated.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn client(&self, id: NodeId) -> anyhow::Result<AdminClient> {
        Ok(self.node(id)?.client().with_timeout(QUESTION_TIMEOUT))
    }

    /// Waits until each node of `ids` says it is ready.
    ///
    /// # Errors
    /// When `limit` passes before that.
    pub async fn wait_ready(&self, ids: &[NodeId], limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        for &id in ids {
            let left = deadline.saturating_duration_since(Instant::now());
            let address = self.node(id)?.spec().health;
            until(&format!("node {id} is ready"), left, || async move {
                let mut client = AdminClient::new(address).with_timeout(QUESTION_TIMEOUT);
                match client.text("/readyz").await {
                    Ok((status, _)) if status.is_success() => Ok(()),
                    Ok((_, text)) => Err(text),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until every running node names the same running Raft leader; returns it.
    ///
    /// # Errors
    /// When `limit` passes before that.
    pub async fn wait_leader(&self, limit: Duration) -> anyhow::Result<NodeId> {
        let ids = self.running();
        let ids = &ids;
        until("the nodes agree on a leader", limit, || async move {
            let mut named = BTreeSet::new();
            for &id in ids {
                named.insert(self.status(id).await.map_err(|e| e.to_string())?.controller);
            }
            match named.first() {
                Some(Some(leader)) if named.len() == 1 && ids.contains(leader) => Ok(*leader),
                _ => Err(format!("they name {named:?}")),
            }
        })
        .await
    }

    /// Waits until node `id` has applied everything up to log index `index`.
    ///
    /// # Errors
    /// When `limit` passes before that.
    pub async fn wait_applied(&self, id: NodeId, index: u64, limit: Duration) -> anyhow::Result<()> {
        until(&format!("node {id} has caught up"), limit, || async move {
            let status = self.status(id).await.map_err(|e| e.to_string())?;
            if status.applied_index >= index {
                return Ok(());
            }
            Err(format!("it has applied {} of {index}", status.applied_index))
        })
        .await
    }

    /// Waits until node `asked` shows a leader for each of at least `partitions` partitions, none of them
    /// in `gone`; returns the assignments.
    ///
    /// # Errors
    /// When `limit` passes before that.
    pub async fn wait_partition_leaders(
        &self,
        asked: NodeId,
        partitions: usize,
        gone: &[NodeId],
        limit: Duration,
    ) -> anyhow::Result<AssignmentsBody> {
        until("every partition has a live leader", limit, || async move {
            let mut client = self.client(asked).map_err(|e| e.to_string())?;
            let assignments = client.assignments().await.map_err(|e| e.to_string())?;
            let led = assignments.partitions.iter();
            let led = led.filter(|p| p.leader.is_some_and(|leader| !gone.contains(&leader)));
            let led = led.count();
            if led == assignments.partitions.len() && led >= partitions {
                return Ok(assignments);
            }
            Err(format!("{led} of {} have one", assignments.partitions.len()))
        })
        .await
    }

    /// What node `id` knows of itself, asked once.
    ///
    /// # Errors
    /// When there is no such node, or it gives no answer.
    pub async fn status(&self, id: NodeId) -> anyhow::Result<StatusBody> {
        Ok(self.client(id)?.status().await?)
    }
}
