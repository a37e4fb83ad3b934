//! Who calls: users with different roles, and those that are none.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint};

use super::{
    calls::{keys, leases},
    wire::{tell, try_tell},
};
use crate::{
    certificates::{self, Authority},
    pb::{
        authpb::{Permission, UserAddOptions},
        etcdserverpb::*,
        v3electionpb::CampaignRequest,
        v3lockpb::LockRequest,
    },
    secure,
};

pub(super) const PASSWORD: &str = "secret";

const READ: i32 = 0;
const WRITE: i32 = 1;
const READ_WRITE: i32 = 2;

/// A user, whose name is also that of its caller, and its roles.
struct User {
    name: &'static str,
    roles: &'static [Role],
}

struct Role {
    name: &'static str,
    kind: i32,
    key: &'static str,
    end: &'static str,
}

const fn role(name: &'static str, kind: i32, key: &'static str, end: &'static str) -> Role {
    Role { name, kind, key, end }
}

/// Of the keys from `k/` to `k0` each may reach another part.
const USERS: [User; 10] = [
    User { name: "roleless", roles: &[] },
    User { name: "reader", roles: &[role("reads", READ, "k/", "k0")] },
    User { name: "writer", roles: &[role("writes", WRITE, "k/", "k0")] },
    User { name: "one-key", roles: &[role("one", READ_WRITE, keys::C, "")] },
    User { name: "part", roles: &[role("lower", READ_WRITE, "k/a", "k/m")] },
    User {
        name: "union",
        roles: &[role("low", READ_WRITE, "k/a", "k/m"), role("high", READ_WRITE, "k/m", "k/zz")],
    },
    User { name: "prefix", roles: &[role("below", READ_WRITE, "k/", "k0")] },
    User { name: "all-keys", roles: &[role("all", READ_WRITE, "\0", "\0")] },
    // They have a token while they are as the reader.
    User { name: "removed", roles: &[role("reads", READ, "k/", "k0")] },
    User { name: "changed", roles: &[role("reads", READ, "k/", "k0")] },
];

pub(super) const ROOT: &str = "root";
/// Another user with the role root.
pub(super) const ADMIN: &str = "admin";

/// One column of the matrix.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) name: &'static str,
    pub(super) user: &'static str,
    pub(super) token: Option<String>,
    /// With the certificate that it shows, where there is TLS.
    tls: Option<Arc<ClientConfig>>,
}

fn caller(name: &'static str, user: &'static str, token: Option<String>) -> Caller {
    Caller { name, user, token, tls: None }
}

impl Caller {
    /// A connection of its own.
    pub(super) fn connect(&self, endpoint: &Endpoint) -> Channel {
        match &self.tls {
            None => endpoint.connect_lazy(),
            Some(tls) => secure::connect(endpoint, tls),
        }
    }
}

/// The data that calls refer to, and the users but for root, so that authentication cannot be enabled yet.
pub(super) async fn prepare(channel: &Channel, cases: i64) {
    let grant = |id: i64| LeaseGrantRequest { ttl: 9000, id };
    let put = |key: &str, lease: i64| PutRequest {
        key: key.to_owned().into(),
        value: "value".into(),
        lease,
        ..PutRequest::default()
    };
    for id in leases::P..=leases::FOREIGN_ELECTION {
        tell(channel, "/etcdserverpb.Lease/LeaseGrant", &grant(id), None).await;
    }
    for (key, lease) in [
        (keys::C, leases::P),
        (keys::CQ, leases::Q),
        (keys::PQ, leases::Q),
        (keys::ZF, leases::F),
        (keys::E, 0),
    ] {
        tell(channel, "/etcdserverpb.KV/Put", &put(key, lease), None).await;
    }
    for number in 0..cases {
        for (first, prefix) in [(leases::REVOKED, "k/c/r"), (leases::REVOKED_FOREIGN, "z/r")] {
            tell(channel, "/etcdserverpb.Lease/LeaseGrant", &grant(first + number), None).await;
            let key = put(&format!("{prefix}/{number}"), first + number);
            tell(channel, "/etcdserverpb.KV/Put", &key, None).await;
        }
    }
    let lock = LockRequest { name: keys::LOCK.into(), lease: leases::LOCK };
    tell(channel, "/v3lockpb.Lock/Lock", &lock, None).await;
    let campaign =
        CampaignRequest { name: keys::ELECTION.into(), lease: leases::ELECTION, value: "value".into() };
    tell(channel, "/v3electionpb.Election/Campaign", &campaign, None).await;
    let compaction = CompactionRequest { revision: 5, physical: true };
    tell(channel, "/etcdserverpb.KV/Compact", &compaction, None).await;
    for user in &USERS {
        add_user(channel, user.name).await;
        for role in user.roles {
            // Several users have the same role.
            let add = AuthRoleAddRequest { name: role.name.to_owned() };
            try_tell(channel, "/etcdserverpb.Auth/RoleAdd", &add, None).await.ok();
            let perm = Permission { perm_type: role.kind, key: role.key.into(), range_end: role.end.into() };
            let grant = AuthRoleGrantPermissionRequest { name: role.name.to_owned(), perm: Some(perm) };
            tell(channel, "/etcdserverpb.Auth/RoleGrantPermission", &grant, None).await;
            grant_role(channel, user.name, role.name).await;
        }
    }
    let keyless = AuthUserAddRequest {
        name: "keyless".to_owned(),
        options: Some(UserAddOptions { no_password: true }),
        ..AuthUserAddRequest::default()
    };
    tell(channel, "/etcdserverpb.Auth/UserAdd", &keyless, None).await;
}

/// Adds root and enables authentication.
pub(super) async fn enable(channel: &Channel) {
    for name in [ROOT, ADMIN] {
        add_user(channel, name).await;
        grant_role(channel, name, ROOT).await;
    }
    tell(channel, "/etcdserverpb.Auth/AuthEnable", &AuthEnableRequest {}, None).await;
}

async fn add_user(channel: &Channel, name: &str) {
    let add = AuthUserAddRequest {
        name: name.to_owned(),
        password: PASSWORD.to_owned(),
        ..AuthUserAddRequest::default()
    };
    tell(channel, "/etcdserverpb.Auth/UserAdd", &add, None).await;
}

async fn grant_role(channel: &Channel, user: &str, role: &str) {
    let grant = AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
    tell(channel, "/etcdserverpb.Auth/UserGrantRole", &grant, None).await;
}

/// While authentication is disabled.
pub(super) fn of_no_auth() -> Vec<Caller> {
    let token = Some("a.token.of.nobody".to_owned());
    vec![caller("no-token", "reader", None), caller("any-token", "reader", token)]
}

/// With simple tokens, which each user asks for.
pub(super) async fn with_simple_tokens(channel: &Channel) -> Vec<Caller> {
    let mut callers = vec![
        caller("no-token", "reader", None),
        caller("bad-token", "reader", Some("abcdefghijklmnop.1".to_owned())),
    ];
    for name in USERS.iter().map(|user| user.name).chain([ROOT, ADMIN]) {
        callers.push(caller(name, name, Some(log_in(channel, name).await)));
    }
    let root = callers.iter().find(|caller| caller.name == ROOT).and_then(|root| root.token.clone());
    let delete = AuthUserDeleteRequest { name: "removed".to_owned() };
    tell(channel, "/etcdserverpb.Auth/UserDelete", &delete, root.as_deref()).await;
    let change = AuthUserChangePasswordRequest {
        name: "changed".to_owned(),
        password: "another".to_owned(),
        hashed_password: String::new(),
    };
    tell(channel, "/etcdserverpb.Auth/UserChangePassword", &change, root.as_deref()).await;
    callers
}

async fn log_in(channel: &Channel, name: &str) -> String {
    let request = AuthenticateRequest { name: name.to_owned(), password: PASSWORD.to_owned() };
    let answer = tell(channel, "/etcdserverpb.Auth/Authenticate", &request, None).await;
    let answer: AuthenticateResponse = prost::Message::decode(answer).expect("the server encodes it");
    answer.token
}

/// With certificates, whose names are users. `root` shows the certificate of root.
pub(super) async fn with_certificates(root: &Channel, authority: &Authority) -> Vec<Caller> {
    let certified = |name: &'static str, user: &'static str, token: Option<String>| {
        let tls = certificates::client(&[authority], Some(&authority.issue(user)), "h2");
        Caller { tls: Some(tls), ..caller(name, user, token) }
    };
    let token = Some(log_in(root, "reader").await);
    let mut callers: Vec<Caller> =
        ["roleless", "reader", "writer", "prefix", "removed", "keyless", "nobody", ROOT]
            .into_iter()
            .map(|user| certified(user, user, None))
            .collect();
    callers.push(certified("root-with-a-token-of-reader", ROOT, token.clone()));
    callers.push(certified("nobody-with-a-token-of-reader", "nobody", token));
    callers.push(certified("root-with-a-bad-token", ROOT, Some("abcdefghijklmnop.1".to_owned())));
    let delete = AuthUserDeleteRequest { name: "removed".to_owned() };
    tell(root, "/etcdserverpb.Auth/UserDelete", &delete, None).await;
    callers
}

/// With JSON web tokens, which are made here.
pub(super) async fn with_signed_tokens(channel: &Channel, key: &[u8]) -> Vec<Caller> {
    let status =
        tell(channel, "/etcdserverpb.Auth/AuthStatus", &AuthStatusRequest {}, Some(&sign_root(key))).await;
    let status: AuthStatusResponse = prost::Message::decode(status).expect("the server encodes it");
    let rev = status.auth_revision;
    let soon = since_1970() + 3600;
    let claims = |user: &str, rev: u64, end: u64| {
        format!("{{\"exp\":{end},\"revision\":{rev},\"username\":\"{user}\"}}")
    };
    let signed = |claims: &str| Some(sign("HS256", claims, key));
    let prefix = claims("prefix", rev, soon);
    vec![
        caller("no-token", "prefix", None),
        caller("malformed", "prefix", Some("abcdefghijklmnop.1".to_owned())),
        caller("prefix", "prefix", signed(&prefix)),
        caller(ROOT, ROOT, signed(&claims(ROOT, rev, soon))),
        caller("expired", ROOT, signed(&claims(ROOT, rev, since_1970() - 3600))),
        caller("of-another-key", ROOT, Some(sign("HS256", &claims(ROOT, rev, soon), b"another key"))),
        caller("of-another-method", ROOT, Some(sign("HS384", &claims(ROOT, rev, soon), key))),
        caller("unsigned", ROOT, Some(sign("none", &claims(ROOT, rev, soon), key))),
        caller("of-an-old-revision", "prefix", signed(&claims("prefix", rev - 1, soon))),
        caller("root-of-an-old-revision", ROOT, signed(&claims(ROOT, rev - 1, soon))),
        caller("of-a-future-revision", "prefix", signed(&claims("prefix", rev + 1, soon))),
        caller("of-revision-0", "prefix", signed(&claims("prefix", 0, soon))),
        caller("of-an-unknown-user", "nobody", signed(&claims("nobody", rev, soon))),
        caller("without-a-user", "", signed(&format!("{{\"exp\":{soon},\"revision\":{rev}}}"))),
        caller("without-a-revision", ROOT, signed(&format!("{{\"exp\":{soon},\"username\":\"root\"}}"))),
    ]
}

/// A token of root at any revision, with which the test itself calls.
pub(super) fn sign_root(key: &[u8]) -> String {
    let claims = format!("{{\"exp\":{},\"revision\":1000000,\"username\":\"root\"}}", since_1970() + 3600);
    sign("HS256", &claims, key)
}

fn sign(method: &str, claims: &str, key: &[u8]) -> String {
    let algorithm = if method == "HS384" { hmac::HMAC_SHA384 } else { hmac::HMAC_SHA256 };
    let part = |text: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(text);
    let header = format!("{{\"alg\":\"{method}\",\"typ\":\"JWT\"}}");
    let signed = format!("{}.{}", part(header.as_bytes()), part(claims.as_bytes()));
    let signature = hmac::sign(&hmac::Key::new(algorithm, key), signed.as_bytes());
    format!("{signed}.{}", part(signature.as_ref()))
}

fn since_1970() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now: Duration| now.as_secs())
}
