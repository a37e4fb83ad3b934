//! Messages that are sent in parts, because they are too large to be encoded as a whole.
//!
//! ```text
//! an answer:  prefix | frame | frame | ... | trailers
//! a stream:   what the library encodes | prefix | frame | frame | ... | what the library encodes | ...
//! ```
//!
//! Such a message is one like any other. What it takes is counted, and released part by part as the client
//! takes it. A client that is too slow loses the rest, if others wait for what the message keeps.
//!
//! Our gRPC library encodes messages as a whole. So the handler of a call returns a placeholder for its answer, and the
//! interceptor puts the body of the answer in its place. The handler of a stream hands a large message over in a
//! [`Slot`], and the body of the stream sends it between the messages that the library has encoded.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use parking_lot::Mutex;
use prost::Message;
use tokio::{task::AbortHandle, time};
use tonic::{Response, Status, body::Body};

use super::rope::Rope;
use crate::{clock, limits, node::Memory};

/// The largest message that etcd sends.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// Flags and length before a message.
pub(super) const PREFIX_BYTES: usize = 5;
const NOT_COMPRESSED: u8 = 0;

/// Adds what comes before a message of so many bytes.
pub(super) fn put_prefix(frame: &mut BytesMut, bytes: usize) {
    assert!(bytes <= MESSAGE_BYTES_MAX, "a message of {bytes} bytes is not sent");
    frame.put_u8(NOT_COMPRESSED);
    frame.put_u32(bytes as u32);
}

/// What a call is answered with.
pub(super) enum Answer<M> {
    Whole(M),
    InParts { body: PartsBody, size: usize },
}

impl<M: Message + Default> Answer<M> {
    /// `rope` is an answer whose memory is counted.
    pub(super) fn in_parts(rope: Rope, memory: Memory) -> Result<Answer<M>, Status> {
        let size = rope.len();
        let body = PartsBody::new(rope, memory)?;
        Ok(Answer::InParts { body, size })
    }

    /// In bytes.
    pub(super) fn size(&self) -> i64 {
        match self {
            Answer::Whole(response) => response.encoded_len() as i64,
            Answer::InParts { size, .. } => *size as i64,
        }
    }

    pub(super) fn into_response(answer: Response<Answer<M>>) -> Response<M> {
        let (metadata, answer, mut extensions) = answer.into_parts();
        let response = match answer {
            Answer::Whole(response) => response,
            Answer::InParts { body, .. } => {
                extensions.insert(body);
                M::default()
            }
        };
        Response::from_parts(metadata, response, extensions)
    }
}

/// The body of an answer, on its way to the interceptor.
#[derive(Clone)]
pub(super) struct PartsBody(Arc<Mutex<Option<Body>>>);

impl PartsBody {
    fn new(rope: Rope, memory: Memory) -> Result<PartsBody, Status> {
        let frames = Frames::new(rope, memory)?;
        let body = Body::new(StreamBody::new(frames.into_stream()));
        Ok(PartsBody(Arc::new(Mutex::new(Some(body)))))
    }

    /// The body that is to replace the one of `response`.
    pub(super) fn take_from(response: &mut http::Response<Body>) -> Option<Body> {
        let PartsBody(body) = response.extensions_mut().remove()?;
        body.lock().take()
    }
}

/// The frames of an answer that have not been sent.
struct Frames {
    message: LargeMessage,
    is_over: bool,
}

impl Frames {
    fn new(rope: Rope, memory: Memory) -> Result<Frames, Status> {
        let bytes = memory.bytes();
        let message = LargeMessage::new(vec![rope], memory)?.given_up_when_slow(bytes);
        Ok(Frames { message, is_over: false })
    }

    fn into_stream(self) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send {
        stream::unfold(self, |mut frames| async move {
            let frame = frames.next_frame().await?;
            Some((Ok(frame), frames))
        })
    }

    async fn next_frame(&mut self) -> Option<Frame<Bytes>> {
        if self.is_over {
            return None;
        }
        let status = match self.message.next().await {
            Ok(Some(data)) => return Some(Frame::data(data)),
            Ok(None) => Status::ok(""),
            Err(status) => status,
        };
        self.is_over = true;
        Some(trailers_of(&status))
    }
}

fn trailers_of(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    // A status of ours consists of valid header values.
    let _ = status.add_header(&mut trailers);
    Frame::trailers(trailers)
}

/// Messages of a stream that the library does not encode, on their way from the handler to the body of the stream.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Slotted>>>);

/// What is handed over at once.
pub(super) enum Slotted {
    Large(LargeMessage),
    /// Whole messages with their prefixes.
    Encoded(Bytes),
}

impl Slot {
    /// Returns once it was sent. The body asks the handler for more only then, so nobody has to be woken.
    pub(super) async fn send(&self, slotted: Slotted) {
        let before = self.0.lock().replace(slotted);
        assert!(before.is_none(), "one thing is sent at a time");
        poll_fn(|_| if self.0.lock().is_none() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Where the handler of `response` hands over what the library does not encode.
    pub(super) fn take_from(response: &mut http::Response<Body>) -> Option<Slot> {
        response.extensions_mut().remove()
    }

    /// The body of a stream whose library encodes `body`.
    pub(super) fn between(self, body: Body) -> StreamInParts {
        StreamInParts { body: Some(body), slot: self, sending: None }
    }
}

/// The parts of a message.
type MessageParts = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The body of a stream of which the library does not encode all messages.
pub(super) struct StreamInParts {
    /// What the gRPC library encodes. `None` once the stream was ended here.
    body: Option<Body>,
    slot: Slot,
    /// The rest of a large message.
    sending: Option<MessageParts>,
}

impl http_body::Body for StreamInParts {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(sending) = &mut this.sending {
                match ready!(sending.as_mut().poll_next(cx)) {
                    Some(Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Some(Err(status)) => {
                        (this.sending, this.body) = (None, None);
                        return Poll::Ready(Some(Ok(trailers_of(&status))));
                    }
                    None => this.sending = None,
                }
            }
            let Some(body) = &mut this.body else { return Poll::Ready(None) };
            // The library hands out what it has encoded before it waits for the handler.
            if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
                return Poll::Ready(frame);
            }
            let Some(slotted) = this.slot.0.lock().take() else { return Poll::Pending };
            match slotted {
                Slotted::Encoded(messages) => return Poll::Ready(Some(Ok(Frame::data(messages)))),
                Slotted::Large(message) => this.sending = Some(Box::pin(message.into_stream())),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.sending.is_none() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }
}

/// A message, or some that follow each other, until it was sent or given up.
pub(super) struct LargeMessage {
    unsent: Arc<Unsent>,
    slowness: Option<AbortHandle>,
}

impl LargeMessage {
    pub(super) fn new(messages: Vec<Rope>, memory: Memory) -> Result<LargeMessage, Status> {
        if let Some(size) = messages.iter().map(Rope::len).find(|size| *size > MESSAGE_BYTES_MAX) {
            return Err(Status::resource_exhausted(format!(
                "trying to send message larger than max ({size} vs. {MESSAGE_BYTES_MAX})"
            )));
        }
        Ok(LargeMessage { unsent: Arc::new(Unsent::new(messages, memory)), slowness: None })
    }

    /// For a message that keeps something for which others wait: so many bytes, or what is as large as the message.
    pub(super) fn given_up_when_slow(mut self, bytes: usize) -> LargeMessage {
        let unsent = Arc::downgrade(&self.unsent);
        let slowness = give_up_when_slow(unsent, limits::LONG_ANSWER_GRACE, bytes_per_sec_of(bytes));
        self.slowness = Some(tokio::spawn(slowness).abort_handle());
        self
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        self.unsent.next().await
    }

    /// The messages, as the client decodes them.
    #[cfg(test)]
    pub(super) async fn decoded<M: Message + Default>(mut self) -> Vec<M> {
        let mut bytes = Vec::new();
        while let Some(data) = self.next().await.expect("nobody gives it up") {
            bytes.extend_from_slice(&data);
        }
        decoded(&bytes)
    }

    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Status>> + Send {
        stream::unfold(self, |mut message| async move {
            let data = message.next().await.transpose()?;
            Some((data, message))
        })
    }
}

impl Drop for LargeMessage {
    fn drop(&mut self) {
        if let Some(slowness) = &self.slowness {
            slowness.abort();
        }
    }
}

/// The rest of a message. It can be given up while nobody asks for it.
struct Unsent {
    rest: Mutex<Option<Rest>>,
    /// The bytes that were asked for, because the client has taken those before them.
    taken_bytes: AtomicU64,
}

struct Rest {
    /// The first of them has been begun if `is_begun`.
    messages: VecDeque<Rope>,
    is_begun: bool,
    memory: Memory,
}

impl Unsent {
    fn new(messages: Vec<Rope>, memory: Memory) -> Unsent {
        let rest = Rest { messages: messages.into(), is_begun: false, memory };
        Unsent { rest: Mutex::new(Some(rest)), taken_bytes: AtomicU64::new(0) }
    }

    async fn next(&self) -> Result<Option<Bytes>, Status> {
        let Some(mut rest) = self.rest.lock().take() else {
            return Err(Status::unavailable("the answer was given up because the client read it too slowly"));
        };
        let Some(data) = rest.next().await? else { return Ok(None) };
        self.taken_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        *self.rest.lock() = Some(rest);
        Ok(Some(data))
    }
}

impl Rest {
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        while let Some(message) = self.messages.front_mut() {
            if !std::mem::replace(&mut self.is_begun, true) {
                let mut prefix = BytesMut::with_capacity(PREFIX_BYTES);
                put_prefix(&mut prefix, message.len());
                return Ok(Some(prefix.freeze()));
            }
            if let Some(data) = message.next().await? {
                // A key takes more memory than bytes in the message.
                self.memory.shrink_to(self.memory.bytes().saturating_sub(data.len()));
                return Ok(Some(data));
            }
            self.messages.pop_front();
            self.is_begun = false;
        }
        Ok(None)
    }
}

/// How fast a client has to take a message that keeps so many bytes.
fn bytes_per_sec_of(bytes: usize) -> u64 {
    let of_memory = bytes as u64 / limits::KEPT_ANSWER_MAX.as_secs();
    of_memory.max(limits::LONG_ANSWER_BYTES_PER_SEC_MIN)
}

/// Drops an answer that the client takes too slowly. The body cannot do that itself, because it is polled only when
/// the client has taken what came before.
async fn give_up_when_slow(unsent: Weak<Unsent>, grace: Duration, bytes_per_sec: u64) {
    let start = clock::now();
    loop {
        time::sleep(grace).await;
        let Some(unsent) = unsent.upgrade() else { return };
        let since = clock::since(start).saturating_sub(grace);
        let is_slow = unsent.taken_bytes.load(Ordering::Relaxed) <= bytes_due(since, bytes_per_sec);
        // While a part is being read, the message is not here: then it is dropped the next time.
        if is_slow && unsent.rest.lock().take().is_some() {
            return;
        }
    }
}

/// What a client has to have taken so long after the grace period.
fn bytes_due(since: Duration, bytes_per_sec: u64) -> u64 {
    since.as_secs().saturating_mul(bytes_per_sec)
}

/// Whole messages with their prefixes, as the client decodes them.
#[cfg(test)]
pub(super) fn decoded<M: Message + Default>(mut rest: &[u8]) -> Vec<M> {
    let mut messages = Vec::new();
    while let Some((prefix, behind)) = rest.split_at_checked(PREFIX_BYTES) {
        let [_, length @ ..] = *<&[u8; PREFIX_BYTES]>::try_from(prefix).expect("its length");
        let (message, behind) = behind.split_at(u32::from_be_bytes(length) as usize);
        messages.push(M::decode(message).expect("a whole message"));
        rest = behind;
    }
    assert_eq!(rest, b"");
    messages
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::{
        mvcc::RangeResult,
        pb::etcdserverpb::{RangeResponse, ResponseHeader},
        rpc::rope,
        types::KeyValue,
    };

    const VALUE_BYTES: usize = 100_000;

    fn frames(keys: usize) -> Frames {
        let kv = |number: usize| KeyValue {
            key: format!("{number:06}").into(),
            value: vec![7; VALUE_BYTES].into(),
            ..KeyValue::default()
        };
        let result = RangeResult { kvs: (0..keys).map(kv).collect(), more: false, count: keys as i64 };
        let rope = rope::range(ResponseHeader::default(), result, None);
        Frames::new(rope, Memory::default()).expect("it is not too large")
    }

    fn status(trailers: &HeaderMap) -> Status {
        Status::from_header_map(trailers).expect("trailers have a status")
    }

    #[tokio::test]
    async fn an_answer_is_a_message_and_trailers() {
        let frames: Vec<_> = frames(5).into_stream().collect().await;
        let mut frames: Vec<_> = frames.into_iter().map(|frame| frame.expect("no error")).collect();
        let trailers = frames.pop().expect("a last frame").into_trailers().expect("trailers");
        assert_eq!(status(&trailers).code(), tonic::Code::Ok);
        assert!(frames.len() > 5, "a frame has few keys");
        let bytes: Vec<u8> = frames.into_iter().flat_map(|frame| frame.into_data().expect("data")).collect();
        let (prefix, message) = bytes.split_at(PREFIX_BYTES);
        assert_eq!(prefix[1..], (message.len() as u32).to_be_bytes());
        let answer = RangeResponse::decode(message).expect("a whole message");
        assert_eq!((answer.kvs.len(), answer.count), (5, 5));
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_is_given_up() {
        let mut frames = frames(5);
        let unsent = Arc::downgrade(&frames.message.unsent);
        assert!(frames.next_frame().await.expect("the prefix").is_data());
        give_up_when_slow(unsent.clone(), Duration::ZERO, 1).await;
        let unsent = unsent.upgrade().expect("the body is there");
        assert!(unsent.rest.lock().is_none(), "it is dropped while nobody asks for more");
        let trailers = frames.next_frame().await.expect("trailers").into_trailers().expect("trailers");
        assert_eq!(status(&trailers).code(), tonic::Code::Unavailable);
        assert!(frames.next_frame().await.is_none());
    }

    #[tokio::test]
    async fn an_answer_that_is_taken_is_not_given_up() {
        let mut frames = frames(5);
        assert!(frames.next_frame().await.expect("the prefix").is_data());
        assert!(frames.next_frame().await.expect("the first keys").is_data());
        let watch = give_up_when_slow(Arc::downgrade(&frames.message.unsent), Duration::ZERO, 1);
        let mut watch = Box::pin(watch);
        // Less than a second has passed, for which nothing is due.
        assert!(futures_util::poll!(&mut watch).is_pending());
        time::sleep(Duration::from_millis(1)).await;
        assert!(futures_util::poll!(&mut watch).is_pending());
        while frames.next_frame().await.expect("a frame").is_data() {}
        drop(frames);
        watch.await;
    }

    #[test]
    fn what_is_kept_has_to_be_taken_within_a_minute() {
        let of = |bytes| bytes_due(limits::KEPT_ANSWER_MAX, bytes_per_sec_of(bytes));
        assert_eq!(of(0), limits::KEPT_ANSWER_MAX.as_secs() * limits::LONG_ANSWER_BYTES_PER_SEC_MIN);
        let most = limits::KEPT_ANSWERS_BYTES;
        assert!(of(most) > most as u64 - limits::KEPT_ANSWER_MAX.as_secs() && of(most) <= most as u64);
    }
}
