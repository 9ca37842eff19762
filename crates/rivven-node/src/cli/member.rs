//! `rivven-node member`: who belongs to the cluster and who votes, shown, planned and changed.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use rivven_admin::{
    AdminToken, MemberChangedBody, MemberPlanBody, MemberWaitBody, MembershipBody, MembershipMemberBody,
    QuorumBody,
};
use rivven_cluster::NodeId;

use super::{Failure, Output, block_on, join, status};
use crate::client::{AdminClient, MemberAction, MemberAsk};

/// Time beyond the wait that the answer itself may take.
const ANSWER_TIME: Duration = Duration::from_secs(15);

#[derive(Debug, Subcommand)]
pub(super) enum MemberCommand {
    /// Show who belongs to the cluster and who votes, as the Raft leader sees it.
    List {
        /// Admin address of the node to ask.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9640")]
        admin: SocketAddr,
    },
    /// Let a node id in that was removed, or give a new node another role than its configuration says.
    ///
    /// A node whose id was never seen joins without this: start it with a certificate, an empty data directory,
    /// and the addresses of members as raft.peers.
    Add {
        /// What the node may become.
        #[arg(long, value_enum)]
        role: Option<RoleArg>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Have a node leave for good. A leader hands over first; the id stays shut out until it is added again.
    Remove {
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Give up the lost data directory of a node, so that it may come back with an empty one.
    Replace {
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Have a node vote, once it has caught up, even beyond raft.voter_target.
    Promote {
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Have a node observe: it receives the log and never votes.
    Demote {
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// What a node may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RoleArg {
    /// Votes if a place is free, and stands by otherwise.
    Auto,
    /// Votes, even beyond the target.
    Voter,
    /// Never votes.
    Observer,
}

#[derive(Clone, Debug, Args)]
pub(super) struct ChangeArgs {
    /// Id of the node.
    #[arg(value_name = "ID")]
    node: NodeId,
    /// Show every step, with what the voters survive before and after, and change nothing.
    #[arg(long)]
    plan: bool,
    /// Go on where no further failure would be survived, a lost disk answers, or data is given up; for this
    /// reason, which is logged and shown among the events.
    #[arg(long, value_name = "REASON")]
    force: Option<String>,
    /// How long to wait for the end of the change, up to 1m. It goes on without this command.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = join::life)]
    wait: Duration,
    /// Admin address of the node to ask; any node will do.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9640")]
    admin: SocketAddr,
    /// The asked node's admin.token, in its data directory. A plan needs none.
    #[arg(long, value_name = "FILE", required_unless_present = "plan")]
    admin_token: Option<PathBuf>,
}

pub(super) fn run(command: MemberCommand, out: &mut Output) -> Result<(), Failure> {
    let (action, change) = match command {
        MemberCommand::List { admin } => return list(admin, out),
        MemberCommand::Add { role, change } => {
            let role = role.map(|role| match role {
                RoleArg::Auto => "auto",
                RoleArg::Voter => "voter",
                RoleArg::Observer => "observer",
            });
            (MemberAction::Add { role }, change)
        }
        MemberCommand::Remove { change } => (MemberAction::Remove, change),
        MemberCommand::Replace { change } => (MemberAction::Replace, change),
        MemberCommand::Promote { change } => (MemberAction::Promote, change),
        MemberCommand::Demote { change } => (MemberAction::Demote, change),
    };
    let mut client = AdminClient::new(change.admin).with_timeout(change.wait + ANSWER_TIME);
    if let Some(path) = &change.admin_token {
        let token = AdminToken::load(path).map_err(|error| {
            let path = path.display();
            let message =
                format!("cannot use {path}: {error}; name the asked node's admin.token, as its owner");
            Failure::usage("admin-token-unusable", message)
        })?;
        client = client.with_token(token.reveal());
    }
    let ask = MemberAsk {
        node: change.node,
        action,
        force: change.force,
        wait: change.wait,
    };
    if change.plan {
        let plan = block_on(async { Ok(client.plan_member(&ask).await?) })?;
        show_plan(&plan, out);
        out.line("nothing was changed; leave out --plan to do it");
        return Ok(());
    }
    let changed = block_on(async { Ok(client.change_member(&ask).await?) })?;
    show_plan(&changed.plan, out);
    show_end(&changed, out);
    Ok(())
}

fn list(admin: SocketAddr, out: &mut Output) -> Result<(), Failure> {
    let view = block_on(async { Ok(AdminClient::new(admin).membership().await?) })?;
    out.line(member_table(&view));
    out.line("");
    out.line(quorum_line("quorum", &view.quorum));
    if !view.removed.is_empty() {
        out.line(format_args!("removed  {}", numbers(&view.removed)));
    }
    match &view.next {
        Some(next) => out.line(format_args!("next     {}", next.text)),
        None => out.line("next     nothing is left to do"),
    }
    show_waits(&view.waits, out);
    Ok(())
}

fn member_table(view: &MembershipBody) -> Table {
    let mut table = status::table();
    table.set_header(["NODE", "STANDING", "ROLE", "ZONE", "ANSWERS", "LACKS", "ADDRESS"]);
    for member in &view.members {
        table.add_row([
            member.node_id.to_string(),
            standing(member),
            member.role.clone(),
            member.zone.clone().unwrap_or_else(dash),
            answers(member),
            member.lag.map_or_else(dash, |lag| lag.to_string()),
            member.address.clone().unwrap_or_else(dash),
        ]);
    }
    table
}

fn standing(member: &MembershipMemberBody) -> String {
    if member.leaving {
        format!("{}, leaving", member.standing)
    } else {
        member.standing.clone()
    }
}

fn answers(member: &MembershipMemberBody) -> String {
    match (member.standing.as_str(), member.lives) {
        ("awaited", _) => dash(),
        (_, true) => "yes".to_owned(),
        (_, false) => format!("not for {:?}", Duration::from_secs(member.silent_ms / 1_000)),
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn show_plan(plan: &MemberPlanBody, out: &mut Output) {
    for (at, step) in (1_u32..).zip(&plan.steps) {
        out.line(format_args!("{at:>3}. {}", step.text));
    }
    if plan.steps.is_empty() {
        out.line("no step is left to do");
    }
    if plan.voters_before != plan.voters_after {
        let (before, after) = (numbers(&plan.voters_before), numbers(&plan.voters_after));
        out.line(format_args!("voters   {before}  ->  {after}"));
    }
    out.line(quorum_line("before", &plan.before));
    out.line(quorum_line("after", &plan.after));
}

fn show_end(changed: &MemberChangedBody, out: &mut Output) {
    if changed.finished {
        out.line("done");
    } else {
        out.line("accepted; it goes on by itself: `rivven-node member list` shows how far it is");
    }
    show_waits(&changed.waits, out);
}

fn show_waits(waits: &[MemberWaitBody], out: &mut Output) {
    for wait in waits {
        out.line(format_args!("waits    {}", wait.text));
    }
}

fn quorum_line(name: &str, quorum: &QuorumBody) -> impl fmt::Display {
    let QuorumBody {
        voters,
        live,
        needed,
        spare,
    } = quorum;
    let survives = match spare {
        None => "too few to agree on anything".to_owned(),
        Some(0) => "no further failure is survived".to_owned(),
        Some(1) => "1 further failure is survived".to_owned(),
        Some(spare) => format!("{spare} further failures are survived"),
    };
    format!("{name:<8} {live} of {voters} voters live, {needed} must agree: {survives}")
}

fn numbers(nodes: &[NodeId]) -> String {
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    nodes.join(", ")
}
