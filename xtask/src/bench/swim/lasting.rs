//! Joining, splits, and members that stay sick for long.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use rivven_swim::{
    NodeId,
    sim::{Host, Sim, Verdict},
};

use super::{
    Args, Ours, Theirs,
    contender::{Contender, all_believe, cluster, seconds},
};
use crate::bench::report::Report;

const STEP: Duration = Duration::from_millis(50);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Seconds, infinite if it did not happen.
fn or_never(took: Option<Duration>) -> f64 {
    took.map_or(f64::INFINITY, |took| took.as_secs_f64())
}

/// A newcomer, and a cluster that forms at once.
pub(super) fn join(args: &Args, report: &mut Report) -> Result<()> {
    let sizes: &[(u32, u64)] = if args.quick {
        &[(100, 60), (1_000, 20)]
    } else {
        &[(100, 300), (1_000, 900)]
    };
    for (size, patience) in sizes {
        let case = format!("newcomer, N={size}");
        let mine = newcomer::<Ours>(*size, secs(*patience), args.seed)?;
        let reference = newcomer::<Theirs>(*size, secs(*patience), args.seed)?;
        let name = Theirs::NAME;
        report.add(
            case.as_str(),
            "it knows all",
            (mine.0, "s"),
            &[(name, reference.0)],
        );
        report.add(
            case.as_str(),
            "all know it",
            (mine.1, "s"),
            &[(name, reference.1)],
        );
        ensure!(mine.0 <= 2.0, "{case}: {} s until it knew all", mine.0);
    }
    let size = if args.quick { 500 } else { 2_000 };
    let case = format!("{size} start at once");
    let took = form::<Ours>(size, args.seed)?;
    report.add(case.as_str(), "all know all", (took, "s"), &[]);
    Ok(())
}

/// Until a newcomer knows all, and until all know it.
fn newcomer<C: Contender>(size: u32, patience: Duration, seed: u64) -> Result<(f64, f64)> {
    let mut sim = cluster::<C>(size, seed)?;
    let (host, begun) = (size + 1, sim.now());
    sim.start(host, C::create(host, 0, size, begun, seed)?);
    sim.tell(host, |member, now| member.join(now, 1));
    let mut known_at = None;
    let knows = |sim: &Sim<C>| {
        let newcomer = sim.machine(host);
        newcomer.is_some_and(|newcomer| (1..=size).all(|other| newcomer.believes_in(other)))
    };
    let known = |sim: &Sim<C>| {
        let mut others = (1..=size).filter_map(|other| sim.machine(other));
        others.all(|other| other.believes_in(host))
    };
    let knew = sim.run_until(STEP / 5, patience, |sim| {
        if known_at.is_none() && known(sim) {
            known_at = Some(sim.now());
        }
        knows(sim)
    });
    if known_at.is_none() {
        sim.run_until(STEP, secs(30), known);
        known_at = known(&sim).then(|| sim.now());
    }
    Ok((
        or_never(knew),
        known_at.map_or(f64::INFINITY, |at| seconds(at, begun)),
    ))
}

/// Until members that start together, and know only the first, know each other.
fn form<C: Contender>(size: u32, seed: u64) -> Result<f64> {
    let mut sim = Sim::new(seed);
    for host in 1..=size {
        let now = sim.now();
        sim.start(host, C::create(host, 0, size, now, seed ^ u64::from(host) << 20)?);
        sim.tell(host, |member, now| member.join(now, 1));
    }
    Ok(or_never(sim.run_until(STEP * 5, secs(120), all_believe)))
}

/// Two halves that did not hear each other for two minutes.
pub(super) fn merge(args: &Args, report: &mut Report) -> Result<()> {
    let sizes: &[(u32, u64)] = if args.quick {
        &[(100, 180)]
    } else {
        &[(20, 300), (100, 300), (1_000, 800)]
    };
    for (size, patience) in sizes {
        let case = format!("merge after 120 s, N={size}");
        let mine = halves::<Ours>(*size, secs(*patience), args.seed)?;
        let reference = halves::<Theirs>(*size, secs(*patience), args.seed)?;
        let name = Theirs::NAME;
        report.add(
            case.as_str(),
            "all know all",
            (mine.0, "s"),
            &[(name, reference.0)],
        );
        report.add(case.as_str(), "renewals", (mine.1, ""), &[(name, reference.1)]);
        report.add(case.as_str(), "evictions", (mine.2, ""), &[(name, reference.2)]);
        ensure!(mine.0 <= 30.0, "{case}: {} s", mine.0);
        ensure!(mine.1 == 0.0, "{case}: identities were renewed");
    }
    Ok(())
}

/// How long the merge takes, and how many identities are renewed and live members evicted by it.
fn halves<C: Contender>(size: u32, patience: Duration, seed: u64) -> Result<(f64, f64, f64)> {
    let mut sim = cluster::<C>(size, seed)?;
    sim.split(|host| host % 2);
    sim.run(secs(120));
    sim.news.clear();
    sim.merge();
    let took = sim.run_until(STEP * 4, patience, all_believe);
    let count = |verdict| sim.news.iter().filter(|news| news.verdict == verdict).count() as f64;
    Ok((or_never(took), count(Verdict::Renewed), count(Verdict::Dead)))
}

/// What sick members did to the others.
#[derive(Debug, Default)]
struct Harm {
    /// Reports that a healthy member is dead.
    reports: usize,
    /// Those by healthy members.
    by_healthy: usize,
    /// Healthy members that somebody declared dead.
    evicted: usize,
}

fn harm<C: Contender>(sim: &Sim<C>, sick: &BTreeSet<Host>) -> Harm {
    let healthy = |node: NodeId| !sick.iter().any(|host| NodeId::from(*host) == node);
    let wrong = sim
        .news
        .iter()
        .filter(|n| n.verdict == Verdict::Dead && healthy(n.subject));
    let wrong: Vec<_> = wrong.collect();
    let evicted: BTreeSet<NodeId> = wrong.iter().map(|news| news.subject).collect();
    Harm {
        reports: wrong.len(),
        by_healthy: wrong.iter().filter(|n| healthy(n.observer.into())).count(),
        evicted: evicted.len(),
    }
}

/// Lifeguard's evaluation: of 128 members some are blocked for D, run for I, and so on for two minutes.
pub(super) fn blocked(args: &Args, report: &mut Report) -> Result<()> {
    let counts: &[u32] = if args.quick { &[16] } else { &[1, 4, 8, 16, 32] };
    let times: &[(u64, u64)] = if args.quick {
        &[(8_000, 1_000), (32_000, 1_000)]
    } else {
        &[(2_000, 64), (8_000, 1_000), (16_000, 64), (32_000, 1_000)]
    };
    for count in counts {
        for (stop, go) in times {
            let case = format!("{count} of 128 blocked {stop}/{go} ms");
            let mine = block::<Ours>(*count, *stop, *go, args.seed)?;
            let reference = block::<Theirs>(*count, *stop, *go, args.seed)?;
            add_harm(report, &case, &mine, &reference);
        }
    }
    Ok(())
}

fn add_harm(report: &mut Report, case: &str, mine: &Harm, reference: &Harm) {
    let name = Theirs::NAME;
    let mut add = |metric, pick: fn(&Harm) -> usize| {
        let (value, base) = (pick(mine) as f64, pick(reference) as f64);
        report.add(case, metric, (value, ""), &[(name, base)]);
    };
    add("wrong deaths", |harm| harm.reports);
    add("by healthy", |harm| harm.by_healthy);
    add("healthy evicted", |harm| harm.evicted);
}

fn block<C: Contender>(count: u32, stop: u64, go: u64, seed: u64) -> Result<Harm> {
    const SIZE: u32 = 128;
    let mut sim = cluster::<C>(SIZE, seed)?;
    let sick: BTreeSet<Host> = (0..count).map(|i| 1 + i * SIZE / count).collect();
    let end = sim.now() + secs(120);
    while sim.now() < end {
        for host in &sick {
            sim.block(*host);
        }
        sim.run(Duration::from_millis(stop));
        for host in &sick {
            sim.resume(*host);
        }
        sim.run(Duration::from_millis(go));
    }
    Ok(harm(&sim, &sick))
}

/// Rapid's evaluation: one member in a hundred loses 80 % of its packets, or hears nothing every other 20 s.
pub(super) fn lossy(args: &Args, report: &mut Report) -> Result<()> {
    let size = if args.quick { 200 } else { 1_000 };
    let lossy = |sim: &mut Sim<Ours>, host, on| {
        sim.set_loss(host, if on { 800 } else { 0 }, if on { 800 } else { 0 })
    };
    let lossy_theirs = |sim: &mut Sim<Theirs>, host, on| {
        sim.set_loss(host, if on { 800 } else { 0 }, if on { 800 } else { 0 })
    };
    let deaf = |sim: &mut Sim<Ours>, host, on| sim.set_loss(host, if on { 1_000 } else { 0 }, 0);
    let deaf_theirs = |sim: &mut Sim<Theirs>, host, on| sim.set_loss(host, if on { 1_000 } else { 0 }, 0);
    let case = format!("80 % loss on 1 %, N={size}");
    let mine = sicken(size, 1, args.seed, lossy)?;
    let reference = sicken(size, 1, args.seed, lossy_theirs)?;
    add_sickness(report, &case, &mine, &reference)?;
    let case = format!("one-way flips on 1 %, N={size}");
    let mine = sicken(size, 2, args.seed, deaf)?;
    let reference = sicken(size, 2, args.seed, deaf_theirs)?;
    add_sickness(report, &case, &mine, &reference)
}

fn add_sickness(report: &mut Report, case: &str, mine: &(f64, Harm), reference: &(f64, Harm)) -> Result<()> {
    report.add(
        case,
        "all flag all sick",
        (mine.0, "s"),
        &[(Theirs::NAME, reference.0)],
    );
    add_harm(report, case, &mine.1, &reference.1);
    ensure!(mine.1.evicted == 0, "{case}: healthy members were declared dead");
    Ok(())
}

/// Has one member in a hundred suffer for 20 s of every `turns` times 20 s, for two minutes. When every healthy
/// member had flagged every sick one, and what happened to the healthy.
fn sicken<C: Contender>(
    size: u32,
    turns: u32,
    seed: u64,
    set: impl Fn(&mut Sim<C>, Host, bool),
) -> Result<(f64, Harm)> {
    let mut sim = cluster::<C>(size, seed)?;
    let sick: BTreeSet<Host> = (0..size / 100).map(|i| 50 + i * 100).collect();
    let begun = sim.now();
    let mut unflagged: BTreeSet<(Host, Host)> = BTreeSet::new();
    for observer in (1..=size).filter(|host| !sick.contains(host)) {
        unflagged.extend(sick.iter().map(|subject| (observer, *subject)));
    }
    let mut flagged_at = None;
    for turn in 0..6 {
        for host in &sick {
            set(&mut sim, *host, turn % turns == 0);
        }
        sim.run_until(STEP * 4, secs(20), |sim| {
            unflagged.retain(|(observer, subject)| {
                !sim.machine(*observer)
                    .is_some_and(|machine| machine.has_flagged(*subject))
            });
            if unflagged.is_empty() && flagged_at.is_none() {
                flagged_at = Some(sim.now());
            }
            false
        });
    }
    let flagged = flagged_at.map_or(f64::INFINITY, |at| seconds(at, begun));
    Ok((flagged, harm(&sim, &sick)))
}
