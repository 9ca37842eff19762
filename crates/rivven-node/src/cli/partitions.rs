//! `rivven-node topic`, `rebalance` and `node`: what partitions there are, where they are and shall be.

use std::path::Path;

use comfy_table::{Table, presets::NOTHING};
use rivven_admin::{AdminToken, ChangeTopicBody, CreateTopicBody, PlanBody};

use super::{
    AskArgs, ChangeArgs, Failure, GoalArgs, NodeCommand, Output, RebalanceCommand, TopicCommand, block_on,
};
use crate::client::AdminClient;

pub(crate) fn topic(command: TopicCommand, out: &mut Output) -> Result<(), Failure> {
    match command {
        TopicCommand::List { name: None, ask } => {
            let topics = block_on(async { Ok(asking(&ask).topics().await?) })?.topics;
            let mut table = table(["TOPIC", "PARTITIONS", "REPLICAS"]);
            for topic in topics {
                let (partitions, factor) = (topic.partitions, topic.replication_factor);
                table.add_row([topic.name, partitions.to_string(), factor.to_string()]);
            }
            out.line(table);
        }
        TopicCommand::List {
            name: Some(name),
            ask,
        } => {
            let shown = block_on(async { Ok(asking(&ask).topic(&name).await?) })?;
            let mut table = table(["PARTITION", "LEADER", "EPOCH", "REPLICAS", "IN SYNC"]);
            for partition in shown.partitions {
                let leader = partition
                    .leader
                    .map_or("none".into(), |leader| leader.to_string());
                table.add_row([
                    partition.partition.to_string(),
                    leader,
                    partition.leader_epoch.to_string(),
                    list(&partition.replicas),
                    list(&partition.isr),
                ]);
            }
            out.line(table);
        }
        TopicCommand::Create {
            name,
            partitions,
            replication_factor,
            change,
        } => {
            let body = CreateTopicBody {
                name,
                partitions,
                replication_factor,
            };
            let made = with(&change, async |client| client.create_topic(&body).await)?;
            out.line(format_args!("created {} as number {}", body.name, made.id));
        }
        TopicCommand::Change {
            name,
            partitions,
            replication_factor,
            settings,
            change,
        } => {
            let body = ChangeTopicBody {
                partitions,
                replication_factor,
                settings: settings.into_iter().collect(),
            };
            with(&change, async |client| client.change_topic(&name, &body).await)?;
            out.line(format_args!("changed {name}"));
        }
        TopicCommand::Delete { name, change } => {
            with(&change, async |client| client.delete_topic(&name).await)?;
            out.line(format_args!("deleted {name}"));
        }
    }
    Ok(())
}

pub(crate) fn rebalance(command: RebalanceCommand, out: &mut Output) -> Result<(), Failure> {
    match command {
        RebalanceCommand::Plan { goal, ask } => {
            let query = query(&goal);
            let plan = block_on(async { Ok(asking(&ask).plan(&query).await?) })?;
            out.line(plan_table(&plan));
        }
        RebalanceCommand::Start { goal, change } => {
            let query = query(&goal);
            let plan = with(&change, async |client| client.start_rebalance(&query).await)?;
            out.line(plan_table(&plan));
            match plan.id {
                Some(id) => out.line(format_args!("begun as rebalance {id}")),
                None => out.line("nothing is to be moved"),
            }
        }
        RebalanceCommand::Status { ask } => {
            let running = block_on(async { Ok(asking(&ask).rebalance().await?) })?.rebalance;
            let Some(running) = running else {
                out.line("no rebalance is under way");
                return Ok(());
            };
            let mut table = table([
                "REBALANCE",
                "STATUS",
                "MOVES",
                "QUEUED",
                "ACTIVE",
                "DONE",
                "DROPPED",
            ]);
            let counts = [
                running.moves,
                running.queued,
                running.active,
                running.done,
                running.dropped,
            ];
            let row = [running.id.to_string(), running.status];
            table.add_row(row.into_iter().chain(counts.map(|count| count.to_string())));
            out.line(table);
        }
        RebalanceCommand::Pause { id, change } => control(id, "pause", &change, out)?,
        RebalanceCommand::Resume { id, change } => control(id, "resume", &change, out)?,
        RebalanceCommand::Cancel { id, change } => control(id, "cancel", &change, out)?,
    }
    Ok(())
}

fn control(id: u64, action: &str, change: &ChangeArgs, out: &mut Output) -> Result<(), Failure> {
    with(change, async |client| client.control_rebalance(id, action).await)?;
    out.line(format_args!("rebalance {id}: {action} is durable"));
    Ok(())
}

pub(crate) fn node(command: NodeCommand, out: &mut Output) -> Result<(), Failure> {
    match command {
        NodeCommand::List { ask } => {
            let nodes = block_on(async { Ok(asking(&ask).nodes().await?) })?.nodes;
            let mut table = table([
                "NODE",
                "STATUS",
                "ZONE",
                "WEIGHT",
                "REPLICAS",
                "LEADERS",
                "ENDPOINTS",
            ]);
            for node in nodes {
                let endpoints = node.endpoints.iter().map(|(name, addr)| format!("{name}={addr}"));
                table.add_row([
                    node.node_id.to_string(),
                    node.status,
                    node.zone.unwrap_or_else(|| "-".into()),
                    node.weight.to_string(),
                    node.replicas.to_string(),
                    node.leaders.to_string(),
                    endpoints.collect::<Vec<_>>().join(" "),
                ]);
            }
            out.line(table);
        }
        NodeCommand::Weight {
            node,
            percent,
            change,
        } => {
            with(&change, async |client| client.set_weight(node, percent).await)?;
            match percent {
                Some(percent) => out.line(format_args!("node {node} has the weight {percent}")),
                None => out.line(format_args!("node {node} has the weight of its configuration")),
            }
        }
    }
    Ok(())
}

pub(crate) fn ring(svg: Option<&Path>, ask: &AskArgs, out: &mut Output) -> Result<(), Failure> {
    let (ring, picture) = block_on(async {
        let mut client = asking(ask);
        Ok((client.ring().await?, client.ring_svg().await?))
    })?;
    if let Some(file) = svg {
        std::fs::write(file, picture)?;
        out.line(format_args!("drawn to {}", file.display()));
    }
    let mut table = table(["NODE", "WEIGHT", "SHARE"]);
    for node in ring.nodes {
        let share = format!("{:.2} %", 100.0 * node.share);
        table.add_row([node.name, node.weight.to_string(), share]);
    }
    out.line(table);
    out.line(format_args!(
        "{} virtual nodes, hash specification {}, fingerprint {}",
        ring.virtual_nodes, ring.spec, ring.fingerprint
    ));
    Ok(())
}

fn asking(ask: &AskArgs) -> AdminClient {
    AdminClient::new(ask.admin)
}

/// Asks with the token of the node.
fn with<T>(
    change: &ChangeArgs,
    ask: impl AsyncFnOnce(&mut AdminClient) -> Result<T, crate::client::ClientError>,
) -> Result<T, Failure> {
    let token = AdminToken::load(&change.admin_token).map_err(|error| {
        let path = change.admin_token.display();
        let message = format!("cannot use {path}: {error}; name the asked node's admin.token, as its owner");
        Failure::usage("admin-token-unusable", message)
    })?;
    block_on(async {
        let mut client = AdminClient::new(change.admin).with_token(token.reveal());
        Ok(ask(&mut client).await?)
    })
}

/// The goal as a query of the admin API. Topic names need no escaping.
fn query(goal: &GoalArgs) -> String {
    let mut query = Vec::new();
    if !goal.exclude.is_empty() {
        query.push(format!("exclude={}", list(&goal.exclude)));
    }
    if goal.replace_down {
        query.push("replace_down=true".into());
    }
    if !goal.pin.is_empty() {
        query.push(format!("pin={}", goal.pin.join(",")));
    }
    query.join("&")
}

/// `KEY=VALUE`, or `KEY=` to unset.
pub(super) fn setting(text: &str) -> Result<(String, Option<String>), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is no setting; write KEY=VALUE, or KEY= to unset it"))?;
    let value = Some(value.to_owned()).filter(|value| !value.is_empty());
    Ok((key.to_owned(), value))
}

fn plan_table(plan: &PlanBody) -> Table {
    let mut table = table([
        "PARTITIONS",
        "COPIES",
        "AT LEAST",
        "LEADERS MOVED",
        "STUCK",
        "REPLICAS MAX/MEAN",
        "LEADERS MAX/MEAN",
    ]);
    let spread = |(before, after): (f64, f64)| format!("{before:.3} -> {after:.3}");
    table.add_row([
        plan.partitions.to_string(),
        plan.replica_moves.to_string(),
        plan.lower_bound.to_string(),
        plan.leader_moves.to_string(),
        plan.stuck.to_string(),
        spread(plan.replicas_max_over_mean),
        spread(plan.leaders_max_over_mean),
    ]);
    table
}

fn list(nodes: &[rivven_cluster::NodeId]) -> String {
    nodes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_a_key_and_a_value_or_none() {
        let pair = |key: &str, value: Option<&str>| Ok((key.to_owned(), value.map(str::to_owned)));
        assert_eq!(setting("zones=hard"), pair("zones", Some("hard")));
        assert_eq!(setting("x-a=b=c"), pair("x-a", Some("b=c")));
        assert_eq!(setting("zones="), pair("zones", None));
        assert!(setting("zones").is_err());
    }

    #[test]
    fn a_goal_is_a_query() {
        let goal = GoalArgs {
            exclude: vec![3, 4],
            replace_down: true,
            pin: vec!["orders".into(), "payments/3".into()],
        };
        assert_eq!(
            query(&goal),
            "exclude=3,4&replace_down=true&pin=orders,payments/3"
        );
    }
}
