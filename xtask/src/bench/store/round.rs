//! What was measured, and what of it is reported.

use std::time::Duration;

use crate::bench::{report::Report, usage};

/// What one round of one contender did.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    pub(super) entries: u64,
    pub(super) elapsed: Duration,
    pub(super) latencies: Vec<Duration>,
    pub(super) syncs: u64,
    pub(super) bytes: u64,
    /// CPU time of all threads, where the system tells; it says more than the clock on a busy machine.
    pub(super) cpu_ns: u64,
}

/// Counts CPU time from the moment it is made.
pub(super) struct Cpu(u64);

impl Cpu {
    pub(super) fn start() -> Self {
        Self(usage::cpu_ns().unwrap_or_default())
    }

    pub(super) fn ns(&self) -> u64 {
        usage::cpu_ns().unwrap_or_default().saturating_sub(self.0)
    }
}

/// The rounds of the log and of its two references, in the order in which they were run.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    pub(super) ours: Vec<Round>,
    pub(super) redb: Vec<Round>,
    pub(super) file: Vec<Round>,
}

impl Rounds {
    /// Entries per second of the log.
    pub(super) fn rate(&self) -> f64 {
        rate(&self.ours)
    }

    /// Reports everything about one case, each figure beside both references.
    pub(super) fn report(&self, case: &str, report: &mut Report) {
        let mut add = |metric, unit, of: &dyn Fn(&[Round]) -> f64| {
            let references = [("redb", of(&self.redb)), ("file", of(&self.file))];
            report.add(case, metric, (of(&self.ours), unit), &references);
        };
        add("entries", "1/s", &rate);
        add("p50", "us", &|rounds| percentile_us(rounds, 50));
        add("p99", "us", &|rounds| percentile_us(rounds, 99));
        add("fsyncs/entry", "", &|rounds| {
            per_entry(rounds, |round| round.syncs)
        });
        add("bytes/entry", "B", &|rounds| {
            per_entry(rounds, |round| round.bytes)
        });
        add("cpu/entry", "ns", &|rounds| {
            per_entry(rounds, |round| round.cpu_ns)
        });
    }
}

/// Median of the rounds' rates.
fn rate(rounds: &[Round]) -> f64 {
    let rates = rounds
        .iter()
        .map(|round| round.entries as f64 / round.elapsed.as_secs_f64());
    let mut rates: Vec<f64> = rates.collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}

fn percentile_us(rounds: &[Round], percent: usize) -> f64 {
    let latencies = rounds.iter().flat_map(|round| round.latencies.iter().copied());
    let mut all: Vec<Duration> = latencies.collect();
    all.sort_unstable();
    let at = all.len().saturating_mul(percent) / 100;
    all.get(at.min(all.len().saturating_sub(1)))
        .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
}

fn per_entry(rounds: &[Round], of: fn(&Round) -> u64) -> f64 {
    let entries: u64 = rounds.iter().map(|round| round.entries).sum();
    rounds.iter().map(of).sum::<u64>() as f64 / entries as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_and_ratios_per_entry() {
        let round = |millis, syncs| Round {
            entries: 10,
            elapsed: Duration::from_millis(millis),
            latencies: (1..=100).map(Duration::from_micros).collect(),
            syncs,
            bytes: 1000,
            cpu_ns: 0,
        };
        let rounds = [round(10, 1), round(1000, 2), round(20, 3)];
        assert!((rate(&rounds) - 500.0).abs() < 1e-9);
        assert!((percentile_us(&rounds, 50) - 51.0).abs() < 1e-9);
        assert!((percentile_us(&rounds, 99) - 100.0).abs() < 1e-9);
        assert!((per_entry(&rounds, |round| round.syncs) - 0.2).abs() < 1e-9);
        assert!((per_entry(&rounds, |round| round.bytes) - 100.0).abs() < 1e-9);
    }
}
