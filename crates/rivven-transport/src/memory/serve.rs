//! The answering side: what arrives, and the handlers it starts.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::FutureExt;
use rivven_types::NodeId;
use tokio::{sync::oneshot, time::timeout_at};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::{
    MemoryNetwork,
    end::End,
    link::{Frame, Kind},
};
use crate::{Caller, MethodSpec, Rejection, metrics::refused};

/// What a frame does when it arrives.
#[derive(Clone)]
pub(super) enum Delivery {
    /// Starts a handler.
    Request(Box<Request>),
    /// Ends a call. The token tells the answering node that its work is done.
    Response {
        to: Waiter,
        answer: Answer,
        _served: TaskTrackerToken,
    },
    /// Ends a handler.
    Cancel(CancellationToken),
}

/// A request under way.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) method: MethodSpec,
    pub(super) body: Bytes,
    pub(super) caller: Caller,
    /// The caller's end.
    pub(super) end: Arc<End>,
    /// Nobody waits for the answer.
    pub(super) abandoned: CancellationToken,
    pub(super) waiter: Waiter,
}

/// Why a call came back.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Response(Bytes),
    Rejected(Rejection),
    /// The handler ended without an answer.
    Lost,
}

/// The caller who waits for an answer; only the first one counts.
#[derive(Clone)]
pub(super) struct Waiter(Arc<Mutex<Option<oneshot::Sender<Answer>>>>);

impl Waiter {
    pub(super) fn new() -> (Self, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(answer)))), answered)
    }

    fn answer(&self, answer: Answer) {
        let waiter = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The caller may stop waiting at this moment; then nobody wants the answer.
        let _ = waiter.map(|waiter| waiter.send(answer));
    }
}

/// Takes a frame from `from` that has come to its end.
pub(super) fn deliver(network: &MemoryNetwork, from: NodeId, to: &Arc<End>, delivery: Delivery) {
    {
        let mut hub = network.lock();
        if hub.is_cut(from, to.identity.node) {
            hub.stats.cut += 1;
            return;
        }
    }
    match delivery {
        Delivery::Request(request) => start(network, to, *request),
        Delivery::Response { to, answer, .. } => to.answer(answer),
        Delivery::Cancel(abandoned) => abandoned.cancel(),
    }
}

/// What speaks against a request; the same as on the real network.
fn refuse(end: &End, request: &Request) -> Option<Rejection> {
    let MethodSpec { id, class, .. } = request.method;
    if end.closing.is_cancelled() {
        let text = "this node is shutting down; call another one";
        return Some(Rejection::new("shutting-down", text));
    }
    let Some(spec) = end.router.spec(id) else {
        let text = format!("method {id:#06x} is not served here");
        return Some(Rejection::new("unknown-method", text));
    };
    if spec.class != class {
        let text = format!("{} is not of class {class:?}", spec.name);
        return Some(Rejection::new("wrong-class", text));
    }
    if let Some(role) = request.caller.role.filter(|role| !spec.roles.contains(*role)) {
        let text = format!("{} may not be called by the role {role}", spec.name);
        return Some(Rejection::new("role-not-allowed", text));
    }
    let len = request.body.len();
    (len > spec.max_request).then(|| {
        let text = format!("{}: {len} bytes, the limit is {}", spec.name, spec.max_request);
        Rejection::new("request-too-large", text)
    })
}

fn start(network: &MemoryNetwork, end: &Arc<End>, request: Request) {
    let served = end.in_flight.token();
    if let Some(rejection) = refuse(end, &request) {
        refused(request.method.class.name(), &rejection);
        return respond(network, end, &request, Answer::Rejected(rejection), served);
    }
    let (network, answering) = (network.clone(), Arc::clone(end));
    end.tasks().spawn(async move {
        let work = answering
            .router
            .dispatch(request.caller.clone(), request.method.id, request.body.clone());
        let handled = timeout_at(request.caller.deadline, AssertUnwindSafe(work).catch_unwind());
        let handled = tokio::select! {
            biased;
            () = request.abandoned.cancelled() => return,
            () = request.end.gone.cancelled() => return,
            handled = handled => handled,
        };
        let answer = match handled {
            Ok(Ok(Ok(response))) => Answer::Response(response),
            Ok(Ok(Err(rejection))) => Answer::Rejected(rejection),
            Ok(Err(_panic)) => {
                tracing::error!(method = request.method.name, "handler panicked");
                Answer::Lost
            }
            // Nobody waits any more.
            Err(_) => return,
        };
        respond(&network, &answering, &request, answer, served);
    });
}

fn respond(network: &MemoryNetwork, end: &End, request: &Request, answer: Answer, served: TaskTrackerToken) {
    let len = match &answer {
        Answer::Response(body) => body.len(),
        Answer::Rejected(rejection) => rejection.code.len() + rejection.message.len(),
        Answer::Lost => 0,
    };
    let frame = Frame {
        kind: Kind::Response,
        class: request.method.class,
        method: request.method.id,
        len,
    };
    let delivery = Delivery::Response {
        to: request.waiter.clone(),
        answer,
        _served: served,
    };
    network.send(end.identity.node, &request.end, frame, delivery);
}
