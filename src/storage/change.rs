//! What the index keeps of a stored record.

use super::{
    codec,
    tables::{self, RecordKey},
};
use crate::types::{LeaseId, Rev, ValuePlace};

/// A record without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredChange {
    pub(crate) tombstone: bool,
    pub(crate) key: Box<[u8]>,
    pub(crate) create_rev: Rev,
    pub(crate) mod_rev: Rev,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
    /// The length of the encoded `mvccpb.KeyValue` with its value.
    pub(crate) key_value_len: usize,
    /// Where the value lies, if not in the record.
    pub(crate) place: Option<ValuePlace>,
}

impl StoredChange {
    /// `None` if the record is not what was written.
    pub(super) fn unseal(key: &RecordKey, stored: &[u8]) -> Option<StoredChange> {
        let (tombstone, apart, key_value) = tables::unseal_record(key, stored)?;
        let parts = codec::decode(key_value)?;
        let place = apart.map(|apart| apart.place);
        let apart_len = place.map_or(0, |place| codec::bytes_field_len(place.len as usize));
        is_sound(tombstone, &parts, place).then(|| StoredChange {
            tombstone,
            key: parts.key.into(),
            create_rev: parts.create_rev,
            mod_rev: parts.mod_rev,
            version: parts.version,
            lease: parts.lease,
            key_value_len: key_value.len() + apart_len,
            place,
        })
    }
}

/// A tombstone has no value, and a record has one value.
pub(super) fn is_sound(tombstone: bool, parts: &codec::Parts<'_>, place: Option<ValuePlace>) -> bool {
    place.is_none_or(|place| !tombstone && parts.value.is_empty() && place.len > 0)
}
