//! What survives, what is repaired, what is refused.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use proptest::prelude::*;

use super::*;
use crate::{
    disk::{Directory, memory::MemoryDisk},
    wal::frame::{EntryKind, SECTOR},
};

fn disk(dir: &Path) -> Arc<dyn Disk> {
    Arc::new(Directory::open(dir).expect("a directory"))
}

fn write(wal: &mut Wal, index: u64, payload: &[u8]) {
    wal.append(&mut entry(index, payload), Some(index)).expect("append");
}

fn entry(index: u64, payload: &[u8]) -> FrameBuffer {
    let mut buffer = FrameBuffer::new();
    let at = LogPosition { term: 1, index };
    buffer.push(&Record::Entry { at, kind: EntryKind::Batch, payload: Bytes::copy_from_slice(payload) });
    buffer
}

fn payload(index: u64) -> Vec<u8> {
    let len = 40 + (index as usize * 977) % 3000;
    (0..len).map(|place| (index as usize * 31 + place) as u8 | 1).collect()
}

fn head_file(dir: &Path) -> PathBuf {
    dir.join(file_name(head_sequence(dir)))
}

fn head_sequence(dir: &Path) -> u32 {
    sequences(&*disk(dir)).expect("list").pop().expect("a segment")
}

fn read_head(dir: &Path) -> Vec<u8> {
    read_written(&*disk(dir), head_sequence(dir)).expect("read")
}

/// Where the written part of the head ends.
fn written(dir: &Path) -> usize {
    let file = read_head(dir);
    file.iter().rposition(|&byte| byte != 0).expect("not empty") + 1
}

fn indexes(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(|entry| entry.at.index).collect()
}

#[test]
fn what_was_appended_comes_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (mut wal, _) = Wal::open(disk(dir.path()), false, None).expect("open");
    for index in 0..50 {
        write(&mut wal, index, &payload(index));
    }
    let state = HardState { term: 7, voted_for: 9, committed: true };
    let mut buffer = FrameBuffer::new();
    buffer.push(&Record::HardState(state));
    buffer.push(&Record::Truncate { last: Some(LogPosition { term: 1, index: 39 }) });
    wal.append(&mut buffer, None).expect("append");
    drop(wal);

    let (_, recovered) = Wal::open(disk(dir.path()), false, None).expect("open");
    assert_eq!(recovered.hard_state, Some(state));
    assert_eq!(indexes(&recovered), (0..40).collect::<Vec<_>>());
    assert!(recovered.entries.iter().all(|entry| entry.payload[..] == payload(entry.at.index)));
    assert_eq!(recovered.repaired, None);
}

#[test]
fn segments_rotate_and_are_deleted_once_purged() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (mut wal, _) = Wal::open(disk(dir.path()), false, None).expect("open");
    let big = vec![7u8; 9 * 1024 * 1024];
    for index in 0..20 {
        write(&mut wal, index, &big);
    }
    assert_eq!(wal.sealed().len(), 2);
    wal.set_hard_state(HardState { term: 3, voted_for: 1, committed: true });
    let upto = LogPosition { term: 1, index: 8 };
    let mut buffer = FrameBuffer::new();
    buffer.push(&Record::Purge { upto });
    wal.append(&mut buffer, None).expect("append");
    wal.purge(upto).expect("purge");
    assert_eq!(wal.sealed().len(), 1);
    drop(wal);

    let (_, recovered) = Wal::open(disk(dir.path()), false, None).expect("open");
    assert_eq!(recovered.purged, Some(upto));
    assert_eq!(indexes(&recovered), (9..20).collect::<Vec<_>>());
}

/// No leader writes such a log, and the state machine cannot apply it.
#[test]
fn a_log_whose_terms_fall_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (mut wal, _) = Wal::open(disk(dir.path()), false, None).expect("open");
    let mut buffer = FrameBuffer::new();
    for (index, term) in [4, 3].into_iter().enumerate() {
        let at = LogPosition { term, index: index as u64 };
        buffer.push(&Record::Entry { at, kind: EntryKind::Blank, payload: Bytes::new() });
    }
    wal.append(&mut buffer, Some(1)).expect("append");
    drop(wal);
    let error = Wal::open(disk(dir.path()), true, None).expect_err("terms do not fall").to_string();
    assert!(error.contains("the term of this entry is lower"), "{error}");
}

/// The last frame is cut at every place where a power loss could cut it: whole sectors of it read
/// as they did before.
#[test]
fn a_torn_tail_is_repaired() {
    for lost_sector in 0..6 {
        let dir = tempfile::tempdir().expect("tempdir");
        let (mut wal, _) = Wal::open(disk(dir.path()), false, None).expect("open");
        for index in 0..10 {
            write(&mut wal, index, &payload(index));
        }
        let mut before = read_head(dir.path());
        write(&mut wal, 10, &[0xab; 2900]);
        drop(wal);
        let end = written(dir.path());
        let start = before.iter().rposition(|&byte| byte != 0).expect("written") + 1;
        before.resize(end + SECTOR, 0);
        let sector = (start / SECTOR + lost_sector) * SECTOR;
        if sector >= end {
            continue;
        }
        let file = fs::File::options().write(true).open(head_file(dir.path())).expect("open");
        file.write_all_at(&before[sector..sector + SECTOR], sector as u64).expect("tear");

        let (mut wal, recovered) = Wal::open(disk(dir.path()), false, None).expect("a torn tail is repaired");
        assert_eq!(indexes(&recovered), (0..10).collect::<Vec<_>>(), "sector {lost_sector}");
        assert!(recovered.repaired.is_some());
        write(&mut wal, 10, b"again");
        drop(wal);
        let (_, recovered) = Wal::open(disk(dir.path()), false, None).expect("open");
        assert_eq!(recovered.entries.len(), 11);
        assert_eq!(fs::metadata(head_file(dir.path())).expect("stat").len(), u64::from(SEGMENT_LEN));
    }
}

#[test]
fn a_flipped_bit_is_refused_and_the_file_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (mut wal, _) = Wal::open(disk(dir.path()), false, None).expect("open");
    for index in 0..10 {
        write(&mut wal, index, &payload(index));
    }
    drop(wal);
    let path = head_file(dir.path());
    let good = read_head(dir.path());
    let end = written(dir.path());
    for place in (0..end).step_by(13).chain(end - 40..end) {
        let file = fs::File::options().write(true).open(&path).expect("open");
        file.write_all_at(&[good[place] ^ 0x10], place as u64).expect("flip");
        match Wal::open(disk(dir.path()), false, None) {
            // Padding is not covered, and holds nothing.
            Ok((_, recovered)) => {
                assert_eq!(indexes(&recovered), (0..10).collect::<Vec<_>>(), "byte {place}")
            }
            Err(error) => assert!(error.to_string().contains("00000001.wal"), "{error}"),
        }
        file.write_all_at(&good[place..=place], place as u64).expect("restore");
    }
}

#[test]
fn a_log_that_is_gone_is_not_begun_again() {
    let dir = tempfile::tempdir().expect("tempdir");
    assert!(Wal::open(disk(dir.path()), true, None).is_err());
    assert!(fs::read_dir(dir.path()).expect("list").next().is_none(), "nothing was made up");
}

fn read(wal: &Wal, from: u64, until: u64, bytes: usize) -> Vec<(LogPosition, EntryKind, Bytes)> {
    let found = wal.reader().read(from, until, bytes).expect("the log can be read");
    found.into_iter().map(|entry| (entry.at, entry.kind, entry.payload)).collect()
}

/// Whatever is asked for is found, before and after the log is opened again, however it was cut
/// and went on meanwhile.
#[test]
fn entries_are_read_back_from_anywhere() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (mut wal, _) = Wal::open(disk(dir.path()), false, None).expect("open");
    // What the log holds, by index: the term says which of them it is.
    let mut expected: Vec<LogPosition> = Vec::new();
    let mut random = 12345_u64;
    for term in 1..60 {
        let mut buffer = FrameBuffer::new();
        let mut other = FrameBuffer::new();
        if term > 1 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let keep = expected.len() - (random >> 33) as usize % expected.len().min(60);
            expected.truncate(keep);
            buffer.push(&Record::Truncate { last: expected.last().copied() });
        }
        for number in 0..50 {
            let at = LogPosition { term, index: expected.len() as u64 };
            let payload = Bytes::from(payload(at.index));
            let frame = if number % 2 == 0 { &mut buffer } else { &mut other };
            frame.push(&Record::Entry { at, kind: EntryKind::Batch, payload });
            expected.push(at);
            // Several writes in one frame, as the flusher gathers them, and frames of one entry.
            if number % 2 == 1 {
                buffer.absorb(&mut other);
            }
            if number % (1 + term) == 0 && number % 2 == 1 {
                wal.append(&mut buffer, Some(at.index)).expect("append");
            }
        }
        wal.append(&mut buffer, Some(expected.len() as u64 - 1)).expect("append");
    }
    for _ in 0..2 {
        for from in 0..expected.len() as u64 {
            let read = read(&wal, from, from + 40, usize::MAX);
            let until = (from as usize + 40).min(expected.len());
            let found: Vec<LogPosition> = read.iter().map(|(at, ..)| *at).collect();
            assert_eq!(found, expected[from as usize..until], "from {from}");
            assert!(read.iter().all(|(at, _, bytes)| bytes[..] == payload(at.index)));
        }
        let all = read(&wal, 0, u64::MAX, usize::MAX);
        assert_eq!(all.len(), expected.len());
        assert!(read(&wal, expected.len() as u64, u64::MAX, usize::MAX).is_empty());
        drop(wal);
        wal = Wal::open(disk(dir.path()), true, None).expect("open").0;
    }
}

/// Three segments, of which two are sealed. Each entry has four megabytes.
fn three_segments(dir: &Path) -> (Wal, u64) {
    let (mut wal, _) = Wal::open(disk(dir), false, None).expect("open");
    let piece = vec![7_u8; 4 * 1024 * 1024];
    let mut count = 0;
    while wal.sealed().len() < 2 {
        write(&mut wal, count, &piece);
        count += 1;
    }
    (wal, count)
}

fn bytes_on_disk(dir: &Path, sequence: u32) -> u64 {
    fs::metadata(dir.join(file_name(sequence))).expect("stat").len()
}

fn reserve_again(dir: &Path, sequence: u32) {
    let file = fs::File::options().write(true).open(dir.join(file_name(sequence))).expect("open");
    file.set_len(u64::from(SEGMENT_LEN)).expect("set the length");
}

/// The seal is on the disk, and what the segment did not use was not given back.
#[test]
fn a_segment_that_goes_on_behind_its_seal_is_read_to_the_seal() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (wal, count) = three_segments(dir.path());
    let sealed_bytes = [1, 2].map(|sequence| bytes_on_disk(dir.path(), sequence));
    assert!(sealed_bytes.iter().all(|bytes| *bytes < u64::from(SEGMENT_LEN)));
    for sequence in [1, 2] {
        reserve_again(dir.path(), sequence);
    }
    // While the log is open.
    assert_eq!(read(&wal, 0, u64::MAX, usize::MAX).len() as u64, count);
    drop(wal);
    let (wal, recovered) = Wal::open(disk(dir.path()), true, None).expect("open");
    assert_eq!(indexes(&recovered), (0..count).collect::<Vec<_>>());
    assert_eq!(read(&wal, 0, u64::MAX, usize::MAX).len() as u64, count);
    assert_eq!([1, 2].map(|sequence| bytes_on_disk(dir.path(), sequence)), sealed_bytes);
}

/// The crash came before the next segment was begun, too.
#[test]
fn a_log_whose_last_segment_is_sealed_goes_on_in_a_new_one() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (wal, count) = three_segments(dir.path());
    drop(wal);
    fs::remove_file(dir.path().join(file_name(3))).expect("remove");
    fs::write(dir.path().join("00000003.new"), "not even a frame").expect("write");
    reserve_again(dir.path(), 2);
    let (mut wal, recovered) = Wal::open(disk(dir.path()), true, None).expect("open");
    let until = count - 1;
    assert_eq!(indexes(&recovered), (0..until).collect::<Vec<_>>());
    assert!(!dir.path().join("00000003.new").exists());
    write(&mut wal, until, b"in the third segment");
    assert_eq!(read(&wal, 0, u64::MAX, usize::MAX).len() as u64, count);
    // What is purged goes, however long its file is.
    reserve_again(dir.path(), 1);
    let upto = LogPosition { term: 1, index: until - 1 };
    wal.purge(upto).expect("purge");
    assert_eq!(wal.sealed().len(), 0);
    assert_eq!(read(&wal, until, u64::MAX, usize::MAX).len(), 1);
}

#[test]
fn a_segment_without_the_frame_that_it_began_with_is_refused() {
    for contents in [vec![], vec![0; 4096], vec![0; SEGMENT_LEN as usize]] {
        let dir = tempfile::tempdir().expect("tempdir");
        let (wal, _) = three_segments(dir.path());
        drop(wal);
        let path = dir.path().join(file_name(3));
        fs::write(&path, &contents).expect("write");
        let error = Wal::open(disk(dir.path()), true, None).expect_err("a vote may be missing").to_string();
        assert!(error.contains("00000003.wal is damaged: at byte 0"), "{error}");
        assert_eq!(fs::metadata(&path).expect("stat").len(), contents.len() as u64, "nothing was changed");
    }
}

/// The name of a segment that may not survive a crash is no place to write to.
#[test]
fn a_segment_whose_name_is_not_durable_is_not_written_to() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open_small(&disk, false).expect("open");
    write(&mut wal, 0, &payload(0));
    disk.break_directory_sync();
    let refused = (1..1000).find_map(|index| {
        let mut buffer = entry(index, &payload(index));
        wal.append(&mut buffer, Some(index)).err().map(|error| (index, error.to_string()))
    });
    let (index, error) = refused.expect("a second segment is needed");
    assert!(error.starts_with("sync "), "{error}");
    drop(wal);
    for is_kept in [false, true] {
        let (_, recovered) = open_small(&disk.after_power_loss(|| is_kept), true).expect("open");
        assert_eq!(indexes(&recovered), (0..index).collect::<Vec<_>>());
    }
}

/// The disk is full when the log needs its next segment. Nothing is written then, and with space again
/// the log goes on with the same frame.
#[test]
fn a_log_without_space_for_a_segment_goes_on_when_there_is_some() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open_small(&disk, false).expect("open");
    assert!(wal.reserve_next().expect("there is room"));
    disk.limit_room(Some(0));
    let mut index = 0;
    let mut buffer = loop {
        let mut buffer = entry(index, &payload(index));
        match wal.append(&mut buffer, Some(index)) {
            Ok(_) => index += 1,
            Err(StorageError::NoSpace { .. }) => break buffer,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(wal.sealed().len(), 1, "the segment that was reserved ahead was used");
    assert!(!wal.reserve_next().expect("a full disk is no error"));
    assert!(wal.append(&mut buffer, Some(index)).is_err(), "there still is no room");
    for is_kept in [false, true] {
        let (_, recovered) = open_small(&disk.after_power_loss(|| is_kept), true).expect("a sound log");
        assert_eq!(indexes(&recovered), (0..index).collect::<Vec<_>>());
    }
    disk.limit_room(None);
    wal.append(&mut buffer, Some(index)).expect("there is room");
    write(&mut wal, index + 1, b"one more");
    drop(wal);
    let (_, recovered) = open_small(&disk.after_power_loss(|| false), true).expect("a sound log");
    assert_eq!(indexes(&recovered), (0..=index + 1).collect::<Vec<_>>());
}

fn open_small(disk: &MemoryDisk, has_begun: bool) -> Result<(Wal, Recovered), StorageError> {
    Wal::open_with_segments_of(16 * 1024, Arc::new(disk.clone()), has_begun, None)
}

/// What was acknowledged before the power failed.
#[derive(Debug, Default)]
struct Acknowledged {
    last: Option<u64>,
    purged: Option<u64>,
    term: u64,
}

/// Entries in several segments, votes, cuts and purges, until the power fails.
fn write_until_the_power_fails(disk: &MemoryDisk) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let Ok((mut wal, _)) = open_small(disk, false) else { return acknowledged };
    for index in 0..60 {
        let mut buffer = FrameBuffer::new();
        let term = 1 + index / 20;
        let state = HardState { term, voted_for: 1, committed: true };
        if index % 20 == 0 {
            buffer.push(&Record::HardState(state));
        }
        buffer.absorb(&mut entry(index, &payload(index)));
        // Sometimes the space of a segment is reserved ahead, and sometimes when it is needed.
        if index % 7 == 3 && wal.reserve_next().is_err() {
            break;
        }
        if wal.append(&mut buffer, Some(index)).is_err() {
            break;
        }
        wal.set_hard_state(state);
        acknowledged.last = Some(index);
        acknowledged.term = term;
        if index % 15 == 14 {
            let upto = LogPosition { term: 1, index: index - 10 };
            buffer.push(&Record::Purge { upto });
            if wal.append(&mut buffer, None).is_err() {
                break;
            }
            acknowledged.purged = Some(upto.index);
            if wal.purge(upto).is_err() {
                break;
            }
        }
    }
    acknowledged
}

/// The power fails before every single operation of the disk, and each time what was not synced is
/// kept in several ways. All that was acknowledged is there afterwards, and the log goes on.
#[test]
fn what_was_acknowledged_survives_a_power_loss_at_any_operation() {
    let whole = MemoryDisk::default();
    assert_eq!(write_until_the_power_fails(&whole).last, Some(59));
    assert!(whole.operations() > 120, "each entry is a write and a sync");
    let mut random = 7_u64;
    for operation in 0..whole.operations() {
        let disk = MemoryDisk::default();
        disk.fail_at(operation);
        let acknowledged = write_until_the_power_fails(&disk);
        for way in 0..4 {
            let found = disk.after_power_loss(|| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                match way {
                    0 => false,
                    1 => true,
                    _ => random >> 63 == 0,
                }
            });
            let opened = open_small(&found, acknowledged.last.is_some());
            let (mut wal, recovered) = opened.unwrap_or_else(|error| panic!("{operation}, {way}: {error}"));
            let indexes = indexes(&recovered);
            let last = recovered.entries.last().map(|entry| entry.at.index);
            assert!(last >= acknowledged.last, "{operation}, {way}: {last:?} after {acknowledged:?}");
            assert!(last <= Some(acknowledged.last.map_or(0, |last| last + 1)), "{operation}, {way}");
            let purged = recovered.purged.map(|purged| purged.index);
            assert!(purged >= acknowledged.purged, "{operation}, {way}");
            let first = purged.map_or(0, |purged| purged + 1);
            assert_eq!(indexes, (first..last.map_or(0, |last| last + 1)).collect::<Vec<_>>());
            assert!(recovered.entries.iter().all(|entry| entry.payload[..] == payload(entry.at.index)));
            assert!(recovered.hard_state.map_or(0, |state| state.term) >= acknowledged.term);
            let next = last.map_or(0, |last| last + 1);
            write(&mut wal, next, b"after the power loss");
            drop(wal);
            let (_, recovered) = open_small(&found, true).expect("open");
            assert_eq!(recovered.entries.last().map(|entry| entry.at.index), Some(next));
        }
    }
}

#[test]
fn only_the_owner_can_read_a_segment() {
    let dir = tempfile::tempdir().expect("tempdir");
    drop(Wal::open(disk(dir.path()), false, None).expect("open"));
    let mode = fs::metadata(head_file(dir.path())).expect("stat").mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// A log of several segments is read through by many small reads. What they cost is the log once.
#[test]
fn reading_a_long_log_costs_its_length() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (mut wal, _) = Wal::open(disk(dir.path()), false, None).expect("open");
    let piece = vec![7_u8; 32 * 1024];
    let count = 5000;
    for first in (0..count).step_by(20) {
        let mut buffer = FrameBuffer::new();
        for index in first..first + 20 {
            let at = LogPosition { term: 1, index };
            buffer.push(&Record::Entry { at, kind: EntryKind::Batch, payload: Bytes::from(piece.clone()) });
        }
        wal.append(&mut buffer, Some(first + 19)).expect("append");
    }
    assert_eq!(wal.sealed().len(), 2);
    let (mut next, mut stretches) = (0, 0);
    while next < count {
        let entries = read(&wal, next, count, 1024 * 1024);
        assert!(entries.len() <= 1024 * 1024 / piece.len(), "no more than was asked for");
        let (first, last) = (wal.stretch(next), wal.stretch(next + entries.len() as u64 - 1));
        for stretch in [first, last] {
            assert!(stretch <= 1024 * 1024, "{stretch} bytes are looked through for one entry");
        }
        next += entries.len() as u64;
        stretches += 1;
    }
    assert_eq!(stretches, count.div_ceil(32));
    // What is purged is not there, and what is left is.
    let upto = LogPosition { term: 1, index: 2500 };
    wal.purge(upto).expect("purge");
    assert_eq!(wal.sealed().len(), 1);
    assert!(read(&wal, 0, count, usize::MAX).is_empty());
    assert_eq!(read(&wal, 2501, count, usize::MAX).len(), 2499);
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![0..4_u64, Just(u64::MAX - 1), Just(u64::MAX - 2), any::<u64>().prop_map(|any| any / 2)]
}

fn any_position() -> impl Strategy<Value = LogPosition> {
    (any_number(), any_number()).prop_map(|(term, index)| LogPosition { term, index })
}

fn any_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        any_position().prop_map(|at| Record::Entry { at, kind: EntryKind::Blank, payload: Bytes::new() }),
        (0..4_u64).prop_map(|index| {
            let at = LogPosition { term: 1, index };
            Record::Entry { at, kind: EntryKind::Blank, payload: Bytes::new() }
        }),
        prop::option::of(any_position()).prop_map(|last| Record::Truncate { last }),
        any_position().prop_map(|upto| Record::Purge { upto }),
        any_position().prop_map(|at| Record::Committed { at }),
        Just(Record::Seal),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever frames say whose checksums hold, the answer is a log or a refusal.
    #[test]
    fn any_records_are_taken_or_refused(
        frames in prop::collection::vec(prop::collection::vec(any_record(), 0..4), 1..6)
    ) {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut segment: Option<Segment> = None;
        for records in frames {
            let mut buffer = FrameBuffer::new();
            records.iter().for_each(|record| buffer.push(record));
            match &mut segment {
                Some(segment) => drop(segment.write(&mut buffer).expect("write")),
                None => {
                    let blank = Blank::reserve(&*disk(dir.path()), 1, SEGMENT_LEN).expect("there is room");
                    let created = Segment::create(&*disk(dir.path()), blank, &mut buffer);
                    segment = Some(created.expect("create"));
                }
            }
        }
        match Wal::open(disk(dir.path()), true, None) {
            Ok((wal, recovered)) => {
                let found = read(&wal, indexes(&recovered).first().copied().unwrap_or(0), u64::MAX, usize::MAX);
                prop_assert!(found.len() >= recovered.entries.len());
            }
            Err(error) => prop_assert!(error.to_string().contains("is damaged"), "{}", error),
        }
    }

    /// The same for frames that do not even hold records.
    #[test]
    fn any_payload_is_taken_or_refused(payload in prop::collection::vec(0..8_u8, 0..60)) {
        let _ = frame::records(payload.clone().into());
        let most = payload.iter().map(|byte| if *byte == 7 { 0xff } else { *byte }).collect::<Vec<_>>();
        if let Some(records) = frame::records(most.into()) {
            let _ = frame::reach(&records);
        }
    }
}
