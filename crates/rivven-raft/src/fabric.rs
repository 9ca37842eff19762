//! A process-local cluster: nodes of one process find each other by name.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use rivven_raft_store::NodeDir;
use rivven_transport::{
    BootEpoch, ClusterId, InstanceId, LocalIdentity, MemoryNetwork, MemoryNetworkError, Router, Transport,
};
use rivven_types::{NodeId, PeerAddr};
use tokio::runtime;

use crate::{StartError, runtime::entropy};

/// A network inside this process that nodes join by id. Clones are the same network.
///
/// [`RaftNode::new`](crate::RaftNode::new) finds one by the name of the cluster and the tokio runtime it
/// is called on, so tests that run in parallel do not meet. Give nodes one of their own to keep them apart
/// by hand, or to [cut its links](Self::network).
#[derive(Clone, Debug, Default)]
pub struct Fabric(Arc<FabricInner>);

#[derive(Debug)]
struct FabricInner {
    network: MemoryNetwork,
    cluster: ClusterId,
    /// The voters that the first node named. Every other node must name the same.
    voters: Mutex<Option<BTreeSet<NodeId>>>,
}

impl Default for FabricInner {
    fn default() -> Self {
        Self {
            network: MemoryNetwork::new(),
            cluster: ClusterId::from_random(random_bytes()),
            voters: Mutex::default(),
        }
    }
}

struct Named {
    cluster: String,
    runtime: runtime::Id,
    fabric: Weak<FabricInner>,
}

/// Fabrics in use. A fabric lives as long as a node on it does.
static NAMED: Mutex<Vec<Named>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves its value whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random_bytes() -> [u8; 16] {
    let (high, low) = (u128::from(entropy()), u128::from(entropy()));
    (high << 64 | low).to_le_bytes()
}

impl Fabric {
    /// A network without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The network of `cluster` on the calling runtime.
    pub(crate) fn named(cluster: &str) -> Self {
        let runtime = runtime::Handle::current().id();
        let mut named = lock(&NAMED);
        named.retain(|entry| entry.fabric.strong_count() > 0);
        let found = named
            .iter()
            .filter(|entry| entry.cluster == cluster && entry.runtime == runtime);
        if let Some(fabric) = found.into_iter().find_map(|entry| entry.fabric.upgrade()) {
            return Self(fabric);
        }
        let fabric = Self::new();
        named.push(Named {
            cluster: cluster.to_owned(),
            runtime,
            fabric: Arc::downgrade(&fabric.0),
        });
        fabric
    }

    /// The links between the nodes, to cut and to heal them.
    #[must_use]
    pub fn network(&self) -> &MemoryNetwork {
        &self.0.network
    }

    /// Adds a node, after checking that it names the founders that the others name, if it is one of them. One with a data directory
    /// is that directory's instance; one without is another instance at every start.
    pub(crate) fn join(
        &self,
        (node, cluster_name): (NodeId, &str),
        disk: Option<&NodeDir>,
        voters: Option<&BTreeSet<NodeId>>,
        router: Router,
    ) -> Result<Transport, StartError> {
        let mut founders = lock(&self.0.voters);
        let differ = founders
            .as_ref()
            .zip(voters)
            .filter(|(there, here)| there != here);
        if let Some((there, here)) = differ {
            return Err(StartError::DifferentVoters {
                node,
                here: here.iter().copied().collect(),
                there: there.iter().copied().collect(),
            });
        }
        let identity = LocalIdentity {
            cluster: self.0.cluster,
            node,
            instance: disk.map_or_else(|| InstanceId::from_random(random_bytes()), NodeDir::instance),
            boot_epoch: disk.map_or(BootEpoch(1), NodeDir::boot_epoch),
        };
        let transport = self
            .0
            .network
            .join(identity, router)
            .map_err(|error| match error {
                MemoryNetworkError::DuplicateNode(node) => StartError::DuplicateNode {
                    node,
                    cluster: cluster_name.to_owned(),
                },
                other => StartError::Core {
                    cause: other.to_string(),
                },
            })?;
        if let Some(voters) = voters {
            *founders = Some(voters.clone());
        }
        Ok(transport)
    }
}

/// The address of a node on a fabric, for the membership; nobody dials it.
pub(crate) fn fabric_addr(node: NodeId) -> PeerAddr {
    let mut text = String::from("fabric-node-");
    text.push_str(&node.to_string());
    text.push_str(":0");
    // Letters, digits and hyphens: always a host name.
    text.parse()
        .unwrap_or_else(|_| std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
}
