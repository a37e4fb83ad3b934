//! Put and DeleteRange, alone or as a step of a transaction.
//!
//! Each operation has a check and a step. The check reads the state before the command, and may refuse
//! the command. The step writes, and cannot refuse. Each step also updates the lessor, so that a lease
//! knows the keys whose newest put names that lease.
//!
//! A put that keeps the value of its key may need a record that is only in the database. It is read between two
//! strides, because nobody should wait for the state while a disk is read.

use bytes::Bytes;

use super::{Advanced, Effect, unread};
use crate::{
    apply::{ApplyError, DeleteRange, Put, Response},
    lease::Lessor,
    mvcc::{Committed, Deletion, Located, Place, Step, Store, Write},
    storage::StorageError,
    types::{LeaseId, Revision, Whereabouts},
};

/// A Put command that is being applied.
pub(super) struct PutRun<'r> {
    request: &'r Put,
    write: Write,
    value: NewValue,
}

/// The value that a put gives its key.
pub(super) enum NewValue {
    Known(Bytes),
    /// The value that the key has is kept, and has to be read first.
    Stored(Place),
}

/// A DeleteRange command that is being applied.
pub(super) struct DeleteRun<'r> {
    request: &'r DeleteRange,
    write: Write,
    deletion: Deletion,
}

impl NewValue {
    pub(super) fn of(put: &Put, store: &Store) -> NewValue {
        if let Some(value) = &put.value {
            return NewValue::Known(value.clone());
        }
        match store.locate_newest(&put.key) {
            Some(Located::Head(record)) => NewValue::Known(record.key_value().value),
            Some(Located::Body(place)) => NewValue::Stored(place),
            // The key existed when the command was checked. If an earlier step of the transaction has
            // deleted the key, the value is empty.
            None => NewValue::Known(Bytes::new()),
        }
    }

    /// Reads the value, if it is not known. To be called without the store.
    pub(super) fn read(&mut self) -> Result<(), StorageError> {
        let before = std::mem::replace(self, NewValue::Known(Bytes::new()));
        *self = NewValue::Known(match before {
            NewValue::Known(value) => value,
            NewValue::Stored(place) => place.read()?.value,
        });
        Ok(())
    }
}

impl<'r> PutRun<'r> {
    pub(super) fn new(
        store: &mut Store,
        lessor: &Lessor,
        request: &'r Put,
    ) -> Result<PutRun<'r>, ApplyError> {
        check_put(store, lessor, request)?;
        Ok(PutRun { request, write: store.begin(), value: NewValue::of(request, store) })
    }

    pub(super) fn advance(
        self,
        store: &mut Store,
        lessor: &mut Lessor,
        want_prev_events: bool,
    ) -> Advanced<PutRun<'r>> {
        let PutRun { request, mut write, value } = self;
        let value = match value {
            NewValue::Known(value) => value,
            NewValue::Stored(_) => return Advanced::More(PutRun { request, write, value }),
        };
        let before = write.now();
        let existed = put(store, &mut write, lessor, request, value, want_prev_events);
        let events = write.commit(store).events;
        let moments = if existed && request.prev_kv { vec![before] } else { Vec::new() };
        let response = Response::Put { prev_kv: None };
        Advanced::Done(Effect { response, unread: unread::note(store, moments), events })
    }

    pub(super) fn digest(&mut self) -> Result<Step, StorageError> {
        self.value.read()?;
        Ok(Step::Done)
    }
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

/// Returns whether the key existed. `value` is the [`NewValue`] of the put, and nothing was written since it was
/// located.
pub(super) fn put(
    store: &mut Store,
    write: &mut Write,
    lessor: &mut Lessor,
    put: &Put,
    value: Bytes,
    want_prev_events: bool,
) -> bool {
    let lease = match put.lease {
        Some(lease) => lease,
        None => store.lookup(&put.key).map_or(LeaseId::NONE, |meta| meta.lease),
    };
    // A value that the key keeps is not in the entry of this put.
    let whereabouts = if put.value.is_some() { put.whereabouts.clone() } else { Whereabouts::default() };
    let done = write.put(store, put.key.clone(), value, whereabouts, lease, want_prev_events);
    let prev_lease = done.prev_lease.unwrap_or(LeaseId::NONE);
    if prev_lease != lease {
        detach(lessor, &put.key, prev_lease);
        if lease.is_some() {
            lessor.attach(&put.key, lease);
        }
    }
    done.existed
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
