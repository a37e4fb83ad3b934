//! Users and tokens in a cluster of three.

use tonic::{Code, IntoRequest, Request, Status};

use crate::{
    cluster::{Cluster, Member, PATIENCE, Plan},
    pb::{
        authpb,
        etcdserverpb::{auth_client::AuthClient, *},
    },
};

/// A long election timeout, because a busy machine must not cause elections; and little of the log is kept.
const FLAGS: &[&str] = &[
    "--snapshot-catchup-entries=10",
    "--heartbeat-interval=300",
    "--election-timeout=3000",
    "--bcrypt-cost=4",
];

pub(crate) const DENIED: (Code, &str) = (Code::PermissionDenied, "etcdserver: permission denied");
pub(crate) const INVALID_TOKEN: (Code, &str) = (Code::Unauthenticated, "etcdserver: invalid auth token");
const USER_EMPTY: (Code, &str) = (Code::InvalidArgument, "etcdserver: user name is empty");

pub(crate) fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = message.into_request();
    request.metadata_mut().insert("token", token.parse().expect("a token is ASCII"));
    request
}

fn auth(member: &Member) -> AuthClient<tonic::transport::Channel> {
    AuthClient::new(member.channel())
}

async fn login(member: &Member, name: &str) -> String {
    let request = AuthenticateRequest { name: name.into(), password: name.into() };
    auth(member).authenticate(request).await.expect("the password is the name").into_inner().token
}

/// As clients do, again if users or roles have changed since the member identified the user.
async fn put(member: &Member, token: &str, key: &str, value: &str) -> Result<(), Status> {
    loop {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        let request = PutRequest { key, value, ..Default::default() };
        match member.kv().put(by(token, request)).await {
            Err(status) if status.message() == "etcdserver: revision of auth store is old" => {}
            answer => return answer.map(drop),
        }
    }
}

async fn get(member: &Member, token: &str, key: &str, serializable: bool) -> Result<i64, Status> {
    let request = RangeRequest { key: key.to_owned().into(), serializable, ..Default::default() };
    Ok(member.kv().range(by(token, request)).await?.into_inner().count)
}

#[track_caller]
pub(crate) fn is<T: std::fmt::Debug>(result: Result<T, Status>, expected: (Code, &str)) {
    let status = result.expect_err("it is refused");
    assert_eq!((status.code(), status.message()), expected);
}

async fn add_user(member: &Member, root: &str, name: &str) {
    let request = AuthUserAddRequest { name: name.into(), password: name.into(), ..Default::default() };
    auth(member).user_add(by(root, request)).await.expect("a new user");
    let grant = AuthUserGrantRoleRequest { user: name.into(), role: "r".into() };
    auth(member).user_grant_role(by(root, grant)).await.expect("a role");
}

/// Three members with authentication enabled, the role `r`, which may read and write `a`, and its user `ann`.
async fn found() -> (Cluster, String) {
    let cluster = Plan::new(3).flags(FLAGS).found();
    let one = &cluster.members[0];
    let root = AuthUserAddRequest { name: "root".into(), password: "root".into(), ..Default::default() };
    auth(one).user_add(root).await.expect("a new user");
    let grant = AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
    auth(one).user_grant_role(grant).await.expect("a role");
    auth(one).auth_enable(AuthEnableRequest {}).await.expect("there is a root");
    let root = login(one, "root").await;
    auth(one).role_add(by(&root, AuthRoleAddRequest { name: "r".into() })).await.expect("a new role");
    permit(one, &root, "a").await;
    add_user(one, &root, "ann").await;
    (cluster, root)
}

async fn permit(member: &Member, root: &str, key: &str) {
    let perm = authpb::Permission { perm_type: 2, key: key.to_owned().into(), range_end: Default::default() };
    let permit = AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(perm) };
    auth(member).role_grant_permission(by(root, permit)).await.expect("a permission");
}

async fn forbid(member: &Member, root: &str, key: &str) {
    let (key, range_end) = (key.to_owned().into(), Default::default());
    let forbid = AuthRoleRevokePermissionRequest { role: "r".into(), key, range_end };
    auth(member).role_revoke_permission(by(root, forbid)).await.expect("it was permitted");
}

async fn leader(cluster: &Cluster, root: &str) -> usize {
    let patience = tokio::time::Instant::now() + PATIENCE;
    loop {
        for (number, member) in cluster.members.iter().enumerate() {
            let status = member.maintenance().status(by(root, StatusRequest {})).await;
            if let Ok(status) = status.map(tonic::Response::into_inner)
                && status.leader == status.header.expect("a header").member_id
            {
                return number;
            }
        }
        assert!(tokio::time::Instant::now() < patience, "nobody leads");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_member_knows_tokens_and_users_as_soon_as_somebody_was_answered() {
    let (cluster, root) = found().await;
    let members = &cluster.members;
    for round in 0..20 {
        let (issuer, other) = (&members[round % 3], &members[(round + 1) % 3]);
        let ann = login(issuer, "ann").await;
        // Also where the read waits for nobody else.
        get(other, &ann, "a", round % 2 == 0).await.expect("the token is waited for");
        let key = format!("k{round}");
        is(put(other, &ann, &key, "v").await, DENIED);
        permit(other, &root, &key).await;
        put(issuer, &ann, &key, "v").await.expect("it is judged where it is applied");
        assert_eq!(get(&members[(round + 2) % 3], &ann, &key, false).await.expect("and a read"), 1);
        forbid(issuer, &root, &key).await;
        is(put(other, &ann, &key, "v").await, DENIED);
        is(get(other, &ann, &key, false).await, DENIED);
    }
    for (number, member) in members.iter().enumerate() {
        let status =
            auth(member).auth_status(AuthStatusRequest {}).await.expect("anybody may ask").into_inner();
        // Two for the user root, one each for the role, its permission, and ann; and two for each round.
        assert_eq!((status.enabled, status.auth_revision), (true, 1 + 2 + 2 + 2 + 2 * 20), "member {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_outlive_a_leader_and_a_disabled_lock_opens_everywhere() {
    let (mut cluster, root) = found().await;
    let ann = login(&cluster.members[0], "ann").await;
    let first = leader(&cluster, &root).await;
    let rest = [(first + 1) % 3, (first + 2) % 3];
    // The others have applied the logins, which the next leader needs.
    for number in rest {
        get(&cluster.members[number], &ann, "a", false).await.expect("a token");
    }
    cluster.members[first].kill();
    let patience = tokio::time::Instant::now() + PATIENCE;
    for number in rest {
        let member = &cluster.members[number];
        while let Err(status) = put(member, &ann, "a", "v").await {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(tokio::time::Instant::now() < patience, "no new leader");
        }
        is(put(member, &ann, "z", "v").await, DENIED);
    }
    cluster.members[first].start();
    let member = &cluster.members[first];
    // It has forgotten the tokens that are in its database already, and knows the users.
    is(member.try_put("a", "v").await, USER_EMPTY);
    let ann = login(member, "ann").await;
    for member in &cluster.members {
        put(member, &ann, "a", "v").await.expect("a token");
    }
    let root = login(member, "root").await;
    auth(member).auth_disable(by(&root, AuthDisableRequest {})).await.expect("root may");
    for member in &cluster.members {
        member.put("z", "v").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_gets_a_snapshot_gets_the_users_and_no_old_tokens() {
    let (cluster, root) = found().await;
    add_user(&cluster.members[0], &root, "bob").await;
    let last = (leader(&cluster, &root).await + 1) % 3;
    let other = (last + 1) % 3;
    let bob = login(&cluster.members[last], "bob").await;
    get(&cluster.members[last], &bob, "a", false).await.expect("a token");
    cluster.members[last].signal(rustix::process::Signal::STOP);
    let member = &cluster.members[other];
    let delete = AuthUserDeleteRequest { name: "bob".into() };
    auth(member).user_delete(by(&root, delete)).await.expect("bob was there");
    add_user(member, &root, "eve").await;
    permit(member, &root, "e").await;
    // More than a file of the log, until the one that the member needs is gone.
    let ann = login(member, "ann").await;
    let large = "x".repeat(1 << 20);
    let running = [other, (other + 1) % 3].into_iter().filter(|number| *number != last);
    let oldest: Vec<_> =
        running.map(|number| cluster.members[number].data_dir().join("member/wal/00000001.wal")).collect();
    let patience = tokio::time::Instant::now() + PATIENCE;
    let mut written = 0;
    while oldest.iter().any(|file| file.exists()) {
        assert!(tokio::time::Instant::now() < patience, "the log is never let go of");
        // Files are deleted only while entries are written.
        let value = if written < 80 { large.as_str() } else { "v" };
        put(member, &ann, "a", value).await.expect("a quorum is there");
        written += 1;
        if written > 80 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    cluster.members[last].signal(rustix::process::Signal::CONT);
    cluster.members[last].wait_for_line("installed a snapshot from the leader");
    let member = &cluster.members[last];
    is(get(member, &bob, "a", false).await, INVALID_TOKEN);
    let eve = login(member, "eve").await;
    put(member, &eve, "e", "v").await.expect("eve's role may");
    for member in &cluster.members {
        let status = auth(member).auth_status(AuthStatusRequest {}).await.expect("anybody may").into_inner();
        assert_eq!((status.enabled, status.auth_revision), (true, 1 + 2 + 2 + 2 + 2 + 1 + 2 + 1));
        assert_eq!(get(member, &eve, "e", false).await.expect("a token"), 1);
    }
}
