//! Sockets: listening, accepting, dialling, and the limit on the number of connections.
//!
//! ```text
//! ListenUrl --- bind ---> Bound --- listen ---> Listener --- accept ---> Accepted ---> Io
//! peer URLs ----------------------------------> Dialer ----- dial -------------------> Io
//! ```
//!
//! Code that serves or dials uses an [`Io`] and does not depend on its transport, which is TCP or a
//! Unix socket today. TLS will be added inside this module, without a change to its users. Every
//! accepted connection counts towards the connections that the limit of open files allows for its
//! kind of port ([`Descriptors`]), so that the server can always open its files.

mod descriptors;
mod dialer;
mod io;
mod listener;
mod resolve;

pub(crate) use descriptors::{Descriptors, Places, raise_limit};
pub(crate) use dialer::Dialer;
pub(crate) use io::Io;
pub(crate) use listener::{Accepted, Bound, Listener, bind};
pub(crate) use resolve::{Resolver, are_written_alike};

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock;

/// The pause before a warning about a lasting condition is logged again.
const REMINDER: Duration = Duration::from_secs(10);

/// Decides when a warning about a lasting condition is logged again.
#[derive(Debug, Default)]
struct Reminder(Mutex<Option<Instant>>);

impl Reminder {
    fn is_due(&self) -> bool {
        let mut told = self.0.lock();
        let is_due = told.is_none_or(|told| clock::since(told) >= REMINDER);
        if is_due {
            *told = Some(clock::now());
        }
        is_due
    }
}
