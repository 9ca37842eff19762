//! Topics changed and partitions moved over HTTP.

use hyper::{Response, StatusCode};
use rivven_cluster::{Cluster, Goal, Plan, Rebalance, TopicChange};

use super::refuse;
use crate::{
    api::{ChangeTopicBody, PlanBody, RebalanceBody, RebalanceStateBody},
    error::{ApiError, Body, json},
    route::PlanQuery,
};

pub(super) async fn change_topic(
    cluster: &Cluster,
    name: &str,
    body: ChangeTopicBody,
) -> Result<u64, ApiError> {
    let change = TopicChange {
        partitions: body.partitions,
        replication_factor: body.replication_factor,
        settings: body.settings,
    };
    let changed = cluster.partitions().change_topic(name, change).await;
    changed.map_err(|error| refuse::write(&error))
}

pub(super) fn state(cluster: &Cluster) -> Response<Body> {
    let rebalance = cluster.partitions().rebalance().map(|running| state_of(&running));
    json(StatusCode::OK, &RebalanceBody { rebalance })
}

fn state_of(running: &Rebalance) -> RebalanceStateBody {
    RebalanceStateBody {
        id: running.id,
        status: running.status.as_str().to_owned(),
        moves: running.moves,
        queued: running.queued,
        active: running.active,
        done: running.done,
        dropped: running.dropped(),
    }
}

pub(super) async fn plan(cluster: &Cluster, query: PlanQuery) -> Result<Response<Body>, ApiError> {
    let made = make(cluster, query).await?;
    Ok(json(StatusCode::OK, &describe(&made, None)))
}

pub(super) async fn start(cluster: &Cluster, query: PlanQuery) -> Result<Response<Body>, ApiError> {
    let made = make(cluster, query).await?;
    let begun = cluster.partitions().start_rebalance(&made).await;
    let id = begun.map_err(|error| refuse::write(&error))?;
    Ok(json(StatusCode::OK, &describe(&made, id)))
}

async fn make(cluster: &Cluster, query: PlanQuery) -> Result<Plan, ApiError> {
    let mut goal = Goal {
        exclude: query.exclude.into_iter().collect(),
        replace_down: query.replace_down,
        zones: query.zones,
        ..Goal::default()
    };
    let map = cluster.partitions().assignments();
    for (name, partition) in query.pins {
        let topic = map.topic(&name).ok_or_else(|| refuse::unknown_topic(&name))?;
        match partition {
            None => drop(goal.pinned_topics.insert(topic.id)),
            Some(partition) if partition < topic.partition_count() => {
                goal.pins.insert((topic.id, partition));
            }
            Some(partition) => return Err(refuse::unknown_partition(&name, partition)),
        }
    }
    let made = cluster.partitions().plan(&goal).await;
    made.map_err(|error| refuse::write(&error))
}

fn describe(made: &Plan, id: Option<u64>) -> PlanBody {
    let summary = made.summary();
    PlanBody {
        id,
        against: made.against(),
        partitions: summary.partitions,
        replica_moves: summary.replica_moves,
        lower_bound: summary.lower_bound,
        ratio: summary.ratio(),
        leader_moves: summary.leader_moves,
        stuck: summary.stuck,
        replicas_max_over_mean: (summary.replicas.before, summary.replicas.after),
        leaders_max_over_mean: (summary.leaders.before, summary.leaders.after),
    }
}
