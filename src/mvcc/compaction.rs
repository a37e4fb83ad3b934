//! Compaction: removing the history that can no longer be read.
//!
//! A compaction takes effect at once: reads of older revisions are refused from then on. The removal
//! happens later, in strides, one compaction after the other, each in two walks. The first walk removes
//! from the index every change that nobody can read any more. The second walk reads the records of the
//! database up to the compacted revision, in the order of the disk: records that are no longer in the
//! index are removed by the following checkpoints, and the records are hashed
//! ([`CompactionHashes`](super::compaction_work::CompactionHashes)). No answer depends on how far a member
//! has got with this work, except for the hash at the compacted revision, where etcd does the same.

use std::{fmt, sync::Arc};

use crate::{
    limits::{CHECKPOINT_REMOVALS_MAX, READ_STRIDE_BYTES},
    mvcc::{
        KvHash, RevError, Store,
        compaction_work::{CompactionHash, NextWalk, Walk},
        kv_hash,
    },
    storage::{Reader, StorageError, StoredRecord},
    types::{Rev, Revision},
};

#[derive(Debug)]
pub(crate) enum CompactionStep {
    /// There is nothing to do.
    Idle,
    More,
    /// The caller reads this stride while others use the store. [`Store::judge`] then decides which of
    /// its records are removed, and [`Store::judged`] schedules their removal.
    Read(CompactionStride),
    /// The compaction continues after the next checkpoint, because its records are not in the database
    /// yet, or because removals of the previous compaction are not committed yet, or because as many
    /// removals wait as one checkpoint takes.
    AwaitsCheckpoint,
    /// Readers hold what the next compaction removes. It begins when the last hold is gone that was taken
    /// before the compaction was accepted.
    AwaitsReaders,
    /// Both walks up to this revision are done. The last removals are committed by another checkpoint:
    /// then [`Store::rev_compact_finished`] reaches this revision.
    Finished(Rev),
}

/// A stride of the second walk that has not been read yet.
pub(crate) struct CompactionStride {
    body: Arc<Reader>,
    from: Revision,
    upto: Rev,
    records_max: usize,
}

/// The records of a stride.
pub(crate) struct CompactionRecords {
    records: Vec<(Revision, StoredRecord)>,
    /// The first damaged record. Damaged records are not removed, and the compaction gets no hash.
    pub(crate) damage: Option<StorageError>,
    /// Where the walk continues; `None` at its end.
    next: Option<Revision>,
}

/// Which records of a stride are removed, and the hash up to its end.
pub(crate) struct Judged {
    removed: Vec<Revision>,
    is_damaged: bool,
    hash: u32,
    next: Option<Revision>,
}

impl Store {
    /// Makes `rev` the oldest revision that can be read.
    pub(crate) fn compact(&mut self, rev: Rev) -> Result<(), RevError> {
        if rev <= self.rev_compacted {
            return Err(RevError::Compacted { asked: rev, compacted: self.rev_compacted });
        }
        if rev > self.rev_current {
            return Err(RevError::Future { asked: rev, current: self.rev_current });
        }
        let prev = std::mem::replace(&mut self.rev_compacted, rev);
        self.compaction.schedule(prev, rev, self.holds.end_period());
        Ok(())
    }

    /// Does the next part of the work: visits at most `max` keys of the index, or returns what the
    /// caller has to do.
    pub(crate) fn compaction_stride(&mut self, max: usize) -> CompactionStep {
        let walk = match self.compaction.next_walk() {
            NextWalk::Goes(walk) => walk,
            NextWalk::IsHeld => return CompactionStep::AwaitsReaders,
            NextWalk::None => return CompactionStep::Idle,
        };
        match walk {
            Walk::Index { span, after, mut any_kept } => {
                let (last, found) = self.index.compact(after.as_deref(), max, span.rev);
                any_kept |= found;
                self.compaction.walk = Some(match last {
                    Some(_) => Walk::Index { span, after: last, any_kept },
                    None => {
                        Walk::Disk { span, any_kept, from: Revision::default(), hash: kv_hash::of_nothing() }
                    }
                });
                CompactionStep::More
            }
            Walk::Disk { span, any_kept, from, hash } => {
                self.compaction.walk = Some(Walk::Disk { span, any_kept, from, hash });
                let compaction = &self.compaction;
                let is_full = compaction.removed.len() >= CHECKPOINT_REMOVALS_MAX;
                // Otherwise this walk would find records again whose removal is not committed yet.
                let is_after_last = compaction.rev_finished == compaction.rev_walked;
                if is_full || !is_after_last || self.rev_checkpointed < span.rev {
                    return CompactionStep::AwaitsCheckpoint;
                }
                let body = Arc::clone(&self.body);
                CompactionStep::Read(CompactionStride { body, from, upto: span.rev, records_max: max })
            }
        }
    }

    /// Decides which records of a stride are removed, and hashes the records. The stride must be the one
    /// that [`Store::compaction_stride`] returned last.
    pub(crate) fn judge(&self, stride: CompactionRecords) -> Judged {
        let Some(Walk::Disk { span, any_kept, hash, .. }) = self.compaction.walk else {
            panic!("records are judged during the second walk")
        };
        let CompactionRecords { records, damage, next } = stride;
        let mut removed = Vec::new();
        let mut hash = hash;
        for (revision, record) in records {
            assert!(revision.main <= span.rev, "a compaction to {} judges {revision}", span.rev);
            let known = self.index.get(record.parts().key);
            let is_kept = known.is_some_and(|changes| changes.oldest() == revision);
            #[cfg(test)]
            let is_kept = is_kept
                && !(crate::planted::is(crate::planted::Bug::CompactionEatsKept) && revision.main.0 % 8 == 3);
            #[cfg(test)]
            let is_kept = is_kept
                && !((crate::planted::is(crate::planted::Bug::DeletionEaten)
                    || crate::planted::is(crate::planted::Bug::RevisionOfRecords))
                    && record.is_tombstone()
                    && revision.main == span.rev);
            // As in etcd: if the compaction keeps nothing at all, every record is hashed.
            let is_compacted_before = revision.main <= span.prev && any_kept && !is_kept;
            if !is_compacted_before {
                hash = kv_hash::add_stored(hash, span.prev, revision, &record);
            }
            if !is_kept {
                removed.push(revision);
            }
        }
        Judged { removed, is_damaged: damage.is_some(), hash, next }
    }

    /// Schedules the removals that [`Store::judge`] decided on, and moves the walk behind the stride.
    pub(crate) fn judged(&mut self, judged: Judged) -> CompactionStep {
        let compaction = &mut self.compaction;
        let Some(Walk::Disk { mut span, any_kept, from, .. }) = compaction.walk.take() else {
            panic!("records are judged during the second walk")
        };
        let Judged { removed, is_damaged, hash, next } = judged;
        span.is_hashed &= !is_damaged;
        let in_order = |(last, first)| last < first;
        let ends = compaction.removed.back().zip(removed.first());
        assert!(ends.is_none_or(in_order), "removals are in the order of the disk, each once");
        compaction.removed.extend(removed);
        if let Some(next) = next {
            assert!(next > from, "a walk over the records moves forwards: from {from} to {next}");
            compaction.walk = Some(Walk::Disk { span, any_kept, from: next, hash });
            return CompactionStep::More;
        }
        assert!(compaction.rev_walked < span.rev, "compactions are done in order");
        compaction.rev_walked = span.rev;
        if span.is_hashed {
            compaction.hashes.remember(CompactionHash { prev: span.prev, rev: span.rev, hash });
        }
        CompactionStep::Finished(span.rev)
    }

    /// The revision up to which all removals of compactions are committed to the database.
    pub(crate) fn rev_compact_finished(&self) -> Rev {
        self.compaction.rev_finished
    }

    /// The hash of the history up to `rev`, if one of the last compactions compacted to `rev`.
    pub(crate) fn remembered_hash(&self, rev: Rev) -> Option<KvHash> {
        self.compaction.hashes.at(rev, self.rev_current)
    }

    /// The hashes of the last compactions, from the oldest on.
    pub(crate) fn compaction_hashes(&self) -> Vec<KvHash> {
        self.compaction.hashes.all(self.rev_current)
    }

    /// Takes over the hashes of the store that this one replaces.
    pub(crate) fn remember_hashes_of(&mut self, before: &Store) {
        self.compaction.hashes = before.compaction.hashes.clone();
    }
}

impl fmt::Debug for CompactionStride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompactionStride({} to {})", self.from, self.upto)
    }
}

impl CompactionStride {
    pub(crate) fn load(self) -> Result<CompactionRecords, StorageError> {
        let CompactionStride { body, from, upto, records_max } = self;
        let mut stride = CompactionRecords { records: Vec::new(), damage: None, next: None };
        let mut bytes = 0;
        for item in body.stored_records(from)? {
            let (revision, record) = match item {
                Ok(item) => item,
                Err(damage @ StorageError::Corrupted { .. }) => {
                    stride.damage.get_or_insert(damage);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if revision.main > upto {
                break;
            }
            if stride.records.len() >= records_max || bytes >= READ_STRIDE_BYTES {
                stride.next = Some(revision);
                break;
            }
            bytes += record.stored_len();
            stride.records.push((revision, record));
        }
        Ok(stride)
    }
}
