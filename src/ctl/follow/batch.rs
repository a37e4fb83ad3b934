//! Changes that wait to be written to the destination, the last one of each key.
//!
//! Several revisions of the source become one transaction: whoever watches the destination does not see each of
//! them, but sees none of them in part. Only a revision that is larger than a transaction may be is written in several.

use std::{collections::BTreeMap, mem};

use bytes::Bytes;

use crate::{
    limits,
    pb::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, request_op::Request},
};

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put { value: Bytes, lease: i64 },
    Delete,
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    changes: BTreeMap<Bytes, Change>,
    bytes: usize,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether one more change, of about so many bytes, belongs into another transaction.
    pub(super) fn is_full_for(&self, bytes: usize) -> bool {
        !self.is_empty()
            && (self.changes.len() >= limits::CTL_FOLLOW_TXN_OPS
                || self.bytes + bytes > limits::CTL_FOLLOW_TXN_BYTES)
    }

    pub(super) fn add(&mut self, key: Bytes, change: Change) {
        self.bytes += change_bytes(&key, &change);
        self.changes.insert(key, change);
    }

    /// The leases that its keys belong to.
    pub(super) fn leases(&self) -> impl Iterator<Item = i64> {
        self.changes.values().filter_map(|change| match change {
            Change::Put { lease: 0, .. } | Change::Delete => None,
            Change::Put { lease, .. } => Some(*lease),
        })
    }

    /// Empties it into the requests of a transaction. A key whose lease is not there is put without one.
    pub(super) fn take(&mut self, has_lease: impl Fn(i64) -> bool) -> Vec<RequestOp> {
        self.bytes = 0;
        let request = |(key, change): (Bytes, Change)| {
            let request = match change {
                Change::Put { value, lease } => {
                    Request::RequestPut(PutRequest { key, value, lease, ..PutRequest::default() })
                }
                Change::Delete => {
                    Request::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() })
                }
            };
            RequestOp { request: Some(request) }
        };
        let mut ops: Vec<RequestOp> = mem::take(&mut self.changes).into_iter().map(request).collect();
        remove_leases(&mut ops, has_lease);
        ops
    }
}

/// Puts keys without their leases where these are not there.
pub(super) fn remove_leases(ops: &mut [RequestOp], has_lease: impl Fn(i64) -> bool) {
    for op in ops {
        if let Some(Request::RequestPut(put)) = &mut op.request
            && !has_lease(put.lease)
        {
            put.lease = 0;
        }
    }
}

/// About as many bytes as the change has in a request.
pub(super) fn change_bytes(key: &Bytes, change: &Change) -> usize {
    const FRAME_BYTES: usize = 32;
    let value = match change {
        Change::Put { value, .. } => value.len(),
        Change::Delete => 0,
    };
    key.len() + value + FRAME_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: &'static str, lease: i64) -> Change {
        Change::Put { value: value.into(), lease }
    }

    #[test]
    fn the_last_change_of_a_key_is_written() {
        let mut batch = Batch::default();
        assert!(
            batch.is_empty() && !batch.is_full_for(usize::MAX / 2),
            "a change that is too large goes alone"
        );
        batch.add("a".into(), put("1", 7));
        batch.add("b".into(), put("2", 8));
        batch.add("a".into(), Change::Delete);
        assert_eq!(batch.leases().collect::<Vec<_>>(), [8]);
        let ops = batch.take(|lease| lease == 7);
        assert_eq!(ops.len(), 2);
        let Some(Request::RequestDeleteRange(delete)) = &ops[0].request else { panic!("{ops:?}") };
        assert_eq!(delete.key, "a");
        let Some(Request::RequestPut(put)) = &ops[1].request else { panic!("{ops:?}") };
        assert_eq!((put.lease, &put.value[..]), (0, &b"2"[..]));
        assert!(batch.is_empty());
    }

    #[test]
    fn a_transaction_is_bounded() {
        let mut batch = Batch::default();
        for number in 0..limits::CTL_FOLLOW_TXN_OPS {
            assert!(!batch.is_full_for(1));
            batch.add(number.to_string().into(), put("", 0));
        }
        assert!(batch.is_full_for(1));
        batch.take(|_| true);
        batch.add("a".into(), put("x", 0));
        assert!(batch.is_full_for(limits::CTL_FOLLOW_TXN_BYTES));
    }
}
