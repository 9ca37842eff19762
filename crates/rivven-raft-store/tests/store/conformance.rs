//! openraft's own conformance suite, on every store.

use std::{
    io::{self, Read},
    sync::Arc,
};

use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageError,
    entry::RaftEntry,
    storage::{EntryResponder, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
    type_config::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf},
};
use rivven_raft_store::{LogOptions, MemLogStore, RedbLogStore, SnapshotFile, SnapshotStore};
use rivven_types::ClusterId;

use crate::support::{Codec, LogId, Types, inline, threaded};

/// The smallest state machine that keeps its snapshots as a node does: it remembers what it was told last.
#[derive(Clone, Debug)]
struct Machine {
    applied: Option<LogId>,
    membership: StoredMembershipOf<Types>,
    snapshots: SnapshotStore<Types, Codec>,
    _dir: Arc<tempfile::TempDir>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            applied: None,
            membership: StoredMembershipOf::<Types>::default(),
            snapshots: SnapshotStore::open(dir.path(), ClusterId::from_random([1; 16])).unwrap(),
            _dir: Arc::new(dir),
        }
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = SnapshotFile<Types>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, SnapshotFile<Types>>, io::Error> {
        let meta = SnapshotMetaOf::<Types> {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        let snapshot = self.snapshots.write(&meta, |out| out.write_all(b"state"))?;
        Ok(SnapshotOf::<Types, _> { meta, snapshot })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile<Types>;
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

    /// Takes the snapshot of another store over into this one.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        theirs: SnapshotFile<Types>,
    ) -> Result<(), io::Error> {
        assert_eq!(theirs.meta(), meta);
        let mut content = Vec::new();
        theirs.content().read_to_end(&mut content)?;
        assert_eq!(content, b"state");
        self.snapshots.write(meta, |out| out.write_all(&content))?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, SnapshotFile<Types>>>, io::Error> {
        Ok(self.snapshots.latest().map(|snapshot| SnapshotOf::<Types, _> {
            meta: snapshot.meta().clone(),
            snapshot,
        }))
    }
}

struct Redb(fn() -> LogOptions);

impl StoreBuilder<Types, RedbLogStore<Types, Codec>, Machine, tempfile::TempDir> for Redb {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, RedbLogStore<Types, Codec>, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbLogStore::open(dir.path().join("log.redb"), self.0()).unwrap();
        Ok((dir, store, Machine::new()))
    }
}

struct Memory;

impl StoreBuilder<Types, MemLogStore<Types>, Machine> for Memory {
    async fn build(&self) -> Result<((), MemLogStore<Types>, Machine), StorageError<Types>> {
        Ok(((), MemLogStore::new(), Machine::new()))
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
