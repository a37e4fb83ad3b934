//! What the process prints when it does not serve: the help, or the reason for its failure.
//!
//! The help goes to stdout, and a mistyped flag is answered with plain text on stderr, as command-line
//! tools do. Every other failure is a log line, so that the reason is found in the collected log.

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
        // The reader has closed the pipe, as in `retcd --help | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Reports that the settings were refused.
pub(crate) fn refuse(error: &ConfigError) -> ExitCode {
    if error.is_usage() {
        // If stderr is closed, the message cannot be printed anywhere.
        let _ = writeln!(io::stderr(), "{error}\nRun 'retcd --help' to see all flags.");
    } else {
        log::init_to_stderr();
        tracing::error!(%error, "failed to verify flags");
    }
    ExitCode::from(error.exit_code)
}

/// Reports that an attempt failed, and the reason.
pub(crate) fn fail(attempt: &str, reason: &str) -> ExitCode {
    log::init_to_stderr();
    tracing::error!(error = reason, "failed to {attempt}");
    ExitCode::FAILURE
}
