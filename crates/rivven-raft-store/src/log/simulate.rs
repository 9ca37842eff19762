//! The owner of a log on a simulated disk: a task that takes simulated time.

use std::sync::{
    Arc,
    mpsc::{Receiver, TryRecvError},
};

use openraft::RaftTypeConfig;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    queue::{Change, Waiting},
    writer::Writer,
};
use crate::simulated::SimulatedDisk;

/// Writes what callers hand over, as the owner thread does, until they are gone; or until the task is
/// dropped, and what is not written then never is.
pub(super) async fn run<C: RaftTypeConfig>(
    mut writer: Writer<C>,
    queue: Receiver<Waiting<C>>,
    arrived: Arc<Notify>,
    disk: SimulatedDisk,
) {
    loop {
        let (op, room) = match queue.try_recv() {
            Ok(first) => first,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                let quiet = match writer.quiet() {
                    Some(quiet) => timeout(quiet, arrived.notified()).await.is_err(),
                    None => {
                        arrived.notified().await;
                        false
                    }
                };
                if quiet {
                    writer.flush_committed();
                }
                continue;
            }
        };
        writer.shared.metrics.dequeued();
        if matches!(op.change, Change::Committed(_)) {
            writer.commit(op, None);
            continue;
        }
        let (before, after) = disk.draw_waits();
        let waits = disk.commit_waits();
        sleep(before).await;
        drop(waits);
        // Whatever has arrived by this moment shares the sync.
        let written = writer.write(op, Some(&queue));
        sleep(after).await;
        writer.answer(written);
        drop(room);
    }
    writer.close();
}
