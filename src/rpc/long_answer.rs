//! Answers to ranges that are sent while they are read.
//!
//! ```text
//! prefix, header, first keys | piece | piece | ... | more, count | trailers
//! ```
//!
//! A long answer is one message like any other, whose length comes first. The fields of a message may be
//! encoded one after the other, so its pieces are messages that have only some of the fields.
//!
//! The handler of the call returns a placeholder, because our gRPC library encodes answers as a whole. The
//! interceptor puts the body of the long answer in its place.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use parking_lot::Mutex;
use prost::Message;
use tokio::time;
use tonic::{Response, Status, body::Body};

use super::render;
use crate::{limits, node::Tail, pb::etcdserverpb::RangeResponse, types::KeyValue};

/// The largest message that etcd sends.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// Flags and length before a message.
const PREFIX_BYTES: usize = 5;
const NOT_COMPRESSED: u8 = 0;

/// What a range is answered with.
pub(super) enum RangeAnswer {
    Whole(RangeResponse),
    Long { body: LongAnswer, count: i64, size: usize },
}

impl RangeAnswer {
    /// With a tail, `response` has the first keys only.
    pub(super) fn new(response: RangeResponse, tail: Option<Tail>) -> Result<RangeAnswer, Status> {
        let Some(tail) = tail else { return Ok(RangeAnswer::Whole(response)) };
        let count = response.count;
        let (body, size) = LongAnswer::new(response, tail)?;
        Ok(RangeAnswer::Long { body, count, size })
    }

    pub(super) fn count(&self) -> i64 {
        match self {
            RangeAnswer::Whole(response) => response.count,
            RangeAnswer::Long { count, .. } => *count,
        }
    }

    /// In bytes.
    pub(super) fn size(&self) -> i64 {
        match self {
            RangeAnswer::Whole(response) => response.encoded_len() as i64,
            RangeAnswer::Long { size, .. } => *size as i64,
        }
    }

    pub(super) fn into_response(answer: Response<RangeAnswer>) -> Response<RangeResponse> {
        let (metadata, answer, mut extensions) = answer.into_parts();
        let response = match answer {
            RangeAnswer::Whole(response) => response,
            RangeAnswer::Long { body, .. } => {
                extensions.insert(body);
                RangeResponse::default()
            }
        };
        Response::from_parts(metadata, response, extensions)
    }
}

/// The body of a long answer, on its way to the interceptor.
#[derive(Clone)]
pub(super) struct LongAnswer(Arc<Mutex<Option<Body>>>);

impl LongAnswer {
    /// Also returns the length of the message.
    fn new(first: RangeResponse, tail: Tail) -> Result<(LongAnswer, usize), Status> {
        let end = RangeResponse { more: first.more, count: first.count, ..RangeResponse::default() };
        let first = RangeResponse { more: false, count: 0, ..first };
        let size = first.encoded_len() + tail.bytes() + end.encoded_len();
        if size > MESSAGE_BYTES_MAX {
            return Err(Status::resource_exhausted(format!(
                "trying to send message larger than max ({size} vs. {MESSAGE_BYTES_MAX})"
            )));
        }
        let mut begin = BytesMut::with_capacity(PREFIX_BYTES + first.encoded_len());
        begin.put_u8(NOT_COMPRESSED);
        begin.put_u32(size as u32);
        first.encode(&mut begin).expect("the buffer grows as needed");
        let parts = Parts {
            next: Next::Begin(begin.freeze()),
            end: end.encode_to_vec().into(),
            left: size + PREFIX_BYTES,
            unread: Unread::new(tail),
        };
        let body = Body::new(StreamBody::new(parts.into_frames()));
        Ok((LongAnswer(Arc::new(Mutex::new(Some(body)))), size))
    }

    /// The body that is to replace the one of `response`.
    pub(super) fn take_from(response: &mut http::Response<Body>) -> Option<Body> {
        let LongAnswer(body) = response.extensions_mut().remove()?;
        body.lock().take()
    }
}

/// The parts of a long answer that have not been sent.
struct Parts {
    next: Next,
    end: Bytes,
    /// Bytes of the body that are to come.
    left: usize,
    unread: Arc<Unread>,
}

enum Next {
    Begin(Bytes),
    Piece,
    Trailers(Status),
    Nothing,
}

impl Parts {
    fn into_frames(self) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send {
        stream::unfold(self, |mut parts| async move {
            let frame = parts.next_frame().await?;
            Some((Ok(frame), parts))
        })
    }

    async fn next_frame(&mut self) -> Option<Frame<Bytes>> {
        let data = match std::mem::replace(&mut self.next, Next::Piece) {
            Next::Begin(begin) => begin,
            Next::Piece => match self.unread.next().await {
                Ok(Some(piece)) => encode(piece),
                Ok(None) => {
                    self.next = Next::Trailers(Status::new(tonic::Code::Ok, ""));
                    std::mem::take(&mut self.end)
                }
                Err(status) => return Some(self.trailers(&status)),
            },
            Next::Trailers(status) => return Some(self.trailers(&status)),
            Next::Nothing => {
                self.next = Next::Nothing;
                return None;
            }
        };
        assert!(data.len() <= self.left, "a message is not longer than its prefix says");
        self.left -= data.len();
        Some(Frame::data(data))
    }

    fn trailers(&mut self, status: &Status) -> Frame<Bytes> {
        self.next = Next::Nothing;
        assert!(
            status.code() != tonic::Code::Ok || self.left == 0,
            "a message is as long as its prefix says"
        );
        let mut trailers = HeaderMap::new();
        // A status of ours consists of valid header values.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }
}

fn encode(piece: Vec<KeyValue>) -> Bytes {
    RangeResponse { kvs: render::key_values(piece), ..RangeResponse::default() }.encode_to_vec().into()
}

/// The tail of an answer, until it was read or given up.
struct Unread {
    tail: Mutex<Option<Tail>>,
    /// The bytes that were read for the client, because it has taken those before them.
    taken_bytes: AtomicU64,
}

impl Unread {
    fn new(tail: Tail) -> Arc<Unread> {
        let unread = Arc::new(Unread { tail: Mutex::new(Some(tail)), taken_bytes: AtomicU64::new(0) });
        tokio::spawn(give_up_when_slow(Arc::downgrade(&unread)));
        unread
    }

    async fn next(&self) -> Result<Option<Vec<KeyValue>>, Status> {
        let Some(mut tail) = self.tail.lock().take() else {
            return Err(Status::unavailable("the answer was given up because the client read it too slowly"));
        };
        let bytes = tail.bytes();
        let piece = tail.next().await?;
        self.taken_bytes.fetch_add((bytes - tail.bytes()) as u64, Ordering::Relaxed);
        *self.tail.lock() = Some(tail);
        Ok(piece)
    }
}

/// Drops the tail of an answer that the client takes too slowly. The body cannot do that itself, because it is
/// polled only when the client has taken what came before.
async fn give_up_when_slow(unread: Weak<Unread>) {
    let start = Instant::now();
    loop {
        time::sleep(limits::LONG_ANSWER_GRACE).await;
        let Some(unread) = unread.upgrade() else { return };
        let due = start.elapsed().saturating_sub(limits::LONG_ANSWER_GRACE).as_secs()
            * limits::LONG_ANSWER_BYTES_PER_SEC_MIN;
        if unread.taken_bytes.load(Ordering::Relaxed) <= due {
            // While a piece is being read, the tail is not here: then it is dropped the next time.
            unread.tail.lock().take();
        }
    }
}
