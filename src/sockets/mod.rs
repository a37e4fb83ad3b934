//! Sockets: listening, accepting, dialling, and the limit on the number of connections.
//!
//! ```text
//! ListenUrl --- bind ---> Bound --- listen ---> Listener --- accept ---> Accepted --- register ---> Io
//! peer URLs ----------------------------------> Dialer ----- dial --------------------------------> Io
//! ```
//!
//! Code that serves or dials uses an [`Io`] and does not depend on its transport, which is TCP or a Unix
//! socket, in plaintext or with TLS. The handshake of an accepted connection is a future of its own, so that
//! nobody waits for a client that does not finish it ([`Registered`]). Every
//! accepted connection counts towards the connections that the limit of open files allows for its
//! kind of port ([`Descriptors`]), so that the server can always open its files.

mod descriptors;
mod dialer;
mod io;
mod listener;
mod resolve;
mod standing;

pub(crate) use descriptors::{Descriptors, Places, raise_limit};
pub(crate) use dialer::Dialer;
pub(crate) use io::Io;
pub(crate) use listener::{Accepted, Bound, Listener, Registered, bind};
pub(crate) use resolve::{Resolver, are_written_alike};
pub(crate) use standing::Standing;

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
