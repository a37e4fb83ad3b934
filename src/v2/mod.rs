//! The tree of keys of etcd's version 2 API, its events, its users, and its watchers.
//!
//! The tree has nothing to do with the keys of version 3. It is changed by [`V2Command`]s in the log, and is
//! a function of them: the time is an argument of a command, so that all members compute the same
//! expirations. `store` applies commands, in strides where they remove many nodes; `listing` reads a snapshot
//! of the tree, which a reader takes under the lock of the state in constant time and reads without it.
//! `hub` is the only file that touches tasks: it has bounded senders, on which it only calls `try_send`.

mod accounts;
mod action;
mod cell;
mod command;
mod event;
mod history;
mod hub;
mod key;
mod listing;
mod node;
mod nodes;
mod refusal;
mod removal;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use accounts::{
    AccountChange, AccountRefusal, Done, Names, Patterns, RoleRecord, UserRecord, Who,
};
pub(crate) use action::Action;
pub(crate) use command::{Change, Condition, KeyChange, V2Command, Written};
pub(crate) use event::{Event, Seen};
pub(crate) use hub::{Counts, Hub, Tally, Watching};
pub(crate) use key::Key;
pub(crate) use listing::{Listed, Listing};
pub(crate) use node::ttl_secs;
pub(crate) use nodes::{Changes, Tree};
pub(crate) use refusal::{Code, Refusal};
pub(crate) use removal::Happened;
pub(crate) use store::{Advanced, Answer, Run, Store};
