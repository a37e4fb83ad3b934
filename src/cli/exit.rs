//! How a command ends when it fails: the exit code that scripts test, and what is written to stderr.

use std::{fmt, io};

/// The exit codes of etcdctl and etcdutl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Error = 1,
    BadConnection = 2,
    /// The text of a transaction or of an interactive watch.
    InvalidInput = 3,
    /// A value that a flag does not have, or a format that the command does not have.
    BadFeature = 4,
    Interrupted = 5,
    BadArgs = 128,
}

/// What a shell reports for a process that SIGPIPE has ended, as it ends etcdctl.
const CLOSED_PIPE: u8 = 128 + 13;

#[derive(Debug)]
pub(crate) enum Failure {
    /// Written as `Error: ...`.
    Told { exit: Exit, text: String },
    /// The command line is wrong in a way for which etcdctl shows the usage of the command.
    Usage { text: String, usage: String },
    /// A program that was run has failed, with this exit code.
    Exited { code: u8, text: String },
    /// Everything is written already.
    Silent(u8),
    /// Stdout cannot be written to.
    Output(io::Error),
}

impl Exit {
    pub(crate) fn because(self, cause: impl fmt::Display) -> Failure {
        Failure::Told { exit: self, text: cause.to_string() }
    }
}

impl Failure {
    pub(crate) fn bad_args(text: impl Into<String>) -> Failure {
        Failure::Told { exit: Exit::BadArgs, text: text.into() }
    }

    pub(crate) fn silent(exit: Exit) -> Failure {
        Failure::Silent(exit as u8)
    }

    /// Writes what has to be said, and returns the exit code. A reader who has closed stdout is told nothing.
    pub(crate) fn tell(self, stderr: &mut dyn io::Write) -> u8 {
        // If stderr is closed too, nobody can be told.
        let (code, _) = match self {
            Failure::Told { exit, text } => (exit as u8, writeln!(stderr, "Error: {text}")),
            Failure::Usage { text, usage } => (Exit::Error as u8, write!(stderr, "Error: {text}\n{usage}")),
            Failure::Exited { code, text } => (code, writeln!(stderr, "Error: {text}")),
            Failure::Silent(code) => (code, Ok(())),
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => (CLOSED_PIPE, Ok(())),
            Failure::Output(error) => {
                (Exit::Error as u8, writeln!(stderr, "Error: cannot write to stdout: {error}"))
            }
        };
        code
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}
