//! The life of a node beyond that of its core: a full disk is waited for, every other failure stops the node.

#[cfg(test)]
mod tests;

use std::{io, sync::Arc, time::Duration};

use openraft::async_runtime::watch::WatchReceiver;
use rivven_raft_store::{LogMonitor, StoreError};
use tokio::time::sleep;

use crate::{
    StartError, StateMachine,
    adapter::Fault,
    core::{Core, CoreSlot},
    launch::{Disk, Plant},
    membership::Gate,
    status::StatusSource,
};

/// How often a node whose disk was full looks for room.
const ROOM_INTERVAL: Duration = Duration::from_millis(500);

/// Room that a node whose disk was full waits for: enough for the log to be written for a while, so that the
/// node does not come and go with every file that somebody removes.
pub(crate) const ROOM_BYTES: u64 = 8 << 20;

/// Snapshots in a row that arrived and could not be restored, before the node stops.
const MAX_NOT_RESTORED: u32 = 3;

/// What to do when a core has ended.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The node cannot go on.
    Stop(String),
    /// Start another one once there is room.
    AwaitRoom(String),
    /// Start another one.
    Again(String),
}

/// Keeps a core running, until the node is ended or cannot go on.
pub(crate) async fn supervise<S: StateMachine>(
    plant: Plant<S>,
    slot: Arc<CoreSlot<S>>,
    source: Arc<StatusSource>,
    mut core: Core<S>,
) {
    let node_id = plant.node_id;
    let mut not_restored = 0;
    loop {
        plant.accompany(&core, &source);
        follow(&core, &source, plant.shared.gate()).await;
        if source.stop_reason().is_some() {
            slot.set(None);
            return core.end().await;
        }
        let log = core.log.as_ref().and_then(LogMonitor::failure);
        let fault = core.fault.get();
        not_restored = match fault {
            Some(Fault::NotRestored(_)) => not_restored + 1,
            Some(Fault::Full(_)) | None => 0,
        };
        let next = after(log.as_deref(), fault, not_restored, || core.last_words());
        // Callers are told before anything is cleared away, which may take a while.
        slot.set(None);
        match &next {
            Next::Stop(cause) => stop(node_id, &source, cause.clone()),
            Next::AwaitRoom(cause) | Next::Again(cause) => {
                tracing::error!(
                    node_id,
                    cause,
                    "the consensus core has ended; another one takes its place"
                );
                source.suspend(cause.clone());
            }
        }
        core.end().await;
        let started = match next {
            Next::Stop(_) => return,
            Next::AwaitRoom(_) => restart(&plant, true).await,
            Next::Again(_) => restart(&plant, false).await,
        };
        match started {
            Ok(new) => core = new,
            Err(error) => return stop(node_id, &source, error.to_string()),
        }
        slot.set(Some(core.raft.clone()));
        source.resume(core.raft.metrics());
        tracing::info!(node_id, "the node takes part again");
    }
}

fn stop(node_id: rivven_types::NodeId, source: &StatusSource, cause: String) {
    tracing::error!(
        node_id,
        cause,
        "the Raft node has stopped; repair the cause and restart it"
    );
    source.stop(cause);
}

/// Decides what follows the end of a core, from what its log, its state machine and the core itself say.
fn after(
    log: Option<&StoreError>,
    fault: Option<&Fault>,
    not_restored: u32,
    last_words: impl FnOnce() -> String,
) -> Next {
    match (log, fault) {
        (Some(error), _) if error.code() == "disk-full" => Next::AwaitRoom(error.to_string()),
        (Some(error), _) => Next::Stop(error.to_string()),
        (None, Some(Fault::Full(cause))) => Next::AwaitRoom(cause.clone()),
        (None, Some(Fault::NotRestored(cause))) if not_restored < MAX_NOT_RESTORED => {
            Next::Again(cause.clone())
        }
        (None, Some(Fault::NotRestored(cause))) => Next::Stop(format!(
            "{cause}; {not_restored} snapshots in a row could not be restored, upgrade this node or rebuild \
             it with `rivven-node member replace`"
        )),
        (None, None) => Next::Stop(last_words()),
    }
}

/// Announces who leads, until the core has ended or is to end.
async fn follow<S: StateMachine>(core: &Core<S>, source: &StatusSource, gate: &Gate) {
    let mut metrics = core.raft.metrics();
    let mut seen = (0, None);
    loop {
        let (runs, now, node_id) = {
            let metrics = metrics.borrow_and_update();
            let leading = (metrics.current_term, metrics.current_leader);
            (metrics.running_state.is_ok(), leading, metrics.id)
        };
        if !runs {
            return;
        }
        if now != seen {
            seen = now;
            source.set_leader(now.1);
            if let Some(leader) = now.1 {
                gate.heed(leader);
            }
            tracing::info!(node_id, term = now.0, leader = now.1, "leadership");
        }
        tokio::select! {
            biased;
            () = source.until_stopped() => return,
            changed = metrics.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Starts a core, as soon as there is room for its log.
async fn restart<S: StateMachine>(plant: &Plant<S>, mut wait: bool) -> Result<Core<S>, StartError> {
    loop {
        if wait {
            await_room(plant).await.map_err(|cause| StartError::Storage {
                code: "log-io",
                cause,
            })?;
        }
        match plant.start().await {
            Err(error) if error.code() == "disk-full" => wait = true,
            started => return started,
        }
    }
}

async fn await_room<S: StateMachine>(plant: &Plant<S>) -> io::Result<()> {
    let Disk::Dir { log, .. } = &plant.disk else {
        return Ok(());
    };
    loop {
        sleep(ROOM_INTERVAL).await;
        let log = log.clone();
        let found = plant.scope.group().blocking(move || log.has_room(ROOM_BYTES));
        if found.await.map_err(io::Error::other)?? {
            return Ok(());
        }
    }
}
