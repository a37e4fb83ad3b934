//! What commands do, on tape; and that it does not matter when or where they are applied.

mod alarms;
mod commands;
mod properties;
mod replica;
mod txn;
mod users;
