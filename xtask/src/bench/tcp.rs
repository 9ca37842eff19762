//! The raw reference: length-delimited requests over one TCP connection, written and read in batches.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use bytes::{Buf as _, BytesMut};
use rivven_transport::TaskGroup;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::{load::Shown, wire::RESPONSE};

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
        while take_frame(&mut read) {
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

/// Drops the first frame, if it is there whole.
fn take_frame(bytes: &mut BytesMut) -> bool {
    let Some(len) = bytes.first_chunk().map(|len| u32::from_be_bytes(*len) as usize) else {
        return false;
    };
    let whole = bytes.len() >= 4 + len;
    if whole {
        bytes.advance(4 + len);
    }
    whole
}

/// Keeps `at_a_time` requests of `len` bytes in flight on one connection.
pub(super) async fn run(addr: SocketAddr, len: usize, at_a_time: usize, duration: Duration) -> Result<Shown> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.split();
    let request = frame(len);
    let (mut read, mut write) = (BytesMut::with_capacity(READ), Vec::new());
    let mut in_flight = VecDeque::with_capacity(at_a_time);
    let (mut times, mut due) = (Vec::new(), at_a_time);
    let from = Instant::now() + duration / 4;
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
        while take_frame(&mut read) {
            due += 1;
            if let Some(start) = in_flight.pop_front().filter(|start| *start >= from) {
                times.push(now - start);
            }
        }
    }
}
