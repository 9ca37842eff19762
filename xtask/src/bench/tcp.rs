//! The raw reference: length-delimited requests over one TCP connection, no TLS, no methods, no deadlines.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use rivven_transport::TaskGroup;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot},
    task::yield_now,
    time::Instant,
};

use super::{
    load::{Shown, WARM_UP},
    wire::RESPONSE,
};

/// Bytes asked of one read.
const READ: usize = 256 << 10;

/// Answers on every connection.
pub(super) async fn serve(listener: TcpListener, tasks: TaskGroup) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tasks.spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut write) = (BytesMut::with_capacity(READ), Vec::new());
    loop {
        read.reserve(READ);
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
        while take_frame(&mut read).is_some() {
            write.extend(frame(RESPONSE));
        }
        stream.write_all(&write).await?;
        write.clear();
    }
}

fn frame(len: usize) -> Vec<u8> {
    let mut bytes = u32::try_from(len).unwrap_or(0).to_be_bytes().to_vec();
    bytes.resize(4 + len, 0);
    bytes
}

/// Takes the body of the first frame, if it is there whole.
fn take_frame(bytes: &mut BytesMut) -> Option<BytesMut> {
    let len = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    if bytes.len() < 4 + len {
        return None;
    }
    bytes.advance(4);
    Some(bytes.split_to(len))
}

/// A connection that many tasks call over at a time, as they do over the transport: each is woken by its own
/// answer. One task writes whatever they have queued, another reads; answers come in the order of requests.
#[derive(Clone)]
pub(super) struct Client(Arc<Shared>);

struct Shared {
    write: OwnedWriteHalf,
    queue: Mutex<Queue>,
    queued: Notify,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    waiting: VecDeque<oneshot::Sender<Bytes>>,
}

impl Client {
    pub(super) async fn connect(addr: SocketAddr, tasks: &TaskGroup) -> Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let client = Self(Arc::new(Shared {
            write,
            queue: Mutex::default(),
            queued: Notify::new(),
        }));
        tasks.spawn(read_loop(Arc::clone(&client.0), read));
        tasks.spawn(write_loop(Arc::clone(&client.0)));
        Ok(client)
    }

    /// One request.
    pub(super) async fn call(self, body: Bytes) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let len = u32::try_from(body.len())?.to_be_bytes();
        let alone = {
            let mut queue = self.0.queue();
            queue.bytes.extend_from_slice(&len);
            queue.bytes.extend_from_slice(&body);
            queue.waiting.push_back(answer);
            queue.waiting.len() == 1 && self.0.write_now(&mut queue.bytes)
        };
        if !alone {
            self.0.queued.notify_one();
        }
        let answer = answered.await.context("the TCP reference ended")?;
        ensure!(answer.len() == RESPONSE, "a response of {} bytes", answer.len());
        Ok(())
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lone request is written by its caller, as far as the socket takes it. Whether that was all.
    fn write_now(&self, bytes: &mut Vec<u8>) -> bool {
        let written = self.write.try_write(bytes).unwrap_or(0);
        bytes.drain(..written);
        bytes.is_empty()
    }
}

async fn write_loop(shared: Arc<Shared>) -> Result<()> {
    loop {
        shared.queued.notified().await;
        // Everybody who is about to queue a request does so before this goes on.
        yield_now().await;
        let mut bytes = std::mem::take(&mut shared.queue().bytes);
        while !bytes.is_empty() {
            shared.write.writable().await?;
            match shared.write.try_write(&bytes) {
                Ok(written) => drop(bytes.drain(..written)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

async fn read_loop(shared: Arc<Shared>, mut stream: OwnedReadHalf) -> Result<()> {
    let (mut read, mut answers) = (BytesMut::with_capacity(READ), Vec::new());
    loop {
        read.reserve(READ);
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
        while let Some(body) = take_frame(&mut read) {
            answers.push(body.freeze());
        }
        let waiting: Vec<_> = shared.queue().waiting.drain(..answers.len()).collect();
        for (answer, waiting) in answers.drain(..).zip(waiting) {
            // Whoever has stopped waiting wants no answer.
            let _ = waiting.send(answer);
        }
    }
}

/// Keeps `at_a_time` requests of `len` bytes in flight from a single loop: no callers, no wake-ups, one write and
/// one read for all. What the socket itself can do.
pub(super) async fn run(addr: SocketAddr, len: usize, at_a_time: usize, duration: Duration) -> Result<Shown> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.split();
    let request = frame(len);
    let (mut read, mut write) = (BytesMut::with_capacity(READ), Vec::new());
    let mut in_flight = VecDeque::with_capacity(at_a_time);
    let (mut times, mut due) = (Vec::new(), at_a_time);
    let from = Instant::now() + duration / WARM_UP;
    let until = from + duration;
    loop {
        let now = Instant::now();
        if now >= until {
            return Ok(Shown::new(times, duration));
        }
        write.clear();
        for _ in 0..std::mem::take(&mut due) {
            write.extend_from_slice(&request);
            in_flight.push_back(now);
        }
        // Responses are short and fit the socket's buffer, so writing all before reading cannot block.
        writer.write_all(&write).await?;
        read.reserve(READ);
        if reader.read_buf(&mut read).await? == 0 {
            bail!("the TCP reference closed its connection");
        }
        let now = Instant::now();
        while take_frame(&mut read).is_some() {
            due += 1;
            if let Some(start) = in_flight.pop_front().filter(|start| *start >= from) {
                times.push(now - start);
            }
        }
    }
}
