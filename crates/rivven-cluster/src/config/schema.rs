//! Every key of the configuration, once: reading, writing and suggestions all walk this list.

use super::{ClusterConfig, ConfigError, value::Value};

/// Something that walks the keys in order.
pub(super) trait Visit {
    /// One setting.
    fn field<T: Value>(&mut self, key: &'static str, value: &mut T) -> Result<(), ConfigError>;

    /// A mapping of settings, which `fields` walks.
    fn section(
        &mut self,
        key: &'static str,
        fields: impl FnOnce(&mut Self) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError>;
}

/// Walks `config` from the root of the file.
pub(super) fn root<V: Visit>(visit: &mut V, config: &mut ClusterConfig) -> Result<(), ConfigError> {
    visit.section("cluster", |visit| cluster(visit, config))
}

fn cluster<V: Visit>(visit: &mut V, config: &mut ClusterConfig) -> Result<(), ConfigError> {
    visit.field("node_id", &mut config.node_id)?;
    visit.field("bind_address", &mut config.bind_address)?;
    visit.field("advertise_address", &mut config.advertise_address)?;
    visit.field("data_dir", &mut config.data_dir)?;
    visit.field("tls_dir", &mut config.tls_dir)?;
    visit.field("tls_provider", &mut config.tls_provider)?;
    let tls = &mut config.tls;
    visit.section("tls", |visit| {
        visit.field("name_template", &mut tls.name_template)?;
        visit.field("renewal", &mut tls.renewal)?;
        let issuer = &mut tls.issuer;
        visit.section("issuer", |visit| {
            visit.field("ca_key", &mut issuer.ca_key)?;
            visit.field("certificate_life_days", &mut issuer.certificate_life_days)
        })
    })?;
    visit.field("zone", &mut config.zone)?;
    visit.field("role", &mut config.role)?;
    visit.field("weight", &mut config.weight)?;
    visit.field("endpoints", &mut config.endpoints)?;
    visit.field("profile", &mut config.profile)?;
    let raft = &mut config.raft;
    visit.section("raft", |visit| {
        visit.field("peers", &mut raft.peers)?;
        visit.field("voter_target", &mut raft.voter_target)?;
        visit.field("voter_replace_after_ms", &mut raft.voter_replace_after_ms)?;
        visit.field("priority", &mut raft.priority)?;
        visit.field("priority_hold_ms", &mut raft.priority_hold_ms)?;
        visit.field("replace", &mut raft.replace)?;
        visit.field("election_timeout_min_ms", &mut raft.election_timeout_min_ms)?;
        visit.field("election_timeout_max_ms", &mut raft.election_timeout_max_ms)?;
        visit.field("heartbeat_interval_ms", &mut raft.heartbeat_interval_ms)?;
        visit.field("lease_reads", &mut raft.lease_reads)?;
        visit.field("auto_finalize_after_ms", &mut raft.auto_finalize_after_ms)?;
        visit.field("max_snapshot_rate", &mut raft.max_snapshot_rate)
    })?;
    let gossip = &mut config.gossip;
    visit.section("gossip", |visit| {
        visit.field("bind_port", &mut gossip.bind_port)?;
        visit.field("bind_address", &mut gossip.bind_address)?;
        visit.field("advertise_address", &mut gossip.advertise_address)?;
        visit.field("known_peers", &mut gossip.known_peers)?;
        visit.field("protocol_period_ms", &mut gossip.protocol_period_ms)?;
        visit.field("suspect_timeout_ms", &mut gossip.suspect_timeout_ms)?;
        visit.field("key_rotation_hours", &mut gossip.key_rotation_hours)
    })?;
    let partitioning = &mut config.partitioning;
    visit.section("partitioning", |visit| {
        visit.field("virtual_nodes", &mut partitioning.virtual_nodes)?;
        visit.field("replication_factor", &mut partitioning.replication_factor)
    })?;
    let admin = &mut config.admin;
    visit.section("admin", |visit| {
        visit.field("address", &mut admin.address)?;
        visit.field("health_address", &mut admin.health_address)?;
        visit.field("insecure", &mut admin.insecure)
    })
}

/// Full paths of every setting, such as `cluster.raft.peers`, in the order of the schema.
pub(super) fn all_paths() -> Vec<String> {
    let mut collect = Collect::default();
    // Collecting cannot fail: neither method below returns an error.
    let _ = root(&mut collect, &mut ClusterConfig::new(0));
    collect.paths
}

#[derive(Default)]
struct Collect {
    prefix: Vec<&'static str>,
    paths: Vec<String>,
}

impl Visit for Collect {
    fn field<T: Value>(&mut self, key: &'static str, _: &mut T) -> Result<(), ConfigError> {
        self.paths.push(format!("{}.{key}", self.prefix.join(".")));
        Ok(())
    }

    fn section(
        &mut self,
        key: &'static str,
        fields: impl FnOnce(&mut Self) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        self.prefix.push(key);
        fields(self)?;
        self.prefix.pop();
        Ok(())
    }
}
