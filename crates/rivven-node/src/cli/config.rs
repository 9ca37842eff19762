//! Where a node's configuration comes from, and `rivven-node config`.

use std::path::Path;

use rivven_cluster::ClusterConfig;

use super::{Failure, Output, RunArgs};

/// The configuration of `rivven-node run`: flags over environment over file over defaults.
pub(crate) fn load(args: &RunArgs) -> Result<ClusterConfig, Failure> {
    let mut config = match &args.config {
        Some(file) => ClusterConfig::from_yaml_file(file)?,
        None => super::dev::config(),
    };
    config.apply_env(environment())?;
    let flags = [
        ("cluster.data_dir", "--data-dir", &args.data_dir),
        ("cluster.tls_dir", "--tls-dir", &args.tls_dir),
    ];
    for (path, flag, value) in flags {
        if let Some(value) = value {
            let text = value.to_str().ok_or_else(|| {
                let message = format!("{flag} is not UTF-8; choose a path that is");
                Failure::usage("path-not-utf8", message)
            })?;
            config.set(path, text, flag)?;
        }
    }
    config.validate()?;
    Ok(config)
}

/// Checks `file` as `run` would read it.
pub(crate) fn check(file: &Path, out: &mut Output) -> Result<(), Failure> {
    let mut config = ClusterConfig::from_yaml_file(file)?;
    config.apply_env(environment())?;
    config.validate()?;
    out.line(format_args!("{} is valid; it comes to:", file.display()));
    out.line(config.effective().to_yaml().trim_end());
    Ok(())
}

/// The environment, as far as it is text: a setting is never anything else.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
