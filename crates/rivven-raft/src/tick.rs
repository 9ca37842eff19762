//! Log time: the leader tells the replicated state how much time has passed.

use std::{sync::Arc, time::Duration};

use rivven_types::NodeId;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    StateMachine,
    applied::Shared,
    core::CoreHandle,
    status::StatusSource,
    system::SystemCommand,
    types::{LogCommand, NAMESPACE_SYSTEM},
};

/// How often the leader proposes a tick, while anything waits for time to pass.
///
/// What lasts for some log time lasts at least that long, counted from when it was asked for, and at most
/// two intervals longer, plus the time without a leader, which does not count.
pub const TICK_INTERVAL: Duration = Duration::from_millis(500);

/// Most time that one tick lets pass. A leader that was suspended for longer must not end at one blow what
/// nobody could renew meanwhile.
const MAX_ADVANCE: Duration = Duration::from_secs(2);

/// The log time as a leader reckons it: from what the log said when it began, by its own monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Reckoning {
    log_time_ms: u64,
    at: Instant,
}

impl Reckoning {
    const fn new(log_time_ms: u64, at: Instant) -> Self {
        Self { log_time_ms, at }
    }

    /// The log time at `now`, from which the next one is reckoned.
    fn advance(&mut self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.at).min(MAX_ADVANCE);
        let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        // Fractions of a millisecond are left out, which makes everything last a little longer.
        self.log_time_ms = self.log_time_ms.saturating_add(passed);
        self.at = now;
        self.log_time_ms
    }
}

/// Proposes ticks as long as this node leads and something needs them. Ends with the node.
pub(crate) async fn propose_ticks<S: StateMachine>(
    node_id: NodeId,
    raft: CoreHandle<S>,
    shared: Arc<Shared<S>>,
    source: Arc<StatusSource>,
) {
    let mut running: Option<Reckoning> = None;
    loop {
        sleep(TICK_INTERVAL).await;
        let Ok(leader) = source.leader() else { return };
        let awaited = if leader == Some(node_id) {
            shared.awaited_time().await
        } else {
            None
        };
        let Some(log_time_ms) = awaited else {
            running = None;
            continue;
        };
        let now = Instant::now();
        let mut reckoning = running.take().unwrap_or(Reckoning::new(log_time_ms, now));
        let now_ms = reckoning.advance(now);
        let Ok(body) = postcard::to_allocvec(&SystemCommand::Tick { now_ms }) else {
            continue;
        };
        let command = LogCommand {
            namespace: NAMESPACE_SYSTEM,
            body: body.into(),
        };
        let written = raft.call(|raft| async move { raft.client_write(command).await });
        // Time in which nothing is written does not pass: nobody could renew anything in it either.
        if let Ok(Ok(_)) = timeout(MAX_ADVANCE, written).await {
            running = Some(reckoning);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_as_on_the_clock_but_never_in_leaps() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut reckoning = Reckoning::new(1_000, start);
        assert_eq!(reckoning.advance(start), 1_000);
        assert_eq!(reckoning.advance(start + ms(500)), 1_500);
        assert_eq!(reckoning.advance(start + ms(60_000)), 3_500);
        assert_eq!(reckoning.advance(start + ms(60_001)), 3_501);
        assert_eq!(
            reckoning.advance(start),
            3_501,
            "a clock that goes back does not turn time back"
        );
    }
}
