//! The simulated disk: commits take their time, and a power cut takes what was not synced.

use std::time::Duration;

use openraft::storage::RaftLogStorage;
use rivven_raft_store::{DiskPace, SimulatedDisk};
use tokio::{
    task::{AbortHandle, LocalSet},
    time::Instant,
};

use crate::support::{Store, append, entries, inline, read_all, submit, vote};

const SYNC: Duration = Duration::from_millis(10);

/// What two waits take longer for ending on whole milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);

fn slow_disk(seed: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new(seed);
    disk.set_pace(DiskPace {
        sync: SYNC,
        jitter: Duration::ZERO,
    });
    disk
}

/// Must run in a [`LocalSet`].
fn open(disk: &SimulatedDisk) -> (Store, AbortHandle) {
    let (store, owner) = Store::open_simulated(disk, "disk", inline()).unwrap();
    (store, tokio::task::spawn_local(owner).abort_handle())
}

#[tokio::test(start_paused = true)]
async fn a_commit_takes_its_time_and_those_who_wait_share_it() {
    let work = async {
        let (mut store, _owner) = open(&slow_disk(1));
        let begun = Instant::now();
        append(&mut store, entries(1, 0..3)).await.unwrap();
        assert!((SYNC..=SYNC + ROUNDING).contains(&begun.elapsed()));
        // The second waits with the third, behind whatever the first one has left to wait.
        let one = submit(&mut store, entries(1, 3..4)).await.unwrap();
        tokio::time::sleep(SYNC).await;
        let two = submit(&mut store, entries(1, 4..5)).await.unwrap();
        let three = submit(&mut store, entries(1, 5..6)).await.unwrap();
        one.await.unwrap();
        let begun = Instant::now();
        two.await.unwrap();
        three.await.unwrap();
        assert!(begun.elapsed() <= SYNC + ROUNDING);
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
    let (mut forgotten, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..60 {
        let work = async {
            let disk = slow_disk(seed);
            let (mut store, owner) = open(&disk);
            store.save_vote(&vote(3)).await.unwrap();
            append(&mut store, entries(1, 0..3)).await.unwrap();
            if seed % 2 == 0 {
                // In the middle of the commit.
                disk.cut_power_after(1 + seed % 7);
            }
            let lost = submit(&mut store, entries(1, 3..4)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(seed % 10)).await;
            disk.cut_power();
            owner.abort();
            drop(store);
            assert!(lost.await.is_err());
            disk.power_lost().await;
            disk.power_up();
            let (mut store, _owner) = open(&disk);
            let found = read_all(&mut store).await.unwrap();
            assert!(
                found == entries(1, 0..3) || found == entries(1, 0..4),
                "seed {seed}"
            );
            assert!(
                store.get_log_state().await.is_ok() && !disk.is_off(),
                "seed {seed}"
            );
            append(&mut store, entries(2, found.len() as u64..10))
                .await
                .unwrap();
            (found.len() > 3, disk.stats())
        };
        let (there, stats) = LocalSet::new().run_until(work).await;
        kept += u64::from(there);
        forgotten += stats.forgotten;
        torn += stats.torn;
        assert_eq!(stats.cuts, 1);
    }
    assert!(
        kept > 5 && forgotten > 10 && torn > 5,
        "{kept} {forgotten} {torn}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_log_whose_owner_is_gone_does_not_harm_the_one_opened_after_it() {
    let work = async {
        let disk = slow_disk(1);
        let (mut first, owner) = open(&disk);
        append(&mut first, entries(1, 0..3)).await.unwrap();
        owner.abort();
        disk.cut_power();
        disk.power_up();
        let (mut second, _owner) = open(&disk);
        append(&mut second, entries(1, 3..5)).await.unwrap();
        // Closing the first one now would write.
        drop(first);
        assert_eq!(read_all(&mut second).await.unwrap(), entries(1, 0..5));
        disk.wipe();
        assert!(append(&mut second, entries(1, 5..6)).await.is_err() && disk.is_empty());
    };
    LocalSet::new().run_until(work).await;
}
