//! Transactions: comparisons, nesting, the rule about duplicate keys, and that a refusal leaves no trace.

use bytes::Bytes;
use tonic::Code;

use crate::{
    client::{Client, accepted, refused, revision},
    pb::etcdserverpb::{compare::TargetUnion, request_op::Request, response_op::Response, *},
    server::{Launch, serve, serve_with, subject_is_retcd},
};

const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";
const KEY_MISSING: &str = "etcdserver: key is not provided";

const EQUAL: i32 = 0;
const GREATER: i32 = 1;
const LESS: i32 = 2;
const NOT_EQUAL: i32 = 3;

fn put(key: &str, value: &str) -> RequestOp {
    let put = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

fn get(key: &str) -> RequestOp {
    get_at(key, 0)
}

fn get_at(key: &str, revision: i64) -> RequestOp {
    let range = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), revision, ..Default::default() };
    RequestOp { request: Some(Request::RequestRange(range)) }
}

fn delete(key: &str, end: &str) -> RequestOp {
    let delete = DeleteRangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        prev_kv: true,
    };
    RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
}

fn nested(txn: TxnRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestTxn(txn)) }
}

fn compare(key: &str, target: TargetUnion, result: i32) -> Compare {
    let kind = match target {
        TargetUnion::Version(_) => 0,
        TargetUnion::CreateRevision(_) => 1,
        TargetUnion::ModRevision(_) => 2,
        TargetUnion::Value(_) => 3,
        TargetUnion::Lease(_) => 4,
    };
    Compare {
        result,
        target: kind,
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::new(),
        target_union: Some(target),
    }
}

fn then(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..Default::default() }
}

async fn holds(client: &Client, compare: Compare) -> bool {
    client.txn(TxnRequest { compare: vec![compare], ..Default::default() }).await.succeeded
}

fn put_header(response: &ResponseOp) -> &ResponseHeader {
    match &response.response {
        Some(Response::ResponsePut(put)) => put.header.as_ref().expect("a put's answer has a header"),
        other => panic!("expected a put's answer: {other:?}"),
    }
}

fn values(response: &ResponseOp) -> Vec<String> {
    match &response.response {
        Some(Response::ResponseRange(range)) => {
            range.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect()
        }
        other => panic!("expected a range's answer: {other:?}"),
    }
}

#[tokio::test]
async fn an_empty_txn_succeeds_and_changes_nothing() {
    let (_server, client) = serve();
    let response = client.txn(TxnRequest::default()).await;
    assert_eq!((response.succeeded, response.responses.len(), revision(&response.header)), (true, 0, 1));
}

#[tokio::test]
async fn a_txn_takes_one_branch_in_one_revision() {
    let (_server, client) = serve();
    client.put("k", "old").await;
    let request = TxnRequest {
        compare: vec![compare("k", TargetUnion::Value("old".into()), EQUAL)],
        success: vec![put("k", "new"), put("l", "1"), get("k"), delete("m", "")],
        failure: vec![get("k")],
    };
    let response = client.txn(request.clone()).await;
    assert!(response.succeeded);
    assert_eq!((revision(&response.header), response.responses.len()), (3, 4));
    assert_eq!(values(&response.responses[2]), ["new"], "a later operation sees an earlier one");
    for index in [0, 1] {
        let inner = put_header(&response.responses[index]);
        assert_eq!((inner.revision, inner.cluster_id, inner.member_id, inner.raft_term), (3, 0, 0, 0));
    }
    let (k, l) = (client.get("k").await.expect("put"), client.get("l").await.expect("put"));
    assert_eq!((k.mod_revision, l.mod_revision, l.create_revision), (3, 3, 3));

    let response = client.txn(request).await;
    assert!(!response.succeeded);
    assert_eq!(revision(&response.header), 3, "the failure branch only reads");
    assert_eq!(values(&response.responses[0]), ["new"]);
}

#[tokio::test]
async fn deletes_and_puts_of_one_txn_share_its_revision() {
    let (_server, client) = serve();
    client.put("a", "1").await;
    client.put("b", "2").await;
    let response = client.txn(then(vec![delete("a", "c"), put("d", "4"), get_at("a", 2), get("a")])).await;
    assert_eq!(revision(&response.header), 4);
    match &response.responses[0].response {
        Some(Response::ResponseDeleteRange(deleted)) => {
            assert_eq!((deleted.deleted, deleted.prev_kvs.len(), revision(&deleted.header)), (2, 2, 4));
        }
        other => panic!("expected a delete's answer: {other:?}"),
    }
    assert_eq!(values(&response.responses[2]), ["1"], "an explicit revision reads the past");
    assert_eq!(values(&response.responses[3]), Vec::<String>::new());
}

#[tokio::test]
async fn a_txn_that_deletes_nothing_makes_no_revision() {
    let (_server, client) = serve();
    let response = client.txn(then(vec![delete("a", ""), get("a")])).await;
    assert_eq!(revision(&response.header), 1);
    match &response.responses[0].response {
        Some(Response::ResponseDeleteRange(deleted)) => assert_eq!(revision(&deleted.header), 1),
        other => panic!("expected a delete's answer: {other:?}"),
    }
}

#[tokio::test]
async fn comparisons_cover_every_target_and_operator() {
    let (_server, client) = serve();
    let lease = client.grant(600, 50).await;
    client.put("k", "a").await;
    let leased = PutRequest { key: "k".into(), value: "m".into(), lease, ..Default::default() };
    accepted("put", client.try_put(leased).await);
    // k: version 2, create 2, mod 3, value "m", lease 50.
    type Target = fn(i64) -> TargetUnion;
    let numbers: [(Target, i64); 4] = [
        (TargetUnion::Version, 2),
        (TargetUnion::CreateRevision, 2),
        (TargetUnion::ModRevision, 3),
        (TargetUnion::Lease, 50),
    ];
    for (target, actual) in numbers {
        for given in [actual - 1, actual, actual + 1] {
            assert_eq!(holds(&client, compare("k", target(given), EQUAL)).await, actual == given);
            assert_eq!(holds(&client, compare("k", target(given), GREATER)).await, actual > given);
            assert_eq!(holds(&client, compare("k", target(given), LESS)).await, actual < given);
            assert_eq!(holds(&client, compare("k", target(given), NOT_EQUAL)).await, actual != given);
        }
        // A missing key compares as zero.
        assert!(holds(&client, compare("none", target(0), EQUAL)).await);
        assert!(holds(&client, compare("none", target(1), LESS)).await);
        assert!(holds(&client, compare("none", target(1), NOT_EQUAL)).await);
        assert!(!holds(&client, compare("none", target(0), GREATER)).await);
    }
    for given in ["", "l", "m", "mm"] {
        let value = || TargetUnion::Value(given.into());
        assert_eq!(holds(&client, compare("k", value(), EQUAL)).await, "m" == given);
        assert_eq!(holds(&client, compare("k", value(), GREATER)).await, "m" > given);
        assert_eq!(holds(&client, compare("k", value(), LESS)).await, "m" < given);
        assert_eq!(holds(&client, compare("k", value(), NOT_EQUAL)).await, "m" != given);
        for operator in [EQUAL, GREATER, LESS, NOT_EQUAL] {
            assert!(!holds(&client, compare("none", value(), operator)).await, "a missing key has no value");
        }
    }
}

#[tokio::test]
async fn odd_comparisons_mean_what_etcd_makes_of_them() {
    let (_server, client) = serve();
    client.put("k", "v").await;
    let without_given =
        |target: i32, result: i32| Compare { result, target, key: "k".into(), ..Default::default() };
    assert!(holds(&client, without_given(0, GREATER)).await, "an unset number is zero");
    assert!(holds(&client, without_given(3, GREATER)).await, "an unset value is empty");
    assert!(holds(&client, compare("k", TargetUnion::Version(77), 9)).await, "an unknown operator holds");
    // The field `target` determines what is compared; a value for another target counts as unset.
    let mismatched =
        Compare { target: 0, target_union: Some(TargetUnion::ModRevision(99)), ..without_given(0, GREATER) };
    assert!(holds(&client, mismatched).await);
    refused(
        client.try_txn(TxnRequest { compare: vec![Compare::default()], ..Default::default() }).await,
        Code::InvalidArgument,
        KEY_MISSING,
    );
}

#[tokio::test]
async fn a_comparison_over_a_range_holds_for_every_key_of_it() {
    let (_server, client) = serve();
    for key in ["a", "b", "c"] {
        client.put(key, "v").await;
    }
    client.put("b", "w").await;
    let over = |compare: Compare, end: &'static str| Compare { range_end: end.into(), ..compare };
    assert!(holds(&client, over(compare("a", TargetUnion::Version(0), GREATER), "d")).await);
    assert!(!holds(&client, over(compare("a", TargetUnion::Version(1), EQUAL), "d")).await);
    assert!(holds(&client, over(compare("c", TargetUnion::Version(1), EQUAL), "\0")).await);
    assert!(!holds(&client, over(compare("a", TargetUnion::Value("v".into()), EQUAL), "\0")).await);
    // An empty interval is compared like a missing key.
    assert!(holds(&client, over(compare("x", TargetUnion::Version(0), EQUAL), "z")).await);
    assert!(!holds(&client, over(compare("x", TargetUnion::Value("".into()), EQUAL), "z")).await);
}

#[tokio::test]
async fn nested_comparisons_see_the_state_before_the_whole_txn() {
    let (_server, client) = serve();
    let inner = TxnRequest {
        compare: vec![compare("k", TargetUnion::Version(0), EQUAL)],
        success: vec![put("seen", "before")],
        failure: vec![put("seen", "after")],
    };
    let response = client.txn(then(vec![put("k", "v"), nested(inner), get("seen")])).await;
    assert_eq!(revision(&response.header), 2);
    assert_eq!(values(&response.responses[2]), ["before"]);
    match &response.responses[1].response {
        Some(Response::ResponseTxn(inner)) => {
            assert!(inner.succeeded);
            assert_eq!(inner.header, Some(ResponseHeader::default()), "present and all zero");
            assert_eq!(put_header(&inner.responses[0]).revision, 2);
        }
        other => panic!("expected a txn's answer: {other:?}"),
    }
}

#[tokio::test]
async fn a_refused_operation_undoes_the_whole_txn() {
    let (_server, client) = serve();
    client.put("k", "v").await;
    let with_lease = PutRequest { key: "b".into(), lease: 99, ..Default::default() };
    let ignoring = PutRequest { key: "b".into(), ignore_value: true, ..Default::default() };
    let op = |put: PutRequest| RequestOp { request: Some(Request::RequestPut(put)) };
    let cases = [
        (then(vec![put("a", "1"), op(with_lease)]), Code::NotFound, "etcdserver: requested lease not found"),
        (then(vec![put("a", "1"), op(ignoring)]), Code::InvalidArgument, "etcdserver: key not found"),
        (
            then(vec![put("a", "1"), get_at("k", 9)]),
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        (
            // The revision of this transaction itself counts as a future revision too.
            then(vec![put("a", "1"), get_at("k", 3)]),
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        (
            then(vec![get_at("k", 9)]),
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ];
    for (request, code, text) in cases {
        refused(client.try_txn(request).await, code, text);
    }
    assert_eq!(client.get("a").await, None);
    assert_eq!(client.put("k", "v").await, 3, "nothing was written meanwhile");
    client.compact(3).await;
    refused(
        client.try_txn(then(vec![put("a", "1"), get_at("k", 2)])).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    // The branch that is not taken is not checked.
    let other_branch = TxnRequest {
        compare: vec![compare("k", TargetUnion::Version(0), GREATER)],
        success: vec![put("a", "1")],
        failure: vec![put("b", "1"), get_at("k", 99)],
    };
    assert!(client.txn(other_branch).await.succeeded);
}

#[tokio::test]
async fn a_nested_put_needs_its_lease_too() {
    let (_server, client) = serve();
    if !client.has((3, 6, 0), "a server that outlives a nested put with a missing lease").await {
        return;
    }
    let with_lease = PutRequest { key: "b".into(), lease: 99, ..Default::default() };
    let with_lease = RequestOp { request: Some(Request::RequestPut(with_lease)) };
    let txn = then(vec![put("a", "1"), nested(then(vec![with_lease]))]);
    refused(client.try_txn(txn).await, Code::NotFound, "etcdserver: requested lease not found");
    assert_eq!(client.get("a").await, None);
}

#[tokio::test]
async fn a_txn_has_a_bounded_number_of_operations() {
    let (_server, client) = serve();
    let puts = |count: usize| (0..count).map(|number| put(&format!("k{number}"), "v")).collect::<Vec<_>>();
    let too_many = "etcdserver: too many operations in txn request";
    accepted("txn", client.try_txn(then(puts(128))).await);
    refused(client.try_txn(then(puts(129))).await, Code::InvalidArgument, too_many);
    let gets = TxnRequest { failure: vec![get("a"); 129], ..Default::default() };
    refused(client.try_txn(gets).await, Code::InvalidArgument, too_many);
    let compares = vec![compare("k", TargetUnion::Version(0), EQUAL); 129];
    let request = TxnRequest { compare: compares, ..Default::default() };
    refused(client.try_txn(request).await, Code::InvalidArgument, too_many);
    // The operations of the outer transaction reduce the budget of the inner one.
    let mut outer = vec![get("a"); 99];
    outer.push(nested(then(puts(28))));
    accepted("txn", client.try_txn(then(outer.clone())).await);
    outer.pop();
    outer.push(nested(then(puts(29))));
    refused(client.try_txn(then(outer)).await, Code::InvalidArgument, too_many);
}

#[tokio::test]
async fn every_operation_of_a_txn_is_checked_in_both_branches() {
    let (_server, client) = serve();
    let otherwise = |failure: Vec<RequestOp>| TxnRequest { failure, ..Default::default() };
    refused(client.try_txn(then(vec![put("", "v")])).await, Code::InvalidArgument, KEY_MISSING);
    refused(client.try_txn(otherwise(vec![put("", "v")])).await, Code::InvalidArgument, KEY_MISSING);
    refused(client.try_txn(otherwise(vec![get("")])).await, Code::InvalidArgument, KEY_MISSING);
    refused(client.try_txn(otherwise(vec![delete("", "")])).await, Code::InvalidArgument, KEY_MISSING);
    let unset = RequestOp { request: None };
    refused(
        client.try_txn(otherwise(vec![unset.clone()])).await,
        Code::InvalidArgument,
        "etcdserver: key not found",
    );
    let deep = then(vec![nested(then(vec![nested(then(vec![unset]))]))]);
    refused(client.try_txn(deep).await, Code::InvalidArgument, "etcdserver: key not found");
    let valued = PutRequest { key: "k".into(), value: "v".into(), ignore_value: true, ..Default::default() };
    let valued = RequestOp { request: Some(Request::RequestPut(valued)) };
    refused(
        client.try_txn(then(vec![nested(then(vec![valued]))])).await,
        Code::InvalidArgument,
        "etcdserver: value is provided",
    );
}

#[tokio::test]
async fn a_key_is_put_at_most_once_on_any_path() {
    let (_server, client) = serve();
    let both = |success: Vec<RequestOp>, failure: Vec<RequestOp>| {
        nested(TxnRequest { compare: Vec::new(), success, failure })
    };
    let puts_k = || both(vec![put("k", "n")], vec![]);
    let puts_k_otherwise = || both(vec![], vec![put("k", "n")]);
    let deletes_k = || both(vec![delete("k", "")], vec![]);
    let duplicates = [
        ("twice", vec![put("k", "1"), put("k", "2")]),
        ("put then delete", vec![put("k", "1"), delete("k", "")]),
        ("delete then put", vec![delete("k", ""), put("k", "1")]),
        ("put in a deleted range", vec![delete("a", "z"), put("k", "1")]),
        ("a level above", vec![put("k", "1"), puts_k()]),
        ("a level above, later", vec![puts_k(), put("k", "1")]),
        ("in the inner failure branch", vec![put("k", "1"), puts_k_otherwise()]),
        ("in two inner txns", vec![puts_k(), puts_k_otherwise()]),
        ("inner delete, outer put", vec![deletes_k(), put("k", "1")]),
        ("inner put, outer delete", vec![puts_k(), delete("k", "")]),
        ("inner delete, then inner put", vec![deletes_k(), puts_k()]),
    ];
    for (what, ops) in duplicates {
        let result = client.try_txn(then(ops.clone())).await;
        match result {
            Ok(_) => panic!("{what} was accepted"),
            Err(status) => {
                assert_eq!((status.code(), status.message()), (Code::InvalidArgument, DUPLICATE), "{what}");
            }
        }
        let otherwise = TxnRequest { failure: ops, ..Default::default() };
        refused(client.try_txn(otherwise).await, Code::InvalidArgument, DUPLICATE);
    }
    let allowed = [
        ("two deletes", vec![delete("k", ""), delete("a", "z")]),
        ("reads of a put key", vec![put("k", "1"), get("k"), get("k")]),
        ("both branches of one inner txn", vec![both(vec![put("k", "1")], vec![put("k", "2")])]),
        ("inner put, then inner delete", vec![puts_k(), deletes_k()]),
        ("an open range counts as empty", vec![delete("j", "\0"), put("k", "1")]),
        ("even at its start", vec![delete("k", "\0"), put("k", "1")]),
        ("an interval ends before its end", vec![delete("a", "k"), put("k", "1")]),
    ];
    for (what, ops) in allowed {
        if let Err(status) = client.try_txn(then(ops)).await {
            panic!("{what} was refused: {status}");
        }
    }
    let branches = TxnRequest { compare: vec![], success: vec![put("k", "1")], failure: vec![put("k", "2")] };
    accepted("both branches of one txn", client.try_txn(branches).await);
}

#[tokio::test]
async fn a_put_in_a_txn_sees_the_earlier_operations() {
    let (_server, client) = serve();
    client.put("k", "first").await;
    let previous = PutRequest { key: "l".into(), value: "1".into(), prev_kv: true, ..Default::default() };
    let response = client
        .txn(then(vec![
            nested(then(vec![put("k", "second")])),
            nested(then(vec![delete("k", "")])),
            RequestOp { request: Some(Request::RequestPut(previous)) },
            get("k"),
        ]))
        .await;
    assert_eq!(revision(&response.header), 3);
    assert_eq!(values(&response.responses[3]), Vec::<String>::new());
    assert_eq!(client.get("k").await, None);
    assert_eq!(client.get("l").await.expect("put").mod_revision, 3);
}

#[tokio::test]
async fn a_read_only_txn_answers_from_one_revision() {
    let (_server, client) = serve();
    client.put("a", "1").await;
    client.put("b", "2").await;
    let response = client.txn(then(vec![get("a"), get_at("a", 1), get("b")])).await;
    assert_eq!(revision(&response.header), 3);
    assert_eq!(values(&response.responses[0]), ["1"]);
    assert_eq!(values(&response.responses[1]), Vec::<String>::new());
    assert_eq!(values(&response.responses[2]), ["2"]);
    let nested_read = client.txn(then(vec![nested(then(vec![get("b")]))])).await;
    assert_eq!(revision(&nested_read.header), 3);
}

#[tokio::test]
async fn compare_and_swap_lets_one_of_many_win_each_round() {
    let (_server, client) = serve();
    client.put("counter", "0").await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            let mut wins = 0;
            while wins < 20 {
                let kv = client.get("counter").await.expect("it was put at first");
                let number: u32 =
                    std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok()).expect("a number");
                let unchanged = compare("counter", TargetUnion::ModRevision(kv.mod_revision), EQUAL);
                let swap = TxnRequest {
                    compare: vec![unchanged],
                    success: vec![put("counter", &(number + 1).to_string())],
                    failure: vec![],
                };
                wins += u32::from(client.txn(swap).await.succeeded);
            }
        }));
    }
    for task in tasks {
        task.await.expect("no task panics");
    }
    assert_eq!(client.get("counter").await.expect("put").value, "80");
}

/// A put of `key` at the bottom of `depth` transactions.
fn nested_put(key: &str, depth: usize) -> TxnRequest {
    let innermost = TxnRequest { success: vec![put(key, "v")], ..Default::default() };
    (1..depth).fold(innermost, |inner, _| TxnRequest { success: vec![nested(inner)], ..Default::default() })
}

/// Transactions that are nested more deeply than a message could be built from values.
fn nested_bytes(depth: usize) -> Bytes {
    const SUCCESS: u8 = 2 << 3 | 2;
    const REQUEST_TXN: u8 = 4 << 3 | 2;
    // The innermost first.
    let mut backwards = Vec::new();
    for _ in 1..depth {
        for key in [REQUEST_TXN, SUCCESS] {
            let mut field = vec![key];
            prost::encoding::encode_varint(backwards.len() as u64, &mut field);
            backwards.extend(field.iter().rev());
        }
    }
    backwards.reverse();
    backwards.into()
}

/// The client of these tests cannot decode answers that are nested more than fifty levels deep, so only the
/// effect is checked.
async fn is_executed(client: &Client, key: &str, depth: usize) -> bool {
    let answer = client.try_txn(nested_put(key, depth)).await;
    let is_there = client.get(key.to_owned()).await.is_some();
    if !is_there {
        refused(answer, Code::InvalidArgument, "etcdserver: too many operations in txn request");
    }
    is_there
}

#[tokio::test]
async fn transactions_are_nested_as_deep_as_their_operations_are_budgeted_for() {
    let (mut server, client) = serve();
    for depth in [50, 51, 100, 128] {
        assert!(is_executed(&client, &depth.to_string(), depth).await, "{depth}");
    }
    assert!(!is_executed(&client, "deeper", 129).await);
    // A transaction that was executed can be read back from the log.
    server.kill();
    server.start();
    assert!(server.client().get("128").await.is_some());
}

#[tokio::test]
async fn a_larger_budget_allows_deeper_nesting_and_a_limit_of_ours_has_its_words() {
    let (mut server, client) = serve_with(Launch::subject().flag("max-txn-ops", 10_000));
    let deepest = 256;
    assert!(is_executed(&client, "deepest", deepest).await);
    if subject_is_retcd() {
        assert!(!is_executed(&client, "deeper", deepest + 1).await);
        let text = "etcdserver: too many operations in txn request";
        refused(raw_txn(&client, nested_bytes(100_000)).await, Code::InvalidArgument, text);
    }
    server.kill();
    server.start();
    assert!(server.client().get("deepest").await.is_some());
}

#[tokio::test]
async fn a_nested_transaction_that_is_none_is_refused_in_the_words_of_grpc_go() {
    let (_server, client) = serve();
    let mut bytes = prost::Message::encode_to_vec(&nested_put("k", 2));
    let last = bytes.len() - 1;
    for broken in [vec![0x12, 4, 0x22, 2, 0x0a, 9], vec![0x12, 3, 0x22, 1, 0xff]] {
        let answer = raw_txn(&client, broken.into()).await;
        let reason = "proto: cannot parse invalid wire-format data";
        refused(answer, Code::Internal, &format!("grpc: error unmarshalling request: {reason}"));
    }
    accepted("the whole", raw_txn(&client, bytes.clone().into()).await);
    bytes.truncate(last);
    assert!(raw_txn(&client, bytes.into()).await.is_err());
}

/// Sends bytes unchanged, and ignores the answer.
async fn raw_txn(client: &Client, message: Bytes) -> Result<(), tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel());
    grpc.ready().await.expect("the server listens");
    let path = "/etcdserverpb.KV/Txn".parse().expect("a path");
    grpc.unary(tonic::Request::new(message), path, RawCodec).await.map(drop)
}

struct RawCodec;

impl tonic::codec::Codec for RawCodec {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl tonic::codec::Encoder for RawCodec {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, out: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        bytes::BufMut::put(out, item);
        Ok(())
    }
}

impl tonic::codec::Decoder for RawCodec {
    type Item = ();
    type Error = tonic::Status;

    fn decode(&mut self, input: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
        let length = bytes::Buf::remaining(input);
        bytes::Buf::advance(input, length);
        Ok(Some(()))
    }
}
