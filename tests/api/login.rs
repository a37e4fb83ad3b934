//! Logins, tokens, and what ends when something is revoked.
//!
//! What each call needs of a user is not tested here.

use std::time::Instant;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::{
    canary,
    client::{Client, accepted, refused, soon},
    pb::{
        authpb,
        etcdserverpb::{watch_request::RequestUnion, *},
        v3electionpb::LeaderRequest,
        v3lockpb::LockRequest,
    },
    server::{Launch, Server, serve_with, subject_is_retcd},
};

const ROOT_PASSWORD: &str = "root's canary";
const PASSWORD: &str = "ann's canary";

const USER_EMPTY: (Code, &str) = (Code::InvalidArgument, "etcdserver: user name is empty");
const INVALID_TOKEN: (Code, &str) = (Code::Unauthenticated, "etcdserver: invalid auth token");
const LOGIN_FAILED: (Code, &str) =
    (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");
const DENIED: (Code, &str) = (Code::PermissionDenied, "etcdserver: permission denied");

/// A request with a token.
fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().expect("a token is ASCII"));
    request
}

fn perhaps_by<T>(token: Option<&str>, message: T) -> Request<T> {
    match token {
        Some(token) => by(token, message),
        None => Request::new(message),
    }
}

/// A server with the users `root` and `ann`, who has the role `reader`. Authentication is not enabled yet.
async fn with_users() -> (Server, Client) {
    let (server, client) = serve_with(Launch::subject().flag("bcrypt-cost", 4));
    let mut auth = client.auth();
    for (name, password, role) in [("root", ROOT_PASSWORD, "root"), ("ann", PASSWORD, "reader")] {
        accepted("user add", auth.user_add(user(name, password)).await);
        accepted("role add", auth.role_add(AuthRoleAddRequest { name: role.into() }).await);
        let grant = AuthUserGrantRoleRequest { user: name.into(), role: role.into() };
        accepted("grant", auth.user_grant_role(grant).await);
    }
    for (key, range_end) in [("a", "b"), ("b", "c"), ("lock/", "lock0")] {
        accepted("permit", auth.role_grant_permission(permit(2, key, range_end)).await);
    }
    (server, client)
}

async fn guarded() -> (Server, Client) {
    let (server, client) = with_users().await;
    accepted("enable", client.auth().auth_enable(AuthEnableRequest {}).await);
    (server, client)
}

fn user(name: &str, password: &str) -> AuthUserAddRequest {
    AuthUserAddRequest { name: name.into(), password: password.into(), ..Default::default() }
}

fn permit(perm_type: i32, key: &str, range_end: &str) -> AuthRoleGrantPermissionRequest {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    let perm = Some(authpb::Permission { perm_type, key, range_end });
    AuthRoleGrantPermissionRequest { name: "reader".into(), perm }
}

fn forbid(key: &str, range_end: &str) -> AuthRoleRevokePermissionRequest {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    AuthRoleRevokePermissionRequest { role: "reader".into(), key, range_end }
}

async fn try_login(client: &Client, name: &str, password: &str) -> Result<String, Status> {
    let request = AuthenticateRequest { name: name.into(), password: password.into() };
    Ok(client.auth().authenticate(request).await?.into_inner().token)
}

async fn login(client: &Client, name: &str, password: &str) -> String {
    let token = accepted("login", try_login(client, name, password).await);
    canary::plant(&token);
    token
}

async fn get(client: &Client, token: &str, key: &'static str) -> Result<RangeResponse, Status> {
    let request = RangeRequest { key: key.into(), ..Default::default() };
    Ok(client.kv().range(by(token, request)).await?.into_inner())
}

async fn put(client: &Client, token: &str, key: &'static str) -> Result<PutResponse, Status> {
    let request = PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
    Ok(client.kv().put(by(token, request)).await?.into_inner())
}

#[tokio::test]
async fn a_password_gives_a_token_and_nothing_else_does() {
    let (mut server, client) = guarded().await;
    let status = accepted("status", client.auth().auth_status(AuthStatusRequest {}).await).into_inner();
    assert_eq!((status.enabled, status.auth_revision), (true, 10));

    for (name, password) in
        [("ann", "wrong"), ("ann", ""), ("eve", PASSWORD), ("", ""), ("ann", ROOT_PASSWORD)]
    {
        refused(try_login(&client, name, password).await, LOGIN_FAILED.0, LOGIN_FAILED.1);
    }
    refused(
        client.try_range(RangeRequest { key: "a".into(), ..Default::default() }).await,
        USER_EMPTY.0,
        USER_EMPTY.1,
    );
    let request = PutRequest { key: "a".into(), ..Default::default() };
    refused(client.try_put(request).await, USER_EMPTY.0, USER_EMPTY.1);

    let token = login(&client, "ann", PASSWORD).await;
    let (letters, index) = token.split_once('.').expect("letters and an index");
    assert!(letters.len() == 16 && letters.chars().all(|letter| letter.is_ascii_alphabetic()));
    index.parse::<u64>().expect("an index");
    accepted("put", put(&client, &token, "a").await);
    assert_eq!(accepted("get", get(&client, &token, "a").await).count, 1);
    refused(get(&client, &token, "z").await, DENIED.0, DENIED.1);
    refused(put(&client, &token, "z").await, DENIED.0, DENIED.1);
    for wrong in ["", "nonsense", "nonsense.1", letters, &format!("{letters}.1"), &format!("x{token}")] {
        refused(get(&client, wrong, "a").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
        refused(put(&client, wrong, "a").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
    }
    // As the JSON gateway and other clients send it.
    let mut request = Request::new(RangeRequest { key: "a".into(), ..Default::default() });
    let bearer = format!("Bearer {token}");
    request.metadata_mut().insert("authorization", bearer.parse().expect("ASCII"));
    accepted("get", client.kv().range(request).await);
    // A second login, of which the password is known already.
    let second = login(&client, "ann", PASSWORD).await;
    assert_ne!(second, token);
    accepted("get", get(&client, &second, "a").await);

    server.restart();
    let client = server.client();
    refused(get(&client, &second, "z").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
    let request = PutRequest { key: "a".into(), ..Default::default() };
    refused(client.try_put(request).await, USER_EMPTY.0, USER_EMPTY.1);
    let token = login(&client, "ann", PASSWORD).await;
    accepted("put", put(&client, &token, "a").await);
}

#[tokio::test]
async fn a_token_ends_with_its_user_or_password_or_with_authentication() {
    let (_server, client) = guarded().await;
    let root = login(&client, "root", ROOT_PASSWORD).await;
    let mut auth = client.auth();

    let ann = login(&client, "ann", PASSWORD).await;
    let password = "ann's other canary";
    let change =
        AuthUserChangePasswordRequest { name: "ann".into(), password: password.into(), ..Default::default() };
    accepted("change", auth.user_change_password(by(&root, change)).await);
    refused(get(&client, &ann, "a").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
    refused(try_login(&client, "ann", PASSWORD).await, LOGIN_FAILED.0, LOGIN_FAILED.1);

    let ann = login(&client, "ann", password).await;
    accepted("delete", auth.user_delete(by(&root, AuthUserDeleteRequest { name: "ann".into() })).await);
    refused(get(&client, &ann, "a").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
    refused(try_login(&client, "ann", password).await, LOGIN_FAILED.0, LOGIN_FAILED.1);

    accepted("disable", auth.auth_disable(by(&root, AuthDisableRequest {})).await);
    accepted("enable", auth.auth_enable(AuthEnableRequest {}).await);
    refused(get(&client, &root, "a").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
}

#[tokio::test]
async fn a_user_without_a_password_cannot_log_in() {
    let (_server, client) = guarded().await;
    let root = login(&client, "root", ROOT_PASSWORD).await;
    let options = Some(authpb::UserAddOptions { no_password: true });
    let cat = AuthUserAddRequest { options, ..user("cat", "") };
    accepted("add", client.auth().user_add(by(&root, cat)).await);
    let text = "auth: authentication failed, password was given for no password user";
    for password in ["", "given"] {
        refused(try_login(&client, "cat", password).await, Code::Unknown, text);
    }
}

#[tokio::test]
async fn no_token_is_given_out_if_there_is_no_kind_of_it() {
    let launch = Launch::subject().flag("bcrypt-cost", 4).flag("auth-token", "");
    let (_server, client) = serve_with(launch);
    let mut auth = client.auth();
    accepted("add", auth.user_add(user("root", ROOT_PASSWORD)).await);
    let grant = AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
    accepted("grant", auth.user_grant_role(grant).await);
    accepted("enable", auth.auth_enable(AuthEnableRequest {}).await);
    refused(try_login(&client, "root", ROOT_PASSWORD).await, LOGIN_FAILED.0, LOGIN_FAILED.1);
}

#[tokio::test]
async fn what_protects_the_way_back_is_kept_while_authentication_is_enabled() {
    let (_server, client) = guarded().await;
    let root = login(&client, "root", ROOT_PASSWORD).await;
    let mut auth = client.auth();
    let text = "etcdserver: invalid auth management";
    let delete = AuthUserDeleteRequest { name: "root".into() };
    refused(auth.user_delete(by(&root, delete)).await, Code::InvalidArgument, text);
    let delete = AuthRoleDeleteRequest { role: "root".into() };
    refused(auth.role_delete(by(&root, delete)).await, Code::InvalidArgument, text);
    let revoke = AuthUserRevokeRoleRequest { name: "root".into(), role: "root".into() };
    refused(auth.user_revoke_role(by(&root, revoke)).await, Code::InvalidArgument, text);
}

/// A watch stream with a token, if there is one.
struct Watching {
    requests: mpsc::Sender<WatchRequest>,
    responses: mpsc::UnboundedReceiver<Result<WatchResponse, Status>>,
}

impl Watching {
    /// A task reads the responses, because etcd begins to answer only when there is one.
    fn open(client: &Client, token: Option<&str>) -> Watching {
        let (requests, outgoing) = mpsc::channel(8);
        let (incoming, responses) = mpsc::unbounded_channel();
        let request = perhaps_by(token, ReceiverStream::new(outgoing));
        let mut watches = client.watches();
        tokio::spawn(async move {
            let mut stream = accepted("watch", watches.watch(request).await).into_inner();
            while let Some(response) = stream.message().await.transpose() {
                if incoming.send(response).is_err() {
                    return;
                }
            }
        });
        Watching { requests, responses }
    }

    async fn create(&mut self, key: &'static str, range_end: &'static str) -> WatchResponse {
        let create =
            WatchCreateRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        self.requests.send(create).await.expect("the stream is open");
        self.next().await
    }

    async fn next(&mut self) -> WatchResponse {
        accepted("watch", soon("a response", self.responses.recv()).await.expect("the stream goes on"))
    }
}

const CANCELED_DENIED: &str = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
const CANCELED_EMPTY: &str = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";

#[tokio::test]
async fn a_watcher_is_not_created_for_somebody_who_may_not_have_it() {
    let (_server, client) = guarded().await;
    let ann = login(&client, "ann", PASSWORD).await;
    let mut of_ann = Watching::open(&client, Some(&ann));
    for (key, range_end, reason) in [
        ("a", "", ""),
        ("a", "c", ""),
        ("a", "d", CANCELED_DENIED),
        ("a", "\0", CANCELED_DENIED),
        ("", "", CANCELED_DENIED),
        ("z", "", CANCELED_DENIED),
    ] {
        let response = of_ann.create(key, range_end).await;
        assert!(response.created, "{response:?}");
        let expected = (!reason.is_empty(), reason);
        assert_eq!((response.canceled, response.cancel_reason.as_str()), expected, "{key:?} {range_end:?}");
    }
    let mut of_nobody = Watching::open(&client, None);
    let response = of_nobody.create("a", "").await;
    assert!(response.created && response.canceled);
    assert_eq!(response.cancel_reason, CANCELED_EMPTY);
}

#[tokio::test]
async fn watchers_end_when_they_are_not_permitted_any_more_and_others_go_on() {
    let (_server, client) = guarded().await;
    if !subject_is_retcd() {
        return;
    }
    let (root, ann) = (login(&client, "root", ROOT_PASSWORD).await, login(&client, "ann", PASSWORD).await);
    let mut watching = Watching::open(&client, Some(&ann));
    let on_a = watching.create("a", "").await.watch_id;
    let on_b = watching.create("b", "").await.watch_id;
    let on_both = watching.create("a", "c").await.watch_id;

    // What does not concern ann ends nothing.
    let mut auth = client.auth();
    accepted("add", auth.user_add(by(&root, user("eve", "canary of eve"))).await);
    accepted("permit", auth.role_grant_permission(by(&root, permit(2, "c", "d"))).await);
    accepted("put", put(&client, &ann, "b").await);
    let mut told = [watching.next().await.watch_id, watching.next().await.watch_id];
    told.sort_unstable();
    assert_eq!(told, [on_b, on_both]);

    accepted("forbid", auth.role_revoke_permission(by(&root, forbid("a", "b"))).await);
    let mut ended = [watching.next().await, watching.next().await];
    ended.sort_by_key(|response| response.watch_id);
    assert_eq!(ended.each_ref().map(|response| response.watch_id), [on_a, on_both]);
    for response in ended {
        assert!(response.canceled && !response.created, "{response:?}");
        assert_eq!(response.cancel_reason, CANCELED_DENIED);
    }
    accepted("put", put(&client, &ann, "b").await);
    let event = watching.next().await;
    assert_eq!((event.watch_id, event.events.len()), (on_b, 1));

    accepted("delete", auth.user_delete(by(&root, AuthUserDeleteRequest { name: "ann".into() })).await);
    let ended = watching.next().await;
    assert_eq!((ended.watch_id, ended.canceled), (on_b, true));
    assert_eq!(ended.cancel_reason, CANCELED_DENIED);
}

#[tokio::test]
async fn enabling_authentication_ends_what_nobody_has_opened() {
    let (_server, client) = with_users().await;
    if !subject_is_retcd() {
        return;
    }
    let mut watching = Watching::open(&client, None);
    let watch_id = watching.create("a", "").await.watch_id;
    let lease = client.grant(60, 0).await;
    let (renew, requests) = mpsc::channel(1);
    renew.send(LeaseKeepAliveRequest { id: lease }).await.expect("it is open");
    let renewals = client.leases().lease_keep_alive(ReceiverStream::new(requests)).await;
    let mut renewals = accepted("keep alive", renewals).into_inner();
    assert_eq!(accepted("renewal", renewals.message().await).expect("an answer").ttl, 60);

    accepted("enable", client.auth().auth_enable(AuthEnableRequest {}).await);
    let ended = watching.next().await;
    assert_eq!((ended.watch_id, ended.canceled), (watch_id, true));
    assert_eq!(ended.cancel_reason, CANCELED_EMPTY);
    refused(soon("the end", renewals.message()).await, USER_EMPTY.0, USER_EMPTY.1);
}

#[tokio::test]
async fn a_lease_is_not_kept_alive_by_somebody_who_may_not_revoke_it_any_more() {
    let (_server, client) = guarded().await;
    if !subject_is_retcd() {
        return;
    }
    let (root, ann) = (login(&client, "root", ROOT_PASSWORD).await, login(&client, "ann", PASSWORD).await);
    let grant = LeaseGrantRequest { ttl: 60, id: 7 };
    accepted("grant", client.leases().lease_grant(by(&ann, grant)).await);
    let attached = PutRequest { key: "a".into(), lease: 7, ..Default::default() };
    accepted("put", client.kv().put(by(&ann, attached)).await);
    let (renew, requests) = mpsc::channel(1);
    renew.send(LeaseKeepAliveRequest { id: 7 }).await.expect("it is open");
    let renewals = client.leases().lease_keep_alive(by(&ann, ReceiverStream::new(requests))).await;
    let mut renewals = accepted("keep alive", renewals).into_inner();
    assert_eq!(accepted("renewal", renewals.message().await).expect("an answer").ttl, 60);

    let mut auth = client.auth();
    accepted("permit", auth.role_grant_permission(by(&root, permit(2, "c", "d"))).await);
    renew.send(LeaseKeepAliveRequest { id: 7 }).await.expect("it is open");
    assert_eq!(accepted("renewal", renewals.message().await).expect("an answer").ttl, 60);
    accepted("forbid", auth.role_revoke_permission(by(&root, forbid("a", "b"))).await);
    refused(soon("the end", renewals.message()).await, DENIED.0, DENIED.1);
}

#[tokio::test]
async fn who_waits_for_a_lock_or_observes_an_election_ends_with_its_permission() {
    let (_server, client) = guarded().await;
    if !subject_is_retcd() {
        return;
    }
    let (root, ann) = (login(&client, "root", ROOT_PASSWORD).await, login(&client, "ann", PASSWORD).await);
    let lock = || LockRequest { name: "lock".into(), lease: 0 };
    let held = accepted("lock", client.lock().lock(by(&ann, lock())).await).into_inner();
    let (mut locks, token) = (client.lock(), ann.clone());
    let waiting = tokio::spawn(async move { locks.lock(by(&token, lock())).await });
    let of_waiting = || RangeRequest {
        key: "lock/".into(),
        range_end: "lock0".into(),
        count_only: true,
        ..Default::default()
    };
    while accepted("count", client.kv().range(by(&root, of_waiting())).await).into_inner().count < 2 {
        tokio::task::yield_now().await;
    }
    let observe = LeaderRequest { name: "lock".into() };
    let mut leaders = accepted("observe", client.election().observe(by(&ann, observe)).await).into_inner();
    let first = accepted("observe", soon("a leader", leaders.message()).await).expect("it goes on");
    assert_eq!(first.kv.expect("a leader has a key").key, held.key);

    accepted("forbid", client.auth().role_revoke_permission(by(&root, forbid("lock/", "lock0"))).await);
    refused(soon("the end", leaders.message()).await, Code::Unknown, DENIED.1);
    let waited = soon("the end", waiting).await.expect("no panic");
    refused(waited, Code::Unknown, DENIED.1);
    // The member itself takes the place in the queue away, because its user may not.
    while accepted("count", client.kv().range(by(&root, of_waiting())).await).into_inner().count > 1 {
        tokio::task::yield_now().await;
    }
}

/// Requests of each kind, one behind the other by so many clients at a time.
const MEASURED: usize = 20_000;
const CLIENTS: usize = 32;

/// Puts and ranges a second, with a token or without.
async fn measure(client: &Client, token: Option<&str>, key: &'static str) -> (f64, f64) {
    let put = async || {
        let put = PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
        accepted("put", client.kv().put(perhaps_by(token, put)).await);
    };
    let range = async || {
        let range = RangeRequest { key: key.into(), ..Default::default() };
        accepted("range", client.kv().range(perhaps_by(token, range)).await);
    };
    let each = MEASURED / CLIENTS;
    let start = Instant::now();
    join_all((0..CLIENTS).map(|_| async {
        for _ in 0..each {
            put().await;
        }
    }))
    .await;
    let puts = MEASURED as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    join_all((0..CLIENTS).map(|_| async {
        for _ in 0..each {
            range().await;
        }
    }))
    .await;
    (puts, MEASURED as f64 / start.elapsed().as_secs_f64())
}

/// Prints what authentication costs a user with a thousand roles, each with a hundred ranges. The build is
/// one for tests, so only the ratios say something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of a minute or two"]
async fn what_authentication_costs() {
    let (_server, client) = with_users().await;
    let mut auth = client.auth();
    let roles = 1000;
    join_all((0..CLIENTS).map(|first| {
        let mut auth = client.auth();
        async move {
            for role in (first..roles).step_by(CLIENTS) {
                let name = format!("role-{role}");
                accepted("role", auth.role_add(AuthRoleAddRequest { name: name.clone() }).await);
                for range in 0..100 {
                    let key = format!("r{role:04}/{range:03}");
                    let grant = permit(2, &key, &format!("{key}~"));
                    accepted(
                        "permit",
                        auth.role_grant_permission(AuthRoleGrantPermissionRequest {
                            name: name.clone(),
                            ..grant
                        })
                        .await,
                    );
                }
                accepted(
                    "grant",
                    auth.user_grant_role(AuthUserGrantRoleRequest { user: "ann".into(), role: name }).await,
                );
            }
        }
    }))
    .await;
    let key = "r0500/050x";
    measure(&client, None, key).await;
    let off = measure(&client, None, key).await;
    accepted("enable", auth.auth_enable(AuthEnableRequest {}).await);
    let ann = login(&client, "ann", PASSWORD).await;
    measure(&client, Some(&ann), key).await;
    let on = measure(&client, Some(&ann), key).await;
    println!("puts a second: {:.0} without, {:.0} with authentication: {:.2}", off.0, on.0, on.0 / off.0);
    println!("ranges a second: {:.0} without, {:.0} with authentication: {:.2}", off.1, on.1, on.1 / off.1);
}
