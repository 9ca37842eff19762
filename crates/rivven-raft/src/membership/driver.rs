//! Carries out what the rules decide, on the leader: looks, decides, does one step, looks again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openraft::{
    ChangeMembers, Instant as _, ServerState, async_runtime::watch::WatchReceiver, raft::Precondition,
};
use rivven_transport::{CallCtx, Transport};
use rivven_types::NodeId;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    Gate, Health, MemberCommand, MemberHold, MemberStep, Next, Policy, Preference, RemovedNotice, Seated,
    View, next,
};
use crate::{
    StateMachine,
    applied::Shared,
    core::{CoreHandle, CoreSlot},
    launch::Plant,
    status::StatusSource,
    system::{SystemCommand, SystemResponse},
    transfer::hand_over,
    types::{LogCommand, LogId, NAMESPACE_SYSTEM, RaftMetrics, Seat, term_of},
};

/// How often the leader looks whether there is something to do.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long a step may take. After that the leader looks again; what was proposed may still be committed.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a new leader may take to take over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a node that is removed may take to hear of it. It learns it later in any case, because nobody
/// speaks to it any more.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(1);

/// Wait after a step that failed: doubles from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

type Change = ChangeMembers<NodeId, Seat>;

/// What a node needs to look after the membership while it leads.
pub(crate) struct Driver<S: StateMachine> {
    pub(crate) node_id: NodeId,
    core: Arc<CoreSlot<S>>,
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) source: Arc<StatusSource>,
    pub(crate) transport: Transport,
    pub(crate) gate: Arc<Gate>,
    pub(crate) policy: Policy,
    /// Since when this node leads, in which term.
    leading: Mutex<Option<(u64, Instant)>>,
    /// Who should lead, as far as this node has seen the others.
    preference: Mutex<Preference>,
    /// One change is checked and written down at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
}

/// What a decision is based on: it is carried out only while that still holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basis {
    pub(super) term: u64,
    pub(super) membership: Option<LogId>,
    /// The newest membership is not committed yet.
    pending: bool,
}

/// What became of one look.
enum Turn {
    /// There is nothing to do, or it is not for this node to do it.
    Idle,
    Done,
    Failed(String),
}

impl<S: StateMachine> Driver<S> {
    /// Starts the tasks that look after the membership while the node runs.
    pub(crate) fn start(plant: &Plant<S>, core: &Arc<CoreSlot<S>>, source: &Arc<StatusSource>) -> Arc<Self> {
        let driver = Arc::new(Self {
            node_id: plant.node_id,
            core: Arc::clone(core),
            shared: Arc::clone(&plant.shared),
            source: Arc::clone(source),
            transport: plant.transport.clone(),
            gate: Arc::clone(plant.shared.gate()),
            policy: plant.policy.clone(),
            leading: Mutex::default(),
            preference: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        });
        let tasks = plant.scope.group();
        drop(tasks.spawn(Arc::clone(&driver).run()));
        let gate = Arc::clone(&driver.gate);
        drop(tasks.spawn(keep_out(driver.node_id, gate, driver.transport.clone())));
        drop(tasks.spawn(rest_once_removed(Arc::clone(core), Arc::clone(source))));
        driver
    }

    fn raft(&self) -> Result<CoreHandle<S>, String> {
        self.core
            .get()
            .ok_or_else(|| "this node has no consensus core at the moment".into())
    }

    /// Looks after the membership until the node ends.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut changes = self.gate.watch();
        let mut said = BTreeSet::new();
        let (first, longest) = RETRY;
        let mut pause = first;
        loop {
            if self.source.stop_reason().is_some() {
                return;
            }
            let wait = match self.turn(&mut said).await {
                Turn::Idle => LOOK_INTERVAL,
                Turn::Done => {
                    pause = first;
                    Duration::ZERO
                }
                Turn::Failed(cause) => {
                    tracing::warn!(
                        node_id = self.node_id,
                        cause,
                        "a change of the membership failed; trying again"
                    );
                    pause = (pause * 2).min(longest);
                    pause
                }
            };
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = sleep(wait) => {}
            }
        }
    }

    async fn turn(&self, said: &mut BTreeSet<MemberHold>) -> Turn {
        self.bind_peers();
        let Some((view, basis)) = self.observe().await else {
            said.clear();
            let leader = self.source.leader().ok().flatten();
            self.preference()
                .follows(leader.filter(|leader| *leader != self.node_id));
            return Turn::Idle;
        };
        let Next { step, holds } = next(&view, &self.policy);
        self.say(said, holds);
        // Who leads is looked at while nothing else is left to do, and seen at all times.
        let better = self.preference().choose(&view, &self.policy, Instant::now());
        let step = step.or(better.map(|to| MemberStep::HandOver { to }));
        let Some(step) = step.filter(|_| !basis.pending) else {
            return Turn::Idle;
        };
        tracing::info!(
            node_id = self.node_id,
            term = basis.term,
            ?step,
            "changing the membership"
        );
        let cause = match timeout(STEP_TIMEOUT, self.carry_out(step, &view, &basis)).await {
            Ok(Ok(())) => return Turn::Done,
            Ok(Err(cause)) => format!("{step:?}: {cause}"),
            Err(_) => format!("{step:?}: not committed within {STEP_TIMEOUT:?}"),
        };
        if let MemberStep::HandOver { to } = step {
            self.preference().failed(to, Instant::now());
        }
        Turn::Failed(cause)
    }

    fn preference(&self) -> MutexGuard<'_, Preference> {
        // What it remembers is whole after each call.
        self.preference.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the newest membership: whose answers count, and whether this node still is in it.
    fn bind_peers(&self) {
        let mut others = BTreeSet::new();
        {
            let metrics = self.source.metrics();
            let metrics = metrics.borrow_watched();
            for (node, place) in metrics.membership_config.membership().nodes() {
                if *node != self.node_id {
                    self.gate.bind(*node, place.instance);
                    others.insert(*node);
                }
            }
        }
        if self.gate.is_shut_out(&others) {
            self.source.remove();
        }
    }

    /// Says what the leader has to wait for, once each.
    fn say(&self, said: &mut BTreeSet<MemberHold>, holds: Vec<MemberHold>) {
        let holds: BTreeSet<MemberHold> = holds.into_iter().map(MemberHold::without_numbers).collect();
        for hold in holds.difference(said) {
            match hold {
                MemberHold::Differs { node, bound, found } => tracing::error!(
                    node_id = self.node_id,
                    peer = node,
                    %bound,
                    %found,
                    code = "instance-differs",
                    "a member comes with another data directory and is not counted; see `rivven-node member replace`"
                ),
                hold => tracing::info!(node_id = self.node_id, ?hold, "the membership waits"),
            }
        }
        *said = holds;
    }

    /// What the rules look at, if this node leads and knows all that was committed before.
    pub(super) async fn observe(&self) -> Option<(View, Basis)> {
        let metrics = RaftMetrics::clone(&self.source.metrics().borrow_watched());
        let term = metrics.current_term;
        let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(self.node_id);
        // The records are those of the whole log only once an entry of this term is applied.
        let applied = metrics.last_applied.as_ref().map(term_of);
        let since = self.leading_since(leads.then_some(term));
        let (since, true) = (since?, applied == Some(term)) else {
            return None;
        };
        let stored = &metrics.membership_config;
        let basis = Basis {
            term,
            membership: *stored.log_id(),
            pending: stored.log_id() != metrics.committed_membership_config.log_id(),
        };
        let seated = stored.membership().nodes().map(|(node, place)| {
            let seated = Seated {
                instance: place.instance,
                addr: place.addr.clone(),
                health: self.health(*node, &metrics, since),
            };
            (*node, seated)
        });
        let view = View {
            leader: self.node_id,
            configs: stored.membership().get_joint_config().clone(),
            seated: seated.collect(),
            records: self.shared.read_system(|system| system.members.clone()).await,
        };
        Some((view, basis))
    }

    /// Since when this node leads in `term`; `None` if it does not.
    fn leading_since(&self, term: Option<u64>) -> Option<Instant> {
        let mut leading = self.leading.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(term) = term else {
            *leading = None;
            return None;
        };
        let since = match *leading {
            Some((known, since)) if known == term => since,
            _ => Instant::now(),
        };
        *leading = Some((term, since));
        Some(since)
    }

    fn health(&self, node: NodeId, metrics: &RaftMetrics, since: Instant) -> Health {
        if node == self.node_id {
            return Health {
                silent: Duration::ZERO,
                lag: Some(0),
                proven: Some(self.transport.local().instance),
            };
        }
        let acked = metrics
            .heartbeat
            .as_ref()
            .and_then(|acked| acked.get(&node).copied().flatten());
        let matched = metrics
            .replication
            .as_ref()
            .and_then(|logs| logs.get(&node).copied().flatten());
        let last = metrics.last_log_index.unwrap_or(0);
        Health {
            // Whoever has never answered this leader is silent since it leads.
            silent: acked.map_or(since.elapsed(), |acked| acked.elapsed().min(since.elapsed())),
            lag: matched.map(|matched| last.saturating_sub(matched.index)),
            proven: self.transport.peer(node).map(|peer| peer.instance),
        }
    }

    async fn carry_out(&self, step: MemberStep, view: &View, basis: &Basis) -> Result<(), String> {
        let one = |node| BTreeSet::from([node]);
        let change = match step {
            // Adding nobody ends the joint configuration with its second half.
            MemberStep::FinishChange => Change::AddVoterIds(BTreeSet::new()),
            MemberStep::Bind { node } => Change::SetNodes(bound(view, node)?),
            MemberStep::AddLearner { node } => Change::AddNodes(joining(view, node)?),
            MemberStep::Promote { node } => Change::AddVoterIds(one(node)),
            MemberStep::Demote { node } => Change::RemoveVoters(one(node)),
            MemberStep::Exchange { promote, demote } => Change::Batch(vec![
                Change::AddVoterIds(one(promote)),
                Change::RemoveVoters(one(demote)),
            ]),
            MemberStep::RemoveLearner { node } => Change::RemoveNodes(one(node)),
            MemberStep::HandOver { to } => return self.hand_over(to).await,
            MemberStep::Forget { node } => {
                self.tell_removed(node).await;
                let done = self.write(MemberCommand::Forget { node }).await?;
                return match done {
                    SystemResponse::Refused(refusal) => Err(refusal.to_string()),
                    _ => Ok(()),
                };
            }
        };
        // A membership that changed since it was looked at needs another look.
        let unchanged = Precondition::LastMembershipLogId {
            last_membership_log_id: basis.membership,
        };
        let raft = self.raft()?;
        let changed =
            raft.call(|raft| async move { raft.change_membership_if(change, true, [unchanged]).await });
        changed.await.map(drop).map_err(|error| error.to_string())
    }

    /// Has the log carry a command of the records.
    pub(super) async fn write(&self, command: MemberCommand) -> Result<SystemResponse, String> {
        let body =
            postcard::to_allocvec(&SystemCommand::Member(command)).map_err(|error| error.to_string())?;
        let command = LogCommand {
            namespace: NAMESPACE_SYSTEM,
            body: body.into(),
        };
        let raft = self.raft()?;
        let written = raft.call(|raft| async move { raft.client_write(command).await });
        let reply = written.await.map_err(|error| error.to_string())?.data.0;
        postcard::from_bytes(&reply).map_err(|error| io::Error::other(error).to_string())
    }

    async fn hand_over(&self, to: NodeId) -> Result<(), String> {
        let mut metrics = self.source.metrics();
        let deadline = Instant::now() + HAND_OVER_TIMEOUT;
        let late = || format!("node {to} did not take over within {HAND_OVER_TIMEOUT:?}");
        if !hand_over(&self.raft()?, (self.node_id, to), deadline).await? {
            return Err(late());
        }
        let taken = async {
            while metrics.borrow_watched().current_leader == Some(self.node_id) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout_at(deadline, taken).await.map_err(|_| late())
    }

    /// Tells a node that it is no member any more, if it can be reached. Nobody speaks to it after that.
    async fn tell_removed(&self, node: NodeId) {
        let ctx = CallCtx::timeout(NOTICE_TIMEOUT);
        if let Err(error) = self.transport.call::<RemovedNotice>(node, &(), ctx).await {
            tracing::debug!(node_id = self.node_id, peer = node, %error, "not told that it was removed");
        }
    }
}

/// The place of a member, bound to the data directory that it has proven to come with.
fn bound(view: &View, node: NodeId) -> Result<BTreeMap<NodeId, Seat>, String> {
    let seated = view.seated.get(&node).ok_or("it is no member")?;
    let place = Seat {
        addr: seated.addr.clone(),
        instance: seated.health.proven,
    };
    Ok(BTreeMap::from([(node, place)]))
}

/// The place of a node that joins, as it said itself.
fn joining(view: &View, node: NodeId) -> Result<BTreeMap<NodeId, Seat>, String> {
    let record = view.records.get(node).ok_or("it has not asked to join")?;
    let place = Seat {
        addr: record.addr.clone().ok_or("it has given no address")?,
        instance: record.instance,
    };
    Ok(BTreeMap::from([(node, place)]))
}

/// Refuses the removed by the transport, and lets in who was let in again, until the node ends.
async fn keep_out(node_id: NodeId, gate: Arc<Gate>, transport: Transport) {
    let mut changes = gate.watch();
    let mut denied = BTreeSet::new();
    loop {
        let removed = changes.borrow_and_update().refused();
        for node in removed.difference(&denied).filter(|node| **node != node_id) {
            transport.deny(*node);
        }
        for node in denied.difference(&removed) {
            transport.allow(*node);
        }
        denied = removed;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Ends the core of a node that was removed: it would stand for election again and again.
async fn rest_once_removed<S: StateMachine>(core: Arc<CoreSlot<S>>, source: Arc<StatusSource>) {
    source.until_removed().await;
    if let Some(raft) = core.get() {
        raft.end().await;
    }
}
