//! Put and DeleteRange, alone or as a step of a transaction.
//!
//! Each operation has a check and a step. The check reads the state before the command, and may refuse
//! the command. The step writes, and cannot refuse. Each step also updates the lessor, so that a lease
//! knows the keys whose newest put names that lease.

use super::{Advanced, Effect, Stop, unread};
use crate::{
    apply::{ApplyError, DeleteRange, Put, Response},
    lease::Lessor,
    mvcc::{Committed, Deletion, Step, Store, Write},
    storage::StorageError,
    types::{LeaseId, Revision},
};

/// A DeleteRange command that is being applied.
pub(super) struct DeleteRun<'r> {
    request: &'r DeleteRange,
    write: Write,
    deletion: Deletion,
}

pub(super) fn run_put(
    store: &mut Store,
    lessor: &mut Lessor,
    request: &Put,
    want_prev_events: bool,
) -> Result<Effect, Stop> {
    check_put(store, lessor, request)?;
    let mut write = store.begin();
    let before = write.now();
    let existed = put(store, &mut write, lessor, request, want_prev_events)?;
    let events = write.commit(store).events;
    let moments = if existed && request.prev_kv { vec![before] } else { Vec::new() };
    Ok(Effect { response: Response::Put { prev_kv: None }, unread: unread::note(store, moments), events })
}

impl<'r> DeleteRun<'r> {
    pub(super) fn new(store: &mut Store, request: &'r DeleteRange) -> DeleteRun<'r> {
        DeleteRun { request, write: store.begin(), deletion: Deletion::default() }
    }

    pub(super) fn advance(
        mut self,
        store: &mut Store,
        lessor: &mut Lessor,
        keys_left: &mut usize,
        want_prev_events: bool,
    ) -> Advanced<DeleteRun<'r>> {
        let DeleteRun { request, write, deletion } = &mut self;
        let step = delete_some(store, write, lessor, request, deletion, keys_left, want_prev_events);
        if step == Step::More {
            return Advanced::More(self);
        }
        let DeleteRun { request, write, deletion } = self;
        let Committed { rev, events } = write.commit(store);
        let deleted = deletion.deleted;
        let is_read = request.prev_kv && deleted > 0;
        let moments = if is_read { vec![Revision { main: rev, sub: 0 }] } else { Vec::new() };
        let response = Response::DeleteRange { deleted, prev_kvs: Vec::new() };
        Advanced::Done(Effect { response, unread: unread::note(store, moments), events })
    }
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

/// Returns whether the key existed.
pub(super) fn put(
    store: &mut Store,
    write: &mut Write,
    lessor: &mut Lessor,
    put: &Put,
    want_prev_events: bool,
) -> Result<bool, StorageError> {
    let value = match &put.value {
        Some(value) => value.clone(),
        // The key existed when the command was checked. If an earlier step of the transaction has
        // deleted the key, the value is empty.
        None => store.get(&put.key)?.map(|kv| kv.value).unwrap_or_default(),
    };
    let lease = match put.lease {
        Some(lease) => lease,
        None => store.lookup(&put.key).map_or(LeaseId::NONE, |meta| meta.lease),
    };
    let done = write.put(store, put.key.clone(), value, lease, want_prev_events);
    let prev_lease = done.prev_lease.unwrap_or(LeaseId::NONE);
    if prev_lease != lease {
        detach(lessor, &put.key, prev_lease);
        if lease.is_some() {
            lessor.attach(&put.key, lease);
        }
    }
    Ok(done.existed)
}

/// Deletes the next keys of a range, as [`Write::delete_some`] does.
pub(super) fn delete_some(
    store: &mut Store,
    write: &mut Write,
    lessor: &mut Lessor,
    delete: &DeleteRange,
    deletion: &mut Deletion,
    keys_left: &mut usize,
    want_prev_events: bool,
) -> Step {
    let show = |key: &[u8], lease| detach(lessor, key, lease);
    write.delete_some(store, &delete.range, deletion, keys_left, want_prev_events, show)
}

fn detach(lessor: &mut Lessor, key: &[u8], lease: LeaseId) {
    if lease.is_some() {
        lessor.detach(key, lease);
    }
}
