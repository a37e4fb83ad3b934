//! The values in the body of a request.
//!
//! A call of one request reads the first value of the body. A stream of requests reads one value after another, as
//! its service asks for them: what the service does not ask for is not read from the connection.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tokio::runtime;
use tonic::Status;

use super::{
    decode::{PREFIX_BYTES, decode},
    scanner::{Scanned, Scanner},
    schema::Message,
};
use crate::{
    http::{Held, Load, Patience, discard},
    limits,
};

/// Bounds of a request.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// Bytes of a message.
    pub(super) message_bytes_max: usize,
    /// The memory for values that do not arrive at once, which all connections share.
    pub(super) load: Arc<Load>,
}

/// The message of a request that is followed by no other, with its prefix.
pub(super) async fn single(body: Body, message: &'static Message, bounds: &Bounds) -> Result<Bytes, Status> {
    let mut values = Values::new(body, false, bounds.clone());
    let value = poll_fn(|cx| values.poll_next(cx)).await;
    if value.is_err() {
        discard(std::mem::take(&mut values.body)).await;
    }
    let value = value?;
    // A body without a value is a message without fields.
    let value = value.unwrap_or(Bytes::from_static(b"{}"));
    // As in etcd, whatever follows it does not count.
    transcoded(&value, message, bounds)
}

fn transcoded(value: &[u8], message: &'static Message, bounds: &Bounds) -> Result<Bytes, Status> {
    let decoded = decode(value, message).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let length = decoded.len() - PREFIX_BYTES;
    if length > bounds.message_bytes_max {
        return Err(too_large(length, bounds.message_bytes_max));
    }
    Ok(decoded.into())
}

fn too_large(length: usize, message_bytes_max: usize) -> Status {
    let text = format!("grpc: received message larger than max ({length} vs. {message_bytes_max})");
    Status::resource_exhausted(text)
}

/// A stream of requests, as the body of a gRPC call.
pub(super) struct Requests {
    values: Values,
    message: &'static Message,
    is_over: bool,
}

impl Requests {
    pub(super) fn new(body: Body, message: &'static Message, bounds: Bounds) -> Requests {
        Requests { values: Values::new(body, true, bounds), message, is_over: false }
    }
}

impl HttpBody for Requests {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        let message = match ready!(this.values.poll_next(cx)) {
            Ok(Some(value)) => transcoded(&value, this.message, &this.values.bounds),
            Ok(None) => {
                this.is_over = true;
                return Poll::Ready(None);
            }
            Err(refusal) => Err(refusal),
        };
        this.is_over = message.is_err();
        Poll::Ready(Some(message.map(Frame::data)))
    }
}

struct Values {
    body: Body,
    /// Whether the client may take as long as it likes between two values.
    is_stream: bool,
    bounds: Bounds,
    /// The length of a value's text that is refused, because its message must be too large as well.
    text_bytes_max: usize,
    scanner: Scanner,
    /// The beginning of a value.
    held: Vec<u8>,
    /// Received, and not held yet. It was scanned if `is_scanned` is set.
    chunk: Bytes,
    is_scanned: bool,
    has_ended: bool,
    memory: Option<Held>,
    /// What `memory` is for.
    memory_bytes: usize,
    patience: Patience,
}

impl Values {
    fn new(body: Body, is_stream: bool, bounds: Bounds) -> Values {
        let text_bytes_max = limits::json_bytes_max(bounds.message_bytes_max);
        Values {
            body,
            is_stream,
            bounds,
            text_bytes_max,
            scanner: Scanner::default(),
            held: Vec::new(),
            chunk: Bytes::new(),
            is_scanned: false,
            has_ended: false,
            memory: None,
            memory_bytes: 0,
            patience: Patience::default(),
        }
    }

    /// The next value, without space in front of it; `None` if there is no further one.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if self.is_scanned {
                ready!(self.poll_hold(cx))?;
            } else if !self.chunk.is_empty() {
                match self.scanner.scan(&self.chunk) {
                    Ok(Scanned::End(length)) => {
                        let end = self.chunk.split_to(length);
                        return Poll::Ready(Ok(Some(self.value(end))));
                    }
                    // Space between values is not held.
                    Ok(Scanned::Part) if self.scanner.is_between() => self.chunk.clear(),
                    Ok(Scanned::Part) => self.is_scanned = true,
                    Err(error) => return Poll::Ready(Err(Status::invalid_argument(error.to_string()))),
                }
            } else if self.has_ended {
                return Poll::Ready(self.last());
            } else {
                ready!(self.poll_receive(cx))?;
            }
        }
    }

    /// The value that ends with these bytes.
    fn value(&mut self, end: Bytes) -> Bytes {
        self.memory = None;
        self.memory_bytes = 0;
        let value = if self.held.is_empty() {
            end
        } else {
            self.held.extend_from_slice(&end);
            Bytes::from(std::mem::take(&mut self.held))
        };
        let space = value.len() - value.trim_ascii_start().len();
        value.slice(space..)
    }

    /// What the end of the body makes of what was received.
    fn last(&mut self) -> Result<Option<Bytes>, Status> {
        if self.scanner.is_between() {
            return Ok(None);
        }
        if self.scanner.is_complete_at_end() {
            self.scanner.reset();
            return Ok(Some(self.value(Bytes::new())));
        }
        Err(Status::invalid_argument("unexpected EOF"))
    }

    /// Holds the chunk, as a part of a value that goes on behind it, once there is memory for that.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let length = self.held.len() + self.chunk.len();
        if length > self.text_bytes_max {
            return Poll::Ready(Err(too_large(length, self.bounds.message_bytes_max)));
        }
        let is_large = length > limits::SMALL_MESSAGE_BYTES;
        if length > self.memory_bytes {
            self.memory_bytes = match (is_large, self.body.size_hint().upper()) {
                (false, _) => limits::SMALL_MESSAGE_BYTES,
                (true, Some(left)) => length.saturating_add(left as usize).min(self.text_bytes_max),
                (true, None) => self.text_bytes_max,
            };
            self.memory = Some(self.bounds.load.bytes_for(self.memory_bytes));
        }
        if let Some(memory) = &mut self.memory {
            ready!(memory.poll_granted(cx));
        }
        if is_large && self.held.capacity() < self.memory_bytes {
            // In one piece: growing step by step would take up to three times as much as was granted.
            self.held.reserve_exact(self.memory_bytes - self.held.len());
        }
        self.held.extend_from_slice(&self.chunk);
        self.chunk.clear();
        self.is_scanned = false;
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.patience.received(data.len(), limits::BODY_PROGRESS_BYTES);
                    self.chunk = data;
                }
            }
            Poll::Ready(Some(Err(_))) => {
                return Poll::Ready(Err(Status::cancelled("the client has ended the call")));
            }
            Poll::Ready(None) => self.has_ended = true,
            Poll::Pending if self.is_stream && self.scanner.is_between() => {
                self.patience.reset();
                return Poll::Pending;
            }
            Poll::Pending => {
                ready!(self.patience.poll_over(cx));
                let period = limits::CLIENT_PATIENCE;
                let text =
                    format!("the request is incomplete, and its client sent no more of it for {period:?}");
                return Poll::Ready(Err(Status::unavailable(text)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        // Without a runtime the connection no longer exists either.
        if !self.has_ended
            && !self.body.is_end_stream()
            && let Ok(runtime) = runtime::Handle::try_current()
        {
            runtime.spawn(discard(std::mem::take(&mut self.body)));
        }
    }
}
