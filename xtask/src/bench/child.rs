//! The answering process, as seen by the measuring one.

use std::{net::SocketAddr, path::Path, process::Stdio};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// A running answering process, killed when dropped.
#[derive(Debug)]
pub(super) struct Peer {
    child: Child,
    /// The transport.
    pub(super) quic: SocketAddr,
    /// The raw reference.
    pub(super) tcp: SocketAddr,
    /// The reference with one stream per request.
    pub(super) quinn: SocketAddr,
}

impl Peer {
    /// Starts the process and waits until it listens.
    pub(super) async fn start(dir: &Path, epoch: u64, port: u16) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program)
            .arg("bench-peer")
            .arg("--tls")
            .arg(dir.join("tls").join("node-2"))
            .arg("--keys")
            .arg(dir.join("quic.key"))
            .args(["--epoch", &epoch.to_string(), "--port", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child
            .stdout
            .take()
            .context("no output of the answering process")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).await?;
        let ports = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u16>, _>>();
        let [quic, tcp, quinn] = ports?
            .try_into()
            .ok()
            .context("the answering process did not start; its message is above")?;
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Self {
            child,
            quic: at(quic),
            tcp: at(tcp),
            quinn: at(quinn),
        })
    }

    /// SIGKILL, and nothing said to anybody.
    pub(super) async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}
