//! The signals that ask the process to end.
//!
//! They are listened for from the first moment of the process on. The kernel keeps signals that
//! nobody listens for from the first process of a container, so a member that began to listen only
//! once it serves could not be stopped there while it waits for its peers.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// `timeout` and some process managers signal a process and then its group, so one request to stop arrives twice.
/// Signals within this time of the first belong to the same request.
const ONE_REQUEST: Duration = Duration::from_millis(500);

pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Terminate,
    Interrupt,
}

impl Signals {
    /// Has to be called on a runtime.
    pub(crate) fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal that came since the last call.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! { biased;
            _ = self.terminate.recv() => Asked::Terminate,
            _ = self.interrupt.recv() => Asked::Interrupt,
        }
    }

    /// The next signal that is not part of the request to stop which came at `first`.
    pub(crate) async fn next_request(&mut self, first: Instant) -> Asked {
        loop {
            let asked = self.next().await;
            if first.elapsed() > ONE_REQUEST {
                return asked;
            }
        }
    }
}

impl Asked {
    /// As etcd's log names the signal.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Asked::Terminate => "terminated",
            Asked::Interrupt => "interrupt",
        }
    }

    /// What a shell reports of a process that the signal ended.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Asked::Terminate => 128 + 15,
            Asked::Interrupt => 128 + 2,
        }
    }
}
