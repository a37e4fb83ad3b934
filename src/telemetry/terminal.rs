//! How far a command is, for whoever watches it.

use std::io::{self, IsTerminal, Write};

/// One line on stderr that is written over, if stderr is a terminal. Otherwise nothing is written.
#[derive(Debug, Default)]
pub(crate) struct Terminal {
    /// The length of the line.
    shown: usize,
}

impl Terminal {
    /// Whether somebody may be watching.
    pub(crate) fn is_there() -> bool {
        io::stderr().is_terminal()
    }

    pub(crate) fn show(&mut self, text: impl FnOnce() -> String) {
        let mut stderr = io::stderr().lock();
        if !stderr.is_terminal() {
            return;
        }
        let text = text();
        // If stderr is closed, nobody watches.
        let _ = write!(stderr, "\r{text:<width$}", width = self.shown).and_then(|()| stderr.flush());
        self.shown = text.len();
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.shown > 0 {
            let _ = write!(io::stderr(), "\r{:width$}\r", "", width = self.shown);
            self.shown = 0;
        }
    }
}
