//! `cargo xtask cross`: no dependency needs a C compiler, on any target that is shipped.

use std::{collections::BTreeSet, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::providers::FEATURES;

/// Every target whose dependencies are checked. Only the host's is built.
const TARGETS: [&str; 8] = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-musl",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
    "aarch64-pc-windows-msvc",
];

/// Packages that compile C, look for compiled C, or wrap it.
const FORBIDDEN: [&str; 9] = [
    "aws-lc-sys",
    "bindgen",
    "cc",
    "cmake",
    "nasm-rs",
    "openssl-sys",
    "pkg-config",
    "ring",
    "vcpkg",
];

/// Packages without which the list that was read cannot be the list of this workspace.
const EXPECTED: [&str; 4] = ["quinn", "redb", "rustls", "tokio"];

/// What a build script would reach a C toolchain by.
const TOOLS: [&str; 6] = ["CC", "CXX", "AR", "CMAKE", "HOST_CC", "TARGET_CC"];

/// Checks the dependencies for every target, then builds for the host without a C toolchain.
pub(crate) fn main(root: &Path) -> Result<()> {
    // A gate that lets everything pass would go unnoticed, so it is first shown what it must refuse.
    // It also shows that a feature of the program reaches rivven-crypto through every crate between.
    for (feature, seen) in FEATURES.into_iter().zip(["ring", "aws-lc-sys"]) {
        let with = dependencies(root, TARGETS[0], &["-p", "rivven-node", "--features", feature])?;
        let needing_c = needing_c(&with);
        ensure!(
            needing_c.contains(&"cc") && needing_c.contains(&seen),
            "the gate does not see that `{feature}` of rivven-node needs a C compiler, only {needing_c:?}; correct \
             xtask/src/cross.rs, or the crate that does not pass the feature on"
        );
    }
    for target in TARGETS {
        let packages = dependencies(root, target, &["--workspace"])?;
        for expected in EXPECTED {
            ensure!(
                packages.contains(expected),
                "{expected} is missing from the dependencies for {target}"
            );
        }
        let found = needing_c(&packages);
        if !found.is_empty() {
            bail!(
                "for {target}, dependencies need a C toolchain: {}; see who wants them with \
                 `cargo tree --workspace -e normal,build --target {target} -i NAME`",
                found.join(", ")
            );
        }
        println!("{target:<28} {} packages, none needs C", packages.len());
    }
    build(root)
}

/// Names of everything that is compiled for, or to build for, `target`. Tests are not shipped.
fn dependencies(root: &Path, target: &str, which: &[&str]) -> Result<BTreeSet<String>> {
    let output = Command::new("cargo")
        .args(["tree", "--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}", "--target", target])
        .args(which)
        .current_dir(root)
        .output()
        .context("cargo tree")?;
    ensure!(
        output.status.success(),
        "cargo tree failed for {target}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(names(&String::from_utf8(output.stdout)?))
}

fn names(tree: &str) -> BTreeSet<String> {
    tree.lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn needing_c(packages: &BTreeSet<String>) -> Vec<&'static str> {
    FORBIDDEN
        .into_iter()
        .filter(|name| packages.contains(*name))
        .collect()
}

/// Builds the program for the host from nothing, running every build script, with every C tool broken.
///
/// rustc still links through the system's linker driver where the target has it so; that is no compiler
/// of a dependency's C code.
fn build(root: &Path) -> Result<()> {
    let target = tempfile::tempdir()?;
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--package", "rivven-node"])
        .arg("--target-dir")
        .arg(target.path())
        .envs(TOOLS.map(|tool| (tool, "false")))
        // Nobody debugs what is thrown away at once.
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .env("CARGO_INCREMENTAL", "0")
        .current_dir(root)
        .status()?;
    ensure!(
        status.success(),
        "rivven-node does not build without a C toolchain; the first failing build script says why"
    );
    println!("rivven-node builds with {} broken", TOOLS.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_that_needs_c_is_named_at_any_depth() {
        let tree = "rivven-node v0.1.0 (/somewhere)\nccc v1.0.0\nquinn v0.11.12\ncc v1.2.0 (*)\n\n";
        assert_eq!(needing_c(&names(tree)), ["cc"]);
        assert!(needing_c(&names("ccc v1.0.0\nshlex v1.3.0\n")).is_empty());
    }
}
