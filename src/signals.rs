//! The signals that ask the process to stop, SIGTERM and SIGINT, and SIGHUP, which asks to open the log files again.
//!
//! Handlers for the first two are installed as soon as the process starts. The first process of a container does
//! not receive a signal without a handler, so a member that installed its handlers only when it serves
//! could not be stopped while it waits for its peers.

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

/// SIGUSR1, which a tool may give a meaning.
pub(crate) struct UserSignal(Signal);

impl UserSignal {
    /// Installs the handler. Must be called on a tokio runtime.
    pub(crate) fn listen() -> io::Result<UserSignal> {
        Ok(UserSignal(signal(SignalKind::user_defined1())?))
    }

    /// Waits for the next one. If the future is dropped, none is lost.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// The signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Terminate,
    Interrupt,
}

impl Signals {
    /// Installs the handlers. Must be called on a tokio runtime.
    pub(crate) fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal that has arrived since the last call.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! { biased;
            _ = self.terminate.recv() => Asked::Terminate,
            _ = self.interrupt.recv() => Asked::Interrupt,
        }
    }

    /// The next signal that does not belong to the request to stop that arrived at `first`.
    pub(crate) async fn next_request(&mut self, first: Instant) -> Asked {
        loop {
            let asked = self.next().await;
            if first.elapsed() > ONE_REQUEST {
                return asked;
            }
        }
    }
}

/// Has `work` done at each SIGHUP, from now on. Until this is called, SIGHUP ends the process, as it does with etcd. Must
/// be called on a tokio runtime.
pub(crate) fn at_each_hangup(work: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            work();
        }
    });
    Ok(())
}

impl Asked {
    /// The name of the signal in etcd's log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Asked::Terminate => "terminated",
            Asked::Interrupt => "interrupt",
        }
    }

    /// The exit code that a shell reports for a process that this signal ended.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Asked::Terminate => 128 + 15,
            Asked::Interrupt => 128 + 2,
        }
    }
}
