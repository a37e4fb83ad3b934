//! The plain HTTP endpoints on the client port: health, version, metrics.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Instant,
};

use crate::{
    client::accepted,
    pb::etcdserverpb::AlarmRequest,
    server::{Launch, PATIENCE, Server, free_port, serve, serve_with},
};

/// An answer of an HTTP/1.1 server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

pub(crate) fn get(port: u16, path: &str) -> Answer {
    request(port, "GET", path, "")
}

/// One request on a connection of its own.
pub(crate) fn request(port: u16, method: &str, path: &str, body: &str) -> Answer {
    request_with(port, method, path, &[], body)
}

/// The same with further headers. One of them may be `Host`.
pub(crate) fn request_with(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let own_host = format!("127.0.0.1:{port}");
    let host = headers.iter().find(|(name, _)| *name == "Host").map_or(own_host.as_str(), |(_, host)| host);
    let others = headers.iter().filter(|(name, _)| *name != "Host");
    let others: String = others.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    // In one piece: a server that answers after the first of many may close before it has read the others.
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{others}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut bytes = Vec::new();
    let received = stream.read_to_end(&mut bytes);
    received
        .unwrap_or_else(|error| panic!("no whole answer of port {port} to {method} {path} {body}: {error}"));
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an HTTP answer: {text}"));
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("no status in {head}"));
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked");
    Answer { status, headers, body: if chunked { unchunked(body) } else { body.to_owned() } }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk has a size");
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// The value of a metric without labels, or of the first line of one with labels.
pub(crate) fn metric(server: &Server, name: &str) -> Option<f64> {
    get(server.client_port, "/metrics")
        .body
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
        .and_then(|line| line.rsplit(' ').next())
        .and_then(|value| value.parse().ok())
}

/// Asks until the cluster has a version, which etcd sets a moment after it is ready.
fn decided_version(server: &Server) -> Answer {
    let since = Instant::now();
    loop {
        let answer = get(server.client_port, "/version");
        if !answer.body.contains("not_decided") {
            return answer;
        }
        assert!(since.elapsed() < PATIENCE, "no cluster version: {answer:?}");
    }
}

#[tokio::test]
async fn version_names_the_releases() {
    let (server, client) = serve();
    let (major, minor, _) = client.version().await;
    let answer = decided_version(&server);
    assert_eq!(answer.status, 200);
    assert!(answer.headers["content-type"].starts_with("application/json"), "{answer:?}");
    let version: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(version["etcdserver"], client.status().await.version);
    assert_eq!(version["etcdcluster"], format!("{major}.{minor}.0"));
    if client.has((3, 6, 0), "the storage version").await {
        assert_eq!(version["storage"], format!("{major}.{minor}.0"));
    }
    assert_eq!(request(server.client_port, "POST", "/version", "").status, 405);
}

#[tokio::test]
async fn health_is_true_until_an_alarm() {
    let (server, client) = serve();
    let health = |query: &str| get(server.client_port, &format!("/health{query}"));
    let well = health("");
    assert_eq!((well.status, well.body.trim_end()), (200, r#"{"health":"true","reason":""}"#));
    assert_eq!(health("?serializable=true").status, 200);
    assert_eq!(request(server.client_port, "POST", "/health", "").status, 405);

    let member_id = client.status().await.leader;
    let raise = async |action: i32, alarm: i32| {
        let request = AlarmRequest { action, member_id, alarm };
        accepted("alarm", client.maintenance().alarm(request).await);
    };
    raise(1, 1).await;
    let full = health("");
    assert_eq!((full.status, full.body.trim_end()), (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#));
    assert_eq!(health("?exclude=NOSPACE").status, 200);
    assert_eq!(health("?exclude=CORRUPT").status, 503);
    raise(2, 1).await;
    raise(1, 2).await;
    let corrupt = health("");
    assert_eq!(
        (corrupt.status, corrupt.body.trim_end()),
        (503, r#"{"health":"false","reason":"ALARM CORRUPT"}"#)
    );
    raise(2, 2).await;
    assert_eq!(health("").status, 200);
}

#[tokio::test]
async fn livez_and_readyz_name_their_checks() {
    let (server, client) = serve();
    if !client.has((3, 5, 19), "/livez and /readyz with all their checks").await {
        return;
    }
    let probe = |path: &str| get(server.client_port, path);
    let lines = |body: &str| {
        let mut lines: Vec<String> = body.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for path in ["/livez", "/readyz", "/livez/serializable_read", "/readyz/linearizable_read"] {
        let answer = probe(path);
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{path}");
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
    assert_eq!(lines(&probe("/livez?verbose").body), ["[+]serializable_read ok", "ok"]);
    let ready = [
        "[+]data_corruption ok",
        "[+]linearizable_read ok",
        "[+]non_learner ok",
        "[+]serializable_read ok",
        "ok",
    ];
    assert_eq!(lines(&probe("/readyz?verbose").body), ready);
    assert_eq!(lines(&probe("/readyz?verbose&exclude=non_learner&exclude=linearizable_read").body).len(), 3);
    assert_eq!(probe("/readyz/no_such_check").status, 404);

    let member_id = client.status().await.leader;
    let corrupt = AlarmRequest { action: 1, member_id, alarm: 2 };
    accepted("alarm", client.maintenance().alarm(corrupt).await);
    let answer = probe("/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("[-]data_corruption failed: alarm activated: CORRUPT\n"), "{answer:?}");
    assert!(answer.body.contains("[+]serializable_read ok\n"), "{answer:?}");
    assert_eq!(probe("/livez").status, 200);
    assert_eq!(probe("/readyz?exclude=data_corruption").status, 200);
}

#[tokio::test]
async fn metrics_have_what_dashboards_and_alerts_ask_for() {
    let (server, client) = serve();
    client.put("k", "v").await;
    client.put("k", "v").await;
    client.delete("k").await;
    client.put("l", "v").await;
    decided_version(&server);
    let answer = get(server.client_port, "/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.headers["content-type"].starts_with("text/plain"), "{:?}", answer.headers);
    let names = [
        "etcd_server_has_leader",
        "etcd_server_is_leader",
        "etcd_server_leader_changes_seen_total",
        "etcd_server_proposals_failed_total",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_server_proposals_pending",
        "etcd_server_quota_backend_bytes",
        "etcd_server_version",
        "etcd_cluster_version",
        "etcd_server_id",
        "etcd_disk_wal_fsync_duration_seconds_bucket",
        "etcd_disk_backend_commit_duration_seconds_bucket",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_mvcc_put_total",
        "etcd_mvcc_delete_total",
        "etcd_mvcc_range_total",
        "etcd_mvcc_txn_total",
        "etcd_debugging_mvcc_keys_total",
        "etcd_debugging_mvcc_watcher_total",
        "etcd_debugging_mvcc_watch_stream_total",
        "etcd_debugging_mvcc_slow_watcher_total",
        "etcd_debugging_mvcc_events_total",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "grpc_server_started_total",
        "grpc_server_handled_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_cpu_seconds_total",
        "process_start_time_seconds",
    ];
    let missing: Vec<&str> = names.into_iter().filter(|name| metric(&server, name).is_none()).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
    let expected = [
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_is_leader", 1.0),
        ("etcd_server_quota_backend_bytes", 2_147_483_648.0),
        ("etcd_mvcc_put_total", 3.0),
        ("etcd_mvcc_delete_total", 1.0),
        ("etcd_debugging_mvcc_keys_total", 1.0),
    ];
    for (name, value) in expected {
        assert_eq!(metric(&server, name), Some(value), "{name}");
    }
    let (major, minor, patch) = client.version().await;
    for line in [
        format!("etcd_server_version{{server_version=\"{major}.{minor}.{patch}\"}} 1"),
        format!("etcd_cluster_version{{cluster_version=\"{major}.{minor}\"}} 1"),
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 3".to_owned(),
    ] {
        assert!(answer.body.lines().any(|found| found == line), "no line {line}");
    }
}

#[tokio::test]
async fn open_streams_and_refusals_are_counted() {
    let (server, client) = serve();
    let stream = client
        .watch(crate::pb::etcdserverpb::WatchCreateRequest { key: "k".into(), ..Default::default() })
        .await;
    assert_eq!(metric(&server, "etcd_debugging_mvcc_watch_stream_total"), Some(1.0));
    assert_eq!(metric(&server, "etcd_debugging_mvcc_watcher_total"), Some(1.0));
    client.try_put(Default::default()).await.expect_err("a put needs a key");
    let body = get(server.client_port, "/metrics").body;
    for line in [
        "grpc_server_started_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 1",
        "grpc_server_handled_total{grpc_code=\"InvalidArgument\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
    ] {
        assert!(body.lines().any(|found| found == line), "no line {line}");
    }
    drop(stream);
}

#[tokio::test]
async fn metrics_and_health_can_have_a_port_of_their_own() {
    let port = free_port();
    let launch = Launch::subject().flag("listen-metrics-urls", format!("http://127.0.0.1:{port}"));
    let (_server, _client) = serve_with(launch);
    assert_eq!(get(port, "/health").status, 200);
    assert!(get(port, "/metrics").body.contains("etcd_server_has_leader 1"));
    assert_eq!(get(port, "/version").status, 404);
}

#[tokio::test]
async fn other_paths_are_not_found() {
    let (server, _client) = serve();
    for path in ["/", "/nothing", "/healthy"] {
        assert_eq!(get(server.client_port, path).status, 404, "{path}");
    }
}
