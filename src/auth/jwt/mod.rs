//! Tokens that are signed and not stored: JSON web tokens (RFC 7519), with etcd's claims.
//!
//! A token says a user's name, the revision of users and roles at which it was issued, and when it ends.
//! Whoever has the key can check it, so every member accepts the tokens of the others, and also those of
//! an etcd with the same key. No token is ever taken back; a token with an older revision is refused where
//! the revision is compared.
//!
//! Time is an argument, and so is the source of random numbers that some signatures need.

mod der;
mod key;
mod method;
mod pem;
mod token;

pub(crate) use key::KeyError;
pub(crate) use token::{Claims, IssueError, Jwt, Verified};

#[cfg(test)]
mod tests;
