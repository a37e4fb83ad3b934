//! The endpoints against a made-up node, and a port against real connections.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::Poll,
    time::Duration,
};

use axum::{Router, body::Body};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::Service;

use super::{
    Load, Methods, PeerServices, Probe, Protocols, Services, Versions,
    calls::Calls,
    flood::{Flood, PingPolicy},
    inbound::Inbound,
    router,
    socket::Socket,
};
use crate::{
    apply::AlarmKind,
    clock,
    config::Config,
    limits,
    sockets::Io,
    telemetry::{Metrics, NodeState},
};

mod wire;

use wire::{CALL, Ended, Wire, message};

/// A node that is whatever the test says.
#[derive(Clone)]
struct FakeNode {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    facts: Arc<Mutex<Facts>>,
}

#[derive(Default)]
struct Facts {
    no_leader: bool,
    learner: bool,
    auth_enabled: bool,
    alarms: Vec<AlarmKind>,
    full_disks: Vec<String>,
    linearizable_read: Option<&'static str>,
    serializable_read: Option<&'static str>,
    versions: Versions,
}

impl FakeNode {
    fn new(flags: &[&str]) -> FakeNode {
        let config = Arc::new(Config::of_flags(flags));
        FakeNode { metrics: Arc::new(Metrics::new(&config)), config, facts: Arc::default() }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().expect("no test panics while it holds the facts")
    }
}

impl Probe for FakeNode {
    fn config(&self) -> &Config {
        &self.config
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    fn has_leader(&self) -> bool {
        !self.facts().no_leader
    }

    fn is_learner(&self) -> bool {
        self.facts().learner
    }

    fn is_auth_enabled(&self) -> bool {
        self.facts().auth_enabled
    }

    fn alarms(&self) -> Vec<AlarmKind> {
        self.facts().alarms.clone()
    }

    fn full_disks(&self) -> Vec<String> {
        self.facts().full_disks.clone()
    }

    async fn read(&self, serializable: bool) -> Result<(), String> {
        let facts = self.facts();
        let error = if serializable { facts.serializable_read } else { facts.linearizable_read };
        error.map_or(Ok(()), |error| Err(error.to_owned()))
    }

    fn versions(&self) -> Versions {
        self.facts().versions.clone()
    }

    fn state(&self) -> NodeState {
        NodeState { has_leader: self.has_leader(), ..NodeState::default() }
    }
}

/// Status, headers that matter, and body, as one would see them with `curl -i`.
async fn ask(router: &mut Router, method: Method, path: &str, headers: &[(&str, &str)]) -> String {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost:2379");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).expect("a sound request");
    let response = router.call(request).await.expect("infallible");
    let mut text = response.status().as_u16().to_string();
    for name in ["content-type", "x-content-type-options", "allow", "access-control-allow-origin"] {
        if let Some(value) = response.headers().get(name) {
            text.push_str(&format!(" {name}={}", value.to_str().expect("ASCII")));
        }
    }
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    format!("{text}\n{}", String::from_utf8(body.to_vec()).expect("UTF-8"))
}

async fn get(node: &FakeNode, path: &str) -> String {
    ask(&mut router::metrics_router(node), Method::GET, path, &[]).await
}

const OK: &str = "200 content-type=text/plain; charset=utf-8";
const OK_NOSNIFF: &str = "200 content-type=text/plain; charset=utf-8 x-content-type-options=nosniff";
const UNWELL: &str = "503 content-type=text/plain; charset=utf-8 x-content-type-options=nosniff";
const NOT_FOUND: &str =
    "404 content-type=text/plain; charset=utf-8 x-content-type-options=nosniff\n404 page not found\n";

#[tokio::test]
async fn health_is_one_verdict_with_the_first_reason() {
    let node = FakeNode::new(&[]);
    let well = format!("{OK}\n{}", r#"{"health":"true","reason":""}"#);
    let unwell = |reason: &str| format!("{UNWELL}\n{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
    assert_eq!(get(&node, "/health").await, well);

    node.facts().linearizable_read = Some("etcdserver: request timed out");
    assert_eq!(get(&node, "/health").await, unwell("RANGE ERROR:etcdserver: request timed out"));
    assert_eq!(get(&node, "/health?serializable=true").await, well);

    node.facts().no_leader = true;
    assert_eq!(get(&node, "/health").await, unwell("RAFT NO LEADER"));
    assert_eq!(get(&node, "/health?serializable=true").await, well);
    assert_eq!(get(&node, "/health?serializable=1").await, unwell("RAFT NO LEADER"));

    node.facts().alarms = vec![AlarmKind::NoSpace, AlarmKind::Corrupt];
    assert_eq!(get(&node, "/health").await, unwell("ALARM NOSPACE"));
    assert_eq!(get(&node, "/health?exclude=NOSPACE").await, unwell("ALARM CORRUPT"));
    assert_eq!(get(&node, "/health?exclude=NOSPACE&exclude=CORRUPT&serializable=true").await, well);

    node.facts().alarms.clear();
    node.facts().full_disks = vec!["/data/member/wal".to_owned()];
    assert_eq!(get(&node, "/health?serializable=true").await, unwell("DISK FULL /data/member/wal"));
    assert_eq!(get(&node, "/health?exclude=NOSPACE&serializable=true").await, well);
    node.facts().full_disks.clear();

    node.facts().serializable_read = Some("a \"quoted\" reason");
    assert_eq!(get(&node, "/health?serializable=true").await, unwell(r#"RANGE ERROR:a \"quoted\" reason"#));

    let metrics = get(&node, "/metrics").await;
    assert!(metrics.contains("etcd_server_health_success 5\n"), "{metrics}");
    assert!(metrics.contains("etcd_server_health_failures 7\n"), "{metrics}");
}

#[tokio::test]
async fn livez_and_readyz_tell_check_by_check() {
    let node = FakeNode::new(&[]);
    assert_eq!(get(&node, "/livez").await, format!("{OK_NOSNIFF}\nok\n"));
    assert_eq!(get(&node, "/readyz").await, format!("{OK_NOSNIFF}\nok\n"));
    assert_eq!(get(&node, "/livez?verbose").await, format!("{OK_NOSNIFF}\n[+]serializable_read ok\nok\n"));
    assert_eq!(
        get(&node, "/readyz?verbose=").await,
        format!(
            "{OK_NOSNIFF}\n[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n"
        )
    );

    node.facts().linearizable_read = Some("etcdserver: no leader");
    node.facts().learner = true;
    node.facts().alarms = vec![AlarmKind::Corrupt];
    assert_eq!(
        get(&node, "/readyz").await,
        format!(
            "{UNWELL}\n[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
             [-]linearizable_read failed: etcdserver: no leader\n[-]non_learner failed: not supported for learner\n\n"
        )
    );
    assert_eq!(
        get(&node, "/readyz?exclude=data_corruption&exclude=non_learner&exclude=surprise").await,
        format!("{UNWELL}\n[+]serializable_read ok\n[-]linearizable_read failed: etcdserver: no leader\n\n")
    );
    assert_eq!(get(&node, "/livez").await, format!("{OK_NOSNIFF}\nok\n"));

    assert_eq!(get(&node, "/readyz/serializable_read").await, format!("{OK_NOSNIFF}\nok\n"));
    assert_eq!(
        get(&node, "/readyz/linearizable_read").await,
        format!("{UNWELL}\n[-]linearizable_read failed: etcdserver: no leader\n\n")
    );
    assert_eq!(get(&node, "/livez/linearizable_read").await, NOT_FOUND);
    assert_eq!(get(&node, "/readyz/surprise").await, NOT_FOUND);

    let metrics = get(&node, "/metrics").await;
    assert!(
        metrics.contains("etcd_server_healthcheck{name=\"non_learner\",type=\"readyz\"} 0\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn an_alarm_of_space_does_not_fail_a_probe() {
    let node = FakeNode::new(&[]);
    node.facts().alarms = vec![AlarmKind::NoSpace];
    assert_eq!(get(&node, "/readyz").await, format!("{OK_NOSNIFF}\nok\n"));
}

#[tokio::test]
async fn a_client_port_has_more_than_a_metrics_port() {
    let node = FakeNode::new(&[]);
    let mut router = router::client_router(&node, Router::new());
    let json = "200 content-type=application/json access-control-allow-origin=*";
    assert_eq!(
        ask(&mut router, Method::GET, "/version", &[]).await,
        format!("{json}\n{}", r#"{"etcdserver":"3.7.3","etcdcluster":"not_decided","storage":"unknown"}"#)
    );
    node.facts().versions = Versions { cluster: Some("3.7.0".to_owned()), storage: Some("3.7.0".to_owned()) };
    assert_eq!(
        ask(&mut router, Method::GET, "/version", &[]).await,
        format!("{json}\n{}", r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#)
    );
    assert!(ask(&mut router, Method::GET, "/debug/vars", &[]).await.contains("\"cmdline\":["));
    assert_eq!(get(&node, "/version").await, NOT_FOUND);
    assert_eq!(get(&node, "/nope").await, NOT_FOUND);
    let metrics = get(&node, "/metrics").await;
    assert!(metrics.starts_with("200 content-type=text/plain; version=0.0.4; charset=utf-8\n"), "{metrics}");
}

#[tokio::test]
async fn other_methods_than_get_are_turned_away() {
    let node = FakeNode::new(&[]);
    let mut router = router::client_router(&node, Router::new());
    for path in ["/health", "/livez", "/readyz", "/readyz/non_learner", "/version"] {
        for method in [Method::POST, Method::HEAD] {
            assert!(
                ask(&mut router, method.clone(), path, &[]).await.starts_with(
                    "405 content-type=text/plain; charset=utf-8 x-content-type-options=nosniff allow=GET"
                ),
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn web_pages_and_strange_hosts_are_kept_out_where_asked() {
    let open = FakeNode::new(&[]);
    let options =
        ask(&mut router::client_router(&open, Router::new()), Method::OPTIONS, "/anything", &[]).await;
    assert_eq!(options, "200 access-control-allow-origin=*\n");

    let node = FakeNode::new(&["--cors=http://a.example", "--host-whitelist=localhost,::1"]);
    let mut router = router::client_router(&node, Router::new());
    let from = |origin| [("origin", origin)];
    let answer = ask(&mut router, Method::GET, "/version", &from("http://a.example")).await;
    assert!(answer.contains("access-control-allow-origin=http://a.example"), "{answer}");
    let answer = ask(&mut router, Method::GET, "/version", &from("http://b.example")).await;
    assert!(answer.starts_with("200 ") && !answer.contains("access-control-allow-origin"), "{answer}");

    for (host, status) in
        [("localhost", 200), ("localhost:1", 200), ("[::1]:1", 200), ("evil.example:1", 421)]
    {
        let request = Request::builder().uri("/version").header(header::HOST, host);
        let request = request.body(Body::empty()).expect("a sound request");
        let response = router.call(request).await.expect("infallible");
        assert_eq!(response.status().as_u16(), status, "{host}");
    }
}

const HEALTH: Methods = Methods { services: &["grpc.health.v1.Health"], client_streams: &[] };

/// A port that serves one connection after the other in the background, and where it is.
async fn port(node: &FakeNode, protocols: Protocols) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (reporter, health) = tonic_health::server::health_reporter();
    drop(reporter);
    let services =
        Services::new(node, tonic::service::Routes::new(health), HEALTH, Router::new(), Load::new());
    tokio::spawn(async move {
        let graceful = GracefulShutdown::new();
        while let Ok((stream, _)) = listener.accept().await {
            services.serve(Io::tcp(stream), protocols, &graceful);
        }
    });
    address
}

/// What comes back for raw bytes, until the server closes.
async fn exchange(address: &str, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes.as_bytes()).await.expect("a request sent");
    let mut answer = Vec::new();
    // A refusal may arrive as a reset: what came before it counts.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn grpc_health(address: &str) -> Result<i32, tonic::Code> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
    let channel = endpoint.connect().await.map_err(|_| tonic::Code::Unavailable)?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await;
    answer.map(|answer| answer.into_inner().status).map_err(|status| status.code())
}

const GET_VERSION: &str = "GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn grpc_and_http_share_a_port() {
    let node = FakeNode::new(&[]);
    let address = port(&node, Protocols::GrpcAndHttp).await;
    assert_eq!(grpc_health(&address).await, Ok(1));
    let version = exchange(&address, GET_VERSION).await;
    assert!(version.starts_with("HTTP/1.1 200 OK\r\n") && version.contains("etcdserver"), "{version}");
    // curl --http2 asks to upgrade: that is answered in HTTP/1.1.
    let upgrade = GET_VERSION
        .replace("Connection: close", "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c");
    assert!(exchange(&address, &upgrade).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_port_speaks_only_what_it_is_for() {
    let node = FakeNode::new(&[]);
    let grpc = port(&node, Protocols::Grpc).await;
    assert_eq!(grpc_health(&grpc).await, Ok(1));
    assert!(!exchange(&grpc, GET_VERSION).await.contains("200 OK"));

    let http = port(&node, Protocols::Http).await;
    assert!(exchange(&http, GET_VERSION).await.contains("etcdserver"));
    assert!(grpc_health(&http).await.is_err());

    let metrics = port(&node, Protocols::Metrics).await;
    assert!(exchange(&metrics, GET_VERSION).await.starts_with("HTTP/1.1 404"));
    assert!(exchange(&metrics, &GET_VERSION.replace("/version", "/health")).await.contains("true"));
}

#[tokio::test]
async fn the_endpoints_can_be_asked_over_http_2_where_no_grpc_is_spoken() {
    let node = FakeNode::new(&[]);
    for (protocols, path) in
        [(Protocols::Http, "/version"), (Protocols::Metrics, "/health?serializable=true")]
    {
        let mut wire = Wire::connect(&port(&node, protocols).await, false).await;
        for (method, http) in [("GET", 200), ("DELETE", 405), ("GET", 200)] {
            let fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a")];
            let ended = wire.call(&fields, &[]).await;
            assert_eq!(ended, Ended::Refused { http, code: 0, text: String::new() }, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn only_grpc_traffic_counts_as_grpc_traffic() {
    let node = FakeNode::new(&[]);
    let address = port(&node, Protocols::GrpcAndHttp).await;
    exchange(&address, GET_VERSION).await;
    assert_eq!((node.metrics.client_received_bytes.get(), node.metrics.client_sent_bytes.get()), (0, 0));
    grpc_health(&address).await.expect("an answer");
    assert!(node.metrics.client_received_bytes.get() > 24 && node.metrics.client_sent_bytes.get() > 24);
}

#[tokio::test]
async fn a_graceful_end_waits_for_nobody_idle() {
    let node = FakeNode::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let services =
        Services::new(&node, tonic::service::Routes::default(), HEALTH, Router::new(), Load::new());
    let graceful = GracefulShutdown::new();
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let (stream, _) = listener.accept().await.expect("a connection");
    services.serve(Io::tcp(stream), Protocols::GrpcAndHttp, &graceful);
    client.write_all(GET_VERSION.replace("Connection: close\r\n", "").as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    graceful.shutdown().await;
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("the rest, and the end");
}

/// The port of a member's peers, with the service for health checks on it.
async fn peer_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (_, health) = tonic_health::server::health_reporter();
    let services = PeerServices::new(tonic::service::Routes::new(health), HEALTH);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            services.serve(Io::tcp(stream));
        }
    });
    address
}

/// A connection to each kind of port.
async fn both_ports() -> [Wire; 2] {
    let client_port = port(&FakeNode::new(&[]), Protocols::GrpcAndHttp).await;
    [Wire::connect(&client_port, false).await, Wire::connect(&peer_port().await, true).await]
}

#[tokio::test]
async fn whatever_the_authority_is_the_call_is_served() {
    for mut wire in both_ports().await {
        for authority in [
            "localhost:2379",
            "",
            "http://127.0.0.1:2379",
            "#initially=[http://127.0.0.1:2379]",
            "127.0.0.1:1,127.0.0.1:2",
            "/var/run/etcd.sock",
            "%2Fvar%2Frun%2Fetcd.sock",
            "a b",
            "[",
            "\u{e4}",
            "a:b:c",
        ] {
            let fields = [&CALL[..3], &[(":authority", authority)], &CALL[4..]].concat();
            wire.serves(&fields, authority).await;
        }
        wire.serves(&[&CALL[..3], &CALL[4..]].concat(), "none").await;
        wire.serves(&[&CALL[..3], &CALL[4..], &[("host", "[")]].concat(), "a strange host").await;
        wire.serves(&[&[(":authority", "[")], &CALL[..]].concat(), "two").await;
        wire.serves(&CALL, "as it should be").await;
    }
}

/// As etcd 3.7.3 does, which was asked in the same way.
#[tokio::test]
async fn what_is_no_grpc_is_refused_in_the_words_of_etcd() {
    let with = |name: &'static str, value: &'static str| {
        let mut fields = CALL.to_vec();
        fields.retain(|(known, _)| *known != name);
        fields.insert(if name.starts_with(':') { 0 } else { fields.len() }, (name, value));
        fields
    };
    let and = |name: &'static str, value: &'static str| {
        let mut fields = CALL.to_vec();
        fields.insert(if name.starts_with(':') { 0 } else { fields.len() }, (name, value));
        fields
    };
    let without = |name: &'static str| {
        let mut fields = CALL.to_vec();
        fields.retain(|(known, _)| *known != name);
        fields
    };
    let refused = |http: u16, code: u8, text: &str| Ended::Refused { http, code, text: text.to_owned() };
    let cases = [
        (with(":path", "/"), refused(200, 12, r#"malformed method name: "/""#)),
        (with(":path", ""), refused(200, 12, r#"malformed method name: """#)),
        (without(":path"), refused(200, 12, r#"malformed method name: """#)),
        (with(":path", "*"), refused(200, 12, r#"malformed method name: "*""#)),
        (with(":path", "a/b"), refused(200, 12, r#"malformed method name: "a/b""#)),
        (with(":path", "/a"), refused(200, 12, r#"malformed method name: "/a""#)),
        (with(":path", "//"), refused(200, 12, "unknown service ")),
        (with(":path", "/a/b/c"), refused(200, 12, "unknown service a/b")),
        (with(":path", "/nope.KV/Range"), refused(200, 12, "unknown service nope.KV")),
        (
            with(":path", "/grpc.health.v1.Health/Nope"),
            refused(200, 12, "unknown method Nope for service grpc.health.v1.Health"),
        ),
        (
            with(":path", "/grpc.health.v1.Health/"),
            refused(200, 12, "unknown method  for service grpc.health.v1.Health"),
        ),
        (
            with(":path", "/grpc.health.v1.Health/Check/"),
            refused(200, 12, "unknown service grpc.health.v1.Health/Check"),
        ),
        (
            with(":path", "/grpc.health.v1.Health/Check?a=b"),
            refused(200, 12, "unknown method Check?a=b for service grpc.health.v1.Health"),
        ),
        (
            with(":path", "/grpc.health.v1.Health/Ch eck<"),
            refused(200, 12, "unknown method Ch eck< for service grpc.health.v1.Health"),
        ),
        (
            with(":method", "GET"),
            refused(405, 13, r#"Received a HEADERS frame with :method "GET" which should be POST"#),
        ),
        (
            with(":method", "CONNECT"),
            refused(405, 13, r#"Received a HEADERS frame with :method "CONNECT" which should be POST"#),
        ),
        (
            with(":method", "a b"),
            refused(405, 13, r#"Received a HEADERS frame with :method "a b" which should be POST"#),
        ),
        (
            without(":method"),
            refused(405, 13, r#"Received a HEADERS frame with :method "" which should be POST"#),
        ),
        (without(":scheme"), Ended::Served),
        (with(":scheme", "!!"), Ended::Served),
        (and(":protocol", "x"), Ended::Served),
        (
            with("content-type", "application/json"),
            refused(415, 3, r#"invalid gRPC request content-type "application/json""#),
        ),
        (without("content-type"), refused(415, 3, r#"invalid gRPC request content-type """#)),
        (with("content-type", "application/grpc+proto"), Ended::Served),
        (with("content-type", "application/grpc;x"), Ended::Served),
        (and("content-type", "text/plain"), Ended::Served),
        (with("te", "gzip"), Ended::Served),
        (without("te"), Ended::Served),
        (and("keep-alive", "1"), Ended::Served),
        (and("transfer-encoding", "chunked"), Ended::Served),
        (and("content-length", "1"), Ended::Served),
        (
            and("x-bin", "%%%"),
            refused(
                400,
                13,
                r#"malformed binary metadata "%%%" in header "x-bin": illegal base64 data at input byte 0"#,
            ),
        ),
        (
            and("grpc-encoding", "deflate"),
            refused(200, 12, r#"grpc: Decompressor is not installed for grpc-encoding "deflate""#),
        ),
        (and("grpc-encoding", "identity"), Ended::Served),
        (and("connection", "close"), Ended::Reset),
        (and(":path", "/"), Ended::Reset),
        (and(":strange", "x"), Ended::Reset),
        (and(":status", "200"), Ended::Reset),
        (and("Upper", "x"), Ended::Reset),
        (and("a b", "x"), Ended::Reset),
        (and("x", "a\u{1}b"), Ended::Reset),
        (and("x", "a\nb"), Ended::Reset),
        (and("retcd-path", "x"), Ended::Served),
    ];
    for mut wire in both_ports().await {
        for (fields, expected) in &cases {
            assert_eq!(wire.call(fields, &message(&[])).await, *expected, "{fields:?}");
        }
        wire.serves(&CALL, "the same connection").await;
    }
}

#[tokio::test]
async fn a_request_may_have_a_megabyte_of_headers() {
    let value = "v".repeat(4000);
    let many: Vec<(String, String)> = (0..400).map(|n| (format!("x{n}"), value.clone())).collect();
    let many = many.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let large = "v".repeat(1 << 20);
    for mut wire in both_ports().await {
        wire.serves(&[&CALL[..], &[("x", &large)]].concat(), "one large").await;
        wire.serves(&CALL.into_iter().chain(many.clone()).collect::<Vec<_>>(), "many").await;
        // What is too large costs the request, whether it is the first of its connection or not.
        let too_large = "v".repeat(limits::HEADER_LIST_BYTES as usize);
        let ended = wire.call(&[&CALL[..], &[("x", &too_large)]].concat(), &message(&[])).await;
        assert_eq!(ended, Ended::Refused { http: 431, code: 0, text: String::new() });
        wire.serves(&[&CALL[..], &[("te", "odd")]].concat(), "rewritten from here on").await;
        let ended = wire.call(&[&CALL[..], &[("x", &too_large)]].concat(), &message(&[])).await;
        assert_eq!(ended, Ended::Reset);
        wire.serves(&CALL, "the same connection").await;
    }
}

/// 3000 of each kind; our HTTP/2 by itself takes 1024 of some, for as long as the connection lives.
#[tokio::test]
async fn refused_requests_do_not_cost_the_connection() {
    for mut wire in both_ports().await {
        let too_large = [0, 0xff, 0xff, 0xff, 0xff, 1];
        let text =
            format!("grpc: received message larger than max ({} vs. {})", u32::MAX, wire.message_bytes_max());
        let refused = Ended::Refused { http: 200, code: 8, text };
        for _ in 0..3000 {
            let stream = wire.open(&CALL).await;
            wire.data(stream, false, &too_large).await;
            assert_eq!(wire.ended(stream).await, refused);
            // This was on its way. All together it is more than the window of the connection.
            wire.data(stream, false, &[7; 8000]).await;
        }
        for fields in [[&CALL[..], &[("connection", "close")]].concat(), [&CALL[..], &[("A", "b")]].concat()]
        {
            for _ in 0..3000 {
                let stream = wire.open(&fields).await;
                wire.data(stream, false, &[0; 20]).await;
                assert_eq!(wire.ended(stream).await, Ended::Reset);
                wire.data(stream, false, &[]).await;
            }
        }
        wire.serves(&CALL, "the same connection").await;
    }
}

/// They come together when this process, or the client's, stood still for a while.
#[tokio::test]
async fn requests_that_were_given_up_do_not_cost_the_connection() {
    for mut wire in both_ports().await {
        let mut frames = Vec::new();
        for _ in 0..20_000 {
            wire.write_given_up(&mut frames);
        }
        wire.write(&frames).await;
        wire.serves(&CALL, "the same connection").await;
    }
}

/// A client could otherwise make this process collect what it has to tell it.
#[tokio::test]
async fn a_client_that_takes_nothing_is_not_read_any_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let (stream, _) = listener.accept().await.expect("a connection");
    let calls = Calls::new(Load::new());
    let pings = PingPolicy { interval_min: Duration::ZERO, without_calls: true };
    let flood = Flood::new(pings, limits::HTTP2_VOID_FRAMES, clock::now());
    let inbound = Inbound::new(true, flood, calls.clone());
    let mut socket = Socket::new(Io::tcp(stream), inbound, calls, None, None);

    // Until neither side's buffers take more.
    while futures_util::poll!(std::future::poll_fn(|cx| Pin::new(&mut socket).poll_write(cx, &[0; 65_536])))
        .is_ready()
    {
        tokio::task::yield_now().await;
    }
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let pings = 3 * limits::HTTP2_FRAMES_UNANSWERED as usize;
    frames.extend(ping.repeat(pings));
    let length = frames.len();
    let (mut from_server, mut to_server) = client.split();
    let mut received = 0;
    to_server.write_all(&frames).await.expect("the kernel takes it");
    while received < length && read(&mut socket, &mut received).await {}
    assert!(received < length / 2, "{received} of {length} bytes were read");

    // Once the client takes something again, so does the server.
    let mut drained = vec![0; 1 << 20];
    loop {
        tokio::select! {
            read = from_server.read(&mut drained) => drop(read.expect("there is something")),
            _ = std::future::poll_fn(|cx| Pin::new(&mut socket).poll_write(cx, b"more")) => break,
        }
    }
    while received < length {
        assert!(read(&mut socket, &mut received).await, "the rest is read");
    }
}

/// Reads a piece, unless the client is not read any more.
async fn read(socket: &mut Socket, received: &mut usize) -> bool {
    std::future::poll_fn(|cx| {
        let mut buffer = [0; 4096];
        let mut buffer = ReadBuf::new(&mut buffer);
        let read = Pin::new(&mut *socket).poll_read(cx, &mut buffer);
        *received += buffer.filled().len();
        match read {
            Poll::Ready(result) => Poll::Ready(result.is_ok()),
            Poll::Pending if socket.is_choked() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
