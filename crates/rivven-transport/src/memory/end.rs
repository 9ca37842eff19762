//! One node's end: its mailbox of frames under way, and what ends with it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use rivven_types::NodeId;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    MemoryNetwork,
    lane::Lane,
    limits::MAX_UNDER_WAY,
    link::{Fate, Frame},
    serve::{self, Delivery},
};
use crate::{Class, LocalIdentity, PeerIdentity, Router, TaskGroup, identity::Role, stream::Slots};

/// A node on the network.
pub(super) struct End {
    pub(super) identity: LocalIdentity,
    pub(super) role: Role,
    pub(super) router: Router,
    /// Ends calls in both directions once the node has left, as a closed connection does.
    pub(super) gone: CancellationToken,
    /// Cancelled when this node shuts down: it takes and begins no further call.
    pub(super) closing: CancellationToken,
    /// Calls that this node makes or answers and that have not ended, which a shutdown waits for.
    pub(super) in_flight: TaskTracker,
    /// Room for transfers from each peer.
    pub(super) transfers: Slots,
    tasks: OnceLock<TaskGroup>,
    mailbox: Mutex<Mailbox>,
    changed: Notify,
}

/// Frames on their way to a node, in the order of arrival.
#[derive(Default)]
struct Mailbox {
    frames: BTreeMap<(Instant, u64), (NodeId, Delivery)>,
    next: u64,
    /// Whether the task that empties this mailbox runs.
    pumped: bool,
}

/// What became of a frame at the mailbox.
enum Queued {
    /// It need not wait.
    Due(Delivery),
    /// It waits, and nothing empties the mailbox yet.
    First,
    /// It waits with others.
    Among,
    /// There was no room for it.
    Overflowed,
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl End {
    pub(super) fn new(identity: LocalIdentity, role: Role, router: Router) -> Self {
        Self {
            identity,
            role,
            router,
            gone: CancellationToken::new(),
            closing: CancellationToken::new(),
            in_flight: TaskTracker::new(),
            transfers: Slots::default(),
            tasks: OnceLock::new(),
            mailbox: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn in_tasks(self, tasks: TaskGroup) -> Self {
        Self {
            tasks: OnceLock::from(tasks),
            ..self
        }
    }

    pub(super) fn proven(&self) -> PeerIdentity {
        PeerIdentity {
            node: self.identity.node,
            instance: self.identity.instance,
            boot_epoch: self.identity.boot_epoch,
        }
    }

    /// The tasks of this node, on the runtime that first needs one.
    pub(super) fn tasks(&self) -> &TaskGroup {
        self.tasks.get_or_init(TaskGroup::current)
    }

    fn with_mailbox<T>(&self, work: impl FnOnce(&mut Mailbox) -> T) -> T {
        // Poisoning changes nothing: the mailbox is consistent after every statement.
        work(&mut self.mailbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends everything that belongs to this node.
    fn end(&self) {
        self.gone.cancel();
        if let Some(tasks) = self.tasks.get() {
            tasks.abort();
        }
        self.with_mailbox(|mailbox| std::mem::take(&mut mailbox.frames));
    }
}

impl MemoryNetwork {
    /// Sends a frame on its way to `to`; it may never arrive.
    ///
    /// A frame that needs no time is delivered before this returns, unless others are under way.
    pub(super) fn send(&self, from: NodeId, to: &Arc<End>, frame: Frame, delivery: Delivery) {
        let fate = self.lock().send(from, to.identity.node, frame);
        let Fate::Arrives { at, again } = fate else {
            return;
        };
        if let Some(again) = again {
            self.deliver_at(again, from, to, delivery.clone());
        }
        self.deliver_at(at, from, to, delivery);
    }

    fn deliver_at(&self, at: Instant, from: NodeId, to: &Arc<End>, delivery: Delivery) {
        if to.gone.is_cancelled() {
            return;
        }
        let now = Instant::now();
        let queued = to.with_mailbox(|mailbox| {
            if at <= now && mailbox.frames.is_empty() {
                return Queued::Due(delivery);
            }
            if mailbox.frames.len() >= MAX_UNDER_WAY {
                return Queued::Overflowed;
            }
            let number = mailbox.next;
            mailbox.next += 1;
            mailbox.frames.insert((at, number), (from, delivery));
            if std::mem::replace(&mut mailbox.pumped, true) {
                Queued::Among
            } else {
                Queued::First
            }
        });
        match queued {
            Queued::Due(delivery) => serve::deliver(self, from, to, delivery),
            Queued::First => {
                to.tasks().spawn(pump(self.clone(), Arc::clone(to)));
            }
            Queued::Among => to.changed.notify_one(),
            Queued::Overflowed => self.lock().stats.overflowed += 1,
        }
    }
}

/// Delivers the frames of a mailbox, each at its time, until the mailbox is empty.
async fn pump(network: MemoryNetwork, end: Arc<End>) {
    while let Some(at) = end.with_mailbox(|mailbox| {
        let first = mailbox.frames.first_key_value().map(|((at, _), _)| *at);
        mailbox.pumped = first.is_some();
        first
    }) {
        // An earlier frame may come in between.
        tokio::select! {
            biased;
            () = sleep_until(at) => {}
            () = end.changed.notified() => {}
        }
        let now = Instant::now();
        while let Some((from, delivery)) = end.with_mailbox(|mailbox| {
            let first = mailbox.frames.first_entry()?;
            (first.key().0 <= now).then(|| first.remove())
        }) {
            serve::deliver(&network, from, &end, delivery);
        }
    }
}

/// What a node holds of its end: it leaves the network with this.
pub(super) struct MemoryEnd {
    pub(super) end: Arc<End>,
    pub(super) network: MemoryNetwork,
    lanes: Mutex<BTreeMap<(NodeId, usize), Arc<Lane>>>,
}

impl MemoryEnd {
    pub(super) fn new(end: Arc<End>, network: MemoryNetwork) -> Self {
        Self {
            end,
            network,
            lanes: Mutex::default(),
        }
    }

    pub(super) fn peer_end(&self, node: NodeId) -> Option<Arc<End>> {
        self.network.lock().ends.get(&node).cloned()
    }

    /// The bounds of the calls to `node`, which is or was on the network, in `class`.
    pub(super) fn lane(&self, node: NodeId, class: Class) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes
            .entry((node, class.index()))
            .or_insert_with(|| Arc::new(Lane::new(node)));
        Arc::clone(lane)
    }

    /// Refuses new calls, waits for those in flight, and leaves.
    pub(super) async fn close(&self, grace: Duration) {
        self.end.closing.cancel();
        self.end.in_flight.close();
        // Calls that outlast the grace end with the node.
        let _ = timeout(grace, self.end.in_flight.wait()).await;
        self.leave();
        self.end.router.clear();
    }

    fn leave(&self) {
        self.network.lock().leave(&self.end);
        self.end.end();
    }
}

impl Drop for MemoryEnd {
    fn drop(&mut self) {
        self.leave();
    }
}
