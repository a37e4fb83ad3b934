//! The services of a real member, without sockets: HTTP requests go through the interceptor to a service.

use std::{future::poll_fn, sync::Arc, task::Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{FutureExt, future::BoxFuture};
use http::Request;
use http_body_util::{BodyExt, Full};
use prost::Message;
use tempfile::TempDir;
use tonic::{Code, Status, body::Body, codegen::Service, service::Routes};

use super::routes;
use crate::{
    apply::admission::Call,
    config::{Config, Invocation},
    node::{self, Credentials, Node, Running},
    pb::{
        authpb,
        etcdserverpb::{
            AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
            AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleGetRequest, AuthRoleGetResponse,
            AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, AuthStatusRequest,
            AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
            AuthUserChangePasswordResponse, AuthUserGetRequest, AuthUserGetResponse,
            AuthUserGrantRoleRequest, AuthUserGrantRoleResponse, AuthUserListRequest, AuthUserListResponse,
            AuthenticateRequest, AuthenticateResponse, DeleteRangeRequest, DeleteRangeResponse,
            LeaseGrantRequest, LeaseGrantResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
            RequestOp, TxnRequest, TxnResponse, request_op, response_op,
        },
        retcd::peer::{Envelope, HelloRequest},
        v3electionpb::{
            CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse, ProclaimRequest,
            ProclaimResponse, ResignRequest, ResignResponse,
        },
        v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse},
    },
    sockets::Standing,
    telemetry::Metrics,
};

/// The member of one test.
struct Member {
    running: Option<Running>,
    node: Node,
    metrics: Arc<Metrics>,
    routes: Routes,
    _dir: TempDir,
}

impl Member {
    /// Must be called on the runtime that runs the requests.
    fn start() -> Member {
        // The minimum cost of hashing a password.
        Member::start_with("--bcrypt-cost=4")
    }

    fn start_with(flag: &str) -> Member {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let args = [format!("--data-dir={}", dir.path().display()).into(), flag.into()];
        let config = match Config::load(&args, &[]) {
            Ok(Invocation::Serve(config)) => *config,
            _ => panic!("the flags are sound"),
        };
        let metrics = Arc::new(Metrics::new(&config));
        let (running, node) = node::start(config, metrics.clone());
        let (node, hand_out) = node.for_reactor();
        tokio::spawn(hand_out);
        Member { routes: routes(&node), running: Some(running), node, metrics, _dir: dir }
    }

    /// One unary call, which starts when it is polled.
    fn call<A: Message + Default>(
        &self,
        path: &'static str,
        message: impl Message,
    ) -> BoxFuture<'static, Result<A, Status>> {
        self.call_with(path, message, &[])
    }

    fn call_with<A: Message + Default>(
        &self,
        path: &'static str,
        message: impl Message,
        metadata: &[(&'static str, &[u8])],
    ) -> BoxFuture<'static, Result<A, Status>> {
        let answer = self.answer(path, message, metadata);
        async move {
            let body = answer.await?.collect().await.expect("a whole body").to_bytes();
            Ok(A::decode(body.slice(5..)).expect("a message"))
        }
        .boxed()
    }

    /// The body of the answer.
    fn answer(
        &self,
        path: &'static str,
        message: impl Message,
        metadata: &[(&'static str, &[u8])],
    ) -> BoxFuture<'static, Result<Body, Status>> {
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(message.encoded_len() as u32);
        message.encode(&mut body).expect("there is room");
        let mut request = Request::post(path).header("content-type", "application/grpc");
        for (key, value) in metadata {
            request = request.header(*key, *value);
        }
        let body = Body::new(Full::new(body.freeze()).map_err(|never| match never {}));
        let request = request.body(body).expect("a sound request");
        let mut routes = self.routes.clone();
        async move {
            poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut routes, cx)).await.expect("always ready");
            let response = routes.call(request).await.expect("infallible");
            if let Some(status) = Status::from_header_map(response.headers()) {
                return Err(status);
            }
            Ok(response.into_body())
        }
        .boxed()
    }

    async fn put(&self, key: &'static str) -> i64 {
        let request = PutRequest { key: Bytes::from_static(key.as_bytes()), ..Default::default() };
        let answer: PutResponse = self.call("/etcdserverpb.KV/Put", request).await.expect("a put");
        answer.header.expect("a header").revision
    }

    async fn delete(&self, key: Bytes) {
        let request = DeleteRangeRequest { key, ..Default::default() };
        let answer: DeleteRangeResponse =
            self.call("/etcdserverpb.KV/DeleteRange", request).await.expect("a delete");
        assert_eq!(answer.deleted, 1);
    }

    async fn exists(&self, key: &Bytes) -> bool {
        let request = RangeRequest { key: key.clone(), ..Default::default() };
        let answer: RangeResponse = self.call("/etcdserverpb.KV/Range", request).await.expect("a range");
        answer.count > 0
    }

    async fn lease(&self, id: i64) -> i64 {
        let request = LeaseGrantRequest { id, ttl: 60 };
        let answer: LeaseGrantResponse =
            self.call("/etcdserverpb.Lease/LeaseGrant", request).await.expect("a lease");
        answer.id
    }

    async fn auth<A: Message + Default>(
        &self,
        path: &'static str,
        message: impl Message,
    ) -> Result<A, (Code, String)> {
        self.call(path, message).await.map_err(|status| (status.code(), status.message().to_owned()))
    }

    async fn auth_rev(&self) -> u64 {
        let path = "/etcdserverpb.Auth/AuthStatus";
        let status: AuthStatusResponse = self.auth(path, AuthStatusRequest {}).await.expect("a status");
        status.auth_revision
    }

    fn lock(&self, lease: i64) -> BoxFuture<'static, Result<LockResponse, Status>> {
        self.call("/v3lockpb.Lock/Lock", LockRequest { name: Bytes::from_static(b"l"), lease })
    }

    fn campaign(
        &self,
        lease: i64,
        value: &'static str,
    ) -> BoxFuture<'static, Result<CampaignResponse, Status>> {
        let (name, value) = (Bytes::from_static(b"e"), Bytes::from_static(value.as_bytes()));
        self.call("/v3electionpb.Election/Campaign", CampaignRequest { name, lease, value })
    }

    async fn leader(&self) -> Result<Bytes, Status> {
        let request = LeaderRequest { name: Bytes::from_static(b"e") };
        let answer: LeaderResponse = self.call("/v3electionpb.Election/Leader", request).await?;
        Ok(answer.kv.expect("a leader").value)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

/// Polls `call` and lets other tasks run until `done` is true. `call` must not end before that.
async fn pending_until<T>(call: &mut BoxFuture<'static, T>, done: impl AsyncFn() -> bool) {
    loop {
        let is_pending = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending, "it did not wait");
        if done().await {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lock_is_had_by_one_after_the_other() {
    let member = Member::start();
    for lease in [1, -31, 3] {
        member.lease(lease).await;
    }
    let first = member.lock(1).await.expect("nobody has it");
    assert_eq!(first.key, "l/1");
    assert_eq!(member.lock(1).await.expect("who has it has it").key, "l/1");

    let mut second = member.lock(-31);
    pending_until(&mut second, async || member.exists(&Bytes::from_static(b"l/-1f")).await).await;
    let mut third = member.lock(3);
    pending_until(&mut third, async || member.exists(&Bytes::from_static(b"l/3")).await).await;

    let unlock = UnlockRequest { key: first.key };
    let unlocked: UnlockResponse = member.call("/v3lockpb.Lock/Unlock", unlock).await.expect("an unlock");
    assert!(unlocked.header.is_some());
    assert_eq!(second.await.expect("its turn").key, "l/-1f");
    pending_until(&mut third, async || true).await;
    member.delete(Bytes::from_static(b"l/-1f")).await;
    assert_eq!(third.await.expect("its turn").key, "l/3");
}

#[tokio::test]
async fn who_stops_waiting_for_a_lock_leaves_the_queue() {
    let member = Member::start();
    for lease in [1, 2] {
        member.lease(lease).await;
    }
    member.lock(1).await.expect("nobody has it");
    let mut waiting = member.lock(2);
    let own = Bytes::from_static(b"l/2");
    pending_until(&mut waiting, async || member.exists(&own).await).await;
    // At whatever point the call is.
    drop(waiting);
    while member.exists(&own).await {
        tokio::task::yield_now().await;
    }
    assert!(member.exists(&Bytes::from_static(b"l/1")).await);
}

#[tokio::test]
async fn a_lock_needs_a_lease_that_lives() {
    let member = Member::start();
    let refused = member.lock(77).await.expect_err("there is no such lease");
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "etcdserver: requested lease not found"));

    member.lease(1).await;
    member.lease(2).await;
    member.lock(1).await.expect("nobody has it");
    let mut waiting = member.lock(2);
    let own = Bytes::from_static(b"l/2");
    pending_until(&mut waiting, async || member.exists(&own).await).await;
    member.delete(own).await;
    member.delete(Bytes::from_static(b"l/1")).await;
    let refused = waiting.await.expect_err("its place is gone");
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "mutex: session is expired"));
    // A call without a lease gets one of its own.
    assert!(member.lock(0).await.expect("nobody has it").key.starts_with(b"l/"));
}

#[tokio::test]
async fn an_election_has_one_leader_at_a_time() {
    let member = Member::start();
    assert_eq!(member.leader().await.expect_err("nobody leads").message(), "election: no leader");
    for lease in [1, 2] {
        member.lease(lease).await;
    }
    let first = member.campaign(1, "one").await.expect("nobody leads").leader.expect("a leader key");
    assert_eq!((&first.key[..], first.lease), (&b"e/1"[..], 1));
    assert_eq!(member.leader().await.expect("one leads"), "one");

    let mut second = member.campaign(2, "two");
    pending_until(&mut second, async || member.exists(&Bytes::from_static(b"e/2")).await).await;
    assert_eq!(member.leader().await.expect("one leads"), "one");

    let proclaim = |leader, value| ProclaimRequest { leader, value: Bytes::from_static(value) };
    let path = "/v3electionpb.Election/Proclaim";
    let said: ProclaimResponse =
        member.call(path, proclaim(Some(first.clone()), b"uno")).await.expect("it leads");
    assert!(said.header.is_some());
    assert_eq!(member.leader().await.expect("one leads"), "uno");
    // Campaigning again changes the value only.
    let again = member.campaign(1, "eins").await.expect("it leads").leader;
    assert_eq!(again.as_ref(), Some(&first));
    assert_eq!(member.leader().await.expect("one leads"), "eins");

    let resign = ResignRequest { leader: Some(first.clone()) };
    let path_of_resign = "/v3electionpb.Election/Resign";
    let _: ResignResponse = member.call(path_of_resign, resign.clone()).await.expect("it leads");
    second.await.expect("its turn");
    assert_eq!(member.leader().await.expect("two leads"), "two");

    let refused = member.call::<ProclaimResponse>(path, proclaim(Some(first), b"!")).await;
    assert_eq!(refused.expect_err("it leads no more").message(), "election: not leader");
    let _: ResignResponse = member.call(path_of_resign, resign).await.expect("resigning twice is fine");
    let refused = member.call::<ProclaimResponse>(path, proclaim(None, b"!")).await;
    assert_eq!(refused.expect_err("whose?").message(), "\"leader\" field must be provided");
}

#[tokio::test]
async fn an_observer_sees_every_leader_and_what_it_says() {
    let member = Member::start();
    let request = LeaderRequest { name: Bytes::from_static(b"e") };
    let mut seen = member.answer("/v3electionpb.Election/Observe", request, &[]).await.expect("a stream");
    let mut next = async || {
        let frame = seen.frame().await.expect("the stream goes on").expect("without an error");
        let message = frame.into_data().expect("a message").slice(5..);
        LeaderResponse::decode(message).expect("a leader").kv.expect("its key").value
    };
    for lease in [1, 2] {
        member.lease(lease).await;
    }
    let first = member.campaign(1, "one").await.expect("nobody leads").leader;
    assert_eq!(next().await, "one");
    let mut second = member.campaign(2, "two");
    pending_until(&mut second, async || member.exists(&Bytes::from_static(b"e/2")).await).await;
    member.campaign(1, "uno").await.expect("it leads");
    assert_eq!(next().await, "uno");
    let resign = ResignRequest { leader: first };
    let _: ResignResponse = member.call("/v3electionpb.Election/Resign", resign).await.expect("it leads");
    second.await.expect("its turn");
    assert_eq!(next().await, "two");
}

#[tokio::test]
async fn users_are_kept_with_the_hash_of_their_password() {
    let member = Member::start();
    let add = |name: &str, password: &str| AuthUserAddRequest {
        name: name.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    let path = "/etcdserverpb.Auth/UserAdd";
    assert_eq!(member.auth_rev().await, 1);
    let added: AuthUserAddResponse = member.auth(path, add("ann", "secret")).await.expect("ann is new");
    assert_eq!(added.header.expect("a header").revision, 1);
    let _: AuthUserAddResponse = member.auth(path, add("bob", "")).await.expect("it is a password");
    let no_password = Some(authpb::UserAddOptions { no_password: true });
    let without = AuthUserAddRequest { options: no_password, ..add("cat", "given all the same") };
    let _: AuthUserAddResponse = member.auth(path, without).await.expect("cat is new");
    let longest = "x".repeat(72);
    let _: AuthUserAddResponse = member.auth(path, add("dan", &longest)).await.expect("it just fits");
    assert_eq!(member.auth_rev().await, 5);
    let refused = async |name, password: &str| {
        member.auth::<AuthUserAddResponse>(path, add(name, password)).await.expect_err("refused")
    };
    let too_long = (Code::Unknown, "bcrypt: password length exceeds 72 bytes".to_owned());
    assert_eq!(refused("eve", &"x".repeat(73)).await, too_long);
    let empty = (Code::InvalidArgument, "etcdserver: user name is empty".to_owned());
    assert_eq!(refused("", "secret").await, empty);
    let twice = (Code::FailedPrecondition, "etcdserver: user name already exists".to_owned());
    assert_eq!(refused("ann", "other").await, twice);

    let hash = async |name: &str| {
        let (_, user) = member
            .node
            .session(Credentials::Nothing)
            .ask_auth(Call::UserGet(name), |auth| auth.user(name).cloned())
            .await
            .expect("it leads");
        user.expect("it was added").password_hash
    };
    let ann = hash("ann").await;
    assert!(ann.starts_with("$2a$04$"), "{ann}");
    let fits = |password: &str, hash: &str| bcrypt::verify(password, hash).expect("a hash");
    assert!(fits("secret", &ann) && !fits("other", &ann));
    assert!(fits("", &hash("bob").await) && fits(&longest, &hash("dan").await));
    assert_eq!(hash("cat").await, "");

    let change = |name: &str, password: &str| {
        let (name, password) = (name.to_owned(), password.to_owned());
        let request = AuthUserChangePasswordRequest { name, password, ..Default::default() };
        member.auth::<AuthUserChangePasswordResponse>("/etcdserverpb.Auth/UserChangePassword", request)
    };
    change("ann", "other").await.expect("ann is there");
    assert!(fits("other", &hash("ann").await));
    change("ann", "").await.expect("ann is there");
    change("cat", "none").await.expect("cat is there");
    assert_eq!((hash("ann").await, hash("cat").await), (String::new(), String::new()));
    assert_eq!(member.auth_rev().await, 8);
}

#[tokio::test]
async fn roles_are_kept_and_enforced_once_that_is_enabled() {
    let member = Member::start();
    let enable = || member.auth::<AuthEnableResponse>("/etcdserverpb.Auth/AuthEnable", AuthEnableRequest {});
    let text = |answer: Result<AuthEnableResponse, (Code, String)>| answer.expect_err("refused");
    let no_user = (Code::FailedPrecondition, "etcdserver: root user does not exist".to_owned());
    assert_eq!(text(enable().await), no_user);
    let root = AuthUserAddRequest { name: "root".to_owned(), ..Default::default() };
    let _: AuthUserAddResponse = member.auth("/etcdserverpb.Auth/UserAdd", root).await.expect("a user");
    let no_role = (Code::FailedPrecondition, "etcdserver: root user does not have root role".to_owned());
    assert_eq!(text(enable().await), no_role);

    let get = || AuthRoleGetRequest { role: "root".to_owned() };
    let path_of_get = "/etcdserverpb.Auth/RoleGet";
    let missing = (Code::FailedPrecondition, "etcdserver: role name not found".to_owned());
    assert_eq!(member.auth::<AuthRoleGetResponse>(path_of_get, get()).await, Err(missing));
    let add = AuthRoleAddRequest { name: "root".to_owned() };
    let _: AuthRoleAddResponse = member.auth("/etcdserverpb.Auth/RoleAdd", add).await.expect("a role");
    let grant = |perm| AuthRoleGrantPermissionRequest { name: "root".to_owned(), perm };
    let path_of_grant = "/etcdserverpb.Auth/RoleGrantPermission";
    let what = (Code::InvalidArgument, "etcdserver: permission not given".to_owned());
    let granted: Result<AuthRoleGrantPermissionResponse, _> = member.auth(path_of_grant, grant(None)).await;
    assert_eq!(granted, Err(what));
    let perm = |key, range_end| authpb::Permission { perm_type: 2, key, range_end };
    let nothing = Some(perm(Bytes::new(), Bytes::from_static(b"b")));
    let granted: Result<AuthRoleGrantPermissionResponse, _> =
        member.auth(path_of_grant, grant(nothing)).await;
    let invalid = (Code::InvalidArgument, "etcdserver: invalid auth management".to_owned());
    assert_eq!(granted, Err(invalid));
    let role: AuthRoleGetResponse = member.auth(path_of_get, get()).await.expect("it was added");
    assert_eq!(role.perm, [perm(Bytes::new(), Bytes::from_static(b"\0"))], "whatever was granted");

    let grant = AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    let path_of_role = "/etcdserverpb.Auth/UserGrantRole";
    let _: AuthUserGrantRoleResponse = member.auth(path_of_role, grant.clone()).await.expect("a role");
    assert_eq!(member.auth_rev().await, 4);
    let _: AuthUserGrantRoleResponse = member.auth(path_of_role, grant).await.expect("once more is fine");
    assert_eq!(member.auth_rev().await, 4);
    let list: AuthUserListResponse =
        member.auth("/etcdserverpb.Auth/UserList", AuthUserListRequest {}).await.expect("a list");
    assert_eq!(list.users, ["root"]);
    let user = AuthUserGetRequest { name: "root".to_owned() };
    let user: AuthUserGetResponse = member.auth("/etcdserverpb.Auth/UserGet", user).await.expect("a user");
    assert_eq!(user.roles, ["root"]);

    let login = || AuthenticateRequest { name: "root".to_owned(), password: String::new() };
    let path_of_login = "/etcdserverpb.Auth/Authenticate";
    let early: Result<AuthenticateResponse, _> = member.auth(path_of_login, login()).await;
    let off = (Code::FailedPrecondition, "etcdserver: authentication is not enabled".to_owned());
    assert_eq!(early, Err(off));
    assert_eq!(member.put("a").await, 2, "nobody is held to it");

    enable().await.expect("there is a root");
    enable().await.expect_err("only root may");
    let path_of_disable = "/etcdserverpb.Auth/AuthDisable";
    let nobody: Result<AuthDisableResponse, _> = member.auth(path_of_disable, AuthDisableRequest {}).await;
    assert_eq!(nobody, Err((Code::InvalidArgument, "etcdserver: user name is empty".to_owned())));
    let login: AuthenticateResponse = member.auth(path_of_login, login()).await.expect("the password");
    assert_eq!(member.auth_rev().await, 4);
    let metadata: &[(&str, &[u8])] = &[("token", login.token.as_bytes())];
    let disabled =
        member.call_with::<AuthDisableResponse>(path_of_disable, AuthDisableRequest {}, metadata).await;
    assert_eq!(disabled.expect("root may").header.expect("a header").revision, 2);
    assert_eq!(member.auth_rev().await, 5);
    assert_eq!(member.put("a").await, 3, "nobody is held to it");
}

#[tokio::test]
async fn calls_are_checked_and_counted_around_the_services() {
    let member = Member::start();
    let path = "/etcdserverpb.KV/Put";
    assert_eq!(member.put("a").await, 2);
    let request = || PutRequest { key: Bytes::from_static(b"a"), ..Default::default() };
    let refused = member.call_with::<PutResponse>(path, request(), &[("client-api-version", b"\xff")]).await;
    assert_eq!(refused.expect_err("not UTF-8").message(), "etcdserver: invalid client api version");
    let metadata: &[(&str, &[u8])] = &[("client-api-version", b"3.6"), ("hasleader", b"true")];
    member.call_with::<PutResponse>(path, request(), metadata).await.expect("there is a leader");
    let refused = member.call::<PutResponse>(path, PutRequest::default()).await;
    assert_eq!(refused.expect_err("no key").code(), Code::InvalidArgument);
    let large = PutRequest { value: vec![0; (3 << 19) + 1].into(), ..request() };
    let refused = member.call::<PutResponse>(path, large).await.expect_err("too large");
    assert_eq!(refused.message(), "etcdserver: request is too large");
    drop(member.call::<PutResponse>(path, request()));

    let metrics = member.metrics.render(&Default::default());
    let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    for line in [
        format!("grpc_server_started_total{{{put}}} 5\n"),
        format!("grpc_server_msg_received_total{{{put}}} 5\n"),
        format!("grpc_server_msg_sent_total{{{put}}} 2\n"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{put}}} 2\n"),
        format!("grpc_server_handled_total{{grpc_code=\"InvalidArgument\",{put}}} 3\n"),
        "etcd_server_client_requests_total{client_api_version=\"3.6\",type=\"unary\"} 1\n".to_owned(),
        "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"} 3\n".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line}");
    }
}

/// A put at the bottom of `depth` transactions.
fn nested_put(depth: usize) -> TxnRequest {
    let around =
        |request| TxnRequest { success: vec![RequestOp { request: Some(request) }], ..TxnRequest::default() };
    let put = PutRequest { key: "deep".into(), value: "v".into(), ..PutRequest::default() };
    let innermost = around(request_op::Request::RequestPut(put));
    (1..depth)
        .fold(innermost, |inner, _| around(request_op::Request::RequestTxn(inner.encode_to_vec().into())))
}

/// Runs all code that is recursive in the depth of a transaction: decoding, checking, applying, rendering and
/// dropping. The reactor's part runs with half of a thread's stack, and stack frames are larger in a test
/// build than in a release build.
#[test]
fn the_deepest_transaction_fits_the_stack() {
    const STACK_BYTES: usize = 1024 * 1024;
    let runs = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a plain runtime").block_on(async {
            let member = Member::start_with("--max-txn-ops=100000");
            let depth = crate::limits::TXN_DEPTH_MAX;
            let mut answer: TxnResponse =
                member.call("/etcdserverpb.KV/Txn", nested_put(depth)).await.expect("it is not too deep");
            for level in 1..depth {
                let inner = answer.responses.pop().and_then(|op| op.response);
                let Some(response_op::Response::ResponseTxn(inner)) = inner else { panic!("{inner:?}") };
                answer = TxnResponse::decode(inner).expect("an answer to a transaction");
                assert!(answer.succeeded, "{level}");
            }
            let put = answer.responses.pop().and_then(|op| op.response);
            assert!(matches!(put, Some(response_op::Response::ResponsePut(_))), "{put:?}");
            for deeper in [depth + 1, 20_000] {
                let answer: Result<TxnResponse, Status> =
                    member.call("/etcdserverpb.KV/Txn", nested_put(deeper)).await;
                let status = answer.expect_err("it is too deep");
                assert_eq!(status.code(), Code::InvalidArgument);
                assert_eq!(status.message(), "etcdserver: too many operations in txn request");
            }
        });
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(runs);
    thread.expect("a thread").join().expect("it fits");
}

/// A call in the name of a member lets its connection out of the lobby; others do not.
#[tokio::test]
async fn a_connection_is_a_members_once_a_member_has_made_a_call_on_it() {
    let member = Member::start();
    let (cluster, own) = member.node.ids();
    let mut peers = super::peer_routes(&member.node).prepare().into_axum_router();
    let mut call = async |cluster: u64, from: u64| {
        let envelope = Envelope { version: 3, cluster, from, to: own.0, base: None };
        let hello = HelloRequest { envelope: Some(envelope), was_removed: false };
        let mut bytes = BytesMut::new();
        bytes.put_u8(0);
        bytes.put_u32(hello.encoded_len() as u32);
        hello.encode(&mut bytes).expect("there is room");
        let body = Body::new(Full::new(bytes.freeze()).map_err(|never| match never {}));
        let request = Request::post("/retcd.peer.Peer/Hello").header("content-type", "application/grpc");
        let mut request = request.body(body).expect("a sound request");
        let standing = Standing::default();
        request.extensions_mut().insert(standing.clone());
        peers.call(request).await.expect("infallible");
        standing.is_member()
    };
    assert!(!call(cluster.0 + 1, own.0).await, "of another cluster");
    assert!(!call(cluster.0, own.0 + 1).await, "of no member");
    assert!(call(cluster.0, own.0).await);
}
