//! Input that is broken, too deep, too large, or for nobody.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
};

use crate::{
    http::request,
    server::{Launch, PATIENCE, serve, subject_is_retcd},
};

const MIB: usize = 1024 * 1024;
const CONNECTIONS: usize = 40;
/// What the server may hold while all connections send bodies of 10 MiB: the memory for messages that have not
/// arrived, 192 MiB, and as much again for everything else.
const MEMORY_MAX: usize = 384 * MIB;

#[tokio::test]
async fn input_that_is_bad_in_any_way_is_refused_and_the_server_goes_on() {
    let (server, client) = serve();
    let port = server.client_port;
    let deep = format!("{{\"x\":{}", "[".repeat(20_000));
    let deep_but_whole = format!("{{\"x\":{}{}}}", "[".repeat(9000), "]".repeat(9000));
    let txns = r#"{"success":[{"request_txn":"#;
    let deep_txn = txns.repeat(3000) + "{}" + &"}]}".repeat(3000);
    for (path, body, status, text) in [
        ("/v3/kv/put", "", 400, "etcdserver: key is not provided"),
        ("/v3/kv/put", "{", 400, "unexpected EOF"),
        ("/v3/kv/put", "x", 400, "invalid character 'x' looking for beginning of value"),
        ("/v3/kv/put", r#"{"key":"%"}"#, 400, "invalid value for bytes field key"),
        ("/v3/kv/put", r#"{"key":["Zm9v"]}"#, 400, "invalid value for bytes field key"),
        ("/v3/kv/range", &deep, 400, "exceeded max depth"),
        ("/v3/kv/range", &deep_but_whole, 400, "etcdserver: key is not provided"),
        ("/v3/kv/range", "\u{1}", 400, r"invalid character '\\x01' looking for beginning of value"),
    ] {
        let answer = request(port, "POST", path, body);
        assert!(answer.status == status && answer.body.contains(text), "{body:.50}: {answer:?}");
    }
    if subject_is_retcd() {
        let answer = request(port, "POST", "/v3/kv/txn", &deep_txn);
        assert!(answer.status == 400 && answer.body.contains("too many operations"), "{answer:?}");
    }
    // Ten megabytes: base64, a number of digits, space, and what is no field.
    let ten = 10 * 1024 * 1024;
    for body in [
        format!(r#"{{"key":"{}"}}"#, "A".repeat(ten)),
        format!(r#"{{"limit":{}}}"#, "1".repeat(ten)),
        format!(r#"{{"x":"{}","key":"Zm9v"}}"#, "x".repeat(ten)),
    ] {
        let answer = request(port, "POST", "/v3/kv/range", &body);
        let is_refused = matches!(answer.status, 400 | 429);
        assert!(is_refused || !subject_is_retcd(), "{answer:?}");
    }
    let spaced = format!("{}{{\"key\":\"Zm9v\"}}", " ".repeat(ten));
    assert_eq!(request(port, "POST", "/v3/kv/range", &spaced).status, 200);
    // As large as a put may be, and a little larger.
    let put = |bytes: usize| format!(r#"{{"key":"Zm9v","value":"{}"}}"#, "AAAA".repeat(bytes / 3));
    assert_eq!(request(port, "POST", "/v3/kv/put", &put(1_500_000)).status, 200);
    let answer = request(port, "POST", "/v3/kv/put", &put(1_600_000));
    assert!(answer.body.contains("etcdserver: request is too large"), "{answer:?}");
    let answer = request(port, "POST", "/v3/kv/put", &put(2_200_000));
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.body.contains("received message larger than max (22000"), "{answer:?}");
    assert_eq!(client.get("foo").await.expect("the put that was not too large").value.len(), 1_500_000);
}

/// Method, path, body, and the status of the answer.
type Case = (&'static str, &'static str, String, u16);

fn bad_requests() -> Vec<Case> {
    let long =
        |before: &str, filling: &str, after: &str| format!("{before}{}{after}", filling.repeat(10 * MIB));
    let nested = format!("{{\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    vec![
        ("POST", "/v3/kv/put", nested, 400),
        ("POST", "/v3/kv/put", long("{\"key\":\"", "A", "\"}"), 429),
        ("POST", "/v3/kv/range", long("{\"limit\":", "1", "}"), 429),
        ("POST", "/v3beta/kv/txn", long("{\"x\":\"", "x", "\"}"), 429),
        ("POST", "/v3/watch", long("{\"create_request\":{\"key\":\"", "A", "\"}}"), 429),
        ("POST", "/v3/watch", "{\"create_request\":[".to_owned(), 400),
        ("POST", "/v3/kv/put", "{\"key\":\"%\"}".to_owned(), 400),
        ("POST", "/v3/kv/range", "{\"key\":[1],\"limit\":{}}".to_owned(), 400),
        ("POST", "/v3/kv/nope", long("", "x", ""), 404),
        ("PUT", "/v3/kv/put", long("", "[", ""), 501),
        ("POST", "/health", long("", "x", ""), 405),
    ]
}

/// The status of the answer, from a server that need not read all of the body.
fn status(port: u16, (method, path, body, _): &Case) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the server reads a head");
    let _ = stream.write_all(body.as_bytes());
    let mut line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut line).unwrap_or_else(|error| panic!("no answer to {method} {path}: {error}"));
    let line = String::from_utf8_lossy(&line);
    line[9..].parse().unwrap_or_else(|_| panic!("no status in {line}"))
}

#[tokio::test]
async fn bad_input_from_many_connections_takes_bounded_memory() {
    if !subject_is_retcd() {
        return;
    }
    let server = Launch::subject().start();
    let port = server.client_port;
    let cases = bad_requests();
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let cases = &cases;
            scope.spawn(move || {
                for turn in 0..cases.len() {
                    let case = &cases[(connection + turn) % cases.len()];
                    assert_eq!(status(port, case), case.3, "{} {} {:.30}", case.0, case.1, case.2);
                }
            });
        }
    });
    let peak = server.peak_memory_bytes();
    println!("{} MiB at most", peak / MIB);
    assert!(peak < MEMORY_MAX, "the server held {} MiB", peak / MIB);
    assert_eq!(request(port, "POST", "/v3/kv/put", r#"{"key":"Zm9v"}"#).status, 200);
}
