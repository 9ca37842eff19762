//! Bulk streams of the transport: as fast as they go, and without end beside something else.

use std::{io, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;
use rivven_transport::{Router, TaskGroup, Transfer, TransferCtx, Transport};
use tokio::{sync::watch, time::Instant};

use super::wire::PEER;

/// What the source hands out at a time.
const PIECE: usize = 1 << 20;

/// So many zeros; the receiver counts them.
struct Zeros;

impl Transfer for Zeros {
    const ID: u16 = 0x8000;
    const NAME: &'static str = "bench-zeros";
    const MAX_HEADER: usize = 16;
    const MAX_RECEIPT: usize = 16;
    type Header = u64;
    type Receipt = u64;
}

/// Takes what is sent, and drops it.
pub(super) fn register(router: &Router) {
    router.register_transfer::<Zeros, _, _>(|_, _, offered| async move {
        let mut incoming = offered.accept_from(0).await;
        while incoming.chunk().await?.is_some() {}
        Ok(incoming.offset())
    });
}

async fn send(transport: &Transport, bytes: u64, progress: watch::Sender<u64>) -> Result<()> {
    let piece = Bytes::from(vec![0; PIECE]);
    let source = |offset: u64| {
        let left = usize::try_from(bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let piece = piece.slice(..left.min(PIECE));
        async move { io::Result::Ok(piece) }
    };
    let ctx = TransferCtx::new().progress(progress);
    let received = transport
        .send_stream::<Zeros, _, _>(PEER, &bytes, source, ctx)
        .await?;
    ensure!(received == bytes, "{received} of {bytes} bytes arrived");
    Ok(())
}

/// `bytes`, a whole number of MiB, as people write it.
pub(super) fn size(bytes: u64) -> String {
    match bytes >> 20 {
        mib if mib >= 1 << 10 && mib % (1 << 10) == 0 => format!("{} GiB", mib >> 10),
        mib => format!("{mib} MiB"),
    }
}

fn megabytes_per_second(bytes: u64, took: Duration) -> f64 {
    let kibibytes = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    f64::from(kibibytes) * 1_024.0 / 1e6 / took.as_secs_f64().max(1e-9)
}

/// MB/s of `rounds` transfers, one after the other.
pub(super) async fn rate(transport: &Transport, bytes: u64, rounds: u32) -> Result<f64> {
    // The first one finds its pace.
    send(transport, bytes / 8, watch::Sender::new(0)).await?;
    let began = Instant::now();
    for _ in 0..rounds {
        send(transport, bytes, watch::Sender::new(0)).await?;
    }
    Ok(megabytes_per_second(bytes * u64::from(rounds), began.elapsed()))
}

/// Transfers one after the other until it is stopped.
pub(super) struct Endless {
    tasks: TaskGroup,
    sending: tokio::task::JoinHandle<Option<Result<()>>>,
    /// Bytes of the transfers that have ended.
    ended: watch::Receiver<u64>,
    /// Bytes of the one under way.
    under_way: watch::Receiver<u64>,
}

impl Endless {
    pub(super) fn start(transport: &Transport, bytes: u64) -> Self {
        let tasks = TaskGroup::current();
        let (progress, under_way) = watch::channel(0);
        let (total, ended) = watch::channel(0);
        let transport = transport.clone();
        let sending = tasks.spawn(async move {
            loop {
                send(&transport, bytes, progress.clone()).await?;
                progress.send_replace(0);
                total.send_modify(|total| *total += bytes);
            }
        });
        Self {
            tasks,
            sending,
            ended,
            under_way,
        }
    }

    /// Bytes that have arrived so far, and when.
    pub(super) fn sent(&self) -> (u64, Instant) {
        (*self.ended.borrow() + *self.under_way.borrow(), Instant::now())
    }

    /// MB/s since `from`.
    pub(super) fn rate_since(&self, from: (u64, Instant)) -> f64 {
        let (sent, at) = self.sent();
        megabytes_per_second(sent.saturating_sub(from.0), at - from.1)
    }

    /// Ends the transfer under way; an error if one had failed before.
    pub(super) async fn stop(self) -> Result<()> {
        let failed = self.sending.is_finished();
        self.tasks.abort();
        match self.sending.await? {
            Some(Err(error)) if failed => Err(error),
            _ => Ok(()),
        }
    }
}
