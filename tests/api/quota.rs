//! Space: the quota and the recovery from it, the reported sizes, and automatic compaction.

use std::time::Duration;

use tonic::Code;

use crate::{
    client::{Client, accepted, refused},
    pb::etcdserverpb::*,
    server::{Launch, PATIENCE, serve, serve_with, subject_is_retcd},
};

const FULL: &str = "etcdserver: mvcc: database space exceeded";

/// Thirteen pages, which is the quota in etcd's own tests.
const QUOTA: u64 = 13 * 4096;

fn put_of(key: &str, size: usize) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: vec![b'x'; size].into(), ..Default::default() }
}

#[tokio::test]
async fn a_full_store_refuses_to_grow_until_it_is_given_room() {
    let (_server, client) = serve_with(Launch::subject().flag("quota-backend-bytes", QUOTA));
    accepted("put", client.try_put(put_of("small", 64)).await);
    let mut last = 0;
    let refusal = loop {
        match client.try_put(put_of(&format!("key {last:03}"), 4096)).await {
            Ok(response) => last = crate::client::revision(&response.header),
            Err(status) => break status,
        }
        assert!(last < 100, "100 times 4 KiB do not fit in 52 KiB");
    };
    assert_eq!((refusal.code(), refusal.message()), (Code::ResourceExhausted, FULL));
    let member = client.status().await.leader;
    assert_eq!(client.alarms().await, [AlarmMember { member_id: member, alarm: 1 }]);

    refused(client.try_put(put_of("tiny", 1)).await, Code::ResourceExhausted, FULL);
    refused(client.try_grant(60, 0).await, Code::ResourceExhausted, FULL);
    let putting = TxnRequest {
        success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put_of("tiny", 1))) }],
        ..Default::default()
    };
    refused(client.try_txn(putting).await, Code::ResourceExhausted, FULL);
    let reading = TxnRequest {
        success: vec![RequestOp {
            request: Some(request_op::Request::RequestRange(RangeRequest {
                key: "small".into(),
                ..Default::default()
            })),
        }],
        ..Default::default()
    };
    if client.has((3, 6, 0), "room for txns that only read").await {
        accepted("a txn that only reads", client.try_txn(reading).await);
    }
    assert!(client.get("small").await.is_some());
    // In protobuf's text format, which may have more than one blank between fields.
    let errors = client.status().await.errors;
    let words: Vec<_> = errors.iter().flat_map(|error| error.split_whitespace()).collect();
    assert_eq!(words, [format!("memberID:{member}").as_str(), "alarm:NOSPACE"]);

    // The recovery: delete, compact, defragment, disarm.
    let all = DeleteRangeRequest { key: "key".into(), range_end: "kez".into(), ..Default::default() };
    let deleted = accepted("delete", client.try_delete(all).await);
    client.compact(crate::client::revision(&deleted.header)).await;
    accepted("defragment", client.maintenance().defragment(DefragmentRequest {}).await);
    refused(client.try_put(put_of("tiny", 1)).await, Code::ResourceExhausted, FULL);
    let disarm = AlarmRequest { action: 2, member_id: member, alarm: 1 };
    accepted("disarm", client.maintenance().alarm(disarm).await);
    accepted("put", client.try_put(put_of("tiny", 1)).await);
    assert!(client.alarms().await.is_empty());
}

/// Leases count towards the size until they end.
#[tokio::test]
async fn leases_fill_a_store() {
    let (_server, client) = serve_with(Launch::subject().flag("quota-backend-bytes", 64 * 1024));
    let mut granted = Vec::new();
    let refusal = loop {
        match client.try_grant(600, 0).await {
            Ok(grant) => granted.push(grant.id),
            Err(status) => break status,
        }
        assert!(granted.len() < 5_000, "so many leases do not fit");
    };
    assert_eq!((refusal.code(), refusal.message()), (Code::ResourceExhausted, FULL));
    let full = client.status().await;
    assert!(full.db_size_in_use > 60 * 1024 || !subject_is_retcd(), "{full:?}");
    for id in granted {
        accepted("revoke", client.try_revoke(id).await);
    }
    if subject_is_retcd() {
        let empty = client.status().await;
        assert!(empty.db_size_in_use < 24 * 1024, "{empty:?}");
    }
}

#[tokio::test]
async fn a_quota_below_the_smallest_store_is_full_from_the_start() {
    let (_server, client) = serve_with(Launch::subject().flag("quota-backend-bytes", 5 * 1024));
    refused(client.try_put(put_of("k", 1)).await, Code::ResourceExhausted, FULL);
    assert_eq!(client.alarms().await.len(), 1);
}

#[tokio::test]
async fn a_negative_quota_is_none() {
    let (_server, client) = serve_with(Launch::subject().flag("quota-backend-bytes", -1));
    for number in 0..20 {
        accepted("put", client.try_put(put_of(&format!("{number}"), 100_000)).await);
    }
    assert!(client.alarms().await.is_empty());
}

#[tokio::test]
async fn a_new_store_is_small() {
    let (_server, client) = serve();
    let status = client.status().await;
    assert!(status.db_size < 48 * 1024, "{}", status.db_size);
    assert!(status.db_size_in_use <= status.db_size);
}

/// Puts and deletes a few megabytes, and compacts the store up to the newest revision.
async fn fill_and_empty(client: &Client) {
    let mut writers = Vec::new();
    for writer in 0..4 {
        let client = client.clone();
        writers.push(tokio::spawn(async move {
            for number in 0..250 {
                accepted("put", client.try_put(put_of(&format!("{writer}/{number}"), 2048)).await);
            }
        }));
    }
    for writer in writers {
        writer.await.expect("a writer does not panic");
    }
    let all = DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    accepted("delete", client.try_delete(all).await);
    let now = client.put("left", "over").await;
    client.compact(now).await;
}

#[tokio::test]
async fn compaction_frees_and_defragmenting_shrinks() {
    let (_server, client) = serve();
    fill_and_empty(&client).await;
    let compacted = client.status().await;
    assert!(compacted.db_size > 1 << 20, "{}", compacted.db_size);
    assert!(compacted.db_size_in_use < compacted.db_size / 2, "{compacted:?}");
    accepted("defragment", client.maintenance().defragment(DefragmentRequest {}).await);
    let defragmented = client.status().await;
    assert!(defragmented.db_size < compacted.db_size / 2, "{defragmented:?}");
    assert_eq!(client.get("left").await.expect("put").value, "over");
}

#[tokio::test]
async fn periodic_compaction_happens_by_itself() {
    let launch =
        Launch::subject().flag("auto-compaction-mode", "periodic").flag("auto-compaction-retention", "1s");
    let (_server, client) = serve_with(launch);
    let first = client.put("k", "1").await;
    let begun = std::time::Instant::now();
    let mut last = first;
    loop {
        last = client.put("k", last.to_string()).await;
        let past = RangeRequest { key: "k".into(), revision: first, ..Default::default() };
        if let Err(status) = client.try_range(past).await {
            assert_eq!(status.message(), "etcdserver: mvcc: required revision has been compacted");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "nothing was compacted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "the last second is kept");
    let now = RangeRequest { key: "k".into(), revision: last, ..Default::default() };
    accepted("range", client.try_range(now).await);
}

#[tokio::test]
async fn compaction_modes_are_those_of_etcd() {
    for (mode, retention) in [("revision", "1000"), ("periodic", "1"), ("periodic", "10m"), ("periodic", "0")]
    {
        let launch =
            Launch::subject().flag("auto-compaction-mode", mode).flag("auto-compaction-retention", retention);
        let (_server, client) = serve_with(launch);
        client.put("k", "v").await;
    }
}

#[tokio::test]
async fn more_operations_and_larger_requests_can_be_allowed() {
    let launch = Launch::subject().flag("max-txn-ops", 200).flag("max-request-bytes", 4 << 20);
    let (_server, client) = serve_with(launch);
    let put = |number: usize| RequestOp {
        request: Some(request_op::Request::RequestPut(put_of(&format!("{number}"), 1))),
    };
    let txn = |count: usize| TxnRequest { success: (0..count).map(put).collect(), ..Default::default() };
    accepted("txn", client.try_txn(txn(200)).await);
    let too_many = "etcdserver: too many operations in txn request";
    refused(client.try_txn(txn(201)).await, Code::InvalidArgument, too_many);
    accepted("put", client.try_put(put_of("large", 3 << 20)).await);
    let too_large = client.try_put(put_of("larger", 4 << 20)).await;
    refused(too_large, Code::InvalidArgument, "etcdserver: request is too large");
    assert!(!subject_is_retcd() || client.get("large").await.is_some());
}
