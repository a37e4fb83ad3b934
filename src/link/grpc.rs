//! Connections to peers as gRPC: HTTP/2 over TCP or a Unix socket, with or without TLS.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream::BoxStream};
use http_body::Body as HttpBody;
use hyper_util::rt::TokioIo;
use tonic::{
    Code, Response, Status,
    body::Body,
    client::GrpcService,
    codegen::http::Uri,
    transport::{Channel, Endpoint},
};

use super::{
    calls::REMOVED,
    connection::{Call, CallError, Connector, Link, Questions, Replies},
    peer::Peer,
    reason::reason,
    way::Way,
};
use crate::{
    limits,
    pb::retcd::peer::{
        AppendPiece, ChangeReply, ChangeRequest, ContactsReply, ContactsRequest, HelloReply, HelloRequest,
        HistoryReply, HistoryRequest, LeaseReply, LeaseRequest, MembersReply, MembersRequest, ProposeReply,
        ProposeRequest, RaftReply, RaftRequest, ReadIndexReply, ReadIndexRequest, SnapshotPiece, StatusReply,
        StatusRequest, TunnelPiece, peer_client::PeerClient,
    },
    sockets::Dialer,
    tls::Trust,
};

/// A connection that has been silent for this long while a call waits is sent a PING, and is closed
/// if that is not answered for as long again.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Connects to peers over the network.
pub(crate) struct GrpcConnector {
    trust: Trust,
}

impl GrpcConnector {
    /// `trust` says whose certificates are accepted where a peer's URL is one of TLS.
    pub(crate) fn new(trust: Trust) -> GrpcConnector {
        GrpcConnector { trust }
    }
}

impl Connector for GrpcConnector {
    fn connect(&self, peer: &Peer) -> Result<Arc<dyn Link>, CallError> {
        let dialer = Dialer::new(&peer.peer_urls, &self.trust);
        let endpoint = endpoint(&dialer, KEEPALIVE, KEEPALIVE)?;
        let connector = tower::service_fn(move |_: Uri| {
            let dialer = dialer.clone();
            async move { dialer.dial().await.map(TokioIo::new) }
        });
        Ok(link::<Channel>(endpoint.connect_with_connector_lazy(connector)))
    }

    fn reach(&self, way: Arc<Way>, peer: &Peer) -> Result<Arc<dyn Link>, CallError> {
        let dialer = Dialer::new(&peer.peer_urls, &self.trust);
        // A connection that has broken is closed, and made again, well within three election timeouts: that
        // is how long a cluster may take to recover.
        let silence_max = way.silence_max();
        let endpoint = endpoint(&dialer, silence_max / 2, silence_max)?;
        let connector = tower::service_fn(move |_: Uri| {
            let (dialer, way) = (dialer.clone(), way.clone());
            async move { way.dial(&dialer).await.map(TokioIo::new) }
        });
        Ok(link::<Channel>(endpoint.connect_with_connector_lazy(connector)))
    }
}

/// With a PING after `interval` without a byte while a call waits, which has to be answered within `timeout`.
fn endpoint(dialer: &Dialer, interval: Duration, timeout: Duration) -> Result<Endpoint, CallError> {
    let endpoint = Endpoint::from_shared(format!("http://{}", dialer.authority()));
    let endpoint = endpoint.map_err(|error| CallError::not_sent(&error))?;
    Ok(endpoint
        .http2_keep_alive_interval(interval)
        .keep_alive_timeout(timeout)
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(limits::HEADER_LIST_BYTES)
        // An answer that arrives after its call was given up is counted as one of these, and the
        // count only grows: with a limit, a long-lived connection would be closed at some time.
        .http2_max_local_error_reset_streams(None))
}

/// The connection that `channel` is.
pub(crate) fn link<C>(channel: C) -> Arc<dyn Link>
where
    C: Transport,
    C::Future: Send,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<BoxError> + Send,
{
    let client = PeerClient::new(channel)
        .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
    Arc::new(GrpcLink(client))
}

/// Cheap to clone: the clones share the connection.
struct GrpcLink<C>(PeerClient<C>);

/// What calls are made over: in production a [`Channel`], in a simulation something that hands requests to other
/// members.
pub(crate) trait Transport: GrpcService<Body> + Clone + Send + Sync + 'static {}

impl<C: GrpcService<Body> + Clone + Send + Sync + 'static> Transport for C {}

type BoxError = Box<dyn Error + Send + Sync>;

/// A stream of requests under a name of its own: the compiler cannot show that a future that holds a
/// boxed one may move to another thread.
struct Pieces<T>(BoxStream<'static, T>);

impl<T> Stream for Pieces<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_next_unpin(context)
    }
}

/// A call of a client that is the call's own.
macro_rules! call {
    ($link:expr, $method:ident, $request:expr) => {{
        let mut client = $link.0.clone();
        async move { client.$method($request).await.map(Response::into_inner).map_err(|status| failed(&status)) }
            .boxed()
    }};
}

/// Opens a stream of requests and answers.
macro_rules! open {
    ($link:expr, $method:ident, $requests:expr) => {{
        let opened = call!($link, $method, Pieces($requests));
        async { Ok(opened.await?.map(|reply| reply.map_err(|status| failed(&status))).boxed()) }.boxed()
    }};
}

impl<C> Link for GrpcLink<C>
where
    C: Transport,
    C::Future: Send,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<BoxError> + Send,
{
    fn raft(&self, messages: Questions<RaftRequest>) -> Call<Replies<RaftReply>> {
        open!(self, raft, messages)
    }

    fn append(&self, pieces: Questions<AppendPiece>) -> Call<Replies<RaftReply>> {
        open!(self, append, pieces)
    }

    fn snapshot(&self, pieces: Questions<SnapshotPiece>) -> Call<RaftReply> {
        call!(self, snapshot, Pieces(pieces))
    }

    fn tunnel(&self, pieces: Questions<TunnelPiece>) -> Call<Replies<TunnelPiece>> {
        open!(self, tunnel, pieces)
    }

    fn propose(&self, request: ProposeRequest) -> Call<ProposeReply> {
        call!(self, propose, request)
    }

    fn read_index(&self, questions: Questions<ReadIndexRequest>) -> Call<Replies<ReadIndexReply>> {
        open!(self, read_index, questions)
    }

    fn lease(&self, request: LeaseRequest) -> Call<LeaseReply> {
        call!(self, lease, request)
    }

    fn change(&self, request: ChangeRequest) -> Call<ChangeReply> {
        call!(self, change, request)
    }

    fn members(&self, request: MembersRequest) -> Call<MembersReply> {
        call!(self, members, request)
    }

    fn hello(&self, request: HelloRequest) -> Call<HelloReply> {
        call!(self, hello, request)
    }

    fn contacts(&self, request: ContactsRequest) -> Call<ContactsReply> {
        call!(self, contacts, request)
    }

    fn status(&self, request: StatusRequest) -> Call<StatusReply> {
        call!(self, status, request)
    }

    fn history(&self, request: HistoryRequest) -> Call<HistoryReply> {
        call!(self, history, request)
    }
}

fn failed(status: &Status) -> CallError {
    CallError {
        reason: reason(status),
        was_sent: !is_connect_error(status),
        says_removed: status.code() == Code::FailedPrecondition && status.message() == REMOVED,
    }
}

/// Whether no connection could be made, so that nobody got the request.
fn is_connect_error(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
