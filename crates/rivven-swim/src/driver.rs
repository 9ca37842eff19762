//! [`SwimNode`]: the machine on a UDP socket.

mod batch;
mod builder;
mod envelope;
mod error;
mod knock;
mod peers;
mod resolve;
mod run;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
    vec::Vec,
};

use rivven_transport::TaskGroup;
use rivven_types::{InstanceId, NodeId};
use tokio::{
    sync::{Notify, broadcast, watch},
    time::Instant,
};

use self::streams::Answers;
pub use self::{batch::MemberBatches, builder::SwimBuilder, error::StartError};
use crate::{
    Broadcast, BroadcastError, Command, ConfigError, Identity, MemberEvent, MemberView, StreamEvent, Swim,
    SwimConfig, Time,
};

/// Events kept for a consumer that is slow; then it misses some and is told so.
const EVENT_BUFFER: usize = 1_024;

/// Longest wait for a goodbye to be told.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for tasks to end; they end at their next await.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// A member of the cluster on a UDP socket. Cheap to clone; all clones are the same member.
///
/// It runs a task for the socket on the current tokio runtime, one for each known peer given by name, one
/// that keeps the file of peers, and short ones that knock at ports and wait for streams, until [`Self::shutdown`] or until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct SwimNode {
    inner: Arc<Inner>,
}

/// Ends the tasks with the last handle; the tasks themselves hold only [`Shared`].
#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    tasks: TaskGroup,
    local_addr: SocketAddr,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

/// What the handles and the tasks share.
#[derive(Debug)]
struct Shared {
    swim: Mutex<Swim>,
    /// The origin of the machine's time.
    origin: Instant,
    /// Tells the socket's task that an input left something to do.
    commanded: Notify,
    answers: Answers,
    /// The sender belongs to the socket's task, so that events end when it does.
    events: broadcast::WeakSender<MemberEvent>,
    messages: broadcast::WeakSender<Broadcast>,
    left: watch::Sender<bool>,
    /// Datagrams not sealed or not opened, by reason.
    dropped: Mutex<BTreeMap<&'static str, u64>>,
}

impl Shared {
    fn swim(&self) -> MutexGuard<'_, Swim> {
        self.swim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dropped(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    fn command(&self, command: Command) {
        self.swim().command(self.now(), command);
        self.commanded.notify_one();
    }

    fn stream(&self, event: StreamEvent<'_>) {
        self.swim().handle_stream(self.now(), event);
        self.commanded.notify_one();
    }
}

impl SwimNode {
    /// Starts a member with an identity made up on the spot, **unsealed**: anyone who can send to its port
    /// can join or disturb its cluster. It says so once in the log.
    ///
    /// For real use give it an identity and a key: [`Self::builder`]. Returns once the port is bound;
    /// known peers are found in the background for as long as it takes.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running.
    pub async fn new(config: SwimConfig) -> Result<Self, StartError> {
        Self::builder(config).insecure().start().await
    }

    /// A member with more settings than the configuration has.
    pub const fn builder(config: SwimConfig) -> SwimBuilder {
        SwimBuilder::new(config)
    }

    /// Every member known, itself and those that are gone included, in order of node id.
    #[must_use]
    pub fn members(&self) -> Vec<MemberView> {
        self.inner.shared.swim().members()
    }

    /// What is known of `node`.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<MemberView> {
        self.inner.shared.swim().member(node)
    }

    /// Datagrams dropped since the start, by the code of the reason: not opened, or not sealed.
    #[must_use]
    pub fn dropped(&self) -> BTreeMap<&'static str, u64> {
        self.inner.shared.dropped().clone()
    }

    /// Changes in the membership from here on.
    #[must_use]
    pub fn events(&self) -> MemberEvents {
        let sender = self.inner.shared.events.upgrade();
        // After the end there are no events: the other half of this channel is gone already.
        let receiver = sender.map_or_else(|| broadcast::channel(1).1, |sender| sender.subscribe());
        MemberEvents { receiver }
    }

    /// Changes in the membership from here on, collected for 250 ms each: for work that is costly to do, and
    /// that a doubt which is contradicted at once is no reason for.
    #[must_use]
    pub fn batches(&self) -> MemberBatches {
        // Subscribed first: what happens in between comes twice, and shows once.
        let events = self.events();
        MemberBatches::new(events, &self.members())
    }

    /// Messages that other members [`Self::broadcast`] from here on.
    #[must_use]
    pub fn messages(&self) -> Messages {
        let sender = self.inner.shared.messages.upgrade();
        let receiver = sender.map_or_else(|| broadcast::channel(1).1, |sender| sender.subscribe());
        Messages { receiver }
    }

    /// Tells `body` to every member, as well as gossip can: it may arrive late, or not, but at most once.
    ///
    /// # Errors
    /// [`BroadcastError`]; nothing was sent.
    pub fn broadcast(&self, body: &[u8]) -> Result<(), BroadcastError> {
        let shared = &self.inner.shared;
        let result = shared.swim().broadcast(shared.now(), body);
        shared.commanded.notify_one();
        result
    }

    /// Replaces the bytes that others see in [`MemberView::meta`].
    ///
    /// # Errors
    /// [`ConfigError::MetaTooLong`]; nothing changed.
    pub fn set_meta(&self, meta: &[u8]) -> Result<(), ConfigError> {
        let shared = &self.inner.shared;
        let result = shared.swim().set_meta(shared.now(), meta);
        shared.commanded.notify_one();
        result
    }

    /// Who this member is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.inner.shared.swim().identity()
    }

    /// The address of its socket.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// Probes `node` at once, because something suggests that it is gone or back.
    ///
    /// Changes nothing by itself, and is cheap to call too often.
    pub fn hint(&self, node: NodeId) {
        self.inner.shared.command(Command::Hint(node));
    }

    /// Forgets `node` if it is known with the data directory `instance`, so that another one may take its number.
    ///
    /// For whoever keeps a membership of record. Members that have not been told the same bring it back by
    /// gossip, so tell all of them, and again as long as it comes back.
    pub fn forget(&self, node: NodeId, instance: InstanceId) {
        self.inner.shared.command(Command::Forget(node, instance));
    }

    /// Says goodbye, so that others need not suspect. Returns once it has been told, or after five seconds.
    ///
    /// The member still answers until [`Self::shutdown`]. Cancel safe: the goodbye is told all the same.
    pub async fn leave(&self) {
        if self.inner.tasks.is_aborted() {
            return;
        }
        let mut left = self.inner.shared.left.subscribe();
        self.inner.shared.command(Command::Leave);
        // Failing to be heard is like crashing a little later, which others cope with.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, left.wait_for(|left| *left)).await;
    }

    /// Ends the tasks and closes the socket, without a goodbye. Idempotent.
    pub async fn shutdown(&self) {
        self.inner.tasks.abort();
        self.inner.tasks.join(SHUTDOWN_GRACE).await;
    }
}

/// Changes in the membership, in order. Made by [`SwimNode::events`].
#[derive(Debug)]
pub struct MemberEvents {
    receiver: broadcast::Receiver<MemberEvent>,
}

impl MemberEvents {
    /// The next change; `None` once the member is shut down and all have been read.
    ///
    /// Who reads too slowly gets [`MemberEvent::Missed`] and should read the members again. Cancel safe.
    pub async fn next(&mut self) -> Option<MemberEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(MemberEvent::Missed { count }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Messages of other members. Made by [`SwimNode::messages`].
#[derive(Debug)]
pub struct Messages {
    receiver: broadcast::Receiver<Broadcast>,
}

impl Messages {
    /// The next message; `None` once the member is shut down and all have been read.
    ///
    /// Messages are lost to who reads too slowly: they are best effort anyway. Cancel safe.
    pub async fn next(&mut self) -> Option<Broadcast> {
        loop {
            match self.receiver.recv().await {
                Ok(message) => return Some(message),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
