//! Every call that a client can make: the rows of the matrix.
//!
//! A call that is permitted must leave users, roles, leases and members as they were, because the calls of
//! all callers run side by side: a member is added that is there already, a role is granted that the user
//! has. So no call raises the revision of users and roles, which would refuse another caller's token.

use bytes::Bytes;
use prost::Message;

use crate::pb::{
    authpb::{Permission, UserAddOptions},
    etcdserverpb::{
        alarm_request::AlarmAction, compare::TargetUnion, downgrade_request::DowngradeAction,
        request_op::Request, watch_request::RequestUnion, *,
    },
    v3electionpb::*,
    v3lockpb::*,
};

/// The keys: `c` is attached to lease P, `cq` and `pq` to Q, `z/f` to F; nothing is at `d` and behind `zz`.
pub(super) mod keys {
    pub(crate) const C: &str = "k/c";
    pub(crate) const E: &str = "k/e";
    pub(crate) const CQ: &str = "k/cq";
    pub(crate) const PQ: &str = "k/pq";
    pub(crate) const CF: &str = "k/cf";
    pub(crate) const ZF: &str = "z/f";
    pub(crate) const LOCK: &str = "k/c/lock";
    pub(crate) const ELECTION: &str = "k/c/vote";
}

/// The leases. Those that calls revoke have numbers from [`REVOKED`] and [`REVOKED_FOREIGN`], one for each
/// case, with the keys `k/c/r/N` and `z/r/N`.
pub(super) mod leases {
    pub(crate) const P: i64 = 101;
    pub(crate) const Q: i64 = 102;
    pub(crate) const F: i64 = 103;
    pub(crate) const LOCK: i64 = 104;
    pub(crate) const ELECTION: i64 = 105;
    pub(crate) const FOREIGN_LOCK: i64 = 106;
    pub(crate) const FOREIGN_ELECTION: i64 = 107;
    pub(crate) const UNKNOWN: i64 = 999;
    pub(crate) const REVOKED: i64 = 10_000;
    pub(crate) const REVOKED_FOREIGN: i64 = 20_000;
}

/// A member, a user and a role that do not exist.
const NO_MEMBER: u64 = 7;
const NOBODY: &str = "nobody";

/// What a call may depend on.
pub(super) struct Case<'c> {
    /// Of its own for each caller and each circumstance.
    pub(super) number: i64,
    pub(super) user: &'c str,
    /// The URL of a member.
    pub(super) peer_url: &'c str,
}

/// How a method is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unary,
    /// The first answer counts.
    ServerStream,
    /// As many answers count as there are messages. The requests do not end before.
    Bidi,
}

type Make = Box<dyn Fn(&Case<'_>) -> Vec<Vec<u8>> + Send + Sync>;

pub(super) struct Call {
    pub(super) name: String,
    /// `/package.Service/Method`.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    pub(super) make: Make,
}

fn unary<M: Message>(
    path: &'static str,
    what: &str,
    make: impl Fn(&Case<'_>) -> M + Send + Sync + 'static,
) -> Call {
    call(path, what, Kind::Unary, move |case| vec![make(case).encode_to_vec()])
}

fn server_stream<M: Message>(
    path: &'static str,
    what: &str,
    make: impl Fn(&Case<'_>) -> M + Send + Sync + 'static,
) -> Call {
    call(path, what, Kind::ServerStream, move |case| vec![make(case).encode_to_vec()])
}

fn call(
    path: &'static str,
    what: &str,
    kind: Kind,
    make: impl Fn(&Case<'_>) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> Call {
    let method = path.rsplit('.').next().expect("a path has a service");
    let name = format!("{method} {what}").trim_end().to_owned();
    Call { name, path, kind, make: Box::new(make) }
}

/// All of them, in the order of the table.
pub(super) fn all() -> Vec<Call> {
    let mut calls = key_values();
    calls.extend(comparisons());
    calls.extend(watches());
    calls.extend(lease_calls());
    calls.extend(cluster());
    calls.extend(maintenance());
    calls.extend(auth());
    calls.extend(locks());
    calls.extend(health());
    calls
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), range_end: bytes(end), ..RangeRequest::default() }
}

fn put(key: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes("value"), ..PutRequest::default() }
}

fn delete(key: &str, end: &str, prev_kv: bool) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv }
}

/// Ranges that callers cover in part or as a whole.
const RANGES: [(&str, &str, &str); 6] = [
    ("a key", keys::C, ""),
    ("a range", "k/b", "k/q"),
    ("a prefix", "k/", "k0"),
    ("from a key", keys::C, "\0"),
    ("everything", "\0", "\0"),
    ("an empty range", "k/q", "k/b"),
];

fn ranges() -> Vec<(String, RangeRequest)> {
    let plain = RANGES.map(|(what, key, end)| (what.to_owned(), range(key, end)));
    let every_option = RangeRequest {
        limit: 1,
        sort_order: 1,
        sort_target: 1,
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 1,
        max_mod_revision: 1 << 40,
        min_create_revision: 1,
        max_create_revision: 1 << 40,
        ..range("k/b", "k/q")
    };
    let local = RangeRequest { serializable: true, ..range(keys::C, "") };
    let past = RangeRequest { revision: 1, ..range(keys::C, "") };
    let more = [("with every option", every_option), ("serializable", local), ("compacted", past)];
    plain.into_iter().chain(more.map(|(what, range)| (what.to_owned(), range))).collect()
}

/// The operations that may also stand in a transaction.
fn operations() -> Vec<(&'static str, String, Request)> {
    let ranges = ranges().into_iter().map(|(what, range)| ("Range", what, Request::RequestRange(range)));
    let puts = [
        ("", put(keys::E)),
        ("an empty key", put("")),
        ("elsewhere", put("z/e")),
        ("with prev_kv", PutRequest { prev_kv: true, ..put(keys::E) }),
        ("with its lease", PutRequest { lease: leases::P, ..put(keys::C) }),
        ("with a lease of two keys", PutRequest { lease: leases::Q, ..put(keys::CQ) }),
        ("with a lease of a foreign key", PutRequest { lease: leases::F, ..put(keys::CF) }),
        ("with an unknown lease", PutRequest { lease: leases::UNKNOWN, ..put(keys::E) }),
        ("that keeps the value", PutRequest { ignore_value: true, value: Bytes::new(), ..put(keys::E) }),
        ("that keeps the lease", PutRequest { ignore_lease: true, ..put(keys::E) }),
    ];
    let puts = puts.map(|(what, put)| ("Put", what.to_owned(), Request::RequestPut(put)));
    let deletes = [
        ("a key", delete("k/d", "", false)),
        ("a range", delete("k/d", "k/d0", false)),
        ("a range across two permissions", delete("k/lz", "k/n", false)),
        ("the end of a prefix", delete("k/q", "k0", false)),
        ("from a key", delete("zz", "\0", false)),
        ("a key with prev_kv", delete("k/d", "", true)),
        ("a range with prev_kv", delete("k/d", "k/d0", true)),
    ];
    let deletes =
        deletes.map(|(what, delete)| ("DeleteRange", what.to_owned(), Request::RequestDeleteRange(delete)));
    ranges.chain(puts).chain(deletes).collect()
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn nest(txn: TxnRequest) -> TxnRequest {
    TxnRequest { success: vec![op(Request::RequestTxn(txn))], ..TxnRequest::default() }
}

/// The places in a transaction where an operation may stand. Without comparisons the first branch is taken.
fn in_txn(request: &Request) -> [(&'static str, TxnRequest); 5] {
    let taken = TxnRequest { success: vec![op(request.clone())], ..TxnRequest::default() };
    let untaken = TxnRequest { failure: vec![op(request.clone())], ..TxnRequest::default() };
    let beside = op(Request::RequestPut(put(keys::LOCK)));
    let beside = TxnRequest { success: vec![op(request.clone()), beside], ..TxnRequest::default() };
    let nested_untaken =
        TxnRequest { failure: vec![op(Request::RequestTxn(taken.clone()))], ..TxnRequest::default() };
    [
        ("in a Txn", taken.clone()),
        ("in the other branch", untaken),
        ("beside a put", beside),
        ("in a nested Txn", nest(taken)),
        ("nested in the other branch", nested_untaken),
    ]
}

fn key_values() -> Vec<Call> {
    let mut calls = Vec::new();
    for (method, what, request) in operations() {
        calls.push(match request.clone() {
            Request::RequestRange(range) => unary("/etcdserverpb.KV/Range", &what, move |_| range.clone()),
            Request::RequestPut(put) => unary("/etcdserverpb.KV/Put", &what, move |_| put.clone()),
            Request::RequestDeleteRange(delete) => {
                unary("/etcdserverpb.KV/DeleteRange", &what, move |_| delete.clone())
            }
            Request::RequestTxn(_) => unreachable!("transactions are made below"),
        });
        for (place, txn) in in_txn(&request) {
            let what = format!("{method} {what}, {place}").replace(" ,", ",");
            calls.push(unary("/etcdserverpb.KV/Txn", &what, move |_| txn.clone()));
        }
    }
    for (what, range) in ranges() {
        calls.push(server_stream("/etcdserverpb.KV/RangeStream", &what, move |_| range.clone()));
    }
    calls.push(unary("/etcdserverpb.KV/Compact", "", |_| CompactionRequest { revision: 1, physical: true }));
    calls
}

fn compare(target: TargetUnion, end: &str) -> Compare {
    let number = match target {
        TargetUnion::Version(_) => 0,
        TargetUnion::CreateRevision(_) => 1,
        TargetUnion::ModRevision(_) => 2,
        TargetUnion::Value(_) => 3,
        TargetUnion::Lease(_) => 4,
    };
    Compare {
        result: 1,
        target: number,
        key: bytes(keys::C),
        range_end: bytes(end),
        target_union: Some(target),
    }
}

fn comparisons() -> Vec<Call> {
    let only = |compare: Compare| TxnRequest { compare: vec![compare], ..TxnRequest::default() };
    let with_put = |compare: Compare| TxnRequest {
        success: vec![op(Request::RequestPut(put(keys::E)))],
        failure: vec![op(Request::RequestPut(put(keys::E)))],
        ..only(compare)
    };
    let value = || TargetUnion::Value(bytes("a"));
    [
        ("of nothing", TxnRequest::default()),
        ("that compares a version", only(compare(TargetUnion::Version(1), ""))),
        ("that compares a create revision", only(compare(TargetUnion::CreateRevision(1), ""))),
        ("that compares a mod revision", only(compare(TargetUnion::ModRevision(1), ""))),
        ("that compares a value", only(compare(value(), ""))),
        ("that compares a lease", only(compare(TargetUnion::Lease(1), ""))),
        ("that compares a range", only(compare(value(), "k/q"))),
        ("that compares everything behind a key", only(compare(value(), "\0"))),
        ("that compares and puts", with_put(compare(value(), ""))),
        ("that compares a range and puts", with_put(compare(value(), "k/q"))),
        ("with a nested comparison", nest(only(compare(value(), "")))),
        ("with a nested comparison and a put", nest(with_put(compare(value(), "")))),
    ]
    .into_iter()
    .map(|(what, txn)| unary("/etcdserverpb.KV/Txn", what, move |_| txn.clone()))
    .collect()
}

fn watches() -> Vec<Call> {
    let watch = |what: &str, create: WatchCreateRequest, then: Option<RequestUnion>| {
        let messages: Vec<Vec<u8>> = [Some(RequestUnion::CreateRequest(create)), then]
            .into_iter()
            .flatten()
            .map(|union| WatchRequest { request_union: Some(union) }.encode_to_vec())
            .collect();
        call("/etcdserverpb.Watch/Watch", what, Kind::Bidi, move |_| messages.clone())
    };
    let create = |key: &str, end: &str| WatchCreateRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..WatchCreateRequest::default()
    };
    let mut calls: Vec<Call> =
        RANGES.iter().map(|(what, key, end)| watch(what, create(key, end), None)).collect();
    // GHSA-xg4h: an end of one zero byte was taken for no end before the check.
    calls.push(watch("an empty key and an open end", create("", "\0"), None));
    let every_option = WatchCreateRequest {
        start_revision: 1 << 40,
        progress_notify: true,
        filters: vec![1],
        prev_kv: true,
        watch_id: 5,
        fragment: true,
        ..create("k/b", "k/q")
    };
    calls.push(watch("with every option", every_option, None));
    let cancel = WatchCancelRequest { watch_id: 5 };
    let of_5 = WatchCreateRequest { watch_id: 5, ..create(keys::C, "") };
    calls.push(watch("that is cancelled", of_5, Some(RequestUnion::CancelRequest(cancel))));
    let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
    calls.push(watch("asked for its progress", create(keys::C, ""), Some(progress)));
    calls
}

fn lease_calls() -> Vec<Call> {
    let keep_alive = |what: &str, id: i64| {
        let message = LeaseKeepAliveRequest { id }.encode_to_vec();
        call("/etcdserverpb.Lease/LeaseKeepAlive", what, Kind::Bidi, move |_| vec![message.clone()])
    };
    let time_to_live = |what: &str, id: i64, keys: bool| {
        unary("/etcdserverpb.Lease/LeaseTimeToLive", what, move |_| LeaseTimeToLiveRequest { id, keys })
    };
    let revoke = |what: &str, first: i64| {
        unary("/etcdserverpb.Lease/LeaseRevoke", what, move |case| LeaseRevokeRequest {
            id: first + if first == leases::UNKNOWN { 0 } else { case.number },
        })
    };
    vec![
        unary("/etcdserverpb.Lease/LeaseGrant", "of one that exists", |_| LeaseGrantRequest {
            ttl: 1000,
            id: leases::P,
        }),
        revoke("of one that is unknown", leases::UNKNOWN),
        revoke("", leases::REVOKED),
        revoke("with a foreign key", leases::REVOKED_FOREIGN),
        keep_alive("", leases::P),
        keep_alive("with two keys", leases::Q),
        keep_alive("with a foreign key", leases::F),
        keep_alive("of one that is unknown", leases::UNKNOWN),
        time_to_live("", leases::P, false),
        time_to_live("with its keys", leases::P, true),
        time_to_live("with its two keys", leases::Q, true),
        time_to_live("of one with a foreign key", leases::F, false),
        time_to_live("with its foreign key", leases::F, true),
        time_to_live("of one that is unknown", leases::UNKNOWN, true),
        unary("/etcdserverpb.Lease/LeaseLeases", "", |_| LeaseLeasesRequest {}),
    ]
}

fn cluster() -> Vec<Call> {
    let add = |what: &str, is_learner: bool| {
        unary("/etcdserverpb.Cluster/MemberAdd", what, move |case| MemberAddRequest {
            peer_ur_ls: vec![case.peer_url.to_owned()],
            is_learner,
        })
    };
    vec![
        add("that is there", false),
        add("as a learner, that is there", true),
        unary("/etcdserverpb.Cluster/MemberRemove", "unknown", |_| MemberRemoveRequest { id: NO_MEMBER }),
        unary("/etcdserverpb.Cluster/MemberUpdate", "unknown", |_| MemberUpdateRequest {
            id: NO_MEMBER,
            peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()],
        }),
        unary("/etcdserverpb.Cluster/MemberList", "", |_| MemberListRequest { linearizable: false }),
        unary("/etcdserverpb.Cluster/MemberList", "linearizable", |_| MemberListRequest {
            linearizable: true,
        }),
        unary("/etcdserverpb.Cluster/MemberPromote", "unknown", |_| MemberPromoteRequest { id: NO_MEMBER }),
    ]
}

fn maintenance() -> Vec<Call> {
    let alarm = |what: &str, action: AlarmAction, member_id: u64, alarm: AlarmType| {
        unary("/etcdserverpb.Maintenance/Alarm", what, move |_| AlarmRequest {
            action: action.into(),
            member_id,
            alarm: alarm.into(),
        })
    };
    let downgrade = |what: &str, action: DowngradeAction| {
        unary("/etcdserverpb.Maintenance/Downgrade", what, move |_| DowngradeRequest {
            action: action.into(),
            version: "x".to_owned(),
        })
    };
    vec![
        alarm("listed", AlarmAction::Get, 0, AlarmType::None),
        alarm("listed of a kind", AlarmAction::Get, NO_MEMBER, AlarmType::Nospace),
        alarm("raised of no kind", AlarmAction::Activate, NO_MEMBER, AlarmType::None),
        alarm("lowered that is not there", AlarmAction::Deactivate, NO_MEMBER, AlarmType::Nospace),
        unary("/etcdserverpb.Maintenance/Status", "", |_| StatusRequest {}),
        unary("/etcdserverpb.Maintenance/Defragment", "", |_| DefragmentRequest {}),
        unary("/etcdserverpb.Maintenance/Hash", "", |_| HashRequest {}),
        unary("/etcdserverpb.Maintenance/HashKV", "", |_| HashKvRequest { revision: 0 }),
        unary("/etcdserverpb.Maintenance/HashKV", "compacted", |_| HashKvRequest { revision: 1 }),
        server_stream("/etcdserverpb.Maintenance/Snapshot", "", |_| SnapshotRequest {}),
        unary("/etcdserverpb.Maintenance/MoveLeader", "to nobody", |_| MoveLeaderRequest {
            target_id: NO_MEMBER,
        }),
        downgrade("validated", DowngradeAction::Validate),
        downgrade("enabled", DowngradeAction::Enable),
        downgrade("cancelled", DowngradeAction::Cancel),
    ]
}

/// The one call that the users with the role root do not make, because it ends the run.
pub(super) const AUTH_DISABLE: &str = "Auth/AuthDisable";

pub(super) const GRANT_OF_NO_RANGE: &str = "Auth/RoleGrantPermission of an impossible range";

fn auth() -> Vec<Call> {
    let authenticate = |what: &str, name: &'static str, password: &'static str| {
        unary("/etcdserverpb.Auth/Authenticate", what, move |_| AuthenticateRequest {
            name: name.to_owned(),
            password: password.to_owned(),
        })
    };
    let user_add = |what: &str, name: &'static str| {
        unary("/etcdserverpb.Auth/UserAdd", what, move |_| AuthUserAddRequest {
            name: name.to_owned(),
            password: "secret".to_owned(),
            options: Some(UserAddOptions { no_password: false }),
            hashed_password: String::new(),
        })
    };
    let with_hash =
        unary("/etcdserverpb.Auth/UserAdd", "that is there, with every option", |_| AuthUserAddRequest {
            name: "reader".to_owned(),
            password: "secret".to_owned(),
            options: Some(UserAddOptions { no_password: true }),
            hashed_password: "hash".to_owned(),
        });
    let user_get = |what: &str, name: &'static str| {
        unary("/etcdserverpb.Auth/UserGet", what, move |_| AuthUserGetRequest { name: name.to_owned() })
    };
    let user_delete = |what: &str, name: &'static str| {
        unary("/etcdserverpb.Auth/UserDelete", what, move |_| AuthUserDeleteRequest { name: name.to_owned() })
    };
    let grant_role = |what: &str, user: &'static str, role: &'static str| {
        unary("/etcdserverpb.Auth/UserGrantRole", what, move |_| AuthUserGrantRoleRequest {
            user: user.to_owned(),
            role: role.to_owned(),
        })
    };
    let revoke_role = |what: &str, user: &'static str, role: &'static str| {
        unary("/etcdserverpb.Auth/UserRevokeRole", what, move |_| AuthUserRevokeRoleRequest {
            name: user.to_owned(),
            role: role.to_owned(),
        })
    };
    let role_add = |what: &str, name: &'static str| {
        unary("/etcdserverpb.Auth/RoleAdd", what, move |_| AuthRoleAddRequest { name: name.to_owned() })
    };
    let role_get = |what: &str, role: &'static str| {
        unary("/etcdserverpb.Auth/RoleGet", what, move |_| AuthRoleGetRequest { role: role.to_owned() })
    };
    let role_delete = |what: &str, role: &'static str| {
        unary("/etcdserverpb.Auth/RoleDelete", what, move |_| AuthRoleDeleteRequest { role: role.to_owned() })
    };
    let grant = |what: &str, role: &'static str, permission: Option<Permission>| {
        unary("/etcdserverpb.Auth/RoleGrantPermission", what, move |_| AuthRoleGrantPermissionRequest {
            name: role.to_owned(),
            perm: permission.clone(),
        })
    };
    let permission = || Permission { perm_type: 2, key: bytes("a"), range_end: bytes("b") };
    let backwards = Permission { perm_type: 1, key: bytes("b"), range_end: bytes("a") };
    vec![
        unary("/etcdserverpb.Auth/AuthEnable", "", |_| AuthEnableRequest {}),
        unary("/etcdserverpb.Auth/AuthDisable", "", |_| AuthDisableRequest {}),
        unary("/etcdserverpb.Auth/AuthStatus", "", |_| AuthStatusRequest {}),
        authenticate("", "reader", "secret"),
        authenticate("with a wrong password", "reader", "wrong"),
        authenticate("without a password", "reader", ""),
        authenticate("of an unknown user", NOBODY, "secret"),
        authenticate("of no user", "", "secret"),
        authenticate("of a user without a password", "keyless", "secret"),
        user_add("that is there", "reader"),
        user_add("without a name", ""),
        with_hash,
        unary("/etcdserverpb.Auth/UserGet", "itself", |case| AuthUserGetRequest {
            name: case.user.to_owned(),
        }),
        user_get("another", "keyless"),
        user_get("unknown", NOBODY),
        user_get("without a name", ""),
        unary("/etcdserverpb.Auth/UserList", "", |_| AuthUserListRequest {}),
        user_delete("unknown", NOBODY),
        user_delete("root", "root"),
        unary("/etcdserverpb.Auth/UserChangePassword", "of an unknown user", |_| {
            AuthUserChangePasswordRequest {
                name: NOBODY.to_owned(),
                password: "secret".to_owned(),
                hashed_password: "hash".to_owned(),
            }
        }),
        grant_role("that it has", "reader", "reads"),
        grant_role("that is unknown", "reader", NOBODY),
        grant_role("to an unknown user", NOBODY, "reads"),
        revoke_role("that it has not", "reader", "writes"),
        revoke_role("of an unknown user", NOBODY, "reads"),
        role_add("that is there", "reads"),
        role_add("without a name", ""),
        role_get("of the reader", "reads"),
        role_get("root", "root"),
        role_get("unknown", NOBODY),
        unary("/etcdserverpb.Auth/RoleList", "", |_| AuthRoleListRequest {}),
        role_delete("unknown", NOBODY),
        grant("to an unknown role", NOBODY, Some(permission())),
        grant("of an impossible range", "reads", Some(backwards)),
        grant("of nothing", "reads", None),
        unary("/etcdserverpb.Auth/RoleRevokePermission", "that it has not", |_| {
            AuthRoleRevokePermissionRequest {
                role: "reads".to_owned(),
                key: bytes("a"),
                range_end: bytes("b"),
            }
        }),
        unary("/etcdserverpb.Auth/RoleRevokePermission", "of an unknown role", |_| {
            AuthRoleRevokePermissionRequest {
                role: NOBODY.to_owned(),
                key: bytes("a"),
                range_end: Bytes::new(),
            }
        }),
    ]
}

fn locks() -> Vec<Call> {
    let leader_key = |name: &str, lease: i64| LeaderKey {
        name: bytes(name),
        key: bytes(&format!("{name}/{lease:x}")),
        rev: 1,
        lease,
    };
    let (ours, foreign) = (leader_key(keys::ELECTION, leases::ELECTION), leader_key("z/vote", 7));
    let proclaim = |what: &str, leader: LeaderKey| {
        unary("/v3electionpb.Election/Proclaim", what, move |_| ProclaimRequest {
            leader: Some(leader.clone()),
            value: bytes("value"),
        })
    };
    let resign = |what: &str, leader: LeaderKey| {
        unary("/v3electionpb.Election/Resign", what, move |_| ResignRequest { leader: Some(leader.clone()) })
    };
    vec![
        unary("/v3lockpb.Lock/Lock", "that its lease has", |_| LockRequest {
            name: bytes(keys::LOCK),
            lease: leases::LOCK,
        }),
        unary("/v3lockpb.Lock/Lock", "elsewhere", |_| LockRequest {
            name: bytes("z/lock"),
            lease: leases::FOREIGN_LOCK,
        }),
        unary("/v3lockpb.Lock/Lock", "without a lease", |case| LockRequest {
            name: bytes(&format!("k/c/l/{}", case.number)),
            lease: 0,
        }),
        unary("/v3lockpb.Lock/Lock", "with an unknown lease", |case| LockRequest {
            name: bytes(&format!("k/c/u/{}", case.number)),
            lease: leases::UNKNOWN,
        }),
        unary("/v3lockpb.Lock/Unlock", "of nothing", |_| UnlockRequest { key: bytes("k/d/none") }),
        unary("/v3lockpb.Lock/Unlock", "elsewhere", |_| UnlockRequest { key: bytes("zz/none") }),
        unary("/v3electionpb.Election/Campaign", "that its lease has won", |_| CampaignRequest {
            name: bytes(keys::ELECTION),
            lease: leases::ELECTION,
            value: bytes("value"),
        }),
        unary("/v3electionpb.Election/Campaign", "elsewhere", |_| CampaignRequest {
            name: bytes("z/vote"),
            lease: leases::FOREIGN_ELECTION,
            value: bytes("value"),
        }),
        unary("/v3electionpb.Election/Campaign", "without a lease", |case| CampaignRequest {
            name: bytes(&format!("k/c/v/{}", case.number)),
            lease: 0,
            value: bytes("value"),
        }),
        proclaim("without having won", ours.clone()),
        proclaim("elsewhere", foreign.clone()),
        unary("/v3electionpb.Election/Leader", "", |_| LeaderRequest { name: bytes(keys::ELECTION) }),
        unary("/v3electionpb.Election/Leader", "elsewhere", |_| LeaderRequest { name: bytes("zz/vote") }),
        server_stream("/v3electionpb.Election/Observe", "", |_| LeaderRequest {
            name: bytes(keys::ELECTION),
        }),
        resign("without having won", ours),
        resign("elsewhere", foreign),
    ]
}

mod healthpb {
    /// The messages of health checks, which have one field.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct HealthCheckRequest {
        #[prost(string, tag = "1")]
        pub(super) service: String,
    }
}

fn health() -> Vec<Call> {
    let check = |service: &str| healthpb::HealthCheckRequest { service: service.to_owned() };
    vec![
        unary("/grpc.health.v1.Health/Check", "", move |_| check("")),
        unary("/grpc.health.v1.Health/Check", "of an unknown service", move |_| check("x")),
        unary("/grpc.health.v1.Health/List", "", |_| ()),
        server_stream("/grpc.health.v1.Health/Watch", "", move |_| check("")),
    ]
}
