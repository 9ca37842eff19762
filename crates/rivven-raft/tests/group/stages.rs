//! What a leader tells of its writes and its followers.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::time::Duration;

use metrics::set_default_local_recorder;
use rivven_raft::{DiskPace, Fabric};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    common::{recorder::Values, *},
    stalls::{calm_disks, group_on},
};

const SYNC: Duration = Duration::from_millis(20);

const WRITES: u32 = 25;

#[tokio::test(start_paused = true)]
async fn every_stage_of_a_write_and_the_lag_of_each_follower_are_told() {
    let values = Values::default();
    let _installed = set_default_local_recorder(&values);
    let (fabric, root) = (Fabric::new(), TempDir::new().unwrap());
    let disks = calm_disks();
    let nodes = group_on(&disks, &fabric, &root, |id| config(id, 3)).await;
    nodes[0].wait_for_leader(WAIT).await.unwrap();
    nodes[0].transfer_leader(1).await.unwrap();
    put(&nodes[0], "k", "v").await;
    disks.iter().for_each(|disk| {
        disk.set_pace(DiskPace {
            sync: SYNC,
            jitter: Duration::ZERO,
        });
    });
    let stages = ["write", "write_queue", "write_commit", "write_apply"];
    let told = |stage: &str, what: &str| values.of(&format!("raft_{stage}_seconds {what}"));
    let all = |what| stages.map(|stage| told(stage, what));
    let (counts, sums) = (all("count"), all("sum"));
    for _ in 0..WRITES {
        put(&nodes[0], "k", "v").await;
    }
    let since = |now: [f64; 4], before: [f64; 4]| std::array::from_fn::<_, 4, _>(|at| now[at] - before[at]);
    let (counts, sums) = (since(all("count"), counts), since(all("sum"), sums));
    let writes = f64::from(WRITES);
    assert!(counts.iter().all(|count| *count == writes), "{counts:?}");
    let [whole, queue, commit, apply] = sums;
    assert!(
        (queue + commit + apply - whole).abs() < 0.001 * writes,
        "{sums:?}"
    );
    // Waiting for disks is all there is to wait for.
    assert!(commit >= writes * SYNC.as_secs_f64(), "{sums:?}");
    assert!(commit > 0.9 * whole, "{sums:?}");
    for follower in [2, 3] {
        assert!(
            told("replicate", &format!("{follower} count")) >= writes,
            "node {follower}"
        );
    }

    let lag = |follower| values.of(&format!("raft_follower_lag_entries {follower}"));
    isolate(&fabric, 3, &[1, 2]);
    for _ in 0..WRITES {
        put(&nodes[0], "k", "v").await;
    }
    sleep(Duration::from_millis(1_100)).await;
    assert!(lag(3) >= writes, "{}", lag(3));
    assert_eq!(lag(2), 0.0);
    fabric.network().heal();
    sleep(Duration::from_secs(5)).await;
    put(&nodes[0], "k", "v").await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(lag(3), 0.0);
}
