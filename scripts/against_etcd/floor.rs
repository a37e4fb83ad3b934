//! The floor: a server that answers every call with a constant, and does nothing else.
//!
//! It reads requests and encodes answers with the same messages over the same HTTP/2, on one thread for each core. What a
//! real server needs beyond it is its own work: the log, the index, the history. The floor keeps nothing, so there is nothing
//! to verify.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, TcpListener},
    thread,
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use tokio::{runtime, sync::mpsc};

use crate::{
    Failure,
    client::framed,
    pb::{
        etcdserverpb::{
            LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, PutResponse,
            RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse,
        },
        mvccpb::KeyValue,
    },
    rows::VALUE_BYTES,
};

const WINDOW_BYTES: u32 = 16 << 20;

/// Serves until the process is ended. Says on which port.
pub(crate) fn serve() -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let threads = thread::available_parallelism()?.get();
    let mut queues = Vec::new();
    for _ in 0..threads {
        let (queue, mut connections) = mpsc::unbounded_channel::<std::net::TcpStream>();
        queues.push(queue);
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                while let Some(stream) = connections.recv().await {
                    tokio::spawn(async move { connection(stream).await.ok() });
                }
            });
        });
    }
    writeln!(io::stdout(), "{}", listener.local_addr()?.port())?;
    for (number, stream) in listener.incoming().enumerate() {
        queues[number % threads].send(stream?)?;
    }
    Ok(())
}

async fn connection(stream: std::net::TcpStream) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::spawn(async move { answer(request, respond).await.ok() });
    }
    Ok(())
}

async fn answer(request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), Failure> {
    let path = request.uri().path().to_owned();
    let mut requests = request.into_body();
    let head = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut body = respond.send_response(head, false)?;
    let mut bytes = BytesMut::new();
    while let Some(data) = requests.data().await {
        let data = data?;
        requests.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
        while let Some(request) = message(&mut bytes) {
            body.send_data(constant(&path, request)?, false)?;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(body.send_trailers(trailers)?)
}

fn message(bytes: &mut BytesMut) -> Option<Bytes> {
    let [_, length @ ..] = *bytes.first_chunk::<5>()?;
    let length = u32::from_be_bytes(length) as usize;
    if bytes.len() < 5 + length {
        return None;
    }
    bytes.advance(5);
    Some(bytes.split_to(length).freeze())
}

/// As a member answers on a good day.
fn constant(path: &str, request: Bytes) -> Result<Bytes, Failure> {
    let header = || Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 1, raft_term: 1 });
    Ok(match path.rsplit('/').next().unwrap_or_default() {
        "Put" => {
            PutRequest::decode(request)?;
            framed(&PutResponse { header: header(), ..PutResponse::default() })
        }
        "Range" => {
            let request = RangeRequest::decode(request)?;
            let value = Bytes::from_static(&[b'v'; VALUE_BYTES]);
            let kv = KeyValue { key: request.key, value, ..KeyValue::default() };
            let count = usize::try_from(request.limit)?.max(1);
            framed(&RangeResponse {
                header: header(),
                kvs: vec![kv; count],
                more: false,
                count: count as i64,
            })
        }
        "Txn" => {
            TxnRequest::decode(request)?;
            framed(&TxnResponse { header: header(), succeeded: true, ..TxnResponse::default() })
        }
        "LeaseGrant" => framed(&LeaseGrantResponse { header: header(), id: 1, ttl: 1, ..Default::default() }),
        "LeaseKeepAlive" => {
            let id = LeaseKeepAliveRequest::decode(request)?.id;
            framed(&LeaseKeepAliveResponse { header: header(), id, ttl: 60 })
        }
        other => return Err(format!("the floor does not know {other}").into()),
    })
}
