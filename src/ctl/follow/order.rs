//! What tells `follow` to cut over: a line on stdin, a signal, or that there is next to nothing to follow.

use std::{future::pending, io};

use tokio::task::{self, JoinHandle};

use crate::{
    cli::{Exit, Failure, output},
    signals::UserSignal,
};

/// The line that cuts over.
pub(super) const WORD: &str = "cutover";

pub(super) struct Orders {
    signal: UserSignal,
    /// `None` once stdin has ended.
    line: Option<JoinHandle<Option<String>>>,
}

impl Orders {
    pub(super) fn listen() -> Result<Orders, Failure> {
        let signal = UserSignal::listen().map_err(|error| Exit::Error.because(error))?;
        Ok(Orders { signal, line: Some(next_line()) })
    }

    /// Waits for an order. The future may be dropped, and nothing is lost then.
    pub(super) async fn next(&mut self) {
        loop {
            tokio::select! { biased;
                () = self.signal.next() => return,
                line = read(&mut self.line) => {
                    self.line = line.as_ref().map(|_| next_line());
                    match line.as_deref().map(str::trim) {
                        Some(WORD) => return,
                        Some("") | None => {}
                        Some(_) => output::complain(format_args!("the word to cut over is `{WORD}`")),
                    }
                }
            }
        }
    }
}

async fn read(line: &mut Option<JoinHandle<Option<String>>>) -> Option<String> {
    match line {
        // A thread that could not be joined has read nothing more.
        Some(line) => line.await.unwrap_or_default(),
        None => pending().await,
    }
}

/// On another thread, because stdin cannot be waited for otherwise. `None` at its end.
fn next_line() -> JoinHandle<Option<String>> {
    task::spawn_blocking(|| {
        let mut line = String::new();
        match io::stdin().read_line(&mut line) {
            Ok(1..) => Some(line),
            Ok(0) | Err(_) => None,
        }
    })
}
