//! Snapshots that are sent slowly.

use rivven_raft::MIN_SNAPSHOT_RATE;
use tokio::time::Instant;

use super::*;

const VALUE_BYTES: usize = 4 << 10;

/// Values in the state when the snapshot is taken that is sent.
const VALUES: usize = 200;

/// What may be sent at once of what was not sent before.
const CREDIT: Duration = Duration::from_millis(100);

async fn put_value(node: &Node, key: usize) {
    let value = vec![u8::try_from(key % 251).unwrap(); VALUE_BYTES];
    let put = node.propose(KvCommand::put(format!("{key:04}"), value));
    // Nobody waits for the snapshot, not even for one piece of it in the way of another class.
    let put = tokio::time::timeout(Duration::from_millis(300), put).await;
    assert!(put.is_ok(), "a write waits for the snapshot");
    put.unwrap().unwrap();
}

async fn slow_group(fabric: &Fabric, root: &Path) -> Vec<Node> {
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        let builder = builder(fabric, root, node_id, 3).snapshot_every(100);
        let builder = builder.max_snapshot_rate(MIN_SNAPSHOT_RATE);
        nodes.push(builder.start().await.unwrap());
    }
    agreed_leader(&nodes).await;
    nodes
}

/// Nodes 1 and 2, and node 3 from which they are cut off, which lacks so much that it needs a snapshot.
async fn with_one_behind(fabric: &Fabric, root: &Path) -> (Vec<Node>, Node) {
    let mut nodes = slow_group(fabric, root).await;
    if agreed_leader(&nodes).await == 3 {
        nodes[2].transfer_leader(1).await.unwrap();
    }
    let behind = nodes.pop().unwrap();
    isolate(fabric, 3, &[1, 2]);
    for key in 0..VALUES + 5 {
        put_value(&nodes[0], key).await;
    }
    (nodes, behind)
}

async fn len(node: &Node) -> usize {
    node.read(Consistency::Stale, KvStore::len).await.unwrap().value
}

/// How long so many values take at the rate.
fn least_for(values: usize) -> Duration {
    let bytes = u32::try_from(values * VALUE_BYTES).unwrap();
    Duration::from_secs(1) * bytes / u32::try_from(MIN_SNAPSHOT_RATE.get()).unwrap() - CREDIT
}

fn least() -> Duration {
    least_for(VALUES)
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_takes_the_time_that_the_rate_gives_it_while_writes_go_on() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let (nodes, behind) = with_one_behind(&fabric, root.path()).await;
    let begun = Instant::now();
    fabric.network().heal();
    let (mut written, mut took) = (VALUES + 5, None);
    while took.is_none() && begun.elapsed() < least() * 2 {
        // So few that no newer snapshot is taken.
        tokio::time::sleep(Duration::from_millis(300)).await;
        put_value(&nodes[written % 2], written).await;
        written += 1;
        took = (len(&behind).await >= VALUES).then(|| begun.elapsed());
    }
    let took = took.unwrap_or(Duration::MAX);
    // It arrives, though that takes longer than a transfer may stand still.
    assert!(took >= least(), "{took:?} for what takes {:?} at least", least());
    assert!(
        took < least() + Duration::from_secs(3),
        "{took:?}, {:?} at least",
        least()
    );
    assert!(written > VALUES + 30, "{written} values");
    let whole = async {
        while len(&behind).await < written {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, whole).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_snapshot_that_is_cut_off_goes_on_where_it_stopped() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let (_nodes, behind) = with_one_behind(&fabric, root.path()).await;
    let begun = Instant::now();
    fabric.network().heal();
    tokio::time::sleep(least() * 3 / 4).await;
    assert!(len(&behind).await < VALUES);
    isolate(&fabric, 3, &[1, 2]);
    let cut = Duration::from_secs(2);
    tokio::time::sleep(cut).await;
    fabric.network().heal();
    while len(&behind).await < VALUES {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // From the beginning it would take three quarters as long again.
    let took = begun.elapsed();
    assert!(
        took < least() + cut + least() / 3,
        "{took:?}, {:?} at least",
        least()
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_fetches_a_snapshot_for_its_damaged_ones_is_given_it_at_the_rate() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let mut nodes = slow_group(&fabric, root.path()).await;
    for key in 0..VALUES + 5 {
        put_value(&nodes[0], key).await;
    }
    let damaged = nodes.remove(2);
    damaged.shutdown().await;
    drop(damaged);
    assert!(damage_snapshots(root.path(), 3) > 0);
    let begun = Instant::now();
    let repaired = start_durable(&fabric, root.path(), 3, 3).await;
    // Whichever of the two snapshots a peer has as its newest.
    let (took, least) = (begun.elapsed(), least_for(VALUES / 2 - 10));
    assert!(took >= least, "{took:?} for what takes {least:?} at least");
    assert!(len(&repaired).await >= VALUES / 2 - 10);
}
