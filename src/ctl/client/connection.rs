//! One connection to one endpoint.

use std::{
    error::Error,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::oneshot,
    time,
};
use tonic::body::Body;

use super::endpoint::{Address, Endpoint};
use crate::{limits, tls::Trust};

/// Cheap to clone: the clones share the connection.
#[derive(Clone, Debug)]
pub(super) struct Connection(http2::SendRequest<Body>);

/// The connection has failed a request.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Broken(#[source] hyper::Error);

/// When a silent connection is probed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keepalive {
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
}

impl Connection {
    /// `trust` is `None` for a connection in plaintext.
    pub(super) async fn dial(
        endpoint: &Endpoint,
        trust: Option<&Trust>,
        keepalive: Keepalive,
    ) -> io::Result<Connection> {
        let dialling = async {
            match &endpoint.address {
                Address::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    secure(stream, endpoint, trust, keepalive).await
                }
                Address::Unix(path) => secure(unix(path).await?, endpoint, trust, keepalive).await,
            }
        };
        time::timeout(limits::CTL_DIAL_TIMEOUT, dialling).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// An etcd that listens at `unix://localhost:1` has a socket of that name in its directory.
async fn unix(path: &str) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

async fn secure<S>(
    stream: S,
    endpoint: &Endpoint,
    trust: Option<&Trust>,
    keepalive: Keepalive,
) -> io::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match trust {
        None => handshake(stream, keepalive).await,
        Some(trust) => handshake(trust.connect(&endpoint.host, stream).await?, keepalive).await,
    }
}

async fn handshake<S>(stream: S, keepalive: Keepalive) -> io::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (first_bytes, greeted) = oneshot::channel();
    let stream = Greeted { stream, first_bytes: Some(first_bytes) };
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(keepalive.interval))
        .keep_alive_timeout(keepalive.timeout)
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // Requests learn of the end of the connection by themselves.
    let driver = tokio::spawn(driver);
    match greeted.await {
        Ok(()) => Ok(Connection(sender)),
        Err(_) => Err(match driver.await {
            Ok(Err(error)) => io::Error::other(innermost(&error)),
            Ok(Ok(())) | Err(_) => io::Error::other("the server has closed the connection"),
        }),
    }
}

fn innermost(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

/// A stream that says when the first bytes have been read from it. A server that is one of HTTP/2, and that takes the
/// certificate of this client, sends some at once; until then there is no connection that requests could be sent on.
struct Greeted<S> {
    stream: S,
    first_bytes: Option<oneshot::Sender<()>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before
            && let Some(first_bytes) = self.first_bytes.take()
        {
            // Whoever dialled may have given up.
            let _ = first_bytes.send(());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl tower::Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Broken>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.0.poll_ready(context).map_err(Broken)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.send_request(request);
        Box::pin(async { answer.await.map_err(Broken) })
    }
}

impl Broken {
    /// The request has not left this process.
    pub(super) fn is_unsent(&self) -> bool {
        self.0.is_canceled()
    }
}
