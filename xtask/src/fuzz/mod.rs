//! `cargo xtask fuzz`: random and damaged input to everything that reads what a stranger may have sent.
//!
//! Mutations of a corpus of valid input, in this process and without coverage guidance, so that it needs
//! no compiler but Rust's. The seed is printed; the same seed makes the same inputs, but for what valid input
//! draws anew each time, such as tokens and the first counter of a sealer.

mod mutate;
mod overheard;
mod targets;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use anyhow::Result;
use tokio::time::Instant;

use mutate::Mutator;
use targets::{Target, TargetName};

/// What to fuzz, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The target; all of them in turn when none is named.
    #[arg(value_name = "TARGET")]
    target: Option<TargetName>,
    /// Time for each target.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seed of every input.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Fuzzes; false when an input made a target panic or break its promise.
pub(crate) fn main(args: &Args) -> Result<bool> {
    let names = args
        .target
        .map_or_else(|| TargetName::ALL.to_vec(), |name| vec![name]);
    let mut clean = true;
    for name in names {
        println!("{name:?}: {} s, --seed {}", args.seconds, args.seed);
        let mut target = name.start()?;
        let before = peak_kib();
        let found = run(&mut *target, args.seed, Duration::from_secs(args.seconds));
        match found {
            Ok(inputs) => println!("{name:?}: {inputs} inputs, nothing found"),
            Err((number, input)) => {
                let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
                println!("{name:?}: input {number} of seed {} failed: {hex}", args.seed);
                clean = false;
            }
        }
        let grown = before.zip(peak_kib()).map(|(before, after)| after - before);
        if let Some(grown) = grown.filter(|grown| *grown > MAX_GROWTH_KIB) {
            println!("{name:?}: an input made the process ask for {grown} KiB more; find it with a debugger");
            clean = false;
        }
    }
    Ok(clean)
}

/// Most address space that inputs of at most 4 KiB may make the process ask for, at its peak.
///
/// The largest frame has 8 MiB, and none may be reserved for before it has arrived; the rest is slack of the
/// allocator. A length that is believed asks for up to 4 GiB.
const MAX_GROWTH_KIB: u64 = 64 << 10;

/// Most address space that this process has had, where the operating system says so: also what was asked for
/// and never touched, which no other figure shows.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Feeds mutated input until the time is over; the number and bytes of the first that fails.
fn run(target: &mut dyn Target, seed: u64, time: Duration) -> Result<u64, (u64, Vec<u8>)> {
    let mut mutator = Mutator::new(seed, target.corpus());
    let end = Instant::now() + time;
    let mut number = 0;
    // Looking at the clock costs more than many inputs.
    while number % 256 != 0 || Instant::now() < end {
        let input = mutator.next();
        let fed = catch_unwind(AssertUnwindSafe(|| target.feed(&input)));
        if !matches!(fed, Ok(true)) {
            return Err((number, input));
        }
        number += 1;
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails on the byte 0x42 at the front, in one of two ways.
    struct Broken(bool);

    impl Target for Broken {
        fn corpus(&self) -> Vec<Vec<u8>> {
            vec![vec![0x41, 0x41]]
        }

        fn feed(&mut self, input: &[u8]) -> bool {
            let hit = input.first() == Some(&0x42);
            assert!(!(hit && self.0), "found");
            !hit
        }
    }

    #[test]
    fn a_broken_target_is_found_at_the_same_input_each_time() {
        let time = Duration::from_secs(20);
        let found = [true, false, false].map(|panics| run(&mut Broken(panics), 7, time).unwrap_err());
        assert_eq!(found[0], found[1]);
        assert_eq!(found[1], found[2]);
        assert_eq!(found[0].1[0], 0x42);
    }

    #[test]
    fn every_target_survives_a_moment() {
        for name in TargetName::ALL {
            let mut target = name.start().unwrap();
            let corpus = target.corpus();
            assert!(!corpus.is_empty());
            assert!(
                run(&mut *target, 1, Duration::from_millis(100)).is_ok(),
                "{name:?}"
            );
        }
    }
}
