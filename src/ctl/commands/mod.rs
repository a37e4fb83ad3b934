//! The commands, a file for each group of them.

pub(super) mod auth;
pub(super) mod check;
pub(super) mod concurrency;
pub(super) mod endpoint;
pub(super) mod kv;
pub(super) mod lease;
pub(super) mod maintenance;
pub(super) mod member;
pub(super) mod mirror;
pub(super) mod txn;
pub(super) mod utility;
pub(super) mod watch;
