//! The Lock and Election services: recipes over leases, keys and watches that the server runs.

use tokio::task::JoinHandle;
use tonic::{Code, Response, Status};

use crate::{
    client::{Client, accepted, refused, revision, soon},
    pb::{
        etcdserverpb::{LeaseLeasesRequest, RangeRequest, WatchCreateRequest},
        v3electionpb::*,
        v3lockpb::*,
    },
    server::{serve, subject_is_retcd},
};

fn spawn_lock(client: &Client, lease: i64) -> JoinHandle<Result<Response<LockResponse>, Status>> {
    let mut lock = client.lock();
    tokio::spawn(async move { lock.lock(LockRequest { name: "job".into(), lease }).await })
}

/// Waits until this many keys with the prefix have been put.
async fn keys_put(client: &Client, prefix: &'static str, count: usize) {
    let create = WatchCreateRequest {
        key: prefix.into(),
        range_end: crate::client::prefix_end(prefix.as_bytes()),
        start_revision: 1,
        ..Default::default()
    };
    client.watch(create).await.events(count).await;
}

#[tokio::test]
async fn a_lock_is_held_by_one_at_a_time() {
    let (_server, client) = serve();
    for lease in [0x1a, 0x2b, 0x3c] {
        client.grant(600, lease).await;
    }
    let first = accepted("lock", soon("the lock", spawn_lock(&client, 0x1a)).await.expect("no panic"));
    let first = first.into_inner();
    assert_eq!((&first.key[..], revision(&first.header)), (&b"job/1a"[..], 2));
    let kv = client.get(first.key.clone()).await.expect("the lock is a key");
    assert_eq!((kv.lease, kv.value.len()), (0x1a, 0));

    let again = accepted("lock", soon("the lock", spawn_lock(&client, 0x1a)).await.expect("no panic"));
    assert_eq!(again.into_inner().key, first.key, "the owner may lock again");

    let second = spawn_lock(&client, 0x2b);
    keys_put(&client, "job/", 2).await;
    let third = spawn_lock(&client, 0x3c);
    keys_put(&client, "job/", 3).await;
    assert!(!second.is_finished() && !third.is_finished());

    accepted("unlock", client.lock().unlock(UnlockRequest { key: first.key.clone() }).await);
    let second = accepted("lock", soon("the second lock", second).await.expect("no panic")).into_inner();
    assert_eq!(&second.key[..], b"job/2b");
    assert!(!third.is_finished(), "they are served in the order they came");
    // A lost lease frees the lock as well.
    accepted("revoke", client.try_revoke(0x2b).await);
    let third = accepted("lock", soon("the third lock", third).await.expect("no panic")).into_inner();
    assert_eq!(&third.key[..], b"job/3c");
    accepted("unlock", client.lock().unlock(UnlockRequest { key: third.key }).await);
    accepted("unlock", client.lock().unlock(UnlockRequest { key: first.key }).await);
}

#[tokio::test]
async fn a_lock_without_a_lease_gets_one() {
    let (_server, client) = serve();
    let lock = accepted("lock", soon("the lock", spawn_lock(&client, 0)).await.expect("no panic"));
    let key = lock.into_inner().key;
    let kv = client.get(key.clone()).await.expect("the lock is a key");
    assert_ne!(kv.lease, 0);
    assert_eq!(&key[..], format!("job/{:x}", kv.lease).as_bytes());
    assert_eq!(client.time_to_live(kv.lease).await.granted_ttl, 60);
}

#[tokio::test]
async fn a_lock_needs_its_lease() {
    let (_server, client) = serve();
    refused(
        soon("the refusal", spawn_lock(&client, 99)).await.expect("no panic"),
        // The service passes the inner refusal on as text only.
        Code::Unknown,
        "etcdserver: requested lease not found",
    );
    assert_eq!(client.get("job/63").await, None);
}

#[tokio::test]
async fn who_stops_waiting_for_a_lock_leaves_no_key() {
    let (_server, client) = serve();
    client.grant(600, 1).await;
    client.grant(600, 2).await;
    accepted("lock", soon("the lock", spawn_lock(&client, 1)).await.expect("no panic"));
    let waiting = spawn_lock(&client, 2);
    keys_put(&client, "job/", 2).await;
    let mut watch = client.watch(WatchCreateRequest { key: "job/2".into(), ..Default::default() }).await;
    waiting.abort();
    assert_eq!(watch.events(1).await[0].r#type, 1, "the waiting key is deleted");
}

#[tokio::test]
async fn an_election_has_one_leader_at_a_time() {
    let (_server, client) = serve();
    client.grant(600, 0xa).await;
    client.grant(600, 0xb).await;
    let campaign = |lease: i64, value: &'static str| {
        let mut election = client.election();
        tokio::spawn(async move {
            let request = CampaignRequest { name: "race".into(), lease, value: value.into() };
            election.campaign(request).await.map(Response::into_inner)
        })
    };
    let leader = |name: &'static str| {
        let mut election = client.election();
        async move { election.leader(LeaderRequest { name: name.into() }).await.map(Response::into_inner) }
    };
    refused(leader("race").await, Code::Unknown, "election: no leader");

    let won = accepted("campaign", soon("the first leader", campaign(0xa, "ann")).await.expect("no panic"));
    assert_eq!(revision(&won.header), 2);
    let ann = won.leader.expect("the leader's key");
    assert_eq!((&ann.name[..], &ann.key[..], ann.rev, ann.lease), (&b"race"[..], &b"race/a"[..], 2, 0xa));
    let kv = accepted("leader", leader("race").await).kv.expect("there is a leader");
    assert_eq!((&kv.key[..], &kv.value[..]), (&b"race/a"[..], &b"ann"[..]));

    let waiting = campaign(0xb, "bob");
    keys_put(&client, "race/", 2).await;
    assert!(!waiting.is_finished());

    let proclaim = ProclaimRequest { leader: Some(ann.clone()), value: "ann again".into() };
    accepted("proclaim", client.election().proclaim(proclaim).await);
    let kv = accepted("leader", leader("race").await).kv.expect("there is a leader");
    assert_eq!((&kv.value[..], kv.create_revision), (&b"ann again"[..], 2));

    accepted("resign", client.election().resign(ResignRequest { leader: Some(ann.clone()) }).await);
    let bob = accepted("campaign", soon("the second leader", waiting).await.expect("no panic"));
    assert_eq!(&bob.leader.expect("the leader's key").key[..], b"race/b");

    let proclaim = ProclaimRequest { leader: Some(ann.clone()), value: "too late".into() };
    refused(client.election().proclaim(proclaim).await, Code::Unknown, "election: not leader");
    accepted("resign", client.election().resign(ResignRequest { leader: Some(ann) }).await);
}

#[tokio::test]
async fn an_election_needs_a_leader_key() {
    let (_server, client) = serve();
    let missing = "\"leader\" field must be provided";
    let proclaim = ProclaimRequest { leader: None, value: "x".into() };
    refused(client.election().proclaim(proclaim).await, Code::Unknown, missing);
    refused(client.election().resign(ResignRequest { leader: None }).await, Code::Unknown, missing);
}

#[tokio::test]
async fn observers_see_each_leader() {
    let (_server, client) = serve();
    // A server may send nothing on the stream until there is a leader.
    let mut election = client.election();
    let (seen, mut leaders) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let request = LeaderRequest { name: "race".into() };
        let mut observe = accepted("observe", election.observe(request).await).into_inner();
        while let Some(response) = accepted("observe", observe.message().await) {
            let kv = response.kv.expect("a leader has a key");
            seen.send(String::from_utf8_lossy(&kv.value).into_owned()).ok();
        }
    });
    let mut next = async || soon("a leader", leaders.recv()).await.expect("the stream goes on");
    client.grant(600, 1).await;
    client.grant(600, 2).await;
    let campaign = CampaignRequest { name: "race".into(), lease: 1, value: "ann".into() };
    let won = accepted("campaign", client.election().campaign(campaign).await).into_inner();
    assert_eq!(next().await, "ann");
    let proclaim = ProclaimRequest { leader: won.leader.clone(), value: "ann again".into() };
    accepted("proclaim", client.election().proclaim(proclaim).await);
    assert_eq!(next().await, "ann again");
    accepted("resign", client.election().resign(ResignRequest { leader: won.leader }).await);
    let campaign = CampaignRequest { name: "race".into(), lease: 2, value: "bob".into() };
    accepted("campaign", client.election().campaign(campaign).await);
    assert_eq!(next().await, "bob");
}

/// The keys of the queue, and all leases.
async fn left(client: &Client, prefix: &'static str) -> (Vec<String>, Vec<i64>) {
    let range = RangeRequest {
        key: prefix.into(),
        range_end: crate::client::prefix_end(prefix.as_bytes()),
        ..Default::default()
    };
    let keys = client.range(range).await.kvs;
    let keys = keys.into_iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
    let leases = accepted("leases", client.leases().lease_leases(LeaseLeasesRequest {}).await);
    (keys, leases.into_inner().leases.iter().map(|lease| lease.id).collect())
}

#[tokio::test]
async fn a_server_that_stops_leaves_nobody_in_the_queue() {
    let (mut server, client) = serve();
    client.grant(600, 0xa).await;
    client.grant(600, 0xd).await;
    accepted("lock", soon("the lock", spawn_lock(&client, 0xa)).await.expect("no panic"));
    let lead = CampaignRequest { name: "race".into(), lease: 0xa, value: "v".into() };
    accepted("campaign", client.election().campaign(lead).await);

    // Some bring a lease and some do not.
    let mut waiting: Vec<_> = [0, 0, 0, 0xd].map(|lease| spawn_lock(&client, lease)).into();
    for lease in [0, 0xd] {
        let mut election = client.election();
        waiting.push(tokio::spawn(async move {
            let request = CampaignRequest { name: "race".into(), lease, value: "w".into() };
            election.campaign(request).await.map(|_| Response::new(LockResponse::default()))
        }));
    }
    keys_put(&client, "job/", 5).await;
    keys_put(&client, "race/", 3).await;
    server.stop();
    for waiting in waiting {
        soon("the end", waiting).await.expect("no panic").expect_err("nobody got it");
    }
    server.start();
    let client = server.client();
    let (locks, leases) = left(&client, "job/").await;
    assert_eq!(locks, ["job/a"]);
    assert_eq!(left(&client, "race/").await.0, ["race/a"]);
    if subject_is_retcd() {
        assert_eq!(leases, [0xa, 0xd], "leases that nobody knows of are revoked");
    }
    accepted("unlock", client.lock().unlock(UnlockRequest { key: "job/a".into() }).await);
    accepted("lock", soon("the lock", spawn_lock(&client, 0xd)).await.expect("no panic"));
}

#[tokio::test]
async fn who_stops_waiting_leaves_no_lease_that_nobody_knows_of() {
    let (_server, client) = serve();
    client.grant(600, 0xa).await;
    accepted("lock", soon("the lock", spawn_lock(&client, 0xa)).await.expect("no panic"));
    let waiting = spawn_lock(&client, 0);
    keys_put(&client, "job/", 2).await;
    let key = left(&client, "job/").await.0.into_iter().find(|key| key != "job/a").expect("it waits");
    let create = WatchCreateRequest { key: key.into(), ..Default::default() };
    let mut watch = client.watch(create).await;
    waiting.abort();
    assert_eq!(watch.events(1).await[0].r#type, 1, "the waiting key is deleted");
    if subject_is_retcd() {
        // Its lease is gone as well.
        assert_eq!(left(&client, "job/").await, (vec!["job/a".to_owned()], vec![0xa]));
    }
    // The same holds for a proclamation that is refused.
    let leader = LeaderKey { name: "race".into(), key: "race/1".into(), rev: 1, lease: 0 };
    let request = ProclaimRequest { leader: Some(leader), value: "v".into() };
    refused(client.election().proclaim(request).await, Code::Unknown, "election: not leader");
    let since = std::time::Instant::now();
    while subject_is_retcd() && left(&client, "job/").await.1 != [0xa] {
        assert!(since.elapsed() < crate::server::PATIENCE, "a lease is left over");
        tokio::task::yield_now().await;
    }
}
