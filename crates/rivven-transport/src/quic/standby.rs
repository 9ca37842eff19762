//! What keeps QUIC going when the runtime where it has its home stands still.
//!
//! Packets are moved by the threads that make and handle calls, because every change of threads costs more than a
//! packet. Those threads are the user's, who may block them. So the transport has one thread of its own, which
//! looks now and then: a driver that has had something to do for a while is polled there, and a socket that
//! nobody reads is read there until its home reads again. Packets, acknowledgements and pings then wait for
//! [`BUSY_LOOK`] or two, and not for the user.

use std::{
    io,
    net::UdpSocket,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quinn::AsyncUdpSocket;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{drive::Driver, lock, socket::Socket};

/// Pause between two looks while something is going on.
const BUSY_LOOK: Duration = Duration::from_millis(10);

/// The same while nothing is.
const IDLE_LOOK: Duration = Duration::from_millis(50);

/// Watches over the drivers of one endpoint, from a runtime of the transport's own.
#[derive(Debug)]
pub(super) struct Standby {
    io: Handle,
    socket: OnceLock<Weak<Socket>>,
    /// The endpoint's own, which reads the socket.
    endpoint: OnceLock<Arc<Driver>>,
    drivers: Mutex<Vec<Arc<Driver>>>,
    /// Every driver is polled here as soon as it is woken.
    acting: AtomicBool,
    /// The home has ended, and nobody returns to it.
    homeless: AtomicBool,
    /// While acting: a driver was woken.
    called: Notify,
    ended: AtomicBool,
}

impl Standby {
    /// A standby on the runtime of `io`, where somebody has to [`watch`].
    pub(super) fn new(io: Handle) -> Arc<Self> {
        Arc::new(Self {
            io,
            socket: OnceLock::new(),
            endpoint: OnceLock::new(),
            drivers: Mutex::default(),
            acting: AtomicBool::new(false),
            homeless: AtomicBool::new(false),
            called: Notify::new(),
            ended: AtomicBool::new(false),
        })
    }

    /// Whether the drivers' home has ended.
    pub(super) fn is_homeless(&self) -> bool {
        self.homeless.load(Ordering::Relaxed)
    }

    /// Registers the endpoint's socket at the runtime that is entered, which is its home.
    pub(super) fn wrap(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = Arc::new(Socket::new(socket)?);
        // An endpoint has one socket for life.
        let _ = self.socket.set(Arc::downgrade(&socket));
        Ok(socket)
    }

    /// Counts `driver` among those to look at. The first one is the endpoint's.
    pub(super) fn watch_over(&self, driver: &Arc<Driver>) {
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        self.endpoint.get_or_init(|| Arc::clone(driver));
        lock(&self.drivers).push(Arc::clone(driver));
    }

    /// A driver was woken.
    pub(super) fn call(&self) {
        if self.acting.load(Ordering::Acquire) {
            self.called.notify_one();
        }
    }

    /// `driver` is polled at home, which therefore does not stand still: if it is the endpoint's, the socket is
    /// read there again.
    pub(super) fn is_home(&self, driver: &Arc<Driver>) {
        let acting = self.acting.load(Ordering::Acquire);
        if acting && !self.is_homeless() && self.endpoint.get().is_some_and(|own| Arc::ptr_eq(own, driver)) {
            if let Some(socket) = self.socket() {
                socket.give_back();
            }
            self.acting.store(false, Ordering::Release);
            // It has to ask for packets at home.
            driver.rouse();
            debug!("packets are moved by the callers' runtime again");
        }
    }

    /// Goes on with the drivers of a runtime that has ended. `false` if this has ended too.
    pub(super) fn adopt(&self) -> bool {
        self.homeless.store(true, Ordering::Release);
        self.act();
        !self.ended.load(Ordering::Acquire)
    }

    fn socket(&self) -> Option<Arc<Socket>> {
        self.socket.get()?.upgrade()
    }

    /// Takes over every driver, and the socket.
    fn act(&self) {
        if self.acting.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(Err(error)) = self.socket().map(|socket| socket.take_over(&self.io)) {
            debug!(%error, "the standby cannot read the socket");
        }
        for driver in lock(&self.drivers).iter() {
            driver.rouse();
        }
        self.called.notify_one();
    }

    /// Looks once: polls what its home does not, and with `all` every driver, whose timers wake nobody here.
    /// Whether something is going on.
    fn look(&self, before: &mut Before, all: bool) -> bool {
        let acting = self.acting.load(Ordering::Acquire);
        let mut due = Vec::new();
        let mut polls = 0_u64;
        {
            let mut drivers = lock(&self.drivers);
            drivers.retain(|driver| !driver.has_ended());
            for driver in drivers.iter() {
                polls = polls.wrapping_add(driver.polls());
                let stuck = driver.is_stuck();
                if stuck || (acting && (all || driver.is_woken())) {
                    due.push(Arc::clone(driver));
                }
            }
        }
        let idle = polls == std::mem::replace(&mut before.polls, polls);
        let is_due = !due.is_empty();
        for driver in due {
            driver.poll_here();
        }
        let reads = self.endpoint.get().map_or(0, |endpoint| endpoint.polls());
        let unread = !acting && self.socket().is_some_and(|socket| socket.has_unread());
        let stands = unread && before.unread && reads == before.reads;
        (before.unread, before.reads) = (unread, reads);
        if stands {
            debug!("the callers' runtime stands still; packets are moved by the transport's own thread");
            self.act();
        }
        acting || is_due || unread || !idle
    }
}

/// What the last look has seen.
#[derive(Default)]
struct Before {
    /// Of all drivers.
    polls: u64,
    /// Of the endpoint's.
    reads: u64,
    unread: bool,
}

/// Watches until the runtime it is on ends, and the drivers with it.
pub(super) async fn watch(standby: Arc<Standby>) {
    let ending = Ending(standby);
    let standby = &ending.0;
    let mut before = Before::default();
    let mut looked = Instant::now();
    loop {
        let all = looked.elapsed() >= BUSY_LOOK;
        if all {
            looked = Instant::now();
        }
        let busy = standby.look(&mut before, all);
        if standby.acting.load(Ordering::Acquire) {
            // That it was called and that it was not mean the same.
            let _ = timeout(BUSY_LOOK, standby.called.notified()).await;
        } else {
            sleep(if busy { BUSY_LOOK } else { IDLE_LOOK }).await;
        }
    }
}

struct Ending(Arc<Standby>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        let drivers = std::mem::take(&mut *lock(&self.0.drivers));
        for driver in drivers {
            driver.end();
        }
    }
}
