//! Maintenance, Cluster, Auth while it is off, and the gRPC health service, on one node.

use sha2::{Digest, Sha256};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    client::{Client, accepted, refused, revision, soon},
    http::metric,
    pb::{authpb, etcdserverpb::*},
    server::{serve, subject_is_retcd},
};

#[tokio::test]
async fn status_tells_of_a_leading_single_node() {
    let (_server, client) = serve();
    client.put("k", "v").await;
    let status = client.status().await;
    let header = status.header.expect("an answer has a header");
    assert_eq!((header.revision, header.member_id), (2, status.leader));
    assert!(status.db_size > 0 && status.db_size_in_use > 0 && status.db_size_in_use <= status.db_size);
    assert!(status.raft_term > 0 && status.raft_index >= status.raft_applied_index);
    assert!(status.raft_applied_index > 0);
    assert!(!status.is_learner && status.errors.is_empty());
    let before = status.raft_applied_index;
    client.put("k", "v").await;
    assert!(client.status().await.raft_applied_index > before);
    if client.has((3, 6, 0), "storage version, quota and downgrade in Status").await {
        let status = client.status().await;
        let (major, minor, _) = client.version().await;
        assert_eq!(status.storage_version, format!("{major}.{minor}.0"));
        assert_eq!(status.db_size_quota, 2_147_483_648);
        assert!(!status.downgrade_info.is_some_and(|info| info.enabled));
    }
}

#[tokio::test]
async fn ids_are_those_that_etcd_derives() {
    let (server, client) = serve();
    // SHA-1 over the peer URLs and the cluster token, then over the member ids.
    use sha1::{Digest, Sha1};
    let first_eight = |bytes: &[u8]| {
        let digest = Sha1::digest(bytes);
        u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"))
    };
    let member = first_eight(format!("http://127.0.0.1:{}etcd-cluster", server.peer_port).as_bytes());
    let cluster = first_eight(&member.to_be_bytes());
    let header = client.status().await.header.expect("an answer has a header");
    assert_eq!((header.member_id, header.cluster_id), (member, cluster));
}

#[tokio::test]
async fn the_member_list_has_one_started_member() {
    let (server, client) = serve();
    for linearizable in [false, true] {
        let request = MemberListRequest { linearizable };
        let response = accepted("member list", client.cluster().member_list(request).await).into_inner();
        let header = response.header.expect("an answer has a header");
        assert_eq!(header.revision, 0, "a member's answer carries no revision");
        assert_eq!(response.members.len(), 1);
        let member = &response.members[0];
        assert_eq!(
            (member.id, member.name.as_str(), member.is_learner),
            (header.member_id, "default", false)
        );
        assert_eq!(member.peer_ur_ls, [format!("http://127.0.0.1:{}", server.peer_port)]);
        assert_eq!(member.client_ur_ls, [format!("http://127.0.0.1:{}", server.client_port)]);
    }
}

#[tokio::test]
async fn members_that_are_not_there_cannot_be_changed() {
    let (_server, client) = serve();
    let missing = "etcdserver: member not found";
    let remove = client.cluster().member_remove(MemberRemoveRequest { id: 1 }).await;
    refused(remove, Code::NotFound, missing);
    let urls = vec!["http://127.0.0.1:1".to_owned()];
    let update =
        client.cluster().member_update(MemberUpdateRequest { id: 1, peer_ur_ls: urls.clone() }).await;
    refused(update, Code::NotFound, missing);
    let promote = client.cluster().member_promote(MemberPromoteRequest { id: 1 }).await;
    refused(promote, Code::NotFound, missing);
    let bad = MemberAddRequest { peer_ur_ls: vec!["not a url".to_owned()], is_learner: false };
    refused(
        client.cluster().member_add(bad).await,
        Code::InvalidArgument,
        "etcdserver: given member URLs are invalid",
    );
}

#[tokio::test]
async fn alarms_are_raised_listed_and_cleared() {
    let (mut server, client) = serve();
    let member = client.status().await.header.expect("a header").member_id;
    let alarm = async |action: i32, member_id: u64, alarm: i32| {
        let request = AlarmRequest { action, member_id, alarm };
        accepted("alarm", client.maintenance().alarm(request).await).into_inner()
    };
    const ACTIVATE: i32 = 1;
    const DEACTIVATE: i32 = 2;
    const NOSPACE: i32 = 1;
    const CORRUPT: i32 = 2;
    assert!(client.alarms().await.is_empty());
    assert_eq!(alarm(ACTIVATE, member, NOSPACE).await.alarms, [AlarmMember { member_id: member, alarm: 1 }]);
    assert_eq!(alarm(ACTIVATE, member, NOSPACE).await.alarms.len(), 1, "once more changes nothing");
    assert_eq!(client.alarms().await, [AlarmMember { member_id: member, alarm: 1 }]);
    let full = "etcdserver: mvcc: database space exceeded";
    let put = || PutRequest { key: "k".into(), ..Default::default() };
    refused(client.try_put(put()).await, Code::ResourceExhausted, full);
    refused(client.try_grant(60, 1).await, Code::ResourceExhausted, full);
    assert!(!client.status().await.errors.is_empty());
    assert!(alarm(DEACTIVATE, 0, NOSPACE).await.alarms.is_empty(), "the member must match");
    assert_eq!(client.alarms().await.len(), 1);

    server.restart();
    let client = server.client();
    assert_eq!(client.alarms().await.len(), 1, "an alarm outlives a restart");
    let alarm = async |action: i32, member_id: u64, alarm: i32| {
        let request = AlarmRequest { action, member_id, alarm };
        accepted("alarm", client.maintenance().alarm(request).await).into_inner()
    };
    assert_eq!(alarm(DEACTIVATE, member, NOSPACE).await.alarms.len(), 1);
    accepted("put", client.try_put(put()).await);

    alarm(ACTIVATE, member, CORRUPT).await;
    let corrupt = "etcdserver: corrupt cluster";
    refused(client.try_put(put()).await, Code::DataLoss, corrupt);
    let delete = DeleteRangeRequest { key: "k".into(), ..Default::default() };
    refused(client.try_delete(delete).await, Code::DataLoss, corrupt);
    refused(client.try_compact(2, false).await, Code::DataLoss, corrupt);
    refused(client.try_grant(60, 1).await, Code::DataLoss, corrupt);
    assert!(client.get("k").await.is_some(), "reads go on");
    alarm(DEACTIVATE, member, CORRUPT).await;
    accepted("put", client.try_put(put()).await);
}

#[tokio::test]
async fn hash_kv_depends_on_the_history_alone() {
    let (server_a, a) = serve();
    let (_server_b, b) = serve();
    for client in [&a, &b] {
        client.put("k", "1").await;
        client.put("k", "2").await;
        client.delete("k").await;
        client.put("l", "3").await;
    }
    for at in [0, 2, 3, 4, 5] {
        let (hash_a, hash_b) =
            (accepted("hash", a.try_hash_kv(at).await), accepted("hash", b.try_hash_kv(at).await));
        assert_eq!((hash_a.hash, hash_a.compact_revision), (hash_b.hash, -1), "at {at}");
        assert_eq!(revision(&hash_a.header), 5);
    }
    let whole = accepted("hash", a.try_hash_kv(0).await).hash;
    assert_ne!(whole, accepted("hash", a.try_hash_kv(4).await).hash);
    let future = "etcdserver: mvcc: required revision is a future revision";
    refused(a.try_hash_kv(6).await, Code::OutOfRange, future);
    for client in [&a, &b] {
        client.compact(3).await;
    }
    let (hash_a, hash_b) =
        (accepted("hash", a.try_hash_kv(0).await), accepted("hash", b.try_hash_kv(0).await));
    assert_eq!((hash_a.hash, hash_a.compact_revision), (hash_b.hash, 3));
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    refused(a.try_hash_kv(2).await, Code::OutOfRange, compacted);
    accepted("defragment", a.maintenance().defragment(DefragmentRequest {}).await);
    assert_eq!(accepted("hash", a.try_hash_kv(0).await).hash, hash_b.hash, "defragmenting changes no data");
    drop(server_a);
}

#[tokio::test]
async fn the_hash_of_one_put_is_the_one_etcd_computes() {
    let (_server, client) = serve();
    client.put("k", "v").await;
    // CRC32-C over the bucket's name, the storage key of revision {2, 0} and the record.
    let mut bytes = b"key".to_vec();
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 2, b'_', 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0x0a, 1, b'k', 0x10, 2, 0x18, 2, 0x20, 1, 0x2a, 1, b'v']);
    assert_eq!(accepted("hash", client.try_hash_kv(0).await).hash, crc32c::crc32c(&bytes));
}

/// The numbers are those of etcd 3.7.3. At the revision of a compaction it answers the hash that the
/// compaction computed, also after later compactions, until a restart.
#[tokio::test]
async fn hash_kv_at_a_compacted_revision_is_what_the_compaction_found() {
    let (mut server, client) = serve();
    if !client.has((3, 5, 16), "tombstones at the compacted revision").await {
        return;
    }
    async fn at(client: &Client, rev: i64) -> Option<(u32, i64)> {
        let answer = client.try_hash_kv(rev).await.ok()?;
        Some((answer.hash, answer.compact_revision))
    }
    for value in ["1", "2", "3", "4"] {
        client.put("k", value).await;
    }
    client.delete("k").await;
    assert_eq!(at(&client, 6).await, Some((1_089_738_655, -1)));
    accepted("compact", client.try_compact(6, true).await);
    assert_eq!(at(&client, 6).await, Some((1_089_738_655, -1)));
    assert_eq!(at(&client, 0).await, Some((1_084_519_789, 6)));
    client.put("k", "5").await;
    client.put("l", "1").await;
    accepted("compact", client.try_compact(7, true).await);
    let found = [at(&client, 6).await, at(&client, 7).await, at(&client, 8).await];
    let (at_7, at_8) = (2_490_569_164, 693_667_369);
    assert_eq!(found, [Some((1_089_738_655, -1)), Some((at_7, 6)), Some((at_8, 7))]);
    server.stop();
    server.start();
    let client = server.client();
    // After the restart, the hash at 7 covers the one put that is left.
    assert_eq!(at(&client, 6).await, None);
    assert_eq!(at(&client, 7).await, Some((at_7, 7)));
    assert_eq!(at(&client, 8).await, Some((at_8, 7)));
}

#[tokio::test]
async fn hash_answers_with_the_current_revision() {
    let (_server, client) = serve();
    client.put("k", "v").await;
    let response = accepted("hash", client.maintenance().hash(HashRequest {}).await).into_inner();
    assert_eq!(revision(&response.header), 2);
}

#[tokio::test]
async fn a_snapshot_is_whole_and_says_so() {
    let (_server, client) = serve();
    for number in 0..200 {
        client.put(format!("key {number}"), vec![b'x'; 1000]).await;
    }
    let parts = client.snapshot().await;
    let (tail, data) = parts.split_last().expect("a snapshot has parts");
    assert!(data.len() > 1 && data.iter().all(|part| part.blob.len() <= 32 * 1024));
    assert!(data.is_sorted_by(|a, b| a.remaining_bytes > b.remaining_bytes));
    assert_eq!((tail.remaining_bytes, tail.blob.len()), (0, 32));
    assert!(parts.iter().all(|part| part.header.is_none()));
    let bytes: Vec<u8> = data.iter().flat_map(|part| part.blob.to_vec()).collect();
    assert_eq!(data[0].remaining_bytes + data[0].blob.len() as u64, bytes.len() as u64);
    assert_eq!(bytes.len() % 512, 0);
    assert_eq!(Sha256::digest(&bytes)[..], tail.blob[..]);
    if client.has((3, 6, 0), "the storage version in a snapshot").await {
        let (major, minor, _) = client.version().await;
        assert!(parts.iter().all(|part| part.version == format!("{major}.{minor}.0")));
    }
}

#[tokio::test]
async fn writes_go_on_while_a_snapshot_is_taken() {
    let (_server, client) = serve();
    for number in 0..300 {
        client.put(format!("key {number}"), vec![b'x'; 4000]).await;
    }
    let mut stream =
        accepted("snapshot", client.maintenance().snapshot(SnapshotRequest {}).await).into_inner();
    let first = accepted("snapshot", stream.message().await).expect("a first part");
    client.put("during", "it").await;
    let mut size = first.blob.len() as u64;
    let whole = first.remaining_bytes + size;
    while let Some(part) = accepted("snapshot", stream.message().await) {
        size += part.blob.len() as u64;
    }
    assert_eq!(size, whole + 32, "the snapshot is of the moment it was asked for");
}

#[tokio::test]
async fn defragmenting_answers_without_a_header() {
    let (_server, client) = serve();
    client.put("k", "v").await;
    let response = accepted("defragment", client.maintenance().defragment(DefragmentRequest {}).await);
    assert_eq!(response.into_inner().header, None);
    assert_eq!(client.get("k").await.expect("put").value, "v");
    assert_eq!(client.put("k", "v").await, 3);
}

/// However many clients ask, one defragmentation runs and one waits.
#[tokio::test]
async fn those_who_defragment_at_once_share_the_work() {
    let (server, client) = serve();
    for number in 0..20 {
        client.put(format!("key {number}"), vec![b'x'; 100_000]).await;
    }
    let callers = (0..100).map(|_| {
        let mut maintenance = client.maintenance();
        async move { maintenance.defragment(DefragmentRequest {}).await }
    });
    for answer in futures_util::future::join_all(callers).await {
        accepted("defragment", answer);
    }
    if subject_is_retcd() {
        let runs = metric(&server, "etcd_disk_backend_defrag_duration_seconds_count");
        let runs = runs.expect("it is counted");
        // The calls do not arrive at the same moment.
        assert!((1.0..=10.0).contains(&runs), "100 callers had {runs} runs");
    }
}

/// Hashes of many revisions are not computed at the same time, but callers that ask for the same revision
/// share one.
#[tokio::test]
async fn those_who_hash_the_same_share_the_work() {
    let (server, client) = serve();
    for number in 0..20 {
        client.put(format!("key {number}"), vec![b'x'; 100_000]).await;
    }
    let threads = server.threads();
    let expected = accepted("hash", client.try_hash_kv(15).await).hash;
    let callers = (0..600).map(|_| client.try_hash_kv(15));
    for answer in futures_util::future::join_all(callers).await {
        assert_eq!(accepted("hash", answer).hash, expected);
    }
    let mut maintenance = (0..600).map(|_| client.maintenance()).collect::<Vec<_>>();
    let callers = maintenance.iter_mut().map(|maintenance| maintenance.hash(HashRequest {}));
    let answers = futures_util::future::join_all(callers).await;
    let hashes: Vec<u32> =
        answers.into_iter().map(|answer| accepted("hash", answer).into_inner().hash).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
    // Threads of the pool stay for a while after their work, so they can be counted.
    let more = server.threads() - threads;
    assert!(!subject_is_retcd() || more < 20, "there are {more} more threads than before");
}

/// Each snapshot pins a state of the database. None is on the disk.
#[tokio::test]
async fn snapshots_that_are_sent_at_once_are_few_and_shared() {
    let (server, client) = serve();
    for number in 0..12 {
        client.put(format!("key {number}"), vec![b'x'; 1_000_000]).await;
    }
    let images = || {
        let snap = server.database().parent().expect("it is in a directory").to_owned();
        let entries = std::fs::read_dir(snap).expect("a directory").map(|entry| entry.expect("an entry"));
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("image-")).count()
    };
    // Each on a connection of its own: what arrives of a snapshot and is not read takes part of the window of its
    // connection, and others on the same connection could wait for theirs for ever.
    let begin = async || {
        let begun = server.client().maintenance().snapshot(SnapshotRequest {}).await;
        begun.map(tonic::Response::into_inner)
    };
    // Only the first part of each snapshot is read, so none of them ends.
    let same = futures_util::future::join_all((0..50).map(|_| begin())).await;
    let mut same: Vec<_> = same.into_iter().map(|stream| accepted("snapshot", stream)).collect();
    for stream in &mut same {
        accepted("snapshot", stream.message().await).expect("a first part");
    }
    if !subject_is_retcd() {
        return;
    }
    assert_eq!(images(), 0);
    same.truncate(1);
    let mut others = Vec::new();
    let refusal = loop {
        client.put("another", "revision").await;
        match begin().await {
            Ok(stream) => others.push(stream),
            Err(refusal) => break refusal,
        }
        assert!(others.len() < 5, "each pins a state of its own");
    };
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(refusal.message().contains("3 snapshots are being sent already"), "{}", refusal.message());
    assert_eq!(images(), 0);

    // The snapshots are complete, and a client that asks when there is room again is served.
    let mut size = 0;
    while let Some(part) = accepted("snapshot", same[0].message().await) {
        size += part.blob.len();
    }
    assert!(size > 12_000_000, "{size}");
    drop((same, others));
    let whole = soon("a place for a snapshot", async {
        loop {
            match begin().await {
                Ok(stream) => break stream,
                Err(refusal) => assert_eq!(refusal.code(), Code::ResourceExhausted),
            }
        }
    });
    accepted("snapshot", whole.await.message().await).expect("a first part");
}

#[tokio::test]
async fn leadership_can_only_go_to_a_member() {
    let (_server, client) = serve();
    let request = MoveLeaderRequest { target_id: 12345 };
    refused(
        client.maintenance().move_leader(request).await,
        Code::FailedPrecondition,
        "etcdserver: bad leader transferee",
    );
    let own = client.status().await.leader;
    let response =
        accepted("move leader", client.maintenance().move_leader(MoveLeaderRequest { target_id: own }).await);
    assert_eq!(response.into_inner().header, None, "to itself is quickly done");
}

#[tokio::test]
async fn a_downgrade_goes_one_minor_release_at_most() {
    let (_server, client) = serve();
    if !client.has((3, 6, 0), "downgrades that work").await {
        return;
    }
    let downgrade = async |action: i32, version: &str| {
        let request = DowngradeRequest { action, version: version.to_owned() };
        client.maintenance().downgrade(request).await.map(tonic::Response::into_inner)
    };
    refused(
        downgrade(0, "3.x").await,
        Code::InvalidArgument,
        "etcdserver: wrong downgrade target version format",
    );
    for target in ["3.0", "9.9.0"] {
        refused(
            downgrade(0, target).await,
            Code::InvalidArgument,
            "etcdserver: invalid downgrade target version",
        );
    }
    refused(downgrade(7, "3.5").await, Code::Unknown, "etcdserver: unknown method");
    let (major, minor, _) = client.version().await;
    let validated = accepted("downgrade", downgrade(0, &format!("{major}.{}", minor - 1)).await);
    assert!(validated.version.starts_with(&format!("{major}.{minor}")), "{validated:?}");
}

#[tokio::test]
async fn the_health_service_serves() {
    let (_server, client) = serve();
    let mut health = HealthClient::new(client.channel());
    let request = HealthCheckRequest { service: String::new() };
    let response = accepted("health", health.check(request).await).into_inner();
    assert_eq!(response.status(), ServingStatus::Serving);
    let unknown = HealthCheckRequest { service: "no such service".to_owned() };
    refused(health.check(unknown.clone()).await, Code::NotFound, "unknown service");
    let mut watch = accepted("watch", health.watch(unknown).await).into_inner();
    let first = accepted("a status", watch.message().await).expect("the stream goes on");
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
}

#[tokio::test]
async fn auth_answers_while_it_is_off() {
    let (_server, client) = serve();
    let mut auth = client.auth();
    let status = accepted("auth status", auth.auth_status(AuthStatusRequest {}).await).into_inner();
    assert_eq!((status.enabled, status.auth_revision), (false, 1));
    let header = status.header.expect("an answer has a header");
    assert_eq!(header.revision, 1);
    let request = AuthenticateRequest { name: "root".into(), password: "x".into() };
    refused(
        auth.authenticate(request).await,
        Code::FailedPrecondition,
        "etcdserver: authentication is not enabled",
    );
    refused(
        auth.auth_enable(AuthEnableRequest {}).await,
        Code::FailedPrecondition,
        "etcdserver: root user does not exist",
    );
    accepted("auth disable", auth.auth_disable(AuthDisableRequest {}).await);
}

#[tokio::test]
async fn users_and_roles_can_be_kept_while_auth_is_off() {
    let (mut server, client) = serve();
    let mut auth = client.auth();
    let add = |name: &str| AuthUserAddRequest {
        name: name.to_owned(),
        password: "secret".to_owned(),
        ..Default::default()
    };
    refused(auth.user_add(add("")).await, Code::InvalidArgument, "etcdserver: user name is empty");
    accepted("user add", auth.user_add(add("ann")).await);
    refused(
        auth.user_add(add("ann")).await,
        Code::FailedPrecondition,
        "etcdserver: user name already exists",
    );
    let unknown = AuthUserGetRequest { name: "bob".to_owned() };
    refused(auth.user_get(unknown).await, Code::FailedPrecondition, "etcdserver: user name not found");
    let role = |name: &str| AuthRoleAddRequest { name: name.to_owned() };
    refused(auth.role_add(role("")).await, Code::InvalidArgument, "etcdserver: role name is empty");
    accepted("role add", auth.role_add(role("reader")).await);
    refused(
        auth.role_add(role("reader")).await,
        Code::FailedPrecondition,
        "etcdserver: role name already exists",
    );
    let grant = AuthRoleGrantPermissionRequest {
        name: "reader".to_owned(),
        perm: Some(authpb::Permission { perm_type: 0, key: "k".into(), range_end: "l".into() }),
    };
    accepted("grant", auth.role_grant_permission(grant).await);
    let grant_role = AuthUserGrantRoleRequest { user: "ann".to_owned(), role: "reader".to_owned() };
    accepted("grant role", auth.user_grant_role(grant_role).await);
    let users = accepted("user list", auth.user_list(AuthUserListRequest {}).await).into_inner().users;
    assert_eq!(users, ["ann"]);

    server.restart();
    let mut auth = server.client().auth();
    let get = AuthUserGetRequest { name: "ann".to_owned() };
    assert_eq!(accepted("user get", auth.user_get(get).await).into_inner().roles, ["reader"]);
    let status = accepted("auth status", auth.auth_status(AuthStatusRequest {}).await).into_inner();
    assert_eq!((status.enabled, status.auth_revision), (false, 5));
}

#[tokio::test]
async fn a_token_is_ignored_while_auth_is_off() {
    let (_server, client) = serve();
    if !client.has((3, 6, 0), "a blind eye to tokens").await {
        return;
    }
    let mut request =
        tonic::Request::new(PutRequest { key: "k".into(), value: "v".into(), ..Default::default() });
    request.metadata_mut().insert("token", "no such token".parse().expect("ASCII"));
    accepted("put", client.kv().put(request).await);
}

#[tokio::test]
async fn metadata_that_etcd_understands_is_understood() {
    let (_server, client) = serve();
    let mut request = tonic::Request::new(RangeRequest { key: "k".into(), ..Default::default() });
    request.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
    request.metadata_mut().insert("client-api-version", "3.5".parse().expect("ASCII"));
    accepted("range", client.kv().range(request).await);
}
