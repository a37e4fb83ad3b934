//! Users, their roles, and what roles permit.
//!
//! [`AuthStore`] is replicated: it is what the log says, and knows neither passwords (only hashes
//! of them) nor who is asking. Every change moves its revision by one, so that whoever remembers
//! an old one can be told that it is old.
//!
//! They are kept and not enforced yet.

mod permission;
mod store;

pub(crate) use permission::{Permission, PermissionKind};
pub(crate) use store::{AuthError, AuthStore};
