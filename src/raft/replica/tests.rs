//! What is in a file is believed only as far as it can be.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::{
    apply::{Application, Command, Progress, Put},
    disk::memory::MemoryDisk,
    mvcc::Step,
    pb::retcd::raft as pb,
    raft::marks::Cell,
    storage::{Record, Table, meta},
    types::{Caller, KeyValue, LeaseId, Revision},
    wal::LogPosition,
};

const REV_CURRENT: i64 = 9;

fn cell(table: Table, key: &[u8], bytes: &[u8]) -> Cell {
    (table, Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(bytes)))
}

fn number(key: &[u8], number: i64) -> Cell {
    cell(Table::Meta, key, &number.to_be_bytes())
}

fn put(main: i64, create_rev: i64, version: i64) -> (Revision, Record) {
    let (create_rev, mod_rev) = (Rev(create_rev), Rev(main));
    let kv = KeyValue { key: "k".into(), create_rev, mod_rev, version, ..KeyValue::default() };
    (Revision::new(main, 0), Record::put(&kv))
}

/// Opens a file that is sound but for what the checkpoint says.
fn open(mut checkpoint: Checkpoint) -> Result<Replica, StorageError> {
    let home = tempfile::tempdir().expect("a directory");
    let database = Arc::new(Database::at(&home.path().join("db"), 1 << 20).expect("a database"));
    let sound = vec![
        number(meta::REV_CURRENT, REV_CURRENT),
        number(meta::REV_COMPACT_SCHEDULED, 3),
        number(meta::REV_COMPACT_FINISHED, 3),
        number(meta::SIZE_TOTAL, 1000),
        cell(Table::Lease, &7_i64.to_be_bytes(), &[60_i64.to_be_bytes(), 0_i64.to_be_bytes()].concat()),
    ];
    let records = vec![put(5, 4, 2), put(6, 4, 3)];
    database.commit(&Checkpoint { records, cells: sound, ..Checkpoint::default() }).expect("a commit");
    // A number of records that is not what is there is found, too; that is not what is tried here.
    let cells = std::mem::take(&mut checkpoint.cells);
    database.commit(&checkpoint).expect("a commit");
    database.commit(&Checkpoint { cells, ..Checkpoint::default() }).expect("a commit");
    Replica::open(database)
}

fn refused(what: &str, checkpoint: Checkpoint) {
    match open(checkpoint).map(drop) {
        Err(error @ StorageError::Corrupted { .. }) => {
            assert!(error.to_string().contains("/db is damaged: "), "{what}: {error}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_file_that_says_what_cannot_be_is_refused() {
    open(Checkpoint::default()).expect("a sound file");
    let records = [
        ("another revision", (Revision::new(8, 0), put(7, 4, 4).1)),
        ("no version", put(8, 4, 0)),
        ("a negative version", put(8, 4, -1)),
        ("a version without a next", put(8, 4, i64::MAX)),
        ("another version than the next", put(8, 4, 9)),
        ("created before everything", put(8, 0, 4)),
        ("created at the least number", put(8, i64::MIN, 4)),
        ("created later", put(8, 9, 1)),
        ("above the newest", put(REV_CURRENT + 1, 4, 4)),
    ];
    for (what, record) in records {
        refused(what, Checkpoint { records: vec![record], ..Checkpoint::default() });
    }
    let deleted =
        vec![(Revision::new(7, 0), Record::tombstone(b"k")), (Revision::new(7, 1), Record::tombstone(b"k"))];
    refused("deleted twice", Checkpoint { records: deleted, ..Checkpoint::default() });
    let kv = KeyValue {
        key: "of a lease".into(),
        create_rev: Rev(8),
        mod_rev: Rev(8),
        version: 1,
        lease: LeaseId(8),
        ..KeyValue::default()
    };
    let leased = vec![(Revision::new(8, 0), Record::put(&kv))];
    refused("a lease that is not there", Checkpoint { records: leased, ..Checkpoint::default() });

    let beyond = pb::LogId { term: 1, index: u64::MAX }.encode_to_vec();
    let lease = |ttl: i64| [ttl.to_be_bytes(), 0_i64.to_be_bytes()].concat();
    let cells = [
        number(meta::REV_CURRENT, 0),
        number(meta::REV_CURRENT, -1),
        number(meta::REV_CURRENT, i64::MIN),
        number(meta::REV_CURRENT, i64::MAX),
        number(meta::REV_CURRENT, 2),
        cell(Table::Meta, meta::REV_CURRENT, b"short"),
        number(meta::REV_COMPACT_SCHEDULED, REV_CURRENT + 1),
        number(meta::REV_COMPACT_SCHEDULED, -2),
        number(meta::REV_COMPACT_SCHEDULED, 2),
        number(meta::REV_COMPACT_FINISHED, 4),
        number(meta::REV_COMPACT_FINISHED, i64::MIN),
        number(meta::SIZE_TOTAL, -1),
        number(meta::SIZE_TOTAL, i64::MAX),
        number(meta::RECORD_COUNT, 3),
        number(meta::RECORD_COUNT, -1),
        cell(Table::Meta, APPLIED_CELL, b"\xff"),
        cell(Table::Meta, APPLIED_CELL, &beyond),
        cell(Table::Meta, INSTALLED_CELL, &beyond),
        cell(Table::Meta, MEMBERSHIP_CELL, b"\xff"),
        cell(Table::Lease, b"short", &lease(60)),
        cell(Table::Lease, &0_i64.to_be_bytes(), &lease(60)),
        cell(Table::Lease, &9_i64.to_be_bytes(), &lease(i64::MAX)),
        cell(Table::Lease, &9_i64.to_be_bytes(), b"short"),
        cell(Table::Alarm, b"short", b""),
        cell(Table::Alarm, b"12345678\x03", b""),
        cell(Table::Member, &1_u64.to_be_bytes(), b"{}"),
        cell(Table::Member, b"short", b"{}"),
        cell(Table::MemberRemoved, b"short", b""),
        cell(Table::AuthUser, b"user", b"{"),
        cell(Table::AuthUser, b"\xff", b"{}"),
        cell(Table::AuthRole, b"role", b"\0\0\0\0\xff\xff\xff\xff"),
        cell(Table::Meta, b"auth_revision", b"short"),
    ];
    for cell in cells {
        let what = format!("{cell:?}");
        refused(&what, Checkpoint { cells: vec![cell], ..Checkpoint::default() });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a cell says, the answer is a replica or a refusal.
    #[test]
    fn any_cell_is_taken_or_refused(
        table in prop::sample::select(Table::ALL.to_vec()),
        key in prop_oneof![
            prop::sample::select(vec![
                meta::REV_CURRENT, meta::REV_COMPACT_SCHEDULED, meta::REV_COMPACT_FINISHED, meta::SIZE_TOTAL,
                meta::RECORD_COUNT, APPLIED_CELL, MEMBERSHIP_CELL, INSTALLED_CELL, b"auth_revision",
            ]).prop_map(<[u8]>::to_vec),
            prop::collection::vec(any::<u8>(), 0..12),
            any::<i64>().prop_map(|id| id.to_be_bytes().to_vec()),
        ],
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            any::<i64>().prop_map(|number| number.to_be_bytes().to_vec()),
            (any::<i64>(), any::<i64>()).prop_map(|(a, b)| [a.to_be_bytes(), b.to_be_bytes()].concat()),
        ],
    ) {
        let cells = vec![cell(table, &key, &bytes)];
        let opened = open(Checkpoint { cells, ..Checkpoint::default() });
        let is_fine = matches!(opened, Ok(_) | Err(StorageError::Corrupted { .. }));
        prop_assert!(is_fine, "{:?}", opened.map(drop));
    }
}

/// The database cannot be read any more when a put keeps the value that its key has.
#[test]
fn a_state_with_a_part_of_an_entry_is_known_as_such() {
    let disk = MemoryDisk::default();
    // Without a cache each read of the database is one of the disk.
    let open = || Database::open(Arc::new(disk.clone()), std::path::Path::new("db"), 0).expect("a database");
    let apply = |replica: &mut Replica, number: u64, value| {
        let key = Bytes::from(format!("k{number}"));
        let put = Put::new(key, value, Some(LeaseId::NONE), false);
        let request = Command::Put(put).by(Caller::Nobody);
        let log_id = codec::log_id(LogPosition { term: 1, index: replica.applied_index() + 1 });
        replica.begin_entry(log_id);
        let mut application = Application::new(&request, false);
        while let Progress::More(rest) = replica.state.advance(application, &mut 1) {
            application = rest;
            application.digest()?;
        }
        replica.end_entry(log_id);
        Ok::<(), StorageError>(())
    };
    let database = Arc::new(open());
    let mut replica = Replica::open(database.clone()).expect("a sound database");
    // So many that the tree has leaves below its root, which stays in memory.
    for number in 0..300 {
        apply(&mut replica, number, Some(Bytes::from("v"))).expect("it reads nothing");
    }
    let (mut captured, mark) = replica.capture().expect("there is a change");
    while replica.state.gather(&mut captured) == Step::More {}
    database.commit(&captured.checkpoint).expect("the power is on");
    let body = database.reader().expect("the power is on");
    drop(replica.checkpointed(captured.rev, 0, mark, body));
    drop((replica, database));

    let mut replica = Replica::open(Arc::new(open())).expect("a sound database");
    disk.fail_at(disk.operations());
    assert!(apply(&mut replica, 7, None).is_err(), "the value before it is in the database");
    assert!(replica.is_half_applied());
}
