//! Log lines on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

use super::{Failure, LogFormat};

/// Environment variable that chooses which lines are written.
const FILTER_VARIABLE: &str = "RIVVEN_LOG";
/// What is written when nobody chooses. The consensus library says at `info` what only its authors need.
const DEFAULT_FILTER: &str = "info,openraft=warn";

/// Starts writing log lines. Only the binary does this: libraries leave it to their user.
pub(crate) fn start(format: LogFormat) -> Result<(), Failure> {
    let text = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| DEFAULT_FILTER.into());
    let filter = EnvFilter::try_new(&text).map_err(|error| {
        let message = format!(
            "{FILTER_VARIABLE}={text:?} is not a log filter ({error}); write something like \
             `info` or `info,rivven_raft=debug`"
        );
        Failure::usage("bad-log-filter", message)
    })?;
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| Failure::world("log-not-started", error))
}
