//! What was acknowledged is there when the store is opened again.

use std::{fs, path::Path, sync::Arc};

use futures_util::{StreamExt, TryStreamExt};
use openraft::{LogState, RaftLogReader, storage::RaftLogStorage};
use rivven_raft_store::{LogOptions, LogOwner, MemLogStore, WriterMode};
use rivven_types::{ClusterId, InstanceId};

use crate::{
    disk::Disk,
    support::{
        Entry, Random, Store, Types, Vote, append, entries, inline, log_id, read_all, store_error, submit,
        threaded, vote,
    },
};

async fn fill(store: &mut Store) {
    store.save_vote(&vote(1)).await.unwrap();
    append(store, entries(1, 0..50)).await.unwrap();
    store.save_vote(&Vote::new_committed(2, 7)).await.unwrap();
    store.truncate_after(Some(log_id(1, 39))).await.unwrap();
    append(store, entries(2, 40..60)).await.unwrap();
    store.save_committed(Some(log_id(2, 55))).await.unwrap();
    store.purge(log_id(1, 9)).await.unwrap();
}

async fn check_filled(store: &mut Store) {
    let expected: Vec<Entry> = entries(1, 10..40).into_iter().chain(entries(2, 40..60)).collect();
    assert_eq!(read_all(store).await.unwrap(), expected);
    let state = LogState {
        last_purged_log_id: Some(log_id(1, 9)),
        last_log_id: Some(log_id(2, 59)),
    };
    assert_eq!(store.get_log_state().await.unwrap(), state);
    assert_eq!(
        store.reader().read_vote().await.unwrap(),
        Some(Vote::new_committed(2, 7))
    );
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(2, 55)));
}

#[tokio::test]
async fn a_reopened_store_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    for options in [threaded(), inline()] {
        let mut store = Store::open(&path, options.clone()).unwrap();
        fill(&mut store).await;
        check_filled(&mut store).await;
        drop(store);
        for _ in 0..2 {
            check_filled(&mut Store::open(&path, options.clone()).unwrap()).await;
        }
        fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn an_empty_store_reopens_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    for _ in 0..3 {
        let mut store = Store::open(&path, threaded()).unwrap();
        assert_eq!(store.get_log_state().await.unwrap(), LogState::default());
        assert_eq!(store.reader().read_vote().await.unwrap(), None);
        assert_eq!(store.read_committed().await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("log.redb"), dir.path().join("copy.redb"));
    let mut store = Store::open(&path, threaded()).unwrap();
    fill(&mut store).await;
    // The purge was not waited for; a vote behind it in the queue is.
    store.save_vote(&Vote::new_committed(2, 7)).await.unwrap();
    // What the file holds while the process lives is what is left when it is killed.
    fs::copy(&path, &copy).unwrap();
    check_filled(&mut Store::open(&copy, threaded()).unwrap()).await;
}

#[tokio::test]
async fn a_purged_log_goes_on_where_it_was() {
    let disk = Disk::default();
    let mut store = Store::open_with_backend(disk.clone(), "disk", inline()).unwrap();
    append(&mut store, entries(1, 0..10)).await.unwrap();
    store.purge(log_id(1, 20)).await.unwrap();
    drop(store);

    let mut store = Store::open_with_backend(disk, "disk", inline()).unwrap();
    let state = LogState {
        last_purged_log_id: Some(log_id(1, 20)),
        last_log_id: Some(log_id(1, 20)),
    };
    assert_eq!(store.get_log_state().await.unwrap(), state);
    let error = append(&mut store, entries(1, 30..31)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("index 30 was appended where index 21 comes next"),
        "{error}"
    );
    append(&mut store, entries(1, 21..23)).await.unwrap();
    assert_eq!(read_all(&mut store).await.unwrap(), entries(1, 21..23));
}

#[tokio::test]
async fn holes_and_overlaps_are_refused_whole() {
    let on_disk = Store::open_with_backend(Disk::default(), "disk", inline()).unwrap();
    refuse_holes_and_overlaps(on_disk).await;
    refuse_holes_and_overlaps(MemLogStore::new()).await;
}

async fn refuse_holes_and_overlaps<S: RaftLogStorage<Types>>(mut store: S) {
    append(&mut store, entries(1, 0..5)).await.unwrap();
    let with_hole = [entries(1, 5..7), entries(1, 8..9)].concat();
    for wrong in [entries(1, 6..7), entries(1, 4..6), with_hole] {
        let error = submit(&mut store, wrong).await.err().unwrap();
        assert_eq!(store_error(&error).code(), "log-out-of-order");
        let mut reader = store.get_log_reader().await;
        assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries(1, 0..5));
    }
    append(&mut store, entries(1, 5..6)).await.unwrap();
}

/// A stream that a purge or a truncation overtakes says so, and does not call the log damaged.
#[tokio::test]
async fn a_stream_that_is_overtaken_is_told_so() {
    for purged in [true, false] {
        let mut store = Store::open_with_backend(Disk::default(), "disk", inline()).unwrap();
        append(&mut store, entries(1, 0..5)).await.unwrap();
        let mut reader = store.get_log_reader().await;
        let mut stream = reader.entries_stream(..).await;
        if purged {
            store.purge(log_id(1, 2)).await.unwrap();
        } else {
            store.truncate_after(None).await.unwrap();
        }
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!(store_error(&error).code(), "log-overtaken", "{error}");
        assert!(store.monitor().failure().is_none());
    }
}

#[tokio::test]
async fn an_entry_beyond_the_limit_is_refused_and_the_store_goes_on() {
    let options = LogOptions {
        max_entry_bytes: 200,
        ..inline()
    };
    let mut store = Store::open_with_backend(Disk::default(), "disk", options).unwrap();
    // Bodies have up to 300 bytes; that of entry 20 has 267.
    let error = submit(&mut store, entries(1, 20..21)).await.err().unwrap();
    assert_eq!(store_error(&error).code(), "entry-too-large");
    append(&mut store, entries(1, 0..5)).await.unwrap();
}

/// Each drain of the queue is one transaction, and each transaction is one sync.
#[tokio::test]
async fn everything_that_waits_shares_one_sync() {
    let disk = Disk::default();
    let mut store = Store::open_with_backend(disk.clone(), "disk", inline()).unwrap();
    let before = disk.syncs();
    for index in 0..10 {
        append(&mut store, entries(1, index..index + 1)).await.unwrap();
    }
    store.save_vote(&vote(3)).await.unwrap();
    store.truncate_after(Some(log_id(1, 7))).await.unwrap();
    store.purge(log_id(1, 2)).await.unwrap();
    assert_eq!(disk.syncs() - before, 13);
    // The committed id waits for company.
    store.save_committed(Some(log_id(1, 7))).await.unwrap();
    assert_eq!(disk.syncs() - before, 13);
    append(&mut store, entries(1, 8..9)).await.unwrap();
    assert_eq!(disk.syncs() - before, 14);
    drop(store);

    let mut store = Store::open_with_backend(disk.clone(), "disk", threaded()).unwrap();
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(1, 7)));
    let before = disk.syncs();
    let mut outcomes = Vec::new();
    for index in 9..1009 {
        outcomes.push(submit(&mut store, entries(1, index..index + 1)).await.unwrap());
    }
    for outcome in outcomes {
        outcome.await.unwrap();
    }
    let syncs = disk.syncs() - before;
    assert!(syncs < 500, "1000 appends took {syncs} syncs");
}

#[tokio::test]
async fn readers_see_an_append_at_once_and_old_entries_from_the_file() {
    let disk = Disk::default();
    let options = LogOptions {
        writer: WriterMode::Thread,
        ..inline()
    };
    let mut store = Store::open_with_backend(disk, "disk", options).unwrap();
    let mut reader = store.reader();
    let mut random = Random(1);
    let mut outcomes = Vec::new();
    for index in (0..2000).step_by(10) {
        outcomes.push(submit(&mut store, entries(1, index..index + 10)).await.unwrap());
        // The tail holds about seven entries: most of this comes from the file, the rest from memory.
        let start = random.below(index + 10);
        assert_eq!(
            reader.try_get_log_entries(start..).await.unwrap(),
            entries(1, start..index + 10)
        );
        let short = reader.limited_get_log_entries(start, index + 10).await.unwrap();
        assert_eq!(short, entries(1, start..start + short.len() as u64));
        assert!(!short.is_empty());
    }
    let streamed: Vec<Entry> = reader
        .entries_stream(100..1900)
        .await
        .try_collect()
        .await
        .unwrap();
    assert_eq!(streamed, entries(1, 100..1900));
    for outcome in outcomes {
        outcome.await.unwrap();
    }
}

/// An index is written, truncated and written again while its first write is still under way. The end of
/// the first write must not pass for the end of the second.
#[tokio::test]
async fn an_index_that_is_written_twice_reads_as_the_second_time() {
    let disk = Disk::default();
    let options = LogOptions {
        tail_bytes: 0,
        ..threaded()
    };
    let mut store = Store::open_with_backend(disk.clone(), "disk", options).unwrap();
    let before = disk.writes();
    let _release = disk.hold_syncs();
    let first = submit(&mut store, entries(1, 0..20)).await.unwrap();
    // Once pages are written, the owner waits for the sync of the first append alone.
    while disk.writes() == before {
        tokio::task::yield_now().await;
    }
    store.truncate_after(Some(log_id(1, 9))).await.unwrap();
    let second = submit(&mut store, entries(2, 10..15)).await.unwrap();
    let expected = [entries(1, 0..10), entries(2, 10..15)].concat();
    assert_eq!(read_all(&mut store).await.unwrap(), expected);
    disk.allow_syncs(1);
    first.await.unwrap();
    assert_eq!(read_all(&mut store).await.unwrap(), expected);
    disk.allow_syncs(1000);
    second.await.unwrap();
    assert_eq!(read_all(&mut store).await.unwrap(), expected);
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait_and_loses_nothing() {
    for options in [
        LogOptions {
            queue_len: 2,
            ..threaded()
        },
        LogOptions {
            queue_bytes: 1500,
            ..threaded()
        },
    ] {
        let disk = Disk::default();
        let mut store = Store::open_with_backend(disk.clone(), "disk", options).unwrap();
        let _release = disk.hold_syncs();
        let mut outcomes = Vec::new();
        let mut index = 0;
        let waiting = loop {
            let mut append = Box::pin(submit(&mut store, entries(1, index..index + 1)));
            match futures_util::poll!(&mut append) {
                std::task::Poll::Ready(outcome) => outcomes.push(outcome.unwrap()),
                std::task::Poll::Pending => break append,
            }
            index += 1;
            assert!(index < 100, "the queue has no bound");
        };
        // Whoever gives up waiting has not appended.
        drop(waiting);
        assert_eq!(read_all(&mut store).await.unwrap(), entries(1, 0..index));
        disk.allow_syncs(1000);
        append(&mut store, entries(1, index..index + 1)).await.unwrap();
        for outcome in outcomes {
            outcome.await.unwrap();
        }
        drop(store);
        let mut store = Store::open_with_backend(disk, "disk", inline()).unwrap();
        assert_eq!(read_all(&mut store).await.unwrap(), entries(1, 0..index + 1));
    }
}

#[tokio::test]
async fn a_reader_that_outlives_the_store_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let mut store = Store::open(&path, threaded()).unwrap();
    append(&mut store, entries(1, 0..5)).await.unwrap();
    let mut reader = store.reader();
    drop(store);
    let error = reader.try_get_log_entries(..).await.unwrap_err();
    assert_eq!(store_error(&error).code(), "log-closed");
    // And it does not keep the file open.
    Store::open(&path, threaded()).unwrap();
}

fn refused(path: &Path, options: LogOptions) -> (&'static str, String) {
    let error = Store::open(path, options).expect_err("the log must be refused");
    (error.code(), error.to_string())
}

#[tokio::test]
async fn a_log_is_open_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let store = Store::open(&path, threaded()).unwrap();
    assert_eq!(refused(&path, threaded()).0, "log-locked");
    drop(store);
    Store::open(&path, threaded()).unwrap();
}

#[tokio::test]
async fn the_log_of_another_node_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let owner = LogOwner {
        cluster: ClusterId::from_random([1; 16]),
        node: 1,
        instance: InstanceId::from_random([2; 16]),
    };
    let of = |owner| LogOptions {
        owner: Some(owner),
        ..threaded()
    };
    for _ in 0..2 {
        Store::open(&path, of(owner)).unwrap();
    }
    let others = [
        LogOwner {
            cluster: ClusterId::from_random([9; 16]),
            ..owner
        },
        LogOwner { node: 2, ..owner },
        LogOwner {
            instance: InstanceId::from_random([9; 16]),
            ..owner
        },
    ];
    for other in others {
        let (code, message) = refused(&path, of(other));
        assert_eq!(code, "log-foreign");
        assert!(
            message.contains(&owner.to_string()) && message.contains(&other.to_string()),
            "{message}"
        );
    }
}

#[test]
fn files_that_are_no_log_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let check = |bytes: &[u8], code| {
        let path = dir.path().join("log.redb");
        fs::write(&path, bytes).unwrap();
        let refusal = refused(&path, threaded());
        assert_eq!(refusal.0, code, "{}", refusal.1);
        assert_eq!(fs::read(&path).unwrap(), bytes, "the file is left as it is");
    };
    check(b"", "log-damaged");
    check(b"not a log", "log-damaged");
    check(&[0; 8192], "log-damaged");

    let foreign = dir.path().join("foreign.redb");
    redb::Database::create(&foreign).unwrap();
    assert_eq!(refused(&foreign, threaded()).0, "log-damaged");
    assert_eq!(
        refused(&dir.path().join("missing/log.redb"), threaded()).0,
        "log-not-opened"
    );
}

#[tokio::test]
async fn the_monitor_outlives_the_store() {
    let disk = Disk::default();
    let mut store = Store::open_with_backend(disk.clone(), "disk", threaded()).unwrap();
    let monitor = store.monitor();
    assert!(monitor.failure().is_none());
    disk.fail_sync(disk.syncs() + 1);
    append(&mut store, entries(1, 0..1)).await.unwrap_err();
    drop(store);
    assert_eq!(Arc::clone(&monitor.failure().unwrap()).code(), "log-io");
}
