//! The three nodes as the load sees them, and the client through which it does.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rivven_raft::{Client, KvStore, NodeId, PeerAddr};
use rivven_transport::{
    BootEpoch, CallCtx, CallError, InstanceId, LocalIdentity, QuicTransport, Transport,
    identity::{
        CertificateAuthority, CertificateName, Label, NodeIdentity, Subject, Validity, write_cluster,
    },
};
use tokio::time::{Instant, sleep};

use super::{
    node::{AskStats, Stats, TakeOver},
    process::{Memory, Process},
};

/// How many nodes.
pub(super) const NODES: NodeId = 3;

/// How long the group may take to answer after a start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How the nodes run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Worker threads of each.
    pub(super) threads: usize,
    pub(super) lease_reads: bool,
    /// Whose disk is slow, and how long a sync of it takes.
    pub(super) slow: Option<(NodeId, Duration)>,
}

/// Three processes and a client of them.
#[derive(Debug)]
pub(super) struct Group {
    dir: PathBuf,
    ports: Vec<u16>,
    shape: Shape,
    nodes: BTreeMap<NodeId, Process>,
    pub(super) client: Client<KvStore>,
    transport: Transport,
}

/// What the nodes have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) cpu: Duration,
    pub(super) syncs: u64,
}

impl Group {
    /// Starts them in `dir`.
    pub(super) async fn start(dir: &Path, shape: Shape) -> Result<Self> {
        let tls = dir.join("tls");
        write_cluster(&tls, &(1..=NODES).collect::<Vec<_>>())?;
        let transport = outside(&tls)?;
        // Free at this moment; nobody else on this machine is likely to take them in the next.
        let sockets = (0..NODES).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
        let sockets = sockets.collect::<Result<Vec<_>, _>>()?;
        let ports = sockets.iter().map(|socket| Ok(socket.local_addr()?.port()));
        let ports = ports.collect::<Result<Vec<_>>>()?;
        drop(sockets);
        let members: BTreeMap<NodeId, PeerAddr> = (1..)
            .zip(&ports)
            .map(|(node, port)| (node, SocketAddr::from((Ipv4Addr::LOCALHOST, *port)).into()))
            .collect();
        let client = Client::over(transport.clone(), members);
        let mut group = Self {
            dir: dir.to_path_buf(),
            ports,
            shape,
            nodes: BTreeMap::new(),
            client,
            transport,
        };
        // The first one initialises the group, so it comes last.
        for node in (1..=NODES).rev() {
            group.run(node).await?;
        }
        group.ready().await?;
        Ok(group)
    }

    /// Starts one of them, again if it ran before.
    pub(super) async fn run(&mut self, node: NodeId) -> Result<()> {
        let mut args = vec![
            "--dir".to_owned(),
            self.dir.display().to_string(),
            "--node".to_owned(),
            node.to_string(),
            "--threads".to_owned(),
            self.shape.threads.to_string(),
        ];
        for port in &self.ports {
            args.extend(["--port".to_owned(), port.to_string()]);
        }
        if self.shape.lease_reads {
            args.push("--lease-reads".to_owned());
        }
        if let Some((_, sync)) = self.shape.slow.filter(|(slow, _)| *slow == node) {
            args.extend(["--sync-takes-us".to_owned(), sync.as_micros().to_string()]);
        }
        let (process, line) = Process::start("bench-raft-node", &args).await?;
        anyhow::ensure!(
            line.trim() == "ready",
            "node {node} did not start; its message is above"
        );
        self.nodes.insert(node, process);
        Ok(())
    }

    /// SIGKILL to one of them.
    pub(super) fn kill(&mut self, node: NodeId) -> Result<Process> {
        let mut process = self.nodes.remove(&node).context("no such node runs")?;
        process.kill()?;
        Ok(process)
    }

    /// Waits until the group takes writes.
    async fn ready(&self) -> Result<()> {
        let options = rivven_raft::ProposeOptions {
            deadline: START_TIMEOUT,
            ..rivven_raft::ProposeOptions::default()
        };
        let put = rivven_raft::KvCommand::put("ready", "yes");
        self.client.propose_with(put, options).await?;
        Ok(())
    }

    /// Has `node` lead.
    pub(super) async fn lead(&self, node: NodeId) -> Result<()> {
        let until = Instant::now() + START_TIMEOUT;
        // On a busy machine others may be elected before it, again and again; the figures are of what follows.
        while let Err(error) = self
            .transport
            .call::<TakeOver>(node, &(), CallCtx::until(until))
            .await
        {
            if Instant::now() >= until {
                return Err(error.into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        // The client hears of it with the first write.
        self.ready().await
    }

    /// Waits until every node has applied what one of them has by now.
    pub(super) async fn settled(&self) -> Result<()> {
        self.ready().await?;
        let settled = async {
            let leader = self.client.leader().unwrap_or(1);
            let target = self.stats(leader).await?.applied;
            for node in 1..=NODES {
                while self.stats(node).await?.applied < target {
                    sleep(Duration::from_millis(20)).await;
                }
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(START_TIMEOUT, settled).await?
    }

    async fn stats(&self, node: NodeId) -> Result<Stats> {
        let until = Instant::now() + START_TIMEOUT;
        loop {
            let ctx = CallCtx::timeout(START_TIMEOUT);
            match self.transport.call::<AskStats>(node, &(), ctx).await {
                // A node that has just been started again says so to the first call of the old connection, and to ask
                // twice does no harm.
                Err(CallError::MaybeExecuted { .. } | CallError::NotSent { .. })
                    if Instant::now() < until =>
                {
                    sleep(Duration::from_millis(5)).await;
                }
                answer => return Ok(answer?),
            }
        }
    }

    /// What all of them have used so far.
    pub(super) async fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for (node, process) in &self.nodes {
            usage.syncs += self.stats(*node).await?.syncs;
            usage.cpu += process.cpu().unwrap_or_default();
        }
        Ok(usage)
    }

    /// Memory of the largest, where the system says so.
    pub(super) fn memory(&self) -> Option<Memory> {
        self.nodes.values().filter_map(Process::memory).max()
    }

    /// Ends the client's side; the nodes are killed with their handles.
    pub(super) async fn stop(self) {
        self.transport.shutdown(Duration::from_millis(100)).await;
    }
}

/// The transport of a program that is no member.
fn outside(tls: &Path) -> Result<Transport> {
    let (ca, key) = (
        std::fs::read_to_string(tls.join("ca.pem"))?,
        std::fs::read_to_string(tls.join("ca.key"))?,
    );
    let authority = CertificateAuthority::from_pem(&ca, &key)?;
    let name = CertificateName {
        cluster: authority.cluster(),
        subject: Subject::Client(Label::new("bench")?),
    };
    let issued = authority.issue_as(name, Validity::from_now(Duration::from_secs(86_400)))?;
    let identity = NodeIdentity::from_pem(&ca, issued.cert_pem(), issued.key_pem())?;
    let local = LocalIdentity {
        cluster: identity.cluster(),
        node: identity.node(),
        instance: InstanceId::from_bytes([9; 16]),
        boot_epoch: BootEpoch(1),
    };
    Ok(QuicTransport::builder(identity, local).start()?)
}
