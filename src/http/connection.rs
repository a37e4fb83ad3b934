//! One connection, from the accepted socket to its close.
//!
//! The first bytes decide: HTTP/2 comes with prior knowledge and is gRPC, anything else is
//! HTTP/1 and goes to the endpoints. The connection's tasks stay on the runtime that it was
//! served on.

use std::{
    convert::Infallible,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, routing::future::RouteFuture};
use http::{Request, Response, Version};
use hyper::{body::Incoming, service::Service as HyperService};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service;

use crate::{config::Config, limits, sockets::Io, telemetry::Metrics};

use super::{Probe, authority::FirstRequest, router};

/// How long a client may take to send the head of an HTTP/1 request.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// What is spoken on a port.
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

/// Everything that connections can ask for. One per reactor.
pub(crate) struct Services {
    grpc: Router,
    http: Router,
    metrics_only: Router,
    builder: auto::Builder<TokioExecutor>,
    metrics: Arc<Metrics>,
}

impl Services {
    pub(crate) fn new<P: Probe>(node: &P, grpc: tonic::service::Routes) -> Services {
        Services {
            grpc: grpc.prepare().into_axum_router(),
            http: router::client_router(node),
            metrics_only: router::metrics_router(node),
            builder: builder(node.config()),
            metrics: node.metrics().clone(),
        }
    }

    /// Serves the connection in a task of its own until it closes, or until `graceful` shuts down
    /// and what has begun is answered.
    pub(crate) fn serve(&self, stream: Io, protocols: Protocols, graceful: &GracefulShutdown) {
        let (grpc, http, builder) = match protocols {
            Protocols::GrpcAndHttp => (&self.grpc, &self.http, self.builder.clone()),
            Protocols::Grpc => (&self.grpc, &self.grpc, self.builder.clone().http2_only()),
            Protocols::Http => (&self.http, &self.http, self.builder.clone()),
            Protocols::Metrics => (&self.metrics_only, &self.metrics_only, self.builder.clone()),
        };
        let service = ByVersion { http2: grpc.clone(), http1: http.clone() };
        let io = TokioIo::new(Counted {
            stream,
            peer: Peer::Unknown,
            first_request: FirstRequest::default(),
            metrics: self.metrics.clone(),
        });
        let connection = builder.serve_connection(io, service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // Clients vanish all the time; an operator who looks for one finds it at debug.
            if let Err(error) = connection.await {
                tracing::debug!(error = &*error, "connection ended");
            }
        });
    }
}

fn builder(config: &Config) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    let mut http2 = builder.http2();
    http2
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(config.max_concurrent_streams)
        .max_pending_accept_reset_streams(limits::HTTP2_RESETS_PENDING);
    if let Some(keepalive) = config.grpc_keepalive {
        http2.keep_alive_interval(keepalive.interval).keep_alive_timeout(keepalive.timeout);
    }
    builder
}

/// Sends a request to the router of its protocol.
struct ByVersion {
    http2: Router,
    http1: Router,
}

impl HyperService<Request<Incoming>> for ByVersion {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn call(&self, request: Request<Incoming>) -> RouteFuture<Infallible> {
        // A router is shared behind its clones, and always ready.
        let router = match request.version() {
            Version::HTTP_2 => &self.http2,
            _ => &self.http1,
        };
        router.clone().call(request)
    }
}

/// A socket whose gRPC traffic is counted: frames and headers included, as a network sees it.
struct Counted {
    stream: Io,
    peer: Peer,
    first_request: FirstRequest,
    metrics: Arc<Metrics>,
}

/// What the first bytes gave away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Unknown,
    Grpc,
    Other,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let new = &mut buffer.filled_mut()[before..];
        self.first_request.received(new);
        if self.peer == Peer::Unknown && !new.is_empty() {
            // HTTP/2 begins with "PRI", and no method of HTTP/1 does. A client that sends less
            // than that at first is not worth a buffer here: its bytes go uncounted.
            self.peer = if new.starts_with(b"PRI") { Peer::Grpc } else { Peer::Other };
        }
        if self.peer == Peer::Grpc {
            self.metrics.client_received_bytes.inc_by(new.len() as u64);
        }
        read
    }
}

impl Counted {
    fn count_sent(&self, written: &Poll<io::Result<usize>>) {
        if let (Poll::Ready(Ok(bytes)), Peer::Grpc) = (written, self.peer) {
            self.metrics.client_sent_bytes.inc_by(*bytes as u64);
        }
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.count_sent(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.count_sent(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
