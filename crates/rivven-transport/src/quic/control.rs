//! The control stream of a connection: the one that carried the hellos, kept open for pings and for leaving.

use std::sync::Arc;

use bytes::BufMut;
use quinn::{RecvStream, SendStream, VarInt};
use rivven_types::NodeId;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use tracing::{debug, warn};

use super::{
    frame::FrameError,
    hello::close,
    limits::{DRAIN_TIME, MAX_MISSED_PINGS, PING_INTERVAL},
    line::{Leave, Line},
    peer::Tie,
    shared::Shared,
    silence::{Silence, Verdict},
};

/// Kind, and a number.
const LEN: usize = 1 + 8;

/// Answers that wait to be written. A peer that asks faster than it reads is not answered.
const QUEUE: usize = 4;

/// Streams of the hellos, one of each direction.
pub(super) type Streams = (SendStream, RecvStream);

/// What is said on the control stream after the hellos.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Asks for a pong of the same number.
    Ping(u64),
    /// Answers a ping.
    Pong(u64),
    /// The sender begins no further call on this connection, and asks the receiver to do the same.
    GoAway(Leave),
}

impl Word {
    fn encode(self) -> [u8; LEN] {
        let (kind, number) = match self {
            Self::Ping(number) => (0, number),
            Self::Pong(number) => (1, number),
            Self::GoAway(Leave::Replaced) => (2, 0),
            Self::GoAway(Leave::Shutdown) => (2, 1),
        };
        let mut bytes = [0; LEN];
        let mut out = &mut bytes[..];
        out.put_u8(kind);
        out.put_u64(number);
        bytes
    }

    fn decode(bytes: [u8; LEN]) -> Result<Self, FrameError> {
        let [kind, number @ ..] = bytes;
        let number = u64::from_be_bytes(number);
        match kind {
            0 => Ok(Self::Ping(number)),
            1 => Ok(Self::Pong(number)),
            2 if number == 1 => Ok(Self::GoAway(Leave::Shutdown)),
            // Whatever else the reason is, calls go elsewhere.
            2 => Ok(Self::GoAway(Leave::Replaced)),
            _ => Err(FrameError::Kind(kind)),
        }
    }
}

/// For the fuzzer: words at the front of `bytes`.
pub(super) fn count_words(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<LEN>();
    words
        .iter()
        .take_while(|word| Word::decode(**word).is_ok_and(|known| known.encode() == **word))
        .count()
}

/// Speaks on the control stream of `line` until the connection ends.
///
/// Ends it when the peer has fallen silent, and, once it is left, when neither end waits for an answer. Either
/// end says by finishing its direction of the stream that it does not, so a connection on which both have done
/// so carries nothing that anybody wants.
///
/// Runs on the transport's own threads, so a pong tells that the peer's transport is alive, whatever its
/// handlers do. Pings are sent while this node calls on the line, and for a while after.
pub(super) async fn control_loop(
    shared: Arc<Shared>,
    peer: NodeId,
    line: Arc<Line>,
    streams: Streams,
    left_by_peer: impl Fn(Leave) + Send,
) {
    let (mut send, recv) = streams;
    // The stream is open, so this cannot fail; the writes below tell if the connection is not.
    let _ = send.set_priority(i32::MAX);
    let connection = &line.connection;
    let (answers, mut queued) = mpsc::channel(QUEUE);
    let left_by_peer = |why| {
        left_by_peer(why);
        line.leave(Leave::Replaced);
    };
    let reading = async {
        match read_words(recv, &answers, left_by_peer).await {
            Ok(()) if line.has_left() => true,
            ended => {
                if connection.close_reason().is_none() {
                    warn!(peer, ?ended, "closing connection: its control stream ended");
                    connection.close(VarInt::from_u32(close::PROTOCOL), b"the control stream ended");
                }
                false
            }
        }
    };
    let finished = Notify::new();
    let writing = async {
        let written = write_words(&line, peer, &mut send, &mut queued).await;
        finished.notify_one();
        written
            .inspect_err(|error| debug!(%error, "stopped writing pings"))
            .is_ok()
    };
    let listening = async {
        finished.notified().await;
        listen(&line).await;
    };
    let leaving = async {
        tokio::select! {
            biased;
            () = shared.closing.cancelled() => line.leave(Leave::Shutdown),
            _ = line.left() => {}
        }
        sleep(DRAIN_TIME).await;
    };
    tokio::select! {
        biased;
        (read, written) = async { tokio::join!(reading, writing) } => if read && written {
            connection.close(VarInt::from_u32(close::DONE), b"left");
        },
        () = listening => fell_silent(&line, peer),
        () = leaving => {
            debug!(peer, "closing connection: calls on it outlast its time to be left");
            connection.close(VarInt::from_u32(close::DONE), b"left for too long");
        }
    }
}

/// Reads until the peer finishes the stream.
async fn read_words(
    mut recv: RecvStream,
    answers: &mpsc::Sender<Word>,
    left_by_peer: impl Fn(Leave),
) -> Result<(), String> {
    loop {
        let mut bytes = [0; LEN];
        match recv.read_exact(&mut bytes).await {
            Ok(()) => {}
            Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        match Word::decode(bytes).map_err(|error| error.to_string())? {
            Word::Ping(number) => {
                // A full queue drops the answer of a peer that does not read the earlier ones.
                let _ = answers.try_send(Word::Pong(number));
            }
            // That it came counts, as does any other packet.
            Word::Pong(_) => {}
            Word::GoAway(why) => left_by_peer(why),
        }
    }
}

/// Writes until the line is left and its last call has ended, then finishes the stream.
async fn write_words(
    line: &Line,
    peer: NodeId,
    send: &mut SendStream,
    queued: &mut mpsc::Receiver<Word>,
) -> Result<(), quinn::WriteError> {
    let connection = &line.connection;
    let mut ticks = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    // When this process itself was stopped for a while, that counts as one missed ping and not as many.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silence = Silence::default();
    let mut number = 0;
    let mut said = false;
    loop {
        let word = tokio::select! {
            biased;
            cause = connection.closed() => return Err(cause.into()),
            why = line.left(), if !said => {
                said = true;
                Word::GoAway(why)
            }
            () = line.drained(), if said => {
                // Only a finished stream cannot be finished, and this one is written to.
                let _ = send.finish();
                return Ok(());
            }
            Some(word) = queued.recv() => word,
            _ = ticks.tick() => match silence.tick(heard(line), line.begun(), line.is_waiting()) {
                Verdict::Quiet => continue,
                Verdict::Ask => {
                    number += 1;
                    Word::Ping(number)
                }
                Verdict::Dead => {
                    fell_silent(line, peer);
                    return Ok(());
                }
            },
        };
        send.write_all(&word.encode()).await?;
    }
}

/// Resolves when a peer that has not finished yet has fallen silent.
///
/// Who has finished can ping no more, and need not: as long as the peer waits for an answer it pings by
/// itself, and when it does not it finishes.
async fn listen(line: &Line) {
    let mut ticks = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silence = Silence::default();
    loop {
        ticks.tick().await;
        if silence.tick(heard(line), 0, true) == Verdict::Dead {
            return;
        }
    }
}

/// Packets that have come.
fn heard(line: &Line) -> u64 {
    line.connection.stats().udp_rx.datagrams
}

fn fell_silent(line: &Line, peer: NodeId) {
    warn!(
        peer,
        missed = MAX_MISSED_PINGS,
        "closing connection: its peer fell silent"
    );
    line.fail("the peer fell silent: it answered no ping");
    let code = VarInt::from_u32(close::SILENT);
    line.connection.close(code, b"pings were not answered");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout of version 0; see `docs/formats/wire.md`.
    #[test]
    fn golden_vector() {
        assert_eq!(Word::Ping(0x0102).encode(), [0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(Word::Pong(3).encode(), [1, 0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(
            Word::GoAway(Leave::Replaced).encode(),
            [2, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            Word::GoAway(Leave::Shutdown).encode(),
            [2, 0, 0, 0, 0, 0, 0, 0, 1]
        );
        let words = [
            Word::Ping(u64::MAX),
            Word::Pong(7),
            Word::GoAway(Leave::Replaced),
            Word::GoAway(Leave::Shutdown),
        ];
        for word in words {
            assert_eq!(Word::decode(word.encode()), Ok(word));
        }
        // A reason that only a later release knows.
        assert_eq!(
            Word::decode([2, 0, 0, 0, 0, 0, 0, 0, 9]),
            Ok(Word::GoAway(Leave::Replaced))
        );
        assert_eq!(Word::decode([3; LEN]), Err(FrameError::Kind(3)));
    }
}
