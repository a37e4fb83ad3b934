//! The database: what is committed is there after a reopen, and damage is noticed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    disk::memory::MemoryDisk,
    storage::{Record, tables::RECORDS},
    types::{KeyValue, Rev},
};

const CACHE_BYTES: usize = 1 << 20;

fn open(directory: &TempDir) -> Result<Database, StorageError> {
    Database::at(&directory.path().join("db"), CACHE_BYTES)
}

fn put(main: i64, value: Vec<u8>) -> (Revision, Record) {
    let (key, value) = (Bytes::from(format!("key-{main}")), Bytes::from(value));
    let kv = KeyValue { key, value, mod_rev: Rev(main), version: 1, ..KeyValue::default() };
    (Revision::new(main, 0), Record::put(&kv))
}

fn cell(table: Table, key: &'static str, bytes: Option<&'static str>) -> (Table, Bytes, Option<Bytes>) {
    (table, Bytes::from(key), bytes.map(Bytes::from))
}

/// Everything in the file, or the first error.
fn contents(reader: &Reader) -> Result<Contents, StorageError> {
    let records = reader.records(Revision::default())?.collect::<Result<_, _>>()?;
    let cells = Table::ALL.iter().map(|table| reader.cells(*table)?.collect()).collect::<Result<_, _>>()?;
    Ok((records, cells))
}

type Contents = (Vec<(Revision, Record)>, Vec<Vec<(Bytes, Bytes)>>);

/// The simulator flipped a bit in what redb notes of the types of a table.
#[test]
fn a_table_of_other_types_is_damage_that_names_the_file() {
    use redb::{TableDefinition, TableHandle};

    let directory = tempfile::tempdir().expect("a directory");
    let database = open(&directory).expect("a new database");
    {
        let opened = Arc::clone(&database.opened.read());
        let transaction = opened.redb().begin_write().expect("a transaction");
        let name = Table::V2Node.definition().name().to_owned();
        assert!(transaction.delete_table(Table::V2Node.definition()).expect("the table goes"));
        drop(transaction.open_table(TableDefinition::<u64, u64>::new(&name)).expect("another table"));
        transaction.commit().expect("a commit");
    }
    let reader = database.reader().expect("a reader");
    let error = reader.cell(Table::V2Node, b"/a").expect_err("it cannot be read");
    assert!(error.is_damage(), "{error}");
    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
}

/// The simulator flipped a bit so that a page had fewer entries, and authentication was not enabled any more.
#[test]
fn a_cell_that_damage_has_hidden_is_missed() {
    for table in Table::ALL {
        let directory = tempfile::tempdir().expect("a directory");
        let database = open(&directory).expect("a new database");
        let cells = vec![cell(table, "a", Some("1")), cell(table, "b", Some("2"))];
        database.commit(&Checkpoint { cells, ..Checkpoint::default() }).expect("there is room");
        database.reader().expect("a reader").check_cells().expect("nothing is missing");
        {
            let opened = Arc::clone(&database.opened.read());
            let transaction = opened.redb().begin_write().expect("a transaction");
            let mut cells = transaction.open_table(table.definition()).expect("the table");
            cells.remove(b"b".as_slice()).expect("a removal");
            drop(cells);
            transaction.commit().expect("a commit");
        }
        let found = database.reader().expect("a reader").check_cells().expect_err("a cell is missing");
        assert!(found.is_damage() && found.to_string().ends_with("cells, and 5 were written"), "{found}");
        let copied: Result<Vec<_>, _> =
            database.reader().expect("a reader").into_stretches().expect("stretches").collect();
        assert!(copied.expect_err("a copy lacks a cell").is_damage());
        let inspected = database.inspect(&mut |_, _| {}).expect("findings");
        assert_eq!(inspected.iter().map(|table| table.damaged.len()).sum::<usize>(), 1);
    }
}

/// Pages of a tree lead to others by keys. A bit that flips in such a key hides a cell from whoever looks for it alone,
/// and from nobody who reads all.
#[test]
fn a_cell_that_damage_has_led_away_from_is_missed() {
    let name = |number: usize| format!("key-{number:04}");
    let directory = tempfile::tempdir().expect("a directory");
    let database = open(&directory).expect("a new database");
    let cells = (0..400).map(|number| (Table::Lease, name(number).into(), Some(vec![7; 60].into())));
    let checkpoint = Checkpoint { cells: cells.collect(), ..Checkpoint::default() };
    database.commit(&checkpoint).expect("there is room");
    drop(database);
    let path = directory.path().join("db");
    let mut bytes = fs::read(&path).expect("the file");
    let number = |at: usize| -> Option<usize> {
        let key = bytes.get(at..at + 8)?.strip_prefix(b"key-")?;
        std::str::from_utf8(key).ok()?.parse().ok()
    };
    // In a page with cells, the key behind another one has the next number.
    let leads = |at: &usize| number(*at).zip(number(*at + 8)).is_some_and(|(key, next)| key + 1 < next);
    let at = (0..bytes.len()).find(leads).expect("a page that leads to others");
    let last = number(at).expect("a key");
    bytes[at + 7] ^= 1;
    fs::write(&path, &bytes).expect("the file");

    let reader = open(&directory).expect("a start does not look").reader().expect("a reader");
    let is_hidden = |number: usize| {
        let cell = reader.cell(Table::Lease, name(number).as_bytes());
        cell.expect("no checksum is wrong").is_none()
    };
    assert!([last, last + 1].into_iter().any(is_hidden), "the flip hides a cell");
    let found = reader.check_cells().expect_err("a cell is not found");
    assert!(found.is_damage() && found.to_string().ends_with("and does not find it"), "{found}");
}

/// A file of a version that did not count cells.
#[test]
fn cells_are_counted_from_the_first_checkpoint_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = open(&directory).expect("a new database");
    {
        let opened = Arc::clone(&database.opened.read());
        let transaction = opened.redb().begin_write().expect("a transaction");
        let mut cells = transaction.open_table(Table::Meta.definition()).expect("the table");
        cells.remove(meta::CELL_COUNT).expect("a removal");
        drop(cells);
        let version = Bytes::copy_from_slice(&2_u64.to_be_bytes());
        let older = (Table::Meta, Bytes::from_static(meta::FORMAT_VERSION), Some(version));
        put_cells(&transaction, &[older]).expect("there is room");
        transaction.commit().expect("a commit");
    }
    let reader = database.reader().expect("a reader");
    reader.check_cells().expect("nobody has counted");
    assert_eq!(reader.cell_count().expect("nobody has counted"), None);
    database.commit(&Checkpoint::default()).expect("there is room");
    let reader = database.reader().expect("a reader");
    reader.check_cells().expect("nothing is missing");
    assert_eq!(reader.cell_count().expect("a count"), Some(3));
}

/// A file of a version that had fewer tables.
#[test]
fn a_table_that_is_missing_is_empty_until_it_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = open(&directory).expect("a new database");
    {
        let opened = Arc::clone(&database.opened.read());
        let transaction = opened.redb().begin_write().expect("a transaction");
        assert!(transaction.delete_table(Table::V2Node.definition()).expect("the table goes"));
        transaction.commit().expect("a commit");
    }
    drop(database);
    let database = open(&directory).expect("the same database");
    let reader = database.reader().expect("a reader");
    assert_eq!(reader.cell(Table::V2Node, b"/a").expect("no cell"), None);
    assert_eq!(reader.cells(Table::V2Node).expect("no cells").count(), 0);
    let cells = vec![cell(Table::V2Node, "/a", Some("1"))];
    database.commit(&Checkpoint { cells, ..Checkpoint::default() }).expect("there is room");
    let reader = database.reader().expect("a reader");
    assert_eq!(reader.cell(Table::V2Node, b"/a").expect("a cell"), Some(Bytes::from("1")));
}

#[test]
fn a_checkpoint_is_there_after_reopening() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = open(&directory).expect("a new database");
    let records = vec![put(2, vec![1; 10]), put(3, vec![2; 10_000]), put(4, vec![])];
    let cells = vec![cell(Table::Lease, "a", Some("1")), cell(Table::Alarm, "a", Some("2"))];
    let first = Checkpoint { records: records.clone(), cells, ..Checkpoint::default() };
    assert_eq!(database.commit(&first).expect("a commit"), 0);
    let removed = vec![Revision::new(3, 0)];
    let second = Checkpoint { removed, cells: vec![cell(Table::Alarm, "a", None)], ..Checkpoint::default() };
    let removed_bytes = database.commit(&second).expect("a commit");
    assert_eq!(removed_bytes, tables::footprint(records[1].1.bytes().len()));
    drop(database);

    let reader = open(&directory).expect("the same database").reader().expect("a reader");
    let found: Vec<_> = reader.records(Revision::new(2, 1)).expect("a scan").map(Result::unwrap).collect();
    assert_eq!(found, [records[2].clone()]);
    assert_eq!(reader.record(Revision::new(2, 0)).expect("a record"), records[0].1);
    assert!(matches!(reader.record(Revision::new(3, 0)), Err(StorageError::Corrupted { .. })));
    assert_eq!(reader.cell(Table::Lease, b"a").expect("a cell"), Some(Bytes::from("1")));
    assert_eq!(reader.cell(Table::Alarm, b"a").expect("no cell"), None);
}

#[test]
fn removing_what_is_not_there_is_damage() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = open(&directory).expect("a new database");
    let checkpoint = Checkpoint { removed: vec![Revision::new(2, 0)], ..Checkpoint::default() };
    assert!(matches!(database.commit(&checkpoint), Err(StorageError::Corrupted { .. })));
}

#[test]
fn files_of_others_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("db");
    let refusal = || match Database::at(&path, CACHE_BYTES) {
        Err(StorageError::Foreign { detail, .. }) => detail,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was opened"),
    };
    fs::write(&path, "certainly not a database").expect("a file");
    assert_eq!(refusal(), "Not a redb database: magic number mismatch");

    fs::remove_file(&path).expect("no file");
    drop(redb::Database::create(&path).expect("an empty database"));
    assert_eq!(refusal(), "it is a database of something else");

    fs::remove_file(&path).expect("no file");
    let database = Database::at(&path, CACHE_BYTES).expect("a new database");
    assert_eq!(refusal(), "another process is using it");
    let newer = (
        Table::Meta,
        Bytes::from_static(meta::FORMAT_VERSION),
        Some(Bytes::copy_from_slice(&(FORMAT_VERSION + 1).to_be_bytes())),
    );
    database.commit(&Checkpoint { cells: vec![newer], ..Checkpoint::default() }).expect("a commit");
    drop(database);
    assert_eq!(
        refusal(),
        "it has format 4 and this version reads formats up to 3; run the version that wrote it"
    );
}

#[test]
fn defragmenting_keeps_the_contents_and_shrinks_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = open(&directory).expect("a new database");
    let records: Vec<_> = (2..1002).map(|main| put(main, vec![main as u8; 2000])).collect();
    let removed = records[..900].iter().map(|(revision, _)| *revision).collect();
    let cells = vec![cell(Table::Member, "m", Some("x"))];
    database.commit(&Checkpoint { records, cells, ..Checkpoint::default() }).expect("a commit");
    let before_removal = database.reader().expect("a reader");
    let all = contents(&before_removal).expect("contents");
    database.commit(&Checkpoint { removed, ..Checkpoint::default() }).expect("a commit");
    let kept = contents(&database.reader().expect("a reader")).expect("contents");

    let bytes = database.file_bytes().expect("a length");
    database.defragment(|all| Box::new(all)).expect("a new file");
    assert!(database.file_bytes().expect("a length") < bytes / 2);
    assert_eq!(contents(&database.reader().expect("a reader")).expect("contents"), kept);
    assert_eq!(contents(&before_removal).expect("the old file"), all);

    let later = Checkpoint { records: vec![put(1002, vec![])], ..Checkpoint::default() };
    database.commit(&later).expect("a commit to the new file");
    drop((database, before_removal));
    let reader = open(&directory).expect("the new file").reader().expect("a reader");
    assert_eq!(contents(&reader).expect("contents").0.len(), 101);
    assert_eq!(reader.record_count().expect("a count"), 101);
}

/// A database with something in it, and all of that.
fn filled(directory: &TempDir) -> (Database, Contents) {
    let database = open(directory).expect("a new database");
    let all = fill(&database);
    (database, all)
}

fn fill(database: &Database) -> Contents {
    let records = (2..50).map(|main| put(main, vec![main as u8; 2000])).collect();
    let cells = vec![cell(Table::Member, "m", Some("x"))];
    database.commit(&Checkpoint { records, cells, ..Checkpoint::default() }).expect("a commit");
    contents(&database.reader().expect("a reader")).expect("contents")
}

fn one_more() -> Checkpoint {
    Checkpoint { records: vec![put(50, vec![])], ..Checkpoint::default() }
}

/// What a start finds after a crash at this moment.
fn after_a_crash(directory: &TempDir) -> Contents {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    let database = open(&copy).expect("a sound database");
    let names: Vec<_> = fs::read_dir(&copy).expect("a directory").map(Result::unwrap).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    contents(&database.reader().expect("a reader")).expect("contents")
}

#[test]
fn a_crash_at_any_step_of_a_swap_leaves_one_file_or_the_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let (database, all) = filled(&directory);
    let Place { disk, path, .. } = &database.place;
    let mut draft = database.draft().expect("a draft");
    assert_eq!(after_a_crash(&directory), all, "nothing is in the new file yet");
    let stretches = database.reader().and_then(Reader::into_stretches).expect("a reader");
    stretches.for_each(|stretch| draft.add(&stretch.expect("sound")).expect("there is room"));
    assert_eq!(after_a_crash(&directory), all, "the new file is not durable yet");
    let complete = draft.complete().expect("a file");
    assert_eq!(after_a_crash(&directory), all, "the new file does not have its name yet");
    let next = Opened::at(&**disk, complete.name(), path, CACHE_BYTES).expect("the new file");
    assert_eq!(after_a_crash(&directory), all, "the new file is open");
    database.place.give_to(complete).unwrap_or_else(|_| panic!("the disk is well"));
    assert_eq!(after_a_crash(&directory), all, "the new file is not used yet");
    database.go_on_in(Arc::new(next));
    database.commit(&one_more()).expect("a commit");
    assert_eq!(after_a_crash(&directory).0.len(), all.0.len() + 1);
}

const IMAGE: &str = "image-peer-0.tmp";

/// Does everything of an install up to the swap, and returns the image too, which has one record
/// more.
fn with_image(directory: &TempDir) -> (Database, Contents, Database) {
    let (database, all) = filled(directory);
    let image = image_of(&database);
    image.commit(&one_more()).expect("a commit");
    (database, all, image)
}

fn image_of(database: &Database) -> Database {
    database.copy_to(Path::new(IMAGE)).expect("there is room");
    Database::open(database.disk().clone(), Path::new(IMAGE), CACHE_BYTES).expect("an image")
}

#[test]
fn a_swap_that_did_not_happen_leaves_the_old_file_in_use() {
    let directory = tempfile::tempdir().expect("a directory");
    let (database, all, image) = with_image(&directory);
    let other = tempfile::tempdir().expect("a directory");
    let replaced = fs::rename(database.dir().join("db"), other.path().join("db"));
    replaced.and_then(|()| fs::create_dir(database.dir().join("db"))).expect("a rename will fail");
    for failed in [database.defragment(|all| Box::new(all)), database.replace_with(&image).map(drop)] {
        assert!(matches!(failed, Err(StorageError::Io { action: "rename", .. })), "{failed:?}");
    }
    assert_eq!(contents(&database.reader().expect("a reader")).expect("contents"), all);
    database.commit(&one_more()).expect("a commit to the old file");
    drop(database);
    let reader = open(&other).expect("the old file").reader().expect("a reader");
    assert_eq!(contents(&reader).expect("contents").0.len(), all.0.len() + 1);
}

/// Whether the rename survives a crash is not known. So nothing is written that would be lost
/// if it does not, or if it does.
#[test]
fn after_a_swap_that_may_have_happened_nothing_is_written() {
    for is_install in [false, true] {
        let disk = MemoryDisk::default();
        let database = on(&disk).expect("a new database");
        let all = fill(&database);
        let image = image_of(&database);
        image.commit(&one_more()).expect("a commit");
        disk.break_directory_sync();
        let failed = match is_install {
            true => database.replace_with(&image).map(drop),
            false => database.defragment(|all| Box::new(all)),
        };
        assert!(matches!(failed, Err(StorageError::Unsettled { .. })), "{failed:?}");
        let refused = database.commit(&one_more()).expect_err("it may go to a file without a name");
        let text = refused.to_string();
        assert!(text.starts_with("db was being replaced when the disk failed: sync "), "{text}");
        assert!(text.ends_with("check the disk, and start the server again"), "{text}");
        assert!(database.defragment(|all| Box::new(all)).is_err() && database.replace_with(&image).is_err());
        assert_eq!(contents(&database.reader().expect("a reader")).expect("contents"), all);
        drop((database, image));
        for is_kept in [false, true] {
            let found = found_after(&disk, || is_kept);
            assert_eq!(found.0.len(), all.0.len() + usize::from(is_install && is_kept));
        }
    }
}

fn on(disk: &MemoryDisk) -> Result<Database, StorageError> {
    Database::open(Arc::new(disk.clone()), Path::new("db"), CACHE_BYTES)
}

/// What a start finds after a power loss.
fn found_after(disk: &MemoryDisk, is_kept: impl FnMut() -> bool) -> Contents {
    let database = on(&disk.after_power_loss(is_kept)).expect("a sound database");
    contents(&database.reader().expect("a reader")).expect("contents")
}

/// The power fails before each operation of a checkpoint, and of a defragmentation. A checkpoint
/// that was reported as stored is found, and any other is found as a whole or not at all.
#[test]
fn a_power_loss_leaves_a_whole_database() {
    let checkpoint = || Checkpoint {
        records: vec![put(50, vec![7; 5000]), put(51, vec![])],
        removed: (10..30).map(|main| Revision::new(main, 0)).collect(),
        cells: vec![cell(Table::Member, "m", Some("y")), cell(Table::Lease, "l", Some("z"))],
    };
    type Work<'a> = &'a dyn Fn(&Database) -> Result<(), StorageError>;
    let commit = |database: &Database| database.commit(&checkpoint()).map(drop);
    let defragment = |database: &Database| database.defragment(|all| Box::new(all));
    let works: [Work<'_>; 2] = [&commit, &defragment];
    let filled = MemoryDisk::default();
    let before = fill(&on(&filled).expect("a new database"));
    let mut random = 7_u64;
    for work in works {
        let whole = filled.after_power_loss(|| true);
        work(&on(&whole).expect("a sound database")).expect("the power is on");
        let after = found_after(&whole, || true);
        for operation in 0.. {
            let disk = filled.after_power_loss(|| true);
            let database = on(&disk).expect("a sound database");
            let fails_at = disk.operations() + operation;
            disk.fail_at(fails_at);
            let is_stored = work(&database).is_ok();
            drop(database);
            for way in 0..4 {
                let found = found_after(&disk, || {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    way == 1 || (way > 1 && random >> 63 == 0)
                });
                assert!(found == after || (found == before && !is_stored), "{operation}, {way}");
            }
            if disk.operations() <= fails_at {
                assert!(is_stored && operation > 10, "{operation} operations");
                break;
            }
        }
    }
}

/// Whoever reads does not notice that the file is replaced meanwhile, though what it reads is not
/// in memory.
#[test]
fn a_scan_outlives_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = open(&directory).expect("a new database");
    let records: Vec<_> = (2..52).map(|main| put(main, vec![main as u8; 100_000])).collect();
    database.commit(&Checkpoint { records: records.clone(), ..Checkpoint::default() }).expect("a commit");
    for replace in [
        |database: &Database| database.defragment(|all| Box::new(all)),
        |database: &Database| database.replace_with(&image_of(database)).map(drop),
    ] {
        let mut scan = database.reader().expect("a reader").records(Revision::default()).expect("a scan");
        let first = scan.next().expect("a record").expect("a sound one");
        replace(&database).expect("a swap");
        let others = scan.collect::<Result<Vec<_>, _>>().expect("sound records");
        assert_eq!([vec![first], others].concat(), records);
    }
}

/// The disk is full after more and more of a checkpoint. Readers see the checkpoint, a start after a
/// power loss does not, and with space again it is stored.
#[test]
fn a_checkpoint_without_space_is_held_back_and_stored_later() {
    let checkpoint = || Checkpoint {
        records: (50..80).map(|main| put(main, vec![7; 60_000])).collect(),
        removed: (10..30).map(|main| Revision::new(main, 0)).collect(),
        cells: vec![cell(Table::Member, "m", Some("y"))],
    };
    let filled = MemoryDisk::default();
    let before = fill(&on(&filled).expect("a new database"));
    let read = |database: &Database| contents(&database.reader().expect("a reader")).expect("contents");
    let mut held_back = 0;
    for room in (0..).step_by(65_536) {
        let disk = filled.after_power_loss(|| true);
        let database = on(&disk).expect("a sound database");
        disk.limit_room(Some(room));
        let removed_bytes = database.commit_or_hold_back(&checkpoint()).expect("a full disk is no error");
        assert!(removed_bytes > 0);
        let after = read(&database);
        assert_eq!(after.0.len(), before.0.len() + 10);
        if !database.holds_back() {
            break;
        }
        held_back += 1;
        assert!(!database.settle().expect("a full disk is no error"));
        for is_kept in [false, true] {
            assert!(found_after(&disk, || is_kept) == before, "{room}: nothing is stored yet");
        }
        let refused =
            database.commit(&Checkpoint { records: vec![put(80, vec![])], ..Checkpoint::default() });
        assert!(matches!(refused, Err(StorageError::NoSpace { .. })), "{refused:?}");
        assert!(read(&database) == after, "{room}: it is there to be read");
        disk.limit_room(None);
        assert!(database.settle().expect("there is room"));
        assert!(read(&database) == after && found_after(&disk, || false) == after, "{room}: it is stored");
    }
    assert!(held_back > 10, "{held_back}");
}

#[test]
fn only_the_owner_can_read_a_database() {
    let directory = tempfile::tempdir().expect("a directory");
    let (database, ..) = with_image(&directory);
    database.defragment(|all| Box::new(all)).expect("a new file");
    for entry in fs::read_dir(&directory).expect("a directory") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("metadata").mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn an_unfinished_file_is_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let unfinished = directory.path().join("db.unfinished");
    fs::write(&unfinished, "half a copy").expect("a file");
    open(&directory).expect("a new database");
    assert!(!unfinished.exists());
}

#[test]
fn verifying_goes_on_where_it_stopped() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = open(&directory).expect("a new database");
    let records = (2..7).map(|main| put(main, vec![0; 100])).collect();
    database.commit(&Checkpoint { records, ..Checkpoint::default() }).expect("a commit");
    let next = |from, records_max, bytes_max| {
        let verified = database.verify_stride(from, records_max, bytes_max).expect("it can be read");
        assert!(verified.damaged.is_empty());
        verified.next
    };
    assert_eq!(next(Revision::default(), 3, usize::MAX), Some(Revision::new(5, 0)));
    assert_eq!(next(Revision::default(), 3, 101), Some(Revision::new(3, 0)));
    assert_eq!(next(Revision::new(5, 0), 2, usize::MAX), None);
}

/// Records under keys that no change has, with checksums that hold.
#[test]
fn records_at_revisions_that_no_change_makes_are_damage() {
    let sub_max = i64::from(u32::MAX);
    for (main, sub) in [(0, 0), (1, 0), (-1, 0), (i64::MIN, 0), (5, -1), (5, sub_max + 1), (5, i64::MAX)] {
        let directory = tempfile::tempdir().expect("a directory");
        let (database, all) = filled(&directory);
        let revision = Revision::new(main, sub);
        let mut stored = Vec::new();
        tables::seal_record(&tables::place(revision), false, None, put(5, vec![]).1.bytes(), &mut stored);
        {
            let opened = Arc::clone(&database.opened.read());
            let transaction = opened.redb().begin_write().expect("a transaction");
            let mut records = transaction.open_table(RECORDS).expect("a table");
            records.insert(&tables::place(revision), stored.as_slice()).expect("an insert");
            drop(records);
            transaction.commit().expect("a commit");
        }
        let error = contents(&database.reader().expect("a reader")).expect_err("damage");
        let detail = format!("it has a record at revision {revision}, which no change can have");
        assert!(error.to_string().ends_with(&detail), "{error}");
        assert!(error.to_string().contains("/db is damaged: "), "{error}");
        let verified = database.verify_stride(Revision::default(), 1000, usize::MAX).expect("it can be read");
        assert_eq!(verified.damaged.len(), 1);
        assert_eq!(all.0.len(), 48);
    }
    assert!(catch_unwind(|| tables::record_key(Revision::new(1, 0))).is_err(), "none is written");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// redb alone serves flipped bits as data. It may also trip over damage to its own
    /// structure; that ends the process, which is a report too.
    #[test]
    fn flipped_bits_are_never_served(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..40)
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let database = open(&directory).expect("a new database");
        let records = (2..300).map(|main| put(main, vec![main as u8; 100])).collect();
        let cells = vec![cell(Table::Lease, "lease", Some("some bytes of a lease"))];
        let checkpoint = Checkpoint { records, cells, ..Checkpoint::default() };
        database.commit(&checkpoint).expect("a commit");
        drop(database);
        let path = directory.path().join("db");
        let sound = fs::read(&path).expect("the file");
        // Only where records are: damage to redb's own pages makes it panic while it panics.
        let mut hits = (0..sound.len()).filter(|at| sound[*at..].starts_with(b"key-"));
        let first = hits.next().expect("the first record");
        let length = hits.next_back().expect("the last record") - first;
        for (position, bit) in flips {
            let mut damaged = sound.clone();
            damaged[first + position.index(length)] ^= 1 << bit;
            fs::write(&path, &damaged).expect("the file");
            let read = || {
                let reader = open(&directory)?.reader()?;
                let records = reader.records(Revision::default())?.map_while(Result::ok).collect();
                let leases = reader.cells(Table::Lease)?.map_while(Result::ok).collect();
                let is_whole = reader.records(Revision::default())?.all(|record| record.is_ok())
                    && reader.record_count().ok() == Some(Vec::len(&records) as u64);
                Ok::<(Vec<_>, Vec<_>, bool), StorageError>((records, leases, is_whole))
            };
            if let Ok(Ok((records, leases, is_whole))) = catch_unwind(AssertUnwindSafe(read)) {
                prop_assert!(records.iter().all(|record| checkpoint.records.contains(record)));
                prop_assert!(!is_whole || records == checkpoint.records);
                let (_, key, bytes) = &checkpoint.cells[0];
                prop_assert!(leases.iter().all(|lease| lease.0 == key && Some(&lease.1) == bytes.as_ref()));
            }
        }
    }
}
