//! What a simulation compares of members that have applied the same entries. Only in tests.

use super::Node;

impl Node {
    /// The number of entries that were applied, and what every member has after them, as text. `None` in the middle
    /// of an entry.
    pub(crate) fn glance(&self) -> Option<(u64, String)> {
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
        let alarms: Vec<_> = state.alarms.active().collect();
        let (mvcc, users) = (&state.mvcc, state.auth.rev());
        let (rev, compacted, keys) = (mvcc.rev_current(), mvcc.rev_compacted(), mvcc.keys_live());
        let text = format!(
            "revision {rev}, compacted {compacted}, {keys} keys, leases {leases:?}, members {members:?}, alarms {alarms:?}, \
             users {users}"
        );
        Some((replica.applied_index(), text))
    }
}
