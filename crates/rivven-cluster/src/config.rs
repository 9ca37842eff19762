//! What a node is told: the YAML file, the environment, and what follows from both.

mod document;
mod error;
mod members;
mod read;
mod schema;
mod tls;
mod validate;
mod value;
mod write;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use rivven_partition::NORMAL_WEIGHT;
use rivven_raft::{DEFAULT_PRIORITY, MemberRole, Replace};
use rivven_transport::Provider;
use rivven_types::{NodeId, PeerAddr};

pub use error::{ConfigError, ConfigErrorKind};
pub use tls::{IssuerSection, Renewal, TlsSection};
pub use value::Profile;

pub(crate) use validate::{CheckedConfig, with_port};

use self::{document::Document, read::Reader};

/// Most bytes of a configuration file; a longer one is refused before it is parsed.
pub const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// Environment variables that start so are settings; `__` separates the keys of a path.
const ENV_PREFIX: &str = "RIVVEN_CLUSTER__";

/// Port of QUIC when the file names none.
const DEFAULT_PORT: u16 = 9093;

/// Port of gossip when the file names none.
const DEFAULT_GOSSIP_PORT: u16 = 7946;

/// Every setting of a node.
///
/// A field that is `None` follows from the others; [`Self::effective`] shows what it comes to. Fields can
/// be set directly; [`Self::set`] and [`Self::apply_env`] remember where a value came from, so that a
/// mistake is shown in its place.
///
/// ```
/// use rivven_cluster::ClusterConfig;
/// let mut config = ClusterConfig::from_yaml_str("cluster: { node_id: 1 }", "node1.yaml")?;
/// config.apply_env([("RIVVEN_CLUSTER__RAFT__ELECTION_TIMEOUT_MIN_MS", "200")])?;
/// config.validate()?;
/// assert_eq!(config.effective().raft.election_timeout_max_ms, Some(400));
/// # Ok::<(), rivven_cluster::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// Number of this node, unique in its cluster, 1 or higher, and the one in its certificate.
    ///
    /// Never reuse a number with an empty disk. No default; 0 stands for "not given" and is refused.
    pub node_id: NodeId,
    /// Where QUIC listens (UDP). Default `0.0.0.0:9093`. Port 0 takes any free port, for tests.
    pub bind_address: SocketAddr,
    /// Where peers dial this node, if that is not `bind_address`: behind NAT or in a container.
    ///
    /// Default: `bind_address` if it is specific, else the address peers see this node come from.
    pub advertise_address: Option<PeerAddr>,
    /// Everything the node stores. Default `./rivven-data/<node_id>`. One process at a time.
    pub data_dir: Option<PathBuf>,
    /// `ca.pem`, `node.pem`, `node.key`, and the first `gossip.key` of the cluster unless it makes one.
    /// Default `<data_dir>/tls`.
    pub tls_dir: Option<PathBuf>,
    /// Which cryptography is used: `rust-crypto`, the default, or `ring` or `aws-lc-rs` in a program built with the
    /// feature `crypto-ring` or `crypto-aws-lc-rs`. Nodes with different ones understand each other.
    pub tls_provider: String,
    /// Renewing and issuing certificates.
    pub tls: TlsSection,
    /// Failure domain of this node; replicas of a partition are spread over zones. Default: none.
    pub zone: Option<String>,
    /// What this node may become when it joins a running cluster: `auto`, the default, votes if a place is free
    /// and stands by otherwise; `voter` votes even beyond `raft.voter_target`; `observer` never votes.
    pub role: MemberRole,
    /// How much this node takes of partitions and leaderships, in percent of a normal node. Default 100, from 0 to
    /// 10,000.
    ///
    /// Takes effect with placing new topics and with the next rebalance; 0 empties the node by and by. A weight
    /// that an operator has set for the running cluster wins over this one.
    pub weight: u16,
    /// Addresses of the application by name, as clients reach them. At most 16; default none.
    ///
    /// Registered with the node, so that whoever knows who leads a partition knows where to connect to. The cluster
    /// itself never dials them.
    pub endpoints: BTreeMap<String, PeerAddr>,
    /// Source of the timeouts that are not given. Default [`Profile::Lan`].
    pub profile: Profile,
    /// Consensus.
    pub raft: RaftSection,
    /// Membership.
    pub gossip: GossipSection,
    /// Placement of partitions.
    pub partitioning: PartitioningSection,
    /// The HTTP interface of `rivven-node`; the library alone opens none.
    pub admin: AdminSection,
    origins: read::Origins,
}

/// Consensus: who founds the cluster and how patient it is.
#[derive(Clone, Debug, PartialEq)]
pub struct RaftSection {
    /// Addresses of the other founders; this node's own address is ignored. Default: none, which founds a
    /// cluster of one.
    ///
    /// Every founder must name the same set. A node with an empty disk that reaches a cluster that is founded
    /// already asks to join it. Once the cluster exists these are addresses only.
    pub peers: Vec<PeerAddr>,
    /// How many nodes vote, if there are so many. Default 5; 1 to 9.
    ///
    /// Nodes that have caught up fill free places, spread over zones, to an odd number; the others stand by.
    /// More voters survive more failures, and every write waits for more disks. The leader's setting counts.
    pub voter_target: Option<u32>,
    /// How long a voter may be silent before a node that stands by takes its place. Default 600,000, 10 min.
    ///
    /// Shorter than a restart takes, it moves votes about for nothing. The leader's setting counts.
    pub voter_replace_after_ms: Option<u64>,
    /// How much this node should lead the Raft group, and so be the controller. Default 100, from 0 to 1,000.
    ///
    /// A leader hands over to a voter of a higher priority once that has lived for `priority_hold_ms`. One of priority
    /// 0 leads only while nobody else can.
    pub priority: u16,
    /// How long a voter of a higher priority has to have lived without a break before it is given the lead. Default
    /// 30,000; from 1,000 to 3,600,000, an hour.
    ///
    /// Doubled for each break of the last hour, so that a node that comes and goes does not take the lead with it each
    /// time. The leader's setting counts.
    pub priority_hold_ms: Option<u64>,
    /// What is done about a member that comes back with an empty disk: `refuse`, the default, or `auto`.
    ///
    /// `refuse` keeps it out until an operator says that the disk is lost. With `auto` the Raft leader gives the old
    /// data directory up by itself and lets the node learn and vote anew, once that directory has been silent for a
    /// while and as long as all other voters answer. Meant for nodes whose disks come and go with their machines;
    /// leave it off where a second process might be started under an id by mistake. The leader's setting counts.
    pub replace: Replace,
    /// Least time from the last sign of the Raft leader to an election, all included.
    ///
    /// Default from the profile. Below about ten times the disk's sync time, elections come for nothing.
    pub election_timeout_min_ms: Option<u64>,
    /// Most time to an election. Default: twice the least. Must be larger than the least.
    pub election_timeout_max_ms: Option<u64>,
    /// How often the Raft leader shows itself. Default: a third of the least election timeout.
    ///
    /// Must be below half of the least election timeout, or one lost packet costs an election.
    pub heartbeat_interval_ms: Option<u64>,
    /// Lets [`Consistency::Lease`](crate::Consistency::Lease) reads do without a round to a quorum. Default `false`.
    ///
    /// Assumes that the clocks of any two nodes pass within a tenth of each other, and that they go on while a
    /// process or its machine stands still: not so on machines that are put to sleep, or moved while they are paused.
    /// Where that is broken, a lease read may miss writes. While it is on, the death of the Raft leader's process is
    /// noticed by the election timeout alone. Must be the same on every node: ask for lease reads only once all nodes
    /// run with it, and no more before the first one runs without.
    pub lease_reads: bool,
    /// Finalises feature levels by itself that every member has supported for so long. Default: by hand. At most
    /// 2,592,000,000, 30 days.
    ///
    /// Until then any node can go back to its earlier release, and from then on none can. A member that does not
    /// answer begins the time anew. The leader's setting counts.
    pub auto_finalize_after_ms: Option<u64>,
    /// Most bytes of snapshots that this node sends per second, to all others together. Default: no limit; 65,536
    /// or more.
    ///
    /// Without a limit snapshots give way to other messages, and take what is left of the line. With a low one a node
    /// that lags may never catch up: it must be higher than the rate at which the log is written, and as many times
    /// higher as the state is larger than 256 MiB. Counts on the Raft leader, so set it on every node.
    pub max_snapshot_rate: Option<u64>,
}

impl Default for RaftSection {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            voter_target: None,
            voter_replace_after_ms: None,
            priority: DEFAULT_PRIORITY,
            priority_hold_ms: None,
            replace: Replace::Refuse,
            election_timeout_min_ms: None,
            election_timeout_max_ms: None,
            heartbeat_interval_ms: None,
            lease_reads: false,
            auto_finalize_after_ms: None,
            max_snapshot_rate: None,
        }
    }
}

/// Membership: SWIM over sealed UDP datagrams.
#[derive(Clone, Debug, PartialEq)]
pub struct GossipSection {
    /// UDP port of gossip. Default 7946. Port 0 takes any free port, for tests.
    pub bind_port: u16,
    /// Address of gossip. Default: the IP address of `cluster.bind_address`.
    pub bind_address: Option<IpAddr>,
    /// Where members send gossip to this node. Default: the bind address if it is specific, else the
    /// address members see this node come from.
    pub advertise_address: Option<PeerAddr>,
    /// Members to join through; one that answers is enough. Looked up again on every attempt. Default: the
    /// hosts of `raft.peers` at this node's `bind_port`.
    pub known_peers: Vec<PeerAddr>,
    /// How often a member is probed. Default from the profile. Detection takes a few periods.
    pub protocol_period_ms: Option<u64>,
    /// How long a silent member stays suspect before it is declared dead. Default: five periods.
    pub suspect_timeout_ms: Option<u64>,
    /// Hours after which the keys that seal gossip are replaced. Default 24; 1 to 8,760, a year.
    ///
    /// Whoever has got hold of a key can read and forge gossip until it is replaced. Replacing costs a few
    /// calls per member. The controller's setting counts.
    pub key_rotation_hours: u64,
}

/// Placement of partitions.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitioningSection {
    /// Points of each node on the hash ring. Default 128. All nodes must agree.
    pub virtual_nodes: u32,
    /// Replicas of a partition when a topic names no number. Default 3.
    pub replication_factor: u32,
}

/// The HTTP interface of `rivven-node`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminSection {
    /// Where the interface listens. Default `127.0.0.1:9640`.
    pub address: SocketAddr,
    /// Where health checks and metrics alone are served, for a kubelet or a scraper. Default
    /// `127.0.0.1:9641`.
    pub health_address: SocketAddr,
    /// Allows `address` to be reachable from other machines without TLS. Anyone who reaches it can then
    /// read, and with the token change, the cluster. Default `false`.
    pub insecure: bool,
}

impl Default for GossipSection {
    fn default() -> Self {
        Self {
            bind_port: DEFAULT_GOSSIP_PORT,
            bind_address: None,
            advertise_address: None,
            known_peers: Vec::new(),
            protocol_period_ms: None,
            suspect_timeout_ms: None,
            key_rotation_hours: 24,
        }
    }
}

impl Default for PartitioningSection {
    fn default() -> Self {
        Self {
            virtual_nodes: 128,
            replication_factor: 3,
        }
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9640),
            health_address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9641),
            insecure: false,
        }
    }
}

impl ClusterConfig {
    /// The defaults, for node `node_id`.
    #[must_use]
    pub fn new(node_id: NodeId) -> Self {
        Self {
            node_id,
            bind_address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), DEFAULT_PORT),
            advertise_address: None,
            data_dir: None,
            tls_dir: None,
            tls_provider: Provider::default().name().to_owned(),
            tls: TlsSection::default(),
            zone: None,
            role: MemberRole::Auto,
            weight: NORMAL_WEIGHT,
            endpoints: BTreeMap::new(),
            profile: Profile::default(),
            raft: RaftSection::default(),
            gossip: GossipSection::default(),
            partitioning: PartitioningSection::default(),
            admin: AdminSection::default(),
            origins: read::Origins::default(),
        }
    }

    /// A cluster of one node on loopback with its data below `dir`, on ports the system picks.
    ///
    /// The certificates are expected in `dir/tls`.
    #[must_use]
    pub fn dev(dir: impl Into<PathBuf>) -> Self {
        let mut config = Self::new(1);
        config.bind_address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        config.data_dir = Some(dir.into());
        config.profile = Profile::Local;
        config.gossip.bind_port = 0;
        config.partitioning.replication_factor = 1;
        config
    }

    /// Reads `text`, which came from `origin` (a file name, shown in errors).
    ///
    /// What the text leaves out keeps its default. Ranges are not checked before [`Self::validate`], so
    /// that the environment can still correct them.
    ///
    /// # Errors
    /// Malformed YAML, an unknown or repeated key, or a value of the wrong type, with its line and column.
    pub fn from_yaml_str(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let document = Document::parse(text, origin)?;
        let mut config = Self::new(0);
        config.overlay(document)?;
        Ok(config)
    }

    /// Reads the file at `path`; see [`Self::from_yaml_str`].
    ///
    /// # Errors
    /// As for [`Self::from_yaml_str`], and when the file cannot be read, is longer than
    /// [`MAX_CONFIG_BYTES`] or not UTF-8.
    pub fn from_yaml_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let unreadable = |cause: &dyn std::fmt::Display| ConfigError::unreadable(path, cause);
        let file = fs::File::open(path).map_err(|error| unreadable(&error))?;
        let mut text = String::new();
        file.take(MAX_CONFIG_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(|error| unreadable(&error))?;
        if text.len() as u64 > MAX_CONFIG_BYTES {
            return Err(unreadable(&format_args!(
                "it is longer than {MAX_CONFIG_BYTES} bytes"
            )));
        }
        Self::from_yaml_str(&text, &path.display().to_string())
    }

    /// Lets environment variables override: `RIVVEN_CLUSTER__RAFT__ELECTION_TIMEOUT_MIN_MS=150`.
    ///
    /// Variables without the prefix `RIVVEN_CLUSTER__` are ignored. Lists are separated by commas.
    ///
    /// # Errors
    /// A variable with the prefix that names no setting, or has a value of the wrong type.
    pub fn apply_env<K, V>(&mut self, vars: impl IntoIterator<Item = (K, V)>) -> Result<(), ConfigError>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        for (name, value) in vars {
            if let Some(path) = name.as_ref().strip_prefix(ENV_PREFIX) {
                let path = format!("cluster.{}", path.replace("__", ".").to_lowercase());
                self.overlay(Document::variable(&path, name.as_ref(), value.as_ref()))?;
            }
        }
        Ok(())
    }

    /// Sets one value as text; `by` says on whose word, such as `--node-id`.
    ///
    /// # Errors
    /// `path` (such as `cluster.node_id`) names no setting, or `value` has the wrong type.
    pub fn set(&mut self, path: &str, value: &str, by: &str) -> Result<(), ConfigError> {
        self.overlay(Document::flag(path, by, value))
    }

    /// This configuration as YAML, without what follows from the rest.
    ///
    /// Reading it back gives an equal configuration.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        write::to_yaml(self)
    }

    /// This configuration with every value filled in that follows from others.
    ///
    /// The advertised addresses stay open when they depend on what peers observe.
    #[must_use]
    pub fn effective(&self) -> Self {
        validate::effective(self)
    }

    /// Checks ranges and how values relate.
    ///
    /// # Errors
    /// The first value that cannot work, where it was set, and what to write.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check().map(drop)
    }

    pub(crate) fn check(&self) -> Result<CheckedConfig, ConfigError> {
        validate::check(self)
    }

    fn overlay(&mut self, document: Document) -> Result<(), ConfigError> {
        let mut changed = self.clone();
        let mut reader = Reader::new(document, std::mem::take(&mut changed.origins));
        schema::root(&mut reader, &mut changed)?;
        changed.origins = reader.finish()?;
        *self = changed;
        Ok(())
    }
}
