//! Scripts of commands with their outcomes, and properties of random logs.

mod alarms;
mod commands;
mod properties;
mod replica;
mod txn;
mod users;
