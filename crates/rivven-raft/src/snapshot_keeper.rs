//! Before and after a snapshot: one that is due is asked for, the log is purged behind the older of two, and one that
//! failed is tried again.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{StateMachine, core::CoreHandle, growth::Growth, snapshot::Snapshots};

/// Pause before a snapshot for which there was no room is tried again. Doubles with every failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest such pause.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// How long after it was asked for one the core is asked again. One that has begun goes on undisturbed; but a core that
/// still goes through its log refuses, and tells nobody.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What there is to know of a node's snapshots.
#[derive(Clone, Debug, Default)]
pub(crate) struct SnapshotNews {
    /// How many were kept since the node was started.
    kept: u64,
    failure: Option<Failure>,
}

/// Snapshots for which there was no room, one after the other.
#[derive(Clone, Debug)]
struct Failure {
    cause: String,
    retry_at: Instant,
    pause: Duration,
}

impl SnapshotNews {
    /// Why the newest one was not written.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.as_ref().map(|failure| failure.cause.clone())
    }

    /// Why none is written at present; `None` while one may be, and perhaps is.
    pub(crate) fn refusal(&self, now: Instant) -> Option<String> {
        self.failure().filter(|_| !self.may_write(now))
    }

    pub(crate) fn was_kept(&mut self) {
        self.kept = self.kept.saturating_add(1);
        self.failure = None;
    }

    pub(crate) fn failed(&mut self, cause: String, now: Instant) {
        let before = self.failure.as_ref().map(|failure| failure.pause);
        let pause = before.map_or(FIRST_RETRY, |pause| pause.saturating_mul(2).min(MAX_RETRY));
        self.failure = Some(Failure {
            cause,
            retry_at: now + pause,
            pause,
        });
    }

    /// Whether a snapshot may be written already.
    pub(crate) fn may_write(&self, now: Instant) -> bool {
        self.failure
            .as_ref()
            .is_none_or(|failure| failure.retry_at <= now)
    }
}

/// Acts on the news of snapshots for as long as `raft` runs.
pub(crate) async fn keep_snapshots<S: StateMachine>(
    raft: CoreHandle<S>,
    snapshots: Snapshots,
    growth: Arc<Growth>,
    mut news: watch::Receiver<SnapshotNews>,
) {
    let (mut seen, mut purged) = (None, None);
    loop {
        let SnapshotNews { kept, failure } = news.borrow_and_update().clone();
        if seen != Some(kept) {
            seen = Some(kept);
            // The core purges nothing by itself: it knows of one snapshot only.
            let upto = snapshots.purge_upto();
            if let Some(upto) = upto.filter(|upto| purged < Some(*upto)) {
                purged = Some(upto);
                let purged = raft.call(move |raft| async move { raft.trigger().purge_log(upto).await });
                if purged.await.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            biased;
            changed = news.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            () = due(&growth, failure) => {}
        }
        let begun = raft.call(|raft| async move { raft.trigger().snapshot().await });
        if begun.await.is_err() {
            return;
        }
        if let Ok(Err(_ended)) = timeout(ASK_AGAIN, news.changed()).await {
            return;
        }
    }
}

/// Resolves when a snapshot is due: one that failed once its pause is over, whatever the log has grown by.
async fn due(growth: &Growth, failure: Option<Failure>) {
    match failure {
        Some(Failure { retry_at, .. }) => sleep_until(retry_at).await,
        None => growth.due().await,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use rivven_raft_store::{NodeDir, SimulatedDisk};
    use rivven_types::ClusterId;
    use tempfile::TempDir;

    use super::*;
    use crate::{Fabric, KvCommand, KvStore, RaftConfig, RaftNode, RaftStatus};

    async fn until(node: &RaftNode<KvStore>, reached: impl Fn(&RaftStatus) -> bool) {
        let mut watch = node.watch();
        let found = async {
            while !reached(&node.status()) {
                watch.changed().await;
            }
        };
        let found = timeout(MAX_RETRY, found).await;
        assert!(found.is_ok(), "{:?}", node.status());
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_that_was_due_when_a_core_ended_is_taken_by_the_next() {
        let config = RaftConfig {
            node_id: 1,
            peers: Vec::new(),
            election_timeout_ms: 150..300,
            heartbeat_interval_ms: 50,
        };
        let (root, disk) = (TempDir::new().unwrap(), SimulatedDisk::new(1));
        let dir = NodeDir::open(root.path().join("1"), ClusterId::from_bytes([7; 16]), 1, [1; 16]).unwrap();
        let builder = RaftNode::builder(config).fabric(&Fabric::new());
        let builder = builder.data_dir(dir).simulated_disk(&disk);
        let node = builder.state_machine(KvStore::new()).start().await.unwrap();
        node.propose(KvCommand::put("a", "1")).await.unwrap();
        disk.fill_after(0);
        node.propose(KvCommand::put("b", "2")).await.unwrap_err();
        until(&node, |status| status.suspended.is_some()).await;
        // As if the last entries applied had made one due: the keeper of this core was told, and could do nothing.
        let growth = node.inner().shared.growth();
        growth.add(0, 8 << 20);
        assert!(growth.due().now_or_never().is_some());
        disk.make_room();
        until(&node, |status| status.snapshot_index.is_some()).await;
        assert!(growth.due().now_or_never().is_none());
        node.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_pauses_between_failures_double_up_to_a_minute_and_a_success_forgets_them() {
        let mut news = SnapshotNews::default();
        let now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert!(news.may_write(now + MAX_RETRY));
            news.failed("full".into(), now);
            assert!(!news.may_write(now));
            pauses.push(
                news.failure
                    .as_ref()
                    .map(|failure| failure.pause.as_secs())
                    .unwrap(),
            );
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(news.refusal(now).as_deref(), Some("full"));
        // While it is tried again nobody knows what comes of it.
        assert_eq!(news.refusal(now + MAX_RETRY), None);
        assert_eq!(news.failure().as_deref(), Some("full"));
        news.was_kept();
        assert!(news.may_write(now) && news.failure().is_none());
        news.failed("full".into(), now);
        assert!(news.may_write(now + FIRST_RETRY));
    }
}
