//! A record in the form in which the database has it.
//!
//! Its value is a part of it, or lies apart, in a file of values ([`Values`](super::Values)): then the record says where,
//! and what the checksum of the value is.

use bytes::Bytes;

use super::{
    Record, change,
    codec::{self, Parts},
    tables::{self, ApartValue, RecordKey},
};
use crate::types::ValuePlace;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredRecord {
    tombstone: bool,
    /// An encoded `mvccpb.KeyValue` that is known to decode, without its value if that lies apart.
    key_value: Bytes,
    apart: Option<ApartValue>,
}

impl StoredRecord {
    /// With its value.
    pub(super) fn whole(record: &Record) -> StoredRecord {
        StoredRecord { tombstone: record.is_tombstone(), key_value: record.bytes().clone(), apart: None }
    }

    /// Without the value that the log has, if it has it.
    pub(super) fn without_value(record: &Record) -> StoredRecord {
        let Some(place) = record.whereabouts().place() else { return StoredRecord::whole(record) };
        let parts = record.parts();
        assert_eq!(place.len as usize, parts.value.len(), "the log has the value of this record");
        let checksum = crc32c::crc32c(parts.value);
        let key_value = codec::encode(Parts { value: &[], ..parts }).into();
        StoredRecord { tombstone: false, key_value, apart: Some(ApartValue { place, checksum }) }
    }

    /// `None` if the record is not what was written.
    pub(super) fn unseal(key: &RecordKey, stored: &[u8]) -> Option<StoredRecord> {
        let (tombstone, apart, key_value) = tables::unseal_record(key, stored)?;
        StoredRecord::decode(tombstone, apart, Bytes::copy_from_slice(key_value))
    }

    /// `None` if the bytes do not decode.
    pub(super) fn decode(
        tombstone: bool,
        apart: Option<ApartValue>,
        key_value: Bytes,
    ) -> Option<StoredRecord> {
        let parts = codec::decode(&key_value)?;
        let is_sound = change::is_sound(tombstone, &parts, apart.map(|apart| apart.place));
        is_sound.then_some(StoredRecord { tombstone, key_value, apart })
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.tombstone
    }

    /// Everything but the value, which may lie apart.
    pub(crate) fn parts(&self) -> Parts<'_> {
        codec::decode(&self.key_value).expect("a record was decoded before it became one")
    }

    /// Bytes that it takes in memory, and in the database.
    pub(crate) fn stored_len(&self) -> usize {
        self.key_value.len()
    }

    /// Adds the encoded `mvccpb.KeyValue`, with its value, to a CRC32C. The value is not read: its own checksum is known.
    pub(crate) fn add_to_crc32c(&self, crc32c: u32) -> u32 {
        let Some(ApartValue { place, checksum }) = self.apart else {
            return crc32c::crc32c_append(crc32c, &self.key_value);
        };
        let len = place.len as usize;
        let (before, behind) = codec::encode_without(self.parts(), len);
        let with_value = crc32c::crc32c_combine(crc32c::crc32c_append(crc32c, &before), checksum, len);
        crc32c::crc32c_append(with_value, &behind)
    }

    /// Where the value lies, if not in the record.
    pub(crate) fn place(&self) -> Option<ValuePlace> {
        self.apart.map(|apart| apart.place)
    }

    /// The value was copied to another place.
    pub(super) fn moved_to(self, place: ValuePlace) -> StoredRecord {
        let apart = self.apart.expect("only a value that lies apart is moved");
        assert_eq!(apart.place.len, place.len, "a value is moved as it is");
        StoredRecord { apart: Some(ApartValue { place, ..apart }), ..self }
    }

    /// Writes the stored form over whatever is in `out`.
    pub(super) fn seal(&self, key: &RecordKey, out: &mut Vec<u8>) {
        tables::seal_record(key, self.tombstone, self.apart, &self.key_value, out);
    }

    /// The record with its value. Where that lies apart, `read` fills it in.
    pub(super) fn load<E>(
        self,
        read: impl FnOnce(ApartValue, &mut [u8]) -> Result<(), E>,
    ) -> Result<Record, E> {
        let Some(apart) = self.apart else {
            return Ok(Record::decode(self.tombstone, self.key_value).expect("a stored record decodes"));
        };
        let (mut bytes, value) = codec::encode_around(self.parts(), apart.place.len as usize);
        read(apart, &mut bytes[value])?;
        Ok(Record::decode(false, bytes.into()).expect("what was just encoded decodes"))
    }
}
