//! Answers to ranges that are larger than what the server makes as a whole.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::net::TcpStream;
use tonic::{Code, codec::CompressionEncoding};

use crate::{
    client::{Client, accepted, refused, revision, soon},
    pb::{etcdserverpb::*, mvccpb::KeyValue},
    server::serve,
};

/// Keys of many sizes, 7 MB together.
const KEYS: usize = 300;

fn key(number: usize) -> Bytes {
    format!("long/{number:03}").into()
}

fn value(number: usize) -> Bytes {
    // One of them is as large as a request may be, most are a few kilobytes.
    let length = if number == 17 { 1_500_000 } else { number * number % 50_000 };
    vec![number as u8; length].into()
}

fn everything() -> RangeRequest {
    RangeRequest { key: "long/".into(), range_end: "long0".into(), ..Default::default() }
}

async fn fill(client: &Client) -> BTreeMap<Bytes, Bytes> {
    let mut written = BTreeMap::new();
    for number in 0..KEYS {
        client.put(key(number), value(number)).await;
        written.insert(key(number), value(number));
    }
    written
}

fn check(kvs: &[KeyValue], expected: &BTreeMap<Bytes, Bytes>) {
    assert_eq!(kvs.len(), expected.len());
    for (kv, (key, value)) in kvs.iter().zip(expected) {
        assert_eq!(&kv.key, key);
        assert!(kv.value == value, "the value of {key:?}");
        assert_eq!((kv.version, kv.create_revision), (1, kv.mod_revision));
    }
}

#[tokio::test]
async fn a_long_answer_is_whole() {
    let (_server, client) = serve();
    let written = fill(&client).await;
    let newest = KEYS as i64 + 1;
    // Other keys and later changes do not show in what is read at a revision.
    client.put("long", "before").await;
    client.put("long0", "behind").await;
    client.put(key(5), "changed").await;
    client.delete(key(6)).await;

    let answer = client.range(RangeRequest { revision: newest, ..everything() }).await;
    check(&answer.kvs, &written);
    assert_eq!((answer.count, answer.more), (KEYS as i64, false));
    assert_eq!(revision(&answer.header), newest + 4);

    let newest = client.range(everything()).await;
    assert_eq!((newest.kvs.len(), newest.count), (KEYS - 1, KEYS as i64 - 1));

    let first = RangeRequest { revision: KEYS as i64 + 1, limit: 250, ..everything() };
    let answer = client.range(first).await;
    check(&answer.kvs, &written.clone().into_iter().take(250).collect());
    assert_eq!((answer.count, answer.more), (KEYS as i64, true));

    // The revision of key n is n + 2.
    let late = RangeRequest { revision: KEYS as i64 + 1, min_mod_revision: 102, ..everything() };
    let answer = client.range(late).await;
    check(&answer.kvs, &written.into_iter().skip(100).collect());

    let only = RangeRequest { keys_only: true, ..everything() };
    let answer = client.range(only).await;
    assert_eq!(answer.kvs.len(), KEYS - 1);
    assert!(answer.kvs.iter().all(|kv| kv.value.is_empty()));
}

/// A compressed request may be answered with a message that is not compressed.
#[tokio::test]
async fn a_long_answer_to_a_compressed_request_is_whole() {
    let (_server, client) = serve();
    let written = fill(&client).await;
    const GZIP: CompressionEncoding = CompressionEncoding::Gzip;
    let mut kv = client.kv().send_compressed(GZIP).accept_compressed(GZIP);
    let answer = accepted("range", kv.range(everything()).await).into_inner();
    check(&answer.kvs, &written);
}

#[tokio::test]
async fn many_long_answers_at_once_are_whole() {
    let (_server, client) = serve();
    let written = fill(&client).await;
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.range(everything()).await })
        })
        .collect();
    for answer in asked {
        check(&soon("an answer", answer).await.expect("no panic").kvs, &written);
    }
}

/// The keys are deleted and compacted away while the client waits with reading.
#[tokio::test]
async fn a_long_answer_that_is_read_slowly_is_of_one_revision() {
    let (server, client) = serve();
    let written = fill(&client).await;

    let stream = TcpStream::connect(server.endpoint()).await.expect("the server listens");
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(64 * 1024)
        .handshake::<_, Bytes>(stream)
        .await
        .expect("a handshake");
    tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("the connection is ready");
    let request = http::Request::post(format!("http://{}/etcdserverpb.KV/Range", server.endpoint()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let (answer, mut body) = sender.send_request(request, false).expect("it is sent");
    let message = everything().encode_to_vec();
    let mut framed = BytesMut::from(&[0][..]);
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    body.send_data(framed.freeze(), true).expect("it is sent");
    let mut body = soon("the answer's head", answer).await.expect("an answer").into_body();
    let mut received = BytesMut::new();
    received.extend(soon("the first bytes", body.data()).await.expect("a body").expect("no error"));

    let all = DeleteRangeRequest { key: "long/".into(), range_end: "long0".into(), prev_kv: false };
    let deleted = accepted("delete", client.kv().delete_range(all).await).into_inner();
    assert_eq!(deleted.deleted, KEYS as i64);
    // A compaction takes effect at once. What it removes from the disk has to wait for the answer.
    accepted("compact", client.try_compact(revision(&deleted.header), false).await);
    assert_eq!(client.range(everything()).await.count, 0);

    let mut taken = received.len();
    while !body.is_end_stream() {
        body.flow_control().release_capacity(taken).expect("it was received");
        let Some(data) = soon("more of the body", body.data()).await else { break };
        let data = data.expect("no error");
        taken = data.len();
        received.extend(data);
    }
    let trailers = soon("the trailers", body.trailers()).await.expect("no error").expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    let message = received.split_off(5);
    assert_eq!(received[1..], (message.len() as u32).to_be_bytes());
    let answer = RangeResponse::decode(message).expect("a whole message");
    check(&answer.kvs, &written);
    assert_eq!((answer.count, answer.more), (KEYS as i64, false));
    // The second time it is refused, and waits for the first.
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let again = client.try_compact(revision(&deleted.header), true);
    refused(soon("the compaction", again).await, Code::OutOfRange, compacted);
}
