//! Sockets: listening, accepting, dialling, and how many of them there may be.
//!
//! ```text
//! ListenUrl --- bind ---> Bound --- listen ---> Listener --- accept ---> Accepted ---> Io
//! peer URLs ----------------------------------> Dialer ----- dial -------------------> Io
//! ```
//!
//! Whoever serves or dials sees an [`Io`] and does not know what is below it: today TCP or a Unix
//! socket. What is to lie between (TLS) goes in here and changes nobody else. Every accepted
//! connection holds one of the places that the limit of open files leaves for its kind
//! ([`Descriptors`]), so that a file can be opened whatever clients do.

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

/// How often the log is told of a trouble that lasts.
const REMINDER: Duration = Duration::from_secs(10);

/// Says when the log is to be told again.
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
