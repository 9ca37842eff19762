//! openraft's own conformance suite, on every store.

use std::{
    io,
    sync::{Arc, Mutex},
};

use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageError,
    entry::RaftEntry,
    storage::{EntryResponder, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
    type_config::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf},
};
use rivven_raft_store::{LogOptions, MemLogStore, RedbLogStore};

use crate::support::{Codec, LogId, Types, inline, threaded};

/// The smallest state machine: it remembers what it was told last.
#[derive(Clone, Debug, Default)]
struct Machine {
    applied: Option<LogId>,
    membership: StoredMembershipOf<Types>,
    snapshot: Arc<Mutex<Option<SnapshotMetaOf<Types>>>>,
}

impl Machine {
    fn current(&self) -> Option<SnapshotOf<Types, ()>> {
        let meta = self.snapshot.lock().unwrap().clone()?;
        Some(SnapshotOf::<Types, ()> { meta, snapshot: () })
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        let meta = SnapshotMetaOf::<Types> {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(SnapshotOf::<Types, ()> { meta, snapshot: () })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.applied = Some(entry.log_id());
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembershipOf::<Types>::new(self.applied, membership);
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types>, _data: ()) -> Result<(), io::Error> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        Ok(self.current())
    }
}

struct Redb(fn() -> LogOptions);

impl StoreBuilder<Types, RedbLogStore<Types, Codec>, Machine, tempfile::TempDir> for Redb {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, RedbLogStore<Types, Codec>, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbLogStore::open(dir.path().join("log.redb"), self.0()).unwrap();
        Ok((dir, store, Machine::default()))
    }
}

struct Memory;

impl StoreBuilder<Types, MemLogStore<Types>, Machine> for Memory {
    async fn build(&self) -> Result<((), MemLogStore<Types>, Machine), StorageError<Types>> {
        Ok(((), MemLogStore::new(), Machine::default()))
    }
}

// The suite sleeps for a second here and there; with the clock paused that takes no time.

#[tokio::test(start_paused = true)]
async fn the_memory_store_passes_openrafts_suite() {
    Suite::test_all(Memory).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_redb_store_passes_openrafts_suite() {
    Suite::test_all(Redb(threaded)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_redb_store_passes_openrafts_suite_without_a_thread() {
    Suite::test_all(Redb(inline)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_redb_store_passes_openrafts_suite_without_a_tail() {
    let without_tail = || LogOptions {
        tail_bytes: 0,
        ..inline()
    };
    Suite::test_all(Redb(without_tail)).await.unwrap();
}
