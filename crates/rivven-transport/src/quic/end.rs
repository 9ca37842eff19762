//! One end of a connection, from the hellos to its end: the same whoever dialled it.

use std::sync::Arc;

use quinn::{ConnectionError, VarInt};
use tracing::info;

use super::{
    accept::serve,
    congestion::give_way,
    control::{self, control_loop},
    explain::explain,
    guests::Place,
    hello::{Purpose, close},
    line::{Leave, Line},
    peer::{DialError, Link, Peer, Tie},
    shared::Shared,
};
use crate::{
    PeerIdentity, TaskGroup,
    identity::Subject,
    metrics::{Connected, Dialler},
};

/// Who is at the other end of a connection, and how that was learnt.
pub(super) struct Met {
    pub(super) shared: Arc<Shared>,
    pub(super) purpose: Purpose,
    /// The peer whose calls and this node's share the connection; none for guests, who only call.
    pub(super) peer: Option<Arc<Peer>>,
    pub(super) identity: PeerIdentity,
    pub(super) subject: Subject,
    /// The peer's certificate had expired.
    pub(super) expired: bool,
    /// This node dialled.
    pub(super) dialled: bool,
    pub(super) control: control::Streams,
    /// A guest's place, free again when the connection ends.
    pub(super) _room: Option<Place>,
}

/// Ends a group with its owner.
pub(super) struct AbortOnDrop(pub(super) TaskGroup);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves the calls of the peer and watches over those of this node until the connection ends; then every
/// handler of it ends too.
pub(super) async fn run(met: Met, line: Arc<Line>) {
    let Met {
        shared,
        purpose,
        peer,
        identity,
        subject,
        expired,
        dialled,
        control,
        _room,
    } = met;
    info!(peer = %subject, ?purpose, dialled, "connected");
    if purpose == Purpose::Bulk {
        give_way(&line.connection);
    }
    let _end = shared.ends.token();
    let dialler = if dialled { Dialler::Us } else { Dialler::Peer };
    let _counted = Connected::new(dialler, purpose.label());
    let lanes = AbortOnDrop(TaskGroup::current());
    let handlers = AbortOnDrop(shared.callers.sibling());
    let left_by_peer = {
        let (peer, line) = (peer.clone(), Arc::clone(&line));
        move |why| {
            if let Some(peer) = &peer {
                peer.left_by_peer(purpose, &line, why);
            }
        }
    };
    let speaking = control_loop(
        Arc::clone(&shared),
        identity.node,
        Arc::clone(&line),
        control,
        left_by_peer,
    );
    lanes.0.spawn(speaking);
    if peer.is_none() {
        lanes
            .0
            .spawn(follow_identity(Arc::clone(&shared), Arc::clone(&line)));
    }
    let caller = (&identity, subject.role(), expired);
    let error = serve(&shared, &line.connection, purpose, caller, &handlers.0).await;
    let cause = explain(&error).to_string();
    line.fail(&cause);
    info!(peer = %subject, ?purpose, cause, "disconnected");
    if let Some(peer) = &peer {
        peer.forget(purpose, &line, after(&error, &line, cause));
    }
}

/// The state of the way to a peer whose connection has ended: failed, unless the two parted in peace.
fn after(error: &ConnectionError, line: &Line, cause: String) -> Link {
    let peaceful = match error {
        ConnectionError::ApplicationClosed(frame) => [close::DONE, close::SHUTDOWN, close::SUPERSEDED]
            .map(VarInt::from_u32)
            .contains(&frame.error_code),
        // Its next start is there already.
        ConnectionError::Reset => true,
        ConnectionError::LocallyClosed => line.has_left(),
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::TimedOut
        | ConnectionError::CidsExhausted => false,
    };
    if peaceful {
        Link::Idle
    } else {
        Link::Failed(DialError::Unreachable(cause))
    }
}

/// Asks a guest to connect anew when this node's certificate or authorities have changed: nobody dials a guest.
async fn follow_identity(shared: Arc<Shared>, line: Arc<Line>) {
    let watch = shared.trust.watch();
    let mut changes = watch.subscribe();
    while line.is_of(&watch.current()) {
        if changes.changed().await.is_err() {
            return;
        }
    }
    line.leave(Leave::Replaced);
}
