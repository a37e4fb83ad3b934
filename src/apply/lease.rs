//! Applying the commands that grant and revoke leases, and that note their remaining TTLs.
//!
//! The id and the TTL of a lease were decided before the command was proposed. Revoking a lease deletes
//! its keys, all in one revision.

use super::{StateMachine, Stop};
use crate::{
    apply::{ApplyError, Response},
    lease::Lessor,
    limits::LEASE_TTL_SECS_MAX,
    storage::{Table, cell_footprint},
    types::{Event, KeyRange, LeaseId},
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

pub(super) fn revoke(
    state: &mut StateMachine,
    id: LeaseId,
    want_prev_events: bool,
) -> Result<(Response, Vec<Event>), Stop> {
    let before = footprint(state, id);
    let Some(lease) = state.lessor.revoke(id) else {
        return Err(ApplyError::LeaseNotFound.into());
    };
    record(state, id);
    state.mvcc.cells_changed(before, 0);
    let mut write = state.mvcc.begin();
    for key in lease.keys {
        let deleted = write.delete_range(&KeyRange::Point(key), want_prev_events)?;
        assert_eq!(deleted.len(), 1, "a key that is attached to lease {id} exists");
        assert_eq!(deleted[0].lease, id, "the index and the lessor attach a key to the same lease");
    }
    Ok((Response::LeaseRevoke, write.commit().events))
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
