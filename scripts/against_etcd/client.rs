//! A light client of the v3 API: HTTP/2 by the crate h2, messages by prost, and nothing between.
//!
//! A client of tonic costs two to three times as much CPU for a call, which a server on the same machine has to share with
//! it, and which hides part of the difference between two servers.

use std::{marker::PhantomData, net::SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{
    HeaderMap, Request, Response, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use prost::Message;
use tokio::net::TcpStream;

use crate::{
    Failure,
    pb::etcdserverpb::{
        CompactionRequest, CompactionResponse, DefragmentRequest, DefragmentResponse, HashKvRequest,
        HashKvResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
        PutRequest, PutResponse, RangeRequest, RangeResponse, SnapshotRequest, SnapshotResponse, TxnRequest,
        TxnResponse, WatchRequest, WatchResponse,
    },
};

/// So that no answer waits for a window.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A method, with the types of its messages.
pub(crate) struct Method<Q, A> {
    path: &'static str,
    types: PhantomData<fn(Q) -> A>,
}

const fn method<Q, A>(path: &'static str) -> Method<Q, A> {
    Method { path, types: PhantomData }
}

pub(crate) const PUT: Method<PutRequest, PutResponse> = method("/etcdserverpb.KV/Put");
pub(crate) const RANGE: Method<RangeRequest, RangeResponse> = method("/etcdserverpb.KV/Range");
pub(crate) const TXN: Method<TxnRequest, TxnResponse> = method("/etcdserverpb.KV/Txn");
pub(crate) const COMPACT: Method<CompactionRequest, CompactionResponse> = method("/etcdserverpb.KV/Compact");
pub(crate) const GRANT: Method<LeaseGrantRequest, LeaseGrantResponse> =
    method("/etcdserverpb.Lease/LeaseGrant");
pub(crate) const KEEP_ALIVE: Method<LeaseKeepAliveRequest, LeaseKeepAliveResponse> =
    method("/etcdserverpb.Lease/LeaseKeepAlive");
pub(crate) const WATCH: Method<WatchRequest, WatchResponse> = method("/etcdserverpb.Watch/Watch");
pub(crate) const DEFRAGMENT: Method<DefragmentRequest, DefragmentResponse> =
    method("/etcdserverpb.Maintenance/Defragment");
pub(crate) const SNAPSHOT: Method<SnapshotRequest, SnapshotResponse> =
    method("/etcdserverpb.Maintenance/Snapshot");
pub(crate) const HASH_KV: Method<HashKvRequest, HashKvResponse> = method("/etcdserverpb.Maintenance/HashKV");

/// Many calls at once are made on one.
#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    authority: Authority,
}

impl Connection {
    /// What belongs to the connection runs on the runtime of the caller.
    pub(crate) async fn open(address: SocketAddr) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(stream)
            .await?;
        // It ends when the last handle is dropped, and whoever makes a call hears of its failure.
        tokio::spawn(async move { connection.await.ok() });
        Ok(Connection { requests, authority: address.to_string().parse()? })
    }

    pub(crate) async fn call<Q: Message, A: Message + Default>(
        &self,
        method: &Method<Q, A>,
        request: &Q,
    ) -> Result<A, Failure> {
        let (response, mut body) = self.begin(method).await?;
        body.send_data(framed(request), true)?;
        let response = response.await?;
        let refused = refusal(response.headers());
        let mut answers = Answers { body: accepted(response)?, bytes: BytesMut::new() };
        match answers.next().await? {
            Some(answer) => {
                // What is said behind the answer is said when the stream is over.
                answers.end().await?;
                Ok(answer)
            }
            None => Err(refused.unwrap_or_else(|| "an answer is missing".into())),
        }
    }

    /// A call with many messages in both directions.
    pub(crate) async fn stream<Q: Message, A: Message + Default>(
        &self,
        method: &Method<Q, A>,
    ) -> Result<(Sender<Q>, Receiver<A>), Failure> {
        let (response, body) = self.begin(method).await?;
        let sender = Sender { body, type_: PhantomData };
        Ok((sender, Receiver { state: State::Waiting(response), type_: PhantomData }))
    }

    async fn begin<Q, A>(
        &self,
        method: &Method<Q, A>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(PathAndQuery::from_static(method.path));
        let request = Request::post(Uri::from_parts(uri)?)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut requests = self.requests.clone().ready().await?;
        Ok(requests.send_request(request, false)?)
    }
}

pub(crate) struct Sender<Q> {
    body: SendStream<Bytes>,
    type_: PhantomData<fn(Q)>,
}

impl<Q: Message> Sender<Q> {
    pub(crate) fn send(&mut self, request: &Q) -> Result<(), Failure> {
        Ok(self.body.send_data(framed(request), false)?)
    }

    /// There are no more requests.
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        Ok(self.body.send_data(Bytes::new(), true)?)
    }
}

pub(crate) struct Receiver<A> {
    state: State,
    type_: PhantomData<fn() -> A>,
}

enum State {
    /// A server may wait with its head until it has something to say.
    Waiting(ResponseFuture),
    Open(Answers),
}

impl<A: Message + Default> Receiver<A> {
    /// The next message of a stream that the server does not end.
    pub(crate) async fn next(&mut self) -> Result<A, Failure> {
        self.next_or_end().await?.ok_or_else(|| "the server has ended a stream".into())
    }

    pub(crate) async fn next_or_end(&mut self) -> Result<Option<A>, Failure> {
        loop {
            match &mut self.state {
                State::Waiting(response) => {
                    let body = accepted(response.await?)?;
                    self.state = State::Open(Answers { body, bytes: BytesMut::new() });
                }
                State::Open(answers) => return answers.next().await,
            }
        }
    }
}

/// The messages of a body.
struct Answers {
    body: RecvStream,
    bytes: BytesMut,
}

impl Answers {
    async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Failure> {
        loop {
            if let Some(prefix) = self.bytes.first_chunk::<PREFIX_BYTES>() {
                let [_, length @ ..] = *prefix;
                let length = u32::from_be_bytes(length) as usize;
                if self.bytes.len() >= PREFIX_BYTES + length {
                    self.bytes.advance(PREFIX_BYTES);
                    return Ok(Some(A::decode(self.bytes.split_to(length).freeze())?));
                }
            }
            if !self.read().await? {
                return Ok(None);
            }
        }
    }

    async fn read(&mut self) -> Result<bool, Failure> {
        let Some(data) = self.body.data().await else { return Ok(false) };
        let data = data?;
        self.body.flow_control().release_capacity(data.len())?;
        self.bytes.extend_from_slice(&data);
        Ok(true)
    }

    async fn end(&mut self) -> Result<(), Failure> {
        while self.read().await? {}
        match self.body.trailers().await?.as_ref().and_then(refusal) {
            Some(refused) => Err(refused),
            None => Ok(()),
        }
    }
}

fn accepted(response: Response<RecvStream>) -> Result<RecvStream, Failure> {
    match refusal(response.headers()) {
        Some(refused) => Err(refused),
        None => Ok(response.into_body()),
    }
}

/// What is said against a call, in its head or behind its answer.
fn refusal(headers: &HeaderMap) -> Option<Failure> {
    let status = headers.get("grpc-status").filter(|status| *status != "0")?;
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok());
    Some(format!("refused with {status:?}: {}", message.unwrap_or("no reason")).into())
}

pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("messages of a benchmark are small"));
    message.encode(&mut frame).expect("there is room for it");
    frame.freeze()
}
