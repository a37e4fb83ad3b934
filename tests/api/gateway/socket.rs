//! Calls over WebSocket.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::ok;
use crate::{
    client::soon,
    server::{Launch, Server, serve, subject_is_retcd},
};

/// The key and the answer to it of RFC 6455.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Asks for a WebSocket. Returns the head of the answer too.
async fn open(server: &Server, path: &str, headers: &str) -> (String, WebSocketStream<TcpStream>) {
    let mut stream = TcpStream::connect(server.endpoint()).await.expect("the server listens");
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}\r\n",
        server.endpoint()
    );
    stream.write_all(head.as_bytes()).await.expect("the server reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("a head", stream.read_u8()).await.expect("the server answers"));
    }
    let head = String::from_utf8(head).expect("ASCII").to_ascii_lowercase();
    (head, WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

/// The first answer on a WebSocket with these headers.
pub(crate) async fn watch_once(server: &Server, headers: &str) -> Value {
    let (_, mut socket) = open(server, "/v3/watch", headers).await;
    socket.send(Message::text(r#"{"create_request":{"key":"Zm9v"}}"#)).await.expect("sent");
    next(&mut socket).await.expect("a line")
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Option<Value> {
    loop {
        match soon("a message", socket.next()).await? {
            Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).expect("JSON")),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

#[tokio::test]
async fn a_watch_over_a_web_socket() {
    let (server, _client) = serve();
    let (head, mut socket) = open(&server, "/v3/watch", "").await;
    assert!(head.starts_with("http/1.1 101") && head.contains(&ACCEPT.to_ascii_lowercase()), "{head}");
    socket.send(Message::text(r#"{"create_request":{"key":"Zm9v"}}"#)).await.expect("sent");
    assert_eq!(next(&mut socket).await.expect("a line")["result"]["created"], true);
    ok(&server, "/v3/kv/put", &json!({ "key": "Zm9v", "value": "YQ==" }));
    let events = next(&mut socket).await.expect("a line");
    assert_eq!(events["result"]["events"][0]["kv"]["value"], "YQ==");
    // A message may also be of bytes, and a ping is answered.
    socket.send(Message::Ping("p".into())).await.expect("sent");
    socket.send(Message::binary(&br#"{"cancel_request":{"watch_id":0}}"#[..])).await.expect("sent");
    let mut pong = false;
    let canceled = loop {
        match soon("a message", socket.next()).await.expect("it goes on").expect("a message") {
            Message::Pong(_) => pong = true,
            Message::Text(text) => break text.to_string(),
            _ => {}
        }
    };
    assert!(pong && canceled.contains(r#""canceled":true"#), "{canceled}");
}

#[tokio::test]
async fn a_watch_ends_with_its_web_socket() {
    let server = Launch::subject().flag("max-concurrent-streams", 1).start();
    for _ in 0..3 {
        // The only place there is.
        let (_, mut socket) = open(&server, "/v3/watch", "").await;
        socket.send(Message::text(r#"{"create_request":{"key":"Zm9v"}}"#)).await.expect("sent");
        assert_eq!(next(&mut socket).await.expect("a line")["result"]["created"], true);
        socket.close(None).await.expect("closed");
    }
    ok(&server, "/v3/kv/range", &json!({ "key": "Zm9v" }));
}

#[tokio::test]
async fn the_token_of_a_page_is_taken_from_the_subprotocols() {
    let (server, _client) = serve();
    let (head, _socket) = open(&server, "/v3/watch", "Sec-WebSocket-Protocol: Bearer, some.token\r\n").await;
    assert!(head.contains("sec-websocket-protocol: bearer\r\n"), "{head}");
}

#[tokio::test]
async fn what_goes_wrong_on_a_web_socket_is_told() {
    let (server, _client) = serve();
    if !subject_is_retcd() {
        return;
    }
    let (_, mut socket) = open(&server, "/v3/kv/range", "").await;
    socket.send(Message::text(r#"{"key":"Zm9v"}"#)).await.expect("sent");
    assert!(next(&mut socket).await.expect("an answer")["header"].is_object());
    assert_eq!(next(&mut socket).await, None, "the answer is whole");

    let (_, mut socket) = open(&server, "/v3/lease/keepalive", "").await;
    socket.send(Message::text(r#"{"ID":"x"}"#)).await.expect("sent");
    assert_eq!(next(&mut socket).await.expect("an error")["error"]["code"], 3);

    let (_, mut socket) = open(&server, "/v3/nope", "").await;
    assert_eq!(next(&mut socket).await.expect("an error")["code"], 5);

    let (_, mut socket) = open(&server, "/v3/watch", "").await;
    socket.send(Message::text("x".repeat(100_000))).await.expect("sent");
    assert_eq!(next(&mut socket).await, None, "a message that is too large closes the connection");

    let (head, _) = open(&server, "/v3/watch", "Sec-WebSocket-Key: \r\n").await;
    let without = head.starts_with("http/1.1 101");
    assert!(without, "the first key counts: {head}");
    ok(&server, "/v3/kv/range", &json!({ "key": "Zm9v" }));
}
