//! Transfers on QUIC: one stream of the bulk connection for each.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use futures_util::{FutureExt, future::BoxFuture};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::{
    io::AsyncReadExt,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    dial::supervise,
    hello::Purpose,
    limits::{HELLO_TIMEOUT, ROOM_PATIENCE},
    network::{QuicNetwork, shut_down},
    shared::Shared,
};
use crate::{
    CallError, Caller, NodeId, PeerIdentity, TaskGroup, TransferPipe,
    identity::Role,
    stream::{Broken, Frame, FrameReader, FrameWriter, Gate, LEN_BYTES, receive},
};

/// First byte of a transfer's stream; smaller ones name the class of a call stream.
pub(super) const TRANSFER_BYTE: u8 = 4;

/// Code with which a stream is reset or stopped when its transfer is given up.
const GIVEN_UP: VarInt = VarInt::from_u32(0);

/// Writes frames; resets the stream unless it was finished.
struct Writer {
    stream: SendStream,
    finished: bool,
    /// Keep a connection that is left, and a node that shuts down, until the transfer has ended; none at the
    /// receiving end, whose handler does that.
    _tokens: Option<[TaskTrackerToken; 2]>,
}

impl FrameWriter for Writer {
    fn write(&mut self, frame: Frame) -> BoxFuture<'_, Result<(), Broken>> {
        async move {
            let mut pieces = frame
                .encode()
                .ok_or_else(|| Broken("a frame is too long".into()))?;
            let written = self.stream.write_all_chunks(&mut pieces).await;
            written.map_err(|error| Broken(error.to_string()))
        }
        .boxed()
    }

    fn finish(&mut self) {
        // Only a stream that was stopped or reset fails to finish, and then nobody reads the end.
        self.finished = self.stream.finish().is_ok();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // A stream that has ended already needs no reset.
            let _ = self.stream.reset(GIVEN_UP);
        }
    }
}

/// Reads frames. Dropping the stream stops it.
struct Reader(RecvStream);

impl FrameReader for Reader {
    fn read(&mut self) -> BoxFuture<'_, Result<Frame, Broken>> {
        async move {
            let mut prefix = [0; LEN_BYTES];
            AsyncReadExt::read_exact(&mut self.0, &mut prefix).await?;
            let len = Frame::len_of(prefix).map_err(|error| Broken(error.to_string()))?;
            let mut body = BytesMut::with_capacity(len);
            while body.len() < len {
                let missing = len - body.len();
                if self.0.read_buf(&mut (&mut body).limit(missing)).await? == 0 {
                    return Err(Broken("the stream ended within a frame".into()));
                }
            }
            Frame::decode(&body.freeze()).map_err(|error| Broken(error.to_string()))
        }
        .boxed()
    }
}

fn pipe(
    (send, recv): (SendStream, RecvStream),
    tokens: Option<[TaskTrackerToken; 2]>,
    moved: impl Fn() -> bool + Send + Sync + 'static,
) -> TransferPipe {
    let stopped = send.stopped();
    TransferPipe {
        // Whatever ends it, a reset or the loss of the connection, the other end has given up.
        gone: stopped.map(drop).boxed(),
        writer: Box::new(Writer {
            stream: send,
            finished: false,
            _tokens: tokens,
        }),
        reader: Box::new(Reader(recv)),
        moved: Box::new(moved),
    }
}

impl QuicNetwork {
    /// Opens a stream for a transfer to `to`, over the bulk connection, which is made if there is none.
    pub(super) async fn open_pipe(&self, to: NodeId, until: Instant) -> Result<TransferPipe, CallError> {
        let shared = &self.shared;
        let unreachable = |cause: &str| CallError::Unreachable {
            node: to,
            cause: cause.into(),
        };
        let peer = self.dialable(to)?;
        let way = peer.way(Purpose::Bulk);
        if way.start() {
            let supervised = supervise(Arc::clone(shared), Arc::clone(&peer), Purpose::Bulk);
            shared.tasks.spawn(supervised);
        }
        let mut gone = None;
        loop {
            let line = tokio::select! {
                biased;
                () = shared.closing.cancelled() => return Err(shut_down()),
                line = way.line(gone.as_ref(), until) => line,
            };
            let line = line.map_err(|error| error.into_call_error(to))?;
            let opening = async {
                let tokens = [line.begin_transfer()?, shared.in_flight.token()];
                let (mut send, recv) = line.connection.open_bi().await.ok()?;
                send.write_all(&[TRANSFER_BYTE]).await.ok()?;
                Some(pipe((send, recv), Some(tokens), line.replaced()))
            };
            match timeout_at(until, opening).await {
                Ok(Some(pipe)) => return Ok(pipe),
                Ok(None) => gone = Some(Arc::downgrade(&line)),
                Err(_) => return Err(unreachable("no stream could be opened in time")),
            }
        }
    }
}

/// What the transfers of one connection share at the receiving end.
pub(super) struct Receiving {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: PeerIdentity,
    pub(super) role: Role,
    pub(super) expired: bool,
    pub(super) room: Arc<Semaphore>,
}

impl Receiving {
    /// Takes the transfer that begins on a new stream. Its handler ends with `handlers`.
    pub(super) fn start(&self, send: SendStream, recv: RecvStream, handlers: &TaskGroup) {
        let room = Arc::clone(&self.room).acquire_owned();
        let mut gate = Gate {
            role: self.role,
            expired: self.expired,
            closing: self.shared.is_closing(),
            crowded: false,
        };
        let caller = Caller {
            peer: self.peer.clone(),
            role: Some(self.role),
            deadline: Instant::now() + HELLO_TIMEOUT,
            trace: None,
        };
        let in_flight = self.shared.in_flight.token();
        let router = self.shared.router.clone();
        let pipe = pipe((send, recv), None, || false);
        handlers.spawn(async move {
            let room = timeout(ROOM_PATIENCE, room).await;
            gate.crowded = room.is_err();
            receive(router, caller, gate, pipe).await;
            drop((room, in_flight));
        });
    }
}
