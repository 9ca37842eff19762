//! Whom a client asks: the leader as far as it has heard, or one member after the other.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rivven_transport::CallCtx;
use rivven_types::{NodeId, PeerAddr};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::Inner;
use crate::{forward::SUPERSEDED_GRACE, wire::client::Members};

/// How long an answer may be due before the client asks the other members who leads. A leader that is only busy
/// is asked about in vain, at most this often.
const DOUBT_INTERVAL: Duration = Duration::from_millis(25);

/// How often a node that is to answer when something changes is asked whether it still follows a leader.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a member may take to say who leads.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// Most members that are remembered.
const MAX_MEMBERS: usize = 64;

/// Members, and which of them is believed to lead.
#[derive(Debug)]
pub(super) struct Leaders {
    leader: watch::Sender<Option<NodeId>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    members: BTreeMap<NodeId, PeerAddr>,
    /// Whom to ask when no leader is known: the first member from here on.
    next: NodeId,
    asked: Option<Instant>,
}

impl Default for Leaders {
    fn default() -> Self {
        Self {
            leader: watch::Sender::new(None),
            known: Mutex::default(),
        }
    }
}

impl Leaders {
    pub(super) fn current(&self) -> Option<NodeId> {
        *self.leader.borrow()
    }

    /// Whom to ask.
    pub(super) fn pick(&self) -> Option<NodeId> {
        self.current().or_else(|| {
            let mut known = self.known();
            let from = known.members.range(known.next..).next();
            let (&node, _) = from.or_else(|| known.members.first_key_value())?;
            known.next = node.wrapping_add(1);
            Some(node)
        })
    }

    /// `node` has acted as the leader.
    pub(super) fn confirmed(&self, node: NodeId) {
        self.set(Some(node));
    }

    /// `node` could not be asked, or does not know who leads.
    pub(super) fn failed(&self, node: NodeId) {
        self.leader.send_if_modified(|leader| {
            let it = *leader == Some(node);
            if it {
                *leader = None;
            }
            it
        });
    }

    fn set(&self, now: Option<NodeId>) {
        self.leader.send_if_modified(|leader| {
            let changed = *leader != now;
            *leader = now;
            changed
        });
    }

    /// Waits until another node than `node` is believed to lead.
    async fn superseded(&self, node: NodeId) {
        let mut watch = self.leader.subscribe();
        // The sender lives as long as this borrow.
        let _ = watch.wait_for(|now| now.is_some_and(|now| now != node)).await;
    }

    /// Whether it is time to ask again, which the caller then does.
    fn doubt(&self, now: Instant) -> bool {
        let mut known = self.known();
        let due = known.asked.is_none_or(|asked| now >= asked + DOUBT_INTERVAL);
        if due {
            known.asked = Some(now);
        }
        due
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each critical section leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Remembers members, and where they are.
    pub(super) fn learn(&self, members: BTreeMap<NodeId, PeerAddr>) {
        let mut known = self.leaders.known();
        for (node, addr) in members {
            if known.members.len() >= MAX_MEMBERS && !known.members.contains_key(&node) {
                continue;
            }
            if known.members.insert(node, addr.clone()).as_ref() != Some(&addr) {
                self.transport.set_address(node, addr);
            }
        }
    }

    /// `node` does not lead, and names who does.
    pub(super) async fn hinted(&self, node: NodeId, leader: Option<NodeId>) {
        match leader.filter(|leader| *leader != node) {
            Some(leader) => {
                let known = self.leaders.known().members.contains_key(&leader);
                if !known {
                    self.ask(node).await;
                }
                self.leaders.set(Some(leader));
            }
            None => self.leaders.failed(node),
        }
    }

    /// Waits until an answer of `node` is no longer worth waiting for. Meanwhile it asks the others who leads: a
    /// node that was killed does not say so.
    pub(super) async fn replaced(&self, node: NodeId) {
        let doubt = async {
            loop {
                sleep(DOUBT_INTERVAL).await;
                if self.leaders.doubt(Instant::now()) {
                    self.ask_others(node).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = self.leaders.superseded(node) => {}
            () = doubt => {}
        }
        sleep(SUPERSEDED_GRACE).await;
    }

    /// Waits until `node` does not answer any more, or knows of no leader and so hears of no change.
    pub(super) async fn lost(&self, node: NodeId) {
        loop {
            sleep(CHECK_INTERVAL).await;
            if self.ask(node).await.is_none() {
                return;
            }
        }
    }

    /// Asks every member.
    pub(super) async fn ask_around(&self) {
        self.ask_others(0).await;
    }

    async fn ask_others(&self, than: NodeId) {
        let others: Vec<NodeId> = {
            let known = self.leaders.known();
            known
                .members
                .keys()
                .copied()
                .filter(|node| *node != than)
                .collect()
        };
        let mut asked: FuturesUnordered<_> = others.into_iter().map(|node| self.ask(node)).collect();
        while let Some(named) = asked.next().await {
            // Whoever still names the one in doubt has not noticed anything either.
            if let Some(leader) = named.filter(|leader| *leader != than) {
                self.leaders.set(Some(leader));
                return;
            }
        }
    }

    /// Asks one member who leads and who the others are.
    async fn ask(&self, node: NodeId) -> Option<NodeId> {
        let ctx = CallCtx::timeout(ASK_TIMEOUT);
        let answer = self.transport.call::<Members>(node, &(), ctx).await.ok()?;
        self.learn(answer.nodes);
        answer.leader
    }
}
