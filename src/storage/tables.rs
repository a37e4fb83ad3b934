//! The whole on-disk schema.
//!
//! | table | key | value |
//! |---|---|---|
//! | `rev` | main, then sub: big-endian i64 each | crc32c: little-endian u32, flags: u8, place, `mvccpb.KeyValue` |
//! | every [`Table`] | bytes | crc32c: little-endian u32, bytes |
//!
//! Bit 0 of the flags marks a tombstone, whose `KeyValue` has only the key. Bit 1 says that the value lies apart
//! ([`Values`](super::Values)): then the `KeyValue` has none, and the place of it comes first: file, offset, length,
//! and the crc32c of the value, little-endian u32 each. A checksum covers the storage key and all that follows the checksum itself, so that a record found in another
//! record's place does not pass either.

use redb::TableDefinition;

use super::codec;
use crate::types::{Rev, Revision, ValuePlace};

/// Of this schema. A file that says more was written by a newer version. In files of format 1 no value lies apart, and
/// those before [`COUNTS_CELLS`] do not say how many cells they have.
pub(super) const FORMAT_VERSION: u64 = 3;
pub(super) const COUNTS_CELLS: u64 = 3;

pub(super) type RecordKey = [u8; 16];
pub(super) type RecordsDefinition = TableDefinition<'static, &'static RecordKey, &'static [u8]>;
pub(super) type CellsDefinition = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(super) const RECORDS: RecordsDefinition = TableDefinition::new("rev");

/// The state tables. What the bytes of a cell mean is its owner's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Meta,
    Lease,
    Alarm,
    Member,
    MemberRemoved,
    AuthUser,
    AuthRole,
    V2Node,
    V2Event,
    V2Account,
}

/// Keys of [`Table::Meta`]. Numbers are big-endian and eight bytes wide.
pub(crate) mod meta {
    pub(crate) const FORMAT_VERSION: &[u8] = b"format_version";
    pub(crate) const RECORD_COUNT: &[u8] = b"record_count";
    /// Of all state tables together, with this one.
    pub(crate) const CELL_COUNT: &[u8] = b"cell_count";
    /// Stored, never derived: compaction may remove the newest record there is.
    pub(crate) const REV_CURRENT: &[u8] = b"rev_current";
    /// Reads below it are refused.
    pub(crate) const REV_COMPACT_SCHEDULED: &[u8] = b"rev_compact_scheduled";
    /// What had to go for it is gone.
    pub(crate) const REV_COMPACT_FINISHED: &[u8] = b"rev_compact_finished";
    /// High-water mark of the size that we report.
    pub(crate) const SIZE_TOTAL: &[u8] = b"size_total";
}

const TOMBSTONE: u8 = 1;
const APART: u8 = 2;
const CHECKSUM_BYTES: usize = 4;
const RECORD_HEADER_BYTES: usize = CHECKSUM_BYTES + 1;
/// Of a value that lies apart: file, offset, length, checksum.
const PLACE_BYTES: usize = 4 * size_of::<u32>();
/// What redb keeps for an entry in a page beside its key and value.
const ENTRY_OVERHEAD_BYTES: usize = 8;

const _: () = assert!(CHECKSUM_BYTES == size_of::<u32>(), "the checksum is a CRC32C");
const _: () = assert!(size_of::<RecordKey>() == 2 * size_of::<i64>(), "a key is main and sub");

impl Table {
    pub(crate) const ALL: [Table; 10] = [
        Table::Meta,
        Table::Lease,
        Table::Alarm,
        Table::Member,
        Table::MemberRemoved,
        Table::AuthUser,
        Table::AuthRole,
        Table::V2Node,
        Table::V2Event,
        Table::V2Account,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Lease => "lease",
            Table::Alarm => "alarm",
            Table::Member => "member",
            Table::MemberRemoved => "member_removed",
            Table::AuthUser => "auth_user",
            Table::AuthRole => "auth_role",
            Table::V2Node => "v2_node",
            Table::V2Event => "v2_event",
            Table::V2Account => "v2_account",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }

    pub(super) fn definition(self) -> CellsDefinition {
        TableDefinition::new(self.name())
    }
}

/// The key of a record.
pub(super) fn record_key(revision: Revision) -> RecordKey {
    assert!(is_of_a_change(revision), "revision {revision} has no place on disk");
    place(revision)
}

/// Where the records from `revision` on begin, whether or not there is one of it.
pub(super) fn place(revision: Revision) -> RecordKey {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&revision.main.0.to_be_bytes());
    key[8..].copy_from_slice(&revision.sub.to_be_bytes());
    key
}

/// What the key says, which may be damaged.
pub(super) fn revision(key: &RecordKey) -> Revision {
    let number = |at: usize| i64::from_be_bytes(key[at..at + 8].try_into().expect("eight bytes"));
    Revision::new(number(0), number(8))
}

/// The first change makes the revision after the initial one; a change has less than 2^32 parts.
pub(crate) fn is_of_a_change(revision: Revision) -> bool {
    revision.main > Rev::INITIAL && u32::try_from(revision.sub).is_ok()
}

/// Bytes that a record takes in the file, given the length of its `KeyValue`.
pub(crate) fn footprint(key_value_bytes: usize) -> u64 {
    (size_of::<RecordKey>() + RECORD_HEADER_BYTES + key_value_bytes + ENTRY_OVERHEAD_BYTES) as u64
}

/// Bytes that a cell takes in the file.
pub(crate) fn cell_footprint(key: &[u8], bytes: &[u8]) -> u64 {
    (key.len() + CHECKSUM_BYTES + bytes.len() + ENTRY_OVERHEAD_BYTES) as u64
}

/// A value that is not in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ApartValue {
    pub(super) place: ValuePlace,
    /// CRC32C of the value.
    pub(super) checksum: u32,
}

/// What a stored record consists of: whether it is a tombstone, where its value lies if not in it, and the `KeyValue`.
pub(super) type RecordFields<'a> = (bool, Option<ApartValue>, &'a [u8]);

/// Writes the stored value of a record over whatever is in `out`.
pub(super) fn seal_record(
    key: &RecordKey,
    tombstone: bool,
    apart: Option<ApartValue>,
    key_value: &[u8],
    out: &mut Vec<u8>,
) {
    out.clear();
    out.extend_from_slice(&[0; CHECKSUM_BYTES]);
    assert!(!tombstone || apart.is_none(), "a tombstone has no value");
    out.push(if tombstone { TOMBSTONE } else { u8::from(apart.is_some()) * APART });
    if let Some(ApartValue { place, checksum }) = apart {
        for number in [place.file, place.offset, place.len, checksum] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    out.extend_from_slice(key_value);
    seal(key, out);
    debug_assert_eq!(
        unseal_record(key, out),
        Some((tombstone, apart, key_value)),
        "a sealed record can be read"
    );
}

/// `None` if the record is not what was written.
pub(super) fn unseal_record<'a>(key: &RecordKey, stored: &'a [u8]) -> Option<RecordFields<'a>> {
    fields_of_record(unseal(key, stored)?)
}

/// `covered` is what the checksum covers beside the key.
fn fields_of_record(covered: &[u8]) -> Option<RecordFields<'_>> {
    let (flags, rest) = covered.split_first()?;
    match *flags {
        0 => Some((false, None, rest)),
        TOMBSTONE => Some((true, None, rest)),
        APART => {
            let (place, key_value) = rest.split_first_chunk::<PLACE_BYTES>()?;
            let number = |at: usize| u32::from_le_bytes(place[at..at + 4].try_into().expect("four bytes"));
            let place = ValuePlace { file: number(0), offset: number(4), len: number(8) };
            Some((false, Some(ApartValue { place, checksum: number(12) }), key_value))
        }
        _ => None,
    }
}

/// What is counted for a stored record, as [`footprint`] does it, and where its value lies if not in it. The checksum
/// is not looked at.
pub(super) fn stored_footprint(stored: &[u8]) -> (u64, Option<ValuePlace>) {
    let fields = stored.get(CHECKSUM_BYTES..).and_then(fields_of_record);
    match fields {
        Some((_, Some(ApartValue { place, .. }), key_value)) => {
            (footprint(key_value.len() + codec::bytes_field_len(place.len as usize)), Some(place))
        }
        _ => (footprint(stored.len().saturating_sub(RECORD_HEADER_BYTES)), None),
    }
}

/// Writes the stored value of a cell over whatever is in `out`.
pub(super) fn seal_cell(key: &[u8], bytes: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; CHECKSUM_BYTES]);
    out.extend_from_slice(bytes);
    seal(key, out);
    debug_assert_eq!(unseal(key, out), Some(bytes), "a sealed cell can be read");
}

/// What follows the checksum, or `None` if it is not what was written.
pub(super) fn unseal<'a>(key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (checksum, covered) = stored.split_first_chunk::<CHECKSUM_BYTES>()?;
    (u32::from_le_bytes(*checksum) == checksum_of(key, covered)).then_some(covered)
}

fn seal(key: &[u8], out: &mut [u8]) {
    assert!(out.len() >= CHECKSUM_BYTES, "a stored value begins with space for its checksum");
    let (checksum, covered) = out.split_at_mut(CHECKSUM_BYTES);
    checksum.copy_from_slice(&checksum_of(key, covered).to_le_bytes());
}

fn checksum_of(key: &[u8], covered: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), covered)
}

#[cfg(test)]
mod tests {
    use redb::TableHandle;

    use super::*;
    use crate::{storage::Record, types::KeyValue};

    const PAGE: &str = include_str!("../../docs/storage.md");

    /// The first column of the table under a heading, without its quotes.
    fn names_under(heading: &str) -> Vec<&'static str> {
        let (_, section) = PAGE.split_once(&format!("\n{heading}\n")).expect("the page has the heading");
        let rows =
            section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| !line.is_empty());
        rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect()
    }

    #[test]
    fn the_page_on_storage_lists_what_there_is() {
        let tables: Vec<&str> = std::iter::once(RECORDS.name()).chain(Table::ALL.map(Table::name)).collect();
        assert_eq!(names_under("## Tables"), tables);
        let meta = [
            meta::FORMAT_VERSION,
            meta::RECORD_COUNT,
            meta::CELL_COUNT,
            meta::REV_CURRENT,
            meta::REV_COMPACT_SCHEDULED,
            meta::REV_COMPACT_FINISHED,
            meta::SIZE_TOTAL,
        ];
        assert_eq!(names_under("### Keys of `meta`"), meta.map(|name| str::from_utf8(name).expect("ASCII")));
        assert!(PAGE.contains(&format!("One redb file, format {FORMAT_VERSION}.")));
    }

    #[test]
    fn the_page_on_storage_shows_a_record_as_it_is() {
        let kv = KeyValue {
            key: "k".into(),
            value: "v".into(),
            create_rev: Rev(2),
            mod_rev: Rev(2),
            version: 1,
            ..KeyValue::default()
        };
        let key = record_key(Revision::new(2, 0));
        let mut stored = Vec::new();
        seal_record(&key, false, None, Record::put(&kv).bytes(), &mut stored);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let shown = format!("key    {}\nvalue  {}\n", hex(&key), hex(&stored));
        assert!(PAGE.contains(&shown), "the page should say:\n{shown}");
    }
}
