//! The caller of a request.
//!
//! The member that receives a request decides once who the caller is. From there the caller is passed on
//! with the request, to the leader and in the log, to the place where permissions are checked.

use std::sync::Arc;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A client that is not authenticated.
    #[default]
    Nobody,
    /// A member of the cluster, for example when a lease has expired or an alarm is raised.
    Internal,
    /// A client that was authenticated as this user, at this revision of users and roles.
    User { name: Arc<str>, auth_rev: u64 },
}

/// The common name of the certificate with which a client proved who it is. The listener adds it to the
/// extensions of each request of the connection, if `--client-cert-auth` is set and the certificate was
/// verified. A request without a token is then one of the user with this name. Requests that come through
/// the JSON gateway never have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommonName(pub(crate) Arc<str>);
