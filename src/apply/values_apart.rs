//! Where the large values of commands stand in their encoding.
//!
//! A large value is not stored in the database: the database refers to the log for it. So whoever writes an entry to the
//! log, or reads one back, tells each put with such a value where it is.

use std::ops::Range;

use bytes::Bytes;
use prost::encoding::{self, WireType};

use super::{Command, Op, Put, Request, Txn};
use crate::types::Whereabouts;

/// The values of the requests that the database is not to store again, and where they stand in `batch`, the encoding of
/// the requests.
pub(crate) fn values_apart(requests: &[Request], batch: &[u8]) -> Vec<(Range<usize>, Whereabouts)> {
    let mut wanted = Vec::new();
    for request in requests {
        match &request.command {
            Command::Put(put) => want_value(put, &mut wanted),
            Command::Txn(txn) => want_values(txn, &mut wanted),
            Command::DeleteRange(_)
            | Command::Compact { .. }
            | Command::LeaseGrant { .. }
            | Command::LeaseRevoke { .. }
            | Command::LeaseCheckpoint { .. }
            | Command::AlarmActivate(_)
            | Command::AlarmDeactivate(_)
            | Command::MemberPublish { .. }
            | Command::Auth(_)
            | Command::V2(_) => {}
        }
    }
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut spans = Vec::new();
    find_values(Holder::Batch, batch, 0, &mut spans);
    assert_eq!(spans.len(), wanted.len(), "every value of a request is in its encoding");
    let found = spans.into_iter().zip(wanted).map(|(span, (value, whereabouts))| {
        assert_eq!(batch[span.clone()], value[..], "the value stands where it was found");
        (span, whereabouts.clone())
    });
    found.collect()
}

type Wanted<'a> = Vec<(&'a Bytes, &'a Whereabouts)>;

fn want_value<'a>(put: &'a Put, wanted: &mut Wanted<'a>) {
    let value = put.value.as_ref().filter(|value| Put::is_apart(value));
    wanted.extend(value.map(|value| (value, &put.whereabouts)));
}

/// In the order in which [`Nested::fields`] encodes them.
fn want_values<'a>(txn: &'a Txn, wanted: &mut Wanted<'a>) {
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Put(put) => want_value(put, wanted),
            Op::Txn(txn) => want_values(txn, wanted),
            Op::Range(_) | Op::DeleteRange(_) => {}
        }
    }
}

/// The messages in which values of puts are found.
#[derive(Clone, Copy)]
enum Holder {
    Batch,
    Command,
    Put,
    Txn,
    Op,
}

impl Holder {
    /// What a field of this message is; `None` if it has no put.
    fn field(self, number: u32) -> Option<Holder> {
        match (self, number) {
            (Holder::Batch, 1) => Some(Holder::Command),
            (Holder::Command, 1) | (Holder::Op, 2) => Some(Holder::Put),
            (Holder::Command, 3) | (Holder::Op, 4) => Some(Holder::Txn),
            (Holder::Txn, 2 | 3) => Some(Holder::Op),
            _ => None,
        }
    }
}

/// Adds the places of large values to `spans`. `encoded` begins at `base`, and is what this version has encoded or
/// decoded, so its nesting is bounded by [`limits::TXN_DEPTH_MAX`].
fn find_values(message: Holder, encoded: &[u8], base: usize, spans: &mut Vec<Range<usize>>) {
    const VALUE: u32 = 2;
    let mut rest = encoded;
    while !rest.is_empty() {
        let (number, wire_type) = encoding::decode_key(&mut rest).expect("it decodes");
        if wire_type != WireType::LengthDelimited {
            let context = encoding::DecodeContext::default();
            encoding::skip_field(wire_type, number, &mut rest, context).expect("it decodes");
            continue;
        }
        let len = encoding::decode_varint(&mut rest).expect("it decodes") as usize;
        let start = encoded.len() - rest.len();
        let (field, behind) = rest.split_at(len);
        rest = behind;
        if matches!(message, Holder::Put) && number == VALUE && Put::is_apart(field) {
            spans.push(base + start..base + start + len);
        } else if let Some(inner) = message.field(number) {
            find_values(inner, field, base + start, spans);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        apply::{arbitrary, codec},
        limits::{self, Knob},
        types::ValuePlace,
    };

    /// The values of all puts of a command, in the order of the encoding.
    fn values<'a>(ops: impl Iterator<Item = &'a Op>, found: &mut Vec<(Bytes, Whereabouts)>) {
        for op in ops {
            match op {
                Op::Put(put) => found.extend(put.value.clone().map(|value| (value, put.whereabouts.clone()))),
                Op::Txn(txn) => values(txn.success.iter().chain(&txn.failure), found),
                Op::Range(_) | Op::DeleteRange(_) => {}
            }
        }
    }

    proptest! {
        /// Every value that is not empty counts as large here.
        #[test]
        fn every_large_value_is_found_where_it_stands(requests in arbitrary::requests(6)) {
            Knob::ValueApartBytes.set(1);
            let mut batch = Vec::new();
            codec::encode(&requests, &mut batch);
            let requests = codec::decode(batch.clone().into()).expect("it was just encoded");
            for (span, whereabouts) in values_apart(&requests, &batch) {
                let (offset, len) = (span.start as u32, span.len() as u32);
                whereabouts.found(ValuePlace { file: 1, offset, len });
            }
            let mut found = Vec::new();
            for request in &requests {
                if let Command::Put(put) = &request.command {
                    values([Op::Put(put.clone())].iter(), &mut found);
                }
                if let Command::Txn(txn) = &request.command {
                    values([Op::Txn(txn.clone())].iter(), &mut found);
                }
            }
            for (value, whereabouts) in found {
                let place = whereabouts.place().map(|place| place.offset as usize..(place.offset + place.len) as usize);
                prop_assert_eq!(place.map(|place| &batch[place]), (!value.is_empty()).then_some(&value[..]));
            }
        }
    }

    #[test]
    fn small_values_are_not_looked_for() {
        let limit = Knob::ValueApartBytes.or(limits::VALUE_APART_BYTES);
        let put = |len: usize| {
            let put = Put::new("k".into(), Some(vec![7; len].into()), None, false);
            Command::Put(put).by(crate::types::Caller::Nobody)
        };
        let requests = [put(limit - 1), put(limit), put(0)];
        let mut batch = Vec::new();
        codec::encode(&requests, &mut batch);
        let found = values_apart(&requests, &batch);
        let lens: Vec<usize> = found.iter().map(|(span, _)| span.len()).collect();
        assert_eq!(lens, [limit]);
    }
}
