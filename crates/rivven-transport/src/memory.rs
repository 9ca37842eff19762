//! A network inside one process, with the same contract as the real one, and faults from a seed.
//!
//! Bodies travel encoded, as frames on links. What the real network knows by its connections (a lost
//! peer, an idle timeout, calls that wait for a way) holds here too, so that callers meet the same errors
//! in the same circumstances. Everything random comes from the seed and every wait from tokio's clock:
//! under a paused clock the same seed gives the same trace.

mod call;
mod end;
mod lane;
mod limits;
mod link;
mod serve;
#[cfg(test)]
mod tests;
mod transfer;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rivven_types::{NodeId, PeerAddr};
use tokio::time::Instant;

use crate::{LocalIdentity, Router, TaskGroup, Transport, identity::Role};
use end::{End, MemoryEnd};
use wire::Hub;

pub use link::{LinkProfile, MemoryStats};

/// A process-local network. Clones are the same network.
///
/// Without further settings every link is immediate and loses nothing. Each direction between two nodes
/// is a link of its own: give it a [`LinkProfile`], cut it, heal it. A node's calls to itself meet no
/// faults.
///
/// ```
/// use std::time::Duration;
/// use rivven_transport::{LinkProfile, MemoryNetwork};
///
/// let network = MemoryNetwork::seeded(42);
/// network.default_link(LinkProfile { delay: Duration::from_millis(2), ..LinkProfile::default() });
/// network.link(1, 2, LinkProfile { loss: 0.1, ..LinkProfile::default() });
/// network.partition(&[1], &[2, 3]);
/// network.heal();
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryNetwork(Arc<Mutex<Hub>>);

/// Why a node cannot join a [`MemoryNetwork`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryNetworkError {
    /// A live node has this id. Drop or shut it down first.
    #[error("node {0} is already on this network")]
    DuplicateNode(NodeId),
    /// The network belongs to another cluster.
    #[error("this network carries another cluster")]
    OtherCluster,
}

impl MemoryNetwork {
    /// A network without nodes, of seed 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A network without nodes whose faults are drawn from `seed`.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Hub::new(seed))))
    }

    /// Adds a node, reachable until its transport is shut down or dropped.
    ///
    /// # Errors
    /// A live node of the same id, or of another cluster, is on the network already.
    pub fn join(&self, identity: LocalIdentity, router: Router) -> Result<Transport, MemoryNetworkError> {
        self.join_as(identity, Role::Node, router)
    }

    /// [`Self::join`], with what arrives handled by tasks of `tasks`: they are suspended and ended with the
    /// simulated process that the group stands for.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub fn join_in(
        &self,
        identity: LocalIdentity,
        router: Router,
        tasks: TaskGroup,
    ) -> Result<Transport, MemoryNetworkError> {
        self.add(End::new(identity, Role::Node, router).in_tasks(tasks))
    }

    /// [`Self::join`] as the holder of a certificate with `role`, which decides which methods it may call.
    ///
    /// Operators and clients only call: no node finds or calls them, and any number of them may have one id,
    /// which is 0 by convention.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub fn join_as(
        &self,
        identity: LocalIdentity,
        role: Role,
        router: Router,
    ) -> Result<Transport, MemoryNetworkError> {
        self.add(End::new(identity, role, router))
    }

    fn add(&self, end: End) -> Result<Transport, MemoryNetworkError> {
        let end = Arc::new(end);
        self.lock().join(Arc::clone(&end))?;
        Ok(Transport::new(MemoryEnd::new(end, self.clone())))
    }

    /// Makes `addr` lead to `node`, for discovery.
    pub fn bind(&self, addr: PeerAddr, node: NodeId) {
        self.lock().addrs.insert(addr, node);
    }

    /// Gives the link from `from` to `to` a character of its own. What is under way keeps its fate.
    pub fn link(&self, from: NodeId, to: NodeId, profile: LinkProfile) {
        self.lock().link_mut(from, to).profile = Some(profile);
    }

    /// Gives every link without a profile of its own this character.
    pub fn default_link(&self, profile: LinkProfile) {
        self.lock().default_profile = profile;
    }

    /// Loses every frame from `from` to `to`, also those under way, until [`Self::heal`].
    ///
    /// The other direction stays. As on the real network, a connection dies of one silent direction:
    /// after the idle timeout calls in flight end as `MaybeExecuted`, and later ones wait for the link
    /// until their deadline and end as `Unreachable`.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.lock().cut(from, to);
    }

    /// Cuts every link between a node of `left` and one of `right`, in both directions.
    pub fn partition(&self, left: &[NodeId], right: &[NodeId]) {
        let mut hub = self.lock();
        for (one, other) in left
            .iter()
            .flat_map(|one| right.iter().map(move |other| (*one, *other)))
        {
            hub.cut(one, other);
            hub.cut(other, one);
        }
    }

    /// Ends the cut of one link.
    pub fn heal_link(&self, from: NodeId, to: NodeId) {
        self.lock().heal_link(from, to);
    }

    /// Ends every cut. Profiles stay.
    pub fn heal(&self) {
        self.lock().heal();
    }

    /// What the network has carried and done so far.
    ///
    /// A test that relies on faults should check here that they happened.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        self.lock().stats
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        // A poisoned hub is still a consistent one: no change of it can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the connection between two nodes dies, or died, of silence; `None` while they hear each other.
    fn dies_at(&self, one: NodeId, other: NodeId) -> Option<Instant> {
        self.lock().dies_at(one, other)
    }
}
