//! The thread that speaks for this node when the callers' runtime cannot: dials, accepts, pings, and stands by.

use std::{cell::RefCell, io, sync::Mutex, thread, time::Duration};

use quinn::Endpoint;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::timeout,
};
use tracing::{
    dispatcher::{self, DefaultGuard, Dispatch},
    subscriber::NoSubscriber,
    warn,
};

use super::{
    limits::{CLOSE_TIME, MAX_LOOKUPS},
    lock,
};
use crate::TaskGroup;

/// Time for the threads to stop once every connection is closed. They only wait for one another.
const STOP_TIME: Duration = Duration::from_secs(1);

thread_local! {
    static LOGGING: RefCell<Option<DefaultGuard>> = const { RefCell::new(None) };
}

/// A runtime of one thread, on which nothing of the user runs; or none, where the user's own is borrowed.
///
/// Its end drops every task that holds the socket, so the port is free once [`IoRuntime::stop`] returns.
pub(super) struct IoRuntime(Mutex<Option<Runtime>>);

impl IoRuntime {
    pub(super) fn start() -> io::Result<(Self, Handle)> {
        let log = inherited_log();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(MAX_LOOKUPS)
            .thread_name("rivven-quic")
            .on_thread_start(move || {
                let guard = log.as_ref().map(dispatcher::set_default);
                LOGGING.with_borrow_mut(|slot| *slot = guard);
            })
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        Ok((Self(Mutex::new(Some(runtime))), handle))
    }

    /// The runtime of somebody else, which goes on when the transport ends.
    pub(super) const fn borrowed(handle: Handle) -> (Self, Handle) {
        (Self(Mutex::new(None)), handle)
    }

    /// Ends every task and frees the socket. `callers` provides the thread that waits for it.
    pub(super) async fn stop(&self, callers: &TaskGroup) {
        let runtime = lock(&self.0).take();
        if let Some(runtime) = runtime {
            // The outcome of a plain wait is of no interest.
            let _ = callers
                .blocking(move || runtime.shutdown_timeout(STOP_TIME))
                .await;
        }
    }

    /// The same for an owner that cannot wait. Lets the close frames of `endpoint` leave first.
    pub(super) fn stop_behind(&self, endpoint: Option<Endpoint>) {
        let Some(runtime) = lock(&self.0).take() else {
            return;
        };
        let stopping = thread::Builder::new()
            .name("rivven-quic-end".into())
            .spawn(move || {
                if let Some(endpoint) = endpoint {
                    let idle = async { timeout(CLOSE_TIME, endpoint.wait_idle()).await };
                    // A peer that misses the close frame notices by its own timers.
                    let _ = runtime.block_on(idle);
                }
                runtime.shutdown_timeout(STOP_TIME);
            });
        if let Err(error) = stopping {
            warn!(%error, "no thread to end the transport on; its port is free when the process ends");
        }
    }
}

/// The log of the starting thread. Without one, a global log that is set up later is used.
fn inherited_log() -> Option<Dispatch> {
    let log = dispatcher::get_default(Dispatch::clone);
    (!log.is::<NoSubscriber>()).then_some(log)
}
