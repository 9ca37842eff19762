//! `rivven-node run`.
use super::*;
use std::time::Duration;
pub(super) const RUNTIME_GRACE: Duration = Duration::from_secs(5);
pub(crate) fn run(args: &RunArgs, out: &mut Output) -> Result<(), Failure> {
    let mut c = config::load(args)?;
    let _ = dev::prepare(&mut c);
    log::start(args.log_format)?;
    out.line(c.to_yaml());
    Ok(())
}
