//! One change, in the form in which it is stored, hashed and answered from.

use bytes::Bytes;

use crate::{
    storage::codec::{self, Parts},
    types::{KeyValue, LeaseId, Rev, Whereabouts},
};

/// An encoded `mvccpb.KeyValue` that is known to decode. Clones share the bytes, and so do the
/// keys and values taken out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    tombstone: bool,
    bytes: Bytes,
    whereabouts: Whereabouts,
}

impl Record {
    #[cfg(test)]
    pub(crate) fn put(kv: &KeyValue) -> Record {
        Record::put_found(kv, Whereabouts::default())
    }

    /// A put whose value is to be found in the log.
    pub(crate) fn put_found(kv: &KeyValue, whereabouts: Whereabouts) -> Record {
        Record { tombstone: false, bytes: codec::encode(Parts::of(kv)).into(), whereabouts }
    }

    /// The length of the encoded `mvccpb.KeyValue`, without encoding it.
    pub(crate) fn len_of(kv: &KeyValue) -> usize {
        codec::encoded_len(Parts::of(kv))
    }

    /// The end of `key`: only the key is stored.
    pub(crate) fn tombstone(key: &[u8]) -> Record {
        let parts = Parts { key, ..Parts::default() };
        Record { tombstone: true, bytes: codec::encode(parts).into(), whereabouts: Whereabouts::default() }
    }

    /// `None` if the bytes do not decode.
    pub(crate) fn decode(tombstone: bool, bytes: Bytes) -> Option<Record> {
        let whereabouts = Whereabouts::default();
        codec::decode(&bytes).is_some().then_some(Record { tombstone, bytes, whereabouts })
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.tombstone
    }

    /// Where the log has the value.
    pub(super) fn whereabouts(&self) -> &Whereabouts {
        &self.whereabouts
    }

    /// The encoded `mvccpb.KeyValue`.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn parts(&self) -> Parts<'_> {
        codec::decode(&self.bytes).expect("a record was decoded before it became one")
    }

    /// The stored key-value; key and value share the record's bytes.
    pub(crate) fn key_value(&self) -> KeyValue {
        let Parts { key, value, create_rev, mod_rev, version, lease } = self.parts();
        KeyValue {
            key: self.bytes.slice_ref(key),
            value: self.bytes.slice_ref(value),
            create_rev,
            mod_rev,
            version,
            lease,
        }
    }

    /// What a deletion in `rev` tells watchers: the key, and when.
    pub(crate) fn deleted_key_value(&self, rev: Rev) -> KeyValue {
        assert!(self.tombstone, "only a tombstone tells of a deletion");
        KeyValue {
            key: self.bytes.slice_ref(self.parts().key),
            value: Bytes::new(),
            create_rev: Rev(0),
            mod_rev: rev,
            version: 0,
            lease: LeaseId::NONE,
        }
    }
}
