//! A member's log and its database, put together before consensus starts.

use std::{io, sync::Arc};

use openraft::EntryPayload;

use super::{
    log_store::LogStore,
    replica::{Replica, admit_members},
    typ::{Entry, StoredMembership},
};
use crate::{
    disk::Disk,
    limits,
    mvcc::Step,
    storage::{Database, StorageError, Values},
    telemetry::Metrics,
};

/// Opens the log on `disk`, which has to be there if it `has_begun`, and refuses one that ends before
/// the state of `replica`. `founders` is how many members found the cluster, if the database does
/// not know of any yet. `values` are those that the database leaves to the log.
pub(crate) fn open_log(
    disk: Arc<dyn Disk>,
    has_begun: bool,
    replica: &Replica,
    founders: usize,
    values: Option<Arc<Values>>,
    metrics: Arc<Metrics>,
) -> Result<LogStore, StorageError> {
    let members = replica.peers().count().max(founders);
    LogStore::open(disk, has_begun, replica.applied(), replica.installed(), members, values, metrics)
}

/// Makes `own` the only member, whoever else the log and `replica` name: see
/// [`LogStore::forget_others`].
pub(crate) fn forget_others(
    log: &LogStore,
    replica: &Replica,
    own: u64,
    own_urls: &[String],
) -> io::Result<Option<(Vec<u64>, u64)>> {
    log.forget_others(own, replica.membership(), own_urls, replica.applied_index())
}

/// Applies what the log holds beyond the state of a member that does not run, and stores the result. The log is applied
/// to its end, as by a leader of this log.
pub(crate) fn catch_up(
    database: &Database,
    replica: &mut Replica,
    log: &LogStore,
) -> Result<(), StorageError> {
    for entry in log.entries_after(replica.applied_index(), replica.applied().is_some()) {
        apply(replica, entry)?;
        if replica.state.mvcc.uncaptured_bytes() > limits::UNSAVED_BYTES / 2 {
            store(database, replica)?;
        }
    }
    store(database, replica)
}

fn apply(replica: &mut Replica, entry: Entry) -> Result<(), StorageError> {
    let Entry { log_id, payload } = entry;
    replica.begin_entry(log_id);
    match payload {
        EntryPayload::Blank => {}
        EntryPayload::Membership(membership) => {
            admit_members(&mut replica.state, &membership);
            replica.membership = StoredMembership::new(Some(log_id), membership);
        }
        EntryPayload::Normal(batch) => {
            for request in batch.commands.iter() {
                replica.state.execute(request)?;
            }
        }
    }
    replica.end_entry(log_id);
    Ok(())
}

fn store(database: &Database, replica: &mut Replica) -> Result<(), StorageError> {
    let Some((mut captured, mark)) = replica.capture() else { return Ok(()) };
    while replica.state.gather(&mut captured) == Step::More {}
    let removed_bytes = database.commit(&captured.checkpoint)?;
    drop(replica.checkpointed(captured.rev, removed_bytes, mark, database.reader()?));
    while !replica.state.mvcc.trim(limits::CAPTURE_STRIDE_RECORDS).is_empty() {}
    Ok(())
}
