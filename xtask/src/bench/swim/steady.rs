//! Nothing happens but loss: what gossip costs, and how often it is wrong.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use rivven_swim::{
    NodeId, Time,
    sim::{Load, Sim, Verdict},
};

use super::{
    Args, Ours, Theirs,
    contender::{Contender, cluster},
    crashes::{Crashes, crash},
};
use crate::bench::{report::Report, usage};

/// Reports of the same member's death within this time are one eviction.
const SAME_EVICTION: Duration = Duration::from_secs(60);

/// What a quiet time showed.
#[derive(Debug)]
struct Steady {
    node_hours: f64,
    doubts: f64,
    evictions: f64,
    renewals: f64,
    load: Load,
    node_seconds: f64,
    ns_per_input: f64,
}

pub(super) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    // Size, loss in a thousand, seconds of ours and of the reference.
    let quick: &[(u32, u64, u64, u64)] = &[
        (20, 0, 300, 300),
        (100, 0, 120, 120),
        (100, 100, 3_600, 300),
        (1_000, 0, 20, 10),
    ];
    let thorough: &[(u32, u64, u64, u64)] = &[
        (20, 0, 3_600, 3_600),
        (20, 50, 3_600, 3_600),
        (20, 100, 18_000, 3_600),
        (100, 0, 3_600, 3_600),
        (100, 50, 3_600, 1_800),
        (100, 100, 7_200, 1_800),
        (1_000, 0, 600, 120),
        (1_000, 50, 600, 120),
        (1_000, 100, 3_600, 120),
    ];
    for (size, loss, ours, theirs) in if args.quick { quick } else { thorough } {
        let case = format!("steady, N={size}, loss {} %", loss / 10);
        let mine = stay::<Ours>(*size, *loss, *ours, args.seed)?;
        let reference = stay::<Theirs>(*size, *loss, *theirs, args.seed)?;
        let name = Theirs::NAME;
        let mut add = |metric, unit, pick: fn(&Steady) -> f64| {
            report.add(
                case.as_str(),
                metric,
                (pick(&mine), unit),
                &[(name, pick(&reference))],
            );
        };
        add("suspicions", "/node-h", |s| s.doubts / s.node_hours);
        add("evictions", "/node-h", |s| s.evictions / s.node_hours);
        add("renewals", "/node-h", |s| s.renewals / s.node_hours);
        add("datagrams", "/node-s", |s| {
            s.load.datagrams as f64 / s.node_seconds
        });
        add("bytes", "/node-s", |s| s.load.bytes as f64 / s.node_seconds);
        add("cpu an input", "ns", |s| s.ns_per_input);
        ensure!(mine.evictions == 0.0, "{case}: live members were declared dead");
        let bytes = mine.load.bytes as f64 / mine.node_seconds;
        ensure!(*loss > 0 || bytes <= 400.0, "{case}: {bytes} bytes a second");
    }
    Ok(())
}

fn stay<C: Contender>(size: u32, loss: u64, seconds: u64, seed: u64) -> Result<Steady> {
    let mut sim = cluster::<C>(size, seed)?;
    sim.loss = loss;
    let before = usage::cpu_ns();
    sim.run(Duration::from_secs(seconds));
    let cpu = usage::cpu_ns()
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before));
    let count = |verdict| sim.news.iter().filter(|news| news.verdict == verdict).count() as f64;
    let node_seconds = f64::from(size) * seconds as f64;
    Ok(Steady {
        node_hours: node_seconds / 3_600.0,
        doubts: first_of_each(&sim, Verdict::Doubted) as f64,
        evictions: first_of_each(&sim, Verdict::Dead) as f64,
        renewals: count(Verdict::Renewed),
        load: sim.load,
        node_seconds,
        ns_per_input: cpu.map_or(f64::NAN, |cpu| cpu as f64 / sim.load.inputs as f64),
    })
}

/// How often anybody came to `verdict` about somebody; all who do within a minute count as one.
fn first_of_each<C: Contender>(sim: &Sim<C>, verdict: Verdict) -> usize {
    let mut last: BTreeMap<NodeId, Time> = BTreeMap::new();
    let mut count = 0;
    for news in sim.news.iter().filter(|news| news.verdict == verdict) {
        let before = last.insert(news.subject, news.at);
        if before.is_none_or(|before| news.at.since(before) > SAME_EVICTION) {
            count += 1;
        }
    }
    count
}

/// Ten thousand members in one process.
pub(super) fn scale(args: &Args, report: &mut Report) -> Result<()> {
    const SIZE: u32 = 10_000;
    let case = format!("N={SIZE}, one process");
    let empty = usage::resident_bytes();
    let mut sim = cluster::<Ours>(SIZE, args.seed)?;
    let full = usage::resident_bytes();
    if let Some((full, empty)) = full.zip(empty) {
        let bytes = full.saturating_sub(empty) as f64;
        report.add(case.as_str(), "memory", (bytes / 1_073_741_824.0, "GiB"), &[]);
        let each = bytes / f64::from(SIZE) / f64::from(SIZE);
        report.add(case.as_str(), "a member of a view", (each, "B"), &[]);
    }
    let before = usage::cpu_ns();
    let inputs = sim.load.inputs;
    let seconds = 20;
    sim.run(Duration::from_secs(seconds));
    if let Some(cpu) = usage::cpu_ns().zip(before).map(|(after, before)| after - before) {
        let inputs = sim.load.inputs - inputs;
        report.add(
            case.as_str(),
            "cpu an input",
            (cpu as f64 / inputs as f64, "ns"),
            &[],
        );
        let ratio = seconds as f64 * 1e9 / cpu as f64;
        report.add(case.as_str(), "simulated for real", (ratio, "s/s"), &[]);
    }
    let bytes = sim.load.bytes as f64 / f64::from(SIZE) / (seconds as f64);
    report.add(case.as_str(), "bytes", (bytes, "/node-s"), &[]);
    for (loss, hosts) in [
        (0, [77, 5_000, 9_999]),
        (50, [78, 5_001, 9_998]),
        (100, [79, 5_002, 9_997]),
    ] {
        sim.loss = loss;
        let case = format!("crash, N={SIZE}, loss {} %", loss / 10);
        let mut crashes = Crashes::default();
        for host in hosts {
            crash(&mut sim, host, &mut crashes);
        }
        crashes.add_to(case.as_str(), report);
        let missed = crashes.missed();
        ensure!(missed == 0, "{case}: {missed} observers missed a crash");
    }
    Ok(())
}
