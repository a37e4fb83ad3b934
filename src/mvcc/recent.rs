//! The head of the tape: the records of the newest revisions, in memory.
//!
//! Revisions follow each other without a gap, so a record is found by the distance of its revision from
//! the first one. Records that have not been checkpointed are only here, and in the log. Records that
//! have been checkpointed stay as a cache while there is room.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    storage::Record,
    types::{Chunked, Rev, Revision, chunked},
};

#[derive(Debug)]
pub(super) struct Recent {
    /// The revision of `revs[0]`.
    first: Rev,
    /// With the bytes that the records of the revision take.
    revs: VecDeque<(usize, Changes)>,
    bytes: usize,
    /// The part of `bytes` that no checkpoint has stored, and the part of it that a checkpoint under
    /// way has captured.
    unsaved_bytes: usize,
    captured_bytes: usize,
}

/// The records of one revision, by sub-revision. Clones share them.
#[derive(Clone, Debug)]
pub(super) enum Changes {
    One(Record),
    Many(Arc<Chunked<Record>>),
}

/// Records that were dropped from memory.
#[derive(Debug)]
pub(crate) struct Trimmed(Vec<Changes>);

impl Trimmed {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The memory of a record beside its bytes: its place in the queue, and two allocations.
const RECORD_OVERHEAD_BYTES: usize = 96;

impl Recent {
    /// Empty, for a store whose newest revision is `rev`.
    pub(super) fn after(rev: Rev) -> Recent {
        Recent { first: rev.next(), revs: VecDeque::new(), bytes: 0, unsaved_bytes: 0, captured_bytes: 0 }
    }

    /// The oldest revision in memory, or the next revision if there is none.
    pub(super) fn first(&self) -> Rev {
        self.first
    }

    /// The newest revision in memory, or the one before [`Recent::first`] if there is none.
    pub(super) fn last(&self) -> Rev {
        Rev(self.first.0 + self.revs.len() as i64 - 1)
    }

    /// Adds a change to the newest revision or begins the next one.
    pub(super) fn push(&mut self, revision: Revision, record: Record) {
        let cost = cost(&record);
        self.bytes += cost;
        self.unsaved_bytes += cost;
        if revision.sub == 0 {
            assert_eq!(revision.main, self.last().next(), "revisions grow by one");
            self.revs.push_back((cost, Changes::One(record)));
            return;
        }
        assert_eq!(revision.main, self.last(), "only the newest revision gets further changes");
        let (bytes, newest) = self.revs.back_mut().expect("sub-revision 0 has been pushed");
        *bytes += cost;
        assert_eq!(revision.sub, newest.len() as i64, "sub-revisions grow by one");
        match newest {
            Changes::One(first) => {
                *newest = Changes::Many(Arc::new([first.clone(), record].into_iter().collect()));
            }
            Changes::Many(records) => {
                let records = Arc::get_mut(records).expect("nobody reads a revision before it is complete");
                records.push(record);
            }
        }
    }

    /// `None` if the revision is older than those in memory.
    pub(super) fn get(&self, revision: Revision) -> Option<&Record> {
        let position = usize::try_from(revision.main.0 - self.first.0).ok()?;
        let sub = usize::try_from(revision.sub).expect("a sub-revision counts from 0");
        Some(self.revs[position].1.get(sub).expect("the index has the sub-revisions that there are"))
    }

    /// The revisions in memory, beginning with `from`, or with the first if that is newer.
    pub(super) fn from(&self, from: Rev) -> impl Iterator<Item = (Rev, &Changes)> {
        self.sized_from(from).map(|(rev, _, changes)| (rev, changes))
    }

    /// As [`Recent::from`], with the bytes that the records of each revision take.
    pub(super) fn sized_from(&self, from: Rev) -> impl Iterator<Item = (Rev, usize, &Changes)> {
        let skipped = usize::try_from(from.0 - self.first.0).unwrap_or(0).min(self.revs.len());
        let revs = (self.first.0 + skipped as i64..).map(Rev);
        revs.zip(self.revs.range(skipped..))
            .map(|(rev, (cost, changes))| (rev, cost - changes.len() * RECORD_OVERHEAD_BYTES, changes))
    }

    /// The records in memory from a revision on, one by one.
    pub(super) fn changes(&self, from: Revision) -> impl Iterator<Item = (Revision, &Record)> {
        self.from(from.main).flat_map(move |(main, changes)| {
            let skipped = if main == from.main { usize::try_from(from.sub).unwrap_or(0) } else { 0 };
            let revisions = (skipped as i64..).map(move |sub| Revision { main, sub });
            revisions.zip(changes.iter_from(skipped))
        })
    }

    /// The memory of the records that no checkpoint has stored.
    pub(super) fn unsaved_bytes(&self) -> usize {
        self.unsaved_bytes
    }

    /// The part of [`Recent::unsaved_bytes`] that no checkpoint has captured.
    pub(super) fn uncaptured_bytes(&self) -> usize {
        self.unsaved_bytes - self.captured_bytes
    }

    /// To be called when a checkpoint has captured all records.
    pub(super) fn captured(&mut self) {
        assert!(self.captured_bytes <= self.unsaved_bytes, "only unsaved records are captured");
        assert!(self.unsaved_bytes <= self.bytes, "every unsaved record is in memory");
        self.captured_bytes = self.unsaved_bytes;
    }

    /// To be called when that checkpoint is durable.
    pub(super) fn checkpointed(&mut self) {
        let captured_bytes = std::mem::take(&mut self.captured_bytes);
        assert!(captured_bytes <= self.unsaved_bytes, "a record is saved once");
        self.unsaved_bytes -= captured_bytes;
    }

    /// Takes the oldest revisions up to `until` out, while the records take more than `max_bytes`.
    pub(super) fn trim(&mut self, until: Rev, max_bytes: usize, revs_max: usize) -> Trimmed {
        assert!(until <= self.last(), "a checkpoint contains only revisions that were in memory");
        let mut trimmed = Vec::new();
        while self.bytes > max_bytes && self.first <= until && trimmed.len() < revs_max {
            let Some((bytes, changes)) = self.revs.pop_front() else { break };
            self.bytes -= bytes;
            self.first = self.first.next();
            trimmed.push(changes);
        }
        assert!(self.unsaved_bytes <= self.bytes, "a record is dropped from memory only after it was saved");
        Trimmed(trimmed)
    }
}

impl Changes {
    pub(super) fn len(&self) -> usize {
        match self {
            Changes::One(_) => 1,
            Changes::Many(records) => records.len(),
        }
    }

    fn get(&self, sub: usize) -> Option<&Record> {
        match self {
            Changes::One(record) => (sub == 0).then_some(record),
            Changes::Many(records) => records.get(sub),
        }
    }

    /// The records in order, beginning with a sub-revision.
    pub(super) fn iter_from(&self, sub: usize) -> chunked::Iter<'_, Record> {
        match self {
            Changes::One(record) if sub == 0 => chunked::one(record),
            Changes::One(_) => chunked::Iter::default(),
            Changes::Many(records) => records.iter_from(sub),
        }
    }
}

impl From<Vec<Record>> for Changes {
    fn from(records: Vec<Record>) -> Changes {
        Changes::Many(Arc::new(records.into_iter().collect()))
    }
}

fn cost(record: &Record) -> usize {
    record.bytes().len() + RECORD_OVERHEAD_BYTES
}
