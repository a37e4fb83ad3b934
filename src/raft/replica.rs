//! The replicated state, with how far into the log it reaches.

use std::sync::Arc;

use super::{
    codec,
    marks::{self, APPLIED_CELL, INSTALLED_CELL, MEMBERSHIP_CELL},
    typ::{LogId, Membership, SnapshotMeta, StoredMembership},
};
use crate::{
    apply::{Captured, StateMachine},
    limits,
    link::Peer,
    storage::{Checkpoint, Database, Reader, StorageError, StoredChange},
    threads::{self, Batch},
    types::{MemberId, Rev, Revision},
};

/// How far into the log a captured checkpoint reaches, and who the members were there.
pub(crate) struct LogMark(SnapshotMeta);

/// The replicated state, and how far into the log it reaches. One lock guards both, so that a
/// checkpoint never separates effects from the index that they belong to.
pub(crate) struct Replica {
    pub(crate) state: StateMachine,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) installed: Option<LogId>,
    /// The entry that is being applied. It stays here if the member stops in the middle of it, or if the
    /// database cannot be read for it.
    inside: Option<LogId>,
    /// As far as the database knows.
    pub(super) durable: SnapshotMeta,
}

impl Replica {
    /// The state as the last checkpoint left it.
    pub(crate) fn open(database: Arc<Database>) -> Result<Replica, StorageError> {
        let reader = database.reader()?;
        let durable = marks::meta(&reader)?;
        let installed = marks::log_id(&reader, INSTALLED_CELL)?;
        drop(reader);
        let SnapshotMeta { last_log_id: applied, last_membership: membership } = durable.clone();
        let limit = Batch { items: limits::RESTORE_BATCH_RECORDS, bytes: limits::RESTORE_BATCH_BYTES };
        let key_bytes = |item: &Result<(Revision, StoredChange), StorageError>| {
            item.as_ref().map_or(0, |(_, change)| change.key.len())
        };
        let ahead = |changes| threads::ahead("retcd-restore", changes, limit, key_bytes);
        let mut state = StateMachine::open_reading(database, ahead)?;
        admit_members(&mut state, membership.membership());
        Ok(Replica { state, applied, membership, installed, inside: None, durable })
    }

    /// What the database holds of the log's effects.
    pub(super) fn durable(&self) -> &SnapshotMeta {
        &self.durable
    }

    /// The last entry of the last snapshot that was installed here.
    pub(super) fn installed(&self) -> Option<&LogId> {
        self.installed.as_ref()
    }

    /// See [`marks::forget`].
    pub(crate) fn forget() -> Checkpoint {
        marks::forget()
    }

    pub(super) fn applied(&self) -> Option<&LogId> {
        self.applied.as_ref()
    }

    pub(super) fn membership(&self) -> &Membership {
        self.membership.membership()
    }

    /// All members by id, with where each is reached, as far as the log was applied here.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (u64, &Peer)> {
        self.membership().nodes().map(|(&id, peer)| (id, peer))
    }

    /// The members that vote, as far as the log was applied here.
    pub(crate) fn voters(&self) -> impl Iterator<Item = u64> + '_ {
        self.membership().voter_ids()
    }

    /// Whether the voters of before have to agree too, as they do while the members change.
    #[cfg(test)]
    pub(crate) fn is_joint(&self) -> bool {
        self.membership().get_joint_config().len() > 1
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.applied.as_ref().map_or(0, |applied| applied.index)
    }

    /// Begins the next entry of the log, which may be applied in strides.
    pub(super) fn begin_entry(&mut self, log_id: LogId) {
        assert_eq!(self.inside, None, "one entry is applied at a time");
        if let Some(applied) = self.applied {
            assert_eq!(
                log_id.index,
                applied.index + 1,
                "entries are applied in the order of the log, each once"
            );
            assert!(log_id.leader_id >= applied.leader_id, "terms do not fall along the log");
        }
        self.inside = Some(log_id);
    }

    pub(super) fn end_entry(&mut self, log_id: LogId) {
        assert_eq!(self.inside.take(), Some(log_id), "an entry ends that was begun");
        self.applied = Some(log_id);
    }

    /// Whether a part of an entry has been applied: its strides are not done, or the member stopped or failed
    /// between them. Such a state is not one that the log describes and must not be stored: the next start
    /// applies the entry to what the database holds.
    pub(crate) fn is_half_applied(&self) -> bool {
        self.inside.is_some()
    }

    /// Takes what changed since the last checkpoint, with the index that it belongs to. `None` if
    /// nothing did.
    pub(crate) fn capture(&mut self) -> Option<(Captured, LogMark)> {
        assert_eq!(self.inside, None, "a state with a part of an entry is not stored");
        assert!(self.applied >= self.durable.last_log_id, "the database is never ahead of what was applied");
        assert!(*self.membership.log_id() <= self.applied, "a membership is of an entry that was applied");
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        if meta == self.durable && !self.state.has_changes() {
            return None;
        }
        let mut cells = Vec::new();
        #[cfg(test)]
        let notes = !crate::planted::is(crate::planted::Bug::ForgetAppliedId)
            || self.applied.is_none_or(|applied| applied.index % 4 == 0);
        #[cfg(not(test))]
        let notes = true;
        if let Some(applied) = self.applied.as_ref().filter(|_| notes) {
            cells.push((APPLIED_CELL.into(), codec::encode_log_id(applied)));
        }
        if meta.last_membership != self.durable.last_membership {
            cells.push((MEMBERSHIP_CELL.into(), codec::encode_membership(&self.membership)));
        }
        Some((self.state.capture(cells), LogMark(meta)))
    }

    /// A captured checkpoint is on the disk, and `body` sees it. Returns what is to be dropped without the replica.
    #[must_use]
    pub(crate) fn checkpointed(
        &mut self,
        rev: Rev,
        removed_bytes: u64,
        LogMark(meta): LogMark,
        body: Reader,
    ) -> Arc<Reader> {
        assert!(
            meta.last_log_id >= self.durable.last_log_id,
            "a checkpoint does not end before the last one"
        );
        assert!(meta.last_log_id <= self.applied, "what a checkpoint holds was applied before");
        self.durable = meta;
        self.state.checkpointed(rev, removed_bytes, body)
    }
}

/// Tells the state machine who belongs to the cluster now.
pub(super) fn admit_members(state: &mut StateMachine, membership: &Membership) {
    let gone: Vec<MemberId> = state
        .members
        .iter()
        .map(|(id, _)| id)
        .filter(|id| membership.get_node(&id.0).is_none() && membership.nodes().next().is_some())
        .collect();
    #[cfg(test)]
    let gone = if crate::planted::is(crate::planted::Bug::MemberNotForgotten) { Vec::new() } else { gone };
    for id in gone {
        state.remove_member(id);
    }
    for (&id, peer) in membership.nodes() {
        let id = MemberId(id);
        let Peer { peer_urls, is_learner } = peer;
        let known = state
            .members
            .get(id)
            .is_some_and(|known| known.peer_urls == *peer_urls && known.is_learner == *is_learner);
        if !known {
            state.admit_member(id, peer_urls.clone(), *is_learner);
        }
    }
}

#[cfg(test)]
mod tests;
