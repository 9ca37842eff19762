//! The simulation itself: the same seed is the same run, and what it finds does not depend on luck.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::process::Command;

/// What the program says of a seed: in a process of its own, as in a sweep.
fn simulate(seed: u64, seconds: u64, nodes: u64, script: &str) -> (String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_rivven-sim"))
        .args([seed, seconds, nodes].map(|number| number.to_string()))
        .arg(script)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (text, output.status.success())
}

fn check_clean(seed: u64, seconds: u64, nodes: u64, script: &str) -> String {
    let (text, clean) = simulate(seed, seconds, nodes, script);
    let scenario = if script == "-" {
        String::new()
    } else {
        format!(" --scenario {script}")
    };
    assert!(
        clean,
        "replay with `cargo xtask sim --seeds {seed} --seconds {seconds} --nodes {nodes}{scenario}`:\n{text}"
    );
    text
}

#[test]
fn the_same_seed_is_the_same_run_in_every_process() {
    let first = check_clean(1, 6, 3, "-");
    let again: Vec<_> = (0..2)
        .map(|_| {
            std::thread::Builder::new()
                .spawn(|| simulate(1, 6, 3, "-").0)
                .unwrap()
        })
        .collect();
    for again in again {
        assert_eq!(again.join().unwrap(), first);
    }
    let other = check_clean(2, 6, 3, "-");
    assert_ne!(other.split(" hash ").nth(1), first.split(" hash ").nth(1));
}

#[test]
fn a_leader_killed_and_back_at_once_answers_no_old_reads() {
    check_clean(1, 12, 3, "kill-leader-fast-restart-read");
}

#[test]
fn an_empty_disk_under_a_known_id_counts_for_nothing_until_it_is_replaced() {
    check_clean(1, 30, 3, "wiped-disk-same-id");
}

#[test]
fn a_leader_that_is_removed_leaves_a_group_that_goes_on() {
    check_clean(1, 30, 3, "remove-leader");
}

#[test]
fn requests_that_come_late_and_twice_harm_nobody() {
    check_clean(1, 12, 3, "delayed-duplicates");
}
