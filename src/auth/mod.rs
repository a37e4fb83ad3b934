//! Users, their roles, and what the permissions of roles let a caller do.
//!
//! [`AuthStore`] is replicated: its content is determined by the log. It has hashes of passwords, but no
//! passwords. Every change raises its revision by one, so that a caller which was identified at an older
//! revision can be recognised. A caller is judged against the store (`judge`), by what the roles of a user
//! permit together (`grants`).
//!
//! [`SimpleTokens`] are what a member gave out for passwords. They are not stored and not part of the
//! replicated state.

mod grants;
mod judge;
pub(crate) mod jwt;
mod permission;
mod simple_tokens;
mod store;

pub(crate) use grants::Access;
pub(crate) use judge::Asked;
pub(crate) use permission::{Permission, PermissionKind};
pub(crate) use simple_tokens::{SimpleTokens, TOKEN_LETTERS, TokenHash};
pub(crate) use store::{AuthError, AuthStore};
