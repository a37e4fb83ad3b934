//! Scripts of requests, and the state of the store after them.
//!
//! `put a 1`, `del a` and `del a..c` are requests of one change; `{ put a 1, del b }` is one
//! request of several. `compact 3` compacts at once, index and all; `checkpoint`, `reopen` and
//! `defragment` do what they say. An expectation lists the generations of each key, what is in the
//! database, and what is in memory only.

use std::{fmt::Write as _, sync::Arc};

use bytes::Bytes;
use expect_test::{Expect, expect};
use tempfile::TempDir;

use crate::{
    limits::{CAPTURE_STRIDE_RECORDS, CHECKPOINT_REMOVALS_MAX, COMPACTION_HASHES, HISTORY_BYTES_MAX},
    mvcc::{
        CompactionStep, Deletion, HashWalk, History, KvHash, Range, RangeResult, RangeWalk, RevBounds,
        RevError, Size, Sort, SortOrder, SortTarget, Step, Store, StoreCheckpoint, Write, store::KeyMeta,
        write::PutDone,
    },
    storage::{Checkpoint, Database, Record, StorageError},
    types::{Event, EventKind, KeyRange, KeyValue, LeaseId, Rev, Revision, Whereabouts},
};

/// A store and the database under it.
pub(super) struct Bench {
    pub(super) store: Store,
    pub(super) database: Arc<Database>,
    pub(super) directory: TempDir,
}

impl Bench {
    pub(super) fn new() -> Bench {
        let directory = tempfile::tempdir().expect("a directory");
        let (database, store) = Bench::open(&directory);
        Bench { store, database, directory }
    }

    fn open(directory: &TempDir) -> (Arc<Database>, Store) {
        let database = Database::at(&directory.path().join("db"), 1 << 20).expect("a database");
        let database = Arc::new(database);
        let store = Store::open(Arc::clone(&database), |changes| changes).expect("a sound database");
        (database, store)
    }

    /// Opens the store again, as after a crash: changes that were not checkpointed are lost.
    pub(super) fn reopen(self) -> Bench {
        let Bench { store, database, directory } = self;
        drop((store, database));
        let (database, store) = Bench::open(&directory);
        Bench { store, database, directory }
    }

    /// Stores all changes, and removes all compacted records, in as many checkpoints as it takes.
    pub(super) fn checkpoint(&mut self) {
        self.checkpoint_once();
        loop {
            match self.compaction_step(usize::MAX) {
                CompactionStep::Idle => break,
                CompactionStep::AwaitsCheckpoint => drop(self.checkpoint_once()),
                CompactionStep::AwaitsReaders => break,
                CompactionStep::More | CompactionStep::Read(_) | CompactionStep::Finished(_) => {}
            }
        }
        while self.checkpoint_once() {}
    }

    /// True if there is more.
    pub(super) fn checkpoint_once(&mut self) -> bool {
        let StoreCheckpoint { first, removed, cells, rev, more } = self.store.capture();
        let records = self.store.captured(Revision { main: first, sub: 0 }, usize::MAX);
        let checkpoint = Checkpoint { records, removed, cells };
        let removed_bytes = self.database.commit(&checkpoint).expect("a commit");
        let body = self.database.reader().expect("a reader");
        drop(self.store.checkpointed(rev, removed_bytes, body));
        self.store.trim(usize::MAX);
        more
    }

    /// One stride of the compaction, over the index or over the disk.
    pub(super) fn compaction_step(&mut self, max: usize) -> CompactionStep {
        match self.store.compaction_stride(max) {
            CompactionStep::Read(stride) => {
                let judged = self.store.judge(stride.load().expect("a sound database"));
                self.store.judged(judged)
            }
            step => step,
        }
    }

    /// Does the work of the compactions as far as possible without a checkpoint.
    pub(super) fn compact_index(&mut self, max: usize) {
        while matches!(self.compaction_step(max), CompactionStep::More | CompactionStep::Finished(_)) {}
    }

    fn run(mut self, script: &str) -> Bench {
        for step in script.split(';').map(str::trim).filter(|step| !step.is_empty()) {
            let words: Vec<&str> = step.split_whitespace().collect();
            match words[..] {
                ["compact", rev] => {
                    let rev = Rev(rev.parse().expect("a revision"));
                    self.store.compact(rev).expect("a revision to compact to");
                    self.compact_index(1);
                }
                ["checkpoint"] => self.checkpoint(),
                ["reopen"] => self = self.reopen(),
                ["defragment"] => {
                    self.database.defragment(|all| Box::new(all)).expect("a new file");
                    drop(self.store.defragmented(self.database.reader().expect("a reader")));
                }
                _ => {
                    let mut write = self.store.begin();
                    for change in step.trim_matches(['{', '}']).split(',') {
                        apply(&mut self.store, &mut write, change.trim());
                    }
                    write.commit(&mut self.store);
                }
            }
        }
        self
    }
}

fn apply(store: &mut Store, write: &mut Write, change: &str) {
    let words: Vec<&str> = change.split_whitespace().collect();
    match words[..] {
        ["put", key, value] => {
            write.put(store, bytes(key), bytes(value), Whereabouts::default(), LeaseId::NONE, false);
        }
        ["put", key, value, lease] => {
            let lease = LeaseId(lease.parse().expect("a lease"));
            write.put(store, bytes(key), bytes(value), Whereabouts::default(), lease, false);
        }
        ["del", keys] => drop(delete(store, write, &range(keys), false)),
        _ => panic!("no such change: {change}"),
    }
}

/// Deletes a range in strides of one key. Returns each key with its lease.
pub(super) fn delete(
    store: &mut Store,
    write: &mut Write,
    range: &KeyRange,
    want_prev: bool,
) -> Vec<(Bytes, LeaseId)> {
    let mut deletion = Deletion::default();
    let mut shown = Vec::new();
    loop {
        let show = |key: &[u8], lease| shown.push((Bytes::copy_from_slice(key), lease));
        let step = write.delete_some(store, range, &mut deletion, &mut 1, want_prev, show);
        if step == Step::Done {
            assert_eq!(deletion.deleted, shown.len() as i64);
            return shown;
        }
    }
}

/// `a`, `a..c` or `a..`
fn range(text: &str) -> KeyRange {
    match text.split_once("..") {
        None => KeyRange::Point(bytes(text)),
        Some((start, "")) => KeyRange::From(bytes(start)),
        Some((start, end)) => KeyRange::Span(bytes(start), bytes(end)),
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn run(script: &str) -> Bench {
    Bench::new().run(script)
}

fn check(script: &str, expected: Expect) {
    expected.assert_eq(&dump(&run(script)));
}

fn dump(bench: &Bench) -> String {
    let Bench { store, .. } = bench;
    let mut out = String::new();
    for (key, changes) in store.index.range(&KeyRange::all(), None) {
        let generations = changes.generations().map(|generation| {
            let changes = generation.iter().map(|(revision, version)| match version {
                0 => format!("{revision}t"),
                version => format!("{revision}v{version}"),
            });
            format!("{{{}}}", changes.collect::<Vec<_>>().join(", "))
        });
        let generations = generations.collect::<Vec<_>>().join(" ");
        writeln!(out, "{}: {generations}", text(key)).expect("a string");
    }
    let show = |(revision, record): (Revision, Record)| {
        let parts = record.parts();
        let value = if record.is_tombstone() { "-".to_owned() } else { text(parts.value) };
        format!(" {revision} {}={value}", text(parts.key))
    };
    let body: String = store
        .body
        .records(Revision::default())
        .expect("a scan")
        .map(|item| show(item.expect("sound")))
        .collect();
    writeln!(out, "body{body}").expect("a string");
    let head = store.recent.changes(Revision::after(store.rev_checkpointed));
    let head: String = head.map(|(revision, record)| show((revision, record.clone()))).collect();
    writeln!(out, "head{head}").expect("a string");
    let finished = store.rev_compact_finished();
    writeln!(out, "current {} compacted {} finished {finished}", store.rev_current(), store.rev_compacted())
        .expect("a string");
    out
}

#[test]
fn a_new_store_is_empty() {
    check(
        "",
        expect![[r#"
        body
        head
        current 1 compacted -1 finished -1
    "#]],
    );
}

#[test]
fn puts_count_versions_and_a_deletion_ends_them() {
    check(
        "put a 1; put b 1; put a 2; del a; put a 3",
        expect![[r#"
        a: {2.0v1, 4.0v2, 5.0t} {6.0v1}
        b: {3.0v1}
        body
        head 2.0 a=1 3.0 b=1 4.0 a=2 5.0 a=- 6.0 a=3
        current 6 compacted -1 finished -1
    "#]],
    );
}

#[test]
fn the_changes_of_one_request_share_its_revision() {
    check(
        "put a 1; { put b 1, del a, put c 1 }; del a..",
        expect![[r#"
        a: {2.0v1, 3.1t}
        b: {3.0v1, 4.0t}
        c: {3.2v1, 4.1t}
        body
        head 2.0 a=1 3.0 b=1 3.1 a=- 3.2 c=1 4.0 b=- 4.1 c=-
        current 4 compacted -1 finished -1
    "#]],
    );
}

#[test]
fn a_request_without_effect_takes_no_revision() {
    check(
        "put a 1; del b; del b..a",
        expect![[r#"
        a: {2.0v1}
        body
        head 2.0 a=1
        current 2 compacted -1 finished -1
    "#]],
    );
}

#[test]
fn a_checkpoint_moves_the_head_into_the_body() {
    check(
        "put a 1; put a 2; checkpoint; put a 3",
        expect![[r#"
        a: {2.0v1, 3.0v2, 4.0v3}
        body 2.0 a=1 3.0 a=2
        head 4.0 a=3
        current 4 compacted -1 finished -1
    "#]],
    );
}

#[test]
fn what_was_not_checkpointed_is_gone_after_a_crash() {
    check(
        "put a 1; put b 1 7; del a; checkpoint; put a 3; reopen",
        expect![[r#"
        a: {2.0v1, 4.0t}
        b: {3.0v1}
        body 2.0 a=1 3.0 b=1 4.0 a=-
        head
        current 4 compacted -1 finished -1
    "#]],
    );
}

#[test]
fn compaction_keeps_the_newest_put_up_to_its_revision() {
    check(
        "put a 1; put a 2; put b 1; put a 3; compact 4; checkpoint",
        expect![[r#"
        a: {3.0v2, 5.0v3}
        b: {4.0v1}
        body 3.0 a=2 4.0 b=1 5.0 a=3
        head
        current 5 compacted 4 finished 4
    "#]],
    );
}

#[test]
fn compaction_drops_keys_that_were_deleted_before() {
    check(
        "put a 1; del a; put b 1; compact 4; checkpoint",
        expect![[r#"
        b: {4.0v1}
        body 4.0 b=1
        head
        current 4 compacted 4 finished 4
    "#]],
    );
}

/// etcd once lost the deletion for watchers that start at the compacted revision (18089).
#[test]
fn compaction_keeps_a_tombstone_at_its_revision() {
    check(
        "put a 1; del a; put b 1; compact 3; checkpoint",
        expect![[r#"
        a: {3.0t}
        b: {4.0v1}
        body 3.0 a=- 4.0 b=1
        head
        current 4 compacted 3 finished 3
    "#]],
    );
    check(
        "put a 1; del a; put a 2; put a 3; compact 3; checkpoint; reopen",
        expect![[r#"
        a: {3.0t} {4.0v1, 5.0v2}
        body 3.0 a=- 4.0 a=2 5.0 a=3
        head
        current 5 compacted 3 finished 3
    "#]],
    );
}

#[test]
fn a_kept_tombstone_goes_with_the_next_compaction() {
    check(
        "put a 1; del a; put b 1; compact 3; checkpoint; compact 4; checkpoint",
        expect![[r#"
        b: {4.0v1}
        body 4.0 b=1
        head
        current 4 compacted 4 finished 4
    "#]],
    );
}

/// etcd once derived the current revision from the records that were left (17780).
#[test]
fn the_revision_survives_the_compaction_of_everything() {
    check(
        "put a 1; del a; put a 2; del a; put b 1; del b; compact 7; checkpoint; reopen",
        expect![[r#"
        b: {7.0t}
        body 7.0 b=-
        head
        current 7 compacted 7 finished 7
    "#]],
    );
}

#[test]
fn versions_go_on_after_compaction_and_reopening() {
    check(
        "put a 1; put a 2; put a 3; compact 4; checkpoint; reopen; put a 4; put a 5",
        expect![[r#"
        a: {4.0v3, 5.0v4, 6.0v5}
        body 4.0 a=3
        head 5.0 a=4 6.0 a=5
        current 6 compacted 4 finished 4
    "#]],
    );
}

#[test]
fn an_unfinished_compaction_is_taken_up_again() {
    let mut bench = run("put a 1; put a 2; put b 1; put b 2; checkpoint");
    bench.store.compact(Rev(5)).expect("a revision to compact to");
    assert!(matches!(bench.compaction_step(1), CompactionStep::More));
    bench.checkpoint_once();
    let mut bench = bench.reopen();
    expect![[r#"
        a: {2.0v1, 3.0v2}
        b: {4.0v1, 5.0v2}
        body 2.0 a=1 3.0 a=2 4.0 b=1 5.0 b=2
        head
        current 5 compacted 5 finished -1
    "#]]
    .assert_eq(&dump(&bench));
    bench.compact_index(1);
    bench.checkpoint();
    expect![[r#"
        a: {3.0v2}
        b: {5.0v2}
        body 3.0 a=2 5.0 b=2
        head
        current 5 compacted 5 finished 5
    "#]]
    .assert_eq(&dump(&bench));
    assert!(matches!(bench.compaction_step(1), CompactionStep::Idle));
}

#[test]
fn compactions_are_refused_as_in_etcd() {
    let mut bench = Bench::new();
    let compacted =
        |asked, compacted| Err(RevError::Compacted { asked: Rev(asked), compacted: Rev(compacted) });
    assert_eq!(bench.store.compact(Rev(-1)), compacted(-1, -1));
    assert_eq!(bench.store.compact(Rev(0)), Ok(()));
    assert_eq!(bench.store.compact(Rev(0)), compacted(0, 0));
    assert_eq!(bench.store.compact(Rev(2)), Err(RevError::Future { asked: Rev(2), current: Rev(1) }));
    let mut bench = bench.run("put a 1; put a 2");
    assert_eq!(bench.store.compact(Rev(3)), Ok(()));
    assert_eq!(bench.store.compact(Rev(2)), compacted(2, 3));
    assert_eq!(bench.store.compact(Rev(3)), compacted(3, 3));
}

fn ask(keys: &str) -> Range {
    Range::of(range(keys))
}

fn answer(store: &Store, range: &Range) -> String {
    match store.range(range).expect("a sound database") {
        Err(refusal) => format!("{refusal:?}\n"),
        Ok((rev, RangeResult { kvs, more, count })) => {
            let kvs: String = kvs.iter().map(show_kv).collect();
            format!("rev {rev} count {count} more {more}{kvs}\n")
        }
    }
}

fn show_kv(kv: &KeyValue) -> String {
    let KeyValue { key, value, create_rev, mod_rev, version, lease } = kv;
    format!(" | {}={} {create_rev}-{mod_rev} v{version} l{lease}", text(key), text(value))
}

#[test]
fn ranges_are_read_at_any_revision() {
    let bench = run("put a 1; put b 2 9; { put a 3, put c 4 }; checkpoint; del b; compact 3");
    let mut out = String::new();
    for rev in [0, 2, 3, 4, 5, 6] {
        out += &answer(&bench.store, &Range { rev, ..ask("a..") });
    }
    for keys in ["a", "b", "a..c", "c..a", "b..", "x"] {
        out += &answer(&bench.store, &ask(keys));
    }
    expect![[r#"
        rev 5 count 2 more false | a=3 2-4 v2 l0 | c=4 4-4 v1 l0
        Compacted { asked: Rev(2), compacted: Rev(3) }
        rev 5 count 2 more false | a=1 2-2 v1 l0 | b=2 3-3 v1 l9
        rev 5 count 3 more false | a=3 2-4 v2 l0 | b=2 3-3 v1 l9 | c=4 4-4 v1 l0
        rev 5 count 2 more false | a=3 2-4 v2 l0 | c=4 4-4 v1 l0
        Future { asked: Rev(6), current: Rev(5) }
        rev 5 count 1 more false | a=3 2-4 v2 l0
        rev 5 count 0 more false
        rev 5 count 1 more false | a=3 2-4 v2 l0
        rev 5 count 0 more false
        rev 5 count 1 more false | c=4 4-4 v1 l0
        rev 5 count 0 more false
    "#]]
    .assert_eq(&out);
}

#[test]
fn limits_filters_and_orders() {
    let script = "put a 3 9; put b 2; put c 1; put b 4; put a 0 9; checkpoint; put d 0";
    let bench = run(script);
    let sort = |target, order| Sort { target, order };
    let all = ask("a..");
    let cases = [
        Range { limit: 2, ..all.clone() },
        Range { limit: 4, ..all.clone() },
        Range { limit: 2, keys_only: true, ..all.clone() },
        Range { limit: 1, count_only: true, ..all.clone() },
        Range { limit: 2, sort: sort(SortTarget::Key, SortOrder::Descend), ..all.clone() },
        Range { limit: 2, sort: sort(SortTarget::ModRev, SortOrder::Descend), ..all.clone() },
        Range { sort: sort(SortTarget::Version, SortOrder::Ascend), ..all.clone() },
        Range { sort: sort(SortTarget::CreateRev, SortOrder::None), ..all.clone() },
        // Of the first three keys in key order, the two with the smallest values.
        Range { limit: 2, sort: sort(SortTarget::Value, SortOrder::None), ..ask("b..") },
        Range { limit: 1, sort: sort(SortTarget::Value, SortOrder::None), ..ask("b..") },
        Range { limit: 1, sort: sort(SortTarget::Value, SortOrder::Ascend), ..ask("b..") },
        Range { keys_only: true, sort: sort(SortTarget::Value, SortOrder::Ascend), ..all.clone() },
        Range { mod_rev: RevBounds { min: 4, max: 5 }, ..all.clone() },
        Range { create_rev: RevBounds { min: 0, max: 3 }, limit: 1, ..all.clone() },
        Range { mod_rev: RevBounds { min: 0, max: -1 }, ..all },
    ];
    let out: String = cases.iter().map(|range| answer(&bench.store, range)).collect();
    expect![[r#"
        rev 7 count 4 more true | a=0 2-6 v2 l9 | b=4 3-5 v2 l0
        rev 7 count 4 more false | a=0 2-6 v2 l9 | b=4 3-5 v2 l0 | c=1 4-4 v1 l0 | d=0 7-7 v1 l0
        rev 7 count 4 more true | a= 2-6 v2 l0 | b= 3-5 v2 l0
        rev 7 count 4 more false
        rev 7 count 4 more true | d=0 7-7 v1 l0 | c=1 4-4 v1 l0
        rev 7 count 4 more true | d=0 7-7 v1 l0 | a=0 2-6 v2 l9
        rev 7 count 4 more false | c=1 4-4 v1 l0 | d=0 7-7 v1 l0 | a=0 2-6 v2 l9 | b=4 3-5 v2 l0
        rev 7 count 4 more false | a=0 2-6 v2 l9 | b=4 3-5 v2 l0 | c=1 4-4 v1 l0 | d=0 7-7 v1 l0
        rev 7 count 3 more true | d=0 7-7 v1 l0 | c=1 4-4 v1 l0
        rev 7 count 3 more true | c=1 4-4 v1 l0
        rev 7 count 3 more true | d=0 7-7 v1 l0
        rev 7 count 4 more false | a= 2-6 v2 l9 | d= 7-7 v1 l0 | c= 4-4 v1 l0 | b= 3-5 v2 l0
        rev 7 count 4 more false | b=4 3-5 v2 l0 | c=1 4-4 v1 l0
        rev 7 count 4 more true | a=0 2-6 v2 l9
        rev 7 count 4 more false
    "#]]
    .assert_eq(&out);
}

#[test]
fn a_write_sees_its_own_changes_and_so_does_a_later_reader_with_a_hold() {
    let mut bench = run("put a 1; put b 1; checkpoint");
    let store = &mut bench.store;
    let mut write = store.begin();
    let mut moments = vec![write.now()];
    assert_eq!(write.rev(), Rev(3));
    let put = write.put(store, bytes("a"), bytes("2"), Whereabouts::default(), LeaseId(5), true);
    assert_eq!(put, PutDone { existed: true, prev_lease: None });
    assert_eq!(write.rev(), Rev(4));
    moments.push(write.now());
    assert_eq!(store.get(b"a").expect("a read").map(|kv| kv.value), Some(bytes("2")));
    let deleted = delete(store, &mut write, &range("a.."), true);
    assert_eq!(deleted, [(bytes("a"), LeaseId(5)), (bytes("b"), LeaseId::NONE)]);
    moments.push(write.now());
    assert_eq!(store.lookup(b"a"), None);
    let put = write.put(store, bytes("a"), bytes("3"), Whereabouts::default(), LeaseId::NONE, true);
    assert_eq!(put, PutDone { existed: false, prev_lease: None });
    moments.push(write.now());

    let committed = write.commit(store);
    assert_eq!(committed.rev, Rev(4));
    let events = committed.events.iter().map(show_event).collect::<String>();
    expect![[r#"
        put | a=2 2-4 v2 l5, before | a=1 2-2 v1 l0
        delete | a= 0-4 v0 l0, before | a=2 2-4 v2 l5
        delete | b= 0-4 v0 l0, before | b=1 3-3 v1 l0
        put | a=3 4-4 v1 l0, before
    "#]]
    .assert_eq(&events);
    let meta = KeyMeta { create_rev: Rev(4), mod_rev: Rev(4), version: 1, lease: LeaseId::NONE };
    assert_eq!(bench.store.lookup_range(&KeyRange::all()).collect::<Vec<_>>(), [(&b"a"[..], meta)]);

    let hold = bench.store.hold();
    let bench = bench.run("put b 7; compact 5; checkpoint");
    let everything = ask("a..");
    let mut out = String::new();
    for before in moments {
        let mut walk = RangeWalk::before(&everything, before, hold.clone());
        assert_eq!(walk.step(&bench.store), Ok(Step::Done));
        assert_eq!(walk.digest().expect("a sound database"), Step::Done);
        let kvs: String = walk.finish().1.kvs.iter().map(show_kv).collect();
        out += &format!("before {before}{kvs}\n");
    }
    expect![[r#"
        before 4.0 | a=1 2-2 v1 l0 | b=1 3-3 v1 l0
        before 4.1 | a=2 2-4 v2 l5 | b=1 3-3 v1 l0
        before 4.3
        before 4.4 | a=3 4-4 v1 l0
    "#]]
    .assert_eq(&out);
    assert_eq!(bench.store.rev_compact_finished(), Rev::NEVER_COMPACTED, "it waits for the reader");
    drop(hold);
    let mut bench = bench.run("checkpoint");
    assert_eq!(bench.store.rev_compact_finished(), Rev(5));

    let write = bench.store.begin();
    let nothing = write.commit(&mut bench.store);
    assert_eq!((nothing.rev, nothing.events.len()), (Rev(5), 0));
}

fn show_event(event: &Event) -> String {
    let kind = match event.kind {
        EventKind::Put => "put",
        EventKind::Delete => "delete",
    };
    let prev = event.prev_kv.as_ref().map(show_kv).unwrap_or_default();
    format!("{kind}{}, before{prev}\n", show_kv(&event.kv))
}

#[test]
#[should_panic(expected = "the previous write was committed")]
fn a_write_cannot_be_abandoned() {
    let mut bench = Bench::new();
    let mut write = bench.store.begin();
    apply(&mut bench.store, &mut write, "put a 1");
    bench.store.begin();
}

fn history(store: &Store, from: i64, revs_max: usize) -> Result<History, StorageError> {
    store.history(Rev(from), revs_max, HISTORY_BYTES_MAX).expect("a readable revision").load()
}

#[test]
fn history_is_read_from_both_sides_of_the_seam() {
    let mut bench = run("put a 1; { put a 2, put b 1 }; del a; checkpoint; put c 1").reopen();
    bench = bench.run("{ del b.., put d 1 }; put e 1");
    let mut out = String::new();
    let mut from = Rev(2);
    loop {
        let History { revs, next, current } = history(&bench.store, from.0, 2).expect("a sound database");
        writeln!(out, "from {from} to {next} of {current}").expect("a string");
        for (rev, events) in &revs {
            writeln!(
                out,
                "  {rev}: {}",
                events.iter().map(show_event).collect::<String>().replace('\n', "; ")
            )
            .expect("a string");
        }
        from = next;
        if next > current {
            break;
        }
    }
    expect![[r#"
        from 2 to 4 of 6
          2: put | a=1 2-2 v1 l0, before; 
          3: put | a=2 2-3 v2 l0, before; put | b=1 3-3 v1 l0, before; 
        from 4 to 5 of 6
          4: delete | a= 0-4 v0 l0, before; 
        from 5 to 7 of 6
          5: delete | b= 0-5 v0 l0, before; put | d=1 5-5 v1 l0, before; 
          6: put | e=1 6-6 v1 l0, before; 
    "#]]
    .assert_eq(&out);
    assert_eq!(
        history(&bench.store, 9, 2).expect("nothing"),
        History { revs: vec![], next: Rev(9), current: Rev(6) }
    );
    let mut bench = bench.run("compact 4");
    assert!(matches!(bench.store.history(Rev(3), 1, HISTORY_BYTES_MAX), Err(RevError::Compacted { .. })));
    bench.checkpoint();
    let at_compacted = history(&bench.store, 4, 1).expect("a sound database");
    assert_eq!(at_compacted.revs[0].1[0].kind, EventKind::Delete);
}

#[test]
fn a_piece_of_history_ends_at_a_bound_of_bytes() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        let mut write = bench.store.begin();
        let value = Bytes::from(vec![7; 400_000]);
        write.put(&mut bench.store, bytes("a"), value, Whereabouts::default(), LeaseId::NONE, false);
        write.commit(&mut bench.store);
    }
    let next = |store: &Store| history(store, 2, 100).expect("a sound database").next;
    assert_eq!(next(&bench.store), Rev(5));
    bench.checkpoint();
    assert_eq!(next(&bench.reopen().store), Rev(5));
}

#[test]
fn what_keys_held_before_an_event() {
    let bench =
        run("put a 1; put a 2; checkpoint; del a; put a 3; put a 4").reopen().run("del a; put a 5; put a 6");
    let events = |store: &Store| {
        let revs = history(store, 2, 100).expect("a sound database").revs;
        let more = history(store, 4, 100).expect("a sound database").revs;
        revs.into_iter().chain(more).flat_map(|(_, events)| events).collect::<Vec<_>>()
    };
    let events = events(&bench.store);
    let show = |store: &Store| {
        let located = store.locate_prev(&events.iter().collect::<Vec<_>>(), store.rev_compacted());
        let values = located.load(usize::MAX).expect("a sound database");
        let values = values.into_iter().map(|kv| kv.map_or("-".to_owned(), |kv| text(&kv.value)));
        values.collect::<Vec<_>>().join(" ")
    };
    expect!["- 1 2 - 5"].assert_eq(&show(&bench.store));
    let bench = bench.run("compact 4; checkpoint");
    expect!["- - - - 5"].assert_eq(&show(&bench.store));
}

/// A checkpoint, a compaction and a defragmentation between the strides.
#[test]
fn a_walk_keeps_what_it_has_seen() {
    let mut bench = Bench::new();
    put_many(&mut bench, "old");
    bench.checkpoint();
    let mut bench = bench.reopen();
    let old = Range { rev: 2, ..Range::of(KeyRange::all()) };
    let newest = Range::of(KeyRange::all());
    let (mut of_old, mut of_newest) = (RangeWalk::new(&old), RangeWalk::new(&newest));
    assert_eq!(of_old.step(&bench.store), Ok(Step::More));
    assert_eq!(of_newest.step(&bench.store), Ok(Step::More));
    put_many(&mut bench, "new");
    let mut bench = bench.run("compact 3; checkpoint; defragment");
    let refusal = RevError::Compacted { asked: Rev(2), compacted: Rev(3) };
    assert_eq!(RangeWalk::new(&old).step(&bench.store), Err(refusal), "it begins after the compaction");
    for mut walk in [of_old, of_newest] {
        while walk.digest().expect("the old file") == Step::More {}
        while walk.step(&bench.store).expect("a hold") == Step::More {
            put_many(&mut bench, "newer");
            while walk.digest().expect("the old file") == Step::More {}
        }
        assert_eq!(bench.store.rev_compact_finished(), Rev::NEVER_COMPACTED, "it waits for the walks");
        while walk.digest().expect("the old file") == Step::More {}
        let (rev, result) = walk.finish();
        assert_eq!((rev, result.count), (Rev(2), 3000));
        assert!(result.kvs.iter().all(|kv| kv.value == "old" && kv.mod_rev == Rev(2)));
    }
    bench.checkpoint();
    assert_eq!(bench.store.rev_compact_finished(), Rev(3));
}

/// As when a snapshot of the leader is installed.
#[test]
fn a_walk_goes_on_in_another_store_if_that_can_be_read_there() {
    let mut first = Bench::new();
    put_many(&mut first, "old");
    let (old, newest) = (Range { rev: 2, ..Range::of(KeyRange::all()) }, Range::of(KeyRange::all()));
    let hold = first.store.hold();
    let given = RangeWalk::before(&newest, Revision::new(3, 0), hold);
    let mut walks = [RangeWalk::new(&old), RangeWalk::new(&newest), given];
    for walk in &mut walks {
        assert_eq!(walk.step(&first.store), Ok(Step::More));
        assert_eq!(walk.digest().expect("a sound database"), Step::Done);
    }
    let mut second = Bench::new();
    put_many(&mut second, "old");
    put_many(&mut second, "new");
    let second = second.run("compact 3; checkpoint");
    let refusal = Err(RevError::Compacted { asked: Rev(2), compacted: Rev(3) });
    let [of_old, of_newest, given] = &mut walks;
    assert_eq!(of_old.step(&second.store), refusal);
    assert_eq!(given.step(&second.store), refusal);
    while of_newest.step(&second.store).expect("the newest revision") == Step::More {
        while of_newest.digest().expect("a sound database") == Step::More {}
    }
    while of_newest.digest().expect("a sound database") == Step::More {}
    let [_, of_newest, _] = walks;
    let (rev, result) = of_newest.finish();
    assert_eq!((rev, result.count), (Rev(3), 3000));
    assert!(result.kvs.iter().all(|kv| kv.value == "new"), "it has begun again");
}

fn put_many(bench: &mut Bench, value: &str) {
    let mut write = bench.store.begin();
    for number in 0..3000 {
        let key = Bytes::from(format!("{number:05}"));
        write.put(&mut bench.store, key, bytes(value), Whereabouts::default(), LeaseId::NONE, false);
    }
    write.commit(&mut bench.store);
}

/// Whatever comes between, the number of keys at a moment can be told from the number now.
#[test]
fn keys_behind_a_limit_are_counted_as_they_were() {
    let mut bench = run("put a 1; put b 1; put c 1; put d 1; del c");
    let one = Range { limit: 1, ..ask("a..") };
    let hold = bench.store.hold();
    let count = |bench: &mut Bench, before: Revision| {
        let mut walk = RangeWalk::before(&one, before, hold.clone());
        assert_eq!(walk.step(&bench.store), Ok(Step::Done));
        assert_eq!(walk.digest().expect("a sound database"), Step::Done);
        walk.finish().1.count
    };
    let at_4 = Revision::after(Rev(4));
    assert_eq!(count(&mut bench, at_4), 3);
    let mut bench = bench.run("{ put c 1, del d, put e 1 }; del a; put a 1");
    assert_eq!(count(&mut bench, at_4), 3);
    assert_eq!(count(&mut bench, Revision::after(Rev(6))), 3);
    assert_eq!(count(&mut bench, Revision::new(7, 1)), 4);
    let mut bench = bench.run("checkpoint");
    let seam = bench.store.rev_checkpointed;
    bench.store.recent.trim(seam, 0, usize::MAX);
    assert_eq!(count(&mut bench, at_4), 3, "visited, for the tape is not in memory");
}

fn hash(store: &Store, rev: i64) -> Result<KvHash, RevError> {
    let mut walk = HashWalk::new(rev);
    while walk.step(store)? == Step::More {
        walk.settle();
    }
    Ok(walk.finish().expect("a sound database"))
}

/// The reference is computed here from the definition, record by record.
#[test]
fn the_hash_is_that_of_the_definition() {
    let hash_of = |records: &[(i64, i64, bool, KeyValue)]| {
        let mut bytes = b"key".to_vec();
        for (main, sub, tombstone, kv) in records {
            bytes.extend(main.to_be_bytes());
            bytes.push(b'_');
            bytes.extend(sub.to_be_bytes());
            bytes.extend(tombstone.then_some(b't'));
            bytes.extend_from_slice(Record::put(kv).bytes());
        }
        crc32c::crc32c(&bytes)
    };
    let put = |key: &str, value: &str, create_rev: i64, mod_rev: i64, version: i64| KeyValue {
        key: bytes(key),
        value: bytes(value),
        create_rev: Rev(create_rev),
        mod_rev: Rev(mod_rev),
        version,
        lease: LeaseId::NONE,
    };
    let tombstone = |key: &str| KeyValue { key: bytes(key), ..KeyValue::default() };
    let a2 = (2, 0, false, put("a", "1", 2, 2, 1));
    let b3 = (3, 0, false, put("b", "1", 3, 3, 1));
    let a4 = (4, 0, false, put("a", "2", 2, 4, 2));
    let b5 = (5, 0, true, tombstone("b"));
    let c5 = (5, 1, false, put("c", "1", 5, 5, 1));
    let a6 = (6, 0, true, tombstone("a"));
    let c6 = (6, 1, true, tombstone("c"));

    let bench = run("put a 1; put b 1; put a 2; checkpoint; { del b, put c 1 }; { del a, del c }");
    let value = |store: &Store, rev| hash(store, rev).map(|hash| hash.hash);
    assert_eq!(value(&bench.store, 4), Ok(hash_of(&[a2.clone(), b3.clone(), a4.clone()])));
    let upto_5 = [a2, b3, a4.clone(), b5, c5.clone()];
    let all = hash_of(&[&upto_5[..], &[a6.clone(), c6.clone()]].concat());
    assert_eq!(value(&bench.store, 0), Ok(all));
    assert_eq!(
        hash(&bench.store, 6),
        Ok(KvHash { hash: all, rev_compacted: Rev(-1), rev_hashed: Rev(6), rev_current: Rev(6) })
    );
    assert!(matches!(hash(&bench.store, 7), Err(RevError::Future { .. })));

    // Compacted, but nothing removed yet; then out of the index; then off the disk; then reopened.
    let mut bench = bench;
    bench.store.compact(Rev(5)).expect("a revision to compact to");
    let at_compacted = hash_of(&[a4.clone(), c5.clone()]);
    let check = |bench: &Bench, at_5: u32, rev_compacted: i64| {
        assert!(matches!(hash(&bench.store, 4), Err(RevError::Compacted { .. })));
        let rev_compacted = Rev(rev_compacted);
        assert_eq!(
            hash(&bench.store, 5),
            Ok(KvHash { hash: at_5, rev_compacted, rev_hashed: Rev(5), rev_current: Rev(6) })
        );
        // Nothing is live at 6, so etcd leaves nothing out.
        assert_eq!(value(&bench.store, 6), Ok(hash_of(&[a4.clone(), c5.clone(), a6.clone(), c6.clone()])));
    };
    check(&bench, at_compacted, 5);
    bench.compact_index(1);
    check(&bench, at_compacted, 5);
    bench.checkpoint();
    // The compaction remembers what was there before it.
    check(&bench, hash_of(&upto_5), -1);
    check(&bench.reopen(), at_compacted, 5);
}

/// The numbers are those of etcd 3.7.3.
#[test]
fn the_hash_at_a_compacted_revision_is_what_the_compaction_found() {
    let show = |bench: &Bench, revs: &[i64]| {
        let show = |rev: &i64| match hash(&bench.store, *rev) {
            Ok(KvHash { hash, rev_compacted, rev_hashed, .. }) => {
                format!("{rev_hashed}: {hash} after {rev_compacted}\n")
            }
            Err(_) => format!("{rev}: refused\n"),
        };
        revs.iter().map(show).collect::<String>()
    };
    let bench = run("put k 1; put k 2; put k 3; put k 4; del k");
    let before = show(&bench, &[6]);
    let bench = bench.run("compact 6; checkpoint");
    assert_eq!(show(&bench, &[6]), before, "it is that of before the compaction");
    expect![[r#"
        6: 1084519789 after 6
        5: refused
        6: 1089738655 after -1
    "#]]
    .assert_eq(&show(&bench, &[0, 5, 6]));
    expect![[r#"
        6: 1084519789 after 6
    "#]]
    .assert_eq(&show(&bench.reopen(), &[6]));

    let bench = run("put k 1; put l 1; put k 2; put l 2; put k 3; put l 3; put k 4; put l 4");
    let bench = bench.run("compact 5; checkpoint; del l; del k; checkpoint");
    expect![[r#"
        11: 3061572127 after 5
        5: 2586732911 after -1
    "#]]
    .assert_eq(&show(&bench, &[11, 5]));
    let bench = bench.run("compact 11; checkpoint");
    expect![[r#"
        11: 3019416021 after 5
        5: 2586732911 after -1
    "#]]
    .assert_eq(&show(&bench, &[11, 5]));
    let bench = bench.reopen().run("put k new; checkpoint; compact 12; checkpoint");
    expect![[r#"
        12: 3935039486 after 11
        11: refused
        5: refused
    "#]]
    .assert_eq(&show(&bench, &[12, 11, 5]));
}

#[test]
fn the_hashes_of_the_last_compactions_are_remembered() {
    let mut bench = Bench::new();
    for rev in 2..10 {
        bench = bench.run(&format!("put k {rev}; compact {rev}; checkpoint"));
    }
    let known: Vec<i64> = (2..10).filter(|rev| hash(&bench.store, *rev).is_ok()).collect();
    assert_eq!(known, (10 - COMPACTION_HASHES as i64..10).collect::<Vec<_>>());
}

#[test]
fn compactions_that_wait_are_done_one_after_the_other() {
    let mut bench = run("put a 1; put a 2; put a 3; put a 4; put a 5");
    let mut expected = Vec::new();
    for rev in 3..=5 {
        expected.push(hash(&bench.store, rev).map(|hash| hash.hash));
        bench.store.compact(Rev(rev)).expect("a revision to compact to");
    }
    bench.checkpoint();
    assert_eq!(bench.store.rev_compact_finished(), Rev(5));
    // The third found two waiting, and took the place of the second.
    let found = |rev| hash(&bench.store, rev).map(|hash| (hash.rev_compacted, hash.hash));
    assert_eq!(found(3), expected[0].map(|hash| (Rev(-1), hash)));
    assert!(matches!(found(4), Err(RevError::Compacted { .. })));
    assert_eq!(found(5).map(|(rev_compacted, _)| rev_compacted), Ok(Rev(5)));
}

/// The memory for removals is bounded by the removals of one checkpoint, however many records were
/// compacted.
#[test]
fn removals_do_not_gather() {
    let mut bench = Bench::new();
    let mut write = bench.store.begin();
    let count = CHECKPOINT_REMOVALS_MAX + 10;
    for number in 0..count {
        let key = Bytes::from(number.to_string());
        write.put(&mut bench.store, key, bytes("old"), Whereabouts::default(), LeaseId::NONE, false);
    }
    delete(&mut bench.store, &mut write, &KeyRange::all(), false);
    write.commit(&mut bench.store);
    bench = bench.run("put a 1");
    bench.store.compact(Rev(3)).expect("a revision to compact to");
    let mut removed = 0;
    loop {
        match bench.compaction_step(1000) {
            CompactionStep::Idle => break,
            CompactionStep::AwaitsCheckpoint => {}
            CompactionStep::AwaitsReaders => panic!("nobody reads"),
            CompactionStep::More | CompactionStep::Read(_) | CompactionStep::Finished(_) => continue,
        }
        let captured = bench.store.capture();
        assert!(captured.removed.len() < CHECKPOINT_REMOVALS_MAX + 1000);
        removed += captured.removed.len();
        let StoreCheckpoint { first, removed, cells, rev, .. } = captured;
        let records = bench.store.captured(Revision { main: first, sub: 0 }, usize::MAX);
        let bytes = bench.database.commit(&Checkpoint { records, removed, cells }).expect("a commit");
        let body = bench.database.reader().expect("a reader");
        drop(bench.store.checkpointed(rev, bytes, body));
    }
    removed += bench.store.capture().removed.len();
    assert_eq!(removed, 2 * count);
}

/// A transaction that changes a key several times. A watch from its revision gets all these changes until
/// the compaction to that revision, and then only the last, whether they are in memory or on the disk and
/// however far the work of the compaction is.
#[test]
fn a_watch_from_the_compacted_revision_does_not_tell_memory_from_disk() {
    let told = |bench: &Bench, from| {
        let History { revs, .. } = history(&bench.store, from, 9).expect("a sound database");
        let events = revs.iter().flat_map(|(_, events)| events);
        events.map(show_event).collect::<String>().replace('\n', "; ")
    };
    let mut bench = run("put a 1; { put a 2, put b 1, del a, put a 3, put c 1, del c }; put a 4");
    assert_eq!(told(&bench, 3).matches(';').count(), 7);
    bench.store.compact(Rev(3)).expect("a revision to compact to");
    let expected = told(&bench, 3);
    expect!["put | b=1 3-3 v1 l0, before; put | a=3 3-3 v1 l0, before; delete | c= 0-3 v0 l0, before; put | a=4 3-4 v2 l0, before; "].assert_eq(&expected);
    bench.compact_index(1);
    assert_eq!(told(&bench, 3), expected, "out of the index");
    bench.checkpoint_once();
    assert_eq!(told(&bench, 3), expected, "on the disk");
    bench.checkpoint();
    assert_eq!(told(&bench, 3), expected, "off the disk");
    let bench = bench.reopen();
    assert_eq!(told(&bench, 3), expected, "after a restart");
}

#[test]
fn a_superseded_record_below_the_compacted_revision_is_not_hashed() {
    let one = run("put a 1; put b 1; compact 3; put a 2");
    let other = run("put a 1; put b 1; put a 2; compact 3; checkpoint");
    assert_eq!(hash(&one.store, 4), hash(&other.store, 4));
    assert_ne!(hash(&one.store, 4), hash(&run("put a 1; put b 1; put a 2").store, 4));
}

/// Nobody waits for the store while all records are taken that no checkpoint has stored, and it does not matter
/// how many of them a checkpoint stores meanwhile.
#[test]
fn a_hash_takes_the_records_that_are_in_memory_only_in_strides() {
    const WRITES: &str = "put a 1; { put b 1, put c 1, put d 1 }; del a; put b 2; put c 2; put d 2";
    let expected = hash(&run(WRITES).store, 0);
    const RECORDS: usize = 8;
    for stored_after in 0..=RECORDS / CAPTURE_STRIDE_RECORDS {
        let mut bench = run(WRITES);
        let mut walk = HashWalk::new(0);
        assert_eq!(walk.step(&bench.store), Ok(Step::More), "these were the keys");
        let mut strides = 0;
        loop {
            assert!(walk.head_len() <= strides * CAPTURE_STRIDE_RECORDS);
            if strides == stored_after {
                bench.checkpoint_once();
            }
            strides += 1;
            if walk.step(&bench.store) == Ok(Step::Done) {
                break;
            }
        }
        bench = bench.run("put e 1");
        assert_eq!(walk.finish().map_err(drop), expected.map_err(drop), "stored after {stored_after}");
        drop(bench);
    }
}

#[test]
fn a_hash_of_what_is_compacted_under_way_is_refused_or_begun_anew() {
    let mut bench = run("put a 1; put b 1; put c 1; put a 2; put b 2; put c 2");
    let begin = |store: &Store, rev| {
        let mut walk = HashWalk::new(rev);
        assert_eq!(walk.step_of(store, 1), Ok(Step::More));
        walk
    };
    let (mut old, mut newest) = (begin(&bench.store, 5), begin(&bench.store, 0));
    bench = bench.run("compact 6");
    let refusal = RevError::Compacted { asked: Rev(5), compacted: Rev(6) };
    for walk in [&mut old, &mut newest] {
        assert_eq!(walk.step_of(&bench.store, 1), Ok(Step::More), "it begins anew");
        walk.settle();
    }
    assert_eq!(old.step_of(&bench.store, 1), Err(refusal));
    while newest.step_of(&bench.store, 1) == Ok(Step::More) {}
    let finished = newest.finish().expect("a sound database");
    assert_eq!(Ok(finished), hash(&bench.store, 0));
    assert_eq!(finished.rev_compacted, Rev(6));
}

/// Removals that do not fit into one checkpoint keep the compaction unfinished.
#[test]
fn compaction_is_finished_with_its_last_removal() {
    let mut bench = Bench::new();
    for value in ["old", "new"] {
        let mut write = bench.store.begin();
        for number in 0..=CHECKPOINT_REMOVALS_MAX {
            let key = Bytes::from(number.to_string());
            write.put(&mut bench.store, key, bytes(value), Whereabouts::default(), LeaseId::NONE, false);
        }
        write.commit(&mut bench.store);
    }
    bench.checkpoint();
    bench.store.compact(Rev(3)).expect("a revision to compact to");
    let stride = CHECKPOINT_REMOVALS_MAX;
    bench.compact_index(stride);
    assert!(matches!(bench.compaction_step(stride), CompactionStep::AwaitsCheckpoint));
    bench.checkpoint_once();
    assert_eq!(bench.store.rev_compact_finished(), Rev::NEVER_COMPACTED);
    let mut bench = bench.reopen();
    bench.compact_index(stride);
    assert!(!bench.checkpoint_once());
    assert_eq!(bench.store.rev_compact_finished(), Rev(3));
    let records = bench.store.body.record_count().expect("a count");
    assert_eq!(records, CHECKPOINT_REMOVALS_MAX as u64 + 1);
}

#[test]
fn the_size_follows_what_is_stored() {
    let mut bench = Bench::new();
    let empty = bench.store.size();
    assert!(empty.total == empty.in_use && empty.total < 48 * 1024);
    bench = bench.run("put a 1; put a 2; put a 3");
    let full = bench.store.size();
    assert!(full.total == full.in_use && full.in_use > empty.in_use);
    bench = bench.run("compact 4");
    assert_eq!(bench.store.size(), full, "it is still on the disk");
    bench = bench.run("checkpoint");
    let Size { total, in_use } = bench.store.size();
    assert_eq!((total, in_use), (full.total, run("put a 3").store.size().in_use));
    bench = bench.run("reopen");
    assert_eq!(bench.store.size(), Size { total, in_use });
    bench = bench.run("defragment; checkpoint; reopen");
    assert_eq!(bench.store.size(), Size { total: in_use, in_use });
}

#[test]
fn a_missing_record_is_found_when_the_store_is_opened() {
    let bench = run("put a 1; put b 1; checkpoint");
    let Bench { store, database, directory: _directory } = bench;
    drop(store);
    let unrecorded = Revision::new(9, 0);
    let checkpoint =
        Checkpoint { records: vec![(unrecorded, Record::tombstone(b"a"))], ..Checkpoint::default() };
    database.commit(&checkpoint).expect("a commit");
    assert!(matches!(Store::open(database, |changes| changes), Err(StorageError::Corrupted { .. })));
}
