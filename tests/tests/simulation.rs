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
fn an_empty_disk_is_let_in_without_an_operator_only_while_all_other_voters_answer() {
    check_clean(1, 30, 5, "wiped-disk-by-itself");
}

#[test]
fn five_voters_bear_a_one_way_cut_a_slow_disk_and_one_that_is_200_ms_away() {
    check_clean(1, 12, 5, "five-node-lag-mix");
}

/// Every disk takes up to 280 ms to sync, beyond every election timeout, and leaders are killed.
#[test]
fn disks_slower_than_the_election_timeout_delay_an_election_and_do_not_prevent_it() {
    let text = check_clean(8, 60, 3, "slow-disk-reorder");
    let answers: u64 = text
        .split(" ops ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|ops| ops.parse().ok())
        .unwrap();
    // 840 of them. With votes that count only within the election timeout it was 183.
    assert!(answers >= 500, "{text}");
}

#[test]
fn a_leader_that_is_removed_leaves_a_group_that_goes_on() {
    check_clean(1, 30, 3, "remove-leader");
}

#[test]
fn requests_that_come_late_and_twice_harm_nobody() {
    check_clean(1, 12, 3, "delayed-duplicates");
}

#[test]
fn a_lease_read_under_a_paused_leader_is_never_stale() {
    check_clean(1, 12, 3, "pause-leader-lease-read");
}

/// Plays `script`, which breaks what the nodes rely on, until a run finds it out by one of `violations`.
fn check_caught(script: &str, seconds: u64, violations: &[&str]) {
    let caught = |seed| {
        let (text, clean) = simulate(seed, seconds, 3, script);
        !clean && violations.iter().any(|violation| text.contains(violation))
    };
    assert!(
        (1..=12).any(caught),
        "none of the seeds 1..13 of `{script}` finds any of {violations:?}"
    );
}

#[test]
fn clocks_further_apart_than_lease_reads_assume_are_found_out() {
    check_caught("broken-clocks", 30, &["stale read", "linearizability"]);
}

#[test]
fn disks_that_have_not_synced_what_they_say_are_found_out() {
    check_caught("lying-disks", 8, &["lost"]);
}
