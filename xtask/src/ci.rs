//! `cargo xtask ci`: everything that a submission is checked for, read-only, in one place.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// One check: a name and the command that makes it.
struct Step {
    name: &'static str,
    command: &'static [&'static str],
    /// Environment beside the caller's.
    env: &'static [(&'static str, &'static str)],
}

const fn cargo(name: &'static str, command: &'static [&'static str]) -> Step {
    Step {
        name,
        command,
        env: &[],
    }
}

/// Cheap checks first. The test step is the README's test command, word for word.
const STEPS: [Step; 22] = [
    cargo("format", &["fmt", "--all", "--check"]),
    cargo("tidy", &["xtask", "tidy"]),
    cargo("test", &["test", "--workspace"]),
    Step {
        name: "power cuts",
        command: &["test", "-p", "rivven-raft-store", "--test", "store", "crash"],
        env: &[("RIVVEN_TEST_CUTS", "10000")],
    },
    // With the features of the whole workspace, so that nothing is built again.
    cargo(
        "a state of 1 GiB",
        &[
            "test",
            "--workspace",
            "--test",
            "backup_memory",
            "--",
            "--ignored",
        ],
    ),
    cargo(
        "clippy",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ],
    ),
    Step {
        name: "docs",
        command: &["doc", "--workspace", "--no-deps"],
        env: &[("RUSTDOCFLAGS", "--deny warnings")],
    },
    cargo(
        "no_std: swim",
        &["check", "-p", "rivven-swim", "--no-default-features"],
    ),
    cargo(
        "no_std: hashring",
        &["check", "-p", "rivven-hashring", "--no-default-features"],
    ),
    cargo("fuzz", &["xtask", "fuzz", "--seconds", "2"]),
    cargo("cross", &["xtask", "cross"]),
    cargo("providers", &["xtask", "providers", "--require"]),
    cargo("demo", &["run", "--release", "-p", "rivven-node", "--", "demo"]),
    cargo("cluster-test", &["xtask", "cluster-test"]),
    cargo("simulation", &["xtask", "sim", "--seeds", "0..300"]),
    cargo(
        "simulation: scripts",
        &["xtask", "sim", "--seeds", "0..4", "--scenario", "all"],
    ),
    cargo("bench: rpc", &["xtask", "bench", "rpc", "--quick"]),
    cargo("bench: raft", &["xtask", "bench", "raft", "--quick"]),
    cargo("bench: ring", &["xtask", "bench", "ring", "--quick"]),
    cargo("bench: plan", &["xtask", "bench", "plan", "--quick"]),
    cargo("bench: store", &["xtask", "bench", "store", "--quick"]),
    cargo("bench: swim", &["xtask", "bench", "swim", "--quick"]),
];

/// What `cargo xtask fix` rewrites.
const REWRITES: [Step; 2] = [
    cargo(
        "clippy",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--fix",
            "--allow-dirty",
            "--allow-staged",
        ],
    ),
    cargo("format", &["fmt", "--all"]),
];

/// Runs every check in the workspace at `root`; the first failure ends the run.
pub(crate) fn check(root: &Path) -> Result<()> {
    run(root, &STEPS)
}

/// Runs every automatic rewrite.
pub(crate) fn fix(root: &Path) -> Result<()> {
    run(root, &REWRITES)
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a build takes is wall-clock time"
)]
fn run(root: &Path, steps: &[Step]) -> Result<()> {
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for step in steps {
        println!("==> {}: cargo {}", step.name, step.command.join(" "));
        let start = Instant::now();
        let status = Command::new("cargo")
            .args(step.command)
            .envs(step.env.iter().copied())
            .current_dir(root)
            .status()?;
        times.push((step.name, start.elapsed()));
        if !status.success() {
            bail!(
                "{} failed; run `cargo {}` to see it alone",
                step.name,
                step.command.join(" ")
            );
        }
    }
    println!("==> all checks passed");
    for (name, time) in times {
        println!("    {name:<18}{:>7.1} s", time.as_secs_f64());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_readme_is_a_step() {
        let readme = include_str!("../../README.md");
        let blocks = readme
            .split("```sh\n")
            .skip(1)
            .filter_map(|rest| rest.split_once("```"));
        let commands: Vec<_> = blocks.flat_map(|(block, _)| block.lines()).collect();
        assert!(!commands.is_empty());
        for command in commands {
            let known = STEPS
                .iter()
                .any(|step| format!("cargo {}", step.command.join(" ")) == command);
            assert!(
                known,
                "`{command}` is shown to users and not run by `cargo xtask ci`"
            );
        }
    }
}
