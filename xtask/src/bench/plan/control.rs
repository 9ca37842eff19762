//! What the controller and the readers do with a million partitions.

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use anyhow::{Context as _, Result};
use rivven_partition::{Liveness, PartitionCommand, PartitionState, Reconciler};
use rivven_types::NodeId;

use super::{
    timing::{least, millis, once},
    world::{PARTITIONS, World},
};
use crate::bench::report::Report;

/// Nodes of the cluster: each leads a hundredth of the partitions.
const NODES: usize = 100;

/// Zones of the cluster.
const ZONES: usize = 10;

/// Looks at leaders in one pass.
const LOOKS: usize = 100_000;

/// Every case.
pub(super) fn all(topics: usize, passes: u32, report: &mut Report) -> Result<()> {
    let world = World::new(NODES, ZONES, topics)?;
    memory(&world.state, report);
    lookups(&world.state, topics, passes, report);
    failover(&world, passes, report)?;
    snapshot(&world.state, passes, report)
}

fn memory(state: &PartitionState, report: &mut Report) {
    let bytes = state.map().heap_size() as f64;
    let each = bytes / state.map().partition_count() as f64;
    report.add("state", "memory", (bytes / (1 << 20) as f64, "MiB"), &[]);
    report.add("a partition", "memory", (each, "B"), &[]);
}

fn lookups(state: &PartitionState, topics: usize, passes: u32, report: &mut Report) {
    let names: Vec<String> = state.map().topics().map(|topic| topic.name.to_string()).collect();
    let looks: Vec<(&str, u32)> = (0..LOOKS)
        .filter_map(|look| {
            let name = names.get(look * 7_919 % topics)?;
            Some((name.as_str(), u32::try_from(look * 31 % PARTITIONS).ok()?))
        })
        .collect();
    let map = state.map();
    let time = least(passes, || {
        for (topic, partition) in &looks {
            black_box(map.leader(topic, *partition));
        }
    });
    let each = time.as_secs_f64() * 1e9 / looks.len() as f64;
    report.add("leader, from strings", "time", (each, "ns"), &[]);
    let time = least(passes, || {
        for (topic, partition) in &looks {
            let found = map.partition(topic, *partition);
            black_box(found.map(|found| found.replicas().sum::<u64>()));
        }
    });
    let each = time.as_secs_f64() * 1e9 / looks.len() as f64;
    report.add("replicas, from strings", "time", (each, "ns"), &[]);
}

/// A node dies: what the controller decides about its leaders, and what it costs to apply that.
fn failover(world: &World, passes: u32, report: &mut Report) -> Result<()> {
    let mut times = [Duration::MAX; 3];
    let mut apply = Duration::MAX;
    let mut first = None;
    for _ in 0..passes {
        let mut reconciler = Reconciler::default();
        let mut look = |members: &BTreeMap<NodeId, Liveness>, now_ms| {
            let mut commands = Vec::new();
            let time = once(|| commands = reconciler.reconcile(&world.state, members, now_ms));
            (commands, time)
        };
        times = keep(times, 0, look(&world.members, 0).1);
        times = keep(times, 1, look(&world.members, 0).1);
        let mut members = world.members.clone();
        members.insert(7, Liveness::Dead);
        let (commands, time) = look(&members, 1);
        times = keep(times, 2, time);
        let mut state = world.state.clone();
        let command = commands
            .get(1)
            .context("the death of a node decides nothing")?
            .clone();
        let index = state.generation() + 1;
        let mut applied = None;
        apply = apply.min(once(|| applied = Some(state.apply(index, command))));
        applied.context("not applied")??;
        first = Some(commands);
    }
    let elected = match first.as_ref().and_then(|commands| commands.get(1)) {
        Some(PartitionCommand::ChangePartitions { changes, .. }) => changes.len(),
        _ => 0,
    };
    let [fresh, idle, dead] = times;
    report.add("first look at everything", "decision", millis(fresh), &[]);
    report.add("nothing has changed", "decision", millis(idle), &[]);
    let name = format!("death of the leader of {elected}");
    let base = [("first look", millis(fresh).0)];
    report.add(name.clone(), "decision", millis(dead), &base);
    report.add(name, "apply", millis(apply), &[]);
    Ok(())
}

fn keep<const N: usize>(mut times: [Duration; N], at: usize, time: Duration) -> [Duration; N] {
    if let Some(least) = times.get_mut(at) {
        *least = time.min(*least);
    }
    times
}

fn snapshot(state: &PartitionState, passes: u32, report: &mut Report) -> Result<()> {
    let bytes = postcard::to_allocvec(state)?;
    let mib = bytes.len() as f64 / (1 << 20) as f64;
    report.add("snapshot", "size", (mib, "MiB"), &[]);
    let write = least(passes.min(2), || drop(black_box(postcard::to_allocvec(state))));
    report.add("snapshot", "write", millis(write), &[]);
    let read = least(passes.min(2), || {
        drop(black_box(postcard::from_bytes::<PartitionState>(&bytes)));
    });
    report.add("snapshot", "read and check", millis(read), &[]);
    Ok(())
}
