//! Reading a range without delaying writes.
//!
//! A walk borrows the store for one stride at a time. The first stride pins the revision that is read.
//! The index keeps the history of its keys, so all strides see the store as it was at that revision. Each
//! stride collects the records that are in memory; for the others it notes the revision and a snapshot of
//! the database that certainly contains the record. After the last stride [`RangeWalk::finish`] reads
//! those records without the store.

use std::{cmp::Ordering, sync::Arc};

use bytes::Bytes;

use crate::{
    limits::RANGE_STRIDE_KEYS,
    mvcc::{Range, RangeResult, RevBounds, RevError, SortOrder, SortTarget, Step, Store, key_index::Live},
    storage::{Reader, StorageError},
    types::{KeyValue, Rev, Revision},
};

pub(crate) struct RangeWalk<'a> {
    range: &'a Range,
    /// Whether the keys after the limit are counted as well.
    counted: bool,
    pinned: Option<Pinned>,
    /// The key that was visited last.
    after: Option<Box<[u8]>>,
    count: i64,
    /// In the order of the keys. Those in `unread` have no key, value and lease yet.
    kvs: Vec<KeyValue>,
    unread: Vec<Unread>,
}

#[derive(Clone, Copy)]
struct Pinned {
    /// The newest revision when the walk began, for the header of the answer.
    current: Rev,
    /// The revision that is read.
    rev: Rev,
}

struct Unread {
    position: usize,
    revision: Revision,
    body: Arc<Reader>,
}

impl<'a> RangeWalk<'a> {
    pub(crate) fn new(range: &'a Range) -> RangeWalk<'a> {
        RangeWalk {
            range,
            counted: true,
            pinned: None,
            after: None,
            count: 0,
            kvs: Vec::new(),
            unread: Vec::new(),
        }
    }

    /// A walk that ends when the limit is reached, for callers that know the number of keys already.
    /// The `count` of its result is not valid.
    pub(crate) fn uncounted(range: &'a Range) -> RangeWalk<'a> {
        RangeWalk { counted: false, ..RangeWalk::new(range) }
    }

    /// Visits the next keys, [`RANGE_STRIDE_KEYS`] at most.
    pub(crate) fn step(&mut self, store: &Store) -> Result<Step, RevError> {
        self.step_at(store, store.rev_current, RANGE_STRIDE_KEYS)
    }

    /// As [`RangeWalk::step`], with `current` as the newest revision: within a write, that is the revision
    /// being written.
    pub(super) fn step_at(&mut self, store: &Store, current: Rev, keys_max: usize) -> Result<Step, RevError> {
        let rev = self.pin(store, current)?;
        let kvs_max = self.kvs_max();
        let range = &self.range.range;
        let after = self.after.take();
        let mut last = after.as_deref();
        let mut visited = 0;
        for (key, changes) in store.index.range(range, after.as_deref()) {
            if self.kvs.len() == kvs_max && (rev == current || !self.counted) {
                break;
            }
            if let Some(live) = changes.at(rev) {
                self.count += 1;
                if self.kvs.len() < kvs_max && passes(self.range, live) {
                    self.take(store, key, live);
                }
            }
            last = Some(key);
            visited += 1;
            if visited == keys_max {
                self.after = Some(key.into());
                return Ok(Step::More);
            }
        }
        // At the newest revision the index can count the other keys without visiting them.
        if self.kvs.len() == kvs_max && rev == current {
            self.count += store.index.count(range, last) as i64;
        }
        Ok(Step::Done)
    }

    /// Reads the records that are in the database. Returns the revision for the header, and the answer.
    pub(crate) fn finish(mut self) -> Result<(Rev, RangeResult), StorageError> {
        let current = self.pinned.expect("a walk is finished after its last step").current;
        let limit = limit_of(self.range);
        let more = self.kvs.len() > limit;
        if self.is_sorted() {
            self.kvs.truncate(limit);
            self.read(|_| true)?;
        } else {
            self.sort(limit)?;
        }
        Ok((current, RangeResult { kvs: self.kvs, more, count: self.count }))
    }

    /// The revision to read, which the first step chooses. Later steps check that it was not compacted
    /// meanwhile.
    fn pin(&mut self, store: &Store, current: Rev) -> Result<Rev, RevError> {
        match self.pinned {
            Some(Pinned { rev, .. }) if rev >= store.rev_compacted => return Ok(rev),
            // The pinned revision was compacted during the walk. A read of the newest revision starts
            // again at the revision that is the newest now; `check_rev` refuses any other read.
            Some(_) => *self = RangeWalk { counted: self.counted, ..RangeWalk::new(self.range) },
            None => {}
        }
        let rev = store.check_rev(self.range.rev, current)?;
        self.pinned = Some(Pinned { current, rev });
        Ok(rev)
    }

    fn take(&mut self, store: &Store, key: &[u8], live: Live) {
        let Live { revision, create_rev, version } = live;
        let known = KeyValue { create_rev, mod_rev: revision.main, version, ..KeyValue::default() };
        if self.range.keys_only && self.range.sort.target != SortTarget::Value {
            // As in etcd since 3.7: without the lease, because the record is not read.
            self.kvs.push(KeyValue { key: Bytes::copy_from_slice(key), ..known });
        } else if let Some(record) = store.recent.get(revision) {
            self.kvs.push(record.key_value());
        } else {
            self.unread.push(Unread { position: self.kvs.len(), revision, body: Arc::clone(&store.body) });
            self.kvs.push(known);
        }
    }

    /// How many keys to collect: one more than the limit, to find out whether there are more.
    fn kvs_max(&self) -> usize {
        let range = self.range;
        let unfiltered = range.mod_rev == RevBounds::default() && range.create_rev == RevBounds::default();
        if range.count_only {
            0
        } else if unfiltered && (range.sort.order == SortOrder::None || self.is_sorted()) {
            limit_of(range).saturating_add(1)
        } else {
            usize::MAX
        }
    }

    /// Whether the request asks for the order of the keys, in which the walk collects them.
    fn is_sorted(&self) -> bool {
        self.range.sort.target == SortTarget::Key && self.range.sort.order != SortOrder::Descend
    }

    /// Sorts as the request asks, and keeps the first `limit`. Only those are read from the database,
    /// except when they are sorted by value.
    fn sort(&mut self, limit: usize) -> Result<(), StorageError> {
        let target = self.range.sort.target;
        if target == SortTarget::Value {
            self.read(|_| true)?;
        }
        let mut order: Vec<usize> = (0..self.kvs.len()).collect();
        let kvs = &self.kvs;
        match self.range.sort.order {
            SortOrder::Descend if target == SortTarget::Key => order.reverse(),
            SortOrder::Descend => order.sort_by(|a, b| compare(target, &kvs[*b], &kvs[*a])),
            // As in etcd, a sort target without an order means ascending.
            SortOrder::None | SortOrder::Ascend => order.sort_by(|a, b| compare(target, &kvs[*a], &kvs[*b])),
        }
        order.truncate(limit);
        let mut chosen = vec![false; self.kvs.len()];
        order.iter().for_each(|position| chosen[*position] = true);
        self.read(|position| chosen[position])?;
        let keys_only = self.range.keys_only;
        let pick = |position: usize| {
            let kv = std::mem::take(&mut self.kvs[position]);
            if keys_only { KeyValue { value: Bytes::new(), ..kv } } else { kv }
        };
        self.kvs = order.into_iter().map(pick).collect();
        Ok(())
    }

    /// Reads the records that are in the database, at the positions that are wanted.
    fn read(&mut self, wanted: impl Fn(usize) -> bool) -> Result<(), StorageError> {
        // In the order of the disk, because neighbouring records share pages.
        self.unread.sort_unstable_by_key(|unread| unread.revision);
        for Unread { position, revision, body } in std::mem::take(&mut self.unread) {
            if position < self.kvs.len() && wanted(position) {
                self.kvs[position] = body.record(revision)?.key_value();
            }
        }
        Ok(())
    }
}

impl Store {
    /// Reads a whole range in one stride. Readers that share the store use a [`RangeWalk`] instead.
    pub(crate) fn range(&self, range: &Range) -> Result<Result<(Rev, RangeResult), RevError>, StorageError> {
        self.range_at(range, self.rev_current)
    }

    /// As [`Store::range`], with `current` as the newest revision.
    pub(super) fn range_at(
        &self,
        range: &Range,
        current: Rev,
    ) -> Result<Result<(Rev, RangeResult), RevError>, StorageError> {
        let mut walk = RangeWalk::new(range);
        match walk.step_at(self, current, usize::MAX) {
            Ok(Step::Done) => walk.finish().map(Ok),
            Ok(Step::More) => unreachable!("no store has that many keys"),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// The revision to read for a request that asks for `asked`, or why it cannot be read.
    pub(super) fn check_rev(&self, asked: i64, current: Rev) -> Result<Rev, RevError> {
        let rev = if asked <= 0 { current } else { Rev(asked) };
        if rev > current {
            Err(RevError::Future { asked: rev, current })
        } else if rev < self.rev_compacted {
            Err(RevError::Compacted { asked: rev, compacted: self.rev_compacted })
        } else {
            Ok(rev)
        }
    }
}

/// Maximum number of keys in the answer.
fn limit_of(range: &Range) -> usize {
    if range.limit <= 0 { usize::MAX } else { usize::try_from(range.limit).unwrap_or(usize::MAX) }
}

fn passes(range: &Range, live: Live) -> bool {
    let within = |bounds: RevBounds, rev: Rev| {
        (bounds.max == 0 || rev.0 <= bounds.max) && (bounds.min == 0 || rev.0 >= bounds.min)
    };
    within(range.mod_rev, live.revision.main) && within(range.create_rev, live.create_rev)
}

fn compare(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::CreateRev => a.create_rev.cmp(&b.create_rev),
        SortTarget::ModRev => a.mod_rev.cmp(&b.mod_rev),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}
