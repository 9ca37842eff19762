//! `rivven-node status`: what a running node says of itself and of its cluster.

use std::{fmt::Display, net::SocketAddr};

use comfy_table::{Table, presets::NOTHING};
use rivven_admin::{MembersBody, StatusBody};

use super::{Failure, Output, block_on};
use crate::client::AdminClient;

/// Asks the node at `admin` and prints its answer.
pub(crate) fn run(admin: SocketAddr, out: &mut Output) -> Result<(), Failure> {
    let (status, members) = block_on(async {
        let mut client = AdminClient::new(admin);
        Ok((client.status().await?, client.members().await?))
    })?;
    out.line(node_table(&status));
    out.line("");
    out.line(member_table(&status, &members));
    Ok(())
}

fn node_table(status: &StatusBody) -> Table {
    let mut table = table();
    let mut row = |name: &str, value: &dyn Display| {
        table.add_row([name, &value.to_string()]);
    };
    row("cluster", &status.cluster_id);
    row("node", &status.node_id);
    row(
        "instance",
        &format_args!("{} (start {})", status.instance_id, status.boot_epoch),
    );
    row("phase", &status.phase);
    row("role", &status.role);
    row("controller", &name_or_none(status.controller));
    row("term", &status.term);
    row(
        "log",
        &format_args!(
            "committed {}, applied {}",
            status.commit_index, status.applied_index
        ),
    );
    if let Some(epoch) = status.gossip_key_epoch {
        row("gossip key", &epoch);
    }
    row("version", &status.version);
    for problem in &status.problems {
        row("problem", &format_args!("[{}] {}", problem.code, problem.message));
    }
    table
}

/// One row per node, in which membership and Raft stand side by side.
pub(crate) fn member_table(status: &StatusBody, members: &MembersBody) -> Table {
    let mut table = table();
    table.set_header(["NODE", "STATE", "RAFT", "GOSSIP ADDRESS", "STARTS"]);
    for member in &members.members {
        let raft = if status.controller == Some(member.node_id) {
            "controller"
        } else if status.voters.contains(&member.node_id) {
            "voter"
        } else if status.learners.contains(&member.node_id) {
            "learner"
        } else {
            "-"
        };
        table.add_row([
            member.node_id.to_string(),
            member.state.clone(),
            raft.to_owned(),
            member.address.clone(),
            member.boot_epoch.to_string(),
        ]);
    }
    table
}

pub(super) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

fn name_or_none(node: Option<rivven_cluster::NodeId>) -> String {
    node.map_or_else(|| "none".to_owned(), |node| node.to_string())
}
