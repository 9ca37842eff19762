//! What follows a snapshot: the log is purged behind the older of two, and one that failed is tried again.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{StateMachine, core::CoreHandle, snapshot::Snapshots};

/// Pause before a snapshot for which there was no room is tried again. Doubles with every failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest such pause.
const MAX_RETRY: Duration = Duration::from_secs(60);

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
        if let Some(Failure { retry_at, .. }) = failure {
            tokio::select! {
                biased;
                changed = news.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
                () = sleep_until(retry_at) => {}
            }
            let begun = raft.call(|raft| async move { raft.trigger().snapshot().await });
            if begun.await.is_err() {
                return;
            }
        }
        if news.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(news.failure().as_deref(), Some("full"));
        news.was_kept();
        assert!(news.may_write(now) && news.failure().is_none());
        news.failed("full".into(), now);
        assert!(news.may_write(now + FIRST_RETRY));
    }
}
