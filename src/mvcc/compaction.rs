//! Forgetting the past.
//!
//! Compaction takes effect at once: from then on older revisions are refused. Taking them out of
//! the index happens later, in strides, and out of the database with the checkpoints that follow.
//! Everybody may see a different part of that work done; nobody can tell from the answers.

use std::collections::BTreeSet;

use crate::{
    mvcc::{RevError, Store},
    types::{Rev, Revision},
};

/// How far the work is.
#[derive(Debug)]
pub(super) struct Compaction {
    walk: Option<IndexWalk>,
    /// The index holds nothing older.
    pub(super) rev_walked: Rev,
    /// Out of the index, still to go from the database.
    removed: BTreeSet<Revision>,
    /// A captured checkpoint leaves nothing older in the database.
    pub(super) rev_captured: Rev,
    /// The database holds nothing older.
    pub(super) rev_finished: Rev,
}

/// One pass over the index. What it takes out goes from the database after its end, because
/// removing in the order of the disk is much faster than in the order of the keys.
#[derive(Debug)]
struct IndexWalk {
    /// Revision to compact to.
    rev: Rev,
    /// The key that was visited last.
    after: Option<Box<[u8]>>,
    removed: BTreeSet<Revision>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompactionStep {
    /// There is nothing to do.
    Idle,
    More,
    /// Nothing older than this is in the index. It is off the disk when
    /// [`Store::rev_compact_finished`] says so, which takes a checkpoint or more.
    Finished(Rev),
}

impl Store {
    /// From now on `rev` is the oldest revision that can be read.
    pub(crate) fn compact(&mut self, rev: Rev) -> Result<(), RevError> {
        if rev <= self.rev_compacted {
            return Err(RevError::Compacted { asked: rev, compacted: self.rev_compacted });
        }
        if rev > self.rev_current {
            return Err(RevError::Future { asked: rev, current: self.rev_current });
        }
        self.rev_compacted = rev;
        Ok(())
    }

    /// Takes what has been compacted out of the index, `keys_max` keys at a time.
    pub(crate) fn compaction_stride(&mut self, keys_max: usize) -> CompactionStep {
        let compaction = &mut self.compaction;
        if compaction.walk.is_none() && compaction.rev_walked == self.rev_compacted {
            return CompactionStep::Idle;
        }
        let begin = || IndexWalk { rev: self.rev_compacted, after: None, removed: BTreeSet::new() };
        let IndexWalk { rev, after, mut removed } = compaction.walk.take().unwrap_or_else(begin);
        let last = self.index.compact(after.as_deref(), keys_max, rev, &mut removed);
        if last.is_some() {
            compaction.walk = Some(IndexWalk { rev, after: last, removed });
            return CompactionStep::More;
        }
        compaction.removed.append(&mut removed);
        compaction.rev_walked = rev;
        CompactionStep::Finished(rev)
    }

    /// The revision up to which compaction has reached the disk.
    #[cfg(test)]
    pub(crate) fn rev_compact_finished(&self) -> Rev {
        self.compaction.rev_finished
    }
}

impl Compaction {
    /// Of a store whose file holds nothing older than `rev_finished`.
    pub(super) fn after(rev_finished: Rev) -> Compaction {
        Compaction {
            walk: None,
            rev_walked: rev_finished,
            removed: BTreeSet::new(),
            rev_captured: rev_finished,
            rev_finished,
        }
    }

    /// The next removals, in the order of the disk, and whether there are more. With the last of
    /// them, what was compacted is gone.
    pub(super) fn capture(&mut self, removals_max: usize) -> (Vec<Revision>, bool) {
        let removed = std::iter::from_fn(|| self.removed.pop_first()).take(removals_max).collect();
        let more = !self.removed.is_empty();
        if !more {
            self.rev_captured = self.rev_walked;
        }
        (removed, more)
    }
}
