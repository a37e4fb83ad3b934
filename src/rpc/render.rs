//! Making the API's answers.
//!
//! Keys and values are shared with the store, not copied. The header of an answer says which member answered
//! and at which revision. As in etcd, the headers within the answer to a transaction only have the revision.

use crate::{
    apply::{Alarm, AlarmKind, OpResult, TxnResult},
    mvcc::RangeResult,
    node::{Member, Node},
    pb::{
        etcdserverpb::{self as pb, AlarmType, ResponseHeader, ResponseOp, response_op},
        mvccpb::{self, event::EventType},
        nested::{self, Fields, Nested},
    },
    types::{Event, EventKind, KeyValue, Rev},
};

pub(crate) fn header(node: &Node, rev: Rev) -> ResponseHeader {
    let (cluster, member) = node.ids();
    ResponseHeader {
        cluster_id: cluster.0,
        member_id: member.0,
        revision: rev.0,
        raft_term: node.raft_term(),
    }
}

pub(crate) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_rev.0,
        mod_revision: kv.mod_rev.0,
        version: kv.version,
        value: kv.value,
        lease: kv.lease.0,
    }
}

/// Events have previous pairs if any watcher has asked for them.
pub(crate) fn event(event: Event, want_prev: bool) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => EventType::Put,
        EventKind::Delete => EventType::Delete,
    };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value(event.kv)),
        prev_kv: if want_prev { event.prev_kv.map(key_value) } else { None },
    }
}

pub(crate) fn key_values(kvs: Vec<KeyValue>) -> Vec<mvccpb::KeyValue> {
    kvs.into_iter().map(key_value).collect()
}

pub(crate) fn range(header: ResponseHeader, result: RangeResult) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: key_values(result.kvs),
        more: result.more,
        count: result.count,
    }
}

pub(crate) fn put(header: ResponseHeader, prev_kv: Option<KeyValue>) -> pb::PutResponse {
    pb::PutResponse { header: Some(header), prev_kv: prev_kv.map(key_value) }
}

pub(crate) fn delete_range(
    header: ResponseHeader,
    deleted: i64,
    prev_kvs: Vec<KeyValue>,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse { header: Some(header), deleted, prev_kvs: key_values(prev_kvs) }
}

pub(crate) fn txn(header: ResponseHeader, result: TxnResult) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(header),
        succeeded: result.succeeded,
        responses: result.responses.into_iter().map(op).collect(),
    }
}

fn op(result: OpResult) -> ResponseOp {
    use response_op::Response;
    let response = match result {
        OpResult::Range { rev, result } => Response::ResponseRange(range(inner_header(rev), result)),
        OpResult::Put { rev, prev_kv } => Response::ResponsePut(put(inner_header(rev), prev_kv)),
        OpResult::DeleteRange { rev, deleted, prev_kvs } => {
            Response::ResponseDeleteRange(delete_range(inner_header(rev), deleted, prev_kvs))
        }
        OpResult::Txn(result) => Response::ResponseTxn(nested::encode(&NestedTxn::of(result)).into()),
    };
    ResponseOp { response: Some(response) }
}

/// The answer to a nested transaction, as a `TxnResponse`.
struct NestedTxn {
    succeeded: bool,
    responses: Vec<NestedOp>,
}

enum NestedOp {
    Txn(NestedTxn),
    Other(ResponseOp),
}

impl NestedTxn {
    /// Calls itself for nested transactions, so its stack frame is kept small: a loop, and no iterator
    /// adapters.
    fn of(result: TxnResult) -> NestedTxn {
        let mut responses = Vec::with_capacity(result.responses.len());
        for result in result.responses {
            responses.push(match result {
                OpResult::Txn(result) => NestedOp::Txn(NestedTxn::of(result)),
                other => NestedOp::Other(op(other)),
            });
        }
        NestedTxn { succeeded: result.succeeded, responses }
    }
}

impl Nested for NestedTxn {
    fn fields(&self, fields: &mut impl Fields) {
        // As in etcd, the header is there and empty.
        fields.message(1, &ResponseHeader::default());
        fields.flag(2, self.succeeded);
        for response in &self.responses {
            match response {
                NestedOp::Txn(txn) => fields.nested(3, &TxnOp(txn)),
                NestedOp::Other(op) => fields.message(3, op),
            }
        }
    }
}

/// The `ResponseOp` around the answer to a nested transaction.
struct TxnOp<'a>(&'a NestedTxn);

impl Nested for TxnOp<'_> {
    fn fields(&self, fields: &mut impl Fields) {
        fields.nested(4, self.0);
    }
}

pub(super) fn inner_header(rev: Rev) -> ResponseHeader {
    ResponseHeader { revision: rev.0, ..ResponseHeader::default() }
}

pub(crate) fn alarm(alarm: &Alarm) -> pb::AlarmMember {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => AlarmType::Nospace,
        AlarmKind::Corrupt => AlarmType::Corrupt,
    };
    pb::AlarmMember { member_id: alarm.member.0, alarm: kind.into() }
}

/// Members in the order of their ids, as etcd lists them.
pub(crate) fn members(mut members: Vec<Member>) -> Vec<pb::Member> {
    members.sort_by_key(|member| member.id);
    members
        .into_iter()
        .map(|member| pb::Member {
            id: member.id.0,
            name: member.name,
            peer_ur_ls: member.peer_urls,
            client_ur_ls: member.client_urls,
            is_learner: member.is_learner,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::types::{LeaseId, MemberId};

    fn kv(key: &'static str) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(b"v"),
            create_rev: Rev(2),
            mod_rev: Rev(5),
            version: 3,
            lease: LeaseId(-7),
        }
    }

    #[test]
    fn a_key_value_keeps_every_field_in_its_place() {
        let rendered = key_value(kv("k"));
        let expected = mvccpb::KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
            create_revision: 2,
            mod_revision: 5,
            version: 3,
            lease: -7,
        };
        assert_eq!(rendered, expected);
    }

    #[test]
    fn inner_headers_have_only_a_revision_and_nested_ones_nothing() {
        let header = ResponseHeader { cluster_id: 1, member_id: 2, revision: 6, raft_term: 3 };
        let nested = TxnResult {
            succeeded: true,
            responses: vec![OpResult::DeleteRange { rev: Rev(6), deleted: 1, prev_kvs: vec![kv("d")] }],
        };
        let result = TxnResult {
            succeeded: false,
            responses: vec![
                OpResult::Range {
                    rev: Rev(5),
                    result: RangeResult { kvs: vec![kv("r")], more: true, count: 4 },
                },
                OpResult::Put { rev: Rev(6), prev_kv: Some(kv("p")) },
                OpResult::Txn(nested),
            ],
        };
        let rendered = txn(header, result);
        assert_eq!(rendered.header, Some(header));
        assert!(!rendered.succeeded);

        let only = |rev| Some(ResponseHeader { revision: rev, ..ResponseHeader::default() });
        let responses: Vec<_> = rendered.responses.into_iter().map(|op| op.response).collect();
        let [
            Some(response_op::Response::ResponseRange(range)),
            Some(response_op::Response::ResponsePut(put)),
            Some(response_op::Response::ResponseTxn(nested)),
        ] = &responses[..]
        else {
            panic!("the answers are of other kinds: {responses:?}")
        };
        assert_eq!((range.header, range.more, range.count), (only(5), true, 4));
        assert_eq!(range.kvs, [key_value(kv("r"))]);
        assert_eq!((put.header, put.prev_kv.clone()), (only(6), Some(key_value(kv("p")))));
        let nested = pb::TxnResponse::decode(nested.clone()).expect("it was just encoded");
        assert_eq!((nested.header, nested.succeeded), (Some(ResponseHeader::default()), true));
        let Some(response_op::Response::ResponseDeleteRange(delete)) = &nested.responses[0].response else {
            panic!("not the answer to a delete")
        };
        assert_eq!((delete.header, delete.deleted), (only(6), 1));
        assert_eq!(delete.prev_kvs, [key_value(kv("d"))]);
    }

    #[test]
    fn an_answer_without_a_previous_value_says_so_by_its_absence() {
        assert_eq!(put(ResponseHeader::default(), None).prev_kv, None);
    }

    #[test]
    fn alarms_keep_their_member_and_kind() {
        let rendered = alarm(&Alarm { member: MemberId(7), kind: AlarmKind::Corrupt });
        assert_eq!(rendered, pb::AlarmMember { member_id: 7, alarm: AlarmType::Corrupt.into() });
        let rendered = alarm(&Alarm { member: MemberId(0), kind: AlarmKind::NoSpace });
        assert_eq!(rendered, pb::AlarmMember { member_id: 0, alarm: AlarmType::Nospace.into() });
    }

    #[test]
    fn members_are_listed_by_id() {
        let member = |id| Member {
            id: MemberId(id),
            name: format!("m{id}"),
            peer_urls: vec!["http://peer:2380".to_owned()],
            client_urls: vec!["http://client:2379".to_owned()],
            is_learner: id == 9,
        };
        let listed = members(vec![member(9), member(2)]);
        assert_eq!(listed.iter().map(|member| member.id).collect::<Vec<_>>(), [2, 9]);
        assert_eq!(listed[1].peer_ur_ls, ["http://peer:2380"]);
        assert_eq!(listed[1].client_ur_ls, ["http://client:2379"]);
        assert!(listed[1].is_learner && !listed[0].is_learner);
    }
}
