//! The socket of a connection, as our HTTP/2 sees it.
//!
//! Received bytes pass through [`Inbound`]. Reading stops where our HTTP/2 library would otherwise buffer
//! too much: while a client keeps sending requests without reading answers, and after a burst of requests
//! until all of them were started.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::JoinHandle,
};

use super::inbound::Inbound;
use crate::{limits, sockets::Io, telemetry::Metrics};

pub(super) struct Socket {
    stream: Io,
    peer: Peer,
    inbound: Inbound,
    /// Counts the gRPC traffic of clients: frames and headers included, as a network sees it.
    metrics: Option<Arc<Metrics>>,
    /// Frames received when the client was first found to take nothing, if it still does not.
    blocked_since: Option<u64>,
    /// Who waits for the client to take something.
    reader: Option<Waker>,
    /// A burst is being taken on. This task ends once those that were ready before it have run.
    pause: Option<JoinHandle<()>>,
}

/// What the first bytes gave away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Unknown,
    Grpc,
    Other,
}

impl Socket {
    pub(super) fn new(stream: Io, inbound: Inbound, metrics: Option<Arc<Metrics>>) -> Socket {
        Socket {
            stream,
            peer: Peer::Unknown,
            inbound,
            metrics,
            blocked_since: None,
            reader: None,
            pause: None,
        }
    }

    fn count_received(&mut self, new: &[u8]) {
        let Some(metrics) = &self.metrics else { return };
        if self.peer == Peer::Unknown && !new.is_empty() {
            // HTTP/2 begins with "PRI", and no method of HTTP/1 does. A client that sends less
            // than that at first is not worth a buffer here: its bytes go uncounted.
            self.peer = if new.starts_with(b"PRI") { Peer::Grpc } else { Peer::Other };
        }
        if self.peer == Peer::Grpc {
            metrics.client_received_bytes.inc_by(new.len() as u64);
        }
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.blocked_since = None;
                if let Some(reader) = self.reader.take() {
                    reader.wake();
                }
                if let (Some(metrics), Peer::Grpc) = (&self.metrics, self.peer) {
                    metrics.client_sent_bytes.inc_by(*bytes as u64);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                self.blocked_since.get_or_insert(self.inbound.frames());
            }
        }
    }

    /// Whether the client has asked for enough without taking anything.
    pub(super) fn is_choked(&self) -> bool {
        self.blocked_since
            .is_some_and(|since| self.inbound.frames() - since > limits::HTTP2_FRAMES_UNANSWERED)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        loop {
            if let Some(pause) = &mut this.pause {
                // It does nothing that could fail.
                let _ = ready!(Pin::new(pause).poll(cx));
                this.pause = None;
            }
            if this.is_choked() {
                this.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if this.inbound.take_burst() {
                this.pause = Some(tokio::spawn(async {}));
                continue;
            }
            this.inbound.take_ready(buffer);
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(read(Pin::new(&mut this.stream), cx, buffer))?;
            let received = &buffer.filled()[before..];
            if received.is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.count_received(received);
            let passed = this.inbound.received(received);
            buffer.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Reads what there is, but for more than is looked at in one go.
fn read(stream: Pin<&mut Io>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    if buffer.remaining() <= limits::HTTP2_READ_BYTES {
        return stream.poll_read(cx, buffer);
    }
    let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(limits::HTTP2_READ_BYTES));
    ready!(stream.poll_read(cx, &mut piece))?;
    let length = piece.filled().len();
    buffer.advance(length);
    Poll::Ready(Ok(()))
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
