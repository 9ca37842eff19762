//! Transfers on the network in memory: frames of a stream, which is reliable and ordered as long as its
//! connection lives.
//!
//! A frame that a link loses is sent again, as QUIC does, and those behind it wait; a cut ends the stream
//! when it ends the connection.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use rivven_types::NodeId;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    MemoryNetwork,
    end::{End, MemoryEnd},
    limits::{IDLE_TIMEOUT, RETRANSMIT, STREAM_FRAMES},
    link::{Fate, Frame as LinkFrame, Kind},
};
use crate::{
    CallError, Caller, Class, TransferPipe, TransferSpec,
    stream::{Broken, Frame, FrameReader, FrameWriter, Gate, receive},
};

/// One direction of a stream.
#[derive(Clone)]
struct Direction {
    network: MemoryNetwork,
    from: Arc<End>,
    to: Arc<End>,
    transfer: u16,
    /// Cancelled when one of the two denies the other.
    severed: CancellationToken,
}

impl Direction {
    fn nodes(&self) -> (NodeId, NodeId) {
        (self.from.identity.node, self.to.identity.node)
    }

    /// The fate of one frame of `len` bytes.
    fn send(&self, len: usize) -> Fate {
        let (from, to) = self.nodes();
        let frame = LinkFrame {
            kind: Kind::Stream,
            class: Class::Bulk,
            method: self.transfer,
            len,
        };
        self.network.lock().send(from, to, frame)
    }

    fn is_cut(&self) -> bool {
        let (from, to) = self.nodes();
        let mut hub = self.network.lock();
        let cut = hub.is_cut(from, to);
        hub.stats.cut += u64::from(cut);
        cut
    }

    /// Returns when the connection between the two is lost.
    async fn lost(&self) -> Broken {
        let (from, to) = self.nodes();
        loop {
            let dies = self.network.dies_at(from, to);
            if dies.is_some_and(|dies| dies <= Instant::now()) {
                return Broken("the connection died of silence".into());
            }
            // A cut that begins after this look kills the connection no earlier than the next one.
            let look = dies.unwrap_or_else(|| Instant::now() + IDLE_TIMEOUT);
            tokio::select! {
                biased;
                () = self.from.gone.cancelled() => return Broken("one of the two nodes has left".into()),
                () = self.to.gone.cancelled() => return Broken("one of the two nodes has left".into()),
                () = self.severed.cancelled() => return Broken("one of the two nodes denies the other".into()),
                () = sleep_until(look) => {}
            }
        }
    }

    /// When what is said at this moment, whatever becomes of it, is known at the other end.
    fn heard_at(&self) -> Instant {
        match self.send(0) {
            Fate::Arrives { at, .. } => at,
            Fate::Lost => Instant::now() + RETRANSMIT,
        }
    }
}

struct Writer {
    direction: Direction,
    frames: mpsc::Sender<(Instant, Frame)>,
    /// When the other end learns that no more comes.
    ended: watch::Sender<Option<Instant>>,
    /// Arrival of the latest frame, which the next one does not overtake.
    latest: Instant,
}

impl Writer {
    async fn send(&mut self, frame: Frame) -> Result<(), Broken> {
        let len = frame.encode().map_or(0, |[head, body]| head.len() + body.len());
        let at = loop {
            match self.direction.send(len) {
                Fate::Arrives { at, .. } => break at,
                Fate::Lost => sleep(RETRANSMIT).await,
            }
        };
        self.latest = self.latest.max(at);
        let sent = self.frames.send((self.latest, frame)).await;
        sent.map_err(|_| Broken("the other end has stopped reading".into()))
    }
}

impl FrameWriter for Writer {
    fn write(&mut self, frame: Frame) -> BoxFuture<'_, Result<(), Broken>> {
        async move {
            let direction = self.direction.clone();
            tokio::select! {
                biased;
                sent = self.send(frame) => sent,
                broken = direction.lost() => Err(broken),
            }
        }
        .boxed()
    }

    /// What was sent arrives anyway.
    fn finish(&mut self) {}
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ended.send_replace(Some(self.direction.heard_at()));
    }
}

struct Reader {
    /// The direction that is read, from the other end to this one.
    direction: Direction,
    frames: mpsc::Receiver<(Instant, Frame)>,
    ended: watch::Receiver<Option<Instant>>,
    /// Tells the other end when it learns that nobody reads any more.
    stopped: watch::Sender<Option<Instant>>,
    back: Direction,
}

impl Reader {
    async fn next(&mut self) -> Result<Frame, Broken> {
        let Some((at, frame)) = self.frames.recv().await else {
            let ended = *self.ended.borrow();
            if let Some(at) = ended {
                sleep_until(at).await;
            }
            return Err(Broken("the other end has given up".into()));
        };
        sleep_until(at).await;
        // What a cut meets on its way is sent again.
        while self.direction.is_cut() {
            sleep(RETRANSMIT).await;
        }
        Ok(frame)
    }
}

impl FrameReader for Reader {
    fn read(&mut self) -> BoxFuture<'_, Result<Frame, Broken>> {
        async move {
            let direction = self.direction.clone();
            tokio::select! {
                biased;
                frame = self.next() => frame,
                broken = direction.lost() => Err(broken),
            }
        }
        .boxed()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stopped.send_replace(Some(self.back.heard_at()));
    }
}

/// A stream between two nodes: the end at `forth.from`, and the one at `forth.to`.
fn stream(forth: Direction) -> [TransferPipe; 2] {
    let back = Direction {
        from: Arc::clone(&forth.to),
        to: Arc::clone(&forth.from),
        ..forth.clone()
    };
    let (here_writer, there_reader, here_gone) = one_way(forth.clone(), back.clone());
    let (there_writer, here_reader, there_gone) = one_way(back, forth);
    let end = |writer, reader, gone| TransferPipe {
        writer: Box::new(writer),
        reader: Box::new(reader),
        gone,
        // A connection in memory is never replaced by another.
        moved: Box::new(|| false),
    };
    [
        end(here_writer, here_reader, here_gone),
        end(there_writer, there_reader, there_gone),
    ]
}

/// One direction: its writer, its reader, and what the writer's end learns of the reader's end.
fn one_way(direction: Direction, back: Direction) -> (Writer, Reader, BoxFuture<'static, ()>) {
    let (frames, arriving) = mpsc::channel(STREAM_FRAMES);
    let (ended, stopped) = (watch::Sender::new(None), watch::Sender::new(None));
    let gone = given_up(back.clone(), stopped.subscribe()).boxed();
    let reader = Reader {
        direction: direction.clone(),
        frames: arriving,
        ended: ended.subscribe(),
        stopped,
        back,
    };
    let writer = Writer {
        direction,
        frames,
        ended,
        latest: Instant::now(),
    };
    (writer, reader, gone)
}

async fn given_up(direction: Direction, mut stopped: watch::Receiver<Option<Instant>>) {
    let stopped = async {
        // A sender that is gone has said so as its last act.
        let at = stopped.wait_for(Option::is_some).await.ok().and_then(|at| *at);
        if let Some(at) = at {
            sleep_until(at).await;
        }
    };
    tokio::select! {
        biased;
        () = stopped => {}
        _ = direction.lost() => {}
    }
}

impl MemoryEnd {
    /// Opens a stream to `to` and starts its receiving end there.
    pub(super) async fn open_pipe(
        &self,
        to: NodeId,
        spec: TransferSpec,
        until: Instant,
    ) -> Result<TransferPipe, CallError> {
        let peer = self.way(to, until).await?;
        self.end.tasks();
        let there = Direction {
            network: self.network.clone(),
            from: Arc::clone(&self.end),
            to: Arc::clone(&peer),
            transfer: spec.id,
            severed: self.network.lock().severed(self.end.identity.node, to),
        };
        let [here, there] = stream(there);
        let slot = peer.transfers.try_take(self.end.identity.node);
        let gate = Gate {
            role: self.end.role,
            expired: false,
            closing: peer.closing.is_cancelled(),
            crowded: slot.is_none(),
        };
        let caller = Caller {
            peer: self.end.proven(),
            role: Some(self.end.role),
            deadline: until,
            trace: None,
        };
        let served = peer.in_flight.token();
        let router = peer.router.clone();
        peer.tasks().spawn(async move {
            receive(router, caller, gate, there).await;
            drop((slot, served));
        });
        Ok(here)
    }
}
