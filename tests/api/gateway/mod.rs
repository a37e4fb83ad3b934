//! The JSON gateway, as clients without gRPC use it.

mod alike;
mod rough;
mod socket;
mod streams;

use std::time::Instant;

use serde_json::{Value, json};

use crate::{
    http::{Answer, get, request},
    server::{Launch, PATIENCE, Server, serve},
};

/// The status of a call and the JSON in its answer.
fn call(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    let answer = request(server.client_port, "POST", path, &body.to_string());
    let json = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    (answer.status, json)
}

/// The answer to a call that has to succeed.
fn ok(server: &Server, path: &str, body: &Value) -> Value {
    let (status, json) = call(server, path, body);
    assert_eq!(status, 200, "{path}: {json}");
    json
}

/// The code and the message of a call that has to fail.
fn refused(server: &Server, path: &str, body: &Value) -> (u16, i64, String) {
    let (status, json) = call(server, path, body);
    let message = json["message"].as_str().unwrap_or_else(|| panic!("{path}: {status} {json}"));
    (status, json["code"].as_i64().expect("a code"), message.to_owned())
}

#[tokio::test]
async fn keys_are_written_and_read() {
    let (server, _client) = serve();
    ok(&server, "/v3/kv/put", &json!({ "key": "Zm9v", "value": "YmFy" }));
    let answer = ok(&server, "/v3/kv/range", &json!({ "key": "Zm9v" }));
    let expected = json!({
        "key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy",
    });
    assert_eq!((&answer["kvs"][0], &answer["count"]), (&expected, &json!("1")));
    // The name in older releases.
    assert_eq!(ok(&server, "/v3beta/kv/range", &json!({ "key": "Zm9v" }))["kvs"], answer["kvs"]);
    let txn = json!({
        "compare": [{ "key": "Zm9v", "target": "VALUE", "result": "EQUAL", "value": "YmFy" }],
        "success": [
            { "requestDeleteRange": { "key": "Zm9v" } },
            { "request_txn": { "success": [{ "request_range": { "key": "Zm9v" } }] } },
        ],
    });
    let answer = ok(&server, "/v3/kv/txn", &txn);
    assert_eq!(answer["succeeded"], true);
    assert_eq!(answer["responses"][0]["response_delete_range"]["deleted"], "1");
    let nested = &answer["responses"][1]["response_txn"];
    assert_eq!(nested["responses"][0]["response_range"]["header"]["revision"], "3");
    assert!(nested["responses"][0]["response_range"]["kvs"].is_null(), "{nested}");

    let future = refused(&server, "/v3/kv/compaction", &json!({ "revision": 100 }));
    assert_eq!(future, (400, 11, "etcdserver: mvcc: required revision is a future revision".to_owned()));
}

#[tokio::test]
async fn an_answer_and_a_refusal_look_like_those_of_etcd() {
    let (server, _client) = serve();
    let port = server.client_port;
    let answer = request(port, "POST", "/v3/kv/range", r#"{"key":"Zm9v"}"#);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["grpc-metadata-content-type"], "application/grpc");
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    // Compact, and without what is zero.
    assert!(answer.body.starts_with(r#"{"header":{"cluster_id":""#) && !answer.body.contains("count"));

    let refused = request(port, "POST", "/v3/kv/range", "{}");
    assert_eq!((refused.status, refused.headers["content-type"].as_str()), (400, "application/json"));
    assert!(refused.body.contains(r#""code":3,"message":"etcdserver: key is not provided""#), "{refused:?}");
    let not_found = |answer: &Answer| (answer.status, answer.body.contains("Not Found"));
    for path in ["/v3/", "/v3/kv", "/v3/kv/range/", "/v3/kv/nope", "/v3/kv/rangestream"] {
        assert_eq!(not_found(&request(port, "POST", path, "{}")), (404, true), "{path}");
    }
    assert_eq!(request(port, "POST", "/v3alpha/kv/range", "{}").status, 404);
    assert_eq!(request(port, "PUT", "/v3/kv/range", "{}").status, 501);
    assert_eq!(request(port, "GET", "/v3/kv/range", "").status, 501);
    assert_eq!(request(port, "OPTIONS", "/v3/kv/range", "").status, 200);
    assert_eq!(request(port, "POST", "/v3", "{}").headers["location"], "/v3/");
}

#[tokio::test]
async fn calls_are_counted_checked_and_timed_as_those_of_grpc() {
    let (server, _client) = serve();
    let port = server.client_port;
    ok(&server, "/v3/kv/put", &json!({ "key": "Zm9v" }));
    let metrics = get(port, "/metrics").body;
    let counted =
        r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV""#;
    assert!(metrics.lines().any(|line| line.starts_with(counted) && line.ends_with(" 1")), "{metrics}");
    let with = |header: &str| {
        let (name, value) = header.split_once(": ").expect("a header");
        crate::http::request_with(port, "POST", "/v3/kv/range", &[(name, value)], r#"{"key":"Zm9v"}"#)
    };
    assert_eq!(with("Grpc-Timeout: 20S").status, 200);
    let answer = with("Grpc-Timeout: 1n");
    assert!(answer.status == 504 && answer.body.contains("context deadline exceeded"), "{answer:?}");
    let answer = with("Grpc-Timeout: soon");
    assert!(answer.status == 400 && answer.body.contains("invalid grpc-timeout: soon"), "{answer:?}");
    assert_eq!(with("Grpc-Metadata-hasleader: true").status, 200);
    let answer = with("Grpc-Metadata-client-api-version: 3.9");
    assert_eq!(answer.status, 200);
    assert!(get(port, "/metrics").body.contains(r#"client_api_version="3.9""#));
}

#[tokio::test]
async fn a_host_that_is_not_welcome_and_an_origin_that_is_not_allowed_are_kept_out() {
    let server = Launch::subject().flag("host-whitelist", "localhost").flag("cors", "http://a.test").start();
    let ask = |host: &str, origin: &str| {
        let headers = [("Host", host), ("Origin", origin)];
        crate::http::request_with(server.client_port, "POST", "/v3/kv/range", &headers, r#"{"key":"Zm9v"}"#)
    };
    assert_eq!(ask("evil.test", "http://a.test").status, 421);
    let allowed = ask("localhost:2379", "http://a.test");
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.headers["access-control-allow-origin"], "http://a.test");
    assert!(!ask("localhost", "http://b.test").headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn the_gateway_can_be_turned_off_and_have_a_port_of_its_own() {
    let off = Launch::subject().flag("enable-grpc-gateway", false).start();
    let answer = request(off.client_port, "POST", "/v3/kv/range", r#"{"key":"Zm9v"}"#);
    assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"));

    let port = crate::server::free_port();
    let split = Launch::subject().flag("listen-client-http-urls", format!("http://127.0.0.1:{port}")).start();
    assert_eq!(request(port, "POST", "/v3/kv/put", r#"{"key":"Zm9v"}"#).status, 200);
    assert_eq!(split.client().get("foo").await.expect("the key").version, 1);
}

#[tokio::test]
async fn as_many_calls_run_as_the_flag_says_and_others_wait() {
    let server = Launch::subject().flag("max-concurrent-streams", 3).start();
    let watch = || streams::Lines::open(&server, "/v3/watch", r#"{"create_request":{"key":"Zm9v"}}"#);
    let mut watches = [watch(), watch()];
    for watch in &mut watches {
        assert_eq!(watch.next()["result"]["created"], true);
    }
    ok(&server, "/v3/kv/put", &json!({ "key": "YQ==" }));
    let mut third = watch();
    assert_eq!(third.next()["result"]["created"], true);
    let refused = crate::http::request_with(
        server.client_port,
        "POST",
        "/v3/kv/range",
        &[("Grpc-Timeout", "300m")],
        r#"{"key":"YQ=="}"#,
    );
    assert_eq!(refused.status, 504, "it had to wait: {refused:?}");
    drop(third);
    let start = Instant::now();
    ok(&server, "/v3/kv/range", &json!({ "key": "YQ==" }));
    assert!(start.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_long_answer_is_whole() {
    let (server, client) = serve();
    let value = "x".repeat(100_000);
    for number in 0..40 {
        client.put(format!("k{number:02}"), value.clone()).await;
    }
    let answer = ok(&server, "/v3/kv/range", &json!({ "key": "AA==", "range_end": "AA==" }));
    assert_eq!(answer["count"], "40");
    let kvs = answer["kvs"].as_array().expect("keys");
    assert!(
        kvs.len() == 40
            && kvs.iter().all(|kv| kv["value"].as_str().is_some_and(|text| text.len() == 133_336))
    );
}

#[tokio::test]
async fn a_user_is_known_by_its_token_in_each_of_its_places() {
    let server = Launch::subject().flag("bcrypt-cost", 4).start();
    let login = json!({ "name": "root", "password": "secret" });
    ok(&server, "/v3/auth/user/add", &login);
    ok(&server, "/v3/auth/role/add", &json!({ "name": "root" }));
    ok(&server, "/v3/auth/user/grant", &json!({ "user": "root", "role": "root" }));
    ok(&server, "/v3/auth/enable", &json!({}));
    let put = json!({ "key": "Zm9v" });
    assert_eq!(refused(&server, "/v3/kv/put", &put), (400, 3, "etcdserver: user name is empty".to_owned()));
    let wrong = json!({ "name": "root", "password": "guess" });
    let answer = refused(&server, "/v3/auth/authenticate", &wrong);
    assert_eq!(answer.2, "etcdserver: authentication failed, invalid user ID or password");
    let token = ok(&server, "/v3/auth/authenticate", &login)["token"].as_str().expect("a token").to_owned();
    let with = |name: &str, value: &str| {
        let answer = crate::http::request_with(
            server.client_port,
            "POST",
            "/v3/kv/put",
            &[(name, value)],
            &put.to_string(),
        );
        (answer.status, answer.headers.get("www-authenticate").cloned())
    };
    assert_eq!(with("Authorization", &token), (200, None));
    assert_eq!(with("Authorization", &format!("Bearer {token}")), (200, None));
    assert_eq!(with("Grpc-Metadata-Token", &token), (200, None));
    let invalid = "etcdserver: invalid auth token".to_owned();
    assert_eq!(with("Authorization", "nonsense"), (401, Some(invalid)));
    for headers in [
        format!("Sec-WebSocket-Protocol: Bearer, {token}\r\n"),
        format!("Sec-WebSocket-Protocol: Bearer,{token}\r\n"),
        format!("Cookie: token={token}\r\n"),
    ] {
        let created = socket::watch_once(&server, &headers).await;
        assert_eq!(created["result"]["created"], true, "{headers}: {created}");
        assert!(created["result"]["canceled"].is_null(), "{headers}: {created}");
    }
    let created = socket::watch_once(&server, "").await;
    assert_ne!(created["result"]["canceled"], Value::Null, "{created}");
}
