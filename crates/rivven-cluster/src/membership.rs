//! Who belongs to the cluster and who votes: what an operator asks, and what a node says of itself.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rivven_raft::{
    JoinAs, JoinRequest, MemberChange, MemberChanged, MemberError, MemberOptions, MembershipPlan,
    MembershipView, Outcome, RaftNode, ask_to_join,
};
use rivven_types::NodeId;
use tokio::time::sleep;

use crate::{
    Cluster,
    founding::{Founding, View, bootstrap::introduce_to},
    inner::Inner,
    state::ClusterState,
};

/// Wait between attempts of a node to become known: doubles from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How often a node that is known looks whether what it said of itself has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Refusals to let a node in that have a name of their own among the problems.
const REFUSALS: [&str; 4] = [
    "instance-differs",
    "instance-fenced",
    "member-removed",
    "too-many-members",
];

/// Any other refusal to let a node in.
const NOT_LET_IN: &str = "not-let-in";

/// Why there is no answer about the membership. [`MembershipError::outcome`] says whether anything was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The cluster is not founded yet, or this node is stopping. Not done; wait, or ask another node.
    #[error("this node cannot say who belongs to the cluster: {cause}")]
    NotReady {
        /// What it waits for.
        cause: String,
    },
    /// The node has the only replicas in sync of some partitions. Not done; wait until other replicas are in
    /// sync, empty the node first, or force the change with a reason, which gives those partitions up.
    #[error(
        "node {node} has the only replica in sync of {partitions} partitions; wait for others to be in sync or \
         give it the weight 0 to empty it first, or force it with a reason, which gives the data up"
    )]
    SoleReplica {
        /// The node.
        node: NodeId,
        /// How many partitions.
        partitions: usize,
    },
    /// The group refuses it, or could not be asked.
    #[error(transparent)]
    Raft(#[from] MemberError),
}

impl MembershipError {
    /// Whether the change may have been made.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::NotReady { .. } | Self::SoleReplica { .. } => Outcome::NotDone,
            Self::Raft(error) => error.outcome(),
        }
    }

    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &str {
        match self {
            Self::NotReady { .. } => "not-ready",
            Self::SoleReplica { .. } => "sole-replica",
            Self::Raft(error) => error.code(),
        }
    }
}

impl Cluster {
    /// Who belongs to the cluster, who votes, and what is being done about it, as the Raft leader sees it.
    ///
    /// Gossip's view is [`Self::members`].
    ///
    /// # Errors
    /// [`MembershipError`]: there is no leader to ask, or the cluster is not founded.
    pub async fn membership(&self) -> Result<MembershipView, MembershipError> {
        Ok(raft(self.inner())?.membership().await?)
    }

    /// Every step of a change, with the quorum before and after, or without a change what will be done anyway.
    /// Changes nothing.
    ///
    /// # Errors
    /// What [`Self::change_membership`] would be refused with.
    pub async fn plan_membership(
        &self,
        change: Option<MemberChange>,
        force: Option<String>,
    ) -> Result<MembershipPlan, MembershipError> {
        let raft = raft(self.inner())?;
        let forced = force.is_some();
        // The group's own refusals come first: forcing does not help against all of them.
        let plan = raft.plan_membership(change, force).await?;
        check_replicas(self.inner(), change, forced)?;
        Ok(plan)
    }

    /// Changes who belongs to the cluster. Whoever leads carries the change out, step by step.
    ///
    /// A node that is to leave gives up its partitions' leaderships, and its replicas are built anew elsewhere.
    /// Cancel safety: after dropping the future the change may be written down, and then goes on.
    ///
    /// # Errors
    /// [`MembershipError::outcome`] says whether the change may be written down.
    pub async fn change_membership(
        &self,
        change: MemberChange,
        options: MemberOptions,
    ) -> Result<MemberChanged, MembershipError> {
        let raft = raft(self.inner())?;
        check_replicas(self.inner(), Some(change), options.force.is_some())?;
        Ok(raft.change_membership(change, options).await?)
    }
}

fn raft(inner: &Inner) -> Result<&RaftNode<ClusterState>, MembershipError> {
    inner
        .raft()
        .filter(|_| inner.is_initialized())
        .ok_or_else(|| MembershipError::NotReady {
            cause: inner.waiting_for(),
        })
}

/// Refuses to give up the only replica in sync of a partition unless somebody says so.
fn check_replicas(inner: &Inner, change: Option<MemberChange>, forced: bool) -> Result<(), MembershipError> {
    let Some(MemberChange::Remove { node } | MemberChange::Replace { node }) = change.filter(|_| !forced)
    else {
        return Ok(());
    };
    let partitions = inner.published.read(|state| {
        let partitions = state.map().topics().flat_map(|topic| topic.partitions());
        partitions
            .filter(|partition| partition.in_sync().eq([node]))
            .count()
    });
    if partitions == 0 {
        return Ok(());
    }
    Err(MembershipError::SoleReplica { node, partitions })
}

/// What this node says of itself.
async fn introduction(inner: &Inner) -> JoinRequest {
    JoinRequest {
        node: inner.local.node,
        instance: inner.local.instance,
        addr: inner.quic_addr().await,
        zone: inner.config.zone.clone().unwrap_or_default(),
        role: inner.config.role,
        priority: inner.config.members.priority,
    }
}

/// Notes whether this node is let in, or why not.
fn note(inner: &Inner, refusal: Option<&MemberError>) {
    let refused = match refusal {
        Some(MemberError::Refused(refusal)) => Some((refusal.code(), refusal.to_string())),
        Some(_) | None => None,
    };
    for code in REFUSALS.into_iter().chain([NOT_LET_IN]) {
        let known = |refused: &str| REFUSALS.into_iter().find(|code| *code == refused);
        let meant = refused
            .as_ref()
            .filter(|(refused, _)| known(refused).unwrap_or(NOT_LET_IN) == code);
        inner.note(code, meant.map(|(_, message)| message.clone()));
    }
}

/// Has a node with an empty disk join a cluster that runs, if it meets one. The founding that it belongs to
/// once the cluster has let it in.
pub(crate) async fn join(inner: &Inner) -> Option<Arc<Founding>> {
    for contact in inner.resolver.found() {
        if contact == inner.local.node {
            continue;
        }
        let met = introduce_to(&inner.founders, &inner.transport, contact).await;
        let Some(View::Accepted(founding)) = met.filter(|_| inner.founders.accepted().is_none()) else {
            continue;
        };
        if founding.names(&inner.local) {
            // Founding goes on, and this node will be asked to accept it.
            continue;
        }
        inner.wait_to_join(contact, "it has not answered yet");
        let asked = ask_to_join(&inner.transport, contact, introduction(inner).await).await;
        note(inner, asked.as_ref().err());
        if let Err(error) = asked {
            inner.wait_to_join(contact, &error);
            continue;
        }
        match Arc::clone(&inner.founders).joined(founding).await {
            Ok(()) => {
                tracing::info!(node_id = inner.local.node, contact, "let in to the cluster");
                return inner.founders.accepted();
            }
            Err(rejection) => inner.wait_to_join(contact, &rejection.message),
        }
    }
    None
}

/// Tells the group who this node is until it knows, and again when that changes. Never returns.
///
/// A founder that is to stand by, and a node that was let in and then restarted too soon, become members so.
pub(crate) async fn keep_known(inner: Arc<Inner>, raft: RaftNode<ClusterState>) {
    let (first, longest) = RETRY;
    let mut pause = first;
    let mut told = None;
    loop {
        let request = introduction(&inner).await;
        let member = raft.status().initialized;
        if member && told.as_ref() == Some(&request) {
            sleep(LOOK_INTERVAL).await;
            continue;
        }
        let said = if member {
            raft.announce(JoinAs::from(request.clone())).await
        } else {
            ask_any(&inner, &request).await
        };
        match said {
            Ok(()) => {
                note(&inner, None);
                told = member.then_some(request);
                pause = first;
            }
            Err(error) => {
                tracing::debug!(node_id = inner.local.node, %error, "not known to the group yet; trying again");
                note(&inner, Some(&error));
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Asks one node after the other to let this one in.
async fn ask_any(inner: &Inner, request: &JoinRequest) -> Result<(), MemberError> {
    let mut contacts: BTreeSet<NodeId> = inner.resolver.found().into_iter().collect();
    if let Some(founding) = inner.founders.accepted() {
        contacts.extend(founding.founders.keys());
    }
    contacts.remove(&inner.local.node);
    let mut last = MemberError::NoLeader {
        waited: Duration::ZERO,
        cause: "no other node has been reached yet".into(),
    };
    for contact in contacts {
        match ask_to_join(&inner.transport, contact, request.clone()).await {
            Ok(()) => return Ok(()),
            Err(error @ MemberError::Refused(_)) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}
