//! QUIC's own tasks, which run where calls are made and handled, and whom a lone frame need not wait for.

use std::{
    cell::RefCell,
    fmt,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use futures_util::task::AtomicWaker;
use quinn::{AsyncTimer, AsyncUdpSocket, TokioRuntime};
use tokio::runtime::Handle;

use super::{lock, standby::Standby};

/// Lets quinn run on the runtime of the callers, whichever thread asks.
///
/// There a packet meets the task that waits for it without waking another thread. What happens when that runtime
/// stands still: see [`Standby`].
#[derive(Debug)]
pub(super) struct Drivers {
    home: Handle,
    standby: Option<Arc<Standby>>,
}

impl Drivers {
    /// Drivers at home on `home`, watched over by `standby` if the transport has a thread of its own.
    pub(super) const fn new(home: Handle, standby: Option<Arc<Standby>>) -> Self {
        Self { home, standby }
    }
}

impl quinn::Runtime for Drivers {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _entered = self.home.enter();
        Box::pin(Timer {
            at,
            home: TokioRuntime.new_timer(at),
            standby: self.standby.clone(),
        })
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let driver = Arc::new(Driver {
            task: Mutex::new(Some(task)),
            home: AtomicWaker::new(),
            woken: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            polls: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            standby: self.standby.clone(),
        });
        if let Some(standby) = &self.standby {
            standby.watch_over(&driver);
        }
        let _entered = self.home.enter();
        TokioRuntime.spawn(Box::pin(async move {
            let home = Home(driver);
            let waker = Waker::from(Arc::clone(&home.0));
            poll_fn(|cx| home.0.poll_at_home(cx, &waker)).await;
        }));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _entered = self.home.enter();
        match &self.standby {
            Some(standby) => standby.wrap(socket),
            None => TokioRuntime.wrap_udp_socket(socket),
        }
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// A timer at home, so that setting it wakes no other thread. Whoever polls a driver elsewhere finds it due when
/// it is, although nobody is woken for it there.
#[derive(Debug)]
struct Timer {
    at: Instant,
    home: Pin<Box<dyn AsyncTimer>>,
    standby: Option<Arc<Standby>>,
}

impl Timer {
    /// A runtime that has ended has no timers, and does not like to be asked.
    fn is_homeless(&self) -> bool {
        self.standby.as_ref().is_some_and(|standby| standby.is_homeless())
    }
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.at = at;
        if !self.is_homeless() {
            self.home.as_mut().reset(at);
        }
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.at <= quinn::Runtime::now(&TokioRuntime) {
            Poll::Ready(())
        } else if self.is_homeless() {
            Poll::Pending
        } else {
            self.home.as_mut().poll(cx)
        }
    }
}

/// One task of quinn's: that of the endpoint, or that of a connection.
///
/// It has a home on the runtime of the callers. Whoever has given it work to do can also do that work there and
/// then ([`at_once`]), and when its home stands still the standby does it.
pub(super) struct Driver {
    task: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    /// The task at home.
    home: AtomicWaker,
    /// It has to be polled.
    woken: AtomicBool,
    ended: AtomicBool,
    /// How often it was polled.
    polls: AtomicU64,
    /// What the standby saw when it last looked, see [`Driver::is_stuck`].
    seen: AtomicU64,
    standby: Option<Arc<Standby>>,
}

/// Where a driver lives. Its end is that of the driver, unless the standby takes it in: the connection it drives
/// holds the waker, and so the driver itself.
struct Home(Arc<Driver>);

impl Drop for Home {
    fn drop(&mut self) {
        if self.0.has_ended() {
            return;
        }
        let adopted = self.0.standby.as_ref().is_some_and(|standby| standby.adopt());
        if !adopted {
            self.0.end();
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl Driver {
    fn poll_at_home(self: &Arc<Self>, cx: &Context<'_>, waker: &Waker) -> Poll<()> {
        self.home.register(cx.waker());
        if let Some(standby) = &self.standby {
            standby.is_home(self);
        }
        if !self.woken.swap(false, Ordering::AcqRel) {
            return match *lock(&self.task) {
                Some(_) => Poll::Pending,
                None => Poll::Ready(()),
            };
        }
        self.poll(&mut lock(&self.task), waker)
    }

    /// Does what there is to do, unless somebody is doing it; then home is told to look again.
    pub(super) fn poll_here(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let ended = match self.task.try_lock() {
            Ok(mut task) => {
                // What was done before a wake-up that this makes needless must be seen by the poll.
                self.woken.swap(false, Ordering::AcqRel);
                self.poll(&mut task, &waker).is_ready()
            }
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => true,
        };
        if ended {
            waker.wake();
        }
    }

    fn poll(&self, task: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>, waker: &Waker) -> Poll<()> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        let polled = poll(task, waker);
        if polled.is_ready() {
            self.ended.store(true, Ordering::Release);
        }
        polled
    }

    /// Drops the task, and with it what it drives.
    pub(super) fn end(&self) {
        let task = lock(&self.task).take();
        drop(task);
        self.ended.store(true, Ordering::Release);
        self.home.wake();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Has it polled at home.
    pub(super) fn rouse(&self) {
        self.woken.swap(true, Ordering::AcqRel);
        self.home.wake();
    }

    /// How often it was polled.
    pub(super) fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// It has to be polled.
    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// Whether it has to be polled, had to when this was last asked, and was not in between.
    pub(super) fn is_stuck(&self) -> bool {
        let woken = self.is_woken();
        let seen = (self.polls() << 1) | u64::from(woken);
        self.seen.swap(seen, Ordering::Relaxed) == seen && woken
    }
}

fn poll(task: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>, waker: &Waker) -> Poll<()> {
    let Some(running) = task else {
        return Poll::Ready(());
    };
    LATE.set(Some(Vec::new()));
    let polled = running.as_mut().poll(&mut Context::from_waker(waker));
    for late in LATE.take().unwrap_or_default() {
        late.wake();
    }
    if polled.is_ready() {
        *task = None;
    }
    polled
}

impl Wake for Driver {
    fn wake(self: Arc<Self>) {
        self.woken.swap(true, Ordering::AcqRel);
        let kept = KEPT.with_borrow_mut(|kept| match kept {
            Some(slot @ None) => {
                *slot = Some(Arc::clone(&self));
                true
            }
            Some(Some(first)) => Arc::ptr_eq(first, &self),
            None => false,
        });
        if !kept {
            self.home.wake();
            if let Some(standby) = &self.standby {
                standby.call();
            }
        }
    }
}

thread_local! {
    /// While [`at_once`] runs: the driver that was woken first.
    static KEPT: RefCell<Option<Option<Arc<Driver>>>> = const { RefCell::new(None) };

    /// While a driver is polled: whom to wake when it has come to rest.
    static LATE: RefCell<Option<Vec<Waker>>> = const { RefCell::new(None) };
}

/// Runs `write`, which gives a connection something to send, and sends it from this thread.
///
/// Only for a little: the work of sending is then not done beside the caller's but in its place.
pub(super) fn at_once<T>(write: impl FnOnce() -> T) -> T {
    KEPT.set(Some(None));
    // What a panic leaves behind is set anew by the next call, and until then only delays a wake-up on a
    // thread whose task has ended.
    let result = write();
    let driver = KEPT.take().flatten();
    if let Some(driver) = driver {
        driver.poll_here();
    }
    result
}

/// Awaits `reading`, which a driver wakes while it holds the lock of its connection; the wake-up waits until the
/// lock is free. Woken earlier, the task would run into it, and its thread would sleep once more.
pub(super) async fn once_free<F: Future>(reading: F) -> F::Output {
    let mut reading = pin!(reading);
    let mut known: Option<(Waker, Waker)> = None;
    poll_fn(|cx| {
        if known.as_ref().is_none_or(|(task, _)| !task.will_wake(cx.waker())) {
            let task = cx.waker().clone();
            known = Some((task.clone(), Waker::from(Arc::new(Late(task)))));
        }
        let waker = known.as_ref().map_or(cx.waker(), |(_, late)| late);
        reading.as_mut().poll(&mut Context::from_waker(waker))
    })
    .await
}

/// See [`once_free`].
struct Late(Waker);

impl Wake for Late {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let kept = LATE.with_borrow_mut(|late| late.as_mut().map(|late| late.push(self.0.clone())));
        if kept.is_none() {
            self.0.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, Sender, channel},
        thread::{self, ThreadId},
        time::Duration,
    };

    use quinn::Runtime as _;
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    /// A thread of the transport, and a driver there that tells where it is polled and by which waker.
    fn driver() -> (Runtime, Receiver<(ThreadId, Waker)>) {
        let io = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (polled, seen): (Sender<_>, _) = channel();
        Drivers::new(io.handle().clone(), None).spawn(Box::pin(poll_fn(move |cx| {
            // A test that has seen enough receives no more.
            let _ = polled.send((thread::current().id(), cx.waker().clone()));
            Poll::Pending
        })));
        (io, seen)
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn who_gives_a_driver_work_may_do_it_and_otherwise_it_is_done_at_home() {
        let (_io, seen) = driver();
        let (home, waker) = seen.recv_timeout(PATIENCE).unwrap();
        assert_ne!(home, thread::current().id());
        // While it is still being polled at home, the work is left there.
        let here = (0..1_000).any(|_| {
            at_once(|| waker.wake_by_ref());
            seen.recv_timeout(PATIENCE).unwrap().0 == thread::current().id()
        });
        assert!(here);
        waker.wake();
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap().0, home);
    }

    #[test]
    fn a_driver_ends_with_its_home_although_its_own_connection_holds_it() {
        let (io, seen) = driver();
        let (_, waker) = seen.recv_timeout(PATIENCE).unwrap();
        io.shutdown_timeout(PATIENCE);
        at_once(|| waker.wake());
        assert!(seen.recv_timeout(PATIENCE).is_err(), "polled after its end");
    }

    #[test]
    fn a_home_has_ended_when_its_runtime_has_and_not_when_a_driver_has() {
        let [home, io] = [(); 2].map(|()| {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.unwrap()
        });
        let standby = Standby::new(io.handle().clone());
        let drivers = Drivers::new(home.handle().clone(), Some(Arc::clone(&standby)));
        drivers.spawn(Box::pin(async {}));
        let (polled, second) = channel();
        drivers.spawn(Box::pin(async move {
            polled.send(()).unwrap();
            std::future::pending().await
        }));
        // The one thread at home has dropped the first by then.
        second.recv_timeout(PATIENCE).unwrap();
        assert!(!standby.is_homeless());
        home.shutdown_timeout(PATIENCE);
        assert!(standby.is_homeless());
    }

    #[test]
    fn a_reader_is_woken_once_the_driver_has_come_to_rest() {
        struct Flag(AtomicBool);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let woken = || flag.0.swap(false, Ordering::SeqCst);
        let mut registered = None;
        let reading = once_free(poll_fn(|cx| {
            registered = Some(cx.waker().clone());
            Poll::<()>::Pending
        }));
        let polled = pin!(reading).poll(&mut Context::from_waker(&Waker::from(Arc::clone(&flag))));
        assert!(polled.is_pending());
        let registered = registered.unwrap();
        let (late, early) = (registered.clone(), Arc::clone(&flag));
        let mut task: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = Some(Box::pin(async move {
            late.wake();
            assert!(!early.0.load(Ordering::SeqCst));
        }));
        assert!(poll(&mut task, Waker::noop()).is_ready());
        assert!(woken());
        registered.wake();
        assert!(woken(), "outside a driver at once");
    }
}
