//! One connection: over TCP, over a Unix socket, or in memory; in plaintext or encrypted.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::descriptors::Place;
use crate::{
    tls::{Dialled, Opened, Transport},
    types::CommonName,
};

/// Idle time after which the kernel sends a TCP keepalive probe, and the time between two probes. So
/// the connection of a machine that lost power is closed and its descriptor freed.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// A connection.
pub(crate) struct Io {
    stream: Stream,
    /// Held by an accepted connection, and freed when the connection closes.
    _place: Option<Place>,
}

enum Stream {
    /// As it was dialled, or in memory.
    Plaintext(Wire),
    Accepted(Opened<Wire>),
    Dialled(Box<Dialled<Wire>>),
}

/// What carries the bytes.
pub(super) enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
    Memory(DuplexStream),
}

impl Wire {
    pub(super) fn tcp(stream: TcpStream) -> Wire {
        // Messages are small and latency matters, so none is delayed to be sent together with the next.
        let options = stream.set_nodelay(true).and_then(|()| keep_alive(&stream));
        if let Err(error) = options {
            tracing::debug!(%error, "cannot set the options of a connection");
        }
        Wire::Tcp(stream)
    }
}

impl Transport for Wire {
    async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let count = match self {
            Wire::Tcp(stream) => stream.peek(&mut byte).await?,
            Wire::Unix(stream) => {
                stream
                    .async_io(Interest::READABLE, || {
                        Ok(rustix::net::recv(stream, &mut byte[..], RecvFlags::PEEK)?.1)
                    })
                    .await?
            }
            Wire::Memory(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok((count > 0).then_some(byte[0]))
    }

    fn remote(&self) -> Option<SocketAddr> {
        match self {
            Wire::Tcp(stream) => stream.peer_addr().ok(),
            Wire::Unix(_) | Wire::Memory(_) => None,
        }
    }
}

impl Io {
    /// A connection whose other end is in this process.
    pub(crate) fn in_memory(stream: DuplexStream) -> Io {
        Io::plaintext(Wire::Memory(stream))
    }

    #[cfg(test)]
    pub(crate) fn tcp(stream: TcpStream) -> Io {
        Io::plaintext(Wire::tcp(stream))
    }

    pub(super) fn plaintext(wire: Wire) -> Io {
        Io { stream: Stream::Plaintext(wire), _place: None }
    }

    pub(super) fn dialled(stream: Dialled<Wire>) -> Io {
        Io { stream: Stream::Dialled(Box::new(stream)), _place: None }
    }

    pub(super) fn accepted(opened: Opened<Wire>, place: Place) -> Io {
        Io { stream: Stream::Accepted(opened), _place: Some(place) }
    }

    /// The address of the other side; `None` if the connection is not over TCP.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        match &self.stream {
            Stream::Plaintext(wire) | Stream::Accepted(Opened::Plaintext(wire)) => wire.remote(),
            Stream::Accepted(Opened::Tls(stream, _)) => stream.get_ref().0.remote(),
            Stream::Dialled(stream) => stream.get_ref().0.remote(),
        }
    }

    /// Whether nobody between the two sides can read it.
    pub(crate) fn is_encrypted(&self) -> bool {
        match &self.stream {
            Stream::Plaintext(_) | Stream::Accepted(Opened::Plaintext(_)) => false,
            Stream::Accepted(Opened::Tls(..)) | Stream::Dialled(_) => true,
        }
    }

    /// The name in the certificate of the client, if that is the name of a user.
    pub(crate) fn common_name(&self) -> Option<&CommonName> {
        match &self.stream {
            Stream::Accepted(Opened::Tls(_, name)) => name.as_ref(),
            _ => None,
        }
    }
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, TCP_KEEPALIVE)?;
    rustix::net::sockopt::set_tcp_keepintvl(stream, TCP_KEEPALIVE)?;
    Ok(())
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plaintext(stream) | Stream::Accepted(Opened::Plaintext(stream)) => {
                Pin::new(stream).poll_read(context, buffer)
            }
            Stream::Accepted(Opened::Tls(stream, _)) => Pin::new(stream).poll_read(context, buffer),
            Stream::Dialled(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plaintext(stream) | Stream::Accepted(Opened::Plaintext(stream)) => {
                Pin::new(stream).poll_write(context, bytes)
            }
            Stream::Accepted(Opened::Tls(stream, _)) => Pin::new(stream).poll_write(context, bytes),
            Stream::Dialled(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plaintext(stream) | Stream::Accepted(Opened::Plaintext(stream)) => {
                Pin::new(stream).poll_write_vectored(context, slices)
            }
            Stream::Accepted(Opened::Tls(stream, _)) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Dialled(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plaintext(stream) | Stream::Accepted(Opened::Plaintext(stream)) => {
                stream.is_write_vectored()
            }
            Stream::Accepted(Opened::Tls(stream, _)) => stream.is_write_vectored(),
            Stream::Dialled(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plaintext(stream) | Stream::Accepted(Opened::Plaintext(stream)) => {
                Pin::new(stream).poll_flush(context)
            }
            Stream::Accepted(Opened::Tls(stream, _)) => Pin::new(stream).poll_flush(context),
            Stream::Dialled(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plaintext(stream) | Stream::Accepted(Opened::Plaintext(stream)) => {
                Pin::new(stream).poll_shutdown(context)
            }
            Stream::Accepted(Opened::Tls(stream, _)) => Pin::new(stream).poll_shutdown(context),
            Stream::Dialled(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Wire::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Wire::Memory(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Wire::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Memory(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Wire::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Wire::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Wire::Memory(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Wire::Tcp(stream) => stream.is_write_vectored(),
            Wire::Unix(stream) => stream.is_write_vectored(),
            Wire::Memory(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Wire::Unix(stream) => Pin::new(stream).poll_flush(context),
            Wire::Memory(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Memory(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
