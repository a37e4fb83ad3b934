//! What is left of an answer when everything is taken out that may differ between two servers
//! that both behave as etcd does.
//!
//! Two kinds of things are taken out: what nobody promises (ids, terms, the order of equals,
//! how much of a lease is left to the second), and what later releases than the one compared
//! with changed on purpose. The second kind is listed in `DIFFERENCES`, each with its reason.

use super::{call::Call, play::Answer};
use crate::{
    client::revision,
    pb::{
        etcdserverpb::{request_op::Request, response_op::Response, *},
        mvccpb::KeyValue,
    },
};

/// A change of a later etcd that retcd follows and the reference, 3.5.1, does not know.
pub(crate) struct Difference {
    pub(crate) since: &'static str,
    pub(crate) what: &'static str,
    pub(crate) handling: &'static str,
}

/// The last two are of another kind: every etcd has them, and retcd does not follow.
pub(crate) const DIFFERENCES: [Difference; 10] = [
    Difference {
        since: "3.7.0",
        what: "a keys-only range is answered from the index and names no lease",
        handling: "leases are blotted out of keys-only answers",
    },
    Difference {
        since: "3.5.24",
        what: "a watch from a negative revision is refused as compacted",
        handling: "no watch starts below 0 (a test of its own holds the new answer)",
    },
    Difference {
        since: "3.5.16",
        what: "a tombstone exactly at the compact revision is kept, and its hash is skipped",
        handling: "compaction goes to revisions that put something",
    },
    Difference {
        since: "3.5.16",
        what: "a store whose newest changes are tombstones hashes without what is older",
        handling: "no hash is asked for at a revision where the store is empty after a compaction",
    },
    Difference {
        since: "3.6.0",
        what: "the operations of a txn are checked in one pass (3.5.1 checks all puts, then all ranges)",
        handling: "of a txn with several faults either may be told",
    },
    Difference {
        since: "3.6.0",
        what: "a nested put with a lease that is not there is refused (3.5.1 ends in a panic)",
        handling: "nested puts have no lease (a test of its own holds the new answer)",
    },
    Difference {
        since: "3.6.0",
        what: "unknown sort options are refused",
        handling: "none are sent (a test of its own holds the new answer)",
    },
    Difference {
        since: "3.5.8",
        what: "manual progress is told in step with the events, and only when all watchers are synced",
        handling: "progress is not asked for (tests of their own hold the new answer)",
    },
    Difference {
        since: "0.0.0",
        what: "etcd ends in a panic when a txn deletes up to the end and then keeps the value of a deleted key",
        handling: "a txn has one or the other",
    },
    Difference {
        since: "0.0.0",
        what: "etcd forgets leases with negative ids, and with the largest, when it starts again",
        handling: "they are revoked before a restart (a test of its own holds that retcd keeps them)",
    },
];

/// Something the watchers of one stream were told, in one comparable line.
pub(crate) fn event_line(event: &crate::pb::mvccpb::Event) -> String {
    format!("{event:?}")
}

pub(crate) fn range(request: &RangeRequest, response: &mut RangeResponse) {
    header(&mut response.header);
    if request.keys_only {
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
    // Equals come in any order, and which of them a limit cuts off is open.
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

/// Whether two refusals of one txn differ only in which of its faults was found first.
pub(crate) fn either_refusal(call: &Call, reference: &Answer, subject: &Answer) -> bool {
    const FAULTS: [&str; 4] = [
        "NotFound: etcdserver: requested lease not found",
        "InvalidArgument: etcdserver: key not found",
        "OutOfRange: etcdserver: mvcc: required revision has been compacted",
        "OutOfRange: etcdserver: mvcc: required revision is a future revision",
    ];
    let fault = |answer: &Answer| answer.as_ref().is_err_and(|refusal| FAULTS.contains(&refusal.as_str()));
    matches!(call, Call::Txn(_)) && fault(reference) && fault(subject)
}

/// Leaves the revision, and whether there is a header at all.
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
