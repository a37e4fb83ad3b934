//! The log behind a database of etcd, applied to the state that was taken over.

use std::sync::Arc;

use thiserror::Error;

use super::{
    etcd_wal::{EtcdWal, Tail, WalError},
    internal::{self, EntryError},
};
use crate::{
    apply::StateMachine,
    limits,
    mvcc::Step,
    storage::{Database, StorageError},
};

#[derive(Debug, Error)]
pub(crate) enum ReplayError {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error("entry {index} of the log cannot be applied: {error}")]
    Entry { index: u64, error: EntryError },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What came of the entries of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    pub(crate) requests: u64,
    /// Those that were refused, as etcd refused them.
    pub(crate) refused: u64,
    /// Changes of members, which were left out.
    pub(crate) member_changes: u64,
}

/// Applies the entries of `tail` to the state in `database`, and stores the result there.
pub(crate) fn replay(
    database: &Arc<Database>,
    wal: &EtcdWal,
    tail: &Tail,
    report: &mut dyn FnMut(u64),
) -> Result<Replayed, ReplayError> {
    let mut state = StateMachine::open(Arc::clone(database))?;
    let mut replayed = Replayed::default();
    for entry in wal.entries(tail) {
        let entry = entry?;
        let index = entry.index;
        // A change of members belongs to the old cluster.
        if entry.kind != 0 {
            replayed.member_changes += 1;
            continue;
        }
        let request = internal::request(entry.data).map_err(|error| ReplayError::Entry { index, error })?;
        let Some(request) = request else { continue };
        let is_accepted = state.execute(&request)?.outcome.result.is_ok();
        replayed.requests += 1;
        replayed.refused += u64::from(!is_accepted);
        if state.mvcc.uncaptured_bytes() > limits::UNSAVED_BYTES / 2 {
            store(&mut state, database)?;
            report(replayed.requests);
        }
    }
    store(&mut state, database)?;
    report(replayed.requests);
    Ok(replayed)
}

/// Moves the head of the tape to the database.
pub(super) fn store(state: &mut StateMachine, database: &Database) -> Result<(), StorageError> {
    if !state.has_changes() {
        return Ok(());
    }
    let mut captured = state.capture(Vec::new());
    while state.gather(&mut captured) == Step::More {}
    let removed_bytes = database.commit(&captured.checkpoint)?;
    drop(state.checkpointed(captured.rev, removed_bytes, database.reader()?));
    while !state.mvcc.trim(limits::CAPTURE_STRIDE_RECORDS).is_empty() {}
    Ok(())
}
