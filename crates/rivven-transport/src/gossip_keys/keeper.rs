//! The keys of one node: durable, never replaced by lesser ones, fetched when they are missing.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use rivven_types::NodeId;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    message::{FetchKeys, OfferKeys, RingText},
    store::{self, KeyFileError},
};
use crate::{
    CallCtx, CallError, Rejection, Router, TaskGroup, Transport,
    datagram::{GossipKey, GossipKeys, KeyRing, RingError, RingVersion},
};

/// How long a peer may take to answer; it writes a small file meanwhile.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a starting node holds back its own keys while it looks for newer ones. Then it is taken to be
/// among the first to start.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// Wait between attempts of a starting node.
const START_INTERVAL: Duration = Duration::from_millis(50);

/// Least time between two fetches for keys that are missing: forgeries ask for them too.
pub(super) const FETCH_INTERVAL: Duration = Duration::from_secs(1);

/// How often a node compares its ring with some peers even if nothing is missing: one that nobody
/// answers any more may not notice otherwise.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// Peers asked at a time.
const FETCH_PEERS: usize = 3;

/// Keeps the keys of one node.
#[derive(Debug)]
pub struct KeyKeeper {
    keys: GossipKeys,
    path: Option<PathBuf>,
    tasks: TaskGroup,
    /// What this node answers for. In use once it is in `keys`.
    held: Mutex<Option<Arc<KeyRing>>>,
    /// One ring at a time, from decision to disk.
    adopting: tokio::sync::Mutex<()>,
    changed: watch::Sender<Option<RingVersion>>,
    /// The peer last heard of that has a greater ring; asked first at the next fetch.
    ahead: Mutex<Option<NodeId>>,
}

/// What a node knows of another one when that asks for keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It has not been removed, as far as this node knows.
    pub belongs: bool,
    /// How often a node had been removed, ever, in the state that says so; see [`KeyDemand`](super::KeyDemand).
    pub removals: u64,
}

/// Why a peer's ring was not taken over. The ring in use stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// It makes no sense.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// It could not be written down, and what is not durable is not acknowledged.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
}

impl AdoptError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Ring(error) => error.code(),
            Self::File(error) => error.code(),
            Self::Stopping => "stopping",
        }
    }
}

impl KeyKeeper {
    /// The keys in `path`, or if the cluster has not changed its keys yet those of `bootstrap`.
    ///
    /// They are held back until [`Self::follow`] has looked for newer ones. Without a path nothing
    /// outlives the process.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn open(
        path: Option<PathBuf>,
        bootstrap: Option<GossipKey>,
        tasks: TaskGroup,
    ) -> Result<Arc<Self>, KeyFileError> {
        let kept = path.as_deref().map(store::read).transpose()?.flatten();
        let first = bootstrap.map(KeyRing::bootstrap);
        let held = kept.into_iter().chain(first).max_by_key(KeyRing::version);
        Ok(Self::holding(held, path, tasks))
    }

    pub(super) fn holding(held: Option<KeyRing>, path: Option<PathBuf>, tasks: TaskGroup) -> Arc<Self> {
        Arc::new(Self {
            keys: GossipKeys::empty(),
            path,
            tasks,
            changed: watch::Sender::new(held.as_ref().map(KeyRing::version)),
            held: Mutex::new(held.map(Arc::new)),
            adopting: tokio::sync::Mutex::default(),
            ahead: Mutex::default(),
        })
    }

    /// The handle for sealing and opening.
    #[must_use]
    pub fn keys(&self) -> GossipKeys {
        self.keys.clone()
    }

    /// The ring this node answers for.
    #[must_use]
    pub fn held(&self) -> Option<Arc<KeyRing>> {
        self.lock().clone()
    }

    /// Wakes when the ring is replaced.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<RingVersion>> {
        self.changed.subscribe()
    }

    /// Takes over `ring` if it is greater than what is held: first on disk, then in use. `true` if it was.
    ///
    /// Cancel safe: what was begun is finished all the same.
    ///
    /// # Errors
    /// [`AdoptError`].
    pub async fn adopt(self: &Arc<Self>, ring: KeyRing) -> Result<bool, AdoptError> {
        let this = Arc::clone(self);
        // On a task of its own: a caller that gives up must not interrupt between disk and memory.
        let adopting = self.tasks.spawn(async move { this.adopt_now(ring).await });
        adopting.await.ok().flatten().unwrap_or(Err(AdoptError::Stopping))
    }

    async fn adopt_now(&self, ring: KeyRing) -> Result<bool, AdoptError> {
        let _one_at_a_time = self.adopting.lock().await;
        if !ring.supersedes(self.held().as_deref())? {
            return Ok(false);
        }
        if let Some(path) = self.path.clone() {
            let written = ring.clone();
            let write = self.tasks.blocking(move || store::write(&path, &written));
            write.await.map_err(|_| AdoptError::Stopping)??;
        }
        let ring = Arc::new(ring);
        tracing::info!(
            version = %ring.version(),
            epoch = ring.current().epoch(),
            staged = ring.next().is_some(),
            "gossip keys changed"
        );
        *self.lock() = Some(Arc::clone(&ring));
        self.changed.send_replace(Some(ring.version()));
        self.keys.set(ring);
        Ok(true)
    }

    /// Answers the peers of which `standing` says that they belong to the cluster.
    ///
    /// What it says may be old: the state that removes a node reaches this one some time after the key made
    /// without it. So a ring made after more removals than this node knows of is handed to nobody.
    pub fn serve(
        self: &Arc<Self>,
        router: &Router,
        standing: impl Fn(NodeId) -> Standing + Send + Sync + 'static,
    ) {
        let standing = Arc::new(standing);
        let refused = || Rejection::new("node-removed", "the caller has been removed from the cluster");
        let (this, known) = (Arc::clone(self), Arc::clone(&standing));
        router.register::<FetchKeys, _, _>(move |caller, theirs| {
            let known = known(caller.peer.node);
            let answer = if known.belongs {
                this.answer(caller.peer.node, theirs, known.removals)
            } else {
                Err(refused())
            };
            async move { answer }
        });
        let this = Arc::clone(self);
        router.register::<OfferKeys, _, _>(move |caller, text| {
            let (this, known) = (Arc::clone(&this), standing(caller.peer.node));
            async move {
                if !known.belongs {
                    return Err(refused());
                }
                let reject =
                    |code: &str, error: &dyn std::fmt::Display| Rejection::new(code, error.to_string());
                let ring = text.ring().map_err(|error| reject(error.code(), &error))?;
                let version = ring.version();
                let adopted = this.adopt(ring).await;
                adopted.map_err(|error| reject(error.code(), &error))?;
                Ok(this.held().map_or(version, |ring| ring.version()))
            }
        });
    }

    /// What `peer`, which has `theirs`, is sent by a node that knows of so many `removals`.
    ///
    /// A peer that has more asks because it cannot read somebody, and that is whoever is behind: perhaps this
    /// node, which may read all that the others send, and would not look for keys by itself.
    fn answer(
        &self,
        peer: NodeId,
        theirs: Option<RingVersion>,
        removals: u64,
    ) -> Result<Option<RingText>, Rejection> {
        let held = self.held();
        let ours = held.as_ref().map(|ring| ring.version());
        if theirs > ours {
            *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
            self.keys.report_missing();
        }
        match held.filter(|_| ours > theirs) {
            Some(ring) if ring.removals() > removals => Err(Rejection::new(
                "removals-not-applied",
                "this node has not heard yet who was removed before the keys were made; ask another one",
            )),
            ring => Ok(ring.map(|ring| RingText::of(&ring))),
        }
    }

    /// Takes over the ring of `peer` if it is greater. `true` if this node then has one, `false` if neither
    /// has.
    ///
    /// # Errors
    /// [`CallError`]: the peer did not answer, or what it answered is no use.
    pub async fn fetch(self: &Arc<Self>, transport: &Transport, peer: NodeId) -> Result<bool, CallError> {
        let ours = self.held().map(|ring| ring.version());
        let ctx = CallCtx::timeout(CALL_TIMEOUT);
        let Some(text) = transport.call::<FetchKeys>(peer, &ours, ctx).await? else {
            return Ok(ours.is_some());
        };
        let unusable = |error: AdoptError| {
            tracing::warn!(peer, code = error.code(), %error, "a peer's gossip keys were not taken over");
            CallError::Incompatible {
                cause: error.to_string(),
            }
        };
        let ring = text.ring().map_err(|error| unusable(error.into()))?;
        self.adopt(ring).await.map_err(unusable)?;
        Ok(true)
    }

    /// Hands the ring held to `peer`, and says what that holds then.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn offer(
        &self,
        transport: &Transport,
        peer: NodeId,
        ring: &KeyRing,
    ) -> Result<RingVersion, CallError> {
        let ctx = CallCtx::timeout(CALL_TIMEOUT);
        transport.call::<OfferKeys>(peer, &RingText::of(ring), ctx).await
    }

    /// Keeps up with the peers: at the start, when a datagram came that no key opens, and now and then.
    /// Never returns.
    ///
    /// `peers` are those known at the moment; a node that will never have any says `alone`, and does not
    /// wait for them.
    pub async fn follow(
        self: Arc<Self>,
        transport: Transport,
        peers: impl Fn() -> Vec<NodeId> + Send + Sync,
        alone: bool,
    ) {
        let mut turn = usize::try_from(transport.local().node).unwrap_or_default();
        let start = Instant::now();
        while !alone && self.keys.ring().is_none() && start.elapsed() < START_PATIENCE {
            if self.ask_some(&transport, &peers(), &mut turn).await {
                break;
            }
            sleep(START_INTERVAL).await;
        }
        self.release();
        // Spread, so that nodes which start together do not ask together for ever.
        let refresh =
            REFRESH_INTERVAL + Duration::from_millis(transport.local().node.wrapping_mul(7_919) % 10_000);
        loop {
            tokio::select! {
                biased;
                () = self.keys.missing() => {}
                () = sleep(refresh) => {}
            }
            self.ask_some(&transport, &peers(), &mut turn).await;
            sleep(FETCH_INTERVAL).await;
        }
    }

    /// Fetches from the next few peers. `true` if one answered and this node has keys.
    async fn ask_some(self: &Arc<Self>, transport: &Transport, peers: &[NodeId], turn: &mut usize) -> bool {
        let others: Vec<NodeId> = peers
            .iter()
            .copied()
            .filter(|node| *node != transport.local().node)
            .collect();
        let asked = others.len().min(FETCH_PEERS);
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ahead = ahead.filter(|node| others.contains(node));
        let in_turn = others.iter().copied().cycle();
        let in_turn = in_turn.skip(turn.checked_rem(others.len()).unwrap_or_default());
        let in_turn = in_turn.take(others.len()).filter(|node| Some(*node) != ahead);
        let chosen: Vec<NodeId> = ahead.into_iter().chain(in_turn).take(asked).collect();
        *turn = turn.wrapping_add(asked);
        let fetched = join_all(chosen.into_iter().map(|peer| async move {
            let fetched = self.fetch(transport, peer).await;
            if let Err(error) = &fetched {
                tracing::debug!(peer, %error, "gossip keys not fetched");
            }
            fetched.unwrap_or(false)
        }));
        fetched.await.into_iter().any(|has| has)
    }

    /// Puts what is held into use, unless something greater is already.
    fn release(&self) {
        let held = self.lock();
        if let Some(ring) = held.as_ref().filter(|_| self.keys.ring().is_none()) {
            self.keys.set(Arc::clone(ring));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<KeyRing>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
