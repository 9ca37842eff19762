//! The measured cases of one size of ring.

use std::{
    hint::black_box,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Result;
use consistent_hash_ring::RingBuilder;
use rivven_hashring::{HashRing, Ring, RingNode, TopicKey};

use super::{
    VIRTUAL_NODES,
    keys::{COUNT, Keys},
    timing::{millis, per_key},
};
use crate::bench::report::Report;

/// Names of the two rivals in the report.
const HASHRING: &str = "hashring";
const CHR: &str = "consistent_hash_ring";
/// What the hardware allows two threads: lookups in the ring itself, which they share without a handle.
const OWNER_OF_TWO: &str = "owner on 2 threads";

/// Slots of the compiled table, as a power of two.
const SLOT_BITS: u32 = 16;

/// Zones of the rings.
const ZONES: usize = 3;

/// The rings under test, with the same nodes.
struct Rings {
    ours: Ring,
    hashring: hashring::HashRing<String>,
    chr: consistent_hash_ring::Ring<String>,
}

fn node(number: usize) -> RingNode {
    RingNode::new(format!("node{number}")).in_zone(format!("zone{}", number % ZONES))
}

fn ours(nodes: usize) -> Result<Ring> {
    let mut ring = Ring::new(VIRTUAL_NODES);
    ring.add_all((0..nodes).map(node))?;
    Ok(ring)
}

fn chr(nodes: usize) -> consistent_hash_ring::Ring<String> {
    RingBuilder::default()
        .vnodes(VIRTUAL_NODES as usize)
        .nodes_iter((0..nodes).map(|i| format!("node{i}")))
        .build()
}

/// That crate has no virtual nodes; its users add a name for each, as its documentation shows.
fn hashring(nodes: usize) -> hashring::HashRing<String> {
    let mut ring = hashring::HashRing::new();
    let names = (0..nodes).flat_map(|i| (0..VIRTUAL_NODES).map(move |v| format!("node{i}-{v}")));
    ring.batch_add(names.collect());
    ring
}

/// Measures a ring of `nodes` nodes.
pub(super) fn of(nodes: usize, passes: u32, keys: &Keys, report: &mut Report) -> Result<()> {
    let rings = Rings {
        ours: ours(nodes)?,
        hashring: hashring(nodes),
        chr: chr(nodes),
    };
    let case = |what: &str| format!("{nodes} nodes, {what}");
    owners(&rings, passes, keys, report, &case);
    sets(&rings, passes, keys, report, &case)?;
    shared(&rings.ours, passes, keys, report, &case);
    changes(nodes, passes, report, &case)?;
    quality(&rings.ours, keys, report, &case)
}

fn owners(rings: &Rings, passes: u32, keys: &Keys, report: &mut Report, case: &impl Fn(&str) -> String) {
    let ours = per_key(passes, || {
        for (_, topic, partition) in keys.iter() {
            black_box(rings.ours.owner(topic, partition).ok());
        }
    });
    let hashring = per_key(passes, || {
        for (_, topic, partition) in keys.iter() {
            black_box(rings.hashring.get(&(topic, partition)));
        }
    });
    let chr = per_key(passes, || {
        for (_, topic, partition) in keys.iter() {
            black_box(rings.chr.try_get((topic, partition)));
        }
    });
    report.add(
        case("owner"),
        "time",
        (ours, "ns"),
        &[(HASHRING, hashring), (CHR, chr)],
    );
    let topics: Vec<_> = keys.topics().map(TopicKey::new).collect();
    let cached = per_key(passes, || {
        for (topic, _, partition) in keys.iter() {
            let topic = topics.get(topic).copied();
            black_box(topic.and_then(|topic| rings.ours.owner_at(topic.partition(partition)).ok()));
        }
    });
    report.add(
        case("owner, topic cached"),
        "time",
        (cached, "ns"),
        &[("owner", ours)],
    );
}

fn sets(
    rings: &Rings,
    passes: u32,
    keys: &Keys,
    report: &mut Report,
    case: &impl Fn(&str) -> String,
) -> Result<()> {
    let table = rings.ours.compile(SLOT_BITS, 3)?;
    let owner = per_key(passes, || {
        for (_, topic, partition) in keys.iter() {
            black_box(table.owner(topic, partition));
        }
    });
    report.add(case("owner, slots"), "time", (owner, "ns"), &[]);
    let topics: Vec<_> = keys.topics().map(TopicKey::new).collect();
    let cached = per_key(passes, || {
        for (topic, _, partition) in keys.iter() {
            let topic = topics.get(topic).copied();
            black_box(topic.map(|topic| table.owner_at(topic.partition(partition))));
        }
    });
    report.add(case("owner, slots, cached"), "time", (cached, "ns"), &[]);
    let set = per_key(passes, || {
        for (_, topic, partition) in keys.iter() {
            black_box(table.replica_set(topic, partition).numbers());
        }
    });
    let walk = per_key(1, || {
        for (_, topic, partition) in keys.iter() {
            black_box(rings.ours.replica_set(topic, partition, 3).ok());
        }
    });
    let chr = per_key(passes.min(3), || {
        for (_, topic, partition) in keys.iter() {
            rings.chr.replicas((topic, partition)).take(3).for_each(|name| {
                black_box(name);
            });
        }
    });
    report.add(case("set of 3, slots"), "time", (set, "ns"), &[(CHR, chr)]);
    report.add(case("set of 3, walked"), "time", (walk, "ns"), &[(CHR, chr)]);
    let kib = table.heap_size() as f64 / 1_024.0;
    report.add(case("slots"), "memory", (kib, "KiB"), &[]);
    let compile = millis(passes.min(3), || {
        black_box(rings.ours.compile(SLOT_BITS, 3).ok());
    });
    report.add(case("slots"), "compile", (compile, "ms"), &[]);
    Ok(())
}

/// Through the shared handle, alone and beside another thread that does the same; beside, the ring itself.
fn shared(ring: &Ring, passes: u32, keys: &Keys, report: &mut Report, case: &impl Fn(&str) -> String) {
    let handle = HashRing::from(ring.clone());
    let plain = || {
        for (_, topic, partition) in keys.iter() {
            black_box(ring.owner(topic, partition).ok());
        }
    };
    let pass = || {
        for (_, topic, partition) in keys.iter() {
            black_box(handle.get_partition_owner(topic, partition).ok());
        }
    };
    let plain = (OWNER_OF_TWO, per_key_of_two(passes, plain));
    let (one, two) = (per_key(passes, pass), per_key_of_two(passes, pass));
    report.add(case("shared handle"), "1 thread", (one, "ns"), &[]);
    let beside = [("1 thread", one), plain];
    report.add(case("shared handle"), "2 threads", (two, "ns"), &beside);
    let pass = || {
        let mut reader = handle.reader();
        for (_, topic, partition) in keys.iter() {
            black_box(reader.owner(topic, partition).ok());
        }
    };
    let (one, two) = (per_key(passes, pass), per_key_of_two(passes, pass));
    report.add(case("shared reader"), "1 thread", (one, "ns"), &[]);
    let beside = [("1 thread", one), plain];
    report.add(case("shared reader"), "2 threads", (two, "ns"), &beside);
}

/// The time of a pass while another thread makes passes all along; to begin that thread is not measured.
fn per_key_of_two(passes: u32, pass: impl Fn() + Copy + Sync) -> f64 {
    let (begun, enough) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            begun.wait();
            while !enough.load(Ordering::Relaxed) {
                pass();
            }
        });
        begun.wait();
        let time = per_key(passes, pass);
        enough.store(true, Ordering::Relaxed);
        time
    })
}

fn changes(nodes: usize, passes: u32, report: &mut Report, case: &impl Fn(&str) -> String) -> Result<()> {
    let build = millis(passes.min(5), || {
        black_box(ours(nodes).ok());
    });
    let chr_build = millis(1, || {
        black_box(chr(nodes));
    });
    let hashring_build = millis(1, || {
        black_box(hashring(nodes));
    });
    let rivals = [(HASHRING, hashring_build), (CHR, chr_build)];
    report.add(case("build"), "time", (build, "ms"), &rivals);
    let ring = ours(nodes)?;
    // Kept until the end, so that freeing them is not measured.
    let mut copies = Vec::new();
    let add = millis(passes, || {
        let mut ring = ring.clone();
        black_box(ring.add(node(nodes)).ok());
        copies.push(ring);
    });
    report.add(case("add a node to a copy"), "time", (add, "ms"), &[]);
    let mib = ring.heap_size() as f64 / (1 << 20) as f64;
    report.add(case("ring and index"), "memory", (mib, "MiB"), &[]);
    Ok(())
}

/// How evenly keys spread, and how few move.
fn quality(ring: &Ring, keys: &Keys, report: &mut Report, case: &impl Fn(&str) -> String) -> Result<()> {
    let nodes = ring.len() as f64;
    let most = ring.shares().iter().map(|(_, share)| *share).fold(0.0, f64::max);
    report.add(case("share of the circle"), "max/mean", (most * nodes, "x"), &[]);
    let mut larger = ring.clone();
    larger.add(node(ring.len()))?;
    let diff = ring.diff(&larger).fraction();
    let moved = keys
        .iter()
        .filter(|(_, topic, partition)| ring.owner(topic, *partition) != larger.owner(topic, *partition));
    let moved = moved.count() as f64 / COUNT as f64;
    let expected = [("exact diff", diff)];
    report.add(case("a node joins"), "keys moved", (moved, ""), &expected);
    Ok(())
}
