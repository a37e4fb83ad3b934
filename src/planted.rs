//! Bugs that a simulation plants, to see that its judges find them: the table of them is in `docs/simulation.md`.
//!
//! A place where a bug can be planted has `#[cfg(test)]` before it, so no other build knows of it.

use std::cell::Cell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The events of some entries are not published.
    SkipPublish,
    /// The log reports what it has not synced.
    AckBeforeSync,
    /// A vote is given before it is on the disk.
    VoteNotSynced,
    /// Some checkpoints store data without the id of the entry that they reach to.
    ForgetAppliedId,
    /// A checkpoint stores that id in a transaction of its own, before the data.
    AppliedIdBeforeData,
    /// A lease is renewed without asking the quorum whether this member still leads.
    RenewOnDemotedLeader,
    /// A linearizable read does not wait for anything.
    ReadWithoutBarrier,
    /// The leader confirms a read without asking the quorum.
    LeaderReadsAlone,
    /// The leader takes the word of one member that asks for a read for that of a quorum.
    OneVouchIsEnough,
    /// Some leases that end are not revoked.
    DropRevoke,
    /// A new leader gives leases less than was promised.
    LeasesCutShort,
    /// A snapshot is installed without its leases.
    SnapshotWithoutLeases,
    /// Some records that a compaction has to keep are removed.
    CompactionEatsKept,
    /// Watchers that have events to come are told of progress beyond these.
    ProgressAhead,
    /// A watcher whose queue is full goes on behind the revision that had no room.
    CursorMovedOnFullQueue,
    /// A member that was removed stays in the list of members.
    MemberNotForgotten,
    /// The log does not note that entries were cut off.
    TruncateNotLogged,
    /// A batch counts as lost when its own term begins, and is proposed again.
    LostTooEarly,
    /// A batch whose leader has not answered is proposed again.
    ProposedTwice,
    /// What a user may do is not worked out anew when a permission of its role changes.
    PermissionsKept,
    /// While an alarm is active, nobody asks what a user may do.
    AlarmForgetsUsers,
    /// A compaction removes a deletion of its own revision.
    DeletionEaten,
    /// A watcher of a revision to come gets events before it.
    FutureIsNow,
    /// A leader revokes leases without asking the quorum whether it still leads, as soon as it awakes.
    RevokeOnDemotedLeader,
    /// After a snapshot, watchers get events again that they had.
    WatchersThrownBack,
    /// A defragmented database lacks what was stored while it was made.
    DefragmentationForgets,
    /// A start takes the newest record's revision for the newest one, though a compaction may have removed that, as it
    /// then does with a deletion of its own revision.
    RevisionOfRecords,
    /// A file that takes the place of another one may lose its name.
    SwapNotSynced,
}

impl Bug {
    pub(crate) const ALL: [Bug; 28] = [
        Bug::SkipPublish,
        Bug::AckBeforeSync,
        Bug::VoteNotSynced,
        Bug::ForgetAppliedId,
        Bug::AppliedIdBeforeData,
        Bug::RenewOnDemotedLeader,
        Bug::ReadWithoutBarrier,
        Bug::LeaderReadsAlone,
        Bug::OneVouchIsEnough,
        Bug::DropRevoke,
        Bug::LeasesCutShort,
        Bug::SnapshotWithoutLeases,
        Bug::CompactionEatsKept,
        Bug::ProgressAhead,
        Bug::CursorMovedOnFullQueue,
        Bug::MemberNotForgotten,
        Bug::TruncateNotLogged,
        Bug::LostTooEarly,
        Bug::ProposedTwice,
        Bug::PermissionsKept,
        Bug::AlarmForgetsUsers,
        Bug::DeletionEaten,
        Bug::FutureIsNow,
        Bug::RevokeOnDemotedLeader,
        Bug::WatchersThrownBack,
        Bug::DefragmentationForgets,
        Bug::RevisionOfRecords,
        Bug::SwapNotSynced,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// From now on the members of this thread have this bug, or none.
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
