//! The progress of the compactions, and the hashes that the last of them computed.

use std::collections::VecDeque;

use crate::{
    limits::{COMPACTION_HASHES, COMPACTIONS_WAITING},
    mvcc::{hold::Earlier, kv_hash::KvHash},
    types::{Rev, Revision},
};

/// The progress of the compactions that were accepted.
#[derive(Debug)]
pub(super) struct Compaction {
    /// Compactions that have not begun, oldest first, each with the holds that were taken before it.
    waiting: VecDeque<(Span, Earlier)>,
    pub(super) walk: Option<Walk>,
    /// Removals that no checkpoint has captured, in the order of the disk.
    pub(super) removed: VecDeque<Revision>,
    /// The revision of the last compaction whose walks are done.
    pub(super) rev_walked: Rev,
    /// The revision of the last compaction whose removals have all been captured for a checkpoint.
    pub(super) rev_captured: Rev,
    /// The revision of the last compaction whose removals are all committed to the database.
    pub(super) rev_finished: Rev,
    pub(super) hashes: CompactionHashes,
}

/// One compaction: from the revision of the compaction before it to its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) prev: Rev,
    pub(super) rev: Rev,
    /// Every record that the previous compaction kept is still in the database, so that the hash of
    /// this compaction is the same on every member.
    pub(super) is_hashed: bool,
}

pub(super) enum NextWalk {
    None,
    /// Readers hold what it is to remove.
    IsHeld,
    Goes(Walk),
}

#[derive(Debug)]
pub(super) enum Walk {
    Index {
        span: Span,
        /// The key that was visited last.
        after: Option<Box<[u8]>>,
        /// Whether the index keeps any change up to `span.rev`: a put that a range at that revision
        /// sees, or a tombstone of exactly that revision.
        any_kept: bool,
    },
    Disk {
        span: Span,
        any_kept: bool,
        /// The next record to read.
        from: Revision,
        hash: u32,
    },
}

/// The hashes of the last [`COMPACTION_HASHES`] compactions, by revision.
///
/// A compaction's hash covers the records that the compaction removes, so it cannot be computed again
/// later. etcd's members compare these hashes, and `HashKV` at one of these revisions answers with them.
/// As in etcd, they are lost at a restart.
#[derive(Clone, Debug, Default)]
pub(super) struct CompactionHashes(VecDeque<CompactionHash>);

#[derive(Clone, Copy, Debug)]
pub(super) struct CompactionHash {
    pub(super) prev: Rev,
    pub(super) rev: Rev,
    pub(super) hash: u32,
}

impl Compaction {
    /// The progress of a store that was just opened: compacted up to `rev_scheduled`, with all removals
    /// up to `rev_finished` in the file.
    pub(super) fn after(rev_finished: Rev, rev_scheduled: Rev) -> Compaction {
        let mut waiting = VecDeque::new();
        if rev_finished < rev_scheduled {
            // Some of its records may have been removed before the restart.
            let span = Span { prev: rev_finished, rev: rev_scheduled, is_hashed: false };
            waiting.push_back((span, Earlier::default()));
        }
        Compaction {
            waiting,
            walk: None,
            removed: VecDeque::new(),
            rev_walked: rev_finished,
            rev_captured: rev_finished,
            rev_finished,
            hashes: CompactionHashes::default(),
        }
    }

    /// If too many compactions wait, the new one is merged with the last of them: both remove their
    /// records together, and neither gets a hash.
    pub(super) fn schedule(&mut self, prev: Rev, rev: Rev, mut earlier: Earlier) {
        assert!(prev < rev, "compactions go forwards: {prev} to {rev}");
        let last = self.waiting.back().map_or(prev, |(last, _)| last.rev);
        assert_eq!(last, prev, "a compaction begins where the one before it ends");
        // A client that asks for the hash at revision 0 means the newest revision, so no compaction's
        // hash may be stored there.
        let mut span = Span { prev, rev, is_hashed: rev > Rev(0) };
        if self.waiting.len() >= COMPACTIONS_WAITING
            && let Some((last, held)) = self.waiting.pop_back()
        {
            span = Span { prev: last.prev, rev, is_hashed: false };
            earlier.add(held);
        }
        self.waiting.push_back((span, earlier));
    }

    pub(super) fn next_walk(&mut self) -> NextWalk {
        if let Some(walk) = self.walk.take() {
            return NextWalk::Goes(walk);
        }
        match self.waiting.front() {
            None => NextWalk::None,
            Some((_, earlier)) if earlier.any_left() => NextWalk::IsHeld,
            Some((span, _)) => {
                let span = *span;
                assert_eq!(span.prev, self.rev_walked, "a walk begins where the one before it ended");
                self.waiting.pop_front();
                NextWalk::Goes(Walk::Index { span, after: None, any_kept: false })
            }
        }
    }

    /// Whether there is anything to capture for the next checkpoint.
    pub(super) fn has_changes(&self) -> bool {
        !self.removed.is_empty() || self.rev_captured != self.rev_walked
    }

    /// Takes the next removals, in the order of the disk, and tells whether there are more. The capture
    /// that takes the last of them completes the compactions up to `rev_walked`.
    pub(super) fn capture(&mut self, removals_max: usize) -> (Vec<Revision>, bool) {
        assert!(self.rev_finished <= self.rev_captured, "only captured removals are committed");
        assert!(self.rev_captured <= self.rev_walked, "only compactions that were walked are captured");
        let count = self.removed.len().min(removals_max);
        let removed = self.removed.drain(..count).collect();
        let more = !self.removed.is_empty();
        if !more {
            self.rev_captured = self.rev_walked;
        }
        (removed, more)
    }
}

impl CompactionHash {
    fn kv_hash(self, rev_current: Rev) -> KvHash {
        let CompactionHash { prev: rev_compacted, rev: rev_hashed, hash } = self;
        KvHash { hash, rev_compacted, rev_hashed, rev_current }
    }
}

impl CompactionHashes {
    pub(super) fn remember(&mut self, found: CompactionHash) {
        let newest = self.0.back().map_or(Rev::NEVER_COMPACTED, |last| last.rev);
        assert!(found.rev > newest, "compactions are done in order");
        self.0.push_back(found);
        while self.0.len() > COMPACTION_HASHES {
            self.0.pop_front();
        }
    }

    pub(super) fn at(&self, rev: Rev, rev_current: Rev) -> Option<KvHash> {
        self.0.iter().find(|found| found.rev == rev).map(|found| found.kv_hash(rev_current))
    }

    pub(super) fn all(&self, rev_current: Rev) -> Vec<KvHash> {
        self.0.iter().map(|found| found.kv_hash(rev_current)).collect()
    }
}
