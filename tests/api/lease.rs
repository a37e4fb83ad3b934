//! Lease: all six calls, what expiry does, and that a lease never ends early.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::{
    client::{Client, accepted, refused, revision, soon},
    pb::etcdserverpb::*,
    server::{serve, subject_is_retcd},
};

const NOT_FOUND: &str = "etcdserver: requested lease not found";

async fn put_with(client: &Client, key: &'static str, lease: i64) {
    let put = PutRequest { key: key.into(), value: "v".into(), lease, ..Default::default() };
    accepted("put", client.try_put(put).await);
}

async fn leases(client: &Client) -> Vec<i64> {
    let response = accepted("leases", client.leases().lease_leases(LeaseLeasesRequest {}).await);
    let mut ids: Vec<i64> = response.into_inner().leases.iter().map(|lease| lease.id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_grant_answers_with_the_id_and_the_time() {
    let (_server, client) = serve();
    let response = accepted("grant", client.try_grant(600, 42).await);
    assert_eq!((response.id, response.ttl, response.error.as_str()), (42, 600, ""));
    assert_eq!(revision(&response.header), 1, "a lease makes no revision");
    let chosen = accepted("grant", client.try_grant(600, 0).await);
    assert!(chosen.id > 0, "the server picks a positive id");
    let another = accepted("grant", client.try_grant(600, 0).await);
    assert_ne!(chosen.id, another.id);
}

#[tokio::test]
async fn ids_chosen_by_clients_may_be_negative() {
    let (_server, client) = serve();
    for id in [-1, i64::MIN, i64::MAX, -77] {
        assert_eq!(client.grant(600, id).await, id);
        put_with(&client, "k", id).await;
        assert_eq!(client.time_to_live(id).await.keys, ["k"]);
    }
    assert_eq!(leases(&client).await, [i64::MIN, -77, -1, i64::MAX]);
    accepted("revoke", client.try_revoke(-77).await);
    assert_eq!(client.get("k").await, None);
}

/// The alarm refuses a client's revoke and those of the leader; when it is disarmed, the lease ends after all.
#[tokio::test]
async fn a_lease_whose_revoke_was_refused_ends_all_the_same() {
    let (_server, client) = serve();
    let member_id = client.status().await.header.expect("a header").member_id;
    let alarm = async |action: i32| {
        let request = AlarmRequest { action, member_id, alarm: AlarmType::Corrupt.into() };
        accepted("alarm", client.maintenance().alarm(request).await);
    };
    let mut stream = client.watch(WatchCreateRequest { key: "k".into(), ..Default::default() }).await;
    let lease = client.grant(2, 7).await;
    put_with(&client, "k", lease).await;
    alarm(alarm_request::AlarmAction::Activate.into()).await;
    refused(client.try_revoke(lease).await, Code::DataLoss, "etcdserver: corrupt cluster");
    alarm(alarm_request::AlarmAction::Deactivate.into()).await;
    assert_eq!(stream.events(2).await[1].r#type, 1, "the second event is the delete");
    assert_eq!(leases(&client).await, Vec::<i64>::new());
}

#[tokio::test]
async fn a_grant_is_refused_for_a_taken_id_or_too_long_a_time() {
    let (_server, client) = serve();
    client.grant(600, 7).await;
    refused(client.try_grant(600, 7).await, Code::FailedPrecondition, "etcdserver: lease already exists");
    accepted("grant", client.try_grant(9_000_000_000, 8).await);
    refused(client.try_grant(9_000_000_001, 9).await, Code::OutOfRange, "etcdserver: too large lease TTL");
}

#[tokio::test]
async fn a_short_time_is_raised_to_the_least() {
    let (_server, client) = serve();
    for (id, ttl) in [(1, 1), (2, 0), (3, -5), (4, 2)] {
        let granted = accepted("grant", client.try_grant(ttl, id).await).ttl;
        assert_eq!(granted, 2, "one and a half election timeouts, in whole seconds");
    }
    assert_eq!(accepted("grant", client.try_grant(3, 5).await).ttl, 3);
}

#[tokio::test]
async fn revoking_deletes_the_keys_in_one_revision() {
    let (_server, client) = serve();
    client.grant(600, 1).await;
    put_with(&client, "b", 1).await;
    put_with(&client, "a", 1).await;
    client.put("c", "free").await;
    let response = accepted("revoke", client.try_revoke(1).await);
    assert_eq!(revision(&response.header), 5);
    assert_eq!((client.get("a").await, client.get("b").await), (None, None));
    assert!(client.get("c").await.is_some());
    refused(client.try_revoke(1).await, Code::NotFound, NOT_FOUND);

    client.grant(600, 1).await;
    let empty = accepted("revoke", client.try_revoke(1).await);
    assert_eq!(revision(&empty.header), 5, "a lease without keys makes no revision");
}

#[tokio::test]
async fn a_key_is_on_one_lease_at_most() {
    let (_server, client) = serve();
    client.grant(600, 1).await;
    client.grant(600, 2).await;
    put_with(&client, "k", 1).await;
    put_with(&client, "k", 2).await;
    assert!(client.time_to_live(1).await.keys.is_empty());
    assert_eq!(client.time_to_live(2).await.keys, ["k"]);
    accepted("revoke", client.try_revoke(1).await);
    assert!(client.get("k").await.is_some());

    client.put("k", "free").await;
    assert!(client.time_to_live(2).await.keys.is_empty());
    put_with(&client, "k", 2).await;
    client.delete("k").await;
    assert!(client.time_to_live(2).await.keys.is_empty(), "a delete detaches");
    client.put("k", "free again").await;
    accepted("revoke", client.try_revoke(2).await);
    assert!(client.get("k").await.is_some());
}

#[tokio::test]
async fn time_to_live_tells_what_is_left() {
    let (_server, client) = serve();
    client.grant(600, 1).await;
    put_with(&client, "a", 1).await;
    put_with(&client, "b", 1).await;
    let response = client.time_to_live(1).await;
    let mut keys = response.keys.clone();
    keys.sort();
    assert_eq!((response.id, response.granted_ttl, keys), (1, 600, vec!["a".into(), "b".into()]));
    assert!((590..=600).contains(&response.ttl), "{response:?}");
    assert_eq!(revision(&response.header), 3);

    let request = LeaseTimeToLiveRequest { id: 1, keys: false };
    let without_keys = accepted("time to live", client.leases().lease_time_to_live(request).await);
    assert!(without_keys.into_inner().keys.is_empty());

    let unknown = client.time_to_live(2).await;
    assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl, unknown.keys.len()), (2, -1, 0, 0));
    assert_eq!(revision(&unknown.header), 3);
}

#[tokio::test]
async fn all_leases_are_listed() {
    let (_server, client) = serve();
    assert_eq!(leases(&client).await, Vec::<i64>::new());
    for id in [3, 1, 2] {
        client.grant(600, id).await;
    }
    assert_eq!(leases(&client).await, [1, 2, 3]);
    accepted("revoke", client.try_revoke(2).await);
    assert_eq!(leases(&client).await, [1, 3]);
}

#[tokio::test]
async fn one_stream_keeps_many_leases_alive() {
    let (_server, client) = serve();
    client.grant(600, 1).await;
    client.grant(300, 2).await;
    let (requests, outgoing) = tokio::sync::mpsc::channel(8);
    let ask = async |id| requests.send(LeaseKeepAliveRequest { id }).await.expect("the stream is open");
    ask(1).await;
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = accepted("keep alive", client.leases().lease_keep_alive(outgoing).await).into_inner();
    for (id, ttl) in [(2, 300), (99, 0), (1, 600)] {
        ask(id).await;
        let answer = accepted("keep alive", soon("a renewal", answers.message()).await);
        let answer = answer.expect("the stream is open");
        assert_eq!(revision(&answer.header), 1);
        // The first answer is to the request the stream was opened with.
        let expected = match id {
            2 => (1, 600),
            99 => (2, 300),
            _ => (99, 0),
        };
        assert_eq!((answer.id, answer.ttl), expected, "after asking for {id} with {ttl}");
    }
    let last = accepted("keep alive", soon("a renewal", answers.message()).await).expect("one more");
    assert_eq!((last.id, last.ttl), (1, 600), "a dead lease does not end the stream");
    drop(requests);
    assert!(accepted("keep alive", soon("the stream's end", answers.message()).await).is_none());
}

#[tokio::test]
async fn a_lease_expires_but_never_early() {
    let (_server, client) = serve();
    let mut stream = client.watch(WatchCreateRequest { key: "k".into(), ..Default::default() }).await;
    let before = Instant::now();
    client.grant(2, 1).await;
    put_with(&client, "k", 1).await;
    let events = stream.events(2).await;
    assert_eq!(events[1].r#type, 1, "the second event is the delete");
    assert!(before.elapsed() >= Duration::from_secs(2), "expired after {:?}", before.elapsed());
    assert_eq!(client.get("k").await, None);
    assert_eq!(client.time_to_live(1).await.ttl, -1);
    assert_eq!(client.keep_alive_once(1).await.ttl, 0);
    refused(client.try_revoke(1).await, Code::NotFound, NOT_FOUND);
    assert_eq!(leases(&client).await, Vec::<i64>::new());
}

#[tokio::test]
async fn a_renewed_lease_lives_its_whole_time_again() {
    let (_server, client) = serve();
    client.grant(3, 1).await;
    put_with(&client, "k", 1).await;
    let mut stream = client.watch(WatchCreateRequest { key: "k".into(), ..Default::default() }).await;
    let began = Instant::now();
    let mut renewed = began;
    // A second each, three times: without the renewals it would be gone by then.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        renewed = Instant::now();
        assert_eq!(client.keep_alive_once(1).await.ttl, 3);
    }
    stream.events(1).await;
    assert!(renewed.elapsed() >= Duration::from_secs(3), "expired {:?} after", renewed.elapsed());
    assert!(began.elapsed() >= Duration::from_secs(6));
}

#[tokio::test]
async fn short_leases_do_not_wait_for_long_ones() {
    let (_server, client) = serve();
    client.grant(600, 1).await;
    put_with(&client, "long", 1).await;
    client.grant(2, 2).await;
    put_with(&client, "short", 2).await;
    client.grant(300, 3).await;
    let mut stream = client.watch(WatchCreateRequest { key: "short".into(), ..Default::default() }).await;
    stream.events(1).await;
    assert_eq!(leases(&client).await, [1, 3]);
    assert!(client.get("long").await.is_some());
}

#[tokio::test]
async fn leases_and_their_keys_outlive_a_restart() {
    let (mut server, client) = serve();
    client.grant(600, 1).await;
    client.grant(600, 2).await;
    put_with(&client, "a", 1).await;
    put_with(&client, "b", 1).await;
    server.kill();
    server.start();
    let client = server.client();
    assert_eq!(leases(&client).await, [1, 2]);
    let mut left = client.time_to_live(1).await;
    left.keys.sort();
    assert_eq!((left.granted_ttl, left.keys), (600, vec!["a".into(), "b".into()]));
    accepted("revoke", client.try_revoke(1).await);
    assert_eq!(client.get("a").await, None);
    refused(client.try_grant(600, 2).await, Code::FailedPrecondition, "etcdserver: lease already exists");
}

#[tokio::test]
async fn leases_with_odd_ids_outlive_an_orderly_restart() {
    if !subject_is_retcd() {
        // etcd reads back only ids from 0 up to the largest, which it leaves out.
        return;
    }
    let (mut server, client) = serve();
    for id in [i64::MIN, -1, i64::MAX] {
        client.grant(600, id).await;
    }
    put_with(&client, "k", -1).await;
    server.restart();
    let client = server.client();
    assert_eq!(leases(&client).await, [i64::MIN, -1, i64::MAX]);
    assert_eq!(client.time_to_live(-1).await.keys, ["k"]);
}

#[tokio::test]
async fn many_leases_expire_at_once() {
    let (_server, client) = serve();
    let mut stream = client
        .watch(WatchCreateRequest { key: "lease/".into(), range_end: "lease0".into(), ..Default::default() })
        .await;
    for id in 1..=50 {
        client.grant(2, id).await;
        let put = PutRequest { key: format!("lease/{id}").into(), lease: id, ..Default::default() };
        accepted("put", client.try_put(put).await);
    }
    assert_eq!(stream.events(100).await.iter().filter(|event| event.r#type == 1).count(), 50);
    assert_eq!(leases(&client).await, Vec::<i64>::new());
}
