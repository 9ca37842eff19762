//! A process of the benchmark, started from this same program, and what it has used.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// Killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    id: u32,
}

impl Process {
    /// Starts a hidden subcommand and waits for its first line.
    pub(super) async fn start(command: &str, args: &[String]) -> Result<(Self, String)> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(command)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().context("a process without output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).await?;
        let id = child
            .id()
            .context("a process ended at once; its message is above")?;
        Ok((Self { child, id }, line))
    }

    /// SIGKILL, and nothing said to anybody. Returns before the process is gone.
    pub(super) fn kill(&mut self) -> Result<()> {
        Ok(self.child.start_kill()?)
    }

    /// Waits until it is gone.
    pub(super) async fn gone(mut self) -> Result<()> {
        self.child.wait().await?;
        Ok(())
    }

    /// CPU time of its live threads, where the system says so.
    pub(super) fn cpu(&self) -> Option<Duration> {
        let mut total = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.id)).ok()? {
            let stat = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            total += stat.split_whitespace().next()?.parse::<u64>().ok()?;
        }
        Some(Duration::from_nanos(total))
    }

    /// What is resident of its memory, where the system says so.
    pub(super) fn memory(&self) -> Option<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id)).ok()?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Memory {
            resident_kib: kib("VmRSS:")?,
            program_kib: kib("RssFile:")?,
        })
    }
}

/// What is resident of a process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Memory {
    pub(super) resident_kib: u32,
    /// Of that, the program itself and libraries, which processes share and the system can drop.
    pub(super) program_kib: u32,
}
