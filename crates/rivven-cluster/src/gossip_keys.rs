//! The keys that seal gossip: kept up with by every node, changed by the controller.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rivven_partition::{Liveness, NodeStatus};
use rivven_raft::{Consistency, RaftNode, Role};
use rivven_transport::{
    CallCtx, CallError, Class, Method, PeerStatus, Rejection, TaskGroup,
    datagram::{GossipKey, GossipKeyError},
    gossip_keys::{KeyDemand, KeyKeeper, KeyRotation, KeyStep, RotationInput, RotationPolicy, Standing},
    identity::GOSSIP_KEY_FILE,
};
use rivven_types::NodeId;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{RotateError, StartError, clock, inner::Inner, state::ClusterState};

/// The ring, in the data directory.
const FILE: &str = "gossip.keys";

/// How often the controller looks; without anything to do it asks nobody.
const TICK: Duration = Duration::from_secs(1);

/// How long a quorum may take to confirm that this node still leads.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a request by hand waits for the controller to begin.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(10);

/// A live member that has not acknowledged for so long is an operator's business.
const REPORT_AFTER: Duration = Duration::from_secs(60);

/// Asks the controller for another key. The answer is the epoch of the one that was staged.
struct RotateKeys;

impl Method for RotateKeys {
    const ID: u16 = 0x0303;
    const NAME: &'static str = "gossip.keys.rotate";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = 0;
    const MAX_RESPONSE: usize = 16;
    type Request = ();
    type Response = u64;
}

/// What was asked of this node, should it be the controller.
#[derive(Debug, Default)]
pub(crate) struct KeyRequests {
    /// How many have asked for other keys, and how many of them have seen those staged. One who asks while a change
    /// is under way, and has seen the key of that already, is owed another.
    made: AtomicU64,
    served: AtomicU64,
    asked: Notify,
}

impl KeyRequests {
    fn make(&self) {
        self.made.fetch_add(1, Ordering::AcqRel);
        self.asked.notify_one();
    }

    /// How many were made, and whether any of them waits.
    fn waiting(&self) -> (u64, bool) {
        let made = self.made.load(Ordering::Acquire);
        (made, made != self.served.load(Ordering::Acquire))
    }

    /// The first `made` of them have what they asked for.
    fn serve(&self, made: u64) {
        self.served.store(made, Ordering::Release);
    }
}

/// The keys of this node: those it has kept, else the first one of its cluster, else none yet.
pub(crate) fn open(
    first: Option<GossipKey>,
    data_dir: &Path,
    tasks: &TaskGroup,
) -> Result<Arc<KeyKeeper>, StartError> {
    let path = data_dir.join(FILE);
    Ok(KeyKeeper::open(Some(path), first, tasks.clone())?)
}

/// The first key of the cluster; `None` if there is no file, and the nodes make one.
pub(crate) fn bootstrap(tls_dir: &Path) -> Result<Option<GossipKey>, GossipKeyError> {
    match GossipKey::load(&tls_dir.join(GOSSIP_KEY_FILE)) {
        Ok(key) => Ok(Some(key)),
        Err(GossipKeyError::Unreadable { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Answers peers that have not been removed.
pub(crate) fn serve(inner: &Arc<Inner>) {
    let published = Arc::clone(&inner.published);
    inner.keeper.serve(&inner.router, move |caller| {
        published.read(|state| {
            let node = state.map().node(caller);
            Standing {
                belongs: node.is_none_or(|node| node.status != NodeStatus::Removed),
                removals: state.map().removals(),
            }
        })
    });
    // Weak, because the router belongs to what it would hold.
    let weak = Arc::downgrade(inner);
    inner.router.register::<RotateKeys, _, _>(move |_caller, ()| {
        let inner = weak.upgrade();
        async move {
            match inner {
                Some(inner) => begin(&inner).await,
                None => Err(Rejection::new(
                    "stopping",
                    "this node is stopping; ask another one",
                )),
            }
        }
    });
}

/// Keeps up with the others. Never returns.
pub(crate) async fn follow(inner: Arc<Inner>) {
    let keeper = Arc::clone(&inner.keeper);
    let alone = inner.config.peers.is_empty();
    let transport = inner.transport.clone();
    keeper.follow(transport, move || peers(&inner), alone).await;
}

/// Every node this one knows how to reach, or will as soon as it answers.
fn peers(inner: &Inner) -> Vec<NodeId> {
    let mut nodes: BTreeSet<NodeId> = inner.resolver.found().into_iter().collect();
    if let Some(founding) = inner.founders.accepted() {
        nodes.extend(founding.founders.keys().copied());
    }
    inner.published.read(|state| {
        let members = state.map().nodes();
        let members = members.filter(|node| node.status != NodeStatus::Removed);
        nodes.extend(members.map(|node| node.registration.node));
    });
    nodes.into_iter().collect()
}

/// Changes the keys whenever this node leads the Raft group. Never returns.
pub(crate) async fn lead(inner: Arc<Inner>, raft: RaftNode<ClusterState>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reign: Option<Reign> = None;
    loop {
        tokio::select! {
            biased;
            () = inner.key_demand.asked.notified() => {}
            _ = tick.tick() => {}
        }
        let status = raft.status();
        if status.role != Role::Leader {
            reign = None;
            inner.note("gossip-keys-unacknowledged", None);
            continue;
        }
        let current = reign.take().filter(|reign| reign.term == status.term);
        let mut current = current.unwrap_or_else(|| Reign::new(status.term));
        current.round(&inner, &raft).await;
        reign = Some(current);
    }
}

/// One node's time as the controller.
struct Reign {
    term: u64,
    since: Instant,
    rotation: KeyRotation,
    /// Since when some live member has not acknowledged the ring.
    waiting: Option<Instant>,
}

impl Reign {
    fn new(term: u64) -> Self {
        Self {
            term,
            since: Instant::now(),
            rotation: KeyRotation::new(),
            waiting: None,
        }
    }

    async fn round(&mut self, inner: &Arc<Inner>, raft: &RaftNode<ClusterState>) {
        let (asked, by_hand) = inner.key_demand.waiting();
        let input = self.input(inner, by_hand);
        if !input.members.contains_key(&inner.local.node) {
            // The replicated state does not have this node yet, nor whoever else belongs to the cluster.
            return;
        }
        let term = self.term;
        let confirm = || async move {
            // A quorum confirms that this node still leads.
            let read = inner
                .read(Consistency::Linearizable, CONFIRM_TIMEOUT, |_| ())
                .await;
            let status = raft.status();
            read.is_ok() && status.role == Role::Leader && status.term == term
        };
        let done = self
            .rotation
            .round(&inner.keeper, &inner.transport, &input, confirm)
            .await;
        if done.iter().any(|step| matches!(step, KeyStep::Stage { .. })) {
            inner.key_demand.serve(asked);
        }
        self.report(inner, &input);
    }

    fn input(&self, inner: &Inner, by_hand: bool) -> RotationInput {
        // After this long a member that gossip has never mentioned is no longer merely late.
        let unheard_of = self.since.elapsed() >= 2 * inner.config.suspect_timeout;
        let alive = |node: NodeId| {
            let lives = match inner.life_of(node) {
                Liveness::Alive | Liveness::Suspect => true,
                Liveness::Unknown => !unheard_of,
                Liveness::Dead | Liveness::Left => false,
            };
            // Gossip cannot hear who has other keys, but a connection can.
            lives || inner.transport.status(node) == PeerStatus::Up
        };
        let (members, removals) = inner.published.read(|state| {
            let staying = state.map().nodes();
            let staying = staying.filter(|node| node.status != NodeStatus::Removed);
            let staying = staying.map(|node| node.registration.node);
            let members: BTreeMap<NodeId, bool> = staying.map(|node| (node, alive(node))).collect();
            (members, state.map().removals())
        });
        RotationInput {
            term: self.term,
            now_ms: clock::unix_ms(),
            members,
            demand: KeyDemand { by_hand, removals },
            policy: RotationPolicy {
                interval: inner.config.key_rotation,
                ..RotationPolicy::default()
            },
        }
    }

    /// Says who holds a change up.
    fn report(&mut self, inner: &Inner, input: &RotationInput) {
        let waiting = self.rotation.waiting_for(&inner.keeper, input);
        if waiting.is_empty() {
            self.waiting = None;
            inner.note("gossip-keys-unacknowledged", None);
            return;
        }
        let since = *self.waiting.get_or_insert_with(Instant::now);
        if since.elapsed() >= REPORT_AFTER {
            let problem = format!(
                "nodes {waiting:?} are alive but do not acknowledge the gossip keys over QUIC, so that they are \
                 not changed; see why the controller cannot call them, or stop them"
            );
            inner.note("gossip-keys-unacknowledged", Some(problem));
        }
    }
}

/// Has the keys changed by whoever is the controller.
pub(crate) async fn rotate(inner: &Arc<Inner>) -> Result<u64, RotateError> {
    let not_ready = |cause: String| RotateError::NotReady { cause };
    let raft = inner.raft().ok_or_else(|| not_ready(inner.waiting_for()))?;
    let leader = raft.status().leader;
    let leader = leader.ok_or_else(|| not_ready("no leader is known; try again".into()))?;
    if leader == inner.local.node {
        return begin(inner)
            .await
            .map_err(|rejection| CallError::Rejected(rejection).into());
    }
    let ctx = CallCtx::timeout(ROTATE_TIMEOUT);
    Ok(inner.transport.call::<RotateKeys>(leader, &(), ctx).await?)
}

/// Asks for another key on this node, the controller, and waits until it is staged.
async fn begin(inner: &Inner) -> Result<u64, Rejection> {
    let leads = inner
        .raft()
        .is_some_and(|raft| raft.status().role == Role::Leader);
    if !leads {
        return Err(Rejection::new(
            "no-leader",
            "this node is not the controller; ask again",
        ));
    }
    let newest = |keeper: &KeyKeeper| {
        let ring = keeper.held()?;
        Some(ring.next().unwrap_or_else(|| ring.current()).epoch())
    };
    let before = newest(&inner.keeper);
    let mut changed = inner.keeper.subscribe();
    inner.key_demand.make();
    let staged = async {
        loop {
            match newest(&inner.keeper) {
                Some(epoch) if Some(epoch) > before => return Some(epoch),
                Some(_) | None => changed.changed().await.ok()?,
            }
        }
    };
    let staged = tokio::time::timeout(ROTATE_TIMEOUT, staged).await.ok().flatten();
    staged.ok_or_else(|| {
        let message = "some live member has not acknowledged the keys in use; see `problems` in the status";
        Rejection::new("gossip-keys-unacknowledged", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_while_others_are_served_is_served_next() {
        let requests = KeyRequests::default();
        assert!(!requests.waiting().1);
        requests.make();
        let (asked, waits) = requests.waiting();
        assert!(waits);
        requests.make();
        requests.serve(asked);
        let (asked, waits) = requests.waiting();
        assert!(waits, "the second is still owed a key");
        requests.serve(asked);
        assert!(!requests.waiting().1);
    }
}
