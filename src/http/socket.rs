//! The socket of a connection, as our HTTP/2 sees it.
//!
//! Received bytes pass through [`Inbound`]. Reading stops where our HTTP/2 library would otherwise buffer
//! too much: while a client keeps sending requests without reading answers, and after a burst of requests
//! until all of them were started.
//!
//! Two kinds of clients lose their connection here. One does not finish what it has begun to send, and keeps the
//! server waiting ([`Patience`]). The other sends too much of what has no effect, and is sent a GOAWAY frame first.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::JoinHandle,
    time::{self, Sleep},
};

use super::{
    calls::Calls,
    flood::Excess,
    inbound::{Inbound, Unfinished},
    lobby::Visit,
    outbound::{Outbound, goaway},
    patience::Patience,
};
use crate::{
    limits,
    sockets::Io,
    telemetry::Metrics,
    tls::{self, Lines},
};

/// The error code of HTTP/2 for a client that makes too much work.
const ENHANCE_YOUR_CALM: u32 = 11;

/// Log lines about clients that use TLS on a port for plaintext.
static MISPLACED: Lines = Lines::new();

pub(super) struct Socket {
    stream: Io,
    inbound: Inbound,
    outbound: Outbound,
    calls: Arc<Calls>,
    patience: Patience,
    /// Calls that had begun when bytes of HTTP/1 were last received while none was open. If none has
    /// begun since, these bytes are part of a head.
    head_since: Option<usize>,
    received_nothing: bool,
    /// Counts the gRPC traffic of clients: frames and headers included, as a network sees it.
    metrics: Option<Arc<Metrics>>,
    /// Frames received when the client was first found to read nothing, if it still does not.
    blocked_since: Option<u64>,
    /// The task that waits for the client to read something.
    reader: Option<Waker>,
    /// A burst is being started. This task ends once the tasks that were ready before it have run.
    pause: Option<JoinHandle<()>>,
    farewell: Option<Farewell>,
    /// Of a connection in the lobby.
    visit: Option<Visit>,
    /// It has read something since it took its last step.
    owes_step: bool,
}

/// The end of a connection whose client sent too much.
struct Farewell {
    excess: Excess,
    goaway: Vec<u8>,
    sent: usize,
    /// Bytes that were received since and not looked at.
    discarded: usize,
    /// When the client has had enough time to read the frame.
    due: Pin<Box<Sleep>>,
}

impl Socket {
    pub(super) fn new(
        stream: Io,
        inbound: Inbound,
        calls: Arc<Calls>,
        metrics: Option<Arc<Metrics>>,
        visit: Option<Visit>,
    ) -> Socket {
        Socket {
            stream,
            inbound,
            outbound: Outbound::default(),
            calls,
            patience: Patience::default(),
            head_since: Some(0),
            received_nothing: true,
            metrics,
            blocked_since: None,
            reader: None,
            pause: None,
            farewell: None,
            visit,
            owes_step: false,
        }
    }

    /// Whether the first bytes of a connection in plaintext are those of a TLS handshake.
    fn is_misplaced_tls(&self, new: &[u8]) -> bool {
        self.received_nothing && new.first() == Some(&tls::FIRST_BYTE) && !self.stream.is_encrypted()
    }

    fn refuse_tls(&self) -> io::Error {
        let text = "tls: TLS handshake on a port for plaintext; use an http:// URL, or have the server listen on https://";
        if MISPLACED.may_write() {
            let remote = self.stream.remote().map(|remote| remote.to_string()).unwrap_or_default();
            let endpoint = if self.metrics.is_some() { "client" } else { "peer" };
            tracing::warn!(
                "remote-addr" = remote,
                error = text,
                "rejected connection on {endpoint} endpoint"
            );
        }
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// Takes note of received bytes. The first so many of them are passed on.
    fn received(&mut self, new: &[u8]) -> usize {
        let mut passed = self.inbound.received(new);
        if self.inbound.excess().is_some() {
            // The connection is about to end, and our HTTP/2 need not work for it any more.
            passed = 0;
        }
        if self.inbound.is_not_http2() {
            if !self.calls.has_open() {
                self.head_since = Some(self.calls.begun());
            }
        } else if let Some(metrics) = &self.metrics {
            metrics.client_received_bytes.inc_by(new.len() as u64);
        }
        match self.unfinished() {
            Some(Unfinished::Head) => self.patience.received(new.len(), limits::HEAD_PROGRESS_BYTES),
            Some(Unfinished::Frame) => self.patience.received(new.len(), limits::BODY_PROGRESS_BYTES),
            None => self.patience.reset(),
        }
        passed
    }

    /// What the client has begun to send and not finished.
    fn unfinished(&self) -> Option<Unfinished> {
        if !self.inbound.is_not_http2() {
            return self.inbound.unfinished();
        }
        // Other protocols than HTTP have no heads.
        let is_head = !self.calls.is_upgraded()
            && !self.calls.has_open()
            && self.head_since == Some(self.calls.begun());
        is_head.then_some(Unfinished::Head)
    }

    /// Pays for what a connection in the lobby has read before. Ready with an error if it has been there for too
    /// long.
    fn poll_visit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(visit) = self.visit.as_mut().filter(|visit| !visit.is_over()) else {
            self.visit = None;
            return Poll::Ready(Ok(()));
        };
        if visit.poll_too_long(cx).is_ready() {
            let text = "no member has made a call on the connection";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        if self.owes_step {
            ready!(visit.poll_step(cx));
            self.owes_step = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing was received. Ready with an error if the client had to send something for too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.unfinished().is_none() {
            self.patience.reset();
            return Poll::Pending;
        }
        ready!(self.patience.poll_over(cx));
        let text = "the client did not finish the request that it had begun to send";
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>, slices: &[IoSlice<'_>]) {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.blocked_since = None;
                if let Some(reader) = self.reader.take() {
                    reader.wake();
                }
                if self.inbound.is_not_http2() {
                    return;
                }
                let mut left = *bytes;
                for slice in slices {
                    let sent = left.min(slice.len());
                    self.outbound.sent(&slice[..sent]);
                    left -= sent;
                }
                match self.outbound.take_answers() {
                    0 => {}
                    answers => self.inbound.answered(answers),
                }
                if let Some(metrics) = &self.metrics {
                    metrics.client_sent_bytes.inc_by(*bytes as u64);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                self.blocked_since.get_or_insert(self.inbound.frames());
            }
        }
    }

    /// Whether the client has asked for enough without reading anything.
    pub(super) fn is_choked(&self) -> bool {
        self.blocked_since
            .is_some_and(|since| self.inbound.frames() - since > limits::HTTP2_FRAMES_UNANSWERED)
    }

    /// Ends the connection if the client sent too much. Ready with the error that ends it.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(excess) = self.inbound.excess() else { return Poll::Pending };
        let last_stream_id = self.inbound.last_stream_id();
        let farewell = self.farewell.get_or_insert_with(|| Farewell {
            excess,
            goaway: goaway(last_stream_id, ENHANCE_YOUR_CALM, excess.debug_data()),
            sent: 0,
            discarded: 0,
            due: Box::pin(time::sleep(limits::HTTP2_GOAWAY_TIMEOUT)),
        });
        let is_over = farewell.due.as_mut().poll(cx).is_ready()
            || farewell.poll_say(&mut self.stream, &self.outbound, cx).is_ready();
        match is_over {
            true => Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, farewell.excess)),
            false => Poll::Pending,
        }
    }
}

impl Farewell {
    /// Sends the GOAWAY frame and waits until the client has closed its side. What it still sends is
    /// discarded, because closing a socket with unread bytes could destroy the frame on its way. From a client
    /// that goes on sending, nothing more is read after a while: reading would be the work that it wants.
    fn poll_say(&mut self, stream: &mut Io, outbound: &Outbound, cx: &mut Context<'_>) -> Poll<()> {
        if !outbound.is_between_frames() {
            return Poll::Pending;
        }
        while self.sent < self.goaway.len() {
            match ready!(Pin::new(&mut *stream).poll_write(cx, &self.goaway[self.sent..])) {
                Ok(sent) if sent > 0 => self.sent += sent,
                _ => return Poll::Ready(()),
            }
        }
        if ready!(Pin::new(&mut *stream).poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        let mut discarded = [0; 4096];
        while self.discarded < limits::HTTP2_GOAWAY_DISCARD_BYTES {
            let mut discarded = ReadBuf::new(&mut discarded);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut discarded)) {
                Ok(()) if !discarded.filled().is_empty() => self.discarded += discarded.filled().len(),
                _ => return Poll::Ready(()),
            }
        }
        // Until its time is over.
        Poll::Pending
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
            if this.inbound.excess().is_some() {
                return Poll::Ready(Err(ready!(this.poll_farewell(cx))));
            }
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
            ready!(this.poll_visit(cx))?;
            match read(Pin::new(&mut this.stream), cx, buffer) {
                Poll::Ready(read) => read?,
                Poll::Pending => return Poll::Ready(Err(ready!(this.poll_late(cx)))),
            }
            this.owes_step = this.visit.is_some();
            let received = &buffer.filled()[before..];
            if received.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if this.is_misplaced_tls(received) {
                return Poll::Ready(Err(this.refuse_tls()));
            }
            this.received_nothing = false;
            let passed = this.received(received);
            buffer.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Reads what there is, but no more than is looked at in one go.
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
        if this.inbound.excess().is_some() {
            return this.poll_write_rest_of_frame(cx, bytes);
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(&written, &[IoSlice::new(bytes)]);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.inbound.excess().is_some() {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return this.poll_write_rest_of_frame(cx, first.map_or(&[], |slice| slice));
        }
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.wrote(&written, slices);
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

impl Socket {
    /// Writes no more than the frame that was begun: the GOAWAY frame comes next, and then the end.
    fn poll_write_rest_of_frame(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.outbound.is_between_frames() {
            let rest = &bytes[..bytes.len().min(self.outbound.left_of_frame())];
            let written = Pin::new(&mut self.stream).poll_write(cx, rest);
            if written.is_ready() {
                self.wrote(&written, &[IoSlice::new(rest)]);
                return written;
            }
        }
        Poll::Ready(Err(ready!(self.poll_farewell(cx))))
    }
}
