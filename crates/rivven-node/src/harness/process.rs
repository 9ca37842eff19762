//! One `rivven-node run` as a child process.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rivven_cluster::NodeId;
use tokio::time::Instant;

use crate::client::AdminClient;

/// How often a child is asked whether it has ended.
const EXIT_POLL: Duration = Duration::from_millis(5);
/// Environment variables that would change what a node runs with.
const CLEARED_PREFIX: &str = "RIVVEN_";

/// What to start, and where everything of it lives.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// The node.
    pub node_id: NodeId,
    /// The program.
    pub binary: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Where its output goes; restarts append.
    pub log: PathBuf,
    /// Where its admin API listens.
    pub admin: SocketAddr,
    /// Where its health endpoints listen.
    pub health: SocketAddr,
}

/// A node that runs as a child of this process, or could.
///
/// Dropping it kills the child and waits for its end. The child also ends when this process does, however
/// that happens: it watches its standard input.
#[derive(Debug)]
pub struct NodeProcess {
    spec: NodeSpec,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Closed by the system when this process ends, which the child takes as its signal to end too.
    _leash: Option<ChildStdin>,
}

impl NodeProcess {
    /// A node that is not started yet.
    #[must_use]
    pub const fn new(spec: NodeSpec) -> Self {
        Self { spec, running: None }
    }

    /// What this process was made from.
    #[must_use]
    pub const fn spec(&self) -> &NodeSpec {
        &self.spec
    }

    /// Process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// A client of the node's admin API, with its token if the node has made one.
    #[must_use]
    pub fn client(&self) -> AdminClient {
        let client = AdminClient::new(self.spec.admin);
        let token = rivven_admin::AdminToken::load(&token_path(&self.spec.data_dir));
        match token {
            Ok(token) => client.with_token(token.reveal()),
            Err(_) => client,
        }
    }

    /// Starts the process. Does not wait for it to serve anything.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.running.is_none(), "node {} runs already", self.spec.node_id);
        let log = File::options().create(true).append(true).open(&self.spec.log);
        let log = log.with_context(|| format!("cannot write {}", self.spec.log.display()))?;
        let mut command = Command::new(&self.spec.binary);
        command
            .arg("run")
            .arg("--config")
            .arg(&self.spec.config)
            .arg("--end-with-stdin")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(CLEARED_PREFIX) && name != "RIVVEN_LOG" {
                command.env_remove(name);
            }
        }
        // Its own group: Ctrl-C in the terminal reaches only this process, which then stops the child.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.spec.binary.display()))?;
        let leash = child.stdin.take();
        self.running = Some(Running { child, _leash: leash });
        Ok(())
    }

    /// SIGKILL, and waits until the process is gone. Returns the moment the signal was sent.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<Instant> {
        let at = self.signal_kill()?;
        let mut running = self.running.take().context("the node does not run")?;
        running.child.wait()?;
        Ok(at)
    }

    /// SIGKILL, without waiting. Returns the moment the signal was sent.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_kill(&mut self) -> anyhow::Result<Instant> {
        let running = self.running.as_mut().context("the node does not run")?;
        let at = Instant::now();
        running.child.kill()?;
        Ok(at)
    }

    /// SIGTERM, and waits for the process to end by itself; after `grace` it is killed.
    ///
    /// # Errors
    /// When it does not run, or had to be killed.
    pub async fn terminate(&mut self, grace: Duration) -> anyhow::Result<ExitStatus> {
        self.signal_stop()?;
        match self.wait_exit(grace).await {
            Ok(status) => Ok(status),
            Err(error) => {
                self.kill()?;
                Err(error.context("SIGTERM had no effect; killed"))
            }
        }
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it does not run, or still runs after `grace`.
    pub async fn wait_exit(&mut self, grace: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + grace;
        let running = self.running.as_mut().context("the node does not run")?;
        loop {
            if let Some(status) = running.child.try_wait()? {
                self.running = None;
                return Ok(status);
            }
            if Instant::now() >= deadline {
                anyhow::bail!("node {} still runs after {grace:?}", self.spec.node_id);
            }
            tokio::time::sleep(EXIT_POLL).await;
        }
    }

    /// Whether the process runs at this moment; collects it if it has ended by itself.
    pub fn is_running(&mut self) -> bool {
        let ended = self
            .running
            .as_mut()
            .is_some_and(|running| !matches!(running.child.try_wait(), Ok(None)));
        if ended {
            self.running = None;
        }
        self.running.is_some()
    }

    /// Everything the node has printed so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_text(&self) -> io::Result<String> {
        std::fs::read(&self.spec.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// SIGTERM, without waiting.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_stop(&self) -> anyhow::Result<()> {
        let pid = self.pid().context("the node does not run")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        Ok(())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

/// Where a node keeps the token of its admin API.
#[must_use]
pub fn token_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.token")
}
