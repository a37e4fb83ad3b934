//! What a simulation compares of members that have applied the same entries. Only in tests.

use super::Node;
use crate::types::MemberId;

/// What a member has.
pub(crate) struct Glance {
    /// The number of entries that were applied.
    pub(crate) applied: u64,
    /// What every member has after them.
    pub(crate) state: String,
    pub(crate) has_alarm: bool,
    /// The state has members that do not belong to the cluster any more.
    pub(crate) has_strangers: bool,
}

impl Node {
    /// `None` in the middle of an entry.
    pub(crate) fn glance(&self) -> Option<Glance> {
        let replica = self.shared.replica.read();
        if replica.is_half_applied() {
            return None;
        }
        let state = &replica.state;
        let leases = state.lessor.leases().map(|(id, lease)| {
            format!("{id}: {} s, {} ms, {:?}", lease.ttl_secs, lease.remaining_millis, lease.keys)
        });
        let leases: Vec<String> = leases.collect();
        let members: Vec<_> = state.members.iter().map(|(id, _)| id).collect();
        let known: Vec<_> = replica.peers().map(|(id, _)| MemberId(id)).collect();
        let has_strangers = !known.is_empty() && members.iter().any(|id| !known.contains(id));
        let alarms: Vec<_> = state.alarms.active().collect();
        let (mvcc, users) = (&state.mvcc, state.auth.rev());
        let (rev, compacted, keys) = (mvcc.rev_current(), mvcc.rev_compacted(), mvcc.keys_live());
        let has_alarm = !alarms.is_empty();
        let state = format!(
            "revision {rev}, compacted {compacted}, {keys} keys, leases {leases:?}, members {members:?}, alarms {alarms:?}, \
             users {users}"
        );
        Some(Glance { applied: replica.applied_index(), state, has_alarm, has_strangers })
    }
}
