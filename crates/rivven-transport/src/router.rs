//! Which handler answers which method.

use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, ready},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{self, Context, Poll},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use rivven_types::NodeId;
use tokio::time::{Instant, timeout_at};
use tracing::error;

use crate::{
    CallError, Method, MethodSpec, PeerIdentity, Rejection, TraceContext,
    call::{MALFORMED_RESPONSE, RESPONSE_TOO_LARGE},
    identity::Role,
    metrics::{Begun, CallMetrics, End},
    stream::Handlers,
};

/// Who calls, and until when an answer is of use.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The peer, as its certificate and hello say.
    pub peer: PeerIdentity,
    /// What the peer's certificate makes it; on a network in memory, what it joined as. `None` for a stranger,
    /// who has no certificate and reaches nothing but [`Method::STRANGERS`].
    pub role: Option<Role>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Where the call belongs in the caller's trace, if the caller traces it.
    pub trace: Option<TraceContext>,
}

type Handler = Arc<dyn Fn(Caller, Bytes) -> BoxFuture<'static, Result<Bytes, Rejection>> + Send + Sync>;

/// The methods and transfers a node answers. Cheap to clone; all clones are one table.
///
/// Services register while the transport already runs; until then their methods are refused with
/// `unknown-method`, which callers may retry.
#[derive(Clone)]
pub struct Router {
    table: Arc<ArcSwap<BTreeMap<u16, (MethodSpec, Handler)>>>,
    served: Arc<CallMetrics>,
    transfers: Handlers,
}

impl Default for Router {
    fn default() -> Self {
        Self {
            table: Arc::default(),
            served: Arc::new(CallMetrics::new(End::Handler)),
            transfers: Handlers::default(),
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.table.load().values().map(|(spec, _)| spec.name))
            .finish()
    }
}

impl Router {
    /// A table without methods.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers method `M` with `handler`, replacing an earlier handler of the same number.
    pub fn register<M, F, Fut>(&self, handler: F)
    where
        M: Method,
        F: Fn(Caller, M::Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<M::Response, Rejection>> + Send + 'static,
    {
        let spec = MethodSpec::of::<M>();
        let handler = Arc::new(handler);
        let erased: Handler = Arc::new(move |caller, body| {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let request = postcard::from_bytes(&body).map_err(|error| {
                    Rejection::new("malformed-request", format!("{}: {error}", spec.name))
                })?;
                // It may be a part of what was read at once, which it keeps in memory.
                drop(body);
                let response = handler(caller, request).await?;
                encode_response(spec, &response)
            })
        });
        self.table.rcu(|table| {
            let mut table = BTreeMap::clone(table);
            table.insert(spec.id, (spec, Arc::clone(&erased)));
            table
        });
    }

    /// Forgets every handler, so that what they hold can be dropped.
    pub fn clear(&self) {
        self.table.store(Arc::default());
        self.transfers.clear();
    }

    /// What metrics call `node`.
    pub(crate) fn peer_label(&self, node: NodeId) -> String {
        self.served.label(node)
    }

    /// The transfers that are taken.
    pub(crate) const fn transfers(&self) -> &Handlers {
        &self.transfers
    }

    /// The constants of method `id`, if it is registered.
    #[must_use]
    pub fn spec(&self, id: u16) -> Option<MethodSpec> {
        self.table.load().get(&id).map(|(spec, _)| *spec)
    }

    /// Whether some method may be called with an expired certificate.
    pub(crate) fn answers_expired(&self) -> bool {
        self.table.load().values().any(|(spec, _)| spec.after_expiry)
    }

    /// Whether some method may be called without a certificate.
    pub(crate) fn answers_strangers(&self) -> bool {
        self.table.load().values().any(|(spec, _)| spec.strangers)
    }

    /// Runs the handler of method `id`. Cancel safety: that of the handler.
    ///
    /// # Errors
    /// What the handler refused, `unknown-method`, or `malformed-request`.
    pub async fn dispatch(&self, caller: Caller, id: u16, body: Bytes) -> Result<Bytes, Rejection> {
        self.begin(caller, id, body).await
    }

    /// Answers a call that a node makes to itself, as a peer would: a handler that panics has not answered, and
    /// its caller goes on.
    pub(crate) async fn call_here(
        &self,
        caller: Caller,
        method: MethodSpec,
        body: Bytes,
    ) -> Result<Bytes, CallError> {
        let (node, deadline) = (caller.peer.node, caller.deadline);
        let handling = AssertUnwindSafe(self.begin(caller, method.id, body)).catch_unwind();
        match timeout_at(deadline, handling).await {
            Ok(Ok(answer)) => answer.map_err(CallError::Rejected),
            Ok(Err(_panic)) => {
                error!(method = method.name, "handler panicked");
                Err(CallError::MaybeExecuted {
                    node,
                    cause: "the handler ended without an answer; see this node's log".into(),
                })
            }
            Err(_) => Err(CallError::Deadline),
        }
    }

    /// [`Self::dispatch`] as a value. Nothing of the handler runs until it is polled.
    pub(crate) fn begin(&self, caller: Caller, id: u16, body: Bytes) -> Handling {
        let len = body.len();
        match self.table.load().get(&id) {
            Some((spec, handler)) => {
                let (node, trace) = (caller.peer.node, caller.trace);
                let handler = handler(caller, body);
                Handling {
                    begun: Some(self.served.begin(node, spec.class, len)),
                    handler: match trace {
                        Some(trace) => trace.follow((spec.name, node), handler),
                        None => handler,
                    },
                }
            }
            None => {
                let text = format!("method {id:#06x} is not served here");
                Handling {
                    begun: None,
                    handler: Box::pin(ready(Err(Rejection::new("unknown-method", text)))),
                }
            }
        }
    }
}

/// A handler at work, which is counted.
pub(crate) struct Handling {
    begun: Option<Begun>,
    handler: BoxFuture<'static, Result<Bytes, Rejection>>,
}

impl Future for Handling {
    type Output = Result<Bytes, Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = task::ready!(self.handler.as_mut().poll(cx));
        if let Some(begun) = self.begun.take() {
            match &answer {
                Ok(response) => begun.answered(response.len()),
                Err(_) => begun.rejected(),
            }
        }
        Poll::Ready(answer)
    }
}

fn encode_response<R: serde::Serialize>(spec: MethodSpec, response: &R) -> Result<Bytes, Rejection> {
    let body = postcard::to_allocvec(response)
        .map_err(|error| Rejection::new(MALFORMED_RESPONSE, format!("{}: {error}", spec.name)))?;
    if body.len() > spec.max_response {
        let message = format!(
            "{}: {} bytes, the limit is {}",
            spec.name,
            body.len(),
            spec.max_response
        );
        return Err(Rejection::new(RESPONSE_TOO_LARGE, message));
    }
    Ok(body.into())
}
