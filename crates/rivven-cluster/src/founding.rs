//! Who founds the cluster: one set, accepted durably by each of its nodes, before anything is replicated.
//!
//! The rules (design section 5):
//! - A node's *resolved set* is itself and whoever answered, by certificate, at the addresses it was given.
//! - The lowest id of the set proposes it under a random founding id. Each node accepts at most one
//!   founding in the life of its data directory, durably, before it answers, and only if it resolved the
//!   very same nodes and instances itself.
//! - Only when all have accepted may the lowest id initialise Raft. A node takes part in Raft only after it
//!   has accepted, so an empty disk under a known id can neither vote nor be voted for.
//! - Whoever meets a founding that does not name it asks to join the cluster that came of it, and accepts the
//!   founding once the cluster has let it in.

pub(crate) mod bootstrap;
pub(crate) mod file;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rivven_transport::{Class, LocalIdentity, Method, Rejection, TaskGroup};
use rivven_types::{InstanceId, NodeId, PeerAddr};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{StartError, status::Problem};

/// Most bytes of any message below: room for the most founders with the longest host names.
const MAX_MESSAGE: usize = 64 * 1024;

/// Foundings given up that a founding remembers. Beyond it the oldest are forgotten: who comes back from before
/// them is told of two clusters, and shut out like the others.
const MAX_PREDECESSORS: usize = 16;

/// The history a node belongs to. Two histories under one certificate authority differ in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FoundingId(pub(crate) InstanceId);

impl FoundingId {
    pub(crate) const fn from_random(random: [u8; 16]) -> Self {
        Self(InstanceId::from_random(random))
    }
}

impl fmt::Display for FoundingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Node ids and the data directories behind them.
pub(crate) type Instances = BTreeMap<NodeId, InstanceId>;

/// One founder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Founder {
    pub(crate) instance: InstanceId,
    pub(crate) addr: PeerAddr,
}

/// A founding: an id and the founders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Founding {
    pub(crate) id: FoundingId,
    pub(crate) founders: BTreeMap<NodeId, Founder>,
    /// The foundings of the same cluster that a recovery has given up, the last first.
    pub(crate) predecessors: Vec<FoundingId>,
}

impl Founding {
    /// The first founding of a cluster.
    pub(crate) const fn new(id: FoundingId, founders: BTreeMap<NodeId, Founder>) -> Self {
        Self {
            id,
            founders,
            predecessors: Vec::new(),
        }
    }

    pub(crate) fn instances(&self) -> Instances {
        self.founders
            .iter()
            .map(|(node, founder)| (*node, founder.instance))
            .collect()
    }

    pub(crate) fn lowest(&self) -> Option<NodeId> {
        self.founders.keys().next().copied()
    }

    /// Whether this very data directory is among the founders, and not another one under its node id.
    pub(crate) fn names(&self, local: &LocalIdentity) -> bool {
        let founder = self.founders.get(&local.node);
        founder.is_some_and(|founder| founder.instance == local.instance)
    }

    /// Whether it is for this node to bring the founding about.
    pub(crate) fn is_led_by(&self, local: &LocalIdentity) -> bool {
        self.lowest() == Some(local.node) && self.names(local)
    }

    /// The founding by which `founder` goes on alone after a recovery.
    pub(crate) fn recovered(id: FoundingId, founder: (NodeId, Founder), before: Option<&Self>) -> Self {
        let given_up = before.into_iter().flat_map(|before| {
            let older = before.predecessors.iter().copied();
            std::iter::once(before.id).chain(older)
        });
        Self {
            id,
            founders: BTreeMap::from([founder]),
            predecessors: given_up.take(MAX_PREDECESSORS).collect(),
        }
    }

    /// Whether this founding came of a recovery that gave `other` up.
    fn succeeds(&self, other: &Self) -> bool {
        self.predecessors.contains(&other.id)
    }

    /// Equal but for addresses, which may change.
    fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.instances() == other.instances()
    }
}

/// How far a node has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum View {
    /// Not every address has answered.
    Looking,
    /// These answered.
    Resolved(Instances),
    /// This was accepted.
    Accepted(Founding),
}

/// Exchanges views.
pub(crate) struct Introduce;

impl Method for Introduce {
    const ID: u16 = 0x0201;
    const NAME: &'static str = "cluster.introduce";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = MAX_MESSAGE;
    const MAX_RESPONSE: usize = MAX_MESSAGE;
    type Request = View;
    type Response = View;
}

/// Asks for durable acceptance.
pub(crate) struct Propose;

impl Method for Propose {
    const ID: u16 = 0x0202;
    const NAME: &'static str = "cluster.found";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = MAX_MESSAGE;
    const MAX_RESPONSE: usize = 0;
    type Request = Founding;
    type Response = ();
}

/// This node's part in the founding.
#[derive(Debug)]
pub(crate) struct Founders {
    local: LocalIdentity,
    path: PathBuf,
    tasks: TaskGroup,
    resolved: Mutex<Option<Instances>>,
    accepted: watch::Sender<Option<Arc<Founding>>>,
    /// One acceptance at a time, from decision to disk.
    accepting: tokio::sync::Mutex<()>,
    /// What an operator must mend, by the peer it concerns.
    problems: Mutex<BTreeMap<NodeId, Problem>>,
}

impl Founders {
    /// Reads what was accepted earlier.
    pub(crate) fn open(local: LocalIdentity, path: PathBuf, tasks: TaskGroup) -> Result<Self, StartError> {
        let accepted = file::read(&path, &local)?.map(Arc::new);
        Ok(Self {
            local,
            path,
            tasks,
            resolved: Mutex::default(),
            accepted: watch::Sender::new(accepted),
            accepting: tokio::sync::Mutex::default(),
            problems: Mutex::default(),
        })
    }

    /// What was accepted, if anything was.
    pub(crate) fn accepted(&self) -> Option<Arc<Founding>> {
        self.accepted.borrow().clone()
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.values().cloned().collect()
    }

    fn view(&self) -> View {
        if let Some(founding) = self.accepted() {
            return View::Accepted(Founding::clone(&founding));
        }
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.clone().map_or(View::Looking, View::Resolved)
    }

    fn set_resolved(&self, resolved: Option<Instances>) {
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = resolved;
    }

    /// Notes what is wrong with a peer, and says so in the log when it is news.
    fn note(&self, peer: NodeId, problem: Option<Problem>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            None => {
                problems.remove(&peer);
            }
            Some(problem) if problems.get(&peer) == Some(&problem) => {}
            Some(problem) => {
                tracing::error!(
                    node_id = self.local.node,
                    peer,
                    code = problem.code,
                    problem = %problem.message,
                    "the founders do not agree; trying again"
                );
                problems.insert(peer, problem);
            }
        }
    }

    /// Answers [`Introduce`].
    pub(crate) fn introduced(&self, peer: NodeId, theirs: &View) -> View {
        let mine = self.view();
        self.note(peer, judge(&self.local, &mine, peer, theirs));
        mine
    }

    /// Answers [`Propose`]: accepts durably, or says why not.
    pub(crate) async fn proposed(
        self: Arc<Self>,
        proposer: NodeId,
        founding: Founding,
    ) -> Result<(), Rejection> {
        // On a task of its own, because a caller that gives up must not interrupt between disk and memory.
        let this = Arc::clone(&self);
        let accepting = self
            .tasks
            .spawn(async move { this.accept(proposer, founding).await });
        let stopping = || Rejection::new("stopping", "this node is stopping; ask again when it is back");
        accepting.await.ok().flatten().unwrap_or_else(|| Err(stopping()))
    }

    async fn accept(&self, proposer: NodeId, founding: Founding) -> Result<(), Rejection> {
        let _one_at_a_time = self.accepting.lock().await;
        match decide(&self.local, &self.view(), proposer, &founding)? {
            Decision::AlreadyAccepted => return Ok(()),
            Decision::Accept => {}
        }
        self.keep(founding).await
    }

    /// Accepts the founding of a cluster that has let this node in.
    pub(crate) async fn joined(self: Arc<Self>, founding: Founding) -> Result<(), Rejection> {
        // On a task of its own, as above.
        let this = Arc::clone(&self);
        let accepting = self.tasks.spawn(async move {
            let _one_at_a_time = this.accepting.lock().await;
            match this.accepted() {
                Some(accepted) if accepted.is_same(&founding) => Ok(()),
                Some(accepted) => {
                    let problem = other_founding(this.local.node, &accepted, this.local.node, &founding);
                    Err(Rejection::new(problem.code, problem.message))
                }
                None => this.keep(founding).await,
            }
        });
        let stopping = || Rejection::new("stopping", "this node is stopping");
        accepting.await.ok().flatten().unwrap_or_else(|| Err(stopping()))
    }

    /// Makes a founding durable, and then known.
    async fn keep(&self, founding: Founding) -> Result<(), Rejection> {
        let (path, local, written) = (self.path.clone(), self.local.clone(), founding.clone());
        let write = move || file::write(&path, &local, &written);
        let result = self.tasks.blocking(write).await;
        result
            .map_err(|error| error.to_string())
            .and_then(|written| written.map_err(|error| error.to_string()))
            .map_err(|cause| {
                let message = format!("cannot write {}: {cause}; make it writable", self.path.display());
                Rejection::new("data-file-unusable", message)
            })?;
        tracing::info!(
            node_id = self.local.node,
            founding_id = %founding.id,
            founders = ?founding.founders.keys().collect::<Vec<_>>(),
            "accepted the founding"
        );
        self.accepted.send_replace(Some(Arc::new(founding)));
        Ok(())
    }

    /// Waits until a founding is accepted.
    pub(crate) async fn wait_accepted(&self) -> Arc<Founding> {
        let mut accepted = self.accepted.subscribe();
        loop {
            if let Some(founding) = accepted.borrow_and_update().clone() {
                return founding;
            }
            // The sender lives in `self`, so the wait cannot fail.
            if accepted.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// What to do with a proposal that may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Accept,
    AlreadyAccepted,
}

/// Whether this node, with its view, accepts a founding.
fn decide(
    local: &LocalIdentity,
    mine: &View,
    proposer: NodeId,
    founding: &Founding,
) -> Result<Decision, Rejection> {
    match mine {
        View::Accepted(accepted) if accepted.is_same(founding) => Ok(Decision::AlreadyAccepted),
        View::Accepted(accepted) => {
            let problem = other_founding(local.node, accepted, proposer, founding);
            Err(Rejection::new(problem.code, problem.message))
        }
        View::Looking => Err(Rejection::new(
            "founders-unknown",
            "this node has not reached every address in its own `raft.peers` yet; ask again",
        )),
        View::Resolved(_) if founding.lowest() != Some(proposer) => Err(Rejection::new(
            "not-lowest",
            format!("node {proposer} is not the lowest id of the founding it proposes"),
        )),
        View::Resolved(resolved) if *resolved != founding.instances() => {
            let problem = differ(local.node, resolved, proposer, &founding.instances());
            Err(Rejection::new(problem.code, problem.message))
        }
        View::Resolved(_) => Ok(Decision::Accept),
    }
}

/// What an operator must mend before `mine` and a peer's view can become one founding.
fn judge(local: &LocalIdentity, mine: &View, peer: NodeId, theirs: &View) -> Option<Problem> {
    match (mine, theirs) {
        (View::Looking, View::Looking | View::Resolved(_)) | (View::Resolved(_), View::Looking) => None,
        (View::Resolved(mine), View::Resolved(theirs)) if mine == theirs => None,
        (View::Resolved(mine), View::Resolved(theirs)) => Some(differ(local.node, mine, peer, theirs)),
        (View::Accepted(mine), View::Accepted(theirs)) if mine.is_same(theirs) => None,
        (View::Accepted(mine), View::Accepted(theirs)) => {
            Some(other_founding(local.node, mine, peer, theirs))
        }
        // The peer is in the middle of what this node has behind it; its own judgement is the useful one.
        (View::Accepted(_), View::Looking | View::Resolved(_)) => None,
        // A founder waits to be asked; whoever is none asks to join, and hears then why it cannot.
        (View::Looking | View::Resolved(_), View::Accepted(_)) => None,
    }
}

/// Two nodes found different nodes behind their peer lists.
fn differ(me: NodeId, mine: &Instances, peer: NodeId, theirs: &Instances) -> Problem {
    if mine.keys().eq(theirs.keys()) {
        let changed: Vec<NodeId> = mine
            .iter()
            .filter(|(node, instance)| theirs.get(node) != Some(instance))
            .map(|(node, _)| *node)
            .collect();
        let message = format!(
            "nodes {me} and {peer} see different data directories behind node ids {changed:?}: if it does not \
             pass by itself, two processes share a node id; give each its own id and certificate"
        );
        return Problem::new("duplicate-node-id", message);
    }
    Problem::new(
        "founders-differ",
        format!(
            "node {me} was told of founders {}, node {peer} of {}; name the same nodes in `raft.peers` everywhere",
            names(mine),
            names(theirs)
        ),
    )
}

/// Two nodes accepted different foundings: two histories under one certificate authority.
fn other_founding(me: NodeId, mine: &Founding, peer: NodeId, theirs: &Founding) -> Problem {
    let (old, by) = match (mine.succeeds(theirs), theirs.succeeds(mine)) {
        (true, false) => (peer, &mine.id),
        (false, true) => (me, &theirs.id),
        _ => return two_clusters(me, mine, peer, theirs),
    };
    Problem::new(
        "cluster-recovered",
        format!(
            "the cluster was recovered without the data directory of node {old}, as founding {by}: node {old} is shut \
             out and holds a history that was given up; move its data directory away and start it with an empty one"
        ),
    )
}

fn two_clusters(me: NodeId, mine: &Founding, peer: NodeId, theirs: &Founding) -> Problem {
    Problem::new(
        "other-founding",
        format!(
            "node {me} accepted founding {} of nodes {}, node {peer} speaks of founding {} of nodes {}; these \
             are two clusters under one certificate authority: empty the data directories of the one that is \
             not wanted",
            mine.id,
            names(&mine.instances()),
            theirs.id,
            names(&theirs.instances())
        ),
    )
}

fn names(set: &Instances) -> String {
    let mut names = String::new();
    for node in set.keys() {
        let comma = if names.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(names, "{comma}{node}");
    }
    names
}
