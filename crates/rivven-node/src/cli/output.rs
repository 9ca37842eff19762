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

    /// Writes a line at once. A reader that went away is not an error: nobody is left to tell.
    #[expect(clippy::unused_self, reason = "whoever prints needs the output in hand")]
    pub(crate) fn line(&mut self, text: impl fmt::Display) {
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    }
}
