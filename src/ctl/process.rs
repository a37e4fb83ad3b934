//! Programs that `watch` and `lock` run.

use std::{
    ffi::OsString,
    io,
    os::unix::{ffi::OsStringExt, process::ExitStatusExt},
    process::{Command, ExitStatus},
};

use tokio::task;

use crate::cli::go::{quote, reason};

pub(super) struct Program {
    words: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
}

/// Why a program has not done what it was run for. The texts are Go's.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("exec: {name}: executable file not found in $PATH")]
    NotFound { name: String },
    #[error("fork/exec {name}: {}", reason(error))]
    NotStarted { name: String, error: io::Error },
    #[error("{}", ended(*.0))]
    Failed(ExitStatus),
}

impl Program {
    /// `words` are its name and its arguments.
    pub(super) fn new(words: &[Vec<u8>], variables: Vec<(&'static str, Vec<u8>)>) -> Program {
        Program {
            words: words.iter().cloned().map(OsString::from_vec).collect(),
            variables: variables.into_iter().map(|(name, value)| (name, OsString::from_vec(value))).collect(),
        }
    }

    /// Waits until it has ended, on another thread: a lease is kept alive meanwhile.
    pub(super) async fn run(self) -> Result<(), RunError> {
        let running = task::spawn_blocking(move || self.run_blocking());
        running.await.unwrap_or_else(|error| {
            Err(RunError::NotStarted { name: String::new(), error: io::Error::other(error) })
        })
    }

    fn run_blocking(self) -> Result<(), RunError> {
        let (name, args) = self.words.split_first().ok_or_else(|| RunError::NotFound { name: quote(b"") })?;
        let mut command = Command::new(name);
        command.args(args).envs(self.variables).stdin(std::process::Stdio::null());
        let status = command.status().map_err(|error| {
            let name = name.to_string_lossy().into_owned();
            match error.kind() {
                io::ErrorKind::NotFound if !name.contains('/') => {
                    RunError::NotFound { name: quote(name.as_bytes()) }
                }
                _ => RunError::NotStarted { name, error },
            }
        })?;
        if status.success() { Ok(()) } else { Err(RunError::Failed(status)) }
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal: {signal}"),
        (None, None) => status.to_string(),
    }
}
