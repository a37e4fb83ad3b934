//! Reading a range without delaying writes, or other tasks.
//!
//! A walk borrows the store for one stride at a time. The first stride chooses the moment that is read.
//! The index keeps the history of its keys, so all strides see the store as it was at that moment. Each
//! stride collects the records that are in memory; for the others it notes the revision and a snapshot of
//! the database that certainly contains the record. [`RangeWalk::digest`] reads those records and sorts, a
//! bounded part at a time and without the store.
//!
//! A walk in the order of the keys can keep the first part of the answer only, and count the bytes of the
//! keys behind it. Those keys are the [`Rest`], which is read later, in pieces.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
};

use bytes::Bytes;

use crate::{
    limits::{ANSWER_PIECE_BYTES, Knob, RANGE_STRIDE_KEYS, READ_STRIDE_BYTES, READ_STRIDE_RECORDS},
    mvcc::{
        Hold, Range, RangeResult, RevBounds, RevError, SortOrder, SortTarget, Step, Store,
        key_index::Live,
        ranked::{Candidate, Ranked, SortKey},
        rest::{Rest, Weight, memory_of},
        store::{Located, Place},
    },
    storage::StorageError,
    types::{KeyRange, KeyValue, Rev, Revision},
};

pub(crate) struct RangeWalk<'a> {
    range: Cow<'a, Range>,
    /// Whether the keys after the limit are counted as well.
    is_counted: bool,
    moment: Option<Moment>,
    /// The key that was visited last.
    after: Option<Box<[u8]>>,
    is_walked: bool,
    count: i64,
    /// The number of keys so far that pass the filters of the request.
    passed: usize,
    /// Keys to be sorted by a value that has to be read first, each with its position among those that
    /// passed.
    unranked: VecDeque<(usize, Place)>,
    /// The first keys so far in the order of the request; `None` if that is the order of the keys.
    ranked: Option<Ranked>,
    /// The answer, in its order. Those in `unread` have no key, value and lease yet.
    kvs: Vec<KeyValue>,
    unread: VecDeque<(usize, Place)>,
    /// The bytes of the keys in `kvs` that have been read, and their maximum.
    kept_bytes: usize,
    kept_bytes_max: usize,
    /// The memory of the keys in `kvs`, read or not, and its maximum.
    memory_bytes: usize,
    memory_bytes_max: usize,
    /// The position of the first key that is not kept; `None` while all keys are.
    cut: Option<usize>,
    /// The keys so far that are not kept.
    rest: Weight,
}

/// What a walk reads: the state just before a revision.
struct Moment {
    before: Revision,
    /// The newest revision when the walk began, for the header of the answer.
    current: Rev,
    /// Taken by the first stride, if a second one is needed.
    hold: Option<Hold>,
    /// Whether the caller chose the moment, so that the walk must not choose another one.
    is_given: bool,
}

impl<'a> RangeWalk<'a> {
    /// A walk at the revision that the range asks for, which the first stride may refuse.
    pub(crate) fn new(range: &'a Range) -> RangeWalk<'a> {
        RangeWalk::of(Cow::Borrowed(range))
    }

    fn of(range: Cow<'a, Range>) -> RangeWalk<'a> {
        let is_in_order = range.sort.target == SortTarget::Key && range.sort.order != SortOrder::Descend;
        let is_ranked = !is_in_order && !range.count_only;
        let ranked = is_ranked.then(|| Ranked::new(range.sort.order == SortOrder::Descend, limit_of(&range)));
        RangeWalk {
            range,
            is_counted: true,
            moment: None,
            after: None,
            is_walked: false,
            count: 0,
            passed: 0,
            unranked: VecDeque::new(),
            ranked,
            kvs: Vec::new(),
            unread: VecDeque::new(),
            kept_bytes: 0,
            kept_bytes_max: usize::MAX,
            memory_bytes: 0,
            memory_bytes_max: usize::MAX,
            cut: None,
            rest: Weight::default(),
        }
    }

    /// Has a walk in the order of the keys keep no more than about so many bytes of the answer, but one key
    /// at least. [`RangeWalk::finish_part`] returns the rest of the answer.
    pub(crate) fn keeping(self, bytes_max: usize) -> RangeWalk<'a> {
        let kept_bytes_max = if self.ranked.is_some() { usize::MAX } else { bytes_max };
        RangeWalk { kept_bytes_max, ..self }
    }

    /// As [`RangeWalk::keeping`], of the memory that the answer takes, which is several times as much as the
    /// answer if its keys and values are short.
    pub(crate) fn keeping_in_memory(self, bytes_max: usize) -> RangeWalk<'a> {
        let memory_bytes_max = if self.ranked.is_some() { usize::MAX } else { bytes_max };
        RangeWalk { memory_bytes_max, ..self }
    }

    /// The memory of what the walk has found and keeps. The keys that the last stride has found are added when
    /// they are digested.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes + self.ranked.as_ref().map_or(0, Ranked::bytes)
    }

    /// How many records [`RangeWalk::digest`] has yet to read from the database.
    pub(crate) fn unread(&self) -> usize {
        self.unread.len() + self.unranked.len()
    }

    /// The same walk, with a request of its own.
    pub(crate) fn into_owned(self) -> RangeWalk<'static> {
        RangeWalk { range: Cow::Owned(self.range.into_owned()), ..self }
    }

    /// Whether there are keys that are not kept.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// A walk that ends when the limit is reached, for callers that know the number of keys already.
    /// The `count` of its result is not valid.
    pub(crate) fn uncounted(range: &'a Range) -> RangeWalk<'a> {
        RangeWalk { is_counted: false, ..RangeWalk::new(range) }
    }

    /// A walk over the state just before a revision, whatever revision the range asks for. The hold was taken
    /// when that state was readable.
    pub(crate) fn before(range: &'a Range, before: Revision, hold: Hold) -> RangeWalk<'a> {
        let moment = Moment { before, current: before.main, hold: Some(hold), is_given: true };
        RangeWalk { moment: Some(moment), ..RangeWalk::new(range) }
    }

    /// A walk over the next piece of what an earlier walk has not kept. [`Rest::took`] is to be called with what
    /// it finds.
    pub(crate) fn piece_of(rest: &Rest) -> RangeWalk<'static> {
        assert!(!rest.is_empty(), "there is another piece");
        let walk = RangeWalk::before(&rest.range, rest.before, rest.hold.clone());
        RangeWalk { is_counted: false, ..walk }.keeping(ANSWER_PIECE_BYTES).into_owned()
    }

    /// Visits the next keys, [`RANGE_STRIDE_KEYS`] at most. [`RangeWalk::digest`] is to be called after each
    /// stride.
    pub(crate) fn step(&mut self, store: &Store) -> Result<Step, RevError> {
        self.step_of(store, Knob::RangeStrideKeys.or(RANGE_STRIDE_KEYS))
    }

    pub(super) fn step_of(&mut self, store: &Store, keys_max: usize) -> Result<Step, RevError> {
        assert!(self.unranked.is_empty() && !self.is_walked, "every stride is digested before the next one");
        let before = self.pin(store)?;
        let passed_max = self.passed_max();
        let range = &self.range.range.clone();
        let after = self.after.take();
        let mut last = after.as_deref();
        let mut visited = 0;
        let mut may_count = true;
        for (key, changes) in store.index.range(range, after.as_deref()) {
            if self.passed == passed_max && !self.is_counted {
                break;
            }
            if self.passed == passed_max && std::mem::take(&mut may_count) {
                // The index usually can count the other keys without visiting them.
                if let Some(rest) = store.count_before(range, last, before) {
                    self.count += rest;
                    break;
                }
            }
            if let Some(live) = changes.before(before) {
                self.count += 1;
                if self.passed < passed_max && passes(&self.range, live) {
                    self.take(store, key, live);
                }
            }
            last = Some(key);
            visited += 1;
            if visited == keys_max {
                self.after = Some(key.into());
                self.hold(store);
                return Ok(Step::More);
            }
        }
        if self.kept_bytes_max < usize::MAX && self.passed > 1 {
            // For the rest that is left if these keys are too large to be kept.
            self.hold(store);
        }
        self.is_walked = true;
        Ok(Step::Done)
    }

    fn hold(&mut self, store: &Store) {
        let moment = self.moment.as_mut().expect("the stride has pinned the moment");
        moment.hold.get_or_insert_with(|| store.hold());
    }

    /// Reads and sorts what the strides have found, a bounded part of it. To be called without the store,
    /// until it returns [`Step::Done`].
    pub(crate) fn digest(&mut self) -> Result<Step, StorageError> {
        self.rank_some()?;
        if !self.unranked.is_empty() {
            return Ok(Step::More);
        }
        if self.ranked.is_some() && !self.is_walked {
            return Ok(Step::Done);
        }
        if !self.unrank_some() {
            return Ok(Step::More);
        }
        let mut unread = std::mem::take(&mut self.unread);
        let read = read_some(&mut unread, |position, kv| self.keep(position, kv));
        self.unread = unread;
        read?;
        Ok(if self.unread.is_empty() { Step::Done } else { Step::More })
    }

    /// The revision of the header, and the answer.
    pub(crate) fn finish(self) -> (Rev, RangeResult) {
        assert!(self.is_walked, "a walk is finished after its last stride");
        assert!(self.unread.is_empty() && self.ranked.is_none(), "a walk is finished after it was digested");
        assert!(self.cut.is_none(), "a walk that keeps a part only returns the rest too");
        let moment = self.moment.expect("the first stride has pinned the moment");
        let more = self.passed > limit_of(&self.range);
        (moment.current, RangeResult { kvs: self.kvs, more, count: self.count })
    }

    /// As [`RangeWalk::finish`], with the keys that were not kept. `more` and `count` are those of the whole
    /// answer.
    pub(crate) fn finish_part(mut self) -> (Rev, RangeResult, Option<Rest>) {
        let rest = self.cut.take().map(|cut| {
            let moment = self.moment.as_mut().expect("the first stride has pinned the moment");
            let hold = moment.hold.take().expect("a stride that visits several keys takes a hold");
            let last = self.kvs.last().expect("the first key is always kept");
            assert_eq!(self.kvs.len(), cut, "all keys before the rest are kept");
            let range = Range { range: self.range.range.after(&last.key), ..self.range.clone().into_owned() };
            Rest::new(range, moment.before, hold, self.rest)
        });
        let (rev, result) = self.finish();
        (rev, result, rest)
    }

    /// The moment to read, which the first stride chooses. Later strides check that it can still be read.
    fn pin(&mut self, store: &Store) -> Result<Revision, RevError> {
        match &self.moment {
            Some(moment) if store.is_readable(moment.before, moment.hold.as_ref()) => {
                return Ok(moment.before);
            }
            Some(Moment { before, is_given: true, .. }) => {
                let asked = Rev(before.main.0 - 1);
                return Err(RevError::Compacted { asked, compacted: store.rev_compacted });
            }
            // A snapshot from the leader has replaced the store. A read of the newest revision starts again
            // at the revision that is the newest now; `check_rev` may refuse any other read.
            Some(_) => self.restart(),
            None => {}
        }
        let rev = store.check_rev(self.range.rev, store.rev_current)?;
        let before = Revision::after(rev);
        let current = store.rev_current;
        self.moment = Some(Moment { before, current, hold: None, is_given: false });
        Ok(before)
    }

    fn restart(&mut self) {
        // The walk has no request for a moment that could be seen.
        let range = std::mem::replace(&mut self.range, Cow::Owned(Range::of(KeyRange::all())));
        let RangeWalk { is_counted, kept_bytes_max, memory_bytes_max, .. } = *self;
        *self = RangeWalk { is_counted, kept_bytes_max, memory_bytes_max, ..RangeWalk::of(range) };
    }

    /// Collects a key that passes the filters, if it can be among the first ones of the answer.
    fn take(&mut self, store: &Store, key: &[u8], live: Live) {
        let position = self.passed;
        self.passed += 1;
        let target = self.range.sort.target;
        let Some(ranked) = &mut self.ranked else {
            if position < limit_of(&self.range) {
                match look_up(&self.range, store, key, live) {
                    Candidate { kv, place: None } => self.keep(position, kv),
                    Candidate { kv, place: Some(place) } => {
                        if self.is_kept(position) {
                            self.push(kv);
                        }
                        self.unread.push_back((position, place));
                    }
                }
            }
            return;
        };
        let number = match target {
            SortTarget::Key => position as i64,
            SortTarget::Version => live.version,
            SortTarget::CreateRev => live.create_rev.0,
            SortTarget::ModRev => live.revision.main.0,
            SortTarget::Value => match look_up(&self.range, store, key, live) {
                Candidate { place: Some(place), .. } => return self.unranked.push_back((position, place)),
                candidate => {
                    let value = SortKey::Value(candidate.kv.value.clone());
                    return ranked.insert(value, position, || candidate);
                }
            },
        };
        ranked.insert(SortKey::Number(number), position, || look_up(&self.range, store, key, live));
    }

    /// Puts a key that was read at its position in the answer, or counts its bytes if it is not kept.
    fn keep(&mut self, position: usize, kv: KeyValue) {
        let weight = Weight::of(&kv);
        let has_room = self.kept_bytes + weight.bytes <= self.kept_bytes_max
            && self.memory_bytes + memory_of(&kv) <= self.memory_bytes_max;
        if position > 0 && !has_room && self.is_kept(position) {
            self.cut_at(position);
        }
        if !self.is_kept(position) {
            self.rest.add(weight);
            return;
        }
        self.kept_bytes += weight.bytes;
        match self.kvs.get_mut(position) {
            Some(place) => {
                self.memory_bytes += memory_of(&kv);
                self.memory_bytes -= memory_of(place);
                *place = kv;
            }
            None => {
                assert_eq!(position, self.kvs.len(), "keys are found in the order of the answer");
                self.push(kv);
            }
        }
    }

    fn push(&mut self, kv: KeyValue) {
        self.memory_bytes += memory_of(&kv);
        self.kvs.push(kv);
    }

    fn is_kept(&self, position: usize) -> bool {
        self.cut.is_none_or(|cut| position < cut)
    }

    /// Keeps no key from a position on.
    fn cut_at(&mut self, position: usize) {
        self.cut = Some(position);
        for dropped in self.kvs.drain(position.min(self.kvs.len())..) {
            self.memory_bytes -= memory_of(&dropped);
            // A key that is not read yet is counted when it is read.
            if !dropped.key.is_empty() {
                let weight = Weight::of(&dropped);
                self.kept_bytes -= weight.bytes;
                self.rest.add(weight);
            }
        }
    }

    /// Reads and ranks some of the keys that are sorted by value.
    fn rank_some(&mut self) -> Result<(), StorageError> {
        let Some(ranked) = &mut self.ranked else { return Ok(()) };
        read_some(&mut self.unranked, |position, kv| {
            ranked.insert(SortKey::Value(kv.value.clone()), position, || Candidate { kv, place: None });
        })
    }

    /// Moves some of the ranked keys into the answer. Returns whether all are there.
    fn unrank_some(&mut self) -> bool {
        let Some(ranked) = &mut self.ranked else { return true };
        let has_value = !self.range.keys_only;
        for _ in 0..RANGE_STRIDE_KEYS {
            let Some(Candidate { kv, place }) = ranked.pop_first() else {
                self.ranked = None;
                return true;
            };
            self.unread.extend(place.map(|place| (self.kvs.len(), place)));
            let kv = match has_value {
                true => kv,
                // The key is copied, because it shares the memory of its record, and so of the value.
                false => KeyValue { key: Bytes::copy_from_slice(&kv.key), value: Bytes::new(), ..kv },
            };
            self.memory_bytes += memory_of(&kv);
            self.kvs.push(kv);
        }
        false
    }

    /// How many keys to collect: one more than the limit, to find out whether there are more.
    fn passed_max(&self) -> usize {
        let range = &*self.range;
        let is_unfiltered = range.mod_rev == RevBounds::default() && range.create_rev == RevBounds::default();
        let is_in_order = range.sort.order == SortOrder::None || self.ranked.is_none();
        if range.count_only {
            0
        } else if is_in_order && (is_unfiltered || !self.is_counted) {
            limit_of(range).saturating_add(1)
        } else {
            usize::MAX
        }
    }
}

impl Store {
    /// Reads a whole range. Readers that share the store use a [`RangeWalk`] instead.
    #[cfg(test)]
    pub(crate) fn range(&self, range: &Range) -> Result<Result<(Rev, RangeResult), RevError>, StorageError> {
        let mut walk = RangeWalk::new(range);
        loop {
            let step = match walk.step(self) {
                Ok(step) => step,
                Err(refusal) => return Ok(Err(refusal)),
            };
            while walk.digest()? == Step::More {}
            if step == Step::Done {
                return Ok(Ok(walk.finish()));
            }
        }
    }

    /// The revision to read for a request that asks for `asked`, or why it cannot be read.
    fn check_rev(&self, asked: i64, current: Rev) -> Result<Rev, RevError> {
        let rev = if asked <= 0 { current } else { Rev(asked) };
        if rev > current {
            Err(RevError::Future { asked: rev, current })
        } else if rev < self.rev_compacted {
            Err(RevError::Compacted { asked: rev, compacted: self.rev_compacted })
        } else {
            Ok(rev)
        }
    }

    /// How many keys of a range after `after` existed just before a revision. The number is that of the keys
    /// that exist now, corrected by the changes since; `None` if there were too many changes, or not all of
    /// them are in memory.
    fn count_before(&self, range: &KeyRange, after: Option<&[u8]>, before: Revision) -> Option<i64> {
        if before.main < self.recent.first() {
            return None;
        }
        let mut changed = BTreeSet::new();
        for (visited, (revision, record)) in self.recent.changes(before).enumerate() {
            if visited == RANGE_STRIDE_KEYS {
                return None;
            }
            let key = record.parts().key;
            assert!(revision >= before, "changes are in order");
            if range.contains(key) && after.is_none_or(|after| after < key) {
                changed.insert(key);
            }
        }
        let mut count = self.index.count(range, after) as i64;
        for changes in changed.into_iter().filter_map(|key| self.index.get(key)) {
            count += i64::from(changes.before(before).is_some()) - i64::from(changes.newest().is_some());
        }
        assert!(count >= 0, "no more keys were created since than exist");
        Some(count)
    }
}

/// What the answer needs of a key, or the place of its record.
fn look_up(range: &Range, store: &Store, key: &[u8], live: Live) -> Candidate {
    let Live { revision, create_rev, version } = live;
    let known = KeyValue { create_rev, mod_rev: revision.main, version, ..KeyValue::default() };
    if range.keys_only && range.sort.target != SortTarget::Value {
        // As in etcd since 3.7: without the lease, because the record is not read.
        return Candidate { kv: KeyValue { key: Bytes::copy_from_slice(key), ..known }, place: None };
    }
    match store.locate(revision) {
        Located::Head(record) => Candidate { kv: record.key_value(), place: None },
        Located::Body(place) => Candidate { kv: known, place: Some(place) },
    }
}

/// Reads some of the records: at most [`READ_STRIDE_RECORDS`], and not many more bytes than
/// [`READ_STRIDE_BYTES`].
fn read_some(
    unread: &mut VecDeque<(usize, Place)>,
    mut take: impl FnMut(usize, KeyValue),
) -> Result<(), StorageError> {
    let mut some: Vec<_> = unread.drain(..unread.len().min(READ_STRIDE_RECORDS)).collect();
    // In the order of the disk, because neighbouring records share pages.
    some.sort_unstable_by_key(|(_, place)| Reverse(place.revision));
    let mut bytes = 0;
    while bytes < READ_STRIDE_BYTES
        && let Some((position, place)) = some.pop()
    {
        let kv = place.read()?;
        bytes += kv.key.len() + kv.value.len();
        take(position, kv);
    }
    some.into_iter().for_each(|left| unread.push_front(left));
    Ok(())
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
