//! Put and DeleteRange, alone or as a step of a transaction.
//!
//! Each operation has a check and a step. The check reads the state before the command, and may refuse
//! the command. The step writes, and cannot refuse. Each step also updates the lessor, so that a lease
//! knows the keys whose newest put names that lease.

use super::Stop;
use crate::{
    apply::{ApplyError, DeleteRange, Put, Response},
    lease::Lessor,
    mvcc::{Store, Write},
    storage::StorageError,
    types::{Event, KeyValue, LeaseId},
};

pub(super) fn run_put(
    store: &mut Store,
    lessor: &mut Lessor,
    request: &Put,
    want_prev_events: bool,
) -> Result<(Response, Vec<Event>), Stop> {
    check_put(store, lessor, request)?;
    let mut write = store.begin();
    let prev_kv = put(&mut write, lessor, request, want_prev_events)?;
    Ok((Response::Put { prev_kv }, write.commit().events))
}

pub(super) fn run_delete_range(
    store: &mut Store,
    lessor: &mut Lessor,
    request: &DeleteRange,
    want_prev_events: bool,
) -> Result<(Response, Vec<Event>), Stop> {
    let mut write = store.begin();
    let (deleted, prev_kvs) = delete_range(&mut write, lessor, request, want_prev_events)?;
    Ok((Response::DeleteRange { deleted, prev_kvs }, write.commit().events))
}

pub(super) fn check_put(store: &Store, lessor: &Lessor, put: &Put) -> Result<(), ApplyError> {
    let lease = put.lease.unwrap_or(LeaseId::NONE);
    if lease.is_some() && !lessor.contains(lease) {
        return Err(ApplyError::LeaseNotFound);
    }
    let keeps_something = put.value.is_none() || put.lease.is_none();
    if keeps_something && store.lookup(&put.key).is_none() {
        return Err(ApplyError::KeyNotFound);
    }
    Ok(())
}

/// Returns the previous key-value pair, if the request asked for it.
pub(super) fn put(
    write: &mut Write<'_>,
    lessor: &mut Lessor,
    put: &Put,
    want_prev_events: bool,
) -> Result<Option<KeyValue>, StorageError> {
    let value = match &put.value {
        Some(value) => value.clone(),
        // The key existed when the command was checked. If an earlier step of the transaction has
        // deleted the key, the value is empty.
        None => write.get(&put.key)?.map(|kv| kv.value).unwrap_or_default(),
    };
    let lease = match put.lease {
        Some(lease) => lease,
        None => write.lookup(&put.key).map_or(LeaseId::NONE, |meta| meta.lease),
    };
    let done = write.put(put.key.clone(), value, lease, put.prev_kv || want_prev_events)?;
    let prev_lease = done.prev_lease.unwrap_or(LeaseId::NONE);
    if prev_lease != lease {
        detach(lessor, &put.key, prev_lease);
        if lease.is_some() {
            lessor.attach(&put.key, lease);
        }
    }
    Ok(if put.prev_kv { done.prev_kv } else { None })
}

/// Returns the number of deleted keys, and their previous pairs if the request asked for them.
pub(super) fn delete_range(
    write: &mut Write<'_>,
    lessor: &mut Lessor,
    delete: &DeleteRange,
    want_prev_events: bool,
) -> Result<(i64, Vec<KeyValue>), StorageError> {
    let deleted = write.delete_range(&delete.range, delete.prev_kv || want_prev_events)?;
    for gone in &deleted {
        detach(lessor, &gone.key, gone.lease);
    }
    let count = i64::try_from(deleted.len()).expect("keys fit in memory");
    let prev_kvs = match delete.prev_kv {
        true => deleted.into_iter().filter_map(|gone| gone.prev_kv).collect(),
        false => Vec::new(),
    };
    Ok((count, prev_kvs))
}

fn detach(lessor: &mut Lessor, key: &[u8], lease: LeaseId) {
    if lease.is_some() {
        lessor.detach(key, lease);
    }
}
