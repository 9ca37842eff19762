//! One node of the group: a process with a data directory, mutual TLS and a key-value store, as `rivven-node` is.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::Result;
use rivven_admin::MetricsRecorder;
use rivven_raft::{
    DiskPace, InitializeError, KvStore, NodeDir, NodeId, PeerAddr, RaftConfig, RaftNode, SimulatedDisk,
};
use rivven_transport::{
    Class, LocalIdentity, Method, QuicKeys, QuicTransport, Rejection, Router, Transport,
    identity::{NodeIdentity, Roles},
};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;

/// Which node, and where everything is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// Directory with a `tls` directory, and one of data for each node.
    #[arg(long)]
    dir: PathBuf,
    /// Its id, from 1.
    #[arg(long)]
    node: NodeId,
    /// UDP ports of all nodes, in the order of their ids.
    #[arg(long = "port")]
    ports: Vec<u16>,
    /// Worker threads of its runtime.
    #[arg(long)]
    threads: usize,
    /// Allows lease reads.
    #[arg(long)]
    lease_reads: bool,
    /// Keeps the log on a simulated disk, of which each sync takes so many microseconds, in place of a file.
    #[arg(long)]
    sync_takes_us: Option<u64>,
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Stats {
    /// Transactions of the log that were made durable, with one sync each.
    pub(super) syncs: u64,
    /// Index of the last entry applied.
    pub(super) applied: u64,
}

/// Asks a node for [`Stats`].
#[derive(Debug)]
pub(super) struct AskStats;

impl Method for AskStats {
    const ID: u16 = 0x8010;
    const NAME: &'static str = "bench-stats";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = 64;
    const ROLES: Roles = Roles::ANY;
    type Request = ();
    type Response = Stats;
}

/// Has a node take leadership over.
#[derive(Debug)]
pub(super) struct TakeOver;

impl Method for TakeOver {
    const ID: u16 = 0x8011;
    const NAME: &'static str = "bench-take-over";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = 64;
    const ROLES: Roles = Roles::ANY;
    type Request = ();
    type Response = ();
}

/// Runs until its standard input ends.
pub(crate) fn main(args: &NodeArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.threads)
        .enable_all()
        .build()?;
    runtime.block_on(run(args))
}

async fn run(args: &NodeArgs) -> Result<()> {
    let recorder = MetricsRecorder::install()?;
    let members: BTreeMap<NodeId, PeerAddr> = (1..)
        .zip(&args.ports)
        .map(|(node, port)| (node, SocketAddr::from((Ipv4Addr::LOCALHOST, *port)).into()))
        .collect();
    let router = Router::new();
    let (data, transport) = open(args, &members, router.clone())?;
    let config = RaftConfig {
        node_id: args.node,
        peers: members
            .keys()
            .copied()
            .filter(|node| *node != args.node)
            .collect(),
        election_timeout_ms: 150..300,
        heartbeat_interval_ms: 50,
    };
    let mut builder = RaftNode::builder(config)
        .transport(transport.clone(), router.clone())
        .data_dir(data)
        .state_machine(KvStore::new());
    if args.lease_reads {
        builder = builder.lease_reads();
    }
    if let Some(sync) = args.sync_takes_us.map(Duration::from_micros) {
        let disk = SimulatedDisk::new(args.node);
        disk.set_pace(DiskPace {
            sync,
            ..DiskPace::default()
        });
        builder = builder.simulated_disk(&disk);
    }
    let node = builder.start().await?;
    if args.node == 1 {
        match node.initialize(members).await {
            Ok(()) | Err(InitializeError::AlreadyInitialized) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let told = node.clone();
    router.register::<AskStats, _, _>(move |_, ()| {
        let stats = Stats {
            syncs: counted(&recorder.render(), "raft_log_commit_seconds_count"),
            applied: told.status().applied_index.unwrap_or(0),
        };
        async move { Ok(stats) }
    });
    let taker = node.clone();
    router.register::<TakeOver, _, _>(move |_, ()| {
        let taker = taker.clone();
        async move {
            let taken = taker.transfer_leader(taker.status().node_id).await;
            taken.map_err(|error| Rejection::new("not-taken-over", error.to_string()))
        }
    });
    println!("ready");
    let mut end = Vec::new();
    tokio::io::stdin().read_to_end(&mut end).await?;
    node.shutdown().await;
    transport.shutdown(Duration::from_millis(100)).await;
    Ok(())
}

/// The node's data directory, and its transport with the addresses of the others.
fn open(
    args: &NodeArgs,
    members: &BTreeMap<NodeId, PeerAddr>,
    router: Router,
) -> Result<(NodeDir, Transport)> {
    let identity = NodeIdentity::load(&args.dir.join("tls").join(format!("node-{}", args.node)))?;
    let cluster = identity.cluster();
    let instance = u128::from(args.node).to_be_bytes();
    let data = NodeDir::open(args.dir.join(args.node.to_string()), cluster, args.node, instance)?;
    let local = LocalIdentity {
        cluster,
        node: args.node,
        instance: data.instance(),
        boot_epoch: data.boot_epoch(),
    };
    let own = (1..).zip(&args.ports).find(|(node, _)| *node == args.node);
    let port = own.map_or(0, |(_, port)| *port);
    let transport = QuicTransport::builder(identity, local)
        .bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .keys(QuicKeys::load_or_create(&data.path().join("quic.key"))?)
        .router(router)
        .start()?;
    for (node, addr) in members {
        transport.set_address(*node, addr.clone());
    }
    Ok((data, transport))
}

/// The value of a series without labels in the Prometheus text format.
fn counted(text: &str, name: &str) -> u64 {
    let values = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    values.filter_map(|value| value.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_by_its_whole_name() {
        let text = "# TYPE a counter\na_count 3\na_count_more 9\nb 1\n";
        assert_eq!(counted(text, "a_count"), 3);
        assert_eq!(counted(text, "c"), 0);
    }
}
