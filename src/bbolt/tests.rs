//! What is written is read again; what is damaged is refused, or harmless.

use std::{collections::BTreeMap, io::Read, path::Path, sync::Arc};

use bytes::Bytes;
use flate2::read::GzDecoder;
use proptest::prelude::*;

use super::{bucket::Entry, *};
use crate::disk::{Disk, DiskFile, memory::MemoryDisk};

/// Keys and values of buckets.
type Content = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

const NAMES: [&str; 4] = ["alarm", "key", "lease", "meta"];

fn keys() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let key = prop::collection::vec(any::<u8>(), 1..40);
    // Most values are short, and some longer than a page.
    let length = prop_oneof![9 => 0_usize..60, 2 => 60_usize..700, 1 => 700_usize..9000];
    let value = (length, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
    prop_oneof![
        3 => prop::collection::btree_map(key.clone(), value.clone(), 0..8),
        1 => prop::collection::btree_map(key, value, 100..600),
    ]
}

fn contents() -> impl Strategy<Value = Content> {
    prop::collection::vec(keys(), NAMES.len()).prop_map(|buckets| NAMES.into_iter().zip(buckets).collect())
}

fn page_sizes() -> impl Strategy<Value = usize> {
    prop_oneof![Just(512), Just(1024), Just(4096), Just(65536)]
}

fn write(content: &Content, page_bytes: usize) -> Vec<u8> {
    let mut counted = Builder::new(Counted, page_bytes);
    let mut written = Builder::new(Written::default(), page_bytes);
    for (name, keys) in content {
        counted.begin(name);
        written.begin(name);
        for (key, value) in keys {
            counted.put(key.len(), value.len());
            written.put(key.clone().into(), value.clone().into());
        }
        counted.end();
        written.end();
    }
    let (layout, Counted) = counted.finish();
    let (same, mut pages) = written.finish();
    assert_eq!(layout, same, "lengths alone say where everything will be");
    let mut file = layout.head();
    file.extend_from_slice(&pages.take(usize::MAX));
    assert_eq!(file.len() as u64, layout.file_bytes());
    file
}

fn open(bytes: &[u8]) -> Result<BboltFile, BboltError> {
    let disk = MemoryDisk::default();
    let file: Arc<dyn DiskFile> = disk.create(Path::new("db")).expect("there is room").into();
    file.write_at(bytes, 0).expect("there is room");
    BboltFile::open(file, bytes.len() as u64)
}

fn read(bytes: &[u8]) -> Result<BTreeMap<Bytes, BTreeMap<Bytes, Bytes>>, BboltError> {
    let mut content = BTreeMap::new();
    for bucket in open(bytes)?.root().entries()? {
        let bucket = bucket?;
        let mut keys = BTreeMap::new();
        if let Some(tree) = bucket.bucket {
            for entry in tree.entries()? {
                let entry = entry?;
                keys.insert(entry.key, entry.value);
            }
        }
        content.insert(bucket.key, keys);
    }
    Ok(content)
}

/// Whether both are the same, in other types.
fn is_same(content: &Content, read: &BTreeMap<Bytes, BTreeMap<Bytes, Bytes>>) -> bool {
    let flat = |name: &[u8], key: &[u8], value: &[u8]| (name.to_vec(), key.to_vec(), value.to_vec());
    let expected =
        content.iter().flat_map(|(name, keys)| keys.iter().map(move |(k, v)| flat(name.as_bytes(), k, v)));
    let found = read.iter().flat_map(|(name, keys)| keys.iter().map(move |(k, v)| flat(name, k, v)));
    content.len() == read.len() && expected.eq(found)
}

fn some_file() -> Vec<u8> {
    let value = |length: usize| vec![7; length];
    let numbered = |count: u32| (0..count).map(|number| (number.to_be_bytes().to_vec(), value(20)));
    let content = Content::from([
        ("key", numbered(700).chain([(b"long".to_vec(), value(10_000))]).collect()),
        ("lease", numbered(2).collect()),
        ("alarm", BTreeMap::new()),
    ]);
    write(&content, 1024)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_again(content in contents(), page_bytes in page_sizes()) {
        let read = read(&write(&content, page_bytes)).expect("the file is whole");
        prop_assert!(is_same(&content, &read));
    }

    #[test]
    fn any_bytes_are_refused_or_read(mut bytes in prop::collection::vec(any::<u8>(), 0..6000)) {
        let _ = read(&bytes);
        // With a beginning that is right.
        let file = some_file();
        let head = 2048.min(bytes.len());
        bytes[..head].copy_from_slice(&file[..head]);
        let _ = read(&bytes);
    }
}

#[test]
fn a_flipped_bit_is_refused_with_its_place_or_is_harmless() {
    let file = some_file();
    let (mut refused, mut harmless) = (0, 0);
    for at in (0..file.len()).step_by(13) {
        let mut flipped = file.clone();
        flipped[at] ^= 1 << (at % 8);
        match read(&flipped) {
            Ok(_) => harmless += 1,
            Err(BboltError::Damaged { offset, .. }) => {
                assert!(offset <= file.len() as u64 * 2, "byte {at}: an error names a place: {offset}");
                refused += 1;
            }
            Err(BboltError::Io(error)) => panic!("byte {at}: nothing outside of the file is read: {error}"),
        }
    }
    // A bit of a value is not covered by anything; a snapshot has a checksum of its own.
    assert!(refused > 100 && harmless > 100, "{refused} refused, {harmless} harmless");
}

#[test]
fn a_file_that_was_cut_short_is_refused_wherever_it_was() {
    let file = some_file();
    for length in (0..file.len()).step_by(97) {
        let refused = read(&file[..length]);
        assert!(matches!(refused, Err(BboltError::Damaged { .. })), "{length} bytes: {refused:?}");
    }
}

#[test]
fn one_valid_meta_page_is_enough_and_the_newer_one_counts() {
    let file = some_file();
    let good = read(&file).expect("it is whole");
    for at in [20, 1024 + 20] {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        assert_eq!(read(&damaged).expect("the other one is whole"), good);
    }
    let mut damaged = file.clone();
    damaged[20] ^= 1;
    damaged[1024 + 20] ^= 1;
    let refused = read(&damaged).expect_err("there is no state");
    assert!(matches!(refused, BboltError::Damaged { flaw: Flaw::NoMeta, .. }), "{refused}");
}

/// Pages of 1 KiB, a free list, pages that were freed, a bucket in a bucket, a value of five pages: as bbolt 1.5 wrote it.
fn file_of_bbolt() -> Vec<u8> {
    let packed = &include_bytes!("../../tests/corpus/bbolt/nested.db.gz")[..];
    let mut file = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut file).expect("it was packed");
    file
}

#[test]
fn a_file_that_bbolt_wrote_is_read() {
    let file = open(&file_of_bbolt()).expect("it is whole");
    let bucket = |name: &str| file.bucket(name.as_bytes()).expect("the root can be read").expect("a bucket");
    let keys = bucket("key").entries().expect("a tree").map(|entry| entry.expect("it is whole"));
    let keys: Vec<(Bytes, Bytes)> = keys.map(|entry| (entry.key, entry.value)).collect();
    let kept = (0..300_usize).filter(|number| number % 4 == 3);
    let expected =
        kept.map(|number| (format!("k{number:04}").into(), vec![number as u8; number % 40].into()));
    let expected: Vec<(Bytes, Bytes)> = expected.chain([("long".into(), vec![b'x'; 5000].into())]).collect();
    assert_eq!(keys, expected);
    let outer: Vec<Entry> =
        bucket("outer").entries().expect("a tree").map(|entry| entry.expect("it is whole")).collect();
    let [inner, z] = &outer[..] else { panic!("{outer:?}") };
    assert_eq!((&inner.key[..], &z.key[..], &z.value[..]), (&b"inner"[..], &b"z"[..], &b"2"[..]));
    let inner = inner.bucket.as_ref().expect("a bucket").entries().expect("a tree");
    let inner: Vec<(Bytes, Bytes)> =
        inner.map(|entry| entry.expect("it is whole")).map(|entry| (entry.key, entry.value)).collect();
    assert_eq!(inner, [("a".into(), "1".into())]);
    assert_eq!(bucket("empty").entries().expect("a tree").count(), 0);
    assert!(file.bucket(b"none").expect("the root can be read").is_none());
}

#[test]
fn a_damaged_file_that_bbolt_wrote_ends_in_a_value_too() {
    let file = file_of_bbolt();
    for at in (0..file.len()).step_by(37) {
        let mut flipped = file.clone();
        flipped[at] ^= 1 << (at % 8);
        let _ = read(&flipped);
    }
    // bbolt takes space ahead, behind the pages of the newest state.
    let state = open(&file).expect("it is whole").state_bytes() as usize;
    for length in (0..state).step_by(1531) {
        assert!(read(&file[..length]).is_err(), "{length} bytes");
    }
    assert!(read(&file[..state]).is_ok());
}

/// A page that is its own child would be read for ever.
#[test]
fn a_tree_that_leads_back_into_itself_ends() {
    let mut file = some_file();
    let is_branch = |page: &&mut [u8]| page[8] == 1;
    let branch = file.chunks_mut(1024).skip(3).find(is_branch).expect("seven hundred keys need a branch");
    let own = branch[..8].to_vec();
    let count = usize::from(branch[10]);
    for at in 0..count {
        branch[16 + at * 16 + 8..][..8].copy_from_slice(&own);
    }
    let refused = read(&file).expect_err("it never ends");
    assert!(
        matches!(refused, BboltError::Damaged { flaw: Flaw::TooDeep | Flaw::TooManyPages, .. }),
        "{refused}"
    );
}
