//! Standard output, which may be a terminal, a file, or a pipe that nobody reads any more.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
};

/// Where a command writes its result.
#[derive(Debug)]
pub(crate) struct Output {
    terminal: bool,
}

impl Output {
    pub(crate) fn stdout() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
        }
    }

    pub(crate) const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes `value` as it is; a terminal goes on in a new line.
    pub(crate) fn value(&mut self, value: &[u8]) {
        let mut stdout = io::stdout().lock();
        let end: &[u8] = if self.terminal { b"\n" } else { b"" };
        let _ = stdout
            .write_all(value)
            .and_then(|()| stdout.write_all(end))
            .and_then(|()| stdout.flush());
    }

    /// Writes a line at once. A reader that went away is not an error: nobody is left to tell.
    #[expect(clippy::unused_self, reason = "whoever prints needs the output in hand")]
    pub(crate) fn line(&mut self, text: impl fmt::Display) {
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    }
}
