//! A disk without space: what goes on, what is refused, and that nothing is lost.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::{
    client::{Client, accepted, refused},
    http,
    pb::{
        etcdserverpb::*,
        mvccpb::{Event, event::EventType},
    },
    server::{Launch, Server, subject_is_retcd},
    small_disk::SmallDisk,
};

const FULL: &str = "etcdserver: mvcc: database space exceeded";

async fn stored(client: &Client) -> Vec<String> {
    let keys = RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        serializable: true,
        keys_only: true,
        ..Default::default()
    };
    let found = accepted("a serializable read", client.try_range(keys).await);
    found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

fn put(key: &str, bytes: usize) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: vec![b'x'; bytes].into(), ..Default::default() }
}

/// Waits until puts are accepted, and says how long that took.
async fn accepting(client: &Client) -> Duration {
    let start = Instant::now();
    loop {
        match client.try_put(put("again", 1)).await {
            Ok(_) => return start.elapsed(),
            Err(refusal) => assert_eq!((refusal.code(), refusal.message()), (Code::ResourceExhausted, FULL)),
        }
        assert!(start.elapsed() < Duration::from_secs(60), "puts are refused for good");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_full_disk_is_survived_and_left_by_itself() {
    if !subject_is_retcd() {
        eprintln!("left out: etcd ends when its disk is full");
        return;
    }
    let mut server: Server = Launch::subject().prepare();
    let Some(disk) = SmallDisk::at(&server.data_dir()) else { return };
    server.start();
    let client = server.client();
    let lease = accepted("a grant", client.try_grant(600, 7).await).id;
    let mut watch = client.watch(WatchCreateRequest { key: "k0003".into(), ..Default::default() }).await;
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        let key = format!("k{number:04}");
        accepted("a put", client.try_put(put(&key, 1000)).await);
        acknowledged.push(key);
    }
    disk.fill();
    // What was reserved ahead is used up, and then what grows is refused.
    let refusal = loop {
        let key = format!("k{:04}", acknowledged.len());
        match client.try_put(put(&key, 100_000)).await {
            Ok(_) => acknowledged.push(key),
            Err(refusal) => break refusal,
        }
        assert!(acknowledged.len() < 3000, "300 MB do not fit on the disk");
    };
    assert_eq!((refusal.code(), refusal.message()), (Code::ResourceExhausted, FULL));
    refused(client.try_grant(60, 0).await, Code::ResourceExhausted, FULL);

    let goes_on = async |client: &Client, deleted: &str| {
        assert!(client.get("k0001").await.is_some());
        let delete = DeleteRangeRequest { key: deleted.to_owned().into(), ..Default::default() };
        let deleted = accepted("a delete", client.try_delete(delete).await);
        assert_eq!(deleted.deleted, 1);
        let revision = deleted.header.expect("a header").revision;
        accepted("a compaction", client.try_compact(revision, false).await);
        assert!(client.keep_alive_once(lease).await.ttl > 0);
    };
    goes_on(&client, "k0003").await;
    // Watchers get what happened before the disk was full, and what happens now.
    for what in [EventType::Put, EventType::Delete] {
        let events = watch.next().await.events;
        assert_eq!(events.iter().map(Event::r#type).collect::<Vec<_>>(), [what]);
    }
    drop(watch);
    acknowledged.retain(|key| key != "k0003");
    let health = http::get(server.client_port, "/health");
    assert_eq!(health.status, 503);
    assert!(health.body.contains("DISK FULL ") && health.body.contains("/data/member/"), "{}", health.body);
    let metrics = http::get(server.client_port, "/metrics").body;
    assert!(metrics.contains("retcd_disk_full{path="), "{metrics}");
    assert!(
        server.log().iter().any(|line| line.contains("the disk is full: writes that add data are refused"))
    );

    // A start on a full disk serves, and nothing that was acknowledged is lost.
    for _ in 0..2 {
        server.kill();
        disk.fill();
        server.start();
        let client = server.client();
        assert_eq!(stored(&client).await, acknowledged);
    }
    let client = server.client();
    goes_on(&client, "k0005").await;
    acknowledged.retain(|key| key != "k0005");

    disk.free();
    let took = accepting(&client).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    server.restart();
    assert_eq!(stored(&server.client()).await, acknowledged);
    server.kill();
}
