//! Handing leadership over: only to a voter that has nearly everything, so that the group waits for moments.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use rivven_types::NodeId;
use tokio::time::{Instant, timeout_at};

use crate::{StateMachine, clock::NodeInstant, core::CoreHandle, node::Inner};

/// Entries that the next leader may still lack, whoever wants it to lead. From the moment of the hand-over nobody
/// takes proposals until it has them, so they must be few; under load they are never none.
pub(crate) const MAX_LAG: u64 = 256;

/// How long the leader waits for a moment in which the next one lacks nothing. Whoever lacks entries has to sync them
/// before it may stand, and on a slow disk the others, who wait for nobody any more, would stand before it.
const WAIT_FOR_NONE: Duration = Duration::from_millis(300);

/// How often the leader looks again at least, since what it hears of followers may be all there is to hear.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl<S: StateMachine> Inner<S> {
    /// Hands leadership to `to` once that has caught up; false if it has not by the deadline, and nothing happened.
    ///
    /// # Errors
    /// Why the node has stopped.
    pub(crate) async fn hand_over(&self, to: NodeId, deadline: Instant) -> Result<bool, String> {
        let raft = self.raft().map_err(|down| down.to_string())?;
        hand_over(&raft, (self.node_id, to), deadline).await
    }
}

/// Hands leadership of `from`, the node of this core, to `to` once that has caught up; false if it has not by the
/// deadline, and nothing happened.
///
/// # Errors
/// Why the node has stopped.
pub(crate) async fn hand_over<S: StateMachine>(
    raft: &CoreHandle<S>,
    (from, to): (NodeId, NodeId),
    deadline: Instant,
) -> Result<bool, String> {
    let begun = <NodeInstant as openraft::Instant>::now();
    let content = Instant::now() + WAIT_FOR_NONE;
    // Whoever answers this is there: what was heard before may have been the last.
    let beat = raft.call(|raft| async move { raft.trigger().heartbeat().await });
    beat.await.map_err(|fatal| fatal.to_string())?;
    let mut metrics = raft.metrics();
    loop {
        let (caught_up, leads) = {
            let metrics = metrics.borrow_and_update();
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&to).copied());
            let matched = matched.flatten().map(|id| id.index);
            let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(&to).copied());
            let answered = heard.flatten().is_some_and(|heard| *heard >= begun);
            let most = if Instant::now() < content { 0 } else { MAX_LAG };
            let close = answered && is_close(matched, metrics.last_log_index, most);
            let leads = metrics.current_leader == Some(from);
            (close, leads)
        };
        if caught_up || !leads {
            break;
        }
        let next = deadline.min(Instant::now() + LOOK_AGAIN);
        if Instant::now() >= deadline {
            return Ok(false);
        }
        if let Ok(Err(_ended)) = timeout_at(next, metrics.changed()).await {
            return Err("the node was ended".into());
        }
    }
    let triggered = raft.call(move |raft| async move { raft.trigger().transfer_leader(to).await });
    triggered.await.map(|()| true).map_err(|fatal| fatal.to_string())
}

/// Whether a follower whose log matches up to `matched` lacks at most `most` entries of a log up to `last`.
fn is_close(matched: Option<u64>, last: Option<u64>, most: u64) -> bool {
    match (matched, last) {
        (_, None) => true,
        (None, Some(last)) => last < most,
        (Some(matched), Some(last)) => last.saturating_sub(matched) <= most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_is_close_when_it_lacks_few_entries() {
        let check = |matched, last, most, expected| {
            assert_eq!(is_close(matched, last, most), expected, "{matched:?} of {last:?}");
        };
        check(None, None, 0, true);
        check(None, Some(0), 0, false);
        check(None, Some(MAX_LAG), MAX_LAG, false);
        check(Some(1_000 - MAX_LAG), Some(1_000), MAX_LAG, true);
        check(Some(999 - MAX_LAG), Some(1_000), MAX_LAG, false);
        check(Some(999), Some(1_000), 0, false);
        check(Some(1_000), Some(1_000), 0, true);
    }
}
