//! The floor: what three processes of this machine can do at best, without consensus.
//!
//! A fixed leader and two followers over plain TCP. Whatever has arrived while the last batch was being synced is
//! the next batch: the leader sends it to both followers, appends it to a plain file and syncs that; a batch is
//! done once the leader and one follower have synced it. No terms, no elections, no recovery, no encryption.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};

use super::process::Process;
use crate::bench::wire::RESPONSE;

/// Bytes asked of one read.
const READ: usize = 256 << 10;

/// One process of the floor.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FloorArgs {
    /// File to append to.
    #[arg(long)]
    file: PathBuf,
    /// Followers; without any this is one.
    #[arg(long = "follower")]
    followers: Vec<SocketAddr>,
}

/// Serves until its standard input ends; says first on which port.
pub(crate) fn main(args: &FloorArgs) -> Result<()> {
    let file = File::options().create(true).append(true).open(&args.file)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    let followers = args.followers.iter().map(TcpStream::connect);
    let followers = followers.collect::<Result<Vec<_>, _>>()?;
    if followers.is_empty() {
        start("floor-follower", move || follow(&listener, file))?;
    } else {
        start("floor-leader", move || lead(&listener, file, followers))?;
    }
    // Whoever started this process ends it by closing its standard input.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn start(name: &str, run: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let run = move || {
        if let Err(error) = run() {
            eprintln!("the floor ended: {error:#}");
        }
    };
    let thread = std::thread::Builder::new().name(name.into());
    drop(thread.spawn(run)?);
    Ok(())
}

/// Appends and syncs whatever has arrived, and says how many bytes are durable.
fn follow(listener: &TcpListener, mut file: File) -> Result<()> {
    let (mut leader, _) = listener.accept()?;
    leader.set_nodelay(true)?;
    let mut bytes = vec![0; READ];
    let mut durable = 0_u64;
    loop {
        let read = leader.read(&mut bytes)?;
        if read == 0 {
            return Ok(());
        }
        file.write_all(bytes.get(..read).unwrap_or(&bytes))?;
        file.sync_data()?;
        durable += read as u64;
        leader.write_all(&durable.to_be_bytes())?;
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    /// Frames that wait for the next batch, and how many they are.
    waiting: (Vec<u8>, usize),
    /// Batches whose answer is due: end in the stream of bytes, number of frames.
    due: VecDeque<(u64, usize)>,
    /// How far the leader and each follower have synced.
    own: u64,
    followers: [u64; 2],
    client: Option<TcpStream>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Answers every batch that the leader and a follower have synced.
    fn answer(&mut self) -> Result<()> {
        let done = self.own.min(self.followers.into_iter().max().unwrap_or(0));
        let mut frames = 0;
        while self.due.front().is_some_and(|(end, _)| *end <= done) {
            frames += self.due.pop_front().map_or(0, |(_, frames)| frames);
        }
        let Some(client) = self.client.as_mut().filter(|_| frames > 0) else {
            return Ok(());
        };
        let len = u32::try_from(RESPONSE)?.to_be_bytes();
        let mut answer = len.to_vec();
        answer.resize(4 + RESPONSE, 0);
        Ok(client.write_all(&answer.repeat(frames))?)
    }
}

fn lead(listener: &TcpListener, file: File, followers: Vec<TcpStream>) -> Result<()> {
    let shared = Arc::new(Shared::default());
    for (at, follower) in followers.iter().enumerate() {
        follower.set_nodelay(true)?;
        let (shared, mut follower) = (Arc::clone(&shared), follower.try_clone()?);
        start("floor-acks", move || {
            let mut durable = [0; 8];
            loop {
                follower.read_exact(&mut durable)?;
                let mut state = shared.state();
                if let Some(follower) = state.followers.get_mut(at) {
                    *follower = u64::from_be_bytes(durable);
                }
                state.answer()?;
            }
        })?;
    }
    let committing = Arc::clone(&shared);
    start("floor-commit", move || commit(&committing, file, followers))?;
    loop {
        let (client, _) = listener.accept()?;
        serve(&shared, client)?;
    }
}

/// Takes what one client sends, until it goes.
fn serve(shared: &Shared, mut client: TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    {
        let mut state = shared.state();
        // What the client before has not waited for is answered to nobody.
        for (_, frames) in &mut state.due {
            *frames = 0;
        }
        state.client = Some(client.try_clone()?);
    }
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; READ]);
    loop {
        let read = client.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(chunk.get(..read).unwrap_or(&chunk));
        let (whole, frames) = whole_frames(&bytes);
        if frames > 0 {
            let mut state = shared.state();
            state.waiting.0.extend(bytes.drain(..whole));
            state.waiting.1 += frames;
            drop(state);
            shared.arrived.notify_one();
        }
    }
}

/// Length and number of the whole frames at the start of `bytes`.
fn whole_frames(bytes: &[u8]) -> (usize, usize) {
    let (mut whole, mut frames) = (0, 0);
    while let Some(len) = bytes.get(whole..).and_then(|rest| rest.first_chunk()) {
        let end = whole + 4 + u32::from_be_bytes(*len) as usize;
        if end > bytes.len() {
            break;
        }
        (whole, frames) = (end, frames + 1);
    }
    (whole, frames)
}

/// Sends, appends and syncs one batch after the other.
fn commit(shared: &Shared, mut file: File, mut followers: Vec<TcpStream>) -> Result<()> {
    let mut end = 0_u64;
    loop {
        let (bytes, frames) = {
            let waiting = shared
                .arrived
                .wait_while(shared.state(), |state| state.waiting.1 == 0);
            let mut state = waiting.unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut state.waiting)
        };
        end += bytes.len() as u64;
        shared.state().due.push_back((end, frames));
        for follower in &mut followers {
            follower.write_all(&bytes)?;
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        let mut state = shared.state();
        state.own = end;
        state.answer()?;
    }
}

/// The three processes.
#[derive(Debug)]
pub(super) struct Floor {
    _processes: Vec<Process>,
    pub(super) addr: SocketAddr,
}

impl Floor {
    /// Starts them with files in `dir`.
    pub(super) async fn start(dir: &Path) -> Result<Self> {
        let mut processes = Vec::new();
        let mut addrs = Vec::new();
        for (at, name) in ["follower-1", "follower-2", "leader"].into_iter().enumerate() {
            let mut args = vec!["--file".to_owned(), dir.join(name).display().to_string()];
            if at == 2 {
                for addr in &addrs {
                    args.extend(["--follower".to_owned(), format!("{addr}")]);
                }
            }
            let (process, line) = Process::start("bench-raft-floor", &args).await?;
            let port: u16 = line.trim().parse().context("the floor did not start")?;
            addrs.push(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            processes.push(process);
        }
        let addr = *addrs.last().context("no leader")?;
        Ok(Self {
            _processes: processes,
            addr,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_frames_are_taken() {
        let check = |bytes: &[u8], expected| assert_eq!(whole_frames(bytes), expected, "{bytes:?}");
        check(&[], (0, 0));
        check(&[0, 0, 0, 2, 7], (0, 0));
        check(&[0, 0, 0, 2, 7, 7], (6, 1));
        check(&[0, 0, 0, 1, 7, 0, 0, 0, 0, 0], (9, 2));
    }
}
