//! A member's log and its database, put together before consensus starts.

use std::{io, sync::Arc};

use super::{log_store::LogStore, replica::Replica};
use crate::{disk::Disk, storage::StorageError, telemetry::Metrics};

/// Opens the log on `disk`, which has to be there if it `has_begun`, and refuses one that ends before
/// the state of `replica`. `founders` is how many members found the cluster, if the database does
/// not know of any yet.
pub(crate) fn open_log(
    disk: Arc<dyn Disk>,
    has_begun: bool,
    replica: &Replica,
    founders: usize,
    metrics: Arc<Metrics>,
) -> Result<LogStore, StorageError> {
    let members = replica.peers().count().max(founders);
    LogStore::open(disk, has_begun, replica.applied(), replica.installed(), members, metrics)
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
