//! Random histories. The store and a model, which is a list of all events, must give the same answers.
//!
//! Checkpoints, crashes, compactions and defragmentations happen at random times, also between the two
//! halves of a long operation. None of them may change an answer.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use prost::Message;

use super::scripts::{Bench, delete};
use crate::{
    limits::{COMPACTION_HASHES, COMPACTIONS_WAITING, HISTORY_BYTES_MAX},
    mvcc::{
        CompactionStep, HashWalk, History, Hold, KvHash, Range, RangeResult, RangeWalk, Rest, RevBounds,
        RevError, Size, Sort, SortOrder, SortTarget, Step, StoreCheckpoint,
        history::HistoryStride,
        rest::Weight,
        store::KeyMeta,
        write::{Committed, PutDone},
    },
    pb::{etcdserverpb::RangeResponse, mvccpb},
    storage::{self, Checkpoint, Record},
    types::{Event, EventKind, KeyRange, KeyValue, LeaseId, Rev, Revision, Whereabouts},
};

/// All changes that were ever made, including those that are compacted.
#[derive(Clone)]
struct Model {
    events: Vec<(Revision, Event)>,
    current: Rev,
    compacted: Rev,
}

#[derive(Clone, Debug)]
enum Op {
    Write(Vec<Change>),
    Compact(Pick),
    CompactStride {
        max: usize,
    },
    Capture,
    Commit,
    Crash,
    Defragment,
    /// Drops from memory every record that is in the database.
    Forget,
    Range(Range),
    /// As `Range`, over several operations.
    WalkBegin {
        range: Range,
        kept_bytes: usize,
    },
    WalkSteps(usize),
    WalkFinish,
    /// Reads some of what the last walk that finished did not keep.
    RestPiece,
    /// Reads what a write has seen on its way, long after.
    ReadSeen(Range),
    HistoryCapture {
        from: Pick,
        revs_max: usize,
    },
    HistoryLoad,
    Prev(Pick),
    HashBegin(Pick),
    HashSteps(usize),
    HashFinish,
}

#[derive(Clone, Debug)]
enum Change {
    Put { key: Bytes, value: Bytes, lease: LeaseId, want_prev: bool },
    Delete { range: KeyRange, want_prev: bool },
}

/// A revision from a little before the compacted one to a little after the current one.
#[derive(Clone, Copy, Debug)]
struct Pick(u8);

impl Model {
    fn new() -> Model {
        Model { events: Vec::new(), current: Rev::INITIAL, compacted: Rev::NEVER_COMPACTED }
    }

    fn pick(&self, Pick(number): Pick) -> Rev {
        let oldest = self.compacted.0.max(1) - 2;
        Rev(oldest + i64::from(number) % (self.current.0 - oldest + 3))
    }

    fn at(&self, rev: Rev) -> BTreeMap<Bytes, (Revision, KeyValue)> {
        self.before(Revision::after(rev))
    }

    fn before(&self, before: Revision) -> BTreeMap<Bytes, (Revision, KeyValue)> {
        let mut live = BTreeMap::new();
        for (revision, event) in self.events.iter().filter(|(revision, _)| *revision < before) {
            match event.kind {
                EventKind::Put => live.insert(event.kv.key.clone(), (*revision, event.kv.clone())),
                EventKind::Delete => live.remove(&event.kv.key),
            };
        }
        live
    }

    fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.at(self.current.next()).remove(key).map(|(_, kv)| kv)
    }

    /// Why a revision cannot be read, if it cannot.
    fn refusal(&self, asked: i64) -> Option<RevError> {
        let asked = if asked <= 0 { self.current } else { Rev(asked) };
        if asked > self.current {
            Some(RevError::Future { asked, current: self.current })
        } else if asked < self.compacted {
            Some(RevError::Compacted { asked, compacted: self.compacted })
        } else {
            None
        }
    }

    fn range(&self, range: &Range, rev: Rev) -> RangeResult {
        self.range_before(range, Revision::after(rev))
    }

    fn range_before(&self, range: &Range, before: Revision) -> RangeResult {
        let live = self.before(before).into_values().map(|(_, kv)| kv);
        let mut kvs: Vec<KeyValue> = live.filter(|kv| range.range.contains(&kv.key)).collect();
        let count = kvs.len() as i64;
        if range.count_only {
            return RangeResult { kvs: vec![], more: false, count };
        }
        let Sort { target, order } = range.sort;
        let limit = if range.limit <= 0 { usize::MAX } else { range.limit as usize };
        let is_plain = range.mod_rev == RevBounds::default() && range.create_rev == RevBounds::default();
        if order == SortOrder::None && is_plain {
            kvs.truncate(limit.saturating_add(1));
        }
        let RevBounds { min, max } = range.mod_rev;
        kvs.retain(|kv| (max == 0 || kv.mod_rev.0 <= max) && (min == 0 || kv.mod_rev.0 >= min));
        let RevBounds { min, max } = range.create_rev;
        kvs.retain(|kv| (max == 0 || kv.create_rev.0 <= max) && (min == 0 || kv.create_rev.0 >= min));
        // Reversed twice, so that equals stay in the order of the keys.
        if order == SortOrder::Descend {
            kvs.reverse();
        }
        match target {
            SortTarget::Key => kvs.sort_by_key(|kv| kv.key.clone()),
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::CreateRev => kvs.sort_by_key(|kv| kv.create_rev),
            SortTarget::ModRev => kvs.sort_by_key(|kv| kv.mod_rev),
            SortTarget::Value => kvs.sort_by_key(|kv| kv.value.clone()),
        }
        if order == SortOrder::Descend {
            kvs.reverse();
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if range.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if target != SortTarget::Value {
                    kv.lease = LeaseId::NONE;
                }
            }
        }
        RangeResult { kvs, more, count }
    }

    /// The bytes that are hashed, straight from the definition.
    fn hash(&self, rev: Rev, compacted: Rev) -> u32 {
        self.hash_keeping(&self.live_at(rev), rev, compacted)
    }

    /// The hash that the compaction from `prev` to `rev` computes, which keeps tombstones of exactly `rev`.
    fn compaction_hash(&self, prev: Rev, rev: Rev) -> u32 {
        let mut keep = self.live_at(rev);
        let newest = self.events.iter().filter(|(revision, _)| revision.main == rev);
        let tombstones = newest.filter(|(_, event)| event.kind == EventKind::Delete);
        let is_last = |revision: &Revision, key: &Bytes| {
            let mut later = self.events.iter().filter(|(other, _)| other > revision && other.main == rev);
            !later.any(|(_, event)| event.kv.key == *key)
        };
        let tombstones = tombstones.filter(|(revision, event)| is_last(revision, &event.kv.key));
        keep.extend(tombstones.map(|(revision, _)| *revision));
        self.hash_keeping(&keep, rev, prev)
    }

    fn live_at(&self, rev: Rev) -> Vec<Revision> {
        self.at(rev).into_values().map(|(revision, _)| revision).collect()
    }

    fn hash_keeping(&self, keep: &[Revision], rev: Rev, compacted: Rev) -> u32 {
        let left = self.live_at(compacted);
        let mut bytes = b"key".to_vec();
        for (revision, event) in self.events.iter().filter(|(revision, _)| revision.main <= rev) {
            let is_tombstone = event.kind == EventKind::Delete;
            if revision.main <= compacted {
                let kept = if keep.is_empty() { &left } else { keep };
                if !kept.contains(revision) {
                    continue;
                }
            }
            bytes.extend(revision.main.0.to_be_bytes());
            bytes.push(b'_');
            bytes.extend(revision.sub.to_be_bytes());
            if is_tombstone {
                bytes.push(b't');
                bytes.extend_from_slice(Record::tombstone(&event.kv.key).bytes());
            } else {
                bytes.extend_from_slice(Record::put(&event.kv).bytes());
            }
        }
        crc32c::crc32c(&bytes)
    }

    /// One list of events for each revision of `from..until`. At the compacted revision only the last event
    /// of each key is left.
    fn history(&self, from: Rev, until: Rev, compacted: Rev) -> Vec<(Rev, Vec<Event>)> {
        let mut revs: Vec<(Rev, Vec<Event>)> = Vec::new();
        for (revision, event) in &self.events {
            if revision.main < from || revision.main >= until {
                continue;
            }
            let event = Event { prev_kv: None, ..event.clone() };
            match revs.last_mut() {
                Some((rev, events)) if *rev == revision.main => events.push(event),
                _ => revs.push((revision.main, vec![event])),
            }
        }
        keep_last_at(compacted, revs)
    }
}

/// Keeps the last event of each key of one revision.
fn keep_last_at(compacted: Rev, mut revs: Vec<(Rev, Vec<Event>)>) -> Vec<(Rev, Vec<Event>)> {
    for (_, events) in revs.iter_mut().filter(|(rev, _)| *rev == compacted) {
        let mut keys: Vec<Bytes> = events.iter().map(|event| event.kv.key.clone()).collect();
        events.retain(|_| {
            let key = keys.remove(0);
            !keys.contains(&key)
        });
    }
    revs
}

/// Runs operations on the store and on the model, and compares.
struct Trial<'a> {
    bench: Bench,
    model: Model,
    /// The state of the model that a crash restores.
    durable: Model,
    captured: Option<(StoreCheckpoint, Model)>,
    walk: Option<(&'a Range, RangeWalk<'a>)>,
    walk_is_done: bool,
    /// The keys that a walk did not keep, and what they are.
    rest: Option<(Rest, Vec<KeyValue>)>,
    /// Moments that writes have seen, and how to read them.
    seen: VecDeque<(Revision, Hold)>,
    history: Option<(Rev, Rev, HistoryStride)>,
    hash: Option<(Rev, HashWalk)>,
    hash_is_done: bool,
    compactions: Compactions,
}

/// The hashes that the store must remember of the compactions since it was opened.
#[derive(Default)]
struct Compactions {
    waiting: VecDeque<Span>,
    begun: Option<Span>,
    /// Revision, the one compacted to before it, and the hash.
    remembered: Vec<(Rev, Rev, u32)>,
}

struct Span {
    prev: Rev,
    rev: Rev,
    is_hashed: bool,
}

impl<'a> Trial<'a> {
    fn new() -> Trial<'a> {
        Trial {
            bench: Bench::new(),
            model: Model::new(),
            durable: Model::new(),
            captured: None,
            walk: None,
            walk_is_done: false,
            rest: None,
            seen: VecDeque::new(),
            history: None,
            hash: None,
            hash_is_done: false,
            compactions: Compactions::default(),
        }
    }

    fn run(mut self, ops: &'a [Op]) {
        for op in ops {
            self = self.apply(op);
            self.check_keys();
        }
        let mut trial = self.apply(&Op::WalkFinish).apply(&Op::HistoryLoad).apply(&Op::HashFinish);
        while trial.rest.is_some() {
            trial.rest_piece();
        }
        while !trial.seen.is_empty() {
            trial.read_seen(&Range::of(KeyRange::all()));
        }
        trial.check_all();
    }

    fn apply(mut self, op: &'a Op) -> Trial<'a> {
        let Trial { bench, model, captured, history, .. } = &mut self;
        let store = &mut bench.store;
        match op {
            Op::Write(changes) => self.write(changes),
            Op::Compact(pick) => {
                let rev = model.pick(*pick);
                let expected = if rev <= model.compacted {
                    Err(RevError::Compacted { asked: rev, compacted: model.compacted })
                } else if rev > model.current {
                    Err(RevError::Future { asked: rev, current: model.current })
                } else {
                    Ok(())
                };
                assert_eq!(store.compact(rev), expected);
                if expected.is_ok() {
                    let prev = std::mem::replace(&mut model.compacted, rev);
                    let waiting = &mut self.compactions.waiting;
                    let is_hashed = waiting.len() < COMPACTIONS_WAITING;
                    let prev = if is_hashed { prev } else { waiting.pop_back().expect("many wait").prev };
                    waiting.push_back(Span { prev, rev, is_hashed: is_hashed && rev > Rev(0) });
                }
            }
            Op::CompactStride { max } => self.compaction_step(*max),
            Op::Capture => {
                captured.get_or_insert_with(|| (store.capture(), model.clone()));
            }
            Op::Commit => self.commit(),
            Op::Crash => {
                (self.captured, self.walk, self.history, self.hash) = (None, None, None, None);
                self.rest = None;
                self.seen.clear();
                self.bench = self.bench.reopen();
                self.model = self.durable.clone();
                // A restart loses the hashes, and a compaction that it resumes gets none.
                let (prev, rev) = (self.bench.store.rev_compact_finished(), self.model.compacted);
                self.compactions = Compactions::default();
                if prev < rev {
                    self.compactions.waiting.push_back(Span { prev, rev, is_hashed: false });
                }
            }
            Op::Defragment => {
                bench.database.defragment(|all| Box::new(all)).expect("a new file");
                drop(bench.store.defragmented(bench.database.reader().expect("a reader")));
                assert_eq!(bench.store.size().total, bench.store.size().in_use);
            }
            Op::Forget => {
                let seam = store.rev_checkpointed;
                store.recent.trim(seam, 0, usize::MAX);
            }
            Op::Range(range) => {
                let answer = store.range(range).expect("a sound database");
                match model.refusal(range.rev) {
                    Some(refusal) => assert_eq!(answer, Err(refusal)),
                    None => {
                        let rev = if range.rev <= 0 { model.current } else { Rev(range.rev) };
                        assert_eq!(answer, Ok((model.current, model.range(range, rev))));
                    }
                }
            }
            Op::WalkBegin { range, kept_bytes } => {
                let walk = RangeWalk::new(range).keeping(*kept_bytes);
                (self.walk, self.walk_is_done) = (Some((range, walk)), false);
            }
            Op::WalkSteps(steps) => {
                for _ in 0..*steps {
                    self.walk_step();
                }
            }
            Op::WalkFinish => {
                while self.walk.is_some() && !self.walk_is_done {
                    self.walk_step();
                }
                if let Some((range, mut walk)) = self.walk.take() {
                    while walk.digest().expect("a sound database") == Step::More {}
                    let (current, result, rest) = walk.finish_part();
                    let rev = if range.rev <= 0 { current } else { Rev(range.rev) };
                    let whole = self.model.range(range, rev);
                    assert_eq!((result.count, result.more), (whole.count, whole.more));
                    let (kept, behind) = whole.kvs.split_at(result.kvs.len());
                    assert_eq!(result.kvs, kept);
                    assert_eq!(rest.is_some(), !behind.is_empty());
                    if let Some(rest) = rest {
                        let bytes = behind.iter().map(message_field_len).sum();
                        assert_eq!(rest.weight(), Weight { keys: behind.len(), bytes });
                        self.rest = Some((rest, behind.to_vec()));
                    }
                }
            }
            Op::RestPiece => self.rest_piece(),
            Op::ReadSeen(range) => self.read_seen(range),
            Op::HistoryCapture { from, revs_max } => {
                let from = model.pick(*from);
                match store.history(from, *revs_max, HISTORY_BYTES_MAX) {
                    Ok(stride) => {
                        assert!(from >= model.compacted);
                        *history = Some((from, model.compacted, stride));
                    }
                    Err(refusal) => {
                        assert_eq!(refusal, RevError::Compacted { asked: from, compacted: model.compacted });
                        assert!(from < model.compacted);
                    }
                }
            }
            Op::HistoryLoad => {
                if let Some((from, compacted, stride)) = history.take() {
                    let History { revs, next, current } = stride.load().expect("a sound database");
                    assert!(next > from || from > current, "it makes progress");
                    let expected = model.history(from, next, compacted);
                    assert_eq!(revs, expected);
                }
            }
            Op::Prev(pick) => {
                let rev = model.pick(*pick);
                let events = model.events.iter().filter(|(revision, _)| revision.main == rev);
                let events: Vec<&Event> = events.map(|(_, event)| event).collect();
                let before = model.at(Rev(rev.0 - 1));
                let expected = events.iter().map(|event| {
                    let is_creation = event.kind == EventKind::Put && event.kv.version == 1;
                    let is_readable = Rev(rev.0 - 1) >= model.compacted && !is_creation;
                    before.get(&event.kv.key).filter(|_| is_readable).map(|(_, kv)| kv.clone())
                });
                let found = store
                    .locate_prev(&events, store.rev_compacted())
                    .load(usize::MAX)
                    .expect("a sound database");
                assert_eq!(found, expected.collect::<Vec<_>>());
            }
            Op::HashBegin(pick) => {
                let rev = model.pick(*pick);
                (self.hash, self.hash_is_done) = (Some((rev, HashWalk::new(rev.0))), false);
            }
            Op::HashSteps(steps) => {
                for _ in 0..*steps {
                    self.hash_step();
                }
            }
            Op::HashFinish => {
                while self.hash.is_some() && !self.hash_is_done {
                    self.hash_step();
                }
                if let Some((_, walk)) = self.hash.take() {
                    let hash = walk.finish().expect("a sound database");
                    self.check_hash(hash);
                }
            }
        }
        self
    }

    fn write(&mut self, changes: &[Change]) {
        let Trial { bench, model, seen, .. } = self;
        let begun = model.current;
        let store = &mut bench.store;
        let mut write = store.begin();
        let mut moments = vec![write.now()];
        let mut expected: Vec<Event> = Vec::new();
        // Events have the previous pairs that are in memory.
        let head = store.recent.first();
        for change in changes {
            assert_eq!(write.rev(), if expected.is_empty() { begun } else { begun.next() });
            match change {
                Change::Put { key, value, lease, want_prev } => {
                    let prev = model.get(key);
                    let done = write.put(
                        store,
                        key.clone(),
                        value.clone(),
                        Whereabouts::default(),
                        *lease,
                        *want_prev,
                    );
                    let prev_kv = prev.clone().filter(|kv| *want_prev && kv.mod_rev >= head);
                    let prev_lease = prev.as_ref().map(|kv| kv.lease).filter(|lease| lease.is_some());
                    assert_eq!(done, PutDone { prev_lease, existed: prev.is_some() });
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_rev: prev.as_ref().map_or(begun.next(), |kv| kv.create_rev),
                        mod_rev: begun.next(),
                        version: prev.map_or(1, |kv| kv.version + 1),
                        lease: *lease,
                    };
                    expected.push(Event { kind: EventKind::Put, kv, prev_kv });
                    model.push(begun.next(), &expected[expected.len() - 1..]);
                }
                Change::Delete { range, want_prev } => {
                    let live = model.at(begun.next()).into_values().map(|(_, kv)| kv);
                    let live: Vec<KeyValue> = live.filter(|kv| range.contains(&kv.key)).collect();
                    let done = delete(store, &mut write, range, *want_prev);
                    let first = expected.len();
                    for (kv, deleted) in live.iter().zip(&done) {
                        let prev_kv = Some(kv.clone()).filter(|kv| *want_prev && kv.mod_rev >= head);
                        let key = kv.key.clone();
                        assert_eq!(*deleted, (key.clone(), kv.lease));
                        let kv = KeyValue { key, mod_rev: begun.next(), ..KeyValue::default() };
                        expected.push(Event { kind: EventKind::Delete, kv, prev_kv });
                    }
                    assert_eq!(live.len(), done.len());
                    model.push(begun.next(), &expected[first..]);
                }
            }
            moments.push(write.now());
            let all = Range::of(KeyRange::all());
            let before = store.range(&all).expect("a sound database").expect("the newest revision");
            assert_eq!(before, (begun, model.range(&all, begun)), "readers see the revision before it");
        }
        let Committed { rev, events } = write.commit(store);
        seen.extend(moments.into_iter().map(|before| (before, store.hold())));
        assert!(events.iter().eq(&expected), "{events:?} instead of {expected:?}");
        if !expected.is_empty() {
            model.current = begun.next();
        }
        assert_eq!(rev, model.current);
    }

    fn commit(&mut self) {
        let Some((captured, model)) = self.captured.take() else { return };
        let StoreCheckpoint { first, removed, cells, rev, more: _ } = captured;
        // In strides, and after what was written since.
        let mut records = Vec::new();
        let mut next = Revision { main: first, sub: 0 };
        while let some @ [.., (last, _)] = &self.bench.store.captured(next, 2)[..] {
            next = Revision { sub: last.sub + 1, ..*last };
            records.extend_from_slice(some);
        }
        let checkpoint = Checkpoint { records, removed, cells };
        let removed_bytes = self.bench.database.commit(&checkpoint).expect("a commit");
        let body = self.bench.database.reader().expect("a reader");
        drop(self.bench.store.checkpointed(rev, removed_bytes, body));
        self.bench.store.trim(1);
        self.durable = model;
        self.check_size();
    }

    fn walk_step(&mut self) {
        let store = &self.bench.store;
        let Some((range, walk)) = self.walk.as_mut().filter(|_| !self.walk_is_done) else { return };
        while walk.digest().expect("a sound database") == Step::More {}
        match walk.step_of(store, 2) {
            Ok(step) => self.walk_is_done = step == Step::Done,
            Err(refusal) => {
                assert_eq!(Some(refusal), self.model.refusal(range.rev));
                self.walk = None;
            }
        }
    }

    fn rest_piece(&mut self) {
        let Some((mut rest, mut expected)) = self.rest.take() else { return };
        let mut walk = RangeWalk::piece_of(&rest);
        while walk.step_of(&self.bench.store, 2).expect("a hold") == Step::More {
            while walk.digest().expect("a sound database") == Step::More {}
        }
        while walk.digest().expect("a sound database") == Step::More {}
        let (_, piece, _) = walk.finish_part();
        let behind = expected.split_off(piece.kvs.len());
        assert_eq!(piece.kvs, expected);
        rest.took(&piece.kvs);
        assert_eq!(rest.is_empty(), behind.is_empty());
        self.rest = (!rest.is_empty()).then_some((rest, behind));
    }

    fn read_seen(&mut self, range: &Range) {
        let Some((before, hold)) = self.seen.pop_front() else { return };
        let mut walk = RangeWalk::before(range, before, hold);
        while walk.step_of(&self.bench.store, 2).expect("a hold") == Step::More {
            while walk.digest().expect("a sound database") == Step::More {}
        }
        while walk.digest().expect("a sound database") == Step::More {}
        assert_eq!(walk.finish().1, self.model.range_before(range, before), "before {before}");
    }

    fn compaction_step(&mut self, max: usize) {
        let Compactions { waiting, begun, remembered } = &mut self.compactions;
        let span = begun.take().or_else(|| waiting.pop_front());
        match (self.bench.compaction_step(max), span) {
            (CompactionStep::Idle, None) => {}
            (CompactionStep::AwaitsReaders, Some(span)) => {
                assert!(!self.seen.is_empty() || self.walk.is_some(), "it waits for somebody");
                self.compactions.waiting.push_front(span);
            }
            (CompactionStep::More | CompactionStep::AwaitsCheckpoint, Some(span)) => *begun = Some(span),
            (CompactionStep::Finished(rev), Some(span)) => {
                assert_eq!(rev, span.rev);
                if span.is_hashed {
                    let hash = self.model.compaction_hash(span.prev, rev);
                    remembered.push((rev, span.prev, hash));
                    remembered.drain(..remembered.len().saturating_sub(COMPACTION_HASHES));
                }
            }
            (step, span) => panic!("{step:?} with {} compaction begun", usize::from(span.is_some())),
        }
    }

    fn check_hash(&self, hash: KvHash) {
        let remembered = self.compactions.remembered.iter();
        let mut remembered =
            remembered.filter(|(rev, prev, _)| (*rev, *prev) == (hash.rev_hashed, hash.rev_compacted));
        let expected = match remembered.next() {
            Some((_, _, hash)) => *hash,
            None => self.model.hash(hash.rev_hashed, hash.rev_compacted),
        };
        assert_eq!(hash.hash, expected, "at {}", hash.rev_hashed);
    }

    fn hash_step(&mut self) {
        let Some((rev, walk)) = self.hash.as_mut().filter(|_| !self.hash_is_done) else { return };
        let step = walk.step_of(&self.bench.store, 2);
        walk.settle();
        match step {
            Ok(step) => self.hash_is_done = step == Step::Done,
            Err(refusal) => {
                assert_eq!(Some(refusal), self.model.refusal(rev.0));
                self.hash = None;
            }
        }
    }

    /// The counted size must equal the size of the records in the file and in memory.
    fn check_size(&self) {
        let store = &self.bench.store;
        let body = store.body.records(Revision::default()).expect("a scan");
        let body = body.map(|item| storage::footprint(item.expect("a sound record").1.bytes().len()));
        let head = store.recent.changes(Revision::after(store.rev_checkpointed));
        let head = head.map(|(_, record)| storage::footprint(record.bytes().len()));
        assert_eq!(store.size().in_use, Size::EMPTY.in_use + body.chain(head).sum::<u64>() as i64);
    }

    fn check_keys(&self) {
        let Trial { bench, model, .. } = self;
        assert_eq!(
            (bench.store.rev_current(), bench.store.rev_compacted()),
            (model.current, model.compacted)
        );
        let live = model.at(model.current);
        let meta = |kv: &KeyValue| KeyMeta {
            create_rev: kv.create_rev,
            mod_rev: kv.mod_rev,
            version: kv.version,
            lease: kv.lease,
        };
        let expected: Vec<_> = live.iter().map(|(key, (_, kv))| (key.as_ref(), meta(kv))).collect();
        assert_eq!(bench.store.lookup_range(&KeyRange::all()).collect::<Vec<_>>(), expected);
        for key in KEYS {
            let expected = live.get(key.as_bytes()).map(|(_, kv)| kv.clone());
            assert_eq!(bench.store.get(key.as_bytes()).expect("a sound database"), expected);
        }
    }

    /// Reads every readable revision, and reads them again after all compacted records were removed from
    /// the database.
    fn check_all(mut self) {
        for _ in 0..2 {
            for rev in self.model.compacted.0.max(1)..=self.model.current.0 {
                let all = Range { rev, ..Range::of(KeyRange::all()) };
                let expected = self.model.range(&all, Rev(rev));
                let found = self.bench.store.range(&all).expect("a sound database");
                assert_eq!(found, Ok((self.model.current, expected)));
                let hash = self.hash_at(rev);
                self.check_hash(hash);
            }
            for &(rev, rev_compacted, hash) in &self.compactions.remembered {
                let rev_current = self.model.current;
                assert_eq!(self.hash_at(rev.0), KvHash { hash, rev_compacted, rev_hashed: rev, rev_current });
            }
            self.commit();
            self.bench.checkpoint();
            assert_eq!(self.bench.store.rev_compact_finished(), self.model.compacted);
            self.check_size();
            self.bench = self.bench.reopen();
            self.compactions = Compactions::default();
        }
    }

    fn hash_at(&self, rev: i64) -> KvHash {
        let mut walk = HashWalk::new(rev);
        while walk.step(&self.bench.store) == Ok(Step::More) {
            walk.settle();
        }
        walk.finish().expect("a sound database")
    }
}

impl Model {
    fn push(&mut self, main: Rev, events: &[Event]) {
        let sub = self.events.iter().filter(|(revision, _)| revision.main == main).count() as i64;
        let revisions = (sub..).map(|sub| Revision { main, sub });
        self.events.extend(revisions.zip(events.iter().cloned()));
    }
}

const KEYS: [&str; 6] = ["a", "a\0", "ab", "b", "ba", "c"];

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&KEYS[..]).prop_map(Bytes::from)
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        4 => key().prop_map(KeyRange::Point),
        3 => (key(), key()).prop_map(|(start, end)| KeyRange::Span(start, end)),
        2 => key().prop_map(KeyRange::From),
        2 => Just(KeyRange::all()),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let value = prop_oneof![8 => vec(any::<u8>(), 0..4), 1 => Just(vec![7; 5000])].prop_map(Bytes::from);
    let lease = prop_oneof![2 => Just(LeaseId::NONE), 1 => (-2_i64..3).prop_map(LeaseId)];
    prop_oneof![
        3 => (key(), value, lease, any::<bool>())
            .prop_map(|(key, value, lease, want_prev)| Change::Put { key, value, lease, want_prev }),
        1 => (key_range(), any::<bool>()).prop_map(|(range, want_prev)| Change::Delete { range, want_prev }),
    ]
}

fn range() -> impl Strategy<Value = Range> {
    let order = prop::sample::select(&[SortOrder::None, SortOrder::Ascend, SortOrder::Descend][..]);
    let target = prop::sample::select(
        &[SortTarget::Key, SortTarget::Version, SortTarget::CreateRev, SortTarget::ModRev, SortTarget::Value]
            [..],
    );
    let sort = (target, order).prop_map(|(target, order)| Sort { target, order });
    let bound = || prop_oneof![3 => Just(0), 1 => -1_i64..30];
    let bounds = move || (bound(), bound()).prop_map(|(min, max)| RevBounds { min, max });
    let bounds = move || prop_oneof![2 => Just(RevBounds::default()), 1 => bounds()];
    let rev = prop_oneof![2 => Just(0), 3 => -1_i64..30];
    (key_range(), rev, -1_i64..5, sort, bounds(), bounds(), any::<bool>(), prop::bool::weighted(0.1))
        .prop_map(|(range, rev, limit, sort, mod_rev, create_rev, keys_only, count_only)| Range {
            range,
            rev,
            limit,
            sort,
            mod_rev,
            create_rev,
            keys_only,
            count_only,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let pick = || any::<u8>().prop_map(Pick);
    prop_oneof![
        12 => vec(change(), 0..4).prop_map(Op::Write),
        2 => pick().prop_map(Op::Compact),
        6 => (1_usize..4).prop_map(|max| Op::CompactStride { max }),
        3 => Just(Op::Capture),
        3 => Just(Op::Commit),
        1 => Just(Op::Crash),
        1 => Just(Op::Defragment),
        2 => Just(Op::Forget),
        6 => range().prop_map(Op::Range),
        2 => (range(), prop_oneof![Just(usize::MAX), 0_usize..100])
            .prop_map(|(range, kept_bytes)| Op::WalkBegin { range, kept_bytes }),
        4 => Just(Op::RestPiece),
        3 => (1_usize..3).prop_map(Op::WalkSteps),
        2 => Just(Op::WalkFinish),
        12 => range().prop_map(Op::ReadSeen),
        3 => (pick(), 1_usize..4).prop_map(|(from, revs_max)| Op::HistoryCapture { from, revs_max }),
        2 => Just(Op::HistoryLoad),
        2 => pick().prop_map(Op::Prev),
        2 => pick().prop_map(Op::HashBegin),
        2 => (1_usize..3).prop_map(Op::HashSteps),
        2 => Just(Op::HashFinish),
    ]
}

/// The bytes of a key-value as a field of an answer.
fn message_field_len(kv: &KeyValue) -> usize {
    let kv = mvccpb::KeyValue {
        key: kv.key.clone(),
        create_revision: kv.create_rev.0,
        mod_revision: kv.mod_rev.0,
        version: kv.version,
        value: kv.value.clone(),
        lease: kv.lease.0,
    };
    let message = RangeResponse { kvs: vec![kv], ..RangeResponse::default() };
    message.encoded_len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_store_is_its_history(ops in vec(op(), 1..120)) {
        Trial::new().run(&ops);
    }
}
