//! KV: Range with every option, RangeStream, Put, DeleteRange and Compact, with each refusal.

use bytes::Bytes;
use tonic::Code;

use crate::{
    client::{Client, accepted, prefix_end, refused, revision},
    pb::{etcdserverpb::*, mvccpb::KeyValue},
    server::{Server, serve},
};

const KEY_MISSING: &str = "etcdserver: key is not provided";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

fn range(key: &'static str, end: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

/// Every key of the store.
fn everything() -> RangeRequest {
    range("\0", "\0")
}

fn keys(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

/// Keys a, b, c, ... each at its own revision from 2 on.
async fn serve_letters(letters: &str) -> (Server, Client) {
    let (server, client) = serve();
    for letter in letters.chars() {
        client.put(letter.to_string(), format!("value {letter}")).await;
    }
    (server, client)
}

#[tokio::test]
async fn a_new_store_is_empty_at_revision_one() {
    let (_server, client) = serve();
    let response = client.range(everything()).await;
    let header = response.header.expect("an answer has a header");
    assert_eq!((header.revision, response.count, response.more), (1, 0, false));
    assert_ne!(header.cluster_id, 0);
    assert_ne!(header.member_id, 0);
    assert!(header.raft_term > 0);
}

#[tokio::test]
async fn put_makes_a_revision_each_time() {
    let (_server, client) = serve();
    assert_eq!(client.put("k", "1").await, 2);
    assert_eq!(client.put("k", "1").await, 3, "the same value again is a change all the same");
    let kv = client.get("k").await.expect("just put");
    assert_eq!(
        kv,
        KeyValue {
            key: "k".into(),
            value: "1".into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: 0
        }
    );
}

#[tokio::test]
async fn put_gives_the_previous_value_when_asked() {
    let (_server, client) = serve();
    let put = |value: &'static str| PutRequest {
        key: "k".into(),
        value: value.into(),
        prev_kv: true,
        ..Default::default()
    };
    assert_eq!(accepted("put", client.try_put(put("1")).await).prev_kv, None);
    let previous = accepted("put", client.try_put(put("2")).await).prev_kv.expect("there was one");
    assert_eq!((previous.value, previous.mod_revision, previous.version), ("1".into(), 2, 1));
}

#[tokio::test]
async fn put_can_keep_the_value_or_the_lease() {
    let (_server, client) = serve();
    let lease = client.grant(600, 0x7001).await;
    let first = PutRequest { key: "k".into(), value: "1".into(), lease, ..Default::default() };
    accepted("put", client.try_put(first).await);

    let keep_lease =
        PutRequest { key: "k".into(), value: "2".into(), ignore_lease: true, ..Default::default() };
    accepted("put", client.try_put(keep_lease).await);
    let kv = client.get("k").await.expect("just put");
    assert_eq!((kv.value, kv.lease, kv.version), ("2".into(), lease, 2));

    let keep_value = PutRequest { key: "k".into(), ignore_value: true, ..Default::default() };
    accepted("put", client.try_put(keep_value).await);
    let kv = client.get("k").await.expect("just put");
    assert_eq!((kv.value, kv.lease, kv.version), ("2".into(), 0, 3), "a put without a lease detaches");
    assert!(client.time_to_live(lease).await.keys.is_empty());
}

#[tokio::test]
async fn put_refuses_what_it_cannot_mean() {
    let (_server, client) = serve();
    let cases = [
        (PutRequest::default(), Code::InvalidArgument, KEY_MISSING),
        (
            PutRequest { key: "k".into(), value: "v".into(), ignore_value: true, ..Default::default() },
            Code::InvalidArgument,
            "etcdserver: value is provided",
        ),
        (
            PutRequest { key: "k".into(), lease: 9, ignore_lease: true, ..Default::default() },
            Code::InvalidArgument,
            "etcdserver: lease is provided",
        ),
        (
            PutRequest { key: "k".into(), ignore_value: true, ..Default::default() },
            Code::InvalidArgument,
            "etcdserver: key not found",
        ),
        (
            PutRequest { key: "k".into(), ignore_lease: true, ..Default::default() },
            Code::InvalidArgument,
            "etcdserver: key not found",
        ),
        (
            PutRequest { key: "k".into(), lease: 12345, ..Default::default() },
            Code::NotFound,
            "etcdserver: requested lease not found",
        ),
    ];
    for (request, code, text) in cases {
        refused(client.try_put(request).await, code, text);
    }
    assert_eq!(revision(&client.range(everything()).await.header), 1, "a refused put changes nothing");
}

#[tokio::test]
async fn keys_and_values_are_bytes() {
    let (_server, client) = serve();
    let key: &[u8] = &[0, 1, 0xff, 0xfe, 0, b'/'];
    client.put(Bytes::from_static(key), Bytes::from_static(&[0xff; 300])).await;
    client.put("empty", "").await;
    assert_eq!(client.get(Bytes::from_static(key)).await.expect("just put").value, vec![0xff; 300]);
    assert_eq!(client.get("empty").await.expect("just put").value, "");
    let long = "k".repeat(64 * 1024);
    client.put(long.clone(), "long").await;
    assert_eq!(client.get(long).await.expect("just put").value, "long");
}

#[tokio::test]
async fn a_request_may_be_large_but_not_too_large() {
    let (_server, client) = serve();
    let megabyte = vec![7_u8; 1 << 20];
    client.put("large", megabyte.clone()).await;
    assert_eq!(client.get("large").await.expect("just put").value, megabyte);

    let too_large = PutRequest { key: "k".into(), value: vec![7; 1_572_864].into(), ..Default::default() };
    refused(client.try_put(too_large).await, Code::InvalidArgument, "etcdserver: request is too large");

    let not_even_read = PutRequest { key: "k".into(), value: vec![7; 4 << 20].into(), ..Default::default() };
    let status = client.try_put(not_even_read).await.expect_err("4 MiB are too much to read");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().starts_with("grpc: received message larger than max ("), "{status}");
    assert_eq!(client.put("after", "it").await, 3, "the connection and the store are as before");
}

#[tokio::test]
async fn range_has_four_kinds_of_interval() {
    let (_server, client) = serve_letters("abcd").await;
    client.put("b2", "").await;
    let cases = [
        (("a", ""), vec!["a"]),
        (("x", ""), vec![]),
        (("a", "c"), vec!["a", "b", "b2"]),
        (("b", "b3"), vec!["b", "b2"]),
        (("c", "\0"), vec!["c", "d"]),
        (("\0", "\0"), vec!["a", "b", "b2", "c", "d"]),
        (("c", "a"), vec![]),
        (("c", "c"), vec![]),
    ];
    for ((key, end), expected) in cases {
        let response = client.range(range(key, end)).await;
        assert_eq!(keys(&response.kvs), expected, "[{key:?}, {end:?})");
        assert_eq!(response.count, i64::try_from(expected.len()).expect("a few"));
        assert!(!response.more);
    }
    let prefix = RangeRequest { key: "b".into(), range_end: prefix_end(b"b"), ..Default::default() };
    assert_eq!(keys(&client.range(prefix).await.kvs), ["b", "b2"]);
}

#[tokio::test]
async fn range_counts_beyond_its_limit() {
    let (_server, client) = serve_letters("abcde").await;
    for (limit, returned, more) in
        [(0, 5, false), (1, 1, true), (4, 4, true), (5, 5, false), (9, 5, false), (-1, 5, false)]
    {
        let response = client.range(RangeRequest { limit, ..everything() }).await;
        assert_eq!((response.kvs.len(), response.more, response.count), (returned, more, 5), "limit {limit}");
    }
    let count = client.range(RangeRequest { count_only: true, limit: 2, ..everything() }).await;
    assert_eq!((count.kvs.len(), count.more, count.count), (0, false, 5));
}

#[tokio::test]
async fn range_can_leave_the_values_out() {
    let (_server, client) = serve_letters("ab").await;
    let response = client.range(RangeRequest { keys_only: true, ..everything() }).await;
    assert_eq!(keys(&response.kvs), ["a", "b"]);
    for kv in &response.kvs {
        assert!(kv.value.is_empty());
        assert_eq!((kv.version, kv.create_revision), (1, kv.mod_revision));
    }
}

#[tokio::test]
async fn keys_only_is_answered_without_leases() {
    let (_server, client) = serve();
    if !client.has((3, 7, 0), "a keys-only answer from the index alone").await {
        return;
    }
    let lease = client.grant(600, 0).await;
    let put = PutRequest { key: "k".into(), value: "v".into(), lease, ..Default::default() };
    accepted("put", client.try_put(put).await);
    let keys_only = RangeRequest { keys_only: true, ..everything() };
    assert_eq!(client.range(keys_only.clone()).await.kvs[0].lease, 0);
    let by_value = RangeRequest { sort_target: 4, ..keys_only };
    let kv = client.range(by_value).await.kvs.remove(0);
    assert_eq!((kv.lease, kv.value), (lease, Bytes::new()), "sorting by value reads the record");
}

#[tokio::test]
async fn range_sorts_by_every_target_in_both_directions() {
    let (_server, client) = serve();
    // Each target orders these three keys differently.
    client.put("b", "z").await;
    client.put("a", "y").await;
    client.put("c", "x").await;
    client.put("c", "x").await;
    client.put("b", "z").await;
    client.put("b", "z").await;
    for (target, ascending) in [(0, "abc"), (1, "acb"), (2, "bac"), (3, "acb"), (4, "cab")] {
        for (order, expected) in [(1, ascending.to_owned()), (2, ascending.chars().rev().collect())] {
            let request = RangeRequest { sort_target: target, sort_order: order, ..everything() };
            let response = client.range(request.clone()).await;
            assert_eq!(keys(&response.kvs).concat(), expected, "target {target} order {order}");
            let first = client.range(RangeRequest { limit: 1, ..request }).await;
            assert_eq!((keys(&first.kvs).concat(), first.more), (expected[..1].to_owned(), true));
        }
    }
}

#[tokio::test]
async fn a_sort_target_without_an_order_means_ascending_among_the_first_keys() {
    let (_server, client) = serve();
    for (key, value) in [("a", "4"), ("b", "3"), ("c", "2"), ("d", "1")] {
        client.put(key, value).await;
    }
    let by_value = RangeRequest { sort_target: 4, ..everything() };
    assert_eq!(keys(&client.range(by_value.clone()).await.kvs), ["d", "c", "b", "a"]);
    // Only the first limit+1 keys in key order are fetched before they are sorted.
    let limited = client.range(RangeRequest { limit: 2, ..by_value }).await;
    assert_eq!((keys(&limited.kvs), limited.more, limited.count), (vec!["c".into(), "b".into()], true, 4));
}

#[tokio::test]
async fn an_unknown_sort_option_is_refused() {
    let (_server, client) = serve();
    refused(client.try_range(RangeRequest::default()).await, Code::InvalidArgument, KEY_MISSING);
    if !client.has((3, 6, 0), "the check of sort options").await {
        return;
    }
    for (sort_order, sort_target) in [(3, 0), (-1, 0), (0, 5), (1, -1)] {
        let request = RangeRequest { sort_order, sort_target, ..everything() };
        refused(client.try_range(request).await, Code::InvalidArgument, "etcdserver: invalid sort option");
    }
}

#[tokio::test]
async fn range_filters_by_revision_but_counts_all() {
    let (_server, client) = serve_letters("abcd").await;
    client.put("a", "again").await;
    let request = everything;
    let cases = [
        (RangeRequest { min_mod_revision: 4, ..request() }, vec!["a", "c", "d"]),
        (RangeRequest { max_mod_revision: 4, ..request() }, vec!["b", "c"]),
        (RangeRequest { min_create_revision: 4, ..request() }, vec!["c", "d"]),
        (RangeRequest { max_create_revision: 3, ..request() }, vec!["a", "b"]),
        (RangeRequest { min_mod_revision: 4, max_create_revision: 3, ..request() }, vec!["a"]),
        (RangeRequest { min_mod_revision: 100, ..request() }, vec![]),
    ];
    for (request, expected) in cases {
        let response = client.range(request.clone()).await;
        assert_eq!(keys(&response.kvs), expected, "{request:?}");
        assert_eq!((response.count, response.more), (4, false), "{request:?}");
    }
    let limited = client.range(RangeRequest { min_mod_revision: 4, limit: 2, ..request() }).await;
    assert_eq!((keys(&limited.kvs), limited.more, limited.count), (vec!["a".into(), "c".into()], true, 4));
}

#[tokio::test]
async fn range_reads_the_past_until_it_is_compacted() {
    let (_server, client) = serve();
    client.put("k", "1").await;
    client.put("k", "2").await;
    client.delete("k").await;
    client.put("k", "3").await;
    let at = |revision: i64| RangeRequest { revision, ..range("k", "") };
    let value = async |revision: i64| {
        let response = client.range(at(revision)).await;
        assert_eq!(response.header.expect("an answer has a header").revision, 5, "the current one");
        response.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
    };
    assert_eq!(value(1).await, None);
    assert_eq!(value(2).await.as_deref(), Some("1"));
    assert_eq!(value(3).await.as_deref(), Some("2"));
    assert_eq!(value(4).await, None);
    assert_eq!(value(5).await.as_deref(), Some("3"));
    assert_eq!(value(-7).await.as_deref(), Some("3"), "anything below 1 means now");
    refused(client.try_range(at(6)).await, Code::OutOfRange, FUTURE);

    client.compact(3).await;
    refused(client.try_range(at(2)).await, Code::OutOfRange, COMPACTED);
    assert_eq!(value(3).await.as_deref(), Some("2"), "the compact revision itself can be read");
    assert_eq!(value(4).await, None);
}

#[tokio::test]
async fn a_serializable_range_answers_the_same_on_one_node() {
    let (_server, client) = serve_letters("ab").await;
    let response = client.range(RangeRequest { serializable: true, ..everything() }).await;
    assert_eq!((keys(&response.kvs), response.count), (vec!["a".into(), "b".into()], 2));
}

#[tokio::test]
async fn delete_range_deletes_an_interval_in_one_revision() {
    let (_server, client) = serve_letters("abcd").await;
    let request = DeleteRangeRequest { key: "b".into(), range_end: "d".into(), prev_kv: true };
    let response = accepted("delete", client.try_delete(request).await);
    assert_eq!((response.deleted, revision(&response.header)), (2, 6));
    assert_eq!(keys(&response.prev_kvs), ["b", "c"]);
    assert_eq!(response.prev_kvs[0].value, "value b");
    assert_eq!(keys(&client.range(everything()).await.kvs), ["a", "d"]);

    let nothing = DeleteRangeRequest { key: "b".into(), range_end: "d".into(), prev_kv: true };
    let response = accepted("delete", client.try_delete(nothing).await);
    assert_eq!((response.deleted, revision(&response.header), response.prev_kvs.len()), (0, 6, 0));

    let backwards = DeleteRangeRequest { key: "d".into(), range_end: "a".into(), ..Default::default() };
    assert_eq!(accepted("delete", client.try_delete(backwards).await).deleted, 0);

    let without_previous = DeleteRangeRequest { key: "a".into(), ..Default::default() };
    let response = accepted("delete", client.try_delete(without_previous).await);
    assert_eq!((response.deleted, response.prev_kvs.len()), (1, 0));

    let rest = DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    assert_eq!(accepted("delete", client.try_delete(rest).await).deleted, 1);
    refused(client.try_delete(DeleteRangeRequest::default()).await, Code::InvalidArgument, KEY_MISSING);
}

#[tokio::test]
async fn a_deleted_key_begins_anew() {
    let (_server, client) = serve();
    client.put("k", "1").await;
    client.put("k", "2").await;
    client.delete("k").await;
    client.put("k", "3").await;
    let kv = client.get("k").await.expect("just put");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[tokio::test]
async fn compaction_moves_forward_only() {
    let (_server, client) = serve();
    refused(client.try_compact(-1, false).await, Code::OutOfRange, COMPACTED);
    accepted("compact", client.try_compact(0, false).await);
    refused(client.try_compact(0, false).await, Code::OutOfRange, COMPACTED);
    refused(client.try_compact(2, false).await, Code::OutOfRange, FUTURE);
    for _ in 0..4 {
        client.put("k", "v").await;
    }
    let response = accepted("compact", client.try_compact(3, true).await);
    assert_eq!(revision(&response.header), 5, "the header tells the current revision");
    refused(client.try_compact(3, true).await, Code::OutOfRange, COMPACTED);
    refused(client.try_compact(2, false).await, Code::OutOfRange, COMPACTED);
    refused(client.try_compact(6, false).await, Code::OutOfRange, FUTURE);
    accepted("compact", client.try_compact(5, false).await);
    assert_eq!(client.put("k", "v").await, 6);
}

#[tokio::test]
async fn compaction_to_the_last_tombstone_keeps_the_revision_over_a_restart() {
    let (mut server, client) = serve();
    client.put("k", "v").await;
    let deleted = client.delete("k").await;
    client.compact(deleted).await;
    server.restart();
    let client = server.client();
    assert_eq!(revision(&client.range(everything()).await.header), deleted);
    refused(client.try_compact(deleted, false).await, Code::OutOfRange, COMPACTED);
    assert_eq!(client.put("k", "v").await, deleted + 1);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let (mut server, client) = serve();
    for number in 0..50 {
        client.put(format!("key {number:02}"), format!("value {number}")).await;
    }
    client.put("key 07", "again").await;
    client.delete("key 11").await;
    client.compact(20).await;
    let before = client.range(everything()).await;
    let past = client.range(RangeRequest { revision: 30, ..everything() }).await;
    server.restart();
    let client = server.client();
    let after = client.range(everything()).await;
    assert_eq!(before.kvs, after.kvs);
    let (before, after) = (before.header.expect("a header"), after.header.expect("a header"));
    assert_eq!(
        (before.revision, before.member_id, before.cluster_id),
        (after.revision, after.member_id, after.cluster_id)
    );
    assert_eq!(client.range(RangeRequest { revision: 30, ..everything() }).await.kvs, past.kvs);
    let compacted = RangeRequest { revision: 19, ..everything() };
    refused(client.try_range(compacted).await, Code::OutOfRange, COMPACTED);
}

#[tokio::test]
async fn concurrent_puts_each_get_a_revision_of_their_own() {
    let (_server, client) = serve();
    let mut writers = Vec::new();
    for writer in 0..8 {
        let client = client.clone();
        writers.push(tokio::spawn(async move {
            let mut revisions = Vec::new();
            for number in 0..50 {
                revisions.push(client.put(format!("{writer}"), format!("{number}")).await);
            }
            revisions
        }));
    }
    let mut all = Vec::new();
    for writer in writers {
        let revisions = writer.await.expect("a writer does not panic");
        assert!(revisions.is_sorted(), "one writer's revisions grow");
        all.extend(revisions);
    }
    all.sort_unstable();
    assert_eq!(all, (2..402).collect::<Vec<i64>>());
}

async fn range_stream(client: &Client, request: RangeRequest) -> Result<Vec<RangeResponse>, tonic::Status> {
    let mut stream = client.kv().range_stream(request).await?.into_inner();
    let mut parts = Vec::new();
    while let Some(part) = stream.message().await? {
        parts.push(part.range_response.expect("a part carries a range response"));
    }
    Ok(parts)
}

#[tokio::test]
async fn range_stream_delivers_one_revision_in_parts() {
    let (_server, client) = serve();
    if !client.has((3, 7, 0), "RangeStream").await {
        return;
    }
    for number in 0..100 {
        client.put(format!("k{number:03}"), vec![7; 1000]).await;
    }
    let whole = client.range(everything()).await;
    let parts = accepted("range stream", range_stream(&client, everything()).await);
    assert!(parts.len() > 1, "a hundred keys are more than one part");
    let (last, firsts) = parts.split_last().expect("there are parts");
    for part in firsts {
        assert_eq!((&part.header, part.more, part.count), (&None, false, 0), "only the last part tells");
    }
    assert_eq!((revision(&last.header), last.more, last.count), (101, false, 100));
    let streamed: Vec<KeyValue> = parts.iter().flat_map(|part| part.kvs.clone()).collect();
    assert_eq!(streamed, whole.kvs);

    let limited = RangeRequest { limit: 25, ..everything() };
    let parts = accepted("range stream", range_stream(&client, limited).await);
    assert_eq!(parts.iter().map(|part| part.kvs.len()).sum::<usize>(), 25);
    let last = parts.last().expect("there are parts");
    assert_eq!((last.more, last.count), (true, 100));

    let past = RangeRequest { revision: 11, ..everything() };
    let parts = accepted("range stream", range_stream(&client, past).await);
    let last = parts.last().expect("there are parts");
    assert_eq!((last.count, revision(&last.header)), (10, 101));

    let count = RangeRequest { count_only: true, ..everything() };
    let parts = accepted("range stream", range_stream(&client, count).await);
    assert_eq!((parts.len(), parts[0].count, parts[0].kvs.len()), (1, 100, 0));

    let nothing = accepted("range stream", range_stream(&client, range("zzz", "")).await);
    assert_eq!((nothing.len(), nothing[0].count, revision(&nothing[0].header)), (1, 0, 101));
}

#[tokio::test]
async fn range_stream_refuses_what_it_cannot_stream() {
    let (_server, client) = serve();
    if !client.has((3, 7, 0), "RangeStream").await {
        return;
    }
    client.put("a", "1").await;
    client.put("b", "2").await;
    let sorted = "RangeStream does not support custom sort orders";
    let filtered = "RangeStream does not support revision filters";
    let cases = [
        (RangeRequest { sort_order: 2, ..everything() }, Code::Unimplemented, sorted),
        (RangeRequest { sort_order: 1, sort_target: 3, ..everything() }, Code::Unimplemented, sorted),
        (RangeRequest { min_mod_revision: 1, ..everything() }, Code::Unimplemented, filtered),
        (RangeRequest { max_mod_revision: 1, ..everything() }, Code::Unimplemented, filtered),
        (RangeRequest { min_create_revision: 1, ..everything() }, Code::Unimplemented, filtered),
        (RangeRequest { max_create_revision: 1, ..everything() }, Code::Unimplemented, filtered),
        (RangeRequest::default(), Code::InvalidArgument, KEY_MISSING),
        (
            RangeRequest { sort_order: 9, ..everything() },
            Code::InvalidArgument,
            "etcdserver: invalid sort option",
        ),
        (RangeRequest { revision: 9, ..everything() }, Code::OutOfRange, FUTURE),
    ];
    for (request, code, text) in cases {
        refused(range_stream(&client, request).await, code, text);
    }
    for allowed in [
        RangeRequest { sort_order: 1, ..everything() },
        RangeRequest { sort_target: 3, ..everything() },
        RangeRequest { serializable: true, ..everything() },
    ] {
        let parts = accepted("range stream", range_stream(&client, allowed).await);
        assert_eq!(parts.iter().map(|part| part.kvs.len()).sum::<usize>(), 2);
    }
    client.compact(3).await;
    let past = RangeRequest { revision: 2, ..everything() };
    refused(range_stream(&client, past).await, Code::OutOfRange, COMPACTED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_write_is_seen_on_every_connection() {
    let (server, client) = serve();
    let mut pairs = Vec::new();
    for pair in 0..4 {
        let (writer, reader) = (server.client(), server.client());
        pairs.push(tokio::spawn(async move {
            let key = format!("key {pair}");
            for number in 0..150 {
                let at = writer.put(key.clone(), number.to_string()).await;
                let kv = reader.get(key.clone()).await.expect("it was put");
                assert_eq!((kv.mod_revision, kv.value), (at, number.to_string().into()));
            }
        }));
    }
    for pair in pairs {
        pair.await.expect("no pair panics");
    }
    assert_eq!(revision(&client.range(everything()).await.header), 601);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_revision_reads_the_same_while_the_store_moves_on() {
    let (server, client) = serve();
    for number in 0..300 {
        client.put(format!("key {number:03}"), format!("first {number}")).await;
    }
    let pinned = client.put("key 000", "last of all").await;
    let at = RangeRequest { revision: pinned, ..everything() };
    let expected = client.range(at.clone()).await;
    let mut writers = Vec::new();
    for writer in 0..3_u32 {
        let client = server.client();
        writers.push(tokio::spawn(async move {
            for round in 0..200_u32 {
                let key = format!("key {:03}", (writer * 97 + round * 31) % 300);
                if round % 7 == 0 {
                    client.delete(key).await;
                } else {
                    client.put(key, format!("{writer} {round} {}", "x".repeat(500))).await;
                }
            }
        }));
    }
    let mut reads = 0;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let again = client.range(at.clone()).await;
        assert_eq!((again.count, &again.kvs), (expected.count, &expected.kvs));
        reads += 1;
    }
    assert!(reads > 0);
    for writer in writers {
        writer.await.expect("no writer panics");
    }
    client.compact(pinned).await;
    assert_eq!(client.range(at).await.kvs, expected.kvs, "compacting up to it takes nothing of it");
}
