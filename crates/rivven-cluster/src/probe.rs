//! Asking a node directly, over its authenticated connection, whether it lives.

use std::{sync::Arc, time::Duration};

use rivven_transport::{CallCtx, CallError, Class, Method, Rejection, Router, Transport};
use rivven_types::NodeId;

use crate::founding::{Founders, FoundingId};

/// How long a node may take to answer a probe. Longer than a busy one needs, short enough that the
/// leaderships of a dead one move soon.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);

/// Is anybody there, and of the same history?
pub(crate) struct Ping;

impl Method for Ping {
    const ID: u16 = 0x0203;
    const NAME: &'static str = "cluster.ping";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = 64;
    type Request = Option<FoundingId>;
    type Response = Option<FoundingId>;
}

/// Answers [`Ping`].
pub(crate) fn serve(router: &Router, founders: &Arc<Founders>) {
    let founders = Arc::clone(founders);
    router.register::<Ping, _, _>(move |_caller, theirs: Option<FoundingId>| {
        let mine = founders.accepted().map(|founding| founding.id);
        async move {
            match (mine, theirs) {
                (Some(mine), Some(theirs)) if mine != theirs => Err(Rejection::new(
                    "other-founding",
                    format!("this node belongs to founding {mine}, the caller to {theirs}"),
                )),
                _ => Ok(mine),
            }
        }
    });
}

/// Whether `node` answers. A refusal is an answer too.
pub(crate) async fn answers(transport: &Transport, node: NodeId, founding: Option<FoundingId>) -> bool {
    let reply = transport
        .call::<Ping>(node, &founding, CallCtx::timeout(PROBE_TIMEOUT))
        .await;
    matches!(reply, Ok(_) | Err(CallError::Rejected(_)))
}
