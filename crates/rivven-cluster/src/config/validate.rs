//! Ranges, relations between values, and what follows from what is given.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
    ops::{Range, RangeInclusive},
    path::PathBuf,
    time::Duration,
};

use rivven_partition::{MAX_ENDPOINT_NAME_LEN, MAX_ENDPOINTS, MAX_REPLICATION_FACTOR, MAX_WEIGHT};
use rivven_raft::{MIN_SNAPSHOT_RATE, MemberRole};
use rivven_transport::{
    Provider, ProviderError,
    identity::{SanTemplate, SanTemplateError},
};
use rivven_types::{NodeId, PeerAddr};

use super::{
    ClusterConfig, ConfigError, ConfigErrorKind, Renewal,
    members::{self, MembersConfig},
};

/// Most founders; more names than this in a list are a mistake.
pub(super) const MAX_FOUNDERS: usize = 15;

/// Most addresses to join gossip through.
const MAX_KNOWN_PEERS: usize = 64;

/// Longest zone name.
const MAX_ZONE_BYTES: usize = rivven_partition::MAX_ZONE_LEN;

/// Below 20 ms a scheduler hiccup is an election; above 5 minutes nobody is left who waits.
const ELECTION_MS: RangeInclusive<u64> = 20..=300_000;

/// A heartbeat below 5 ms is load, not liveness.
const HEARTBEAT_MS: RangeInclusive<u64> = 5..=150_000;

/// Bytes per second; more than a TiB is no limit.
const SNAPSHOT_RATE: RangeInclusive<u64> = MIN_SNAPSHOT_RATE.get()..=1 << 40;

const PERIOD_MS: RangeInclusive<u64> = 20..=60_000;
const SUSPECT_MS: RangeInclusive<u64> = 40..=3_600_000;
const KEY_HOURS: RangeInclusive<u64> = 1..=8_760;
const VIRTUAL_NODES: RangeInclusive<u64> = 1..=4_096;
const WEIGHT: RangeInclusive<u64> = 0..=MAX_WEIGHT as u64;
const REPLICATION_FACTOR: RangeInclusive<u64> = 1..=MAX_REPLICATION_FACTOR as u64;

/// Days that an issued certificate lives. The longest is what `cert init` gives.
const LIFE_DAYS: RangeInclusive<u64> = 1..=365;

/// Days that an issued certificate lives when the file names none (design D6).
const DEFAULT_LIFE_DAYS: u64 = 30;

/// Periods a member stays suspect when the file names no time (Lifeguard's default multiplier).
const SUSPECT_PERIODS: u64 = 5;

/// A configuration that has passed every check, with everything filled in.
#[derive(Clone, Debug)]
pub(crate) struct CheckedConfig {
    pub(crate) node_id: NodeId,
    pub(crate) bind_address: SocketAddr,
    pub(crate) advertise_address: Option<PeerAddr>,
    pub(crate) data_dir: PathBuf,
    pub(crate) tls_dir: PathBuf,
    pub(crate) provider: Provider,
    pub(crate) name_template: SanTemplate,
    pub(crate) renewal: Renewal,
    pub(crate) issuer: Option<IssuerConfig>,
    pub(crate) zone: Option<String>,
    pub(crate) role: MemberRole,
    pub(crate) members: MembersConfig,
    pub(crate) weight: u16,
    pub(crate) endpoints: BTreeMap<String, PeerAddr>,
    pub(crate) peers: Vec<PeerAddr>,
    pub(crate) election_timeout_ms: Range<u64>,
    pub(crate) heartbeat_interval_ms: u64,
    pub(crate) lease_reads: bool,
    pub(crate) max_snapshot_rate: Option<NonZeroU64>,
    pub(crate) gossip_bind: SocketAddr,
    pub(crate) gossip_advertise: Option<PeerAddr>,
    pub(crate) known_peers: Vec<PeerAddr>,
    pub(crate) protocol_period: Duration,
    pub(crate) suspect_timeout: Duration,
    pub(crate) key_rotation: Duration,
    pub(crate) virtual_nodes: u32,
    pub(crate) replication_factor: u16,
}

/// What a node issues certificates with.
#[derive(Clone, Debug)]
pub(crate) struct IssuerConfig {
    pub(crate) ca_key: PathBuf,
    pub(crate) life: Duration,
}

/// Fills in what follows from other values.
pub(super) fn effective(config: &ClusterConfig) -> ClusterConfig {
    let mut full = config.clone();
    let data_dir = config
        .data_dir
        .clone()
        .unwrap_or_else(|| PathBuf::from("./rivven-data").join(config.node_id.to_string()));
    full.tls_dir = Some(config.tls_dir.clone().unwrap_or_else(|| data_dir.join("tls")));
    full.data_dir = Some(data_dir);
    let issuer = &mut full.tls.issuer;
    if issuer.ca_key.is_some() {
        issuer.certificate_life_days.get_or_insert(DEFAULT_LIFE_DAYS);
    }
    let bind = config.bind_address;
    if config.advertise_address.is_none() && !bind.ip().is_unspecified() && bind.port() != 0 {
        full.advertise_address = Some(bind.into());
    }

    let raft = &config.raft;
    let (profile_min, profile_heartbeat) = config.profile.raft_ms();
    let min = raft
        .election_timeout_min_ms
        .or(raft.election_timeout_max_ms.map(|max| max / 2))
        .unwrap_or(profile_min);
    // A heartbeat from the profile fits the profile's timeouts only.
    let heartbeat = if min == profile_min {
        profile_heartbeat
    } else {
        min / 3
    };
    full.raft.election_timeout_min_ms = Some(min);
    full.raft.election_timeout_max_ms = Some(raft.election_timeout_max_ms.unwrap_or(min.saturating_mul(2)));
    full.raft.heartbeat_interval_ms = Some(raft.heartbeat_interval_ms.unwrap_or(heartbeat));
    members::fill(&mut full.raft);

    let gossip = &config.gossip;
    let ip = gossip.bind_address.unwrap_or(config.bind_address.ip());
    let period = gossip.protocol_period_ms.unwrap_or(config.profile.period_ms());
    full.gossip.bind_address = Some(ip);
    if gossip.advertise_address.is_none() {
        full.gossip.advertise_address = gossip_address(ip, config);
    }
    if gossip.known_peers.is_empty() && gossip.bind_port != 0 {
        let peers = config.raft.peers.iter();
        for peer in peers.filter_map(|peer| with_port(peer, gossip.bind_port)) {
            // Peers on one host differ in their ports alone, and would be named twice.
            if !full.gossip.known_peers.contains(&peer) {
                full.gossip.known_peers.push(peer);
            }
        }
    }
    full.gossip.protocol_period_ms = Some(period);
    let suspect = gossip
        .suspect_timeout_ms
        .unwrap_or(period.saturating_mul(SUSPECT_PERIODS));
    full.gossip.suspect_timeout_ms = Some(suspect);
    full
}

/// Gossip is reached at its own address if that is specific, else at the host that is advertised for QUIC.
fn gossip_address(ip: IpAddr, config: &ClusterConfig) -> Option<PeerAddr> {
    let port = config.gossip.bind_port;
    if port == 0 {
        return None;
    }
    if !ip.is_unspecified() {
        return Some(SocketAddr::new(ip, port).into());
    }
    with_port(config.advertise_address.as_ref()?, port)
}

/// The same host at another port.
pub(crate) fn with_port(addr: &PeerAddr, port: u16) -> Option<PeerAddr> {
    match addr.as_socket_addr() {
        Some(addr) => Some(SocketAddr::new(addr.ip(), port).into()),
        None => format!("{}:{port}", addr.host()).parse().ok(),
    }
}

/// Checks `config` and fills it in.
pub(super) fn check(config: &ClusterConfig) -> Result<CheckedConfig, ConfigError> {
    let check = Check(config);
    check.identity()?;
    let provider = check.provider()?;
    let name_template = check.name_template()?;
    check.addresses()?;
    let full = effective(config);
    let (election_timeout_ms, heartbeat_interval_ms) = check.raft(&full)?;
    let max_snapshot_rate = check.snapshot_rate()?;
    let members = members::check(&check, &full)?;
    let (period, suspect) = check.gossip(&full)?;
    check.placement()?;
    check.endpoints()?;
    let issuer = check.issuer(&full)?;
    let data_dir = full.data_dir.unwrap_or_default();
    Ok(CheckedConfig {
        node_id: full.node_id,
        bind_address: full.bind_address,
        advertise_address: full.advertise_address,
        tls_dir: full.tls_dir.unwrap_or_else(|| data_dir.join("tls")),
        data_dir,
        provider,
        name_template,
        renewal: full.tls.renewal,
        issuer,
        zone: full.zone,
        role: full.role,
        members,
        weight: full.weight,
        endpoints: full.endpoints,
        peers: full.raft.peers,
        election_timeout_ms,
        heartbeat_interval_ms,
        lease_reads: full.raft.lease_reads,
        max_snapshot_rate,
        gossip_bind: SocketAddr::new(
            full.gossip.bind_address.unwrap_or(full.bind_address.ip()),
            full.gossip.bind_port,
        ),
        gossip_advertise: full.gossip.advertise_address,
        known_peers: full.gossip.known_peers,
        protocol_period: Duration::from_millis(period),
        suspect_timeout: Duration::from_millis(suspect),
        key_rotation: Duration::from_secs(3_600 * full.gossip.key_rotation_hours),
        virtual_nodes: full.partitioning.virtual_nodes,
        replication_factor: full
            .partitioning
            .replication_factor
            .try_into()
            .unwrap_or(MAX_REPLICATION_FACTOR),
    })
}

pub(super) struct Check<'a>(&'a ClusterConfig);

impl Check<'_> {
    fn identity(&self) -> Result<(), ConfigError> {
        if self.0.node_id == 0 {
            let place = self.0.origins.place("cluster.node_id");
            let error = ConfigError::new(
                ConfigErrorKind::MissingKey,
                place,
                "`cluster.node_id` is not given, or 0",
            );
            return Err(
                error.help("give this node a number of its own, 1 or higher: the one in its certificate")
            );
        }
        if let Some(zone) = &self.0.zone
            && (zone.is_empty() || zone.len() > MAX_ZONE_BYTES || zone.contains(char::is_control))
        {
            let help = format!("use 1 to {MAX_ZONE_BYTES} printable bytes, or leave the zone out");
            return Err(self.invalid("cluster.zone", "this is no zone name", help));
        }
        for (path, dir) in [
            ("cluster.data_dir", &self.0.data_dir),
            ("cluster.tls_dir", &self.0.tls_dir),
        ] {
            if dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
                return Err(self.invalid(path, "the path is empty", "name a directory, or leave it out"));
            }
        }
        Ok(())
    }

    fn provider(&self) -> Result<Provider, ConfigError> {
        let name = &self.0.tls_provider;
        Provider::by_name(name).map_err(|error| {
            let help = match &error {
                ProviderError::NotBuilt { feature, .. } => {
                    format!("build the program with `--features {feature}`, which needs a C compiler")
                }
                _ => format!("use one of: {}", Provider::NAMES.join(", ")),
            };
            self.invalid("cluster.tls_provider", error.to_string(), help)
        })
    }

    fn name_template(&self) -> Result<SanTemplate, ConfigError> {
        let parsed = self.0.tls.name_template.parse();
        parsed.map_err(|error: SanTemplateError| {
            let help = "write such a URI, the same on all nodes, or leave it out";
            self.invalid("cluster.tls.name_template", error.to_string(), help)
        })
    }

    fn addresses(&self) -> Result<(), ConfigError> {
        let config = self.0;
        let advertised = [
            ("cluster.advertise_address", &config.advertise_address),
            (
                "cluster.gossip.advertise_address",
                &config.gossip.advertise_address,
            ),
        ];
        for (path, addr) in advertised {
            if let Some(addr) = addr {
                self.dialable(path, addr)?;
            }
        }
        self.dialables("cluster.raft.peers", &config.raft.peers, MAX_FOUNDERS)?;
        self.dialables(
            "cluster.gossip.known_peers",
            &config.gossip.known_peers,
            MAX_KNOWN_PEERS,
        )?;
        let gossip_ip = config.gossip.bind_address.unwrap_or(config.bind_address.ip());
        let port = config.bind_address.port();
        if port != 0 && port == config.gossip.bind_port && overlap(gossip_ip, config.bind_address.ip()) {
            let problem = format!("port {port} is taken by `cluster.bind_address`, which is UDP as well");
            return Err(self.invalid(
                "cluster.gossip.bind_port",
                problem,
                "give gossip a port of its own",
            ));
        }
        if !config.admin.address.ip().is_loopback() && !config.admin.insecure {
            let problem = format!(
                "{} can be reached from other machines without TLS",
                config.admin.address
            );
            let help = "use 127.0.0.1 or [::1], or say `admin.insecure: true` if something else protects it";
            return Err(self.invalid("cluster.admin.address", problem, help));
        }
        Ok(())
    }

    fn dialable(&self, path: &str, addr: &PeerAddr) -> Result<(), ConfigError> {
        if addr.is_unspecified() {
            let problem = format!("{addr} can be bound, but nobody can dial it");
            return Err(self.invalid(path, problem, "name the host or address that peers use"));
        }
        if addr.port() == 0 {
            let problem = format!("{addr} has port 0, which nobody can dial");
            return Err(self.invalid(path, problem, "name the port the peer listens on"));
        }
        Ok(())
    }

    fn dialables(&self, path: &str, addrs: &[PeerAddr], limit: usize) -> Result<(), ConfigError> {
        if addrs.len() > limit {
            let problem = format!("{} addresses", addrs.len());
            return Err(self.invalid(path, problem, format!("name at most {limit}")));
        }
        for (at, addr) in addrs.iter().enumerate() {
            let path = format!("{path}[{at}]");
            self.dialable(&path, addr)?;
            if addrs.iter().take(at).any(|earlier| earlier == addr) {
                return Err(self.invalid(&path, format!("{addr} is named twice"), "name each peer once"));
            }
        }
        Ok(())
    }

    /// What openraft gets is narrower than what the user writes (see rivven-raft), so the two ends must
    /// leave room between them and above the heartbeat.
    fn raft(&self, full: &ClusterConfig) -> Result<(Range<u64>, u64), ConfigError> {
        let path = |key| format!("cluster.raft.{key}");
        let min = full.raft.election_timeout_min_ms.unwrap_or_default();
        let max = full.raft.election_timeout_max_ms.unwrap_or_default();
        let heartbeat = full.raft.heartbeat_interval_ms.unwrap_or_default();
        self.range(&path("election_timeout_min_ms"), min, ELECTION_MS)?;
        self.range(&path("election_timeout_max_ms"), max, ELECTION_MS)?;
        self.range(&path("heartbeat_interval_ms"), heartbeat, HEARTBEAT_MS)?;
        if max < min.saturating_add(min / 4) {
            let problem = format!("{max} leaves elections too little room above the least timeout of {min}");
            let help = format!(
                "write {} (twice the least), so that two candidates rarely collide",
                2 * min
            );
            return Err(self.invalid(&path("election_timeout_max_ms"), problem, help));
        }
        if heartbeat.saturating_mul(2) > min {
            let problem = format!("{heartbeat} is more than half of the least election timeout of {min}");
            let help = format!(
                "write {} or less, so that one lost heartbeat costs no election",
                min / 3
            );
            return Err(self.invalid(&path("heartbeat_interval_ms"), problem, help));
        }
        Ok((min..max, heartbeat))
    }

    fn snapshot_rate(&self) -> Result<Option<NonZeroU64>, ConfigError> {
        let Some(rate) = self.0.raft.max_snapshot_rate else {
            return Ok(None);
        };
        self.range("cluster.raft.max_snapshot_rate", rate, SNAPSHOT_RATE)?;
        Ok(NonZeroU64::new(rate))
    }

    fn gossip(&self, full: &ClusterConfig) -> Result<(u64, u64), ConfigError> {
        let period = full.gossip.protocol_period_ms.unwrap_or_default();
        let suspect = full.gossip.suspect_timeout_ms.unwrap_or_default();
        self.range("cluster.gossip.protocol_period_ms", period, PERIOD_MS)?;
        self.range("cluster.gossip.suspect_timeout_ms", suspect, SUSPECT_MS)?;
        let hours = full.gossip.key_rotation_hours;
        self.range("cluster.gossip.key_rotation_hours", hours, KEY_HOURS)?;
        if suspect < period.saturating_mul(2) {
            let problem = format!("{suspect} is less than two protocol periods of {period}");
            let help = format!(
                "write {} (five periods), so that a slow member can refute the suspicion",
                period.saturating_mul(SUSPECT_PERIODS)
            );
            return Err(self.invalid("cluster.gossip.suspect_timeout_ms", problem, help));
        }
        Ok((period, suspect))
    }

    fn placement(&self) -> Result<(), ConfigError> {
        let partitioning = &self.0.partitioning;
        let vnodes = u64::from(partitioning.virtual_nodes);
        self.range("cluster.partitioning.virtual_nodes", vnodes, VIRTUAL_NODES)?;
        let replicas = u64::from(partitioning.replication_factor);
        self.range(
            "cluster.partitioning.replication_factor",
            replicas,
            REPLICATION_FACTOR,
        )?;
        self.range("cluster.weight", self.0.weight.into(), WEIGHT)
    }

    fn endpoints(&self) -> Result<(), ConfigError> {
        let endpoints = &self.0.endpoints;
        if endpoints.len() > MAX_ENDPOINTS {
            let problem = format!("{} endpoints", endpoints.len());
            let help = format!("name at most {MAX_ENDPOINTS}");
            return Err(self.invalid("cluster.endpoints", problem, help));
        }
        for (name, addr) in endpoints {
            let path = format!("cluster.endpoints.{name}");
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            let fits = (1..=MAX_ENDPOINT_NAME_LEN).contains(&name.len()) && name.bytes().all(plain);
            if !fits {
                let help = format!("name endpoints with 1 to {MAX_ENDPOINT_NAME_LEN} of a-z A-Z 0-9 . _ -");
                return Err(self.invalid(&path, "this is no name of an endpoint", help));
            }
            self.dialable(&path, addr)?;
        }
        Ok(())
    }

    fn issuer(&self, full: &ClusterConfig) -> Result<Option<IssuerConfig>, ConfigError> {
        let issuer = &full.tls.issuer;
        let life = "cluster.tls.issuer.certificate_life_days";
        let Some(ca_key) = &issuer.ca_key else {
            if issuer.certificate_life_days.is_some() {
                let help = "name the authority's key in `cluster.tls.issuer.ca_key`, or leave this out";
                return Err(self.invalid(life, "this node issues no certificates", help));
            }
            return Ok(None);
        };
        if ca_key.as_os_str().is_empty() {
            let help = "name the authority's key, ca.key of `rivven-node cert init`, or leave it out";
            return Err(self.invalid("cluster.tls.issuer.ca_key", "the path is empty", help));
        }
        let days = issuer.certificate_life_days.unwrap_or(DEFAULT_LIFE_DAYS);
        self.range(life, days, LIFE_DAYS)?;
        Ok(Some(IssuerConfig {
            ca_key: ca_key.clone(),
            life: Duration::from_secs(days * 24 * 3600),
        }))
    }

    pub(super) fn range(
        &self,
        path: &str,
        value: u64,
        range: RangeInclusive<u64>,
    ) -> Result<(), ConfigError> {
        if range.contains(&value) {
            return Ok(());
        }
        let help = format!("write a number from {} to {}", range.start(), range.end());
        Err(self.invalid(path, format!("{value} is out of range"), help))
    }

    fn invalid(&self, path: &str, problem: impl AsRef<str>, help: impl Into<String>) -> ConfigError {
        let place = self.0.origins.place(path);
        let message = format!("`{path}`: {}", problem.as_ref());
        ConfigError::new(ConfigErrorKind::InvalidValue, place, message).help(help)
    }
}

/// Whether two sockets on one port would collide.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}
