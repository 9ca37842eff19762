//! The control stream of a connection: the one that carried the hellos, kept open for pings.

use bytes::BufMut;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use rivven_types::NodeId;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tracing::{debug, warn};

use super::{
    frame::FrameError,
    hello::close,
    lane::Lanes,
    limits::{MAX_MISSED_PINGS, PING_INTERVAL, QUIET_AFTER},
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
}

impl Word {
    fn encode(self) -> [u8; LEN] {
        let (kind, number) = match self {
            Self::Ping(number) => (0, number),
            Self::Pong(number) => (1, number),
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
            _ => Err(FrameError::Kind(kind)),
        }
    }
}

/// Answers and sends pings until the connection ends, and ends it when the peer has fallen silent.
///
/// Runs on the transport's own threads, so a pong tells that the peer's transport is alive, whatever its
/// handlers do.
///
/// Pings are sent while this node calls through `lanes`, and for [`QUIET_AFTER`] ticks after.
pub(super) async fn control_loop(connection: Connection, peer: NodeId, lanes: Lanes, streams: Streams) {
    let (mut send, recv) = streams;
    // The stream is open, so this cannot fail; the writes below tell if the connection is not.
    let _ = send.set_priority(i32::MAX);
    let (answers, mut queued) = mpsc::channel(QUEUE);
    let reading = async {
        if let Err(error) = read_words(recv, &answers).await
            && connection.close_reason().is_none()
        {
            warn!(peer, error, "closing connection: its control stream ended");
            connection.close(VarInt::from_u32(close::PROTOCOL), b"the control stream ended");
        }
    };
    let writing = async {
        if let Err(error) = write_words(&connection, peer, &lanes, &mut send, &mut queued).await {
            debug!(%error, "stopped writing pings");
        }
    };
    tokio::join!(reading, writing);
}

async fn read_words(mut recv: RecvStream, answers: &mpsc::Sender<Word>) -> Result<(), String> {
    loop {
        let mut bytes = [0; LEN];
        recv.read_exact(&mut bytes)
            .await
            .map_err(|error| error.to_string())?;
        match Word::decode(bytes).map_err(|error| error.to_string())? {
            Word::Ping(number) => {
                // A full queue drops the answer of a peer that does not read the earlier ones.
                let _ = answers.try_send(Word::Pong(number));
            }
            // That it came counts, as does any other packet.
            Word::Pong(_) => {}
        }
    }
}

async fn write_words(
    connection: &Connection,
    peer: NodeId,
    lanes: &Lanes,
    send: &mut SendStream,
    queued: &mut mpsc::Receiver<Word>,
) -> Result<(), quinn::WriteError> {
    let mut ticks = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    // When this process itself was stopped for a while, that counts as one missed ping and not as many.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silence = Silence::default();
    let mut number = 0;
    loop {
        let word = tokio::select! {
            biased;
            _ = connection.closed() => return Ok(()),
            Some(word) = queued.recv() => word,
            _ = ticks.tick() => match verdict(&mut silence, connection, lanes) {
                Verdict::Quiet => continue,
                Verdict::Ask => {
                    number += 1;
                    Word::Ping(number)
                }
                Verdict::Dead => {
                    warn!(peer, missed = MAX_MISSED_PINGS, "closing connection: its peer fell silent");
                    for (_, lane) in lanes {
                        lane.close("the peer fell silent: it answered no ping");
                    }
                    connection.close(VarInt::from_u32(close::SILENT), b"pings were not answered");
                    return Ok(());
                }
            },
        };
        send.write_all(&word.encode()).await?;
    }
}

fn verdict(silence: &mut Silence, connection: &Connection, lanes: &Lanes) -> Verdict {
    let begun = lanes.iter().map(|(_, lane)| lane.begun()).sum();
    let wait = lanes.iter().any(|(_, lane)| lane.has_pending());
    silence.tick(connection.stats().udp_rx.datagrams, begun, wait)
}

/// Counts pings without any sign of life.
///
/// Any packet is one: while a peer is slow to read, its pong may have to wait, its acknowledgements do not.
#[derive(Debug, Default)]
struct Silence {
    /// Packets received until the last tick.
    heard: u64,
    /// Pings sent since the last sign of life.
    asked: u32,
    /// Calls begun until the last tick.
    begun: u64,
    /// Ticks since a call was begun or waited for.
    unused: u32,
}

/// What to do at a tick.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing: nobody calls, and QUIC's own keep-alive watches the connection.
    Quiet,
    /// Send a ping.
    Ask,
    /// Give the connection up.
    Dead,
}

impl Silence {
    /// `heard` is the number of packets received so far, `begun` that of calls, of which some `wait` or not.
    fn tick(&mut self, heard: u64, begun: u64, wait: bool) -> Verdict {
        let alive = heard != self.heard;
        let used = wait || begun != self.begun;
        (self.heard, self.begun) = (heard, begun);
        self.unused = if used { 0 } else { self.unused.saturating_add(1) };
        if alive {
            self.asked = 0;
        } else if self.asked >= MAX_MISSED_PINGS {
            return Verdict::Dead;
        }
        if self.unused > QUIET_AFTER && self.asked == 0 {
            return Verdict::Quiet;
        }
        self.asked += 1;
        Verdict::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout of version 0; see `docs/formats/wire.md`.
    #[test]
    fn golden_vector() {
        assert_eq!(Word::Ping(0x0102).encode(), [0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(Word::Pong(3).encode(), [1, 0, 0, 0, 0, 0, 0, 0, 3]);
        for word in [Word::Ping(u64::MAX), Word::Pong(7)] {
            assert_eq!(Word::decode(word.encode()), Ok(word));
        }
        assert_eq!(Word::decode([2; LEN]), Err(FrameError::Kind(2)));
    }

    #[test]
    fn three_pings_without_any_packet_end_a_connection_and_one_packet_saves_it() {
        let mut silence = Silence::default();
        let mut heard = 5;
        for _ in 0..10 {
            assert_eq!(silence.tick(heard, 1, true), Verdict::Ask);
            heard += 1;
        }
        heard -= 1;
        assert_eq!(silence.tick(heard, 1, true), Verdict::Ask);
        assert_eq!(silence.tick(heard, 1, true), Verdict::Ask);
        heard += 1;
        for _ in 0..MAX_MISSED_PINGS {
            assert_eq!(silence.tick(heard, 1, true), Verdict::Ask);
        }
        assert_eq!(silence.tick(heard, 1, true), Verdict::Dead);
    }

    #[test]
    fn a_connection_that_nobody_uses_is_not_pinged_but_a_question_asked_is_waited_for() {
        let mut silence = Silence::default();
        assert_eq!(silence.tick(1, 1, false), Verdict::Ask);
        let mut heard = 2;
        for _ in 0..QUIET_AFTER {
            assert_eq!(silence.tick(heard, 1, false), Verdict::Ask);
            heard += 1;
        }
        for _ in 0..10 {
            assert_eq!(silence.tick(heard, 1, false), Verdict::Quiet);
            heard += 1;
        }
        // A call wakes the pings, and even when it is given up they are seen through.
        assert_eq!(silence.tick(heard, 2, true), Verdict::Ask);
        for _ in 1..MAX_MISSED_PINGS {
            assert_eq!(silence.tick(heard, 2, false), Verdict::Ask);
        }
        assert_eq!(silence.tick(heard, 2, false), Verdict::Dead);
    }
}
