//! The body of the tape: records and state tables in redb.

mod error;

pub(crate) use error::StorageError;
