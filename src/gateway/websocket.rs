//! Calls over WebSocket, for pages in browsers: each message is a value of the request, and each line of the answer
//! is a message.
//!
//! A page cannot set the headers of such a call. So its token is in the list of subprotocols, after `Bearer`, or in
//! a cookie named `token`.

use axum::{body::Body, extract::Request, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Sink, SinkExt, Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::sync::mpsc;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{Role, WebSocketConfig},
    },
};
use tonic::Status;

use super::{
    call::{Call, Gateway},
    refusal, schema,
};
use crate::limits;

/// What RFC 6455 has a server put behind the client's key.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const VERSION: &str = "13";
const BEARER: &str = "Bearer";
const TOKEN_COOKIE: &str = "token";

pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &header::CONNECTION, "upgrade") && has_token(headers, &header::UPGRADE, "websocket")
}

/// Whether a list in a header has this element.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|element| element.trim().eq_ignore_ascii_case(token))
}

/// Accepts the connection, and serves its call in a task of its own.
pub(super) fn upgrade(
    gateway: Gateway,
    method: Option<&'static schema::Method>,
    mut request: Request,
) -> Response {
    let headers = request.headers();
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| !key.is_empty());
    let has_version = has_token(headers, &header::SEC_WEBSOCKET_VERSION, VERSION);
    let (Some(key), true, true) = (key, has_version, request.method() == Method::GET) else {
        return bad_handshake();
    };
    let mut accept = Sha1::new();
    accept.update(key.as_bytes());
    accept.update(ACCEPT_SUFFIX);
    let accept = HeaderValue::from_str(&STANDARD.encode(accept.finalize())).expect("digits of base64");
    let is_bearer = headers
        .get(header::SEC_WEBSOCKET_PROTOCOL)
        .is_some_and(|protocols| protocols.as_bytes().starts_with(BEARER.as_bytes()));
    let Some(on_upgrade) = request.extensions_mut().remove::<OnUpgrade>() else { return bad_handshake() };

    let (parts, _no_body) = request.into_parts();
    let call = method.map(|method| {
        let mut headers = parts.headers;
        if let Some(token) = token(&headers) {
            headers.insert(header::AUTHORIZATION, token);
        }
        Call { method, headers, remote: parts.extensions.get().cloned() }
    });
    tokio::spawn(async move {
        let Ok(upgraded) = on_upgrade.await else { return };
        let config = WebSocketConfig::default()
            .read_buffer_size(limits::WEBSOCKET_READ_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(usize::MAX)
            .max_message_size(Some(limits::WEBSOCKET_MESSAGE_BYTES))
            .max_frame_size(Some(limits::WEBSOCKET_MESSAGE_BYTES));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config));
        if let Err(error) = converse(gateway, call, socket.await).await {
            tracing::debug!(%error, "a WebSocket ended");
        }
    });

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if is_bearer {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BEARER));
    }
    response
}

fn bad_handshake() -> Response {
    let mut response = Response::new(Body::from("Bad Request\n"));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    response
}

/// The token of a page, as the value of `Authorization`.
fn token(headers: &HeaderMap) -> Option<HeaderValue> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut cookies = cookies.flat_map(|value| value.split(';')).filter_map(|cookie| cookie.split_once('='));
    let in_cookie = cookies.find(|(name, _)| name.trim() == TOKEN_COOKIE).map(|(_, token)| token.trim());
    let protocols = headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let in_protocol = protocols.and_then(|value| value.split_once("Bearer,")).map(|(_, token)| token.trim());
    HeaderValue::from_str(&format!("{BEARER} {}", in_cookie.or(in_protocol)?)).ok()
}

/// Serves the call until it or the connection ends. Whichever ends first ends the other.
async fn converse(
    gateway: Gateway,
    call: Option<Call>,
    socket: impl Sink<Message, Error = Error> + Stream<Item = Result<Message, Error>>,
) -> Result<(), Error> {
    let (outgoing, incoming) = socket.split();
    let (values, body) = mpsc::channel::<Bytes>(1);
    let body = stream::unfold(body, |mut body| async move { Some((body.recv().await?, body)) });
    let body = Body::from_stream(body.map(Ok::<_, Status>));
    let answer = async {
        match call {
            Some(call) => gateway.call(call, body).await,
            None => refusal::response(&Status::not_found("Not Found")),
        }
    };
    tokio::select! {
        ended = receive(incoming, values) => ended,
        ended = send(answer, outgoing) => ended,
    }
}

/// Passes on what the client sends, until the client closes the connection.
async fn receive(
    mut incoming: impl Stream<Item = Result<Message, Error>> + Unpin,
    values: mpsc::Sender<Bytes>,
) -> Result<(), Error> {
    while let Some(message) = incoming.next().await {
        let value = match message? {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return Ok(()),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        let mut line = BytesMut::with_capacity(value.len() + 1);
        line.put(value);
        line.put_u8(b'\n');
        // A call of one request reads one value. What the client sends behind it is of no use.
        let _ = values.send(line.freeze()).await;
    }
    Ok(())
}

/// Sends the lines of the answer, and closes the connection.
async fn send(
    answer: impl Future<Output = Response>,
    mut outgoing: impl Sink<Message, Error = Error> + Unpin,
) -> Result<(), Error> {
    let mut body = answer.await.into_body();
    let mut line = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Some(mut piece) = frame.data_ref().map(Bytes::as_ref) else { continue };
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            line.put(&piece[..end]);
            send_line(&mut line, &mut outgoing).await?;
            piece = &piece[end + 1..];
        }
        line.put(piece);
    }
    send_line(&mut line, &mut outgoing).await?;
    outgoing.close().await
}

async fn send_line(
    line: &mut BytesMut,
    outgoing: &mut (impl Sink<Message, Error = Error> + Unpin),
) -> Result<(), Error> {
    if line.is_empty() {
        return Ok(());
    }
    // A line of JSON is UTF-8.
    let text = String::from_utf8_lossy(&line.split()).into_owned();
    outgoing.send(Message::Text(text.into())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_token_of_a_page_is_found() {
        let found =
            |headers: &HeaderMap| token(headers).map(|token| token.to_str().expect("ASCII").to_owned());
        for (protocols, expected) in [
            ("Bearer, a.1", Some("Bearer a.1")),
            ("Bearer,a.1", Some("Bearer a.1")),
            ("Bearer", None),
            ("chat", None),
        ] {
            let headers = headers(header::SEC_WEBSOCKET_PROTOCOL, protocols);
            assert_eq!(found(&headers).as_deref(), expected, "{protocols}");
        }
        let mut both = headers(header::COOKIE, "a=1; token=b.2; c=3");
        both.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer, a.1"));
        assert_eq!(found(&both).as_deref(), Some("Bearer b.2"), "the cookie comes first");
    }

    #[test]
    fn an_upgrade_is_told_from_other_requests() {
        let mut headers = headers(header::CONNECTION, "keep-alive, Upgrade");
        assert!(!is_upgrade(&headers));
        headers.insert(header::UPGRADE, HeaderValue::from_static("h2c"));
        assert!(!is_upgrade(&headers));
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        assert!(is_upgrade(&headers));
    }
}
