//! Puts and reads through the JSON gateway, as scripts and clients without gRPC make them.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{KEYS, Row, Turn, VALUE_BYTES, Writes, key, verify};
use crate::{Failure, client::Connection, figures::Figure, load::Work};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Put,
    Range,
}

/// Each client has a connection of HTTP/1.1, which it keeps.
pub(crate) struct Gateway {
    pub(crate) op: Op,
    pub(crate) clients: usize,
}

impl Row for Gateway {
    fn name(&self) -> String {
        let op = if self.op == Op::Put { "put" } else { "range of one key" };
        format!("JSON gateway: {op}, {} connections", self.clients)
    }

    fn measure(&self, turn: &mut Turn<'_>) -> Result<Vec<Figure>, Failure> {
        turn.fill(KEYS, VALUE_BYTES)?;
        let address = turn.server.addresses()[0];
        let calls = Calls {
            op: self.op,
            address,
            next: AtomicUsize::new(0),
            value: BASE64.encode([b'v'; VALUE_BYTES]),
        };
        let writes = if self.op == Op::Put { Writes::Each } else { Writes::None };
        turn.load(&calls, (self.clients, 1), writes)
    }
}

struct Calls {
    op: Op,
    address: SocketAddr,
    next: AtomicUsize,
    /// As JSON has it.
    value: String,
}

impl Work for Calls {
    /// The connection, once there is one.
    type Memory = Option<SendRequest<Full<Bytes>>>;

    fn begin(&self, _: usize) -> Self::Memory {
        None
    }

    async fn operate(&self, _: &Connection, connection: &mut Self::Memory) -> Result<(), Failure> {
        let requests = match connection {
            Some(requests) => requests,
            None => connection.insert(open(self.address).await?),
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed) % KEYS;
        let (key, value) = (BASE64.encode(key(number)), &self.value);
        let (path, body) = match self.op {
            Op::Put => ("/v3/kv/put", format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}")),
            Op::Range => ("/v3/kv/range", format!("{{\"key\":\"{key}\"}}")),
        };
        let request = http::Request::post(path)
            .header("host", "bench")
            .header("content-type", "application/json")
            .body(Full::from(body))?;
        requests.ready().await?;
        let answer = requests.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        let body = str::from_utf8(&body)?;
        let is_right = match self.op {
            Op::Put => body.contains("\"revision\""),
            Op::Range => body.contains(value.as_str()),
        };
        verify(status.is_success() && is_right, || format!("{path} is answered with {status}: {body:.200}"))
    }
}

async fn open(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the handle is dropped, and whoever makes a call hears of its failure.
    tokio::spawn(async move { connection.await.ok() });
    Ok(requests)
}
