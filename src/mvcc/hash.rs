//! The hash by which members compare their histories, equal to etcd's for the same history.
//!
//! The hash covers every record up to a revision, in order. It must not depend on how far the work of a
//! compaction has come. Of the records up to the compacted revision it therefore covers only those that
//! are live at the hashed revision, the *keep set*, which the walk collects from the index.
//!
//! At the revision of one of the last compactions the answer is the hash that the compaction computed. It
//! covers the history as it was before that compaction.

use std::{mem, sync::Arc};

use crate::{
    limits::{CAPTURE_STRIDE_RECORDS, RANGE_STRIDE_KEYS},
    mvcc::{KvHash, RevError, Step, Store, key_index::KeyIndex, kv_hash},
    storage::{Reader, Record, StorageError},
    types::{Chunked, KeyRange, Rev, Revision},
};

/// Borrows the store in strides, then reads the records without it.
pub(crate) struct HashWalk {
    /// The revision as the caller gave it; 0 means the newest.
    asked: i64,
    walk: Walk,
    /// The hash that a compaction to that revision computed.
    remembered: Option<KvHash>,
}

enum Walk {
    New,
    Goes(Captured),
    /// A compaction came during the walk, so the keep set is another one.
    IsVoid(Captured),
}

struct Captured {
    current: Rev,
    compacted: Rev,
    /// Revision to hash.
    rev: Rev,
    keep: KeepSet,
    stage: Stage,
}

enum Stage {
    Keys {
        /// The key that was visited last.
        after: Option<Box<[u8]>>,
    },
    Records(Records),
}

/// The records to hash: those in a body of the tape, and those that are in memory only.
struct Records {
    body: Arc<Reader>,
    /// The newest revision in `body`.
    rev_body: Rev,
    /// Records that were in memory only, in order. Those up to `rev_body` have been stored since.
    head: Chunked<(Revision, Record)>,
    /// The next record of the head.
    next: Revision,
}

/// Which records at or below the compacted revision are hashed.
#[derive(Default)]
struct KeepSet {
    /// Those that are live at the hashed revision.
    live: Vec<Revision>,
    /// Whether any record is live at the hashed revision, also above the compacted one.
    any_live: bool,
    /// Those that the compaction keeps. etcd hashes all of them if no record is live at the hashed
    /// revision.
    left: Vec<Revision>,
}

impl HashWalk {
    pub(crate) fn new(asked: i64) -> HashWalk {
        HashWalk { asked, walk: Walk::New, remembered: None }
    }

    /// Visits the next keys, [`RANGE_STRIDE_KEYS`] at most, or the next records that are in memory only,
    /// [`CAPTURE_STRIDE_RECORDS`] at most. After [`Step::More`], [`HashWalk::settle`] is to be called without the
    /// store.
    pub(crate) fn step(&mut self, store: &Store) -> Result<Step, RevError> {
        self.step_of(store, RANGE_STRIDE_KEYS)
    }

    pub(super) fn step_of(&mut self, store: &Store, keys_max: usize) -> Result<Step, RevError> {
        let mut captured = match mem::replace(&mut self.walk, Walk::New) {
            Walk::Goes(captured) if captured.compacted == store.rev_compacted => captured,
            Walk::Goes(captured) | Walk::IsVoid(captured) => {
                self.walk = Walk::IsVoid(captured);
                return Ok(Step::More);
            }
            Walk::New => {
                self.remembered = store.remembered_hash(Rev(self.asked));
                if self.remembered.is_some() {
                    return Ok(Step::Done);
                }
                Captured::begin(self.asked, store)?
            }
        };
        let step = captured.step(store, keys_max);
        self.walk = Walk::Goes(captured);
        Ok(step)
    }

    /// Drops what a walk has collected that begins anew. There may be so much of it that nobody should wait for
    /// the store meanwhile.
    pub(crate) fn settle(&mut self) {
        if let Walk::IsVoid(_) = self.walk {
            self.walk = Walk::New;
        }
    }

    /// How many records were taken from memory.
    #[cfg(test)]
    pub(super) fn head_len(&self) -> usize {
        match &self.walk {
            Walk::Goes(Captured { stage: Stage::Records(records), .. }) => records.head.len(),
            _ => 0,
        }
    }

    #[cfg(test)]
    pub(crate) fn finish(self) -> Result<KvHash, StorageError> {
        Ok(self.finish_if(&|| true)?.expect("it is wanted"))
    }

    /// `None` if `is_wanted` said that the caller no longer waits for the result.
    pub(crate) fn finish_if(self, is_wanted: &dyn Fn() -> bool) -> Result<Option<KvHash>, StorageError> {
        if let Some(remembered) = self.remembered {
            return Ok(Some(remembered));
        }
        let Walk::Goes(captured) = self.walk else { panic!("a walk is finished after its last step") };
        let Captured { current, compacted, rev, keep, stage } = captured;
        let Stage::Records(Records { body, rev_body, head, .. }) = stage else {
            panic!("a walk is finished after its last step")
        };
        assert!(rev <= current, "a hash covers no future revision");
        let mut kept = if keep.any_live { keep.live } else { keep.left };
        kept.sort_unstable();
        let mut hash = kv_hash::of_nothing();
        let mut take = |revision: Revision, record: &Record| {
            if revision.main > compacted || kept.binary_search(&revision).is_ok() {
                hash = kv_hash::add(hash, compacted, revision, record);
            }
        };
        for item in body.records(Revision::default())? {
            if !is_wanted() {
                return Ok(None);
            }
            let (revision, record) = item?;
            if revision.main > rev {
                break;
            }
            take(revision, &record);
        }
        let head = head.iter().filter(|(revision, _)| revision.main > rev_body);
        head.for_each(|(revision, record)| take(*revision, record));
        Ok(Some(KvHash { hash, rev_compacted: compacted, rev_hashed: rev, rev_current: current }))
    }
}

impl Captured {
    fn begin(asked: i64, store: &Store) -> Result<Captured, RevError> {
        let (current, compacted) = (store.rev_current, store.rev_compacted);
        let rev = if asked == 0 { current } else { Rev(asked) };
        if asked > 0 && rev < compacted {
            return Err(RevError::Compacted { asked: rev, compacted });
        }
        if rev > current {
            return Err(RevError::Future { asked: rev, current });
        }
        let stage = Stage::Keys { after: None };
        Ok(Captured { current, compacted, rev, keep: KeepSet::default(), stage })
    }

    fn step(&mut self, store: &Store, keys_max: usize) -> Step {
        match &mut self.stage {
            Stage::Keys { after } => {
                let last = after.take();
                let mut visited = 0;
                for (key, changes) in store.index.range(&KeyRange::all(), last.as_deref()) {
                    self.keep.add(changes, self.rev, self.compacted);
                    visited += 1;
                    if visited == keys_max {
                        *after = Some(key.into());
                        return Step::More;
                    }
                }
                self.stage = Stage::Records(Records::of(store));
                Step::More
            }
            Stage::Records(records) => records.gather(store, self.rev),
        }
    }
}

impl KeepSet {
    fn add(&mut self, changes: &KeyIndex, rev: Rev, compacted: Rev) {
        if let Some(live) = changes.at(rev) {
            self.any_live = true;
            self.left = Vec::new();
            self.live.extend((live.revision.main <= compacted).then_some(live.revision));
        }
        if !self.any_live {
            self.left.extend(changes.at(compacted).map(|live| live.revision));
        }
    }
}

impl Records {
    fn of(store: &Store) -> Records {
        Records {
            body: Arc::clone(&store.body),
            rev_body: store.rev_checkpointed,
            head: Chunked::default(),
            next: Revision::after(store.rev_checkpointed),
        }
    }

    /// Takes the next records up to a revision from memory. If a checkpoint has stored some since the last stride,
    /// they are in the body that it has made: nothing is compacted that was not when the walk began.
    fn gather(&mut self, store: &Store, upto: Rev) -> Step {
        if self.rev_body < store.rev_checkpointed {
            self.body = Arc::clone(&store.body);
            self.rev_body = store.rev_checkpointed;
            self.next = self.next.max(Revision::after(store.rev_checkpointed));
        }
        let mut taken = 0;
        let some = store.recent.changes(self.next).take_while(|(revision, _)| revision.main <= upto);
        for (revision, record) in some.take(CAPTURE_STRIDE_RECORDS) {
            self.head.push((revision, record.clone()));
            self.next = Revision { sub: revision.sub + 1, ..revision };
            taken += 1;
        }
        if taken == CAPTURE_STRIDE_RECORDS { Step::More } else { Step::Done }
    }
}
