//! Being asked to stop.

use std::io::{self, Read as _};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// Bytes read at a time from a standard input whose content does not matter.
const SCRAP: usize = 64;

/// The requests to stop that this process gets from outside.
#[derive(Debug)]
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
    stdin_closed: Option<oneshot::Receiver<()>>,
}

impl Stop {
    /// Takes over SIGTERM and SIGINT.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: None,
            stdin_closed: None,
        })
    }

    /// Takes the end of the terminal as a request too. Not for a service, which `nohup` may have detached.
    pub(crate) fn watch_terminal(&mut self) -> io::Result<()> {
        self.hangup = Some(signal(SignalKind::hangup())?);
        Ok(())
    }

    /// Takes the end of standard input as a request too: it comes when the parent process dies.
    pub(crate) fn watch_stdin(&mut self) -> io::Result<()> {
        let (closed, stdin_closed) = oneshot::channel();
        // A thread of its own, since a read of standard input cannot be interrupted; it ends with the process.
        std::thread::Builder::new()
            .name("rivven-stdin".into())
            .spawn(move || {
                let mut scrap = [0; SCRAP];
                while io::stdin().read(&mut scrap).is_ok_and(|read| read > 0) {}
                // Nobody listens any more when the node is already stopping.
                let _ = closed.send(());
            })?;
        self.stdin_closed = Some(stdin_closed);
        Ok(())
    }

    /// Waits for the next request; returns its name.
    pub(crate) async fn requested(&mut self) -> &'static str {
        let stdin_closed = async {
            match &mut self.stdin_closed {
                Some(closed) => drop(closed.await),
                None => std::future::pending().await,
            }
        };
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.terminate.recv() => return "SIGTERM",
            _ = self.interrupt.recv() => return "SIGINT",
            () = hangup => return "SIGHUP",
            () = stdin_closed => {}
        }
        self.stdin_closed = None;
        "end of standard input"
    }
}
