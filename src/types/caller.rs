//! Who asked for something.
//!
//! The caller is decided once, where a request enters the member that it was sent to, and travels
//! with the request from there: through the log, to the leader, to whoever judges what it may do.

use std::sync::Arc;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A client that did not say who it is.
    #[default]
    Nobody,
    /// A member of the cluster, for a purpose of its own: a lease has ended, an alarm is raised.
    Internal,
    /// A client that proved to be this user when the users and roles were at this revision.
    User { name: Arc<str>, auth_rev: u64 },
}
