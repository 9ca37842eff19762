//! Registered nodes, settings of the cluster, and elections against the rules.

use hyper::{Response, StatusCode};
use rivven_cluster::{Cluster, NodeStatus, SETTING_KEYS};

use super::refuse;
use crate::{
    api::{
        NodeBody, NodesBody, RingBody, RingShareBody, SettingBody, SettingsBody, UncleanElectionBody,
        UncleanElectionsBody,
    },
    error::{ApiError, Body, plain},
    route::UncleanQuery,
};

pub(super) fn list(cluster: &Cluster) -> NodesBody {
    let map = cluster.partitions().assignments();
    let nodes = map.nodes().map(|node| {
        let (id, said) = (node.id(), &node.registration);
        let endpoints = said.endpoints.iter();
        NodeBody {
            node_id: id,
            status: status(node.status).to_owned(),
            zone: said.zone.clone(),
            weight: node.weight(),
            registered_weight: said.weight,
            endpoints: endpoints
                .map(|(name, addr)| (name.clone(), addr.to_string()))
                .collect(),
            address: said.addrs.quic.to_string(),
            instance_id: said.instance.to_string(),
            boot_epoch: said.boot_epoch.0,
            replicas: map.replicas_of(id),
            leaders: map.leaders_of(id),
        }
    });
    NodesBody {
        generation: map.generation(),
        nodes: nodes.collect(),
    }
}

pub(super) fn ring(cluster: &Cluster) -> Result<RingBody, ApiError> {
    let ring = cluster.ring().map_err(|error| refuse::ring(&error))?.snapshot();
    let shares = ring.shares();
    let nodes = shares.iter().map(|(node, share)| RingShareBody {
        name: node.name().to_string(),
        weight: node.weight().as_percent(),
        share: *share,
    });
    Ok(RingBody {
        spec: ring.spec().number(),
        virtual_nodes: ring.virtual_nodes(),
        fingerprint: format!("{:016x}", ring.fingerprint()),
        nodes: nodes.collect(),
    })
}

pub(super) fn ring_svg(cluster: &Cluster) -> Result<Response<Body>, ApiError> {
    let ring = cluster.ring().map_err(|error| refuse::ring(&error))?;
    Ok(plain(StatusCode::OK, "image/svg+xml", ring.snapshot().svg()))
}

const fn status(status: NodeStatus) -> &'static str {
    match status {
        NodeStatus::Joining => "joining",
        NodeStatus::Active => "active",
        NodeStatus::Draining => "draining",
        NodeStatus::Down => "down",
        NodeStatus::Removed => "removed",
    }
}

pub(super) fn settings(cluster: &Cluster) -> SettingsBody {
    let map = cluster.partitions().assignments();
    let known = SETTING_KEYS.iter().map(|key| {
        let own = map.settings().get(key.name);
        let setting = SettingBody {
            value: own.unwrap_or(key.default).to_owned(),
            is_default: own.is_none(),
            values: Some(key.values.to_owned()),
        };
        (key.name.to_owned(), setting)
    });
    let own = map.settings().iter().map(|(key, value)| {
        let setting = SettingBody {
            value: value.to_owned(),
            is_default: false,
            values: None,
        };
        (key.to_owned(), setting)
    });
    // A known key comes with what it takes.
    let mut settings: std::collections::BTreeMap<_, _> = own.collect();
    settings.extend(known);
    SettingsBody { settings }
}

pub(super) fn unclean_elections(cluster: &Cluster) -> UncleanElectionsBody {
    let map = cluster.partitions().assignments();
    let elections = map
        .unclean_elections()
        .iter()
        .map(|election| UncleanElectionBody {
            topic_id: election.topic.0,
            topic: map.topic_of(election.topic).map(|topic| topic.name.to_string()),
            partition: election.partition,
            node: election.leader.node,
            at_ms: election.at_ms,
            reason: election.reason.clone(),
        });
    UncleanElectionsBody {
        elections: elections.collect(),
    }
}

pub(super) async fn elect_unclean(cluster: &Cluster, query: UncleanQuery) -> Result<u64, ApiError> {
    let partitions = cluster.partitions();
    let elected = partitions.elect_unclean(&query.topic, query.partition, query.node, &query.reason);
    elected.await.map_err(|error| refuse::write(&error))
}
