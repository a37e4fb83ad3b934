//! The hash by which members compare their histories, equal to etcd's for the same history.
//!
//! The hash covers every record up to a revision, in order. It must not depend on how far the work of a
//! compaction has come. Of the records up to the compacted revision it therefore covers only those that
//! are live at the hashed revision, the *keep set*, which the walk collects from the index.
//!
//! At the revision of one of the last compactions the answer is the hash that the compaction computed. It
//! covers the history as it was before that compaction.

use std::sync::Arc;

use crate::{
    limits::RANGE_STRIDE_KEYS,
    mvcc::{KvHash, RevError, Step, Store, kv_hash},
    storage::{Reader, Record, StorageError},
    types::{KeyRange, Rev, Revision},
};

/// Borrows the store in strides, then reads the records without it.
pub(crate) struct HashWalk {
    /// The revision as the caller gave it; 0 means the newest.
    asked: i64,
    captured: Option<Captured>,
    /// The hash that a compaction to that revision computed.
    remembered: Option<KvHash>,
}

struct Captured {
    current: Rev,
    compacted: Rev,
    /// Revision to hash.
    rev: Rev,
    body: Arc<Reader>,
    /// The records that are in memory only.
    head: Vec<(Revision, Record)>,
    /// The key that was visited last.
    after: Option<Box<[u8]>>,
    keep: KeepSet,
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
        HashWalk { asked, captured: None, remembered: None }
    }

    /// Visits the next keys, [`RANGE_STRIDE_KEYS`] at most.
    pub(crate) fn step(&mut self, store: &Store) -> Result<Step, RevError> {
        self.step_of(store, RANGE_STRIDE_KEYS)
    }

    pub(super) fn step_of(&mut self, store: &Store, keys_max: usize) -> Result<Step, RevError> {
        let captured = match self.captured.take() {
            // If a compaction came during the walk, the keep set is another one, and the walk starts again.
            Some(captured) if captured.compacted == store.rev_compacted => captured,
            _ => {
                self.remembered = store.remembered_hash(Rev(self.asked));
                if self.remembered.is_some() {
                    return Ok(Step::Done);
                }
                Captured::begin(self.asked, store)?
            }
        };
        let captured = self.captured.insert(captured);
        let after = captured.after.take();
        let mut visited = 0;
        for (key, changes) in store.index.range(&KeyRange::all(), after.as_deref()) {
            let keep = &mut captured.keep;
            if let Some(live) = changes.at(captured.rev) {
                keep.any_live = true;
                keep.left = Vec::new();
                keep.live.extend((live.revision.main <= captured.compacted).then_some(live.revision));
            }
            if !keep.any_live {
                keep.left.extend(changes.at(captured.compacted).map(|live| live.revision));
            }
            visited += 1;
            if visited == keys_max {
                captured.after = Some(key.into());
                return Ok(Step::More);
            }
        }
        Ok(Step::Done)
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
        let captured = self.captured.expect("a walk is finished after its last step");
        let Captured { current, compacted, rev, body, head, after, keep } = captured;
        assert!(after.is_none(), "a walk is finished after its last step");
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
        head.iter().for_each(|(revision, record)| take(*revision, record));
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
        let head = store.recent.changes(Revision::after(store.rev_checkpointed));
        let head = head.take_while(|(revision, _)| revision.main <= rev);
        let head = head.map(|(revision, record)| (revision, record.clone())).collect();
        let body = Arc::clone(&store.body);
        Ok(Captured { current, compacted, rev, body, head, after: None, keep: KeepSet::default() })
    }
}
