//! A member crashes: when the first other suspects it, declares it dead, and when all know.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use rivven_swim::{
    NodeId,
    sim::{Host, Sim, Verdict},
};

use super::{
    Args, Ours, Theirs,
    contender::{Contender, cluster, quantile, seconds},
};
use crate::bench::report::Report;

/// After so long an observer that does not know has missed it.
const PATIENCE: Duration = Duration::from_secs(40);

/// What many crashes showed, in seconds, sorted.
#[derive(Debug, Default)]
pub(super) struct Crashes {
    first_doubt: Vec<f64>,
    first_death: Vec<f64>,
    all_know: Vec<f64>,
    /// Pairs of crash and observer that did not learn of it.
    missed: usize,
}

impl Crashes {
    /// Pairs of crash and observer that did not learn of it.
    pub(super) const fn missed(&self) -> usize {
        self.missed
    }

    /// Reports what there is no reference for.
    pub(super) fn add_to(&mut self, case: &str, report: &mut Report) {
        self.sort();
        let mut add = |metric, times: &[f64], permille| {
            report.add(case, metric, (quantile(times, permille), "s"), &[]);
        };
        add("1st suspicion p50", &self.first_doubt, 500);
        add("1st dead p50", &self.first_death, 500);
        add("all know p50", &self.all_know, 500);
        add("all know max", &self.all_know, 1_000);
        report.add(case, "missed", (self.missed as f64, "pairs"), &[]);
    }

    fn sort(&mut self) {
        for times in [&mut self.first_doubt, &mut self.first_death, &mut self.all_know] {
            times.sort_by(f64::total_cmp);
        }
    }
}

pub(super) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    // Size, loss in a thousand, crashes of ours and of the reference.
    let quick: &[(u32, u64, usize, usize)] = &[
        (20, 0, 20, 20),
        (20, 100, 10, 10),
        (100, 0, 20, 10),
        (1_000, 0, 2, 1),
    ];
    let thorough: &[(u32, u64, usize, usize)] = &[
        (20, 0, 200, 100),
        (20, 50, 200, 100),
        (20, 100, 200, 100),
        (100, 0, 100, 100),
        (100, 50, 100, 100),
        (100, 100, 100, 100),
        (1_000, 0, 40, 6),
        (1_000, 50, 20, 6),
        (1_000, 100, 20, 6),
    ];
    for (size, loss, ours, theirs) in if args.quick { quick } else { thorough } {
        let case = format!("crash, N={size}, loss {} %", loss / 10);
        let mine = crash_one_after_another::<Ours>(*size, *loss, *ours, args.seed)?;
        let reference = crash_one_after_another::<Theirs>(*size, *loss, *theirs, args.seed)?;
        let name = Theirs::NAME;
        let mut add = |metric, pick: fn(&Crashes) -> &[f64], permille| {
            let (value, base) = (
                quantile(pick(&mine), permille),
                quantile(pick(&reference), permille),
            );
            report.add(case.as_str(), metric, (value, "s"), &[(name, base)]);
        };
        add("1st suspicion p50", |c| &c.first_doubt, 500);
        add("1st suspicion max", |c| &c.first_doubt, 1_000);
        add("1st dead p50", |c| &c.first_death, 500);
        add("all know p50", |c| &c.all_know, 500);
        add("all know max", |c| &c.all_know, 1_000);
        let base = reference.missed as f64;
        report.add(
            case.as_str(),
            "missed",
            (mine.missed as f64, "pairs"),
            &[(name, base)],
        );
        // The floors: at least half as fast again as the reference, and nobody misses it.
        ensure!(
            mine.missed == 0,
            "{case}: {} observers missed a crash",
            mine.missed
        );
        let (ours, theirs) = (quantile(&mine.all_know, 500), quantile(&reference.all_know, 500));
        ensure!(
            ours * 1.5 <= theirs,
            "{case}: {ours} s is too slow beside {theirs} s"
        );
    }
    Ok(())
}

/// Crashes and restarts members of a cluster, one at a time.
pub(super) fn crash_one_after_another<C: Contender>(
    size: u32,
    loss: u64,
    crashes: usize,
    seed: u64,
) -> Result<Crashes> {
    let mut sim = cluster::<C>(size, seed)?;
    sim.loss = loss;
    let mut result = Crashes::default();
    for round in 0..u32::try_from(crashes)? {
        // Any member will do; the first is spared because newcomers ask it.
        let host = 2 + round.wrapping_mul(0x9e37_79b1) % (size - 1);
        crash(&mut sim, host, &mut result);
        let start = u16::try_from(round + 1).unwrap_or(u16::MAX);
        let now = sim.now();
        let newcomer = C::create(host, start, size, now, seed.wrapping_add(round.into()) << 8)?;
        sim.start(host, newcomer);
        sim.tell(host, |member, now| member.join(now, 1));
        // The pause is not a multiple of the period, so that crashes fall into every phase of it.
        sim.run(Duration::from_millis(6_370));
        sim.news.clear();
    }
    result.sort();
    Ok(result)
}

/// Crashes `host` and watches until all know, or have had the time to.
pub(super) fn crash<C: Contender>(sim: &mut Sim<C>, host: Host, result: &mut Crashes) {
    let crashed_at = sim.now();
    let subject = NodeId::from(host);
    sim.news.clear();
    sim.crash(host);
    let mut unaware: BTreeSet<Host> = sim.up().collect();
    let mut read = 0;
    let mut last = crashed_at;
    let (mut doubted, mut died) = (None, None);
    sim.run_until(Duration::from_millis(50), PATIENCE, |sim| {
        for news in sim.news.iter().skip(read).filter(|news| news.subject == subject) {
            match news.verdict {
                Verdict::Doubted => {
                    doubted.get_or_insert(news.at);
                }
                Verdict::Dead => {
                    died.get_or_insert(news.at);
                    if unaware.remove(&news.observer) {
                        last = news.at;
                    }
                }
                _ => {}
            }
        }
        read = sim.news.len();
        unaware.is_empty()
    });
    result.missed += unaware.len();
    result
        .first_doubt
        .extend(doubted.map(|at| seconds(at, crashed_at)));
    result.first_death.extend(died.map(|at| seconds(at, crashed_at)));
    if unaware.is_empty() {
        result.all_know.push(seconds(last, crashed_at));
    }
}
