//! Removes from an answer everything that may differ between two servers that both behave like etcd.
//!
//! Two kinds of things are removed: what etcd does not define (ids, terms, the order of equal values, the
//! remaining TTL to the second), and what later releases than the reference changed on purpose. The second
//! kind is listed in `DIFFERENCES`, each with its reason.

use super::{call::Call, play::Answer};
use crate::{
    client::revision,
    pb::{
        etcdserverpb::{request_op::Request, response_op::Response, *},
        mvccpb::KeyValue,
    },
    tools::{self, reference},
};

/// A difference between two servers that are both right.
pub(crate) struct Difference {
    /// The release of etcd that changed this. Older references behave differently, and retcd behaves like
    /// this release. `None` if all releases of etcd behave like this, and retcd differs on purpose.
    pub(crate) since: Option<(u32, u32, u32)>,
    pub(crate) what: &'static str,
    pub(crate) handling: &'static str,
}

pub(crate) const DIFFERENCES: [Difference; 24] = [
    Difference {
        since: Some((3, 7, 0)),
        what: "a keys-only range is answered from the index and names no lease",
        handling: "leases are blotted out of keys-only answers",
    },
    Difference { since: Some((3, 7, 0)), what: "a range can be streamed", handling: "none is" },
    Difference {
        since: Some((3, 5, 24)),
        what: "a watch from a negative revision is refused as compacted",
        handling: "no watch starts below 0",
    },
    Difference {
        since: Some((3, 5, 16)),
        what: "a tombstone exactly at the compact revision is kept, and its hash is skipped",
        handling: "compaction goes to revisions that put something",
    },
    Difference {
        since: Some((3, 5, 16)),
        what: "a store whose newest changes are tombstones hashes without what is older",
        handling: "no hash is asked for at a revision where the store is empty after a compaction",
    },
    Difference {
        since: Some((3, 6, 0)),
        what: "the operations of a txn are checked in one pass (before, all puts and then all ranges)",
        handling: "of a txn with several faults either may be told",
    },
    Difference {
        since: Some((3, 6, 0)),
        what: "a nested put with a lease that is not there is refused (before, it ended in a panic)",
        handling: "nested puts have no lease",
    },
    Difference {
        since: Some((3, 6, 0)),
        what: "unknown sort options are refused",
        handling: "none are sent",
    },
    Difference {
        since: Some((3, 5, 8)),
        what: "manual progress is told in step with the events, and only when all watchers are synced",
        handling: "progress is not asked for",
    },
    Difference {
        since: Some((3, 6, 0)),
        what: "a status tells of versions, the quota and a downgrade, and a hash its revision",
        handling: "they are blotted out",
    },
    Difference {
        since: Some((3, 6, 0)),
        what: "a watcher may have the id -1 (before, it heard nothing)",
        handling: "none has it",
    },
    Difference {
        since: Some((3, 6, 0)),
        what: "a permission on a range that is none is refused",
        handling: "none is granted",
    },
    Difference {
        since: Some((3, 6, 0)),
        what: "the role root is shown with what it may do, and not with what it was granted",
        handling: "it is not asked for",
    },
    Difference {
        since: Some((3, 7, 1)),
        what: "puts in nested txns count towards the quota",
        handling: "no txn within a txn is sent while there is an alarm",
    },
    Difference { since: Some((3, 6, 0)), what: "a downgrade can be asked for", handling: "none is" },
    Difference {
        since: None,
        what: "etcd ends in a panic when a txn deletes up to the end and then keeps the value of a deleted key",
        handling: "a txn has one or the other",
    },
    Difference {
        since: None,
        what: "etcd forgets leases with negative ids, and with the largest, when it starts again",
        handling: "they are revoked before a restart (a test of its own holds that retcd keeps them)",
    },
    Difference {
        since: None,
        what: "etcd sorts each chunk of a streamed range that has a sort target and no order, and continues after \
               the chunk's last key: beyond ten keys some are missed and some come twice. retcd streams in the \
               order of the keys",
        handling: "streamed ranges without an order have no target",
    },
    Difference {
        since: None,
        what: "etcd takes peer URLs with a user, a query or a fragment. retcd refuses them: it could not use them",
        handling: "none is sent",
    },
    Difference {
        since: None,
        what: "a change of peer URLs that etcd refused, because they are another member's, is made after all when \
               etcd reads its log at the next start",
        handling: "no member gets the URLs of another (a session of etcdctl holds that this is refused)",
    },
    Difference {
        since: None,
        what: "etcd sends no progress notifications of a stream once a compaction has ended one of its watchers, \
               until the client cancels that watcher. In retcd such a watcher does not affect the others",
        handling: "progress is not requested then",
    },
    Difference {
        since: None,
        what: "once the first compaction was one to revision 0, etcd answers a HashKV of the newest revision with \
               the hash of nothing, which it remembers for that compaction",
        handling: "no store is compacted to 0",
    },
    Difference {
        since: None,
        what: "retcd does not enforce authentication yet, and so refuses to enable it",
        handling: "the user root is never granted the role root, without which etcd refuses too",
    },
    Difference {
        since: None,
        what: "retcd refuses to start a downgrade, because etcd cannot read its data",
        handling: "only downgrades that etcd refuses too are requested",
    },
];

/// A response to the watchers of one stream, as a line that can be compared.
pub(crate) fn event_line(event: &crate::pb::mvccpb::Event) -> String {
    format!("{event:?}")
}

pub(crate) fn range(request: &RangeRequest, response: &mut RangeResponse) {
    header(&mut response.header);
    if request.keys_only && !reference().has((3, 7, 0)) {
        for kv in &mut response.kvs {
            kv.lease = 0;
        }
    }
    let sorted_by = match request.sort_target {
        1 => |kv: &KeyValue| kv.version.to_be_bytes().to_vec(),
        2 => |kv: &KeyValue| kv.create_revision.to_be_bytes().to_vec(),
        3 => |kv: &KeyValue| kv.mod_revision.to_be_bytes().to_vec(),
        4 => |kv: &KeyValue| kv.value.to_vec(),
        _ => return,
    };
    // Equal values may come in any order, and a limit may cut off any of them.
    let more = response.more;
    let groups = response.kvs.len();
    let mut first = 0;
    for group in response.kvs.chunk_by_mut(|a, b| sorted_by(a) == sorted_by(b)) {
        group.sort_by(|a, b| a.key.cmp(&b.key));
        first += group.len();
        if first == groups && more {
            for kv in group {
                let (version, create, modified) = (kv.version, kv.create_revision, kv.mod_revision);
                let value = kv.value.clone();
                *kv = KeyValue::default();
                match request.sort_target {
                    1 => kv.version = version,
                    2 => kv.create_revision = create,
                    3 => kv.mod_revision = modified,
                    _ => kv.value = value,
                }
            }
        }
    }
}

pub(crate) fn txn(request: &TxnRequest, response: &mut TxnResponse) {
    header(&mut response.header);
    let taken = if response.succeeded { &request.success } else { &request.failure };
    for (asked, answered) in taken.iter().zip(&mut response.responses) {
        match (&asked.request, &mut answered.response) {
            (Some(Request::RequestRange(asked)), Some(Response::ResponseRange(answered))) => {
                range(asked, answered);
            }
            (Some(Request::RequestTxn(asked)), Some(Response::ResponseTxn(answered))) => txn(asked, answered),
            _ => {}
        }
    }
}

/// Whether two refusals of one transaction differ only in which of its errors was found first.
pub(crate) fn either_refusal(call: &Call, reference: &Answer, subject: &Answer) -> bool {
    const FAULTS: [&str; 4] = [
        "NotFound: etcdserver: requested lease not found",
        "InvalidArgument: etcdserver: key not found",
        "OutOfRange: etcdserver: mvcc: required revision has been compacted",
        "OutOfRange: etcdserver: mvcc: required revision is a future revision",
    ];
    let fault = |answer: &Answer| answer.as_ref().is_err_and(|refusal| FAULTS.contains(&refusal.as_str()));
    !tools::reference().has((3, 6, 0)) && matches!(call, Call::Txn(_)) && fault(reference) && fault(subject)
}

/// A streamed range, as if it had come in one piece.
pub(crate) fn stream(request: &RangeRequest, chunks: Vec<RangeStreamResponse>) -> RangeResponse {
    let count = chunks.len();
    let mut whole = RangeResponse::default();
    for (number, chunk) in chunks.into_iter().enumerate() {
        let chunk = chunk.range_response.expect("a chunk has a response");
        let is_last = number + 1 == count;
        assert_eq!(chunk.header.is_some(), is_last, "the last chunk speaks for all, and no other: {chunk:?}");
        assert!(is_last || !chunk.kvs.is_empty(), "a chunk is not empty");
        whole.kvs.extend(chunk.kvs);
        (whole.header, whole.more, whole.count) = (chunk.header, chunk.more, chunk.count);
    }
    range(request, &mut whole);
    whole
}

pub(crate) fn status(status: &mut StatusResponse) {
    header(&mut status.header);
    assert!(0 < status.db_size_in_use && status.db_size_in_use <= status.db_size, "{status:?}");
    assert!(status.raft_applied_index <= status.raft_index, "{status:?}");
    // Releases store and count differently, and etcd sets its storage version only after a while.
    (status.version, status.storage_version) = (String::new(), String::new());
    (status.db_size, status.db_size_in_use) = (0, 0);
    (status.raft_index, status.raft_applied_index, status.raft_term) = (0, 0, 0);
    // Protobuf's text format may have several blanks between fields, and one after them.
    for error in &mut status.errors {
        *error = error.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    if !reference().has((3, 6, 0)) {
        (status.db_size_quota, status.downgrade_info) = (0, None);
    }
}

pub(crate) fn hash_kv(response: &mut HashKvResponse) {
    header(&mut response.header);
    if !reference().has((3, 6, 0)) {
        response.hash_revision = 0;
    }
}

/// Keeps the revision, and whether there is a header.
pub(crate) fn header(header: &mut Option<ResponseHeader>) {
    if header.is_some() {
        let revision = revision(header);
        *header = Some(ResponseHeader { revision, ..Default::default() });
    }
}

pub(crate) fn time_to_live(response: &mut LeaseTimeToLiveResponse) {
    header(&mut response.header);
    response.keys.sort();
    if response.ttl > 0 {
        response.ttl = response.granted_ttl;
    }
}
