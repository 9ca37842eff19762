//! The endpoint's socket, which can be read on another runtime than its own.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwapOption;
use quinn::{
    AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::runtime::Handle;

/// A socket registered at its home, and while that stands still at another runtime too.
#[derive(Debug)]
pub(super) struct Socket {
    home: Arc<dyn AsyncUdpSocket>,
    /// The same socket once more: to look at, and to register.
    spare: UdpSocket,
    elsewhere: ArcSwapOption<Elsewhere>,
}

#[derive(Debug)]
struct Elsewhere(Arc<dyn AsyncUdpSocket>);

impl Socket {
    /// Registers `socket` at the runtime that is entered.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let spare = socket.try_clone()?;
        Ok(Self {
            home: TokioRuntime.wrap_udp_socket(socket)?,
            spare,
            elsewhere: ArcSwapOption::empty(),
        })
    }

    /// Whether something has come that nobody has read.
    pub(super) fn has_unread(&self) -> bool {
        match self.spare.peek(&mut [0]) {
            Ok(_) => true,
            // Some systems say in this way that there is more than one byte.
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// From the next poll on the runtime of `handle` says when there is something to read.
    pub(super) fn take_over(&self, handle: &Handle) -> io::Result<()> {
        let _entered = handle.enter();
        let registered = TokioRuntime.wrap_udp_socket(self.spare.try_clone()?)?;
        self.elsewhere.store(Some(Arc::new(Elsewhere(registered))));
        Ok(())
    }

    /// From the next poll on its home does again.
    pub(super) fn give_back(&self) {
        self.elsewhere.store(None);
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            home: Arc::clone(&self.home).create_io_poller(),
            elsewhere: None,
            socket: self,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match &*self.elsewhere.load() {
            Some(elsewhere) => elsewhere.0.try_send(transmit),
            None => self.home.try_send(transmit),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        match &*self.elsewhere.load() {
            Some(elsewhere) => elsewhere.0.poll_recv(cx, bufs, meta),
            None => self.home.poll_recv(cx, bufs, meta),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.home.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.home.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.home.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.home.may_fragment()
    }
}

/// Waits for room to send, at the runtime where the socket is read.
#[derive(Debug)]
struct Poller {
    socket: Arc<Socket>,
    home: Waiting,
    elsewhere: Option<(Arc<Elsewhere>, Waiting)>,
}

type Waiting = Pin<Box<dyn UdpPoller>>;

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let elsewhere = this.socket.elsewhere.load();
        let Some(current) = &*elsewhere else {
            this.elsewhere = None;
            return this.home.as_mut().poll_writable(cx);
        };
        let known = this
            .elsewhere
            .take()
            .filter(|(known, _)| Arc::ptr_eq(known, current));
        let (_, poller) = this.elsewhere.insert(known.unwrap_or_else(|| {
            let poller = Arc::clone(&current.0).create_io_poller();
            (Arc::clone(current), poller)
        }));
        poller.as_mut().poll_writable(cx)
    }
}
