//! Real `rivven-node` processes on loopback, for the demo, the scenarios and tests.
//!
//! Nodes have their own directories, certificates, ports and log files. They are killed by process id and
//! everything is removed when the [`Harness`] is dropped.

mod arrivals;
mod load;
mod ports;
mod process;
mod wait;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use rivven_cluster::{ClusterConfig, NodeId, PeerAddr};
use tempfile::TempDir;
use tokio::time::Instant;

pub use arrivals::{Arrivals, PACE};
pub use load::{History, Load, LoadOptions, Outcome, Verdict, WriteRecord};
pub use process::{NodeProcess, NodeSpec, token_path};
pub use wait::until;

use self::ports::Ports;

/// How long a node may take to end after SIGTERM.
pub const STOP_GRACE: Duration = Duration::from_secs(25);
/// Certificates made beside those of the founders, for nodes that join later.
const NEWCOMERS: u64 = 3;
/// How many of its last lines are shown of the log of a node when something failed.
const TAIL_LINES: usize = 12;

/// What to start.
#[derive(Clone, Debug)]
pub struct HarnessOptions {
    /// The `rivven-node` program.
    pub binary: PathBuf,
    /// Number of nodes; ids count from 1.
    pub nodes: u64,
    /// Raft election timeout, least and most, in milliseconds.
    pub election_timeout_ms: (u64, u64),
    /// SWIM protocol period in milliseconds.
    pub protocol_period_ms: u64,
    /// SWIM suspicion timeout in milliseconds.
    pub suspect_timeout_ms: u64,
    /// Leaves the directory behind, to look at it.
    pub keep: bool,
}

impl HarnessOptions {
    /// Three nodes of `binary`, with the timing of one machine.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            nodes: 3,
            election_timeout_ms: (150, 300),
            protocol_period_ms: 200,
            suspect_timeout_ms: 800,
            keep: false,
        }
    }
}

/// A cluster of child processes.
#[derive(Debug)]
pub struct Harness {
    // Dropped in this order: the processes end before their directory goes.
    nodes: BTreeMap<NodeId, NodeProcess>,
    ports: Ports,
    dir: TempDir,
    founders: Vec<Founder>,
    options: HarnessOptions,
}

#[derive(Clone, Debug)]
struct Founder {
    quic: SocketAddr,
    gossip: SocketAddr,
}

impl Harness {
    /// Makes directories, certificates and configurations, and starts every node.
    ///
    /// # Errors
    /// When a file cannot be written or the program cannot be started.
    pub fn start(options: HarnessOptions) -> anyhow::Result<Self> {
        let mut harness = Self::prepare(options)?;
        let ids: Vec<NodeId> = harness.ids();
        for id in ids {
            harness.node_mut(id)?.start()?;
        }
        Ok(harness)
    }

    /// As [`Self::start`], without starting any node.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn prepare(options: HarnessOptions) -> anyhow::Result<Self> {
        let mut dir = tempfile::Builder::new().prefix("rivven-cluster-").tempdir()?;
        dir.disable_cleanup(options.keep);
        let mut ports = Ports::reserve()?;
        let ids: Vec<NodeId> = (1..=options.nodes).collect();
        let certified: Vec<NodeId> = (1..=options.nodes + NEWCOMERS).collect();
        rivven_transport::identity::write_cluster(&dir.path().join("tls"), &certified)
            .context("cannot make certificates")?;
        let mut founders = Vec::new();
        for _ in &ids {
            let (quic, gossip) = (ports.take()?, ports.take()?);
            founders.push(Founder { quic, gossip });
        }
        let mut harness = Self {
            nodes: BTreeMap::new(),
            ports,
            dir,
            founders,
            options,
        };
        for (id, founder) in ids.iter().zip(harness.founders.clone()) {
            let tls_dir = harness.tls_dir(*id);
            let node = harness.describe(*id, &format!("node-{id}"), &tls_dir, &founder)?;
            harness.nodes.insert(*id, node);
        }
        Ok(harness)
    }

    fn tls_dir(&self, id: NodeId) -> PathBuf {
        self.dir.path().join("tls").join(format!("node-{id}"))
    }

    /// One more node, which joins once it is started. Certificates were made for three such nodes, whose ids
    /// follow those of the founders.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn add(&mut self, id: NodeId) -> anyhow::Result<&mut NodeProcess> {
        let tls_dir = self.tls_dir(id);
        anyhow::ensure!(tls_dir.is_dir(), "there is no certificate for node {id}");
        let node = self.outsider(id, &format!("node-{id}"), &tls_dir)?;
        self.nodes.insert(id, node);
        self.node_mut(id)
    }

    /// Lets go of a node. Its process ends with what is returned.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&mut self, id: NodeId) -> anyhow::Result<NodeProcess> {
        let node = self.nodes.remove(&id);
        node.with_context(|| format!("there is no node {id}"))
    }

    /// Loses the disk of a node that does not run.
    ///
    /// # Errors
    /// When there is no such node, or its directory cannot be removed.
    pub fn wipe(&self, id: NodeId) -> anyhow::Result<()> {
        let dir = &self.node(id)?.spec().data_dir;
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
    }

    /// A node that is configured to join this cluster but stands outside of it, with the certificates in
    /// `tls_dir`. The caller starts it and owns it.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn outsider(&mut self, node_id: NodeId, name: &str, tls_dir: &Path) -> anyhow::Result<NodeProcess> {
        let own = Founder {
            quic: self.ports.take()?,
            gossip: self.ports.take()?,
        };
        self.describe(node_id, name, tls_dir, &own)
    }

    fn describe(
        &mut self,
        node_id: NodeId,
        name: &str,
        tls_dir: &Path,
        own: &Founder,
    ) -> anyhow::Result<NodeProcess> {
        let home = self.dir.path().join(name);
        std::fs::create_dir(&home)?;
        let (admin, health) = (self.ports.take()?, self.ports.take()?);
        let mut config = ClusterConfig::new(node_id);
        config.bind_address = own.quic;
        config.data_dir = Some(home.join("data"));
        config.tls_dir = Some(tls_dir.to_owned());
        let others = || self.founders.iter().filter(|founder| founder.quic != own.quic);
        config.raft.peers = others().map(|founder| PeerAddr::from(founder.quic)).collect();
        config.raft.election_timeout_min_ms = Some(self.options.election_timeout_ms.0);
        config.raft.election_timeout_max_ms = Some(self.options.election_timeout_ms.1);
        config.gossip.bind_port = own.gossip.port();
        config.gossip.known_peers = others().map(|founder| PeerAddr::from(founder.gossip)).collect();
        config.gossip.protocol_period_ms = Some(self.options.protocol_period_ms);
        config.gossip.suspect_timeout_ms = Some(self.options.suspect_timeout_ms);
        config.admin.address = admin;
        config.admin.health_address = health;
        config.validate()?;
        let spec = NodeSpec {
            node_id,
            binary: self.options.binary.clone(),
            config: home.join("config.yaml"),
            data_dir: home.join("data"),
            log: home.join("log.txt"),
            admin,
            health,
        };
        std::fs::write(&spec.config, config.to_yaml())?;
        Ok(NodeProcess::new(spec))
    }

    /// Directory of everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Every node, running or not.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// The nodes whose process has not been stopped.
    #[must_use]
    pub fn running(&self) -> Vec<NodeId> {
        let running = self.nodes.iter().filter(|(_, node)| node.pid().is_some());
        running.map(|(id, _)| *id).collect()
    }

    /// Node `id`.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, id: NodeId) -> anyhow::Result<&NodeProcess> {
        self.nodes
            .get(&id)
            .with_context(|| format!("there is no node {id}"))
    }

    /// Node `id`, to start and stop it.
    ///
    /// # Errors
    /// When there is none.
    pub fn node_mut(&mut self, id: NodeId) -> anyhow::Result<&mut NodeProcess> {
        self.nodes
            .get_mut(&id)
            .with_context(|| format!("there is no node {id}"))
    }

    /// SIGKILLs every running node at once, and waits until all are gone. Returns the moment of the first
    /// signal.
    ///
    /// # Errors
    /// When a signal could not be sent.
    pub fn kill_all(&mut self) -> anyhow::Result<Instant> {
        let at = Instant::now();
        let running = self.running();
        for id in &running {
            self.node_mut(*id)?.signal_kill()?;
        }
        for id in running {
            self.node_mut(id)?.kill()?;
        }
        Ok(at)
    }

    /// Stops every running node with SIGTERM, all at once.
    ///
    /// # Errors
    /// When one does not end by itself, or ends with an error.
    pub async fn stop_all(&mut self) -> anyhow::Result<()> {
        for id in self.running() {
            self.node_mut(id)?.signal_stop()?;
        }
        for id in self.running() {
            let status = self.node_mut(id)?.wait_exit(STOP_GRACE).await?;
            anyhow::ensure!(status.success(), "node {id} ended with {status}");
        }
        Ok(())
    }

    /// The last lines of every node's log, for a failure report.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let mut text = String::new();
        for (id, node) in &self.nodes {
            let log = node.log_text().unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or(&[]);
            text.push_str(&format!("--- last lines of node {id} ---\n"));
            for line in tail {
                text.push_str(&format!("{line}\n"));
            }
        }
        text
    }
}
