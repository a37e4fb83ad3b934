//! What is said when there is, or will be, no server: help, or why not.
//!
//! Help goes to stdout and a mistyped flag is answered in plain words, as command-line tools do.
//! Everything else is a log line, so that whoever collects the log finds the reason in it.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::config::ConfigError;

use super::log;

/// Help or version.
pub(crate) fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has heard enough: `retcd --help | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The settings make no sense.
pub(crate) fn refuse(error: &ConfigError) -> ExitCode {
    if error.is_usage() {
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(io::stderr(), "{error}\nRun 'retcd --help' to see all flags.");
    } else {
        log::init_to_stderr();
        tracing::error!(%error, "failed to verify flags");
    }
    ExitCode::from(error.exit_code)
}

/// What was asked for cannot be done, and here is why.
pub(crate) fn fail(attempt: &str, reason: &str) -> ExitCode {
    log::init_to_stderr();
    tracing::error!(error = reason, "failed to {attempt}");
    ExitCode::FAILURE
}
