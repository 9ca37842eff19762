//! The receiving side: which handler takes which transfer, and what it holds while it does.

use std::{collections::BTreeMap, future::Future, panic::AssertUnwindSafe, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use metrics::Counter;
use tokio::{sync::Mutex, time::sleep_until};
use tracing::{debug, error};

use super::{Broken, Frame, FrameReader, FrameWriter, MAX_BODY_BYTES, Transfer, TransferPipe, TransferSpec};
use crate::{
    Caller, Class, Rejection, Router,
    call::{MALFORMED_RESPONSE, RESPONSE_TOO_LARGE},
    identity::Role,
    metrics::{Direction, TransferMetrics, refused},
};

type Handler = Arc<dyn Fn(Caller, Bytes, Ends) -> BoxFuture<'static, Result<Bytes, Rejection>> + Send + Sync>;

/// The transfers that a node takes. Clones are one table.
#[derive(Clone, Default)]
pub(crate) struct Handlers(Arc<ArcSwap<BTreeMap<u16, (TransferSpec, Handler)>>>);

impl Handlers {
    pub(crate) fn clear(&self) {
        self.0.store(Arc::default());
    }

    fn get(&self, id: u16) -> Option<(TransferSpec, Handler)> {
        self.0.load().get(&id).cloned()
    }
}

impl Router {
    /// Takes transfers of kind `T` with `handler`, replacing an earlier handler of the same number.
    ///
    /// The handler looks at the header and either refuses or accepts from an offset, takes the chunks until
    /// there are no more, and answers with a receipt. It may answer with one before the end, or without
    /// having accepted: then the sender stops. When the sender gives up, or the connection is lost, the
    /// handler is dropped at its next await.
    pub fn register_transfer<T, F, Fut>(&self, handler: F)
    where
        T: Transfer,
        F: Fn(Caller, T::Header, Offered) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T::Receipt, Rejection>> + Send + 'static,
    {
        let spec = TransferSpec::of::<T>();
        let handler = Arc::new(handler);
        let erased: Handler = Arc::new(move |caller, header, ends| {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let header = postcard::from_bytes(&header).map_err(|error| {
                    Rejection::new("malformed-request", format!("{}: {error}", spec.name))
                })?;
                let receipt = handler(caller, header, Offered(ends)).await?;
                encode_receipt(spec, &receipt)
            })
        });
        self.transfers().0.rcu(|table| {
            let mut table = BTreeMap::clone(table);
            table.insert(spec.id, (spec, Arc::clone(&erased)));
            table
        });
    }
}

fn encode_receipt<R: serde::Serialize>(spec: TransferSpec, receipt: &R) -> Result<Bytes, Rejection> {
    let body = postcard::to_allocvec(receipt)
        .map_err(|error| Rejection::new(MALFORMED_RESPONSE, format!("{}: {error}", spec.name)))?;
    if body.len() > spec.max_receipt.min(MAX_BODY_BYTES) {
        let (len, limit) = (body.len(), spec.max_receipt);
        let text = format!("{}: a receipt of {len} bytes, the limit is {limit}", spec.name);
        return Err(Rejection::new(RESPONSE_TOO_LARGE, text));
    }
    Ok(body.into())
}

/// Both directions and the count of bytes, shared by the handler and by whoever sends its last word.
type Ends = Arc<Mutex<(Box<dyn FrameWriter>, Box<dyn FrameReader>, Counter)>>;

/// A transfer that was announced. Dropping it without a word leaves the answer to the handler's result.
pub struct Offered(Ends);

impl std::fmt::Debug for Offered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offered").finish_non_exhaustive()
    }
}

impl Offered {
    /// Asks the sender for the bytes from `offset` on: 0, or the end of what is held of an earlier attempt.
    pub async fn accept_from(self, offset: u64) -> Incoming {
        let mut ends = self.0.lock().await;
        // A broken pipe shows again when the first chunk is read.
        let broken = ends.0.write(Frame::Start(offset)).await.err();
        drop(ends);
        Incoming {
            ends: self.0,
            offset,
            told: offset,
            state: match broken {
                None => State::Open,
                Some(broken) => State::Broken(broken),
            },
        }
    }
}

enum State {
    Open,
    Ended,
    Broken(Broken),
}

/// A transfer on its way in.
pub struct Incoming {
    ends: Ends,
    /// Offset of the byte that comes next.
    offset: u64,
    /// Offset that the sender knows to be held.
    told: u64,
    state: State,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Incoming {
    /// The next chunk of at most [`MAX_CHUNK_BYTES`](super::MAX_CHUNK_BYTES); none at the end of the content.
    ///
    /// Asking for a chunk tells the sender that every earlier one is held, and makes room for more: a
    /// handler asks only once it has put away what it got.
    ///
    /// Cancel safety: none. A cancelled call may lose a chunk, and so must be the last one.
    ///
    /// # Errors
    /// `transfer-interrupted`, as a rejection to be handed on: the sender has given up or the connection is
    /// lost. As a rule the handler is dropped before it sees it.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Rejection> {
        match &self.state {
            State::Open => {}
            State::Ended => return Ok(None),
            State::Broken(broken) => return Err(interrupted(broken)),
        }
        match self.next().await {
            Ok(Some(chunk)) => Ok(Some(chunk)),
            Ok(None) => {
                self.state = State::Ended;
                Ok(None)
            }
            Err(broken) => {
                let rejection = interrupted(&broken);
                self.state = State::Broken(broken);
                Err(rejection)
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let mut ends = self.ends.lock().await;
        let (writer, reader, counter) = &mut *ends;
        if self.told < self.offset {
            writer.write(Frame::Held(self.offset)).await?;
            self.told = self.offset;
        }
        match reader.read().await? {
            Frame::Data(chunk) => {
                counter.increment(chunk.len() as u64);
                let end = self.offset.checked_add(chunk.len() as u64);
                self.offset = end.ok_or_else(|| Broken("the offset overflows".into()))?;
                Ok(Some(chunk))
            }
            Frame::End => Ok(None),
            _ => Err(Broken("the sender broke the protocol of transfers".into())),
        }
    }

    /// Offset of the byte that comes next.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }
}

fn interrupted(broken: &Broken) -> Rejection {
    Rejection::new(
        "transfer-interrupted",
        format!("the transfer ended before its end: {broken}"),
    )
}

/// What the receiving end knows of a sender before any handler is asked.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    /// The role in the sender's certificate.
    pub(crate) role: Role,
    /// That certificate had expired when the connection was made.
    pub(crate) expired: bool,
    /// This node is shutting down.
    pub(crate) closing: bool,
    /// The sender has its [`MAX_TRANSFERS`](super::MAX_TRANSFERS) under way.
    pub(crate) crowded: bool,
}

impl Gate {
    /// What speaks against a transfer before its header is read.
    fn refuse(&self, id: u16, spec: Option<TransferSpec>, header: usize) -> Option<Rejection> {
        if self.closing {
            let text = "this node is shutting down; send to another one";
            return Some(Rejection::new("shutting-down", text));
        }
        if self.crowded {
            let text = "too many transfers of this sender are under way; wait for one to end";
            return Some(Rejection::new("too-many-transfers", text));
        }
        let Some(spec) = spec else {
            let text = format!("transfer {id:#06x} is not taken here");
            return Some(Rejection::new("unknown-transfer", text));
        };
        if !spec.roles.contains(self.role) {
            let text = format!("{} may not be sent by the role {}", spec.name, self.role);
            return Some(Rejection::new("role-not-allowed", text));
        }
        if self.expired {
            let text = "the sender's certificate has expired; renew it, nothing else is answered until then";
            return Some(Rejection::new("certificate-expired", text));
        }
        (header > spec.max_header).then(|| {
            let text = format!(
                "{}: a header of {header} bytes, the limit is {}",
                spec.name, spec.max_header
            );
            Rejection::new("request-too-large", text)
        })
    }
}

/// Takes one transfer, from its first frame to this end's last word.
pub(crate) async fn receive(router: Router, caller: Caller, gate: Gate, pipe: TransferPipe) {
    let TransferPipe {
        writer,
        mut reader,
        gone,
        moved: _,
    } = pipe;
    let from = caller.peer.node;
    let first = tokio::select! {
        biased;
        // A stream that says nothing takes up a place.
        () = sleep_until(caller.deadline) => None,
        first = reader.read() => first.ok(),
    };
    let Some(Frame::Open { id, header }) = first else {
        debug!(peer = from, "a transfer that was not announced");
        return;
    };
    let found = router.transfers().get(id);
    let spec = found.as_ref().map(|(spec, _)| *spec);
    let name = spec.map_or("unknown", |spec| spec.name);
    let mut counted = TransferMetrics::begin(Direction::Received, name, router.peer_label(from));
    let ends: Ends = Arc::new(Mutex::new((writer, reader, counted.bytes())));
    let answer = match (gate.refuse(id, spec, header.len()), found) {
        (Some(rejection), _) => {
            refused(Class::Bulk.name(), &rejection);
            counted.ended("refused");
            Ok(Err(rejection))
        }
        (None, None) => return,
        (None, Some((_, handler))) => {
            let handling = AssertUnwindSafe(handler(caller, header, Arc::clone(&ends))).catch_unwind();
            let answer = tokio::select! {
                biased;
                answer = handling => answer,
                // The handler is dropped with its future.
                () = gone => return,
            };
            counted.ended(match &answer {
                Ok(Ok(_)) => "answered",
                Ok(Err(_)) => "rejected",
                Err(_) => "lost",
            });
            answer
        }
    };
    let last = match answer {
        Ok(Ok(receipt)) => Frame::Receipt(receipt),
        Ok(Err(rejection)) => rejection_frame(rejection),
        Err(_panic) => {
            error!(transfer = id, peer = from, "handler panicked");
            Frame::Lost
        }
    };
    let mut ends = ends.lock().await;
    // A broken pipe means that nobody waits for the last word.
    if ends.0.write(last).await.is_ok() {
        ends.0.finish();
    }
}

fn rejection_frame(rejection: Rejection) -> Frame {
    rejection.encode().map_or(Frame::Lost, Frame::Rejected)
}
