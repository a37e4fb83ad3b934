//! Messages whose key-values are encoded when they are sent.
//!
//! A rope is an encoded message with gaps: the keys and values of an answer stay where they are until a client
//! takes them, and those of a long answer are not even read before. The length of the message is known all the
//! same, because the length of every key-value is.
//!
//! The fields of a message may be encoded one after the other, in any number of parts. So a rope is made of
//! messages that have only some of their fields.

use std::{collections::VecDeque, vec};

use bytes::{Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, message},
};
use tonic::Status;

use super::render;
use crate::{
    apply::{OpResult, TxnResult},
    limits::ANSWER_FRAME_BYTES,
    mvcc::{RangeResult, Weight},
    node::{ManyEvents, Tail},
    pb::{
        etcdserverpb::{
            DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, TxnResponse, WatchResponse,
        },
        mvccpb,
    },
    types::KeyValue,
};

#[derive(Default)]
pub(super) struct Rope {
    parts: VecDeque<Part>,
    /// The length of the message, without what was taken out already.
    len: usize,
}

enum Part {
    Encoded(BytesMut),
    /// Key-values, each in a field with this tag.
    Kvs(u32, vec::IntoIter<KeyValue>),
    /// Key-values that have not been read yet.
    Tail(u32, Box<Tail>),
    /// Events, each in a field with this tag.
    Events(u32, Box<ManyEvents>),
}

/// The tags of the fields with key-values, and of the message in a `ResponseOp`.
const RANGE_KVS: u32 = 2;
const PUT_PREV_KV: u32 = 2;
const DELETE_PREV_KVS: u32 = 3;
const TXN_RESPONSES: u32 = 3;
const OP_RANGE: u32 = 1;
const OP_PUT: u32 = 2;
const OP_DELETE_RANGE: u32 = 3;
const OP_TXN: u32 = 4;
const WATCH_EVENTS: u32 = 11;

/// With a tail, `result` has the first keys only.
pub(super) fn range(header: ResponseHeader, result: RangeResult, tail: Option<Tail>) -> Rope {
    let RangeResult { kvs, more, count } = result;
    let mut rope = Rope::default();
    rope.fields(&RangeResponse { header: Some(header), ..RangeResponse::default() });
    rope.kvs(RANGE_KVS, kvs);
    if let Some(tail) = tail {
        rope.tail(RANGE_KVS, tail);
    }
    rope.fields(&RangeResponse { more, count, ..RangeResponse::default() });
    rope
}

pub(super) fn put(header: ResponseHeader, prev_kv: Option<KeyValue>) -> Rope {
    let mut rope = Rope::default();
    rope.fields(&PutResponse { header: Some(header), prev_kv: None });
    rope.kvs(PUT_PREV_KV, prev_kv.into_iter().collect());
    rope
}

pub(super) fn delete_range(header: ResponseHeader, deleted: i64, prev_kvs: Vec<KeyValue>) -> Rope {
    let mut rope = Rope::default();
    rope.fields(&DeleteRangeResponse { header: Some(header), deleted, prev_kvs: Vec::new() });
    rope.kvs(DELETE_PREV_KVS, prev_kvs);
    rope
}

/// The events have `bytes` in the message, each counted by [`event_bytes`]. `response` has all other fields.
pub(super) fn watch(response: &WatchResponse, events: ManyEvents, bytes: usize) -> Rope {
    assert!(response.events.is_empty(), "the events are those of the rope");
    let mut rope = Rope::default();
    rope.fields(response);
    rope.len += bytes;
    rope.parts.push_back(Part::Events(WATCH_EVENTS, Box::new(events)));
    rope
}

/// The bytes that an event adds to a response: a tag, the length, and the event.
pub(super) fn event_bytes(event: &mvccpb::Event) -> usize {
    let bytes = event.encoded_len();
    key_len(WATCH_EVENTS) + encoded_len_varint(bytes as u64) + bytes
}

/// Adds an event to the fields of a response.
pub(super) fn put_event(event: &mvccpb::Event, fields: &mut Vec<u8>) {
    message::encode(WATCH_EVENTS, event, fields);
}

/// Calls itself for nested transactions, so its stack frame is kept small: a loop, and no iterator adapters.
pub(super) fn txn(header: ResponseHeader, result: TxnResult) -> Rope {
    let TxnResult { succeeded, responses } = result;
    let mut rope = Rope::default();
    rope.fields(&TxnResponse { header: Some(header), succeeded, responses: Vec::new() });
    for result in responses {
        // The header of a nested answer is there and empty, as in etcd.
        let (tag, inner) = match result {
            OpResult::Txn(inner) => (OP_TXN, txn(ResponseHeader::default(), inner)),
            other => op(other),
        };
        let mut op = Rope::default();
        op.message(tag, inner);
        rope.message(TXN_RESPONSES, op);
    }
    rope
}

fn op(result: OpResult) -> (u32, Rope) {
    let inner = render::inner_header;
    match result {
        OpResult::Range { rev, result } => (OP_RANGE, range(inner(rev), result, None)),
        OpResult::Put { rev, prev_kv } => (OP_PUT, put(inner(rev), prev_kv)),
        OpResult::DeleteRange { rev, deleted, prev_kvs } => {
            (OP_DELETE_RANGE, delete_range(inner(rev), deleted, prev_kvs))
        }
        OpResult::Txn(_) => unreachable!("the caller looks into nested transactions itself"),
    }
}

impl Rope {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The next bytes, about [`ANSWER_FRAME_BYTES`] of them, or one key-value, or the events that are read at once;
    /// `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let mut frame = BytesMut::new();
        while frame.len() < ANSWER_FRAME_BYTES
            && let Some(part) = self.parts.pop_front()
        {
            match part {
                Part::Encoded(bytes) => frame.extend_from_slice(&bytes),
                Part::Kvs(tag, mut kvs) => {
                    let Some(kv) = kvs.next() else { continue };
                    message::encode(tag, &render::key_value(kv), &mut frame);
                    self.parts.push_front(Part::Kvs(tag, kvs));
                }
                Part::Events(tag, mut many) => {
                    let Some(events) = many.next().await? else { continue };
                    for event in events {
                        message::encode(tag, &render::event(event, true), &mut frame);
                    }
                    self.parts.push_front(Part::Events(tag, many));
                }
                Part::Tail(tag, mut tail) => {
                    if let Some(kvs) = tail.next().await? {
                        self.parts.push_front(Part::Tail(tag, tail));
                        self.parts.push_front(Part::Kvs(tag, kvs.into_iter()));
                    }
                }
            }
        }
        assert!(frame.len() <= self.len, "a message is not longer than was counted");
        self.len -= frame.len();
        assert!(!frame.is_empty() || self.len == 0, "a message is as long as was counted");
        Ok((!frame.is_empty()).then(|| frame.freeze()))
    }

    /// Adds the fields of a message.
    fn fields(&mut self, message: &impl Message) {
        self.len += message.encoded_len();
        message.encode(self.encoded()).expect("the buffer grows as needed");
    }

    fn kvs(&mut self, tag: u32, kvs: Vec<KeyValue>) {
        assert_eq!(key_len(tag), Weight::TAG_BYTES, "the tag is as long as those that were weighed");
        for kv in &kvs {
            self.len += Weight::of(kv).bytes;
        }
        self.parts.push_back(Part::Kvs(tag, kvs.into_iter()));
    }

    fn tail(&mut self, tag: u32, tail: Tail) {
        self.len += tail.bytes();
        self.parts.push_back(Part::Tail(tag, Box::new(tail)));
    }

    /// Adds a field that is a message.
    fn message(&mut self, tag: u32, mut inner: Rope) {
        self.len += key_len(tag) + encoded_len_varint(inner.len as u64) + inner.len;
        let encoded = self.encoded();
        encode_key(tag, WireType::LengthDelimited, encoded);
        encode_varint(inner.len as u64, encoded);
        self.parts.append(&mut inner.parts);
    }

    fn encoded(&mut self) -> &mut BytesMut {
        if !matches!(self.parts.back(), Some(Part::Encoded(_))) {
            self.parts.push_back(Part::Encoded(BytesMut::new()));
        }
        match self.parts.back_mut() {
            Some(Part::Encoded(bytes)) => bytes,
            _ => unreachable!("the last part is encoded"),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::types::{LeaseId, Rev};

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop_oneof![
            9 => prop::collection::vec(any::<u8>(), 0..200),
            1 => Just(vec![7; 2 * ANSWER_FRAME_BYTES]),
        ]
        .prop_map(Bytes::from)
    }

    fn kv() -> impl Strategy<Value = KeyValue> {
        let numbers = (0..i64::MAX, 0i64..1000, any::<i64>());
        (bytes(), bytes(), numbers).prop_map(|(key, value, (rev, version, lease))| KeyValue {
            key,
            value,
            create_rev: Rev(rev / 2),
            mod_rev: Rev(rev),
            version,
            lease: LeaseId(lease),
        })
    }

    fn op_result() -> impl Strategy<Value = OpResult> {
        let rev = any::<i64>().prop_map(Rev);
        let leaf = (rev, prop::collection::vec(kv(), 0..4), 0u8..3, any::<bool>(), any::<i64>()).prop_map(
            |(rev, kvs, kind, more, count)| match kind {
                0 => OpResult::Range { rev, result: RangeResult { kvs, more, count } },
                1 => OpResult::Put { rev, prev_kv: kvs.into_iter().next() },
                _ => OpResult::DeleteRange { rev, deleted: count, prev_kvs: kvs },
            },
        );
        leaf.prop_recursive(4, 20, 4, |inner| {
            (any::<bool>(), prop::collection::vec(inner, 0..4))
                .prop_map(|(succeeded, responses)| OpResult::Txn(TxnResult { succeeded, responses }))
        })
    }

    fn all(mut rope: Rope) -> Vec<u8> {
        let len = rope.len();
        let mut bytes = Vec::new();
        while let Some(frame) = rope.next().now_or_never().expect("there is no tail").expect("no error") {
            bytes.extend_from_slice(&frame);
        }
        assert_eq!(bytes.len(), len);
        bytes
    }

    proptest! {
        #[test]
        fn a_rope_has_the_bytes_of_the_answer(responses in prop::collection::vec(op_result(), 0..5)) {
            let header = ResponseHeader { cluster_id: 1, member_id: 2, revision: 3, raft_term: 4 };
            let result = TxnResult { succeeded: true, responses };
            for response in &result.responses {
                let (rope, whole) = match response.clone() {
                    OpResult::Range { result, .. } => {
                        (range(header, result.clone(), None), render::range(header, result).encode_to_vec())
                    }
                    OpResult::Put { prev_kv, .. } => {
                        (put(header, prev_kv.clone()), render::put(header, prev_kv).encode_to_vec())
                    }
                    OpResult::DeleteRange { deleted, prev_kvs, .. } => (
                        delete_range(header, deleted, prev_kvs.clone()),
                        render::delete_range(header, deleted, prev_kvs).encode_to_vec(),
                    ),
                    OpResult::Txn(inner) => {
                        (txn(header, inner.clone()), render::txn(header, inner).encode_to_vec())
                    }
                };
                prop_assert_eq!(all(rope), whole);
            }
            prop_assert_eq!(all(txn(header, result.clone())), render::txn(header, result).encode_to_vec());
        }
    }
}
