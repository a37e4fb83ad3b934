//! How far the work of the compactions is, and the hashes that the last of them found.

use std::collections::VecDeque;

use crate::{
    limits::{COMPACTION_HASHES, COMPACTIONS_WAITING},
    mvcc::kv_hash::KvHash,
    types::{Rev, Revision},
};

/// The progress of the compactions that were accepted.
#[derive(Debug)]
pub(super) struct Compaction {
    /// Accepted and not begun, the oldest first.
    waiting: VecDeque<Span>,
    pub(super) walk: Option<Walk>,
    /// Removals that no checkpoint has taken, in the order of the disk.
    pub(super) removed: VecDeque<Revision>,
    /// The walks up to here are done.
    pub(super) rev_walked: Rev,
    /// A captured checkpoint leaves nothing older in the database.
    pub(super) rev_captured: Rev,
    /// The database holds nothing older.
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

#[derive(Debug)]
pub(super) enum Walk {
    Index {
        span: Span,
        /// The key that was visited last.
        after: Option<Box<[u8]>>,
        /// The index holds changes up to `span.rev`: what a range at that revision sees, and
        /// tombstones of exactly that revision.
        any_kept: bool,
    },
    Disk {
        span: Span,
        any_kept: bool,
        /// The next record to look at.
        from: Revision,
        hash: u32,
    },
}

/// The hashes that the last compactions found, by revision, as [`COMPACTION_HASHES`] says.
///
/// Once a compaction is done, the hash of the history up to its revision cannot be found again,
/// for what it removed is covered too. etcd's members compare these hashes, and etcd answers them
/// to whoever asks for the hash at one of these revisions; a restart forgets them, as in etcd.
#[derive(Clone, Debug, Default)]
pub(super) struct CompactionHashes(VecDeque<CompactionHash>);

#[derive(Clone, Copy, Debug)]
pub(super) struct CompactionHash {
    pub(super) prev: Rev,
    pub(super) rev: Rev,
    pub(super) hash: u32,
}

impl Compaction {
    /// Of a store whose file holds nothing older than `rev_finished`, and which is compacted up to
    /// `rev_scheduled`.
    pub(super) fn after(rev_finished: Rev, rev_scheduled: Rev) -> Compaction {
        let mut waiting = VecDeque::new();
        if rev_finished < rev_scheduled {
            // Part of it may have been done before.
            waiting.push_back(Span { prev: rev_finished, rev: rev_scheduled, is_hashed: false });
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

    /// A compaction that finds too many before it takes the place of the last of them: what both
    /// are to remove is removed in one go, and the hash of neither is known.
    pub(super) fn schedule(&mut self, prev: Rev, rev: Rev) {
        assert!(prev < rev, "compactions go forwards: {prev} to {rev}");
        let last = self.waiting.back().map_or(prev, |last| last.rev);
        assert_eq!(last, prev, "a compaction begins where the one before it ends");
        // A client that asks for the hash at revision 0 means the newest revision, so no compaction's
        // hash may be stored there.
        let mut span = Span { prev, rev, is_hashed: rev > Rev(0) };
        if self.waiting.len() >= COMPACTIONS_WAITING
            && let Some(last) = self.waiting.pop_back()
        {
            span = Span { prev: last.prev, rev, is_hashed: false };
        }
        self.waiting.push_back(span);
    }

    pub(super) fn next_walk(&mut self) -> Option<Walk> {
        let rev_walked = self.rev_walked;
        let begin = |span: Span| {
            assert_eq!(span.prev, rev_walked, "a walk begins where the one before it ended");
            Walk::Index { span, after: None, any_kept: false }
        };
        self.walk.take().or_else(|| self.waiting.pop_front().map(begin))
    }

    /// Whether a capture would hold anything of it that the last one did not.
    pub(super) fn has_changes(&self) -> bool {
        !self.removed.is_empty() || self.rev_captured != self.rev_walked
    }

    /// The next removals, in the order of the disk, and whether there are more. With the last of
    /// them, what was compacted is gone.
    pub(super) fn capture(&mut self, removals_max: usize) -> (Vec<Revision>, bool) {
        assert!(self.rev_finished <= self.rev_captured, "what is off the disk was captured");
        assert!(self.rev_captured <= self.rev_walked, "what is captured was walked over");
        let count = self.removed.len().min(removals_max);
        let removed = self.removed.drain(..count).collect();
        let more = !self.removed.is_empty();
        if !more {
            self.rev_captured = self.rev_walked;
        }
        (removed, more)
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
        let found = self.0.iter().find(|found| found.rev == rev)?;
        let CompactionHash { prev: rev_compacted, rev: rev_hashed, hash } = *found;
        Some(KvHash { hash, rev_compacted, rev_hashed, rev_current })
    }
}
