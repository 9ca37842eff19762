//! What this node must do about the partitions that it holds, and what lets it prove that it may.

mod lead;
mod lease;
mod machine;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rivven_partition::{LeaderEpoch, PartitionState, Start, TopicId, TopicName};
use rivven_types::{NodeId, PeerAddr};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

pub(crate) use self::machine::Spot;
use self::{
    lead::Leadership,
    lease::Lease,
    machine::{Machine, Step},
    report::{Report, Said},
};
pub use self::{
    lead::{Fence, Lead},
    lease::{LEADER_LEASE, Lapsed},
    report::ReportError,
};
use crate::{
    inner::{Inner, Stage},
    published::Published,
};

/// What this node must do about one partition. From [`Duties::next`].
#[derive(Debug)]
pub enum Duty {
    /// Lead it: open it, say [`Lead::ready`], and show the [`Fence`] of [`Lead::check`] with whatever is acknowledged.
    Lead(Lead),
    /// Follow its leader, under that leader's epoch; whoever led it until then has stopped.
    Follow(Follow),
    /// Stop leading it so that another node can: flush, then say [`Release::released`].
    Release(Release),
    /// It is not held here any more: close it, and remove what was kept.
    Close(Replica),
}

/// A partition of which this node holds a replica, or held one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replica {
    /// Name of the topic.
    pub topic: TopicName,
    /// Number of the topic, never given to another one.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: u32,
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl Duty {
    /// The partition that it is about.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        match self {
            Self::Lead(lead) => &lead.0.replica,
            Self::Follow(follow) => &follow.replica,
            Self::Release(release) => &release.lead.replica,
            Self::Close(replica) => replica,
        }
    }
}

impl Replica {
    const fn spot(&self) -> Spot {
        (self.topic_id, self.partition)
    }
}

/// A partition whose leader is another node, or for the moment nobody.
#[derive(Clone, Debug)]
pub struct Follow {
    /// The partition.
    pub replica: Replica,
    /// Who leads; nobody while no in-sync replica is alive, or this node's own earlier start until it is elected
    /// anew.
    pub leader: Option<Start>,
    /// The fencing token of that leadership. Accept nothing under a lower one.
    pub epoch: LeaderEpoch,
    /// This process, as the leader has to report it.
    pub me: Start,
    published: Arc<Published>,
}

impl Follow {
    /// Where the leader's program is reached under `name`: `endpoints` of its configuration.
    #[must_use]
    pub fn leader_endpoint(&self, name: &str) -> Option<PeerAddr> {
        let leader = self.leader?.node;
        self.published.read(|state| {
            state
                .map()
                .node(leader)?
                .registration
                .endpoints
                .get(name)
                .cloned()
        })
    }
}

/// A partition that another node is to lead, whether this one was told to lead it yet or not.
#[derive(Debug)]
pub struct Release {
    lead: Arc<Leadership>,
    to: Option<NodeId>,
}

impl Release {
    /// The partition.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.lead.replica
    }

    /// Who is to lead next.
    #[must_use]
    pub const fn to(&self) -> Option<NodeId> {
        self.to
    }

    /// Says that this process acts as the leader no more: the successor begins at once.
    ///
    /// Every [`Lead::check`] of this leadership fails from the call on. Without it the controller waits ten seconds,
    /// and the successor a lease more.
    ///
    /// Cancel safety: checks fail all the same.
    ///
    /// # Errors
    /// [`ReportError`]; [`ReportError::Superseded`] says that the wait was over already.
    pub async fn released(self) -> Result<(), ReportError> {
        // First of all: nothing may be acknowledged once the successor can have begun.
        self.lead.let_go.fetch_max(self.lead.epoch.0, Ordering::AcqRel);
        self.lead.say(Said::Released).await.map(drop)
    }
}

/// What the duties of one node share.
#[derive(Debug)]
pub(crate) struct Desk {
    lease: Arc<Lease>,
    reports: mpsc::Sender<Report>,
    published: Arc<Published>,
    stage: watch::Receiver<Stage>,
    /// For each partition that was led, the last epoch that was let go of.
    let_go: Mutex<BTreeMap<Spot, Arc<AtomicU64>>>,
}

impl Desk {
    /// The desk of a node, with its tasks.
    pub(crate) fn open(inner: &Arc<Inner>) -> Arc<Self> {
        let (reports, asked) = mpsc::channel(report::MAX_WAITING);
        let lease = Arc::new(Lease::new());
        inner
            .tasks
            .spawn(lease::renew(Arc::clone(inner), Arc::clone(&lease)));
        inner.tasks.spawn(report::run(Arc::clone(inner), asked));
        Arc::new(Self {
            lease,
            reports,
            published: Arc::clone(&inner.published),
            stage: inner.stage.subscribe(),
            let_go: Mutex::default(),
        })
    }

    fn let_go(&self, spot: Spot) -> Arc<AtomicU64> {
        let mut let_go = self.let_go.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(let_go.entry(spot).or_default())
    }

    fn forget(&self, spot: Spot) {
        let mut let_go = self.let_go.lock().unwrap_or_else(PoisonError::into_inner);
        let_go.remove(&spot);
    }
}

/// What this node must do, one partition after the other. From
/// [`PartitionManager::local`](crate::PartitionManager::local).
///
/// Duties of one partition come in order, and only the latest of those that were not taken yet: a partition that was
/// led, lost and won again in between is led. Several streams of one node are given the same duties.
#[derive(Debug)]
pub struct Duties(Option<Stream>);

/// The duties of a node that runs.
#[derive(Debug)]
struct Stream {
    me: Start,
    machine: Machine,
    desk: Arc<Desk>,
    changed: watch::Receiver<u64>,
    stage: watch::Receiver<Stage>,
}

impl Duties {
    /// Those of the process `me`; of one that is gone without a desk, none.
    pub(crate) fn new(desk: Option<Arc<Desk>>, me: Start) -> Self {
        Self(desk.map(|desk| Stream {
            me,
            machine: Machine::new(me),
            changed: desk.published.subscribe(),
            stage: desk.stage.clone(),
            desk,
        }))
    }

    /// Waits for the next duty. `None` once the node has stopped.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn next(&mut self) -> Option<Duty> {
        self.next_but(&BTreeSet::new()).await
    }

    /// The next duty of a partition that is not `busy`.
    pub(crate) async fn next_but(&mut self, busy: &BTreeSet<Spot>) -> Option<Duty> {
        self.0.as_mut()?.next_but(busy).await
    }
}

impl Stream {
    async fn next_but(&mut self, busy: &BTreeSet<Spot>) -> Option<Duty> {
        loop {
            if *self.stage.borrow_and_update() == Stage::Stopped {
                return None;
            }
            // Before the state is read: a change in between is looked at twice rather than missed.
            self.changed.borrow_and_update();
            let map = self
                .desk
                .published
                .read(|state: &PartitionState| state.map().clone());
            self.machine.note(&map);
            if let Some((spot, topic, step)) = self.machine.pop(&map, Instant::now(), busy) {
                return Some(self.duty(spot, topic, (step, map.generation())));
            }
            let due = self.machine.due();
            let wait = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                stage = self.stage.changed() => stage.ok()?,
                changed = self.changed.changed() => changed.ok()?,
                () = wait => {}
            }
        }
    }

    fn duty(&self, spot: Spot, topic: TopicName, (step, generation): (Step, u64)) -> Duty {
        let replica = Replica {
            topic,
            topic_id: spot.0,
            partition: spot.1,
        };
        match step {
            Step::Lead { epoch } => Duty::Lead(Lead(self.leadership(replica, (epoch, generation)))),
            Step::Release { epoch, to } => Duty::Release(Release {
                lead: self.leadership(replica, (epoch, generation)),
                to,
            }),
            Step::Follow { leader, epoch } => Duty::Follow(Follow {
                replica,
                leader,
                epoch,
                me: self.me,
                published: Arc::clone(&self.desk.published),
            }),
            Step::Close => {
                self.desk.forget(spot);
                Duty::Close(replica)
            }
        }
    }

    fn leadership(&self, replica: Replica, (epoch, since): (LeaderEpoch, u64)) -> Arc<Leadership> {
        Arc::new(Leadership {
            let_go: self.desk.let_go(replica.spot()),
            replica,
            epoch,
            since,
            me: self.me,
            open: AtomicBool::new(false),
            pending: Mutex::default(),
            desk: Arc::clone(&self.desk),
        })
    }
}
