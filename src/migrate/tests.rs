//! The way out and back in, and logs that are damaged.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;

use super::{
    etcd_wal::WalFlaw,
    internal::{Entry, WalRecord},
    *,
};
use crate::{
    apply::{Command, Put, StateMachine, tape},
    bbolt::BboltFile,
    disk::{Directory, Disk, memory::MemoryDisk},
    limits,
    mvcc::{HashWalk, Step},
    pb::etcdserverpb::PutRequest,
    storage::{Database, Draft},
    types::{Caller, LeaseId},
};

const CACHE_BYTES: usize = 1 << 20;

fn database(home: &TempDir, name: &str) -> Arc<Database> {
    Arc::new(Database::at(&home.path().join(name), CACHE_BYTES).expect("a database"))
}

/// Applies a script, and stores the result.
fn write(database: &Arc<Database>, script: &str) {
    let mut state = StateMachine::open(Arc::clone(database)).expect("a state");
    for (_, command) in tape::parse(script) {
        state.execute(&command.by(Caller::Nobody)).expect("the database can be read");
    }
    replay::store(&mut state, database).expect("there is room");
}

/// The state in words that can be compared.
fn told(database: &Arc<Database>) -> String {
    let state = StateMachine::open(Arc::clone(database)).expect("a state");
    let mut walk = HashWalk::new(0);
    while walk.step(&state.mvcc).expect("the newest revision can be hashed") == Step::More {}
    let hash = walk.finish().expect("the database can be read");
    let leases: Vec<_> = state.lessor.leases().map(|(id, lease)| (id, lease.clone())).collect();
    let alarms: Vec<_> = state.alarms.active().collect();
    format!("{hash:?} {leases:?} {alarms:?} {:?}", state.auth)
}

fn image_of(database: &Database) -> Vec<u8> {
    let place = LogPlace { term: 3, index: 17 };
    let image = Image::lay_out(database.reader().expect("a reader"), Some(place), &|| true);
    let image = image.expect("the database can be read").expect("it is wanted");
    let mut pages = image.pages().expect("the database can be read");
    let mut file = Vec::new();
    // In pieces of a size that is none of a page.
    while let Some(piece) = pages.next(1000).expect("the database can be read") {
        file.extend_from_slice(&piece);
    }
    assert_eq!(file.len() as u64, image.file_bytes());
    file
}

fn taken_in(home: &TempDir, file: &[u8], name: &str) -> Result<(Arc<Database>, TakenIn), IntakeError> {
    let memory = MemoryDisk::default();
    let source = memory.create(Path::new("db")).expect("there is room");
    source.write_at(file, 0).expect("there is room");
    let source = BboltFile::open(source.into(), file.len() as u64)?;
    let disk: Arc<dyn Disk> = Arc::new(Directory::open(home.path()).expect("a directory"));
    let mut draft = Draft::begin(&disk, Path::new(name)).expect("a draft");
    let taken = take_in(&source, &mut draft, &mut |_| {})?;
    draft.finish().expect("there is room");
    Ok((database(home, name), taken))
}

const SCRIPT: &str = "grant 7 600; grant 9 100; left 9 1500; put a 1 lease 7; put b 2 lease 9; put a 3; del b; put c 4; \
    txn { put d 5; put e 6 }; compact 6; alarm nospace 12; role add r; role permit r read k..l; role permit r write m; \
    user add u $2a$10$hash; user add nobody _; user grant u r; role add root; user add root h; user grant root root";

#[test]
fn a_state_goes_out_and_comes_back_the_same() {
    let home = tempfile::tempdir().expect("a directory");
    for (name, script) in [("empty", ""), ("some", SCRIPT)] {
        let ours = database(&home, name);
        write(&ours, script);
        let (back, taken) = taken_in(&home, &image_of(&ours), &format!("{name}-back")).expect("it is whole");
        // The noted remaining TTL is in whole seconds there, rounded up.
        assert_eq!(told(&back), told(&ours).replace("remaining_millis: 1500", "remaining_millis: 2000"));
        assert_eq!((taken.consistent_index, taken.term), (17, 3));
    }
}

#[test]
fn a_snapshot_with_a_flipped_bit_is_refused_or_harmless() {
    let home = tempfile::tempdir().expect("a directory");
    let ours = database(&home, "db");
    write(&ours, SCRIPT);
    let file = image_of(&ours);
    let mut refused = 0;
    for at in (0..file.len()).step_by(41) {
        let mut flipped = file.clone();
        flipped[at] ^= 1 << (at % 8);
        // A value may be another one: a snapshot has a checksum over all of it, which is compared before.
        match taken_in(&home, &flipped, "flipped") {
            Ok((database, _)) => drop(StateMachine::open(database)),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused}");
}

/// A log of etcd in the making.
#[derive(Default)]
struct Log {
    segments: Vec<Vec<u8>>,
    crc: u32,
}

const ENTRY: i64 = 2;
const STATE: i64 = 3;
const CRC: i64 = 4;

impl Log {
    fn segment(&mut self) {
        self.segments.push(Vec::new());
        let crc = self.crc;
        self.record(WalRecord { kind: CRC, crc, data: Bytes::new() });
    }

    fn push(&mut self, kind: i64, data: Vec<u8>) {
        self.crc = crc32c::crc32c_append(self.crc, &data);
        let crc = self.crc;
        self.record(WalRecord { kind, crc, data: data.into() });
    }

    fn record(&mut self, record: WalRecord) {
        let record = record.encode_to_vec();
        let padding = (8 - record.len() % 8) % 8;
        let mut length = record.len() as u64;
        if padding > 0 {
            length |= (0x80 | padding as u64) << 56;
        }
        let segment = self.segments.last_mut().expect("a segment was begun");
        segment.extend_from_slice(&length.to_le_bytes());
        segment.extend_from_slice(&record);
        segment.extend_from_slice(&[0; 8][..padding]);
    }

    fn put(&mut self, term: u64, index: u64, key: &'static str, value: &[u8]) {
        let put =
            PutRequest { key: key.into(), value: Bytes::copy_from_slice(value), ..PutRequest::default() };
        let put = put.encode_to_vec();
        let mut data = vec![4 << 3 | 2];
        prost::encoding::encode_varint(put.len() as u64, &mut data);
        data.extend_from_slice(&put);
        self.push(ENTRY, Entry { kind: 0, term, index, data: data.into() }.encode_to_vec());
    }

    /// On a disk, each segment with space behind its end.
    fn wal(&self) -> EtcdWal {
        let disk = MemoryDisk::default();
        for (at, segment) in self.segments.iter().enumerate() {
            let name = format!("{at:016x}-{:016x}.wal", at * 10);
            let file = disk.create(Path::new(&name)).expect("there is room");
            file.write_at(segment, 0).expect("there is room");
            file.set_len(segment.len() as u64 + 4096).expect("there is room");
        }
        EtcdWal::open(Arc::new(disk)).expect("it can be listed").expect("there is a log")
    }
}

fn some_log() -> Log {
    let mut log = Log::default();
    log.segment();
    log.push(1, b"whose it is".to_vec());
    log.push(5, Vec::new());
    log.put(1, 1, "a", b"1");
    log.put(1, 2, "b", b"of a leader that was replaced");
    log.put(1, 3, "c", b"of it too");
    log.push(STATE, vec![8, 2, 24, 2]);
    log.segment();
    log.put(2, 2, "b", &[7; 700]);
    log.put(2, 3, "d", b"4");
    log
}

#[test]
fn a_log_is_replayed_to_its_end_and_later_entries_replace_earlier_ones() {
    let home = tempfile::tempdir().expect("a directory");
    let (ours, expected) = (database(&home, "ours"), database(&home, "expected"));
    let wal = some_log().wal();
    let tail = wal.tail(0).expect("the log is whole");
    assert_eq!((tail.len(), tail.uncommitted(), tail.commit), (3, 1, 2));
    assert_eq!(tail.last, Some(LogPlace { term: 2, index: 3 }));
    let replayed = replay(&ours, &wal, &tail, &mut |_| {}).expect("the log can be applied");
    assert_eq!((replayed.requests, replayed.refused), (3, 0));
    let mut state = StateMachine::open(Arc::clone(&expected)).expect("a state");
    for (key, value) in [("a", Bytes::from("1")), ("b", vec![7; 700].into()), ("d", "4".into())] {
        let put = Put::new(key.into(), Some(value), Some(LeaseId::NONE), false);
        state.execute(&Command::Put(put).by(Caller::Nobody)).expect("a state");
    }
    replay::store(&mut state, &expected).expect("there is room");
    assert_eq!(told(&ours), told(&expected));

    // What the database has already is left out, and a database that has more than the log is refused.
    assert_eq!(wal.tail(2).expect("the log is whole").len(), 1);
    assert!(matches!(wal.tail(4), Err(WalError::Short { last: 3, after: 4, .. })));
}

#[test]
fn a_log_with_a_flipped_bit_is_refused_with_its_place() {
    let log = some_log();
    let whole = log.wal().tail(0).expect("it is whole").len();
    for segment in 0..log.segments.len() {
        for at in 0..log.segments[segment].len() {
            let mut flipped = Log { segments: log.segments.clone(), crc: 0 };
            flipped.segments[segment][at] ^= 1 << (at % 8);
            match flipped.wal().tail(0) {
                Err(WalError::Damaged { .. } | WalError::Gap { .. }) => {}
                // A bit of the padding, or of a length that says how much padding there is.
                Ok(tail) => assert_eq!(tail.len(), whole, "byte {at} of file {segment}: {tail:?}"),
                Err(other) => panic!("byte {at} of file {segment}: {other}"),
            }
        }
    }
}

#[test]
fn a_log_that_was_cut_short_ends_there_or_is_refused() {
    let log = some_log();
    let whole = log.wal().tail(0).expect("it is whole").len();
    for segment in 0..log.segments.len() {
        for length in 0..log.segments[segment].len() {
            let mut cut = Log { segments: log.segments.clone(), crc: 0 };
            cut.segments[segment].truncate(length);
            match cut.wal().tail(0) {
                Err(WalError::Damaged { flaw, .. }) => {
                    assert!(
                        segment == 0 || flaw != WalFlaw::CutShort,
                        "byte {length} of file {segment}: {flaw}"
                    );
                }
                Err(WalError::Gap { .. }) => assert_eq!(segment, 0),
                Ok(tail) => assert!(tail.len() <= whole),
                Err(other) => panic!("byte {length} of file {segment}: {other}"),
            }
        }
    }
}

#[test]
fn a_record_whose_second_sector_was_not_written_is_the_end() {
    let mut log = some_log();
    let whole = log.wal().tail(0).expect("it is whole").len();
    let begin = log.segments[1].len();
    log.put(2, 4, "e", &[9; 2000]);
    log.segments[1][begin.next_multiple_of(512)..begin.next_multiple_of(512) + 512].fill(0);
    let tail = log.wal().tail(0).expect("the log can be used");
    assert_eq!(tail.len(), whole);
    assert_eq!(tail.torn.as_ref().map(|(_, offset)| *offset), Some(begin as u64));
    // In a file that has a successor it is damage.
    log.segment();
    assert!(matches!(log.wal().tail(0), Err(WalError::Damaged { flaw: WalFlaw::Checksum, .. })));
}

#[test]
fn a_record_of_any_length_is_refused_before_it_is_read() {
    let mut log = some_log();
    let end = log.segments[1].len();
    for length in [u64::MAX >> 8, limits::ETCD_WAL_RECORD_BYTES_MAX + 1, 1 << 40] {
        log.segments[1].truncate(end);
        log.segments[1].extend_from_slice(&length.to_le_bytes());
        let refused = log.wal().tail(0);
        assert!(
            matches!(refused, Err(WalError::Damaged { flaw: WalFlaw::CutShort, .. })),
            "{length}: {refused:?}"
        );
    }
}
