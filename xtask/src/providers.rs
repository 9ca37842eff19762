//! `cargo xtask providers`: the cryptography that needs a C compiler, against the one that does not.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

/// Features of rivven-crypto that add a provider, and with it a need for a C compiler.
pub(crate) const FEATURES: [&str; 2] = ["crypto-ring", "crypto-aws-lc-rs"];

/// How to test them.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Fail where there is no C compiler, so that a run that tested nothing does not pass for one that did.
    #[arg(long)]
    require: bool,
}

/// Tests every provider against every other. Without a C compiler there is nothing to build them with, which
/// is said and is no failure unless it is [required](Args::require): the default needs none, and
/// `cargo test --workspace` has tested it.
pub(crate) fn main(root: &Path, args: Args) -> Result<()> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    if !runs(&compiler) {
        ensure!(
            !args.require,
            "no C compiler (`{compiler}`) here to build {} with; install one, or set CC to one",
            FEATURES.join(" and ")
        );
        println!(
            "skipped: no C compiler (`{compiler}`) here, which {} need; set CC to one to test them",
            FEATURES.join(" and ")
        );
        return Ok(());
    }
    // The transport passes the features on; its one test about them takes a provider from a file to a call.
    for (package, which) in [
        ("rivven-crypto", ""),
        ("rivven-transport", "quic::tests::providers"),
    ] {
        let status = Command::new("cargo")
            .args(["test", "--package", package, "--features", &FEATURES.join(",")])
            .args(["--lib", "--tests", which])
            .current_dir(root)
            .status()?;
        ensure!(status.success(), "a provider of {package} fails its tests");
    }
    Ok(())
}

fn runs(compiler: &str) -> bool {
    Command::new(compiler)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_compiler_that_is_missing_or_fails_is_none() {
        assert!(!super::runs("rivven-no-such-compiler"));
        assert!(!super::runs("false"));
        assert!(super::runs("cargo"));
    }
}
