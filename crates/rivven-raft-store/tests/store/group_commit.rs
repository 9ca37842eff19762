//! Group commit: one sync for all that waits, and a committed id that costs none while others write.

use std::time::Duration;

use openraft::{RaftLogReader, storage::RaftLogStorage};
use rivven_raft_store::LogOptions;

use crate::{
    disk::Disk,
    support::{Store, append, entries, inline, log_id, read_all, submit, threaded, vote},
};

/// The owner is kept in the sync of the first append while everything else gathers behind it.
#[tokio::test]
async fn all_that_waits_shares_exactly_one_sync() {
    for crowd in [1_u64, 2, 50, 1000] {
        let disk = Disk::default();
        let mut store = Store::open_with_backend(disk.clone(), "disk", threaded()).unwrap();
        append(&mut store, entries(1, 0..1)).await.unwrap();
        let (syncs, writes) = (disk.syncs(), disk.writes());
        let release = disk.hold_syncs();
        let first = submit(&mut store, entries(1, 1..2)).await.unwrap();
        while disk.writes() == writes {
            tokio::task::yield_now().await;
        }
        let mut outcomes = Vec::new();
        for index in 2..2 + crowd {
            outcomes.push(submit(&mut store, entries(1, index..index + 1)).await.unwrap());
        }
        store.truncate_after(Some(log_id(1, crowd))).await.unwrap();
        store.purge(log_id(1, 0)).await.unwrap();
        store.save_committed(Some(log_id(1, crowd))).await.unwrap();
        assert_eq!(disk.syncs(), syncs, "nothing is durable yet");
        drop(release);
        first.await.unwrap();
        for outcome in outcomes {
            outcome.await.unwrap();
        }
        assert_eq!(
            disk.syncs() - syncs,
            2,
            "one for the first, one for {crowd} others"
        );
        let mut left = Store::open_with_backend(Disk::with(disk.durable()), "disk", inline()).unwrap();
        assert_eq!(read_all(&mut left).await.unwrap(), entries(1, 1..crowd + 1));
        assert_eq!(left.read_committed().await.unwrap(), Some(log_id(1, crowd)));
    }
}

#[tokio::test]
async fn a_batch_has_no_more_entries_than_its_limit() {
    let disk = Disk::default();
    let options = LogOptions {
        batch_entries: 10,
        ..threaded()
    };
    let mut store = Store::open_with_backend(disk.clone(), "disk", options).unwrap();
    let (syncs, writes) = (disk.syncs(), disk.writes());
    let release = disk.hold_syncs();
    let mut outcomes = vec![submit(&mut store, entries(1, 0..1)).await.unwrap()];
    while disk.writes() == writes {
        tokio::task::yield_now().await;
    }
    for index in 1..41 {
        outcomes.push(submit(&mut store, entries(1, index..index + 1)).await.unwrap());
    }
    drop(release);
    for outcome in outcomes {
        outcome.await.unwrap();
    }
    assert_eq!(disk.syncs() - syncs, 5, "one for the first, then four times ten");
}

#[tokio::test]
async fn a_quiet_log_writes_its_committed_id_after_a_while() {
    let disk = Disk::default();
    let options = LogOptions {
        committed_flush: Duration::from_millis(20),
        ..threaded()
    };
    let mut store = Store::open_with_backend(disk.clone(), "disk", options).unwrap();
    append(&mut store, entries(1, 0..5)).await.unwrap();
    let syncs = disk.syncs();
    store.save_committed(Some(log_id(1, 3))).await.unwrap();
    store.save_committed(Some(log_id(1, 4))).await.unwrap();
    // A generous bound; the owner waits in real time.
    for _ in 0..500 {
        if disk.syncs() > syncs {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(disk.syncs() - syncs, 1, "both of them at once");
    let mut left = Store::open_with_backend(Disk::with(disk.durable()), "disk", inline()).unwrap();
    assert_eq!(left.read_committed().await.unwrap(), Some(log_id(1, 4)));
    // And it is quiet from then on.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(disk.syncs() - syncs, 1);
}

#[tokio::test]
async fn a_committed_id_rides_with_whatever_is_written_next() {
    let disk = Disk::default();
    let options = LogOptions {
        committed_flush: Duration::from_secs(3600),
        ..threaded()
    };
    let mut store = Store::open_with_backend(disk.clone(), "disk", options).unwrap();
    append(&mut store, entries(1, 0..5)).await.unwrap();
    let syncs = disk.syncs();
    store.save_committed(Some(log_id(1, 4))).await.unwrap();
    store.save_vote(&vote(2)).await.unwrap();
    assert_eq!(disk.syncs() - syncs, 1);
    let mut left = Store::open_with_backend(Disk::with(disk.durable()), "disk", inline()).unwrap();
    assert_eq!(left.read_committed().await.unwrap(), Some(log_id(1, 4)));
    assert_eq!(left.reader().read_vote().await.unwrap(), Some(vote(2)));
}
