//! What the database refers to is there, and what it does not refer to goes.

use std::path::Path;

use super::*;
use crate::{
    disk::memory::MemoryDisk,
    storage::{Checkpoint, Database, Reader, Record},
    types::{KeyValue, Revision, Whereabouts},
};

const SEGMENT_BYTES: usize = 10_000;

/// A disk with a database, and segments of a log.
struct Bench {
    disk: Arc<dyn Disk>,
    values: Arc<Values>,
    database: Database,
}

impl Bench {
    fn new() -> Bench {
        Bench::on(Arc::new(MemoryDisk::default()))
    }

    fn on(disk: Arc<dyn Disk>) -> Bench {
        let values = Arc::new(Values::open(disk.clone()).expect("a directory"));
        let database = Database::open_with(disk.clone(), Path::new("db"), 1 << 20, Some(values.clone()));
        Bench { disk, values, database: database.expect("a database") }
    }

    /// What a start does.
    fn reopened(self) -> Result<Bench, StorageError> {
        let Bench { disk, values, database } = self;
        drop((values, database));
        let bench = Bench::on(disk);
        let reader = bench.database.reader()?;
        let mut occupancy = Occupancy::default();
        for item in reader.stored_records(Revision::default())? {
            let (revision, stored) = item?;
            if let Some(place) = stored.place() {
                occupancy.add(revision.main, place);
            }
        }
        reader.occupies(occupancy)?;
        drop(reader);
        Ok(bench)
    }

    /// Writes a segment, and commits records whose values of so many bytes are in it.
    fn commit(&self, sequence: u32, records: &[(i64, usize)]) {
        let file = self.disk.create(&segment_name(sequence)).expect("a file");
        file.write_at(&[0xee; SEGMENT_BYTES], 0).expect("there is room");
        let mut offset = 24;
        let records = records.iter().map(|(main, len)| {
            let whereabouts = Whereabouts::expected();
            let kv = key_value(*main, *len);
            file.write_at(&kv.value, u64::from(offset)).expect("there is room");
            whereabouts.found(ValuePlace { file: sequence, offset, len: *len as u32 });
            offset += *len as u32 + 100;
            (Revision::new(*main, 0), Record::put_found(&kv, whereabouts))
        });
        let records = records.collect();
        self.database.commit(&Checkpoint { records, ..Checkpoint::default() }).expect("a commit");
    }

    fn remove(&self, revisions: &[i64]) {
        let removed = revisions.iter().map(|main| Revision::new(*main, 0)).collect();
        self.database.commit(&Checkpoint { removed, ..Checkpoint::default() }).expect("a commit");
    }

    fn move_all(&self) -> u64 {
        let mut bytes = 0;
        while let Some(mut moving) = self.database.begin_moving(&|_| false) {
            loop {
                let moved = self.database.move_some(&mut moving).expect("there is room");
                assert!(moved.damaged.is_empty(), "{:?}", moved.damaged);
                bytes += moved.bytes;
                if moved.is_done {
                    break;
                }
            }
        }
        bytes
    }

    fn names(&self) -> Vec<String> {
        let names = self.disk.list().expect("a directory");
        let mut names: Vec<_> = names.iter().map(|name| name.display().to_string()).collect();
        names.retain(|name| name != "db");
        names.sort();
        names
    }
}

fn key_value(main: i64, len: usize) -> KeyValue {
    let value = (0..len).map(|at| (at as i64 * 31 + main) as u8).collect::<Vec<_>>().into();
    let rev = Rev(main);
    KeyValue {
        key: "key".into(),
        value,
        create_rev: rev,
        mod_rev: rev,
        version: 1,
        lease: crate::types::LeaseId(7),
    }
}

fn assert_reads(reader: &Reader, records: &[(i64, usize)]) {
    for (main, len) in records {
        let record = reader.record(Revision::new(*main, 0)).expect("it is there");
        assert_eq!(record.key_value(), key_value(*main, *len));
    }
    let all = reader.records(Revision::default()).expect("records").map(|item| item.expect("it is sound").1);
    let expected = records.iter().map(|(main, len)| Record::put(&key_value(*main, *len)));
    assert!(all.eq(expected), "all records are read in order");
}

const RECORDS: [(i64, usize); 3] = [(2, 3000), (3, 1), (4, 2500)];

#[test]
fn a_value_that_the_log_has_is_read_from_there() {
    let bench = Bench::new();
    bench.commit(1, &RECORDS);
    let reader = bench.database.reader().expect("a reader");
    assert_reads(&reader, &RECORDS);
    let stored = reader.stored_records(Revision::default()).expect("records");
    let changes = reader.stored_changes().expect("changes");
    for ((item, change), (main, len)) in stored.zip(changes).zip(RECORDS) {
        let (_, stored) = item.expect("it is sound");
        assert!(stored.stored_len() < 40, "the database has no value");
        let record = Record::put(&key_value(main, len));
        let (_, change) = change.expect("it is sound");
        assert_eq!(change.key_value_len, record.bytes().len());
        assert_eq!(change.place, stored.place());
        assert_eq!(stored.add_to_crc32c(17), crc32c::crc32c_append(17, record.bytes()));
    }
    drop(reader);
    let bench = bench.reopened().expect("the log is there");
    assert_reads(&bench.database.reader().expect("a reader"), &RECORDS);
}

#[test]
fn what_a_removal_gives_back_counts_the_value() {
    let bench = Bench::new();
    bench.commit(1, &RECORDS);
    let removed = RECORDS.iter().map(|(main, _)| Revision::new(*main, 0)).collect();
    let checkpoint = Checkpoint { removed, ..Checkpoint::default() };
    let expected = RECORDS.iter().map(|(main, len)| Record::put(&key_value(*main, *len)).bytes().len());
    let expected: u64 = expected.map(crate::storage::footprint).sum();
    assert_eq!(bench.database.commit(&checkpoint).expect("a commit"), expected);
}

#[test]
fn damage_is_an_error_that_names_the_file_and_the_byte() {
    let bench = Bench::new();
    bench.commit(1, &RECORDS);
    let file = bench.disk.open(&segment_name(1)).expect("it is there");
    file.write_at(b"!", 30).expect("there is room");
    let reader = bench.database.reader().expect("a reader");
    let error = reader.record(Revision::new(2, 0)).expect_err("it is damaged").to_string();
    assert!(error.contains("00000001.values") && error.contains("byte 24"), "{error}");
    reader.record(Revision::new(3, 0)).expect("the others are not");
}

#[test]
fn a_start_without_a_file_that_is_referred_to_is_refused() {
    let bench = Bench::new();
    bench.commit(1, &RECORDS);
    bench.disk.remove(&segment_name(1)).expect("it is there");
    let error = bench.reopened().err().expect("it is refused").to_string();
    assert!(error.contains("00000001.values") && error.contains("missing"), "{error}");

    let bench = Bench::new();
    bench.commit(1, &RECORDS);
    bench.disk.open(&segment_name(1)).expect("it is there").set_len(4000).expect("it is shorter");
    let error = bench.reopened().err().expect("it is refused").to_string();
    assert!(error.contains("00000001.values") && error.contains("cut off"), "{error}");
}

#[test]
fn a_segment_stays_while_it_is_referred_to_or_read() {
    let bench = Bench::new();
    bench.commit(1, &RECORDS);
    let file = bench.disk.create(&segment_name(2)).expect("a file");
    file.write_at(b"small", 0).expect("there is room");
    assert!(!bench.values.keep_segment(2).expect("the disk works"), "nobody needs it");
    assert!(bench.values.keep_segment(1).expect("the disk works"));
    assert_eq!(bench.names(), ["00000001.values", "00000002.wal"]);
    bench.database.sweep_values().expect("the disk works");

    let reader = bench.database.reader().expect("a reader");
    assert_reads(&reader, &RECORDS);
    bench.remove(&[2, 3, 4]);
    bench.database.sweep_values().expect("the disk works");
    assert_reads(&reader, &RECORDS);
    let later = bench.database.reader().expect("a reader");
    drop(reader);
    bench.database.sweep_values().expect("the disk works");
    assert_eq!(bench.names(), ["00000002.wal"], "a reader that began afterwards does not need it");
    drop(later);
}

#[test]
fn a_segment_that_was_emptied_stays_while_it_is_in_the_log() {
    let bench = Bench::new();
    bench.commit(1, &RECORDS);
    bench.remove(&[2, 3, 4]);
    bench.database.sweep_values().expect("the disk works");
    assert_eq!(bench.names(), ["00000001.wal"]);
    bench.values.keep_segment(1).expect("the disk works");
    bench.database.sweep_values().expect("the disk works");
    assert!(bench.names().is_empty());
}

#[test]
fn a_start_removes_what_nothing_refers_to() {
    let bench = Bench::new();
    bench.commit(1, &RECORDS);
    bench.values.keep_segment(1).expect("the disk works");
    let left = bench.disk.create(&kept_name(MOVED_FIRST + 3)).expect("a file");
    left.write_at(b"a move that was interrupted", 0).expect("there is room");
    let bench = bench.reopened().expect("all is there");
    bench.database.sweep_values().expect("the disk works");
    assert_eq!(bench.names(), ["00000001.values"]);
    assert_reads(&bench.database.reader().expect("a reader"), &RECORDS);
}

#[test]
fn the_values_of_a_file_that_is_hardly_needed_are_moved() {
    let bench = Bench::new();
    bench.commit(1, &RECORDS);
    bench.commit(2, &[(5, 4000), (6, 3000)]);
    assert_eq!(bench.move_all(), 0, "segments of the log stay as they are");
    bench.values.keep_segment(1).expect("the disk works");
    bench.values.keep_segment(2).expect("the disk works");
    assert_eq!(bench.move_all(), 0, "more than half of each is needed");

    bench.remove(&[4]);
    let left = [(2, 3000), (3, 1), (5, 4000), (6, 3000)];
    let reader = bench.database.reader().expect("a reader");
    assert_eq!(bench.move_all(), 3001);
    assert_reads(&reader, &left);
    assert_reads(&bench.database.reader().expect("a reader"), &left);
    drop(reader);
    bench.database.sweep_values().expect("the disk works");
    assert_eq!(bench.names(), ["00000002.values", "80000000.values"]);

    bench.remove(&[6]);
    assert_eq!(bench.move_all(), 4000);
    let bench = bench.reopened().expect("all is there");
    bench.database.sweep_values().expect("the disk works");
    assert_eq!(bench.names(), ["80000000.values"]);
    assert_reads(&bench.database.reader().expect("a reader"), &left[..3]);

    // The next start begins a file of its own.
    bench.remove(&[5]);
    assert_eq!(bench.move_all(), 3001);
    bench.database.sweep_values().expect("the disk works");
    assert_eq!(bench.names(), ["80000001.values"]);
    assert_reads(&bench.database.reader().expect("a reader"), &left[..2]);
}

#[test]
fn a_value_that_cannot_be_read_is_not_moved() {
    let bench = Bench::new();
    bench.commit(1, &RECORDS);
    bench.values.keep_segment(1).expect("the disk works");
    bench.remove(&[4]);
    let file = bench.disk.open(&kept_name(1)).expect("it is there");
    file.write_at(b"!", 30).expect("there is room");
    let mut moving = bench.database.begin_moving(&|_| false).expect("little of it is needed");
    let moved = bench.database.move_some(&mut moving).expect("the disk works");
    assert_eq!((moved.bytes, moved.damaged.len(), moved.is_done), (1, 1, true));
    bench.database.sweep_values().expect("the disk works");
    assert_eq!(bench.names(), ["00000001.values", "80000000.values"]);
    assert!(bench.database.begin_moving(&|file| file == 1).is_none(), "it is not tried again");
}

/// The simulator found it: while the disk of the log failed, the scrubber took each error of reading a value for
/// damage, and raised CORRUPT.
#[test]
fn a_value_that_cannot_be_read_now_is_not_damaged() {
    let (disk_of_log, disk_of_database) = (Arc::new(MemoryDisk::default()), MemoryDisk::default());
    let values = Arc::new(Values::open(disk_of_log.clone()).expect("a directory"));
    let database =
        Database::open_with(Arc::new(disk_of_database), Path::new("db"), 1 << 20, Some(values.clone()));
    let bench = Bench { disk: disk_of_log.clone(), values, database: database.expect("a database") };
    bench.commit(1, &RECORDS);
    bench.values.keep_segment(1).expect("the disk works");
    bench.remove(&[4]);
    let mut moving = bench.database.begin_moving(&|_| false).expect("little of it is needed");

    disk_of_log.fail_at(0);
    let verified = bench.database.verify_stride(Revision::default(), 10, usize::MAX);
    let error = verified.map(|verified| verified.damaged).expect_err("nobody knows what is there");
    assert!(!error.is_damage(), "{error}");
    let inspected = bench.database.inspect(&mut |_, _| {});
    let error = inspected.map(|found| found.len()).expect_err("nobody knows what is there");
    assert!(!error.is_damage(), "{error}");
    let moved = bench.database.move_some(&mut moving).expect("the disk of the database works");
    assert_eq!((moved.bytes, moved.damaged.len(), moved.unread.is_some()), (0, 0, true));
}

#[test]
fn a_database_without_a_log_does_not_guess() {
    let bench = Bench::new();
    bench.commit(1, &RECORDS);
    let Bench { disk, values, database } = bench;
    drop((values, database));
    let database = Database::open(disk, Path::new("db"), 1 << 20).expect("a database");
    let error = database.reader().expect("a reader").record(Revision::new(2, 0)).expect_err("no log");
    assert!(error.to_string().contains("without a log"), "{error}");
}
