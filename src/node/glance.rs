//! What a simulation compares of members that have applied the same entries. Only in tests.

use super::Node;
use crate::{apply::AlarmKind, auth::AuthStore, types::MemberId};

/// What a member has.
pub(crate) struct Glance {
    /// The number of entries that were applied.
    pub(crate) applied: u64,
    /// What every member has after them.
    pub(crate) state: String,
    /// The members whose data an alarm says is corrupt.
    pub(crate) corrupt: Vec<MemberId>,
    /// An alarm says that a database is full.
    pub(crate) lacks_space: bool,
    /// The state has members that do not belong to the cluster any more.
    pub(crate) has_strangers: bool,
}

impl Node {
    /// `None` in the middle of an entry, and if no entry was applied since `before`.
    pub(crate) fn glance(&self, before: Option<u64>) -> Option<Glance> {
        let replica = self.shared.replica.read();
        if replica.is_half_applied() || before == Some(replica.applied_index()) {
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
        let (mvcc, users) = (&state.mvcc, digest_of(&state.auth));
        let (rev, compacted, keys) = (mvcc.rev_current(), mvcc.rev_compacted(), mvcc.keys_live());
        let corrupt = alarms.iter().filter(|alarm| alarm.kind == AlarmKind::Corrupt);
        let corrupt = corrupt.map(|alarm| alarm.member).collect();
        let lacks_space = state.alarms.any(AlarmKind::NoSpace);
        let state = format!(
            "revision {rev}, compacted {compacted}, {keys} keys, leases {leases:?}, members {members:?}, alarms {alarms:?}, \
             users {users}"
        );
        Some(Glance { applied: replica.applied_index(), state, corrupt, lacks_space, has_strangers })
    }
}

impl Node {
    /// Whether there are so many members, each has a vote, and no others have one too because the members change.
    pub(crate) fn has_voters(&self, members: usize) -> bool {
        let replica = self.shared.replica.read();
        replica.voters().count() == members && replica.peers().count() == members && !replica.is_joint()
    }
}

/// All users and roles, as far as they were ever changed.
fn digest_of(auth: &AuthStore) -> String {
    if auth.rev() <= 1 {
        return String::new();
    }
    let users = auth.users().filter_map(|(name, _)| auth.user_cell(name));
    let cells = users.chain(auth.roles().filter_map(|name| auth.role_cell(name)));
    let digest = cells.fold(0, |digest, cell| crc32c::crc32c_append(digest, &cell));
    format!("{} {} {digest:08x}", auth.rev(), auth.is_enabled())
}
