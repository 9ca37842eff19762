//! Disks that refuse: an error stops the store at once, and reopening loses nothing acknowledged.

use openraft::{RaftLogReader, storage::RaftLogStorage};
use rivven_raft_store::LogOptions;

use crate::{
    disk::Disk,
    model::{Model, Step},
    support::{Random, Store, append, entries, inline, store_error, submit, threaded, vote},
};

/// Steps of one run.
const STEPS: usize = 12;

/// Runs steps until one fails. Returns what was acknowledged, and that with the failed step.
async fn run_until_failure(disk: &Disk, seed: u64) -> Option<(Model, Model)> {
    let mut random = Random(seed);
    let mut store = Store::open_with_backend(disk.clone(), "disk", inline()).ok()?;
    let mut acknowledged = Model::default();
    for _ in 0..STEPS {
        let step = Step::random(&mut random, &acknowledged);
        let mut after = acknowledged.clone();
        after.apply(&step);
        let result = step.run(&mut store).await;
        if let Some(cause) = store.monitor().failure() {
            // From here on everything fails at once, with the first cause.
            let writes = disk.writes();
            let error = store.save_vote(&vote(99)).await.unwrap_err();
            assert_eq!(store_error(&error).code(), cause.code());
            assert!(submit(&mut store, entries(9, 900..901)).await.is_err());
            assert!(store.reader().try_get_log_entries(..).await.is_err());
            assert!(store.reader().read_vote().await.is_err());
            assert!(store.get_log_state().await.is_err());
            assert_eq!(disk.writes(), writes, "a stopped store writes nothing");
            return Some((acknowledged, after));
        }
        result.unwrap();
        acknowledged = after;
    }
    None
}

/// Opens what may be left: all that was written, and only what was synced, and that with some of the rest.
async fn check_left(disk: &Disk, acknowledged: &Model, after: &Model, what: &str) {
    let some = disk.after_power_cut(&mut Random(disk.writes()));
    for (image, left) in [
        (disk.image(), "all"),
        (disk.durable(), "the synced"),
        (some, "some"),
    ] {
        check_reopened(image, acknowledged, after, &format!("{what}, {left}")).await;
    }
}

async fn check_reopened(image: Vec<u8>, acknowledged: &Model, after: &Model, what: &str) {
    let mut store = Store::open_with_backend(Disk::with(image), "disk", inline()).unwrap();
    let found = Model::of(&mut store).await.without_committed();
    assert!(
        found == acknowledged.without_committed() || found == after.without_committed(),
        "{what}: found {found:?}, acknowledged {acknowledged:?}"
    );
    // And it can be used again.
    let step = Step::random(&mut Random(1), &Model::of(&mut store).await);
    step.run(&mut store).await.unwrap();
}

/// How many syncs and writes a run takes that meets no fault.
async fn count_faultless(seed: u64) -> (u64, u64) {
    let disk = Disk::default();
    assert!(run_until_failure(&disk, seed).await.is_none());
    (disk.syncs(), disk.writes())
}

#[tokio::test]
async fn a_failed_sync_stops_the_store_whichever_it_is() {
    for seed in 0..4 {
        let (syncs, _) = count_faultless(seed).await;
        let mut failures = 0;
        for number in 1..=syncs {
            let disk = Disk::default();
            disk.fail_sync(number);
            if let Some((acknowledged, after)) = run_until_failure(&disk, seed).await {
                failures += 1;
                let what = format!("seed {seed}, sync {number}");
                check_left(&disk, &acknowledged, &after, &what).await;
            }
        }
        // Syncs of the opening fail the opening, and that of the closing is nobody's loss.
        assert!(
            failures >= STEPS / 2,
            "only {failures} of {syncs} syncs stopped it"
        );
    }
}

#[tokio::test]
async fn a_full_disk_stops_the_store_and_a_reopened_one_goes_on() {
    for seed in 0..4 {
        let (_, writes) = count_faultless(seed).await;
        let mut failures = 0;
        for number in 1..=writes {
            let disk = Disk::default();
            disk.fill_at_write(number);
            if let Some((acknowledged, after)) = run_until_failure(&disk, seed).await {
                failures += 1;
                let what = format!("seed {seed}, write {number}");
                check_left(&disk, &acknowledged, &after, &what).await;
            }
        }
        assert!(failures >= STEPS, "only {failures} of {writes} writes stopped it");
    }
}

#[tokio::test]
async fn a_full_disk_is_called_by_its_name() {
    let disk = Disk::default();
    let mut store = Store::open_with_backend(disk.clone(), "disk", threaded()).unwrap();
    append(&mut store, entries(1, 0..3)).await.unwrap();
    disk.fill_at_write(disk.writes() + 1);
    let begin = tokio::time::Instant::now();
    // Those that wait together fail together.
    let mut outcomes = Vec::new();
    for index in 3..20 {
        // The store may stop while this loop still runs.
        outcomes.extend(submit(&mut store, entries(1, index..index + 1)).await.ok());
    }
    for outcome in outcomes {
        let error = outcome.await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(store_error(&error).code(), "disk-full");
    }
    let error = store.save_vote(&vote(5)).await.unwrap_err();
    assert!(
        begin.elapsed() < std::time::Duration::from_secs(1),
        "refused late"
    );
    assert!(
        error
            .to_string()
            .contains("stopped after an earlier error: the disk is full"),
        "{error}"
    );
}

/// redb answers readers with "an earlier write failed" from the moment of the failure, before the owner of
/// the log can say why.
#[tokio::test]
async fn readers_beside_a_failing_write_do_not_hide_its_cause() {
    let options = LogOptions {
        tail_bytes: 0,
        ..threaded()
    };
    for round in 0..50 {
        let disk = Disk::default();
        let mut store = Store::open_with_backend(disk.clone(), "disk", options.clone()).unwrap();
        append(&mut store, entries(1, 0..20)).await.unwrap();
        let mut reader = store.reader();
        let read = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            while runtime.block_on(reader.try_get_log_entries(0..5)).is_ok() {}
        };
        let named = std::thread::Builder::new().name("reader".into());
        let reading = named.spawn(read).unwrap();
        disk.fill_at_write(disk.writes() + 1 + round % 5);
        let mut next = 20;
        while append(&mut store, entries(1, next..next + 1)).await.is_ok() {
            next += 1;
        }
        reading.join().unwrap();
        let cause = store.monitor().failure().expect("it has stopped");
        assert_eq!(cause.code(), "disk-full", "round {round}: {cause}");
    }
}
