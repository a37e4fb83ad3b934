//! Streams over HTTP: lines of JSON.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
};

use serde_json::{Value, json};

use super::ok;
use crate::server::{PATIENCE, Server, serve, subject_is_retcd};

/// A call whose answer is read line by line.
pub(crate) struct Lines {
    stream: TcpStream,
    answer: BufReader<TcpStream>,
    /// Received and not read.
    text: String,
    pub(crate) status: u16,
}

impl Lines {
    /// The whole request is sent at once.
    pub(crate) fn open(server: &Server, path: &str, body: &str) -> Lines {
        let mut lines = Lines::begin(server, path);
        lines.send(body);
        lines.finish();
        lines
    }

    /// The request is sent with [`Lines::send`].
    pub(crate) fn begin(server: &Server, path: &str) -> Lines {
        let stream = TcpStream::connect(server.endpoint()).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let answer = BufReader::new(stream.try_clone().expect("a socket can be shared"));
        let mut lines = Lines { stream, answer, text: String::new(), status: 0 };
        let host = server.endpoint();
        write!(lines.stream, "POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n")
            .expect("the server reads");
        lines
    }

    pub(crate) fn send(&mut self, text: &str) {
        write!(self.stream, "{:x}\r\n{text}\r\n", text.len()).expect("the server reads");
    }

    pub(crate) fn finish(&mut self) {
        write!(self.stream, "0\r\n\r\n").expect("the server reads");
    }

    /// The next line.
    pub(crate) fn next(&mut self) -> Value {
        self.next_or_end().expect("the stream goes on")
    }

    pub(crate) fn next_or_end(&mut self) -> Option<Value> {
        if self.status == 0 {
            self.head();
        }
        // Lines that are ready at the same time are one chunk, and a long line is several.
        while !self.text.contains('\n') {
            let size = self.line();
            let size = usize::from_str_radix(&size, 16).unwrap_or_else(|error| panic!("{error}: {size}"));
            if size == 0 {
                assert!(self.text.is_empty(), "a part of a line: {}", self.text);
                return None;
            }
            let mut chunk = vec![0; size + 2];
            self.answer.read_exact(&mut chunk).expect("a chunk is whole");
            self.text.push_str(std::str::from_utf8(&chunk[..size]).expect("UTF-8"));
        }
        let (line, rest) = self.text.split_once('\n').expect("there is one");
        let line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.text = rest.to_owned();
        Some(line)
    }

    fn head(&mut self) {
        let status = self.line();
        self.status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        while !self.line().is_empty() {}
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answer.read_line(&mut line).expect("the server answers");
        line.trim_end().to_owned()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

#[tokio::test]
async fn a_watch_goes_on_after_its_request_has_ended() {
    let (server, _client) = serve();
    let mut watch = Lines::open(&server, "/v3/watch", r#"{"create_request":{"key":"Zm9v","prev_kv":true}}"#);
    let created = watch.next();
    assert_eq!(created["result"]["created"], true);
    ok(&server, "/v3/kv/put", &json!({ "key": "Zm9v", "value": "YQ==" }));
    ok(&server, "/v3/kv/deleterange", &json!({ "key": "Zm9v" }));
    let event = &watch.next()["result"]["events"][0];
    assert!(event["type"].is_null() && event["kv"]["value"] == "YQ==", "{event}");
    let event = &watch.next()["result"]["events"][0];
    assert!(event["type"] == "DELETE" && event["prev_kv"]["value"] == "YQ==", "{event}");
}

#[tokio::test]
async fn a_stream_takes_one_value_after_another() {
    let (server, client) = serve();
    let mut watch = Lines::open(
        &server,
        "/v3/watch",
        r#"{"create_request":{"key":"YQ=="}}{"create_request":{"key":"Yg=="}} {"cancel_request":{"watch_id":"1"}}"#,
    );
    assert_eq!(watch.next()["result"]["created"], true);
    assert_eq!(watch.next()["result"]["watch_id"], "1");
    assert_eq!(watch.next()["result"]["canceled"], true);

    let lease = client.grant(600, 0).await.to_string();
    let mut kept = Lines::open(
        &server,
        "/v3/lease/keepalive",
        &format!("{}\n{}", json!({ "ID": lease }), json!({ "ID": "7" })),
    );
    let answer = kept.next();
    assert_eq!((&answer["result"]["ID"], &answer["result"]["TTL"]), (&json!(lease), &json!("600")));
    let answer = kept.next();
    assert!(answer["result"]["ID"] == "7" && answer["result"]["TTL"].is_null(), "{answer}");
    assert_eq!(kept.next_or_end(), None, "the request has ended");
}

#[tokio::test]
async fn values_are_answered_while_the_request_goes_on() {
    let (server, client) = serve();
    if !subject_is_retcd() {
        return;
    }
    let lease = client.grant(600, 0).await.to_string();
    let mut kept = Lines::begin(&server, "/v3/lease/keepalive");
    for _ in 0..3 {
        // A value may come in pieces.
        let value = json!({ "ID": lease }).to_string();
        let (one, other) = value.split_at(5);
        kept.send(one);
        kept.send(other);
        assert_eq!(kept.next()["result"]["TTL"], "600");
    }
    kept.send("{\"ID\":x");
    let error = kept.next();
    assert_eq!(error["error"]["code"], 3, "{error}");
    assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains("'x'")), "{error}");
    assert_eq!(kept.next_or_end(), None);
}

#[tokio::test]
async fn a_stream_that_is_refused_at_once_has_a_status() {
    let (server, _client) = serve();
    if !subject_is_retcd() {
        return;
    }
    for (path, body) in
        [("/v3/watch", "x"), ("/v3/lease/keepalive", r#"{"ID":"x"}"#), ("/v3/watch", r#"{"c"#)]
    {
        let answer = crate::http::request(server.client_port, "POST", path, body);
        assert_eq!(answer.status, 400, "{answer:?}");
        let error: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!((&error["error"]["code"], &error["error"]["http_code"]), (&json!(3), &json!(400)));
    }
}

#[tokio::test]
async fn a_leader_is_observed_and_a_snapshot_comes_in_pieces() {
    let (server, client) = serve();
    let mut observed = Lines::open(&server, "/v3/election/observe", r#"{"name":"ZWxlY3Q="}"#);
    let lease = client.grant(600, 0).await.to_string();
    let won =
        ok(&server, "/v3/election/campaign", &json!({ "name": "ZWxlY3Q=", "lease": lease, "value": "YQ==" }));
    assert_eq!(observed.next()["result"]["kv"]["value"], "YQ==");
    ok(&server, "/v3/election/proclaim", &json!({ "leader": won["leader"], "value": "Yg==" }));
    assert_eq!(observed.next()["result"]["kv"]["value"], "Yg==");

    let mut snapshot = Lines::open(&server, "/v3/maintenance/snapshot", "{}");
    let (mut pieces, mut last) = (0, Value::Null);
    while let Some(piece) = snapshot.next_or_end() {
        assert!(piece["result"]["blob"].is_string(), "{piece:.100}");
        (pieces, last) = (pieces + 1, piece);
    }
    assert!(pieces > 1 && last["result"]["remaining_bytes"].is_null(), "{pieces} {last}");
}
