//! What a node knows, as the API shows it.

use rivven_cluster::{Cluster, ClusterStatus, PartitionMap, TopicRef};

use crate::api::{
    AssignmentsBody, MemberBody, MembersBody, PartitionBody, ProblemBody, StatusBody, TopicBody, TopicsBody,
};

pub(super) fn status(status: ClusterStatus) -> StatusBody {
    let problems = status.problems.into_iter().map(|problem| ProblemBody {
        code: problem.code.to_owned(),
        message: problem.message,
    });
    StatusBody {
        cluster_id: status.cluster_id,
        node_id: status.node_id,
        instance_id: status.instance_id,
        boot_epoch: status.boot_epoch,
        phase: status.phase.as_str().to_owned(),
        problems: problems.collect(),
        role: status.role.as_str().to_owned(),
        controller: status.controller,
        term: status.term,
        commit_index: status.commit_index,
        applied_index: status.applied_index,
        voters: status.voters,
        learners: status.learners,
        gossip_key_epoch: status.gossip_key_epoch,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

pub(super) fn members(cluster: &Cluster) -> MembersBody {
    let members = cluster.members().list().into_iter().map(|member| MemberBody {
        node_id: member.node_id,
        state: member.state.to_owned(),
        address: member.address,
        instance_id: member.instance_id,
        boot_epoch: member.boot_epoch,
        incarnation: member.incarnation,
    });
    MembersBody {
        members: members.collect(),
    }
}

pub(super) fn topics(cluster: &Cluster) -> TopicsBody {
    let map = cluster.partitions().assignments();
    let mut topics: Vec<_> = map.topics().collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let topics = topics.into_iter().map(|topic| TopicBody {
        name: topic.name.to_string(),
        partitions: topic.partition_count(),
        replication_factor: topic.replication_factor,
    });
    TopicsBody {
        topics: topics.collect(),
    }
}

pub(super) fn assignments(cluster: &Cluster) -> AssignmentsBody {
    let map = cluster.partitions().assignments();
    assignments_of(&map, map.topics())
}

/// The assignments of one topic; `None` when this node has not heard of it.
pub(super) fn topic(cluster: &Cluster, name: &str) -> Option<AssignmentsBody> {
    let map = cluster.partitions().assignments();
    let topic = map.topic(name)?;
    Some(assignments_of(&map, [topic]))
}

fn assignments_of<'a>(map: &PartitionMap, topics: impl IntoIterator<Item = TopicRef<'a>>) -> AssignmentsBody {
    let partitions = topics.into_iter().flat_map(|topic| {
        (0..)
            .zip(topic.partitions())
            .map(move |(number, partition)| PartitionBody {
                topic: topic.name.to_string(),
                partition: number,
                replicas: partition.replicas().collect(),
                isr: partition.in_sync().collect(),
                leader: partition.leader(),
                leader_epoch: partition.leader_epoch().0,
                partition_epoch: partition.partition_epoch().0,
            })
    });
    AssignmentsBody {
        generation: map.generation(),
        partitions: partitions.collect(),
    }
}
