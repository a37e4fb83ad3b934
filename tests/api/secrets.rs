//! Nothing secret is logged, shown in metrics or stored as it was typed: passwords, tokens, keys of tokens, values.
//!
//! The server logs everything that it can log, at debug level, and takes every call for a slow one.

use std::{fs, path::Path, process::Command};

use tonic::{Code, Request, Status, metadata::MetadataValue};

use crate::{
    canary::{self, MARK},
    client::refused,
    http,
    pb::{
        authpb::UserAddOptions,
        etcdserverpb::{compare::TargetUnion, request_op, *},
        v3electionpb::CampaignRequest,
    },
    server::{Launch, Server},
};

fn secret(name: &str) -> String {
    format!("{MARK}-{name}")
}

fn loud(launch: Launch) -> Launch {
    launch
        .flag("log-level", "debug")
        .flag("warning-unary-request-duration", "1ns")
        .flag("warning-apply-duration", "1ns")
        .flag("bcrypt-cost", 4)
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", MetadataValue::try_from(token).expect("it is ASCII"));
    request
}

/// Users with passwords, logins, calls with right and wrong tokens, and values. Returns the tokens.
async fn session(server: &Server) -> Vec<String> {
    let client = server.client();
    let mut auth = client.auth();
    for (name, password) in [("root", secret("root")), ("ann", secret("ann")), ("ann", secret("again"))] {
        let options = Some(UserAddOptions { no_password: false });
        let add = AuthUserAddRequest {
            name: name.to_owned(),
            password,
            options,
            hashed_password: secret("hashed"),
        };
        auth.user_add(add).await.ok();
    }
    let grant = AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    auth.user_grant_role(grant).await.expect("it is granted");
    auth.auth_enable(AuthEnableRequest {}).await.expect("root is there");

    let mut tokens = Vec::new();
    for (name, password, is_right) in [
        ("root", secret("root"), true),
        ("ann", secret("ann"), true),
        ("ann", secret("wrong"), false),
        ("nobody", secret("unknown"), false),
    ] {
        let request = AuthenticateRequest { name: name.to_owned(), password };
        let answer = auth.authenticate(request).await;
        assert_eq!(answer.is_ok(), is_right, "{name}: {answer:?}");
        if let Ok(answer) = answer {
            tokens.push(answer.into_inner().token);
        }
    }
    tokens.iter().for_each(|token| canary::plant(token));

    let value = secret("value");
    for (token, expected) in [
        (tokens[0].clone(), Code::Ok),
        (tokens[1].clone(), Code::PermissionDenied),
        (secret("token.17"), Code::Unauthenticated),
        (format!("Bearer {}", secret("bearer")), Code::Unauthenticated),
    ] {
        let answer = client.kv().put(with_token(put(&value), &token)).await;
        assert_eq!(answer.map_or_else(|status| status.code(), |_| Code::Ok), expected);
        client.kv().txn(with_token(txn(&value), &token)).await.ok();
        client
            .kv()
            .range(with_token(RangeRequest { key: "k".into(), ..Default::default() }, &token))
            .await
            .ok();
        let lease = LeaseGrantRequest { ttl: 100, id: 0 };
        client.leases().lease_grant(with_token(lease, &token)).await.ok();
    }
    let campaign = CampaignRequest { name: "vote".into(), lease: 0, value: secret("elected").into() };
    client.election().campaign(with_token(campaign, &tokens[0])).await.expect("nobody else is there");
    let change = AuthUserChangePasswordRequest {
        name: "ann".to_owned(),
        password: secret("changed"),
        hashed_password: String::new(),
    };
    auth.user_change_password(with_token(change, &tokens[0])).await.expect("root may");
    tokens
}

fn put(value: &str) -> PutRequest {
    PutRequest { key: "k".into(), value: value.to_owned().into(), prev_kv: true, ..PutRequest::default() }
}

fn txn(value: &str) -> TxnRequest {
    let op = RequestOp { request: Some(request_op::Request::RequestPut(put(value))) };
    let compare = Compare {
        target: 3,
        key: "k".into(),
        target_union: Some(TargetUnion::Value(value.to_owned().into())),
        ..Compare::default()
    };
    TxnRequest { compare: vec![compare], success: vec![op.clone()], failure: vec![op] }
}

/// The whole content of a directory.
fn bytes_below(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it is readable").path();
        all.extend(if path.is_dir() { bytes_below(&path) } else { fs::read(&path).expect("it is readable") });
    }
    all
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// CVE-2021-28235: the password of a login could be seen through debug output. etcd 3.5.26 and 3.6.7: tokens were logged.
#[tokio::test]
async fn passwords_tokens_and_values_are_in_no_log_and_no_file() {
    let mut server = loud(Launch::subject()).start();
    let tokens = session(&server).await;
    let metrics = http::get(server.client_port, "/metrics").body;
    assert_eq!(canary::found_in(metrics.lines()), [""; 0], "the metrics");
    let loud = server.log();
    assert!(loud.iter().any(|line| line.contains("request content")), "requests are shown");
    assert_eq!(canary::found_in(loud.iter().map(String::as_str)), [""; 0]);
    // A restart replays the log, and logs what it replays.
    server.restart();
    refused(
        server.client().try_put(put(&secret("value"))).await,
        Code::InvalidArgument,
        "etcdserver: user name is empty",
    );
    let stored = bytes_below(&server.data_dir());
    for password in ["root", "ann", "again", "hashed", "wrong", "unknown", "changed"] {
        assert!(!has(&stored, &secret(password)), "the password {password} is stored");
    }
    for token in &tokens {
        let letters = token.split('.').next().expect("a token has letters");
        assert!(!has(&stored, letters), "a token is stored");
    }
    assert!(has(&stored, &secret("value")), "values are what is stored");
    let ended = server.stop();
    let log = ended.log.iter().map(String::as_str);
    assert_eq!(canary::found_in(log), [""; 0]);
}

/// etcd 3.5.32: JSON web tokens were logged.
#[tokio::test]
async fn signed_tokens_and_their_key_are_in_no_log() {
    let mut server = loud(Launch::subject()).prepare();
    let key = server.home().join("key.pem");
    let made = Command::new("openssl")
        .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
        .arg(&key)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success());
    for line in fs::read_to_string(&key).expect("it was made").lines().filter(|line| !line.starts_with('-')) {
        canary::plant(line);
    }
    server.set_flag("auth-token", format!("jwt,sign-method=ES256,priv-key={},ttl=1h", key.display()));
    server.start();
    let tokens = session(&server).await;
    for part in tokens.iter().flat_map(|token| token.split('.').skip(1)) {
        canary::plant(part);
    }
    let changed = format!("{}A", tokens[0]);
    let range = RangeRequest { key: "k".into(), ..Default::default() };
    let refusal: Status =
        server.client().kv().range(with_token(range, &changed)).await.expect_err("it is forged");
    assert_eq!(refusal.code(), Code::Unauthenticated);
    assert!(!refusal.message().contains(&changed), "{refusal}");
    let ended = server.stop();
    assert_eq!(canary::found_in(ended.log.iter().map(String::as_str)), [""; 0]);
}
