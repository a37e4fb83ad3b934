//! Applying the commands that grant and revoke leases, and that note their remaining TTLs.
//!
//! The id and the TTL of a lease were decided before the command was proposed. Revoking a lease deletes
//! its keys, all in one revision.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Advanced, Effect, StateMachine};
use crate::{
    apply::{ApplyError, Response},
    lease::Lessor,
    limits::LEASE_TTL_SECS_MAX,
    mvcc::{Deletion, Store, Write},
    storage::{Table, cell_footprint},
    types::{KeyRange, LeaseId},
};

pub(super) fn grant(state: &mut StateMachine, id: LeaseId, ttl_secs: i64) -> Result<Response, ApplyError> {
    if !id.is_some() {
        return Err(ApplyError::LeaseNotFound);
    }
    if ttl_secs > LEASE_TTL_SECS_MAX {
        return Err(ApplyError::LeaseTtlTooLarge);
    }
    if !state.lessor.grant(id, ttl_secs) {
        return Err(ApplyError::LeaseExists);
    }
    record(state, id);
    state.mvcc.cells_changed(0, footprint(state, id));
    Ok(Response::LeaseGrant { id, ttl_secs })
}

/// A revoke that is being applied. The first stride removes the lease, and all strides together its keys.
pub(super) struct Revocation {
    id: LeaseId,
    keys: BTreeSet<Bytes>,
    write: Write,
}

impl Revocation {
    pub(super) fn begin(state: &mut StateMachine, id: LeaseId) -> Result<Revocation, ApplyError> {
        let before = footprint(state, id);
        let Some(lease) = state.lessor.revoke(id) else { return Err(ApplyError::LeaseNotFound) };
        record(state, id);
        state.mvcc.cells_changed(before, 0);
        Ok(Revocation { id, keys: lease.keys, write: state.mvcc.begin() })
    }

    pub(super) fn advance(
        mut self,
        store: &mut Store,
        keys_left: &mut usize,
        want_prev_events: bool,
    ) -> Advanced<Revocation> {
        while *keys_left > 0
            && let Some(key) = self.keys.pop_first()
        {
            let mut deletion = Deletion::default();
            let range = KeyRange::Point(key);
            let id = self.id;
            let check = |_: &[u8], lease| {
                assert_eq!(lease, id, "the index and the lessor attach a key to the same lease");
            };
            self.write.delete_some(store, &range, &mut deletion, keys_left, want_prev_events, check);
            assert_eq!(deletion.deleted, 1, "a key that is attached to lease {id} exists");
        }
        if !self.keys.is_empty() {
            return Advanced::More(self);
        }
        let events = self.write.commit(store).events;
        Advanced::Done(Effect { response: Response::LeaseRevoke, unread: None, events })
    }
}

/// Leases that do not exist any more are skipped.
pub(super) fn checkpoint(state: &mut StateMachine, remaining_millis: &[(LeaseId, i64)]) -> Response {
    for &(id, remaining_millis) in remaining_millis {
        if state.lessor.checkpoint(id, remaining_millis) {
            record(state, id);
        }
    }
    Response::LeaseCheckpoint
}

/// The bytes of the quota that a lease takes. The note of its remaining TTL takes no further bytes.
fn footprint(state: &StateMachine, id: LeaseId) -> u64 {
    state.lessor.cell(id).map_or(0, |cell| cell_footprint(&Lessor::cell_key(id), &cell))
}

fn record(state: &mut StateMachine, id: LeaseId) {
    let cell = state.lessor.cell(id);
    state.record(Table::Lease, Lessor::cell_key(id), cell);
}
