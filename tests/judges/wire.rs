//! Converts requests and answers between the history's types and the API's messages.

use std::error::Error;

use bytes::Bytes;
use http_body::Body as HttpBody;
use tonic::{Code, Status, body::Body, client::GrpcService};

use super::super::pb::{
    etcdserverpb::{
        Compare as WireCompare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader,
        ResponseOp, TxnRequest, compare::CompareResult, compare::CompareTarget, compare::TargetUnion,
        kv_client::KvClient, request_op, response_op,
    },
    mvccpb::{Event, KeyValue, event::EventType},
};
use super::history::{Answer, Change, ChangeKind, Compare, Request, Response, Stored, Txn, Write};

/// Sends the request, and waits for the answer without a timeout.
pub(crate) async fn ask<C>(
    client: &mut KvClient<C>,
    request: &Request,
) -> Result<(ResponseHeader, Answer), Status>
where
    C: GrpcService<Body>,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<Box<dyn Error + Send + Sync>> + Send,
{
    let (header, answer) = match request {
        Request::Get { key, serializable } => {
            let got = client.range(range(key, *serializable)).await?.into_inner();
            (got.header, Answer { kvs: all(got.kvs), ..Answer::default() })
        }
        Request::List { prefix, serializable } => {
            let listed = RangeRequest { range_end: end_of(prefix).into(), ..range(prefix, *serializable) };
            let got = client.range(listed).await?.into_inner();
            (got.header, Answer { kvs: all(got.kvs), ..Answer::default() })
        }
        Request::Put { key, value } => {
            // Every second request asks for the previous pair.
            let prev_kv = value % 2 == 0;
            let done = client.put(PutRequest { prev_kv, ..put(key, *value) }).await?.into_inner();
            let previous = prev_kv.then(|| all(done.prev_kv));
            (done.header, Answer { previous, ..Answer::default() })
        }
        Request::Delete { key } => {
            let request = DeleteRangeRequest { prev_kv: true, ..delete(key) };
            let done = client.delete_range(request).await?.into_inner();
            let (deleted, previous) = (done.deleted, Some(all(done.prev_kvs)));
            (done.header, Answer { deleted, previous, ..Answer::default() })
        }
        Request::Txn(request) => {
            let done = client.txn(txn(request)).await?.into_inner();
            let responses = done.responses.into_iter().map(response).collect();
            (done.header, Answer { succeeded: done.succeeded, responses, ..Answer::default() })
        }
    };
    let header = header.expect("every answer has a header");
    let revision = header.revision;
    Ok((header, Answer { revision, ..answer }))
}

/// Whether a write was certainly not executed and never will be: it did not reach the member, the member's queue or
/// its disk was full, or the caller was not permitted to make it. After any other error the outcome is unknown.
pub(crate) fn is_refusal(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => true,
        Code::Unknown => status.message() == "etcdserver: too many requests",
        Code::ResourceExhausted => status.message() == "etcdserver: mvcc: database space exceeded",
        Code::InvalidArgument => {
            ["etcdserver: user name is empty", "etcdserver: revision of auth store is old"]
                .contains(&status.message())
        }
        _ => false,
    }
}

pub(crate) fn change(event: Event) -> Change {
    let is_put = event.r#type() == EventType::Put;
    let kv = event.kv.expect("an event has a key");
    let key = text(&kv.key);
    let kind = if is_put { ChangeKind::Put } else { ChangeKind::Delete };
    Change { key, kind, stored: stored(kv), prev: event.prev_kv.map(stored) }
}

pub(crate) fn all(kvs: impl IntoIterator<Item = KeyValue>) -> Vec<Stored> {
    kvs.into_iter().map(stored).collect()
}

/// An empty prefix means all keys.
pub(crate) fn start_of(prefix: &str) -> Vec<u8> {
    if prefix.is_empty() { vec![0] } else { prefix.into() }
}

pub(crate) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = start_of(prefix);
    match end.last_mut() {
        // All keys from this one on.
        Some(0) | None => vec![0],
        Some(last) => {
            *last += 1;
            end
        }
    }
}

fn stored(kv: KeyValue) -> Stored {
    let value = text(&kv.value);
    Stored {
        key: text(&kv.key),
        // A deleted key has no value.
        value: if value.is_empty() { 0 } else { value.parse().expect("values are numbers") },
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("only text is written")
}

fn range(key: &str, serializable: bool) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), serializable, ..RangeRequest::default() }
}

fn put(key: &str, value: u64) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_string().into(), ..PutRequest::default() }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_owned().into(), ..DeleteRangeRequest::default() }
}

fn txn(txn: &Txn) -> TxnRequest {
    TxnRequest {
        compare: txn.compares.iter().map(compare).collect(),
        success: txn.success.iter().map(operation).collect(),
        failure: txn.failure.iter().map(operation).collect(),
    }
}

fn response(response: ResponseOp) -> Response {
    match response.response.expect("a response is one of its kinds") {
        response_op::Response::ResponsePut(_) => Response::Put,
        response_op::Response::ResponseDeleteRange(done) => Response::Deleted(done.deleted),
        response_op::Response::ResponseRange(got) => Response::Got(all(got.kvs).pop()),
        response_op::Response::ResponseTxn(done) => Response::Txn {
            succeeded: done.succeeded,
            responses: done.responses.into_iter().map(self::response).collect(),
        },
    }
}

fn operation(write: &Write) -> RequestOp {
    RequestOp {
        request: Some(match write {
            Write::Put { key, value } => request_op::Request::RequestPut(put(key, *value)),
            Write::Delete { key } => request_op::Request::RequestDeleteRange(delete(key)),
            Write::Get { key } => request_op::Request::RequestRange(range(key, false)),
            Write::Txn(inner) => request_op::Request::RequestTxn(txn(inner)),
        }),
    }
}

fn compare(compare: &Compare) -> WireCompare {
    let (target, to) = match compare {
        Compare::Value { equal, .. } => (CompareTarget::Value, TargetUnion::Value(equal.to_string().into())),
        Compare::Version { equal, .. } => (CompareTarget::Version, TargetUnion::Version(*equal)),
        Compare::CreateRevision { equal, .. } => (CompareTarget::Create, TargetUnion::CreateRevision(*equal)),
        Compare::ModRevision { equal, .. } => (CompareTarget::Mod, TargetUnion::ModRevision(*equal)),
    };
    WireCompare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: compare.key().to_owned().into(),
        target_union: Some(to),
        ..WireCompare::default()
    }
}
