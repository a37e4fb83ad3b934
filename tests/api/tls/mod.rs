//! TLS: who is let in, who is refused and with which words, and that files may change while the server runs.

mod client;
mod revoked;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use self::client::TlsClient;
use crate::{
    certificates::{Authority, Pair, Subject},
    raw,
    server::{Launch, PATIENCE, Server, free_port},
    tools::{Release, Seen, patient},
};

const HERE: &str = "IP:127.0.0.1,DNS:localhost";
const GET: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A port of the server under test, and how one finds out whether it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Grpc,
    Http,
    Metrics,
    Peer,
}

const PORTS: [Port; 4] = [Port::Grpc, Port::Http, Port::Metrics, Port::Peer];

/// A server with TLS on all of its ports.
struct Guarded {
    server: Server,
    ports: Ports,
}

/// The numbers of its ports.
#[derive(Clone, Copy)]
struct Ports {
    grpc: u16,
    http: u16,
    metrics: u16,
    peer: u16,
}

impl Ports {
    fn number(self, port: Port) -> u16 {
        match port {
            Port::Grpc => self.grpc,
            Port::Http => self.http,
            Port::Metrics => self.metrics,
            Port::Peer => self.peer,
        }
    }

    /// Whether a client with this certificate is served. The error is what the client noticed.
    fn serves(self, port: Port, trusted: &[&Authority], own: Option<&Pair>) -> Result<(), String> {
        let (protocol, request) = match port {
            Port::Grpc | Port::Peer => ("h2", raw::greeting()),
            Port::Http | Port::Metrics => ("http/1.1", GET.to_vec()),
        };
        let answer = TlsClient::new(trusted, own, protocol).ask(self.number(port), &request)?;
        match port {
            // The first frame of a server of HTTP/2 is its settings.
            Port::Grpc | Port::Peer => assert_eq!(answer.get(3), Some(&raw::SETTINGS), "{answer:?}"),
            Port::Http | Port::Metrics => assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{answer:?}"),
        }
        Ok(())
    }
}

impl Guarded {
    fn start(authority: &Authority, own: &Pair, flags: &[(&str, String)]) -> Guarded {
        let (http, metrics) = (free_port(), free_port());
        let mut launch = Launch::subject()
            .flag("listen-client-http-urls", format!("https://127.0.0.1:{http}"))
            .flag("listen-metrics-urls", format!("https://127.0.0.1:{metrics}"));
        for prefix in ["", "peer-"] {
            launch = launch
                .flag(&format!("{prefix}cert-file"), own.cert.display())
                .flag(&format!("{prefix}key-file"), own.key.display())
                .flag(&format!("{prefix}client-cert-auth"), true)
                .flag(&format!("{prefix}trusted-ca-file"), authority.cert().display());
        }
        for (name, value) in flags {
            launch = launch.flag(name, value);
        }
        let mut server = launch.prepare();
        for (name, port) in [("client", server.client_port), ("peer", server.peer_port)] {
            let advertise = if name == "peer" { "initial-advertise" } else { "advertise" };
            server.set_flag(&format!("listen-{name}-urls"), format!("https://127.0.0.1:{port}"));
            server.set_flag(&format!("{advertise}-{name}-urls"), format!("https://127.0.0.1:{port}"));
        }
        server.set_flag("initial-cluster", format!("default=https://127.0.0.1:{}", server.peer_port));
        server.start();
        let ports = Ports { grpc: server.client_port, http, metrics, peer: server.peer_port };
        Guarded { server, ports }
    }

    fn number(&self, port: Port) -> u16 {
        self.ports.number(port)
    }

    fn serves(&self, port: Port, trusted: &[&Authority], own: Option<&Pair>) -> Result<(), String> {
        self.ports.serves(port, trusted, own)
    }

    /// Asks the port for HTTP with `curl` and this certificate. Returns the status and the body.
    fn curl(&self, authority: &Authority, pair: &Pair, arguments: &[&str], path: &str) -> (u16, String) {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--write-out", "\n%{http_code}", "--cacert"])
            .arg(authority.cert())
            .arg("--cert")
            .arg(&pair.cert)
            .arg("--key")
            .arg(&pair.key)
            .args(arguments)
            .arg(format!("https://127.0.0.1:{}{path}", self.ports.http))
            .output()
            .expect("curl is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("the status is in a line of its own");
        (status.parse::<u16>().unwrap_or_else(|_| panic!("{output:?}")), body.to_owned())
    }

    /// Runs etcdctl with this certificate; it trusts the servers of the authority.
    fn etcdctl(&self, release: Release, authority: &Authority, pair: &Pair, command: &[&str]) -> Seen {
        let files = [("cacert", authority.cert()), ("cert", pair.cert.clone()), ("key", pair.key.clone())];
        let files = files.map(|(name, path)| format!("--{name}={}", path.display()));
        let endpoint = format!("--endpoints=https://127.0.0.1:{}", self.server.client_port);
        let mut arguments = vec![&*endpoint];
        arguments.extend(files.iter().map(String::as_str));
        arguments.extend(command);
        etcdctl(release, &arguments)
    }

    /// Waits for a line about a refused connection after the first `known` lines.
    fn wait_for_refusal(&self, port: Port, known: usize, words: &str) {
        let endpoint = if port == Port::Peer { "peer" } else { "client" };
        wait_for_line(&self.server, known, &[&format!("rejected connection on {endpoint} endpoint"), words]);
    }
}

fn wait_for_line(server: &Server, known: usize, words: &[&str]) {
    let since = Instant::now();
    loop {
        let log = server.log();
        if log.iter().skip(known).any(|line| words.iter().all(|words| line.contains(words))) {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "no line says {words:?} in {:#?}", &log[known..]);
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn only_the_right_certificate_is_let_in_at_every_port() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("other"));
    let own = authority.issue("server");
    let of = |label: &str, name: &str, hosts: &str, valid: (&str, &str)| {
        authority.issue_for(label, &Subject { name, hosts, valid })
    };
    let good = authority.issue("good");
    let expired = of("expired", "good", HERE, ("20200101000000Z", "20210101000000Z"));
    let early = of("early", "good", HERE, ("20990101000000Z", "20991231000000Z"));
    let elsewhere = of("elsewhere", "good", "IP:10.9.9.9", ("", ""));
    let misnamed = of("misnamed", "bad", HERE, ("", ""));
    let revoked = authority.issue_for("revoked", &Subject { name: "good", hosts: HERE, valid: ("", "") });
    let list = authority.revoke(&revoked).display().to_string();
    let foreign = stranger.issue("good");
    let guarded = Guarded::start(
        &authority,
        &own,
        &[
            ("client-crl-file", list.clone()),
            ("peer-crl-file", list),
            ("client-cert-allowed-cn", "good".to_owned()),
            ("peer-cert-allowed-cn", "good,server".to_owned()),
        ],
    );
    for port in PORTS {
        assert_eq!(guarded.serves(port, &[&authority], Some(&good)), Ok(()), "{port:?}");
    }
    let open = guarded.server.open_files();
    let cases = [
        (Some(&expired), "certificate has expired or is not yet valid: current time"),
        (Some(&early), "certificate has expired or is not yet valid: current time"),
        (Some(&foreign), "certificate signed by unknown authority"),
        (Some(&misnamed), "client certificate authentication failed"),
        (Some(&revoked), "revoked"),
        (None, "client didn't provide a certificate"),
    ];
    for port in PORTS {
        for (own, words) in cases {
            let known = guarded.server.log().len();
            let refused = guarded.serves(port, &[&authority], own);
            assert!(refused.is_err(), "{port:?} serves {own:?}");
            guarded.wait_for_refusal(port, known, words);
        }
        // Only etcd's port for gRPC and HTTP does not look where a certificate is from.
        let known = guarded.server.log().len();
        let from_elsewhere = guarded.serves(port, &[&authority], Some(&elsewhere));
        match port {
            Port::Grpc | Port::Http => assert_eq!(from_elsewhere, Ok(()), "{port:?}"),
            Port::Metrics | Port::Peer => {
                assert!(from_elsewhere.is_err(), "{port:?} serves a certificate of another address");
                guarded.wait_for_refusal(port, known, "certificate is valid for 10.9.9.9, not 127.0.0.1");
            }
        }
        // In plaintext.
        let known = guarded.server.log().len();
        let mut plain = TcpStream::connect(("127.0.0.1", guarded.number(port))).expect("it listens");
        plain.write_all(GET).expect("sent");
        plain.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let read = plain.read(&mut [0; 100]).unwrap_or(0);
        assert_eq!(read, 0, "{port:?} answers in plaintext");
        guarded.wait_for_refusal(port, known, "first record does not look like a TLS handshake");
        // TLS 1.1, which no library of today speaks unless it is told to.
        let known = guarded.server.log().len();
        let old = Command::new("openssl")
            .args(["s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-connect"])
            .arg(format!("127.0.0.1:{}", guarded.number(port)))
            .stdin(Stdio::null())
            .output()
            .expect("openssl is installed");
        assert!(!old.status.success(), "{port:?} speaks TLS 1.1");
        guarded.wait_for_refusal(port, known, "client offered only unsupported versions");
    }
    for port in PORTS {
        assert_eq!(guarded.serves(port, &[&authority], Some(&good)), Ok(()), "{port:?}");
    }
    wait_for_files(&guarded.server, open);
}

/// Waits until the server has no more files and connections open than these.
fn wait_for_files(server: &Server, count: usize) {
    let since = Instant::now();
    while server.open_files() > count {
        assert!(since.elapsed() < PATIENCE, "{} files are open, and {count} were", server.open_files());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_host_name_of_clients_and_peers_can_be_asked_for() {
    let authority = Authority::new("ca");
    let host = |name: &str| {
        authority
            .issue_for(name, &Subject { name, hosts: &format!("DNS:{name},IP:127.0.0.1"), valid: ("", "") })
    };
    let (own, good, bad) = (host("localhost"), host("a.example.com"), host("b.example.com"));
    let names = "a.example.com,localhost".to_owned();
    let flags = [("client-cert-allowed-hostname", names.clone()), ("peer-cert-allowed-hostname", names)];
    let guarded = Guarded::start(&authority, &own, &flags);
    for port in PORTS {
        assert_eq!(guarded.serves(port, &[&authority], Some(&good)), Ok(()), "{port:?}");
        let known = guarded.server.log().len();
        assert!(guarded.serves(port, &[&authority], Some(&bad)).is_err(), "{port:?}");
        guarded.wait_for_refusal(port, known, "client certificate authentication failed");
    }
}

#[test]
fn a_handshake_that_is_not_finished_does_not_stay() {
    let authority = Authority::new("ca");
    let own = authority.issue("server");
    let guarded = Guarded::start(&authority, &own, &[]);
    for port in PORTS {
        assert_eq!(guarded.serves(port, &[&authority], Some(&own)), Ok(()), "{port:?}");
    }
    let open = guarded.server.open_files();
    // Nothing, the beginning of a record, and a handshake without a request.
    let mut stuck = Vec::new();
    for port in PORTS {
        for bytes in [&b""[..], &[22, 3, 1, 2, 0]] {
            let mut stream = TcpStream::connect(("127.0.0.1", guarded.number(port))).expect("it listens");
            stream.write_all(bytes).expect("sent");
            stuck.push((port, stream));
        }
    }
    let mut idle = TlsClient::new(&[&authority], Some(&own), "h2").connect(guarded.server.client_port);
    let idle = idle.as_mut().expect("a connection");
    while idle.conn.is_handshaking() {
        idle.conn.complete_io(&mut idle.sock).expect("the handshake is completed");
    }
    let since = Instant::now();
    assert_eq!(guarded.serves(Port::Grpc, &[&authority], Some(&own)), Ok(()), "others are served meanwhile");
    for (port, stream) in &mut stuck {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0, "{port:?} has nothing to say");
    }
    let took = since.elapsed();
    assert!(took > Duration::from_secs(5), "they had time, and not {took:?}");
    guarded.wait_for_refusal(Port::Peer, 0, "no complete TLS handshake within 10 s");
    guarded.wait_for_refusal(Port::Grpc, 0, "no complete TLS handshake within 10 s");
    assert!(matches!(idle.read(&mut [0; 100]), Ok(_) | Err(_)), "it is told the settings, or closed");
    wait_for_files(&guarded.server, open);
}

#[test]
fn tls_at_a_port_for_plaintext_is_told() {
    let authority = Authority::new("ca");
    let server = Launch::subject().start();
    for (port, endpoint) in [(server.client_port, "client"), (server.peer_port, "peer")] {
        let asked = TlsClient::new(&[&authority], None, "h2").ask(port, &raw::greeting());
        assert!(asked.is_err(), "there is no TLS there");
        let endpoint = format!("rejected connection on {endpoint} endpoint");
        wait_for_line(&server, 0, &[&endpoint, "TLS handshake on a port for plaintext"]);
    }
}

#[test]
fn both_schemes_can_be_served_on_one_port() {
    let authority = Authority::new("ca");
    let own = authority.issue("server");
    let mut server =
        Launch::subject().flag("cert-file", own.cert.display()).flag("key-file", own.key.display()).prepare();
    let port = server.client_port;
    server.set_flag("listen-client-urls", format!("http://127.0.0.1:{port},https://127.0.0.1:{port}"));
    server.start();
    assert_eq!(crate::http::get(port, "/health").status, 200);
    let client = TlsClient::new(&[&authority], None, "http/1.1");
    let answer = client.ask(port, GET).expect("it is answered");
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{answer:?}");
    for scheme in ["http", "https"] {
        let endpoint = format!("{scheme}://127.0.0.1:{port}");
        let ca = format!("--cacert={}", authority.cert().display());
        let seen = etcdctl(Release::V35, &[&format!("--endpoints={endpoint}"), &ca, "put", "a", "b"]);
        assert_eq!((seen.code, &*seen.stdout), (Some(0), "OK\n"), "{seen:?}");
    }
    let log = server.log().join("\n");
    assert!(log.contains("serving client traffic securely"), "{log}");
    assert!(log.contains("serving client traffic insecurely"), "{log}");
}

#[test]
fn both_schemes_can_be_served_on_one_unix_socket() {
    let authority = Authority::new("ca");
    let own = authority.issue("server");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("c.sock");
    let path = socket.display();
    let _server = Launch::subject()
        .flag("cert-file", own.cert.display())
        .flag("key-file", own.key.display())
        .flag("listen-client-urls", format!("unix://{path},unixs://{path}"))
        .start();
    for scheme in ["http", "https"] {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--cacert"])
            .arg(authority.cert())
            .arg("--unix-socket")
            .arg(&socket)
            .arg(format!("{scheme}://localhost/version"))
            .output()
            .expect("curl is installed");
        assert!(String::from_utf8_lossy(&output.stdout).contains("etcdserver"), "{scheme}: {output:?}");
    }
}

/// Over HTTP/2, which a client can ask for with TLS, the content type tells gRPC from the rest.
#[test]
fn curl_gets_the_endpoints_over_each_version_of_http() {
    let authority = Authority::new("ca");
    let own = authority.issue("server");
    let mut server = Launch::subject()
        .flag("cert-file", own.cert.display())
        .flag("key-file", own.key.display())
        .flag("host-whitelist", "nobody")
        .prepare();
    let url = format!("https://127.0.0.1:{}", server.client_port);
    server.set_flag("listen-client-urls", &url);
    server.start();
    for version in ["--http1.1", "--http2"] {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--include", version, "--cacert"])
            .arg(authority.cert())
            .arg(format!("{url}/version?a=b%20c"))
            .output()
            .expect("curl is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(" 200") && text.contains("\"etcdserver\":"), "{version}: {output:?}");
    }
}

fn etcdctl(release: Release, arguments: &[&str]) -> Seen {
    let mut command = Command::new(release.etcdctl());
    command.env_clear().env("ETCDCTL_API", "3").args(arguments).stdin(Stdio::null());
    patient(&mut command);
    Seen::of(&command.output().expect("etcdctl starts"))
}

#[test]
fn etcdctl_of_each_release_connects_with_its_certificate() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("other"));
    let own = authority.issue("server");
    let (client, foreign) = (authority.issue("client"), stranger.issue("client"));
    let guarded = Guarded::start(&authority, &own, &[]);
    for release in Release::of_etcdctl() {
        let run = |ca: &Authority, pair: &Pair, command: &[&str]| {
            let command = [&["--dial-timeout=5s", "--command-timeout=5s"], command].concat();
            guarded.etcdctl(release, ca, pair, &command)
        };
        let put = run(&authority, &client, &["put", "key", "value"]);
        assert_eq!((put.code, &*put.stdout), (Some(0), "OK\n"), "{release:?}: {put:?}");
        let get = run(&authority, &client, &["get", "key"]);
        assert_eq!((get.code, &*get.stdout), (Some(0), "key\nvalue\n"), "{release:?}: {get:?}");
        let health = run(&authority, &client, &["endpoint", "health"]);
        assert_eq!(health.code, Some(0), "{release:?}: {health:?}");
        for refused in [run(&authority, &foreign, &["get", "key"]), run(&stranger, &client, &["get", "key"])]
        {
            assert_ne!(refused.code, Some(0), "{release:?}: {refused:?}");
        }
    }
}

/// With `--client-cert-auth` the common name of a certificate is that of a user; a token wins over it.
#[test]
fn the_name_in_a_certificate_is_that_of_a_user() {
    let authority = Authority::new("ca");
    let own = authority.issue("server");
    let certificate = |name| authority.issue(name);
    let (root, guest, stranger) = (certificate("root"), certificate("guest"), certificate("stranger"));
    let guarded = Guarded::start(&authority, &own, &[]);
    let run = |pair: &Pair, command: &[&str]| guarded.etcdctl(Release::V35, &authority, pair, command);
    let done = |pair: &Pair, command: &[&str]| {
        let seen = run(pair, command);
        assert_eq!(seen.code, Some(0), "{command:?}: {seen:?}");
    };
    for command in [
        &["put", "key", "value"][..],
        &["user", "add", "root", "--no-password"],
        &["user", "add", "guest", "--no-password"],
        &["user", "add", "writer:secret"],
        &["role", "add", "read"],
        &["role", "add", "write"],
        &["role", "grant-permission", "read", "read", "key"],
        &["role", "grant-permission", "write", "write", "key"],
        &["user", "grant-role", "root", "root"],
        &["user", "grant-role", "guest", "read"],
        &["user", "grant-role", "writer", "write"],
        &["auth", "enable"],
    ] {
        done(&root, command);
    }
    done(&root, &["put", "key", "by root"]);
    done(&guest, &["get", "key"]);
    done(&guest, &["--user=writer:secret", "put", "key", "by writer"]);
    for (pair, command) in [
        (&guest, &["put", "key", "by guest"][..]),
        (&guest, &["get", "other"]),
        (&guest, &["--user=writer:secret", "get", "key"]),
        (&stranger, &["get", "key"]),
    ] {
        let seen = run(pair, command);
        assert!(seen.code != Some(0) && seen.stderr.contains("permission denied"), "{command:?}: {seen:?}");
    }
}

/// A call in JSON is never made by the user of a certificate; as in etcd it is refused, so that nobody expects that.
#[test]
fn json_with_a_certificate_of_a_user_is_refused_while_authentication_is_enabled() {
    let authority = Authority::new("ca");
    let own = authority.issue("server");
    let root = authority.issue("root");
    let nameless =
        authority.issue_for("nameless", &Subject { name: "", hosts: "DNS:localhost", valid: ("", "") });
    let guarded = Guarded::start(&authority, &own, &[]);
    let curl = |version: &str, pair: &Pair, arguments: &[&str], path: &str| {
        guarded.curl(&authority, pair, &[&[version], arguments].concat(), path)
    };
    let token = |answer: &str| {
        let answer: serde_json::Value = serde_json::from_str(answer).expect("it is JSON");
        answer["token"].as_str().expect("a token").to_owned()
    };
    let refused = "CommonName of client sending a request against gateway will be ignored and not used as \
                   expected\n";
    let post = |body: &'static str| ["--data", body];
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"canary-root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        assert_eq!(curl("--http1.1", &root, &post(body), path).0, 200, "{path}");
    }
    let login = post(r#"{"name":"root","password":"canary-root"}"#);
    let mine = token(&curl("--http1.1", &nameless, &login, "/v3/auth/authenticate").1);
    let header = format!("Authorization: {mine}");
    for version in ["--http1.1", "--http2"] {
        let ask = |pair: &Pair, path: &str| {
            curl(version, pair, &["--data", r#"{"key":"YQ=="}"#, "--header", &header], path)
        };
        for path in ["/v3/kv/range", "/v3beta/kv/range", "/v3/nothing", "/v3/"] {
            assert_eq!(ask(&root, path), (400, refused.to_owned()), "{version} {path}, with a token");
        }
        let preflight = curl(version, &root, &["--request", "OPTIONS"], "/v3/kv/range");
        assert_eq!(preflight, (400, refused.to_owned()), "{version}");
        assert_eq!(ask(&nameless, "/v3/kv/range").0, 200, "{version}: a token is enough");
        let (status, answer) = curl(version, &nameless, &post(r#"{"key":"YQ=="}"#), "/v3/kv/range");
        assert!(status == 400 && answer.contains("user name is empty"), "{version}: {status} {answer}");
        assert_eq!(curl(version, &root, &[], "/version").0, 200, "{version}");
    }
    assert_eq!(
        curl("--http1.1", &nameless, &["--data", "{}", "--header", &header], "/v3/auth/disable").0,
        200
    );
    assert_eq!(curl("--http2", &root, &post(r#"{"key":"YQ=="}"#), "/v3/kv/range").0, 200);
}

/// In the version 2 API the user that a certificate names is the user, too, unless a password says otherwise.
#[test]
fn the_name_in_a_certificate_is_that_of_a_user_of_version_2() {
    let authority = Authority::new("ca");
    let own = authority.issue("server");
    let (root, guest) = (authority.issue("root"), authority.issue("guest"));
    let guarded = Guarded::start(&authority, &own, &[("enable-v2", "true".to_owned())]);
    let put = |pair: &Pair, path: &str, arguments: &[&str]| {
        let arguments = [&["--request", "PUT"], arguments].concat();
        guarded.curl(&authority, pair, &arguments, path).0
    };
    let key = |pair: &Pair, arguments: &[&str]| {
        put(pair, "/v2/keys/a", &[&["--data", "value=1"], arguments].concat())
    };
    let json = ["--header", "Content-Type: application/json", "--data"];
    let user = |name: &str| format!(r#"{{"user":"{name}","password":"canary-{name}"}}"#);
    for name in ["root", "guest"] {
        let user = user(name);
        assert_eq!(put(&root, &format!("/v2/auth/users/{name}"), &[&json[..], &[&user]].concat()), 201);
    }
    assert_eq!(put(&root, "/v2/auth/enable", &["--user", "root:canary-root"]), 200);
    let guests = r#"{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}"#;
    assert_eq!(put(&root, "/v2/auth/roles/guest", &[&json[..], &[guests]].concat()), 200, "as root");
    assert_eq!(key(&root, &[]), 201);
    assert_eq!(key(&guest, &[]), 401);
    assert_eq!(key(&root, &["--user", "guest:canary-guest"]), 401, "the password counts");
    assert_eq!(key(&guest, &["--user", "root:canary-root"]), 200);
}

#[test]
fn a_certificate_can_be_generated() {
    let mut server = Launch::subject().flag("auto-tls", true).flag("peer-auto-tls", true).prepare();
    let url = format!("https://127.0.0.1:{}", server.client_port);
    let peer_url = format!("https://127.0.0.1:{}", server.peer_port);
    for (name, value) in [
        ("listen-client-urls", url.clone()),
        ("advertise-client-urls", url.clone()),
        ("listen-peer-urls", peer_url.clone()),
        ("initial-advertise-peer-urls", peer_url.clone()),
        ("initial-cluster", format!("default={peer_url}")),
    ] {
        server.set_flag(name, value);
    }
    server.start();
    let cert = server.data_dir().join("fixtures/client/cert.pem");
    let first = fs::read(&cert).expect("it is where etcd has it");
    server.restart();
    assert_eq!(fs::read(&cert).expect("it is kept"), first);
    for release in Release::of_etcdctl() {
        let ca = format!("--cacert={}", cert.display());
        let seen = etcdctl(release, &[&format!("--endpoints={url}"), &ca, "put", "a", "b"]);
        assert_eq!((seen.code, &*seen.stdout), (Some(0), "OK\n"), "{release:?}: {seen:?}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named_at_the_start() {
    let authority = Authority::new("ca");
    let (own, other) = (authority.issue("server"), authority.issue("other"));
    let none = authority.file("none");
    let (cert, key, ca) = (own.cert.clone(), own.key.clone(), authority.cert());
    for (cert, key, ca, words) in [
        (&none, &key, &ca, "cannot read the certificate"),
        (&cert, &none, &ca, "cannot read the key"),
        (&cert, &other.key, &ca, "does not belong to the certificate"),
        (&cert, &cert, &ca, "it is not a key in PEM"),
        (&key, &key, &ca, "has nothing of that kind in PEM"),
        (&cert, &key, &none, "cannot read the file of CAs"),
        (&cert, &key, &key, "has nothing of that kind in PEM"),
    ] {
        let mut server = Launch::subject()
            .flag("cert-file", cert.display())
            .flag("key-file", key.display())
            .flag("trusted-ca-file", ca.display())
            .prepare();
        let url = format!("https://127.0.0.1:{}", server.client_port);
        server.set_flag("listen-client-urls", url);
        let ended = server.start_refused();
        assert_eq!(ended.status.code(), Some(1));
        assert!(ended.log.iter().any(|line| line.contains(words)), "{words}: {:#?}", ended.log);
    }
}

/// What Go's library accepts and others do not: a certificate of X.509's first version, as `openssl x509 -req` makes
/// them, and one self-signed certificate for everything.
#[test]
fn certificates_that_only_go_accepts_are_accepted() {
    let authority = Authority::new("ca");
    let own = authority.issue("server");
    authority.openssl(&[
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "v1.key", "-out", "v1.csr", "-subj",
        "/CN=v1",
    ]);
    authority.openssl(&[
        "x509",
        "-req",
        "-in",
        "v1.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-set_serial",
        "77",
        "-days",
        "9",
        "-out",
        "v1.crt",
    ]);
    let pair = Pair { cert: authority.file("v1.crt"), key: authority.file("v1.key") };
    for version in ["TLS1.2", "TLS1.3"] {
        let guarded = Guarded::start(&authority, &own, &[("tls-max-version", version.to_owned())]);
        let seen = guarded.etcdctl(Release::V35, &authority, &pair, &["put", "a", "b"]);
        assert_eq!(seen.code, Some(0), "{version}: {seen:?}");
    }
    // The authority's own certificate, for the server and for its clients.
    sign_itself(&authority, &[]);
    let all = Pair { cert: authority.cert(), key: authority.file("ca.key") };
    let guarded = Guarded::start(&authority, &all, &[]);
    let seen = guarded.etcdctl(Release::V35, &authority, &all, &["put", "a", "b"]);
    assert_eq!(seen.code, Some(0), "{seen:?}");
}

/// Puts another certificate in the place of the authority's own, for this machine and signed by itself.
fn sign_itself(authority: &Authority, more: &[&str]) {
    let common = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
        "-days",
        "9",
        "-subj",
        "/CN=itself",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ];
    authority.openssl(&[&common[..], more].concat());
}

/// A certificate in the file of CAs that is not one of a CA is trusted itself, and nobody whom it has signed.
#[test]
fn a_trusted_certificate_that_is_no_ca_cannot_sign_others() {
    let authority = Authority::new("ca");
    // The configuration of the authority does not say that it is one.
    sign_itself(&authority, &["-config", "config", "-addext", "basicConstraints=critical,CA:FALSE"]);
    let pinned = Pair { cert: authority.cert(), key: authority.file("ca.key") };
    let signed = authority.issue("signed");
    let guarded = Guarded::start(&authority, &pinned, &[]);
    assert_eq!(guarded.serves(Port::Http, &[&authority], Some(&pinned)), Ok(()));
    for port in PORTS {
        let known = guarded.server.log().len();
        assert!(guarded.serves(port, &[&authority], Some(&signed)).is_err(), "{port:?}");
        guarded.wait_for_refusal(port, known, "certificate signed by unknown authority");
    }
}

/// Certificate, key, CAs and revoked ones are replaced while clients connect all the time: none of those that are
/// welcome before and after is refused at any time.
#[test]
fn files_are_read_again_without_a_restart_and_without_a_lost_connection() {
    let (old, new) = (Arc::new(Authority::new("old")), Arc::new(Authority::new("new")));
    let files = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| files.path().join(name);
    // As tools that renew certificates do it: written aside, and renamed.
    let put = |from: &std::path::Path, name: &str| {
        fs::copy(from, path("draft")).expect("copied");
        fs::rename(path("draft"), path(name)).expect("renamed");
    };
    let (first, second) = (old.issue("first"), new.issue("second"));
    let (welcome, victim, newcomer) = (old.issue("welcome"), old.issue("victim"), new.issue("newcomer"));
    put(&first.cert, "cert");
    put(&first.key, "key");
    put(&old.cert(), "ca");
    put(&old.empty_list(), "crl");
    let own = Pair { cert: path("cert"), key: path("key") };
    let list = path("crl").display().to_string();
    let guarded = Guarded::start(
        &old,
        &own,
        &[
            ("client-crl-file", list.clone()),
            ("peer-crl-file", list),
            ("trusted-ca-file", path("ca").display().to_string()),
            ("peer-trusted-ca-file", path("ca").display().to_string()),
        ],
    );
    let serves = |port, pair: &Pair| guarded.serves(port, &[&old, &new], Some(pair));
    let until = |what: &str, is_so: &dyn Fn() -> bool| {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < PATIENCE, "{what} is not so");
            thread::sleep(Duration::from_millis(20));
        }
    };
    let is_over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = PORTS
        .into_iter()
        .map(|port| {
            let (ports, is_over, served) = (guarded.ports, is_over.clone(), served.clone());
            let (old, new, welcome) = (old.clone(), new.clone(), welcome.clone());
            thread::spawn(move || {
                while !is_over.load(Ordering::SeqCst) {
                    ports.serves(port, &[&old, &new], Some(&welcome)).expect("it is welcome all the time");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    // A long-lived connection, with a request before every change and after it.
    let mut lasting =
        TlsClient::new(&[&old], Some(&welcome), "http/1.1").connect(guarded.ports.http).expect("open");
    let mut ask = || {
        lasting.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
        let count = lasting.read(&mut [0; 4096]).expect("answered");
        assert!(count > 0, "the connection was closed");
    };
    ask();
    for port in PORTS {
        assert!(serves(port, &newcomer).is_err(), "{port:?}");
        assert_eq!(serves(port, &victim), Ok(()), "{port:?}");
    }
    // Only one of the pair: it does not belong to the other.
    let known = guarded.server.log().len();
    put(&second.cert, "cert");
    wait_for_line(&guarded.server, known, &["those read before stay in use", "does not belong to"]);
    ask();
    put(&second.key, "key");
    let shown = |ca: &Authority| guarded.serves(Port::Grpc, &[ca], Some(&welcome)).is_ok();
    until("the new certificate is shown", &|| shown(&new) && !shown(&old));
    // Another CA.
    fs::write(
        path("both"),
        [fs::read(old.cert()).expect("read"), fs::read(new.cert()).expect("read")].concat(),
    )
    .expect("written");
    put(&path("both"), "ca");
    for port in PORTS {
        until("the new CA is trusted", &|| serves(port, &newcomer).is_ok());
    }
    // A broken file.
    let known = guarded.server.log().len();
    fs::write(path("broken"), "broken").expect("written");
    put(&path("broken"), "crl");
    wait_for_line(&guarded.server, known, &["those read before stay in use", "list of revoked certificates"]);
    put(&old.revoke(&victim), "crl");
    for port in PORTS {
        until("the victim is refused", &|| serves(port, &victim).is_err());
        assert_eq!(serves(port, &newcomer), Ok(()), "{port:?}");
    }
    ask();
    is_over.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("it was served all the time");
    }
    assert!(served.load(Ordering::SeqCst) > PORTS.len(), "clients were served meanwhile");
}
