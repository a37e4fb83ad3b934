//! Connections, from the accepted socket to their close.
//!
//! The first bytes of a connection decide the protocol: HTTP/2 with prior knowledge is gRPC, anything
//! else is HTTP/1 and goes to the HTTP endpoints. The tasks of a connection stay on the runtime that
//! serves it.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::future::RouteFuture};
use futures_util::future::Either;
use http::{Request, Response, Version};
use hyper::{body::Incoming, service::Service as HyperService};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tonic::transport::server::TcpConnectInfo;
use tower::Service;

use super::{Probe, grpc, grpc::Grpc, inbound::Inbound, router, socket::Socket};
use crate::{limits, sockets::Io, telemetry::Metrics};

/// How long a client may take to send the head of an HTTP/1 request.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5 * 60);

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
    /// As the log names it.
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
    metrics: Arc<Metrics>,
}

impl Services {
    /// `names` are those of the services in `grpc`.
    pub(crate) fn new<P: Probe>(
        node: &P,
        grpc: tonic::service::Routes,
        names: &'static [&'static str],
    ) -> Services {
        let config = node.config();
        let message_bytes_max = config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES;
        let mut builder = builder();
        let mut http2 = builder.http2();
        http2.max_concurrent_streams(config.max_concurrent_streams);
        if let Some(keepalive) = config.grpc_keepalive {
            http2.keep_alive_interval(keepalive.interval).keep_alive_timeout(keepalive.timeout);
        }
        Services {
            grpc: Grpc { router: grpc.prepare().into_axum_router(), names, message_bytes_max },
            http: router::client_router(node),
            metrics_only: router::metrics_router(node),
            builder,
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
            Protocols::GrpcAndHttp | Protocols::Grpc => Http2::Grpc(self.grpc.clone()),
            Protocols::Http | Protocols::Metrics => Http2::Endpoints(http.clone()),
        };
        let service = ByVersion { http2, http1: http.clone(), remote: stream.remote() };
        serve(stream, Some(self.metrics.clone()), &builder, service, graceful);
    }
}

/// The services that members call on each other.
pub(crate) struct PeerServices {
    grpc: Grpc,
    builder: auto::Builder<TokioExecutor>,
    /// A member that stops does not wait for the connections of its peers.
    graceful: GracefulShutdown,
}

impl PeerServices {
    pub(crate) fn new(grpc: tonic::service::Routes, names: &'static [&'static str]) -> PeerServices {
        let router = grpc.prepare().into_axum_router();
        let mut builder = builder();
        // With keepalive pings, the connection of a peer that lost power is closed.
        builder
            .http2()
            .max_concurrent_streams(None)
            .keep_alive_interval(PEER_KEEPALIVE)
            .keep_alive_timeout(PEER_KEEPALIVE);
        PeerServices {
            grpc: Grpc { router, names, message_bytes_max: limits::PEER_MESSAGE_BYTES_MAX },
            builder: builder.http2_only(),
            graceful: GracefulShutdown::new(),
        }
    }

    /// Serves the connection in a task of its own until it closes.
    pub(crate) fn serve(&self, stream: Io) {
        let service = ByVersion {
            http2: Http2::Grpc(self.grpc.clone()),
            http1: self.grpc.router.clone(),
            remote: stream.remote(),
        };
        serve(stream, None, &self.builder, service, &self.graceful);
    }
}

fn serve(
    stream: Io,
    metrics: Option<Arc<Metrics>>,
    builder: &auto::Builder<TokioExecutor>,
    service: ByVersion,
    graceful: &GracefulShutdown,
) {
    let inbound = match service.http2 {
        Http2::Grpc(_) => Inbound::default(),
        Http2::Endpoints(_) => Inbound::passing(),
    };
    let io = TokioIo::new(Socket::new(stream, inbound, metrics));
    let connection = builder.serve_connection(io, service).into_owned();
    let connection = graceful.watch(connection);
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
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .max_pending_accept_reset_streams(limits::HTTP2_RESETS_PENDING)
        // This counts for as long as the connection lives, so that a busy client gets there in the
        // end. What it is for, that a client that reads nothing makes us collect what we have to
        // tell it, is bounded where such a client's frames are read: `socket.rs`.
        .max_local_error_reset_streams(None);
    builder
}

/// Routes a request to the service for its protocol.
struct ByVersion {
    http2: Http2,
    http1: Router,
    /// Who asks, as far as there is a name for it.
    remote: Option<SocketAddr>,
}

enum Http2 {
    Grpc(Grpc),
    Endpoints(Router),
}

impl HyperService<Request<Incoming>> for ByVersion {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<grpc::Call, RouteFuture<Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let remote = TcpConnectInfo { local_addr: None, remote_addr: self.remote };
        request.extensions_mut().insert(remote);
        // A router is shared behind its clones, and always ready.
        match (&self.http2, request.version()) {
            (Http2::Grpc(grpc), Version::HTTP_2) => Either::Left(grpc.call(request)),
            (Http2::Endpoints(router), Version::HTTP_2) => Either::Right(router.clone().call(request)),
            _ => Either::Right(self.http1.clone().call(request)),
        }
    }
}
