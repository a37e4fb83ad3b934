//! A client of a cluster: it reaches whichever member answers, as whoever has logged in.
//!
//! ```text
//! Client::call  one method, one request: retried where that is harmless
//!      |
//! Pool          one connection to each endpoint, made when it is needed, used in turn
//!      |
//! connection    HTTP/2 over TCP or a Unix socket, with or without TLS
//! ```
//!
//! A command runs on one thread, and so does its client: futures borrow it, and nothing in it is locked.

mod call;
mod connection;
mod endpoint;
mod error;
mod keep_alive;
mod log;
mod memory;
mod methods;
mod pool;
mod watch;

pub(super) use call::{Client, Deadline};
pub(super) use error::ClientError;
pub(super) use keep_alive::KeepAlive;
pub(super) use memory::resident_memory;
pub(super) use methods::*;
pub(super) use watch::{Seen, Watcher, watch_error};
