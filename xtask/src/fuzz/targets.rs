//! What is fuzzed: each target's valid input, and what it promises for any other.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use rivven_cluster::ClusterConfig;
use rivven_swim::{Identity, Settings, StreamEvent, Swim, SwimConfig, Time, Transmit};
use rivven_transport::{
    BootEpoch, CallCtx, Caller, ClusterId, InstanceId, LocalIdentity, MemoryNetwork, PeerIdentity, Router,
};
use tokio::runtime::Runtime;

use super::overheard::raft_bodies;

mod gossip;
mod wire;

/// Something that reads untrusted bytes.
pub(super) trait Target {
    /// Valid input to begin with.
    fn corpus(&self) -> Vec<Vec<u8>>;

    /// Takes one input. False when a promise was broken; a panic is always a failure.
    fn feed(&mut self, input: &[u8]) -> bool;
}

/// The name of a target on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum TargetName {
    /// Opening sealed datagrams while keys change: nothing that was changed may open.
    Datagram,
    /// The membership protocol's payloads, by a member that is authenticated and hostile.
    Swim,
    /// The bodies of Raft calls, as far as they are read before the node acts on them.
    Raft,
    /// The configuration file.
    Config,
    /// Frames of calls in a stream.
    Frames,
    /// The first words of a connection.
    Hello,
    /// The words of the control stream.
    Words,
    /// Join tokens, and requests to certify a key.
    Joining,
    /// The calls of the transport itself: renewing a certificate, joining.
    Issuing,
    /// The ring of gossip keys as text, on disk and between nodes.
    Ring,
    /// Frames of a transfer.
    Transfer,
}

impl TargetName {
    pub(super) const ALL: [Self; 11] = [
        Self::Datagram,
        Self::Swim,
        Self::Raft,
        Self::Config,
        Self::Frames,
        Self::Hello,
        Self::Words,
        Self::Joining,
        Self::Issuing,
        Self::Ring,
        Self::Transfer,
    ];

    pub(super) fn start(self) -> Result<Box<dyn Target>> {
        Ok(match self {
            Self::Datagram => Box::new(gossip::Datagram::new()?),
            Self::Swim => Box::new(SwimPayload::new()?),
            Self::Raft => Box::new(RaftBody::new()?),
            Self::Config => Box::new(Config),
            Self::Frames => Box::new(wire::Frames),
            Self::Hello => Box::new(wire::Hello),
            Self::Words => Box::new(wire::Words),
            Self::Joining => Box::new(wire::Joining::new()?),
            Self::Issuing => Box::new(wire::Issuing::new()?),
            Self::Ring => Box::new(gossip::Ring::new()),
            Self::Transfer => Box::new(wire::Transfer),
        })
    }
}

const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);

fn local(node: u64) -> LocalIdentity {
    LocalIdentity {
        cluster: CLUSTER,
        node,
        instance: InstanceId::from_bytes([2; 16]),
        boot_epoch: BootEpoch(5),
    }
}

struct SwimPayload {
    swim: Swim,
    now: u64,
    out: Vec<u8>,
}

/// Payloads of each kind: the golden vectors of the format.
const SWIM_GOLDEN: [&str; 13] = [
    "00010b0001ac020102030405060708",
    "00021100010102030405060708010a0000018a3e01",
    "0003070001ac020001c801",
    "0004010005",
    "0005010005",
    "00060300050103",
    "000709000500010a0000018a3e",
    "00090c00ac020808080808080808c801",
    "000a0f00ac020808080808080808c801026869",
    "00102500ac020909090909090909090909090909090902010101010a0000018a3e0002010201026869",
    "00102c00ac020909090909090909090909090909090902010101010a0000018a3e0002010202ac020808080808080808",
    "00102d00ac02090909090909090909090909090909090201020002fefefefefefefefefefefefefefefefe8a3eac020000",
    "00110700ac020207026869",
];

impl SwimPayload {
    fn new() -> Result<Self> {
        let bound = SocketAddr::from(([10, 0, 0, 1], 7946));
        let config = SwimConfig {
            bind_addr: bound.into(),
            known_peers: Vec::new(),
            protocol_period_ms: 200,
            suspect_timeout_ms: 1_000,
        };
        let identity = Identity {
            node: 300,
            instance: InstanceId::from_bytes([3; 16]),
            boot_epoch: BootEpoch(1),
        };
        let settings = Settings::new(&config, bound)?.with_streams();
        Ok(Self {
            swim: Swim::new(settings, identity, b"meta", Time::ZERO, 1)?,
            now: 0,
            out: Vec::new(),
        })
    }
}

impl Target for SwimPayload {
    fn corpus(&self) -> Vec<Vec<u8>> {
        let bytes = |hex: &str| {
            let pairs = (0..hex.len()).step_by(2).filter_map(|at| hex.get(at..at + 2));
            pairs
                .filter_map(|pair| u8::from_str_radix(pair, 16).ok())
                .collect()
        };
        SWIM_GOLDEN.map(bytes).to_vec()
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        self.now += 1_000;
        let now = Time::from_micros(self.now);
        let sender = Identity {
            node: 2,
            instance: InstanceId::from_bytes([9; 16]),
            boot_epoch: BootEpoch(2),
        };
        let from = SocketAddr::from(([10, 0, 0, 2], 7946));
        self.swim.handle_datagram(now, from, sender, input);
        let (id, body) = (1, input);
        self.swim
            .handle_stream(now, StreamEvent::Request { id, sender, body });
        self.swim
            .handle_stream(now, StreamEvent::Response { id, sender, body });
        if self.swim.poll_timeout().is_some_and(|due| due <= now) {
            self.swim.handle_timeout(now);
        }
        let mut short = true;
        let mut answers = 0;
        while let Some(transmit) = self.swim.poll_transmit(&mut self.out) {
            let limit = match transmit {
                Transmit::Request { .. } | Transmit::Response { .. } => rivven_swim::MAX_STREAM_LEN,
                _ => rivven_swim::MAX_DATAGRAM_LEN,
            };
            short &= self.out.len() <= limit;
            answers += usize::from(transmit == Transmit::Response { id: 1 });
        }
        // Whoever asks over a stream is answered once, whatever it sent.
        short &= answers == 1;
        while self.swim.poll_event().is_some() {}
        short
    }
}

/// A router whose Raft node has stopped: bodies are decoded, and nothing acts on them.
struct RaftBody {
    runtime: Runtime,
    router: Router,
    overheard: Vec<Vec<u8>>,
}

impl RaftBody {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let router = Router::new();
        let served = router.clone();
        runtime.block_on(async move {
            let transport = MemoryNetwork::new().join(local(1), served.clone())?;
            let config = rivven_raft::RaftConfig {
                node_id: 1,
                peers: vec![2, 3],
                election_timeout_ms: 1_000..2_000,
                heartbeat_interval_ms: 100,
            };
            let node = rivven_raft::RaftNode::builder(config)
                .transport(transport, served)
                .state_machine(rivven_raft::KvStore::new())
                .start()
                .await?;
            drop(node);
            anyhow::Ok(())
        })?;
        router
            .spec(0x0100)
            .context("the Raft node has registered nothing")?;
        let overheard = runtime.block_on(raft_bodies(local))?;
        Ok(Self {
            runtime,
            router,
            overheard,
        })
    }
}

impl Target for RaftBody {
    fn corpus(&self) -> Vec<Vec<u8>> {
        // The first byte chooses the method.
        self.overheard.clone()
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        let Some((method, body)) = input.split_first() else {
            return true;
        };
        let caller = Caller {
            peer: PeerIdentity {
                node: 2,
                instance: InstanceId::from_bytes([9; 16]),
                boot_epoch: BootEpoch(2),
            },
            role: Some(rivven_transport::identity::Role::Node),
            deadline: CallCtx::timeout(Duration::from_secs(1)).deadline,
            trace: None,
        };
        let method = 0x0100 | u16::from(*method & 0x1f);
        let body = Bytes::copy_from_slice(body);
        let answer = self.runtime.block_on(self.router.dispatch(caller, method, body));
        // Nobody is there to answer anything else.
        answer.is_err()
    }
}

struct Config;

impl Target for Config {
    fn corpus(&self) -> Vec<Vec<u8>> {
        let whole = include_str!("../../../tests/promises/config.yaml");
        vec![whole.into(), b"cluster:\n  node_id: 1\n".to_vec()]
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        if let Ok(text) = std::str::from_utf8(input) {
            // Refused or not, it must come back.
            let _ = ClusterConfig::from_yaml_str(text, "fuzz").map(|config| config.validate());
        }
        true
    }
}
