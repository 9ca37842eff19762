//! The partitions as last applied, readable without a lock.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rivven_partition::PartitionState;
use tokio::sync::watch;

/// One writer, the state machine; any number of readers, who never wait.
#[derive(Debug)]
pub(crate) struct Published {
    state: ArcSwap<PartitionState>,
    generation: watch::Sender<u64>,
}

impl Published {
    pub(crate) fn new() -> Self {
        Self {
            state: ArcSwap::default(),
            generation: watch::Sender::new(0),
        }
    }

    /// Shows `state` to readers if it differs from what they see.
    pub(crate) fn publish(&self, state: &PartitionState) {
        let generation = state.generation();
        if self.state.load().generation() != generation {
            self.state.store(Arc::new(state.clone()));
            self.generation.send_replace(generation);
        }
    }

    /// Reads the newest state in place.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&PartitionState) -> T) -> T {
        read(&self.state.load())
    }

    /// Wakes at every change from this moment on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}
