//! `retcd ctl`, which is etcdctl: a client of a cluster on the command line.
//!
//! ```text
//! words --- cli::run ---> Invocation ---> a file in commands/
//!                                               |
//!                          settings, client (a cluster), printer (five formats)
//! ```
//!
//! The interface is that of etcdctl 3.7: commands, flags, variables, what goes to stdout, and exit codes, because scripts
//! depend on them. The words of the help and of remarks on stderr are our own. This room knows the wire, and nothing
//! of the server.
//!
//! `retcd follow` is a tool of its own on the same client: it has two clusters, and is nothing of etcdctl.
//!
//! To add a command: a `const` of [`crate::cli::Command`] and a function in a file of `commands/`, one line in `table.rs`,
//! the methods it calls in `client/methods.rs`, and, if its answer is shown in the five formats, a variant of
//! [`printer::Shown`], for which the compiler asks each printer. The function judges its arguments first, then calls
//! [`crate::cli::Invocation::connect`], then the client, and hands the answer to
//! [`session::Session::print`]. Usage, completion and options come from the table.

mod client;
mod commands;
mod follow;
mod pages;
mod printer;
mod process;
mod ranges;
mod registry;
mod session;
mod settings;
mod table;
mod terminal;
mod words;

pub(crate) use self::{follow::FOLLOW, registry::join_cluster, table::ROOT};
