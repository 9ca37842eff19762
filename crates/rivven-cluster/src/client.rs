//! `Client`: the cluster as a program uses it that is no member.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use rivven_raft::ConnectError;
use rivven_transport::{
    BindError, EntropyError, LocalIdentity, Provider, ProviderError, QuicTransport, Transport,
    identity::{IdentityError, NodeIdentity, SanTemplate},
    random_bytes,
};
use rivven_types::{BootEpoch, InstanceId, NodeId, PeerAddr};
use tokio::runtime::Handle;

use crate::{Kv, state::ClusterState};

/// How long a call may take where nothing else is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long open calls may take to end when a client is shut down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// How a program outside finds its cluster and shows who it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Directory with `ca.pem`, `node.pem` and `node.key`, where the certificate has the role `client` or `operator`:
    /// `rivven-node cert issue --client NAME` makes one. Files that are replaced are taken over within ten seconds.
    pub tls_dir: PathBuf,
    /// Where some of the nodes are reached over QUIC. They name the others.
    pub nodes: Vec<PeerAddr>,
    /// How certificates name their holders: `cluster.tls.name_template` of the nodes. Default
    /// `rivven://{cluster}/{role}/{id}`.
    pub name_template: SanTemplate,
    /// Which cryptography is used, as `cluster.tls_provider` of a node. Default `rust-crypto`.
    pub tls_provider: String,
    /// How long the first answer of a node may take. Default ten seconds.
    pub connect_timeout: Duration,
}

impl ClientConfig {
    /// The certificate in `tls_dir`, and `nodes`, with everything else as by default.
    pub fn new(tls_dir: impl Into<PathBuf>, nodes: impl IntoIterator<Item = PeerAddr>) -> Self {
        Self {
            tls_dir: tls_dir.into(),
            nodes: nodes.into_iter().collect(),
            name_template: SanTemplate::default(),
            tls_provider: Provider::default().name().to_owned(),
            connect_timeout: DEFAULT_TIMEOUT,
        }
    }
}

/// Why a client did not connect. Nothing was changed anywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The certificate is missing, expired, or does not belong to its key or authority.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate is that of a member, whose connections would be taken from it.
    #[error(
        "{} holds the certificate of node {node}, which a program must not use beside it; make one with \
         `rivven-node cert issue --client NAME`", tls_dir.display()
    )]
    NotAClient {
        /// Where the certificate is.
        tls_dir: PathBuf,
        /// Whose it is.
        node: NodeId,
    },
    /// There is no such cryptography, or the program was built without it.
    #[error("cannot use `tls_provider`: {0}")]
    Provider(#[from] ProviderError),
    /// The operating system gave no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// No socket could be opened.
    #[error(transparent)]
    Transport(#[from] BindError),
    /// No node answered.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl ClientError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Identity(error) => error.code(),
            Self::NotAClient { .. } => "not-a-client",
            Self::Provider(error) => error.code(),
            Self::Entropy(error) => error.code(),
            Self::Transport(error) => error.code(),
            Self::Connect(error) => error.code(),
        }
    }

    /// Whether the cause is what the program was told rather than the machine or the cluster: exit code 2 of
    /// `rivven-node`.
    #[must_use]
    pub const fn is_config(&self) -> bool {
        matches!(
            self,
            Self::Identity(_) | Self::NotAClient { .. } | Self::Provider(_)
        )
    }
}

/// A cluster, as a program uses it that is no member.
///
/// It speaks QUIC with mutual TLS to the nodes themselves, finds the leader and follows it when it changes, and
/// repeats what has certainly not been done. Outcomes are those of a [`Cluster`](crate::Cluster).
///
/// Clones share everything. When the last one is dropped its connections are closed, and what is still on its way,
/// of a [`Kv`] of it too, has an unknown outcome.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use rivven_cluster::{Client, ClientConfig, Consistency};
///
/// let nodes = ["node1:9093".parse()?, "node2:9093".parse()?];
/// let client = Client::connect(ClientConfig::new("certs/client-billing", nodes)).await?;
/// client.kv().put("greeting", "hello").await?;
/// let entry = client.kv().get("greeting", Consistency::Linearizable).await?.ok_or("lost")?;
/// assert_eq!(entry.value, "hello");
/// client.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    raft: rivven_raft::Client<ClusterState>,
    endpoint: Arc<Endpoint>,
}

/// Closes its connections when it is dropped.
struct Endpoint(Transport);

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Where no runtime is left, nothing is left that moves packets either.
        if let Ok(runtime) = Handle::try_current() {
            let transport = self.0.clone();
            runtime.spawn(async move { transport.shutdown(Duration::ZERO).await });
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("leader", &self.leader())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Dials the nodes until one answers, and learns the others from it.
    ///
    /// Cancel safety: a dropped future leaves nothing behind.
    ///
    /// # Errors
    /// [`ClientError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let provider = Provider::by_name(&config.tls_provider)?;
        let identity = NodeIdentity::load_as(&config.tls_dir, &config.name_template, &provider)?;
        if identity.name().subject.is_member() {
            return Err(ClientError::NotAClient {
                node: identity.node(),
                tls_dir: config.tls_dir,
            });
        }
        let local = LocalIdentity {
            cluster: identity.cluster(),
            node: identity.node(),
            instance: InstanceId::from_random(random_bytes()?),
            boot_epoch: BootEpoch(1),
        };
        let builder = QuicTransport::builder(identity, local).provider(provider);
        let transport = builder.start()?;
        let endpoint = Arc::new(Endpoint(transport.clone()));
        let raft = rivven_raft::Client::connect(transport, &config.nodes, config.connect_timeout).await?;
        Ok(Self { raft, endpoint })
    }

    /// The key-value map.
    #[must_use]
    pub fn kv(&self) -> Kv {
        Kv::remote(self.raft.clone(), DEFAULT_TIMEOUT)
    }

    /// The Raft leader as last heard of.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.leader()
    }

    /// Closes its connections. Calls that are open may end within a second; later ones fail.
    pub async fn shutdown(&self) {
        self.endpoint.0.shutdown(SHUTDOWN_GRACE).await;
    }
}
