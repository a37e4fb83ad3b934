//! `mvccpb.KeyValue` by hand.
//!
//! Byte for byte what a protobuf library writes: fields in the order of their numbers, zero and
//! empty ones left out. It is written by hand because it is on the path of every write and every
//! read, where it costs one allocation to encode and none to decode.

use std::ops::Range;

use crate::types::{KeyValue, LeaseId, Rev};

// Field number << 3 | wire type: 2 for bytes, 0 for integers.
const KEY: u8 = 1 << 3 | 2;
const CREATE_REVISION: u8 = 2 << 3;
const MOD_REVISION: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = 5 << 3 | 2;
const LEASE: u8 = 6 << 3;

/// A decoded `KeyValue` that borrows its key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) create_rev: Rev,
    pub(crate) mod_rev: Rev,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
}

impl<'a> Parts<'a> {
    pub(super) fn of(kv: &'a KeyValue) -> Parts<'a> {
        Parts {
            key: &kv.key,
            value: &kv.value,
            create_rev: kv.create_rev,
            mod_rev: kv.mod_rev,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

/// The length of [`encode`]'s result.
pub(super) fn encoded_len(parts: Parts<'_>) -> usize {
    let integers = [parts.create_rev.0, parts.mod_rev.0, parts.version, parts.lease.0];
    let integers: usize = integers.into_iter().map(integer_length).sum();
    bytes_field_len(parts.key.len()) + bytes_field_len(parts.value.len()) + integers
}

/// The encoding, in an allocation of exactly its size.
pub(super) fn encode(parts: Parts<'_>) -> Vec<u8> {
    let length = encoded_len(parts);
    let mut out = Vec::with_capacity(length);
    put_head(&mut out, parts);
    put_bytes(&mut out, VALUE, parts.value);
    put_integer(&mut out, LEASE, parts.lease.0);
    assert_eq!(out.len(), length, "the encoding has the length that was counted for it");
    out
}

/// As [`encode`], with zeros in the place of a value of `value_len` bytes; and that place.
pub(super) fn encode_around(parts: Parts<'_>, value_len: usize) -> (Vec<u8>, Range<usize>) {
    assert!(parts.value.is_empty(), "one value is encoded");
    let length = encoded_len(parts) + bytes_field_len(value_len);
    let mut out = Vec::with_capacity(length);
    put_before_value(&mut out, parts, value_len);
    let place = out.len()..out.len() + value_len;
    out.resize(place.end, 0);
    put_integer(&mut out, LEASE, parts.lease.0);
    assert_eq!(out.len(), length, "the encoding has the length that was counted for it");
    (out, place)
}

/// What comes before and behind a value of `value_len` bytes in an encoding.
pub(super) fn encode_without(parts: Parts<'_>, value_len: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut before, mut behind) = (Vec::new(), Vec::new());
    put_before_value(&mut before, parts, value_len);
    put_integer(&mut behind, LEASE, parts.lease.0);
    (before, behind)
}

fn put_before_value(out: &mut Vec<u8>, parts: Parts<'_>, value_len: usize) {
    put_head(out, parts);
    out.push(VALUE);
    put_varint(out, value_len as u64);
}

/// The bytes that a key or a value of so many bytes adds to the encoding.
pub(super) fn bytes_field_len(len: usize) -> usize {
    if len == 0 { 0 } else { 1 + varint_length(len as u64) + len }
}

/// What comes before the value.
fn put_head(out: &mut Vec<u8>, parts: Parts<'_>) {
    put_bytes(out, KEY, parts.key);
    put_integer(out, CREATE_REVISION, parts.create_rev.0);
    put_integer(out, MOD_REVISION, parts.mod_rev.0);
    put_integer(out, VERSION, parts.version);
}

/// `None` if the bytes are not an encoding that we could have written.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Parts<'_>> {
    let mut parts = Parts::default();
    while let Some((tag, rest)) = bytes.split_first() {
        bytes = rest;
        match *tag {
            KEY => parts.key = take_bytes(&mut bytes)?,
            CREATE_REVISION => parts.create_rev = Rev(take_integer(&mut bytes)?),
            MOD_REVISION => parts.mod_rev = Rev(take_integer(&mut bytes)?),
            VERSION => parts.version = take_integer(&mut bytes)?,
            VALUE => parts.value = take_bytes(&mut bytes)?,
            LEASE => parts.lease = LeaseId(take_integer(&mut bytes)?),
            _ => return None,
        }
    }
    Some(parts)
}

fn integer_length(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_length(value as u64) }
}

/// Seven bits a byte, and zero takes a byte too.
fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn put_integer(out: &mut Vec<u8>, tag: u8, value: i64) {
    if value != 0 {
        out.push(tag);
        put_varint(out, value as u64);
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_integer(bytes: &mut &[u8]) -> Option<i64> {
    take_varint(bytes).map(|value| value as i64)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::{pb::mvccpb, storage::Record};

    fn key_values() -> impl Strategy<Value = KeyValue> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        let integer = || prop_oneof![Just(0), any::<i64>(), 0..200_i64, Just(i64::MIN), Just(i64::MAX)];
        (bytes(), bytes(), integer(), integer(), integer(), integer()).prop_map(
            |(key, value, create_rev, mod_rev, version, lease)| KeyValue {
                key,
                value,
                create_rev: Rev(create_rev),
                mod_rev: Rev(mod_rev),
                version,
                lease: LeaseId(lease),
            },
        )
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_protobuf(kv in key_values()) {
            let message = mvccpb::KeyValue {
                key: kv.key.clone(),
                create_revision: kv.create_rev.0,
                mod_revision: kv.mod_rev.0,
                version: kv.version,
                value: kv.value.clone(),
                lease: kv.lease.0,
            };
            let record = Record::put(&kv);
            prop_assert_eq!(record.bytes(), &message.encode_to_vec());
            prop_assert_eq!(Record::len_of(&kv), record.bytes().len());
            prop_assert_eq!(record.key_value(), kv.clone());

            let parts = Parts { value: &[], ..record.parts() };
            if !kv.value.is_empty() {
                let (mut around, value) = encode_around(parts, kv.value.len());
                around[value].copy_from_slice(&kv.value);
                prop_assert_eq!(record.bytes(), &around);
                let (before, behind) = encode_without(parts, kv.value.len());
                prop_assert_eq!(record.bytes(), &[&before[..], &kv.value, &behind].concat());
            }

            let tombstone = Record::tombstone(&kv.key);
            let message = mvccpb::KeyValue { key: kv.key, ..mvccpb::KeyValue::default() };
            prop_assert_eq!(tombstone.bytes(), &message.encode_to_vec());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_cut_encoding_is_not_mistaken(kv in key_values(), cut in any::<prop::sample::Index>()) {
            let bytes = encode(Parts::of(&kv));
            if !bytes.is_empty() {
                prop_assert_ne!(decode(&bytes[..cut.index(bytes.len())]), Some(Parts::of(&kv)));
            }
        }
    }
}
