//! Requests and answers of the machine over the cluster's own connections.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
    vec::Vec,
};

use rivven_transport::{
    CallCtx, Caller, Class, Method, PeerIdentity, Rejection, Router, TaskGroup, Transport,
};
use rivven_types::NodeId;
use tokio::sync::{Semaphore, oneshot};
use tracing::trace;

use super::Shared;
use crate::{Identity, MAX_DATAGRAM_LEN, MAX_STREAM_LEN, StreamEvent};

/// How long an answer may take. The machine has given up a probe long before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Most requests under way. Further ones fail at once.
const MAX_REQUESTS: usize = 32;

/// Most requests of others that are being answered. Further ones are refused.
const MAX_ANSWERS: usize = 256;

/// Length of a body in front of it.
const LENGTH_PREFIX: usize = 5;

/// One payload of gossip each way.
struct Exchange;

impl Method for Exchange {
    const ID: u16 = 0x0304;
    const NAME: &'static str = "gossip.exchange";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = MAX_DATAGRAM_LEN + LENGTH_PREFIX;
    const MAX_RESPONSE: usize = MAX_STREAM_LEN + LENGTH_PREFIX;
    type Request = Vec<u8>;
    type Response = Vec<u8>;
}

/// The number of the last request, and who waits for the machine's answer to which.
type Waiting = (u64, BTreeMap<u64, oneshot::Sender<Vec<u8>>>);

/// Requests of others that wait for the machine's answer.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Waiting>);

impl Answers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect_one(&self) -> Option<(u64, oneshot::Receiver<Vec<u8>>)> {
        let mut guard = self.lock();
        let (next, waiting) = &mut *guard;
        if waiting.len() >= MAX_ANSWERS {
            return None;
        }
        *next += 1;
        let (sender, receiver) = oneshot::channel();
        waiting.insert(*next, sender);
        Some((*next, receiver))
    }

    /// Nobody waits for the answer to request `id` any more.
    fn forget(&self, id: u64) {
        self.lock().1.remove(&id);
    }

    /// The machine has answered request `id`.
    pub(super) fn give(&self, id: u64, body: Vec<u8>) {
        if let Some(waiting) = self.lock().1.remove(&id) {
            // Who no longer waits needs no answer.
            let _ = waiting.send(body);
        }
    }
}

/// The way to members over streams.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    transport: Transport,
    room: Arc<Semaphore>,
}

impl Streams {
    pub(super) fn new(transport: Transport) -> Self {
        let room = Arc::new(Semaphore::new(MAX_REQUESTS));
        Self { transport, room }
    }

    /// Asks `to`, and tells the machine what came of it.
    pub(super) fn request(
        &self,
        tasks: &TaskGroup,
        shared: &Arc<Shared>,
        (to, id): (NodeId, u64),
        body: Vec<u8>,
    ) {
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            shared.stream(StreamEvent::Failed { id });
            return;
        };
        let (transport, shared) = (self.transport.clone(), Arc::clone(shared));
        tasks.spawn(async move {
            let answer = transport
                .call::<Exchange>(to, &body, CallCtx::timeout(ANSWER_TIMEOUT))
                .await;
            // Whoever answered has passed the hello of this connection.
            let event = match (&answer, transport.peer(to)) {
                (Ok(body), Some(peer)) => StreamEvent::Response {
                    id,
                    sender: identity_of(&peer),
                    body,
                },
                (Ok(_), None) => StreamEvent::Failed { id },
                (Err(error), _) => {
                    trace!(node = to, code = error.code(), %error, "gossip over a stream failed");
                    StreamEvent::Failed { id }
                }
            };
            shared.stream(event);
            drop(place);
        });
    }
}

/// Has `router` hand requests of members to the machine.
pub(super) fn serve(router: &Router, shared: &Arc<Shared>) {
    let shared = Arc::downgrade(shared);
    router
        .register::<Exchange, _, _>(move |caller, body: Vec<u8>| answer(Weak::clone(&shared), caller, body));
}

async fn answer(shared: Weak<Shared>, caller: Caller, body: Vec<u8>) -> Result<Vec<u8>, Rejection> {
    let gone = || Rejection::new("shutting-down", "the member has been shut down");
    let (id, waiting) = {
        let shared = shared.upgrade().ok_or_else(gone)?;
        let Some((id, waiting)) = shared.answers.expect_one() else {
            return Err(Rejection::new("overloaded", "too many gossip requests at once"));
        };
        shared.stream(StreamEvent::Request {
            id,
            sender: identity_of(&caller.peer),
            body: &body,
        });
        (id, waiting)
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, waiting).await {
        Ok(answered) => answered.map_err(|_| gone()),
        Err(_) => {
            if let Some(shared) = shared.upgrade() {
                shared.answers.forget(id);
            }
            Err(gone())
        }
    }
}

const fn identity_of(peer: &PeerIdentity) -> Identity {
    Identity {
        node: peer.node,
        instance: peer.instance,
        boot_epoch: peer.boot_epoch,
    }
}
