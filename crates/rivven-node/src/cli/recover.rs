//! `rivven-node recover`: a cluster whose quorum is lost for good goes on with one survivor.

use std::path::PathBuf;

use clap::Args;
use rivven_cluster::offline::{self, RecoveryPlan};

use super::{Failure, LogFormat, Output, RunArgs, block_on, config, log, snapshot::place};

/// Give up a lost quorum: make the log of one survivor the truth. The node must not run.
///
/// Only for when a majority of the voters is lost FOR GOOD. What the others acknowledged without this node is
/// lost. While enough of them can still be started, start them instead.
#[derive(Clone, Debug, Args)]
pub(super) struct RecoverArgs {
    /// Data directory of the survivor.
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    data_dir: Option<PathBuf>,
    /// Configuration file (YAML) of the survivor, for its data directory.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show what this survivor has, who is lost, and what may be lost, and change nothing.
    #[arg(long, required_unless_present = "yes_data_may_be_lost")]
    plan: bool,
    /// Do it.
    #[arg(long, conflicts_with = "plan")]
    yes_data_may_be_lost: bool,
}

pub(super) fn run(args: RecoverArgs, out: &mut Output) -> Result<(), Failure> {
    log::start(LogFormat::Text)?;
    let data_dir = match args.data_dir {
        Some(data_dir) => data_dir,
        None => {
            let named = RunArgs {
                config: args.config,
                ..RunArgs::default()
            };
            config::load(&named)?.effective().data_dir.unwrap_or_default()
        }
    };
    let plan = offline::plan_recovery(&data_dir)?;
    show(&plan, out);
    if args.plan {
        out.line("nothing was changed; with --yes-data-may-be-lost it is done");
        return Ok(());
    }
    let recovered = block_on(async { Ok(offline::recover(&data_dir).await?) })?;
    out.line(format_args!(
        "done: node {} is the only voter, under founding {}; start it, then let others join it",
        plan.node, recovered.founding
    ));
    Ok(())
}

fn show(plan: &RecoveryPlan, out: &mut Output) {
    let RecoveryPlan { node, cluster, .. } = plan;
    out.line(format_args!("survivor  node {node} of cluster {cluster}"));
    out.line(format_args!("log       ends with {}", plan.last));
    match plan.committed {
        Some(committed) => out.line(format_args!("committed {committed}, for certain")),
        None => out.line("committed nothing for certain"),
    }
    for member in &plan.members {
        out.line(format_args!("member    {}", place(member)));
    }
    out.line(format_args!(
        "it goes on alone, as the only voter, with all {} entries:",
        plan.last.index
    ));
    if plan.uncertain() > 0 {
        out.line(format_args!(
            "  - kept though not known to be committed: {} entries; writes that failed or timed out may appear",
            plan.uncertain()
        ));
    }
    out.line("  - lost: whatever the others acknowledged that is not in this log");
    for lost in plan.lost() {
        out.line(format_args!(
            "  - given up: node {}, whose data directory is shut out for good",
            lost.node
        ));
    }
    out.line(
        "if several survive: plan on each, and recover only the one whose log ends with the highest term and, within \
         it, the highest entry; move the data directories of the others away, and start them with empty ones",
    );
}
