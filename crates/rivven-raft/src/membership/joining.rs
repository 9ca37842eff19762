//! A node that says who it is until the group knows it: to become a member, or as the one that it is.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use rivven_transport::LocalIdentity;
use rivven_types::{NodeId, PeerAddr};
use tokio::time::{Instant, sleep, timeout_at};

use super::{DEFAULT_PRIORITY, JoinRequest, MemberError, MemberRole, ask_to_join, wire::WireAsk};
use crate::{RaftNode, StateMachine, fabric::fabric_addr, node::Inner};

/// Wait between attempts: doubles from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long the leader may take to know a member.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a node says of itself when it joins a running group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JoinAs {
    /// Where members reach it. Required over a transport; a fabric finds nodes by id.
    pub addr: Option<PeerAddr>,
    /// Its zone. Default: in none.
    pub zone: String,
    /// What it may become. Default [`MemberRole::Auto`].
    pub role: MemberRole,
    /// How much it should lead. Default [`DEFAULT_PRIORITY`].
    pub priority: u16,
}

impl Default for JoinAs {
    fn default() -> Self {
        Self {
            addr: None,
            zone: String::new(),
            role: MemberRole::Auto,
            priority: DEFAULT_PRIORITY,
        }
    }
}

impl JoinAs {
    /// A node that may become a voter, in no zone.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where members reach it.
    #[must_use]
    pub fn addr(mut self, addr: PeerAddr) -> Self {
        self.addr = Some(addr);
        self
    }

    /// Its zone.
    #[must_use]
    pub fn zone(mut self, zone: &str) -> Self {
        zone.clone_into(&mut self.zone);
        self
    }

    /// What it may become.
    #[must_use]
    pub const fn role(mut self, role: MemberRole) -> Self {
        self.role = role;
        self
    }

    /// How much it should lead, up to [`MAX_PRIORITY`](crate::MAX_PRIORITY).
    ///
    /// A leader hands over to a voter of a higher priority that has lived without a break for the time that
    /// [`RaftBuilder::priority_hold`](crate::RaftBuilder::priority_hold) says, twice as long for each break of the last
    /// hour. One of priority 0 leads only while nobody else can, and does not wait. Elections do not look at it.
    #[must_use]
    pub const fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    /// The same as a request of the node `local`. Without an address it is one that only a fabric needs no other for.
    pub(crate) fn request(self, local: &LocalIdentity) -> JoinRequest {
        JoinRequest {
            node: local.node,
            instance: local.instance,
            addr: self.addr.unwrap_or_else(|| fabric_addr(local.node)),
            zone: self.zone,
            role: self.role,
            priority: self.priority,
        }
    }
}

impl From<JoinRequest> for JoinAs {
    fn from(request: JoinRequest) -> Self {
        Self {
            addr: Some(request.addr),
            zone: request.zone,
            role: request.role,
            priority: request.priority,
        }
    }
}

/// Says who the node is until it is a member and the leader knows it. Ends with the node.
pub(crate) async fn introduce<S: StateMachine>(
    node: Weak<Inner<S>>,
    contacts: Vec<NodeId>,
    request: JoinRequest,
) {
    let (first, longest) = RETRY;
    let mut pause = first;
    loop {
        let Some(inner) = node.upgrade().filter(|node| node.stop_reason().is_none()) else {
            return;
        };
        let member = inner.status().initialized;
        let known = if member {
            let ask = WireAsk::Join(request.clone());
            inner.ask(&ask, ANNOUNCE_TIMEOUT).await.map(drop)
        } else {
            ask_any(&inner, &contacts, &request).await
        };
        match known {
            Ok(()) if member => {
                inner.source.refuse(None);
                return;
            }
            // The leader adds it; then it is a member.
            Ok(()) => inner.source.refuse(None),
            Err(MemberError::Refused(refusal)) => {
                tracing::error!(node_id = request.node, code = refusal.code(), %refusal, "not let in; trying again");
                inner.source.refuse(Some(refusal));
            }
            Err(error) => tracing::debug!(node_id = request.node, %error, "not let in yet; trying again"),
        }
        drop(inner);
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Asks one contact after the other.
async fn ask_any<S: StateMachine>(
    inner: &Arc<Inner<S>>,
    contacts: &[NodeId],
    request: &JoinRequest,
) -> Result<(), MemberError> {
    let mut last = MemberError::NoLeader {
        waited: Duration::ZERO,
        cause: "nobody to ask is known".into(),
    };
    for contact in contacts {
        match ask_to_join(&inner.transport, *contact, request.clone()).await {
            Ok(()) => return Ok(()),
            // Others say the same, but for one that lags.
            Err(error @ MemberError::Refused(_)) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl<S: StateMachine> RaftNode<S> {
    /// Waits until this node is a member: it was founded, or was let in and has received the membership.
    ///
    /// # Errors
    /// The node is refused, stopped, or nobody let it in within `timeout`. It keeps asking.
    pub async fn wait_joined(&self, timeout: Duration) -> Result<(), MemberError> {
        let deadline = Instant::now() + timeout;
        let mut watch = self.watch();
        let mut refused = self.inner().source.refused();
        loop {
            let status = self.status();
            if let Some(cause) = status.stopped {
                return Err(MemberError::Stopped { cause });
            }
            if status.initialized {
                return Ok(());
            }
            if let Some(refusal) = refused.borrow_and_update().clone() {
                return Err(MemberError::Refused(refusal));
            }
            let news = async {
                tokio::select! {
                    biased;
                    _ = watch.changed() => {}
                    _ = refused.changed() => {}
                }
            };
            if timeout_at(deadline, news).await.is_err() {
                return Err(MemberError::NoLeader {
                    waited: timeout,
                    cause: "no member has let this node in yet".into(),
                });
            }
        }
    }
}
