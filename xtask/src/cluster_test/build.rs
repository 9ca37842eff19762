//! The program under test.

use std::{path::PathBuf, process::Command};

use anyhow::Context as _;
use cargo_metadata::MetadataCommand;

/// Builds `rivven-node` as users get it, and says where it is.
pub(super) fn release_binary() -> anyhow::Result<PathBuf> {
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .context("cannot ask cargo where it builds")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "rivven-node"])
        .current_dir(&metadata.workspace_root)
        .status()
        .context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "rivven-node does not build");
    let name = format!("rivven-node{}", std::env::consts::EXE_SUFFIX);
    Ok(metadata
        .target_directory
        .join("release")
        .join(name)
        .into_std_path_buf())
}
