//! Connections, from the accepted socket to their close.
//!
//! The first bytes of a connection decide the protocol: HTTP/2 with prior knowledge is gRPC, anything
//! else is HTTP/1 and goes to the HTTP endpoints. With TLS, any client can ask for HTTP/2, and the content type
//! of each request decides. The tasks of a connection stay on the runtime that
//! serves it. The limits that protect the server from its clients are set here, for all ports alike.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, routing::future::RouteFuture};
use futures_util::future::Either;
use http::{Request, Response, StatusCode, Version};
use hyper::{body::Incoming, service::Service as HyperService};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tonic::transport::server::TcpConnectInfo;
use tower::Service;

use super::{
    Load, Methods, Probe,
    calls::{Answer, Calls, Open},
    flood::{Flood, PingPolicy},
    grpc,
    grpc::Grpc,
    inbound::Inbound,
    lobby::{Lobby, Visit},
    request::{self, Encrypted},
    router,
    socket::Socket,
};
use crate::{
    clock, limits,
    sockets::{Io, Standing},
    telemetry::Metrics,
    types::CommonName,
};

/// How long a connection of HTTP/1 may be idle between two requests.
const HTTP1_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How often a peer may ping: members ping each other every half second while a call waits.
const PEER_PINGS: PingPolicy = PingPolicy { interval_min: Duration::from_millis(250), without_calls: true };

/// A peer that has sent nothing for this long is pinged, and its connection is closed if it does not
/// answer within the same time.
const PEER_KEEPALIVE: Duration = Duration::from_secs(10);

/// The protocols that a port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocols {
    GrpcAndHttp,
    Grpc,
    Http,
    /// Metrics and health checks only.
    Metrics,
}

impl Protocols {
    /// The name in log lines.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Protocols::GrpcAndHttp => "grpc+http",
            Protocols::Grpc => "grpc",
            Protocols::Http => "http",
            Protocols::Metrics => "metrics",
        }
    }
}

/// All services that connections can call. One per reactor.
pub(crate) struct Services {
    grpc: Grpc,
    http: Router,
    metrics_only: Router,
    builder: auto::Builder<TokioExecutor>,
    pings: PingPolicy,
    load: Arc<Load>,
    metrics: Arc<Metrics>,
}

impl Services {
    /// `methods` are those of the services in `grpc`, `more` are endpoints beside those of every port, and `load` is what all reactors share.
    pub(crate) fn new<P: Probe>(
        node: &P,
        grpc: tonic::service::Routes,
        methods: Methods,
        more: Router,
        load: Arc<Load>,
    ) -> Services {
        let config = node.config();
        let message_bytes_max = config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES;
        let mut builder = builder();
        let mut http2 = builder.http2();
        http2.max_concurrent_streams(match config.max_concurrent_streams {
            // The default of the flag, and the value for "no limit" in etcd.
            u32::MAX => limits::HTTP2_STREAMS_MAX,
            streams => streams,
        });
        if let Some(keepalive) = config.grpc_keepalive {
            http2.keep_alive_interval(keepalive.interval).keep_alive_timeout(keepalive.timeout);
        }
        Services {
            grpc: Grpc { router: grpc.prepare().into_axum_router(), methods, message_bytes_max },
            http: router::client_router(node, more),
            metrics_only: router::metrics_router(node),
            builder,
            pings: PingPolicy { interval_min: config.grpc_keepalive_min_time, without_calls: false },
            load,
            metrics: node.metrics().clone(),
        }
    }

    /// Serves the connection in a task of its own until it closes, or until `graceful` shuts down and
    /// the requests in progress are answered.
    pub(crate) fn serve(&self, stream: Io, protocols: Protocols, graceful: &GracefulShutdown) {
        let (http, builder) = match protocols {
            Protocols::GrpcAndHttp | Protocols::Http => (&self.http, self.builder.clone()),
            Protocols::Grpc => (&self.http, self.builder.clone().http2_only()),
            Protocols::Metrics => (&self.metrics_only, self.builder.clone()),
        };
        let http2 = match protocols {
            // In plaintext, a client that does not speak gRPC has no way to ask for HTTP/2.
            Protocols::GrpcAndHttp if stream.is_encrypted() => Http2::Both(self.grpc.clone(), http.clone()),
            Protocols::GrpcAndHttp | Protocols::Grpc => Http2::Grpc(self.grpc.clone()),
            Protocols::Http | Protocols::Metrics => Http2::Endpoints(http.clone()),
        };
        let calls = Calls::new(self.load.clone());
        let service = ByVersion::new(&stream, http2, http.clone(), calls, None);
        let flood = Flood::new(self.pings, limits::HTTP2_VOID_FRAMES, clock::now());
        serve(stream, flood, Some(self.metrics.clone()), &builder, service, graceful);
    }
}

/// The services that members call on each other.
pub(crate) struct PeerServices {
    grpc: Grpc,
    builder: auto::Builder<TokioExecutor>,
    /// A member that stops does not wait for the connections of its peers.
    graceful: GracefulShutdown,
    load: Arc<Load>,
    lobby: Arc<Lobby>,
}

impl PeerServices {
    /// To be called on the runtime that serves the connections.
    pub(crate) fn new(grpc: tonic::service::Routes, methods: Methods) -> PeerServices {
        let router = grpc.prepare().into_axum_router();
        let mut builder = builder();
        // With keepalive pings, the connection of a peer that lost power is closed.
        builder
            .http2()
            .max_concurrent_streams(limits::HTTP2_STREAMS_MAX)
            .keep_alive_interval(PEER_KEEPALIVE)
            .keep_alive_timeout(PEER_KEEPALIVE);
        let lobby = Lobby::new();
        let refilled = lobby.clone();
        tokio::spawn(async move { refilled.refill().await });
        PeerServices {
            lobby,
            grpc: Grpc { router, methods, message_bytes_max: limits::PEER_MESSAGE_BYTES_MAX },
            builder: builder.http2_only(),
            graceful: GracefulShutdown::new(),
            load: Load::new(),
        }
    }

    /// Resolves when the next connection may be accepted.
    pub(crate) async fn has_room(&self) {
        self.lobby.step().await;
    }

    /// Serves the connection in a task of its own until it closes.
    pub(crate) fn serve(&self, stream: Io) {
        let http2 = Http2::Grpc(self.grpc.clone());
        let calls = Calls::new(self.load.clone());
        let lobby = Some((self.lobby.clone(), Standing::default()));
        let service = ByVersion::new(&stream, http2, self.grpc.router.clone(), calls, lobby);
        let flood = Flood::new(PEER_PINGS, limits::LOBBY_VOID_FRAMES, clock::now());
        serve(stream, flood, None, &self.builder, service, &self.graceful);
    }
}

fn serve(
    stream: Io,
    flood: Flood,
    metrics: Option<Arc<Metrics>>,
    builder: &auto::Builder<TokioExecutor>,
    service: ByVersion,
    graceful: &GracefulShutdown,
) {
    let is_grpc = matches!(service.http2, Http2::Grpc(_) | Http2::Both(..));
    let calls = service.calls.clone();
    let inbound = Inbound::new(is_grpc, flood, calls.clone());
    let io = TokioIo::new(Socket::new(stream, inbound, calls, metrics, service.visit()));
    // With upgrades the library would serve HTTP/1 whatever the builder says.
    let connection = if builder.is_http1_available() {
        let connection = builder.serve_connection_with_upgrades(io, service).into_owned();
        Either::Left(graceful.watch(connection))
    } else {
        Either::Right(graceful.watch(builder.serve_connection(io, service).into_owned()))
    };
    tokio::spawn(async move {
        // Clients disconnect without notice all the time, so this is logged at the level debug only.
        if let Err(error) = connection.await {
            tracing::debug!(error = &*error, "connection ended");
        }
    });
}

/// The HTTP/2 settings of every port.
fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HTTP1_IDLE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(limits::HTTP2_SEND_BUFFER_BYTES)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .max_pending_accept_reset_streams(limits::HTTP2_RESETS_PENDING)
        // The library never resets this count, so a busy client of a long-lived connection would reach any limit. The
        // limit would bound the frames that are buffered for a client that does not read; `socket.rs` bounds
        // them by not reading from such a client.
        .max_local_error_reset_streams(None);
    builder
}

/// Routes a request to the service for its protocol.
struct ByVersion {
    http2: Http2,
    http1: Router,
    /// The client's address; `None` on a Unix socket.
    remote: Option<SocketAddr>,
    /// Who the client is by its certificate, which is an extension of each request. The gateway of JSON does not
    /// pass it on, because what is asked for in JSON is never done in the name of a certificate.
    common_name: Option<CommonName>,
    is_encrypted: bool,
    calls: Arc<Calls>,
    /// Of a connection to a peer port: where it is until a member has shown itself.
    lobby: Option<(Arc<Lobby>, Standing)>,
}

enum Http2 {
    Grpc(Grpc),
    Endpoints(Router),
    /// The content type of a request decides.
    Both(Grpc, Router),
}

impl ByVersion {
    fn new(
        stream: &Io,
        http2: Http2,
        http1: Router,
        calls: Arc<Calls>,
        lobby: Option<(Arc<Lobby>, Standing)>,
    ) -> ByVersion {
        ByVersion {
            http2,
            http1,
            remote: stream.remote(),
            common_name: stream.common_name().cloned(),
            is_encrypted: stream.is_encrypted(),
            calls,
            lobby,
        }
    }

    /// `None` if the connection is not in the lobby.
    fn visit(&self) -> Option<Visit> {
        let (lobby, standing) = self.lobby.as_ref().filter(|(_, standing)| !standing.is_member())?;
        Some(Visit::new(lobby.clone(), standing.clone()))
    }

    fn grpc(&self, grpc: &Grpc, request: Request<Incoming>, has_room: bool) -> Handler {
        Handler::Grpc(match has_room {
            true => grpc.call(request, self.calls.load()),
            false => grpc.refuse(request, self.calls.load()),
        })
    }

    /// Endpoints are few and answer at once, so that an operator can see why calls are refused.
    fn endpoint(&self, router: &Router, mut request: Request<Incoming>) -> Handler {
        if self.is_encrypted {
            request.extensions_mut().insert(Encrypted);
        }
        // A router is shared behind its clones, and always ready.
        Handler::Endpoint(router.clone().call(request))
    }
}

impl HyperService<Request<Incoming>> for ByVersion {
    type Response = Response<Answer<Body>>;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, mut request: Request<Incoming>) -> Call {
        let (open, has_room) = self.calls.begin();
        let remote = TcpConnectInfo { local_addr: None, remote_addr: self.remote };
        request.extensions_mut().insert(remote);
        if let Some(name) = &self.common_name {
            request.extensions_mut().insert(name.clone());
        }
        let visit = self.visit();
        if visit.is_some()
            && let Some((_, standing)) = &self.lobby
        {
            request.extensions_mut().insert(standing.clone());
        }
        let handler = match (&self.http2, request.version()) {
            (Http2::Grpc(grpc), Version::HTTP_2) => self.grpc(grpc, request, has_room),
            (Http2::Endpoints(router), Version::HTTP_2) => self.endpoint(router, request),
            (Http2::Both(grpc, _), Version::HTTP_2) if grpc::is_call(&request) => {
                self.grpc(grpc, request, has_room)
            }
            (Http2::Both(_, router), Version::HTTP_2) => {
                self.endpoint(router, request::as_it_was_sent(request))
            }
            _ => self.endpoint(&self.http1, request),
        };
        Call { handler, open: Some(open), visit }
    }
}

/// A call that is not answered yet.
struct Call {
    handler: Handler,
    /// `None` once the answer has begun, which holds it from then on.
    open: Option<Open>,
    /// Of a call that has not begun, on a connection in the lobby.
    visit: Option<Visit>,
}

enum Handler {
    Grpc(grpc::Call),
    Endpoint(RouteFuture<Infallible>),
}

impl Future for Call {
    type Output = Result<Response<Answer<Body>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(visit) = this.visit.as_mut().filter(|visit| !visit.is_over()) {
            ready!(visit.poll_step(cx));
        }
        this.visit = None;
        let Ok(response) = ready!(match &mut this.handler {
            Handler::Grpc(call) => Pin::new(call).poll(cx),
            Handler::Endpoint(call) => Pin::new(call).poll(cx),
        });
        let open = this.open.take().expect("a future is not polled after its end");
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            open.upgraded();
        }
        Poll::Ready(Ok(response.map(|body| Answer::new(body, open))))
    }
}
