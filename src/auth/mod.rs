//! Users, their roles, and the permissions of roles.
//!
//! [`AuthStore`] is replicated: its content is determined by the log. It has hashes of passwords, but no
//! passwords, and does not know who is calling. Every change raises its revision by one, so that a caller
//! which was authenticated at an older revision can be recognised.
//!
//! Users and roles are stored, but permissions are not enforced yet.

mod permission;
mod store;

pub(crate) use permission::{Permission, PermissionKind};
pub(crate) use store::{AuthError, AuthStore};
