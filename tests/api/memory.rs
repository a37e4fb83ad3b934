//! What answers take: clients that read much at once leave the server within a bound, and others in peace.

use std::process::Command;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::{net::TcpStream, task::JoinHandle};

use crate::{
    client::{Client, accepted, soon},
    memory_group::MemoryGroup,
    pb::etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, range_request::SortOrder,
        range_request::SortTarget, request_op::Request,
    },
    server::{Launch, serve_with, subject_is_retcd},
};

const MIB: usize = 1024 * 1024;

/// 48 MB, which a server that makes each answer as a whole would hold for each of the readers, once or twice.
const KEYS: usize = 192;
const VALUE_BYTES: usize = 250_000;
const READERS: usize = 40;

/// What answers may take (`ANSWERS_BYTES`), the caches of records, log entries and pages, and as much again as an
/// idle server takes for buffers and the allocator.
const SERVER_BYTES_MAX: usize = 512 * MIB;

async fn fill(client: &Client) {
    for number in 0..KEYS {
        client.put(format!("large/{number:03}"), vec![number as u8; VALUE_BYTES]).await;
    }
}

fn everything() -> RangeRequest {
    RangeRequest { key: "large/".into(), range_end: "large0".into(), ..Default::default() }
}

fn sorted(target: SortTarget) -> RangeRequest {
    let (sort_order, sort_target) = (SortOrder::Descend.into(), target.into());
    RangeRequest { sort_order, sort_target, ..everything() }
}

fn txn(ops: impl IntoIterator<Item = Request>) -> TxnRequest {
    let success = ops.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    TxnRequest { success, ..TxnRequest::default() }
}

/// Calls a method on a connection of its own, reads the answer and forgets it. Returns its length.
async fn read(endpoint: String, method: &str, request: Vec<u8>) -> usize {
    let stream = TcpStream::connect(&endpoint).await.expect("the server listens");
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(MIB as u32).initial_connection_window_size(MIB as u32);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await.expect("a handshake");
    tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("the connection is ready");
    let call = http::Request::post(format!("http://{endpoint}/etcdserverpb.KV/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let (answer, mut body) = sender.send_request(call, false).expect("it is sent");
    let mut message = BytesMut::from(&[0][..]);
    message.extend((request.len() as u32).to_be_bytes());
    message.extend(request);
    body.send_data(message.freeze(), true).expect("it is sent");
    let answer = answer.await.expect("an answer");
    assert!(!answer.headers().contains_key("grpc-status"), "{method}: {:?}", answer.headers());
    let mut body = answer.into_body();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data.expect("no error");
        length += data.len();
        body.flow_control().release_capacity(data.len()).expect("it was received");
    }
    let trailers = body.trailers().await.expect("no error").expect("trailers");
    assert_eq!(trailers["grpc-status"], "0", "{method}: {trailers:?}");
    length
}

/// Everything is read in all the ways in which there is much to be read.
fn start_readers(endpoint: &str) -> Vec<JoinHandle<usize>> {
    let put = PutRequest { key: "small".into(), value: "v".into(), ..PutRequest::default() };
    let requests: [(&str, Vec<u8>); 5] = [
        ("Range", everything().encode_to_vec()),
        ("Range", sorted(SortTarget::Mod).encode_to_vec()),
        ("Range", sorted(SortTarget::Value).encode_to_vec()),
        ("Txn", txn([Request::RequestRange(everything())]).encode_to_vec()),
        ("Txn", txn([Request::RequestRange(everything()), Request::RequestPut(put)]).encode_to_vec()),
    ];
    let of = |number: usize| {
        let (method, request) = requests[number % requests.len()].clone();
        tokio::spawn(read(endpoint.to_owned(), method, request))
    };
    (0..READERS).map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_reads_take_bounded_memory() {
    if !subject_is_retcd() {
        return;
    }
    // It is removed after the server has ended.
    let group = MemoryGroup::new(SERVER_BYTES_MAX);
    let (server, client) = serve_with(Launch::subject());
    fill(&client).await;
    if let Some(group) = &group {
        group.enter(server.pid());
    }
    let readers = start_readers(&server.endpoint());
    let mut quiet = 0;
    while readers.iter().any(|reader| !reader.is_finished()) {
        client.put("quiet", format!("{quiet}")).await;
        assert!(client.get("quiet").await.is_some());
        // What is larger than a few kilobytes waits for nobody either.
        let some = client.range(RangeRequest { limit: 2, ..everything() }).await;
        assert_eq!(some.kvs.len(), 2);
        quiet += 1;
    }
    for reader in readers {
        let length = soon("an answer", reader).await.expect("no panic");
        assert!(length > KEYS * VALUE_BYTES, "an answer is whole");
    }
    assert!(quiet > 10, "others are served meanwhile");
    let peak = server.peak_memory_bytes();
    assert!(peak <= SERVER_BYTES_MAX, "the server held {} MiB", peak / MIB);
}

/// Everything that is in memory as a whole has a limit.
#[tokio::test]
async fn an_answer_that_is_too_large_to_be_kept_is_refused() {
    if !subject_is_retcd() {
        return;
    }
    let (_server, client) = serve_with(Launch::subject());
    for number in 0..140 {
        client.put(format!("large/{number:03}"), vec![number as u8; MIB]).await;
    }
    let limit = "128 MiB of memory";
    for target in [SortTarget::Mod, SortTarget::Value, SortTarget::Key] {
        let refused = client.try_range(sorted(target)).await.expect_err("it is too large");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains(limit), "{refused}");
    }
    let some = client.range(RangeRequest { limit: 100, ..sorted(SortTarget::Mod) }).await;
    assert_eq!((some.kvs.len(), some.count, some.more), (100, 140, true));
    assert_eq!(client.range(everything()).await.kvs.len(), 140);
    let only = RangeRequest { keys_only: true, ..sorted(SortTarget::Mod) };
    assert_eq!(client.range(only).await.kvs.len(), 140);

    let refused = client.try_txn(txn([Request::RequestRange(everything())])).await;
    assert!(refused.expect_err("it is too large").message().contains(limit));
    // What was executed is said to be.
    let all = DeleteRangeRequest { key: "large/".into(), range_end: "large0".into(), prev_kv: true };
    let refused = client.try_delete(all.clone()).await.expect_err("it is too large");
    assert!(refused.message().contains("the request was executed"), "{refused}");
    let count = RangeRequest { count_only: true, ..everything() };
    assert_eq!(client.range(count).await.count, 0);
    // All of the memory is free again.
    client.put("large/1", vec![1; MIB]).await;
    let deleted = accepted("delete", client.try_delete(all).await);
    assert_eq!((deleted.deleted, deleted.prev_kvs.len()), (1, 1));
    assert_eq!(deleted.prev_kvs[0].value.len(), MIB);
}

/// What was freed goes back to the system within a second, or a burst of answers would take half as much again.
#[test]
fn the_allocator_has_its_settings() {
    let program = Command::new(env!("CARGO_BIN_EXE_retcd"))
        .arg("--version")
        .env("_RJEM_MALLOC_CONF", "stats_print:true")
        .output()
        .expect("retcd starts");
    let settings = String::from_utf8_lossy(&program.stderr);
    assert!(settings.contains("opt.dirty_decay_ms: 250 "), "{settings}");
}
