//! The messages of a request, on their way from the connection to the service.
//!
//! Each message has one byte of flags and four bytes of length before it. Messages that etcd's transport
//! refuses are refused here with etcd's texts, and compressed messages are inflated: a service gets
//! uncompressed messages within the size limit.
//!
//! A service gets a message once it has arrived whole, because our gRPC library reserves memory for the length
//! that the client announced. A client that does not go on sending what it has begun is not waited for.
//!
//! A service that answers before it has read the whole request drops the request. The rest of it is then
//! read and discarded, for two reasons: our HTTP/2 library counts small frames for streams that it has reset, for as
//! long as the connection lives; and if the flow-control window were not returned, the client would stall.

use std::{
    collections::VecDeque,
    io::{self, Read},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{runtime, time};
use tonic::Status;

use super::{
    calls::{Held, Load},
    patience::Patience,
};
use crate::limits;

const PREFIX_LEN: usize = 5;
const FLAG_PLAIN: u8 = 0;
const FLAG_COMPRESSED: u8 = 1;

/// How a client compresses messages, where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

/// A request's body.
pub(super) struct Messages {
    source: Source,
    cutter: Cutter,
    /// Whether the client may send messages for as long as it likes.
    is_stream: bool,
    patience: Patience,
}

enum Source {
    Open(Incoming),
    Ended,
    /// The client has reset the stream, or the connection was closed.
    Gone,
}

impl Messages {
    pub(super) fn new(incoming: Incoming, cutter: Cutter, is_stream: bool) -> Messages {
        let source = if incoming.is_end_stream() { Source::Ended } else { Source::Open(incoming) };
        Messages { source, cutter, is_stream, patience: Patience::default() }
    }

    /// Reads more of the body. Ready with an error if the request ends here.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Source::Open(incoming) = &mut self.source else { return Poll::Ready(Ok(())) };
        match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    self.patience.received(data.len(), limits::BODY_PROGRESS_BYTES);
                    self.cutter.chunk = data;
                }
                // Trailers end a body. In those of a request nothing is of use.
                Err(_) => self.source = Source::Ended,
            },
            Poll::Ready(None) if incoming.is_end_stream() => {
                self.source = Source::Ended;
                return Poll::Ready(self.cutter.end());
            }
            Poll::Ready(_) => self.source = Source::Gone,
            Poll::Pending if self.is_stream && self.cutter.is_between_messages() => {
                self.patience.reset();
                return Poll::Pending;
            }
            Poll::Pending => {
                ready!(self.patience.poll_over(cx));
                self.source = Source::Ended;
                let period = limits::CLIENT_PATIENCE;
                let text =
                    format!("the request is incomplete, and its client sent no more of it for {period:?}");
                return Poll::Ready(Err(Status::unavailable(text)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            match ready!(this.cutter.poll_next(cx)) {
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                Ok(None) => {}
                Err(refusal) => return Poll::Ready(Some(Err(refusal))),
            }
            match this.source {
                Source::Open(_) => {
                    if let Err(refusal) = ready!(this.poll_more(cx)) {
                        return Poll::Ready(Some(Err(refusal)));
                    }
                }
                Source::Ended => return Poll::Ready(None),
                Source::Gone if this.is_stream => {
                    this.source = Source::Ended;
                    return Poll::Ready(Some(Err(Status::cancelled("the client has ended the call"))));
                }
                // The connection drops the call as soon as this has returned, so that the call ends as
                // cancelled, and not with what its service makes of half a request.
                Source::Gone => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Ended) && self.cutter.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        let Source::Open(incoming) = std::mem::replace(&mut self.source, Source::Ended) else { return };
        if incoming.is_end_stream() {
            return;
        }
        // Without a runtime the connection no longer exists either.
        if let Ok(runtime) = runtime::Handle::try_current() {
            runtime.spawn(discard(incoming));
        }
    }
}

/// Reads and discards the rest of a request that is answered, until the client stops sending, or for a while: a
/// connection that is closed with unread bytes is reset, and the client may not get the answer.
pub(crate) async fn discard(mut body: impl Body<Data = Bytes> + Unpin) {
    if body.is_end_stream() {
        return;
    }
    let all = async move {
        let mut left = limits::DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(length) else { return };
            left = rest;
        }
    };
    let _ = time::timeout(limits::DISCARD_TIMEOUT, all).await;
}

/// Finds the messages in a body, however it is cut into pieces, and checks them.
pub(super) struct Cutter {
    encoding: Encoding,
    message_bytes_max: usize,
    load: Arc<Load>,
    /// Received, and still to be looked at.
    chunk: Bytes,
    state: State,
}

enum State {
    /// Between messages, or within the next one's prefix, of which so many bytes have arrived.
    Prefix([u8; PREFIX_LEN], usize),
    /// A message that did not arrive in one piece.
    Partial(Box<Partial>),
    /// A message that has arrived whole, as far as it was not passed on.
    Whole(Box<Partial>),
    /// A message was refused, so no further message is read.
    Refused,
}

/// A message, as far as it has arrived.
struct Partial {
    prefix: [u8; PREFIX_LEN],
    /// Bytes that have not arrived.
    left: usize,
    pieces: Pieces,
    held: Held,
}

impl Cutter {
    pub(super) fn new(encoding: Encoding, message_bytes_max: usize, load: Arc<Load>) -> Cutter {
        let state = State::Prefix([0; PREFIX_LEN], 0);
        Cutter { encoding, message_bytes_max, load, chunk: Bytes::new(), state }
    }

    fn is_done(&self) -> bool {
        self.chunk.is_empty() && !matches!(self.state, State::Whole(_))
    }

    fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Prefix(_, 0) | State::Refused)
    }

    /// The next piece of uncompressed messages, out of the bytes received so far. Pending while there is
    /// no memory for a message that has not arrived whole.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let piece = ready!(self.poll_piece(cx));
        if piece.is_err() {
            self.state = State::Refused;
        }
        Poll::Ready(piece)
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        // What lies before this is whole messages, which can be passed on as they are.
        let mut at = 0;
        loop {
            let rest = self.chunk.len() - at;
            match &mut self.state {
                State::Whole(message) => {
                    if let Some(piece) = message.pieces.pop() {
                        return Poll::Ready(Ok(Some(piece)));
                    }
                    self.state = State::Prefix([0; PREFIX_LEN], 0);
                }
                _ if rest == 0 => {
                    return Poll::Ready(Ok((at > 0).then(|| std::mem::take(&mut self.chunk))));
                }
                State::Prefix(prefix, 0) if rest >= PREFIX_LEN => {
                    prefix.copy_from_slice(&self.chunk[at..at + PREFIX_LEN]);
                    let prefix = *prefix;
                    let checked = self.check(prefix);
                    if let Ok(length) = checked
                        && prefix[0] == FLAG_PLAIN
                        && rest - PREFIX_LEN >= length
                    {
                        at += PREFIX_LEN + length;
                    } else if at > 0 {
                        // What came before this message is served first.
                        return Poll::Ready(Ok(Some(self.chunk.split_to(at))));
                    } else {
                        self.chunk.advance(PREFIX_LEN);
                        self.begin(prefix, checked?);
                    }
                }
                State::Prefix(..) if at > 0 => return Poll::Ready(Ok(Some(self.chunk.split_to(at)))),
                State::Prefix(prefix, come) => {
                    let taken = (PREFIX_LEN - *come).min(rest);
                    prefix[*come..*come + taken].copy_from_slice(&self.chunk[..taken]);
                    *come += taken;
                    self.chunk.advance(taken);
                    if *come == PREFIX_LEN {
                        let prefix = *prefix;
                        let length = self.check(prefix)?;
                        self.begin(prefix, length);
                    }
                }
                State::Partial(message) => {
                    ready!(message.held.poll_granted(cx));
                    let taken = message.left.min(rest);
                    message.left -= taken;
                    message.pieces.push(self.chunk.split_to(taken));
                    if message.left == 0 {
                        self.finish()?;
                    }
                }
                State::Refused => {
                    self.chunk = Bytes::new();
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    /// The length of the message that this prefix begins.
    fn check(&self, prefix: [u8; PREFIX_LEN]) -> Result<usize, Status> {
        let [flags, length @ ..] = prefix;
        let length = u32::from_be_bytes(length) as usize;
        let max = self.message_bytes_max;
        if length > max {
            let text = format!("grpc: received message larger than max ({length} vs. {max})");
            return Err(Status::resource_exhausted(text));
        }
        match (flags, self.encoding) {
            (FLAG_PLAIN, _) => Ok(length),
            (FLAG_COMPRESSED, Encoding::Identity) => {
                Err(Status::internal("grpc: compressed flag set with identity or empty encoding"))
            }
            (FLAG_COMPRESSED, Encoding::Gzip) if length == 0 => Err(not_inflated("EOF")),
            (FLAG_COMPRESSED, Encoding::Gzip) => Ok(length),
            _ => Err(Status::internal(format!("grpc: received unexpected payload format {flags}"))),
        }
    }

    /// Begins a message of which nothing but the prefix was looked at yet.
    fn begin(&mut self, prefix: [u8; PREFIX_LEN], length: usize) {
        let mut pieces = Pieces::default();
        if prefix[0] == FLAG_PLAIN {
            pieces.push(Bytes::copy_from_slice(&prefix));
        }
        let message = Box::new(Partial { prefix, left: length, pieces, held: self.load.bytes_for(length) });
        self.state = if length == 0 { State::Whole(message) } else { State::Partial(message) };
    }

    /// The last byte of a message has arrived.
    fn finish(&mut self) -> Result<(), Status> {
        let State::Partial(mut message) = std::mem::replace(&mut self.state, State::Refused) else {
            unreachable!("only a message that has begun is finished");
        };
        if message.prefix[0] == FLAG_COMPRESSED {
            let plain = inflate(&message.pieces.joined(), self.message_bytes_max)?;
            message.pieces.push(plain);
        }
        self.state = State::Whole(message);
        Ok(())
    }

    /// Whether the body may end here.
    fn end(&mut self) -> Result<(), Status> {
        let text = match self.state {
            State::Prefix(_, 0) | State::Refused => return Ok(()),
            State::Prefix(..) => "EOF",
            State::Partial(_) | State::Whole(_) => "unexpected EOF",
        };
        self.state = State::Refused;
        Err(Status::unknown(text))
    }
}

/// The bytes of a message, in the order in which they arrived.
#[derive(Debug, Default)]
struct Pieces {
    whole: VecDeque<Bytes>,
    /// Small pieces that came last, copied: each would keep the buffer that it was read into in memory.
    small: BytesMut,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if piece.len() < limits::SMALL_PIECE_BYTES {
            self.small.extend_from_slice(&piece);
            if self.small.len() < limits::SMALL_PIECE_BYTES {
                return;
            }
        }
        self.seal();
        if piece.len() >= limits::SMALL_PIECE_BYTES {
            self.whole.push_back(piece);
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.seal();
        self.whole.pop_front()
    }

    /// Takes all of them out.
    fn joined(&mut self) -> Vec<u8> {
        let mut joined = Vec::new();
        while let Some(piece) = self.pop() {
            joined.extend_from_slice(&piece);
        }
        joined
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.small).freeze());
        }
    }
}

/// Inflates a compressed message, up to the size limit.
fn inflate(message: &[u8], message_bytes_max: usize) -> Result<Bytes, Status> {
    match message {
        [0x1f, 0x8b, 8, ..] if message.len() >= 10 => {}
        _ if message.len() < 10 => return Err(not_inflated("unexpected EOF")),
        _ => return Err(not_inflated("gzip: invalid header")),
    }
    let mut plain = vec![FLAG_PLAIN; PREFIX_LEN];
    let mut decoder = MultiGzDecoder::new(message);
    let mut limited = decoder.by_ref().take(message_bytes_max as u64 + 1);
    if let Err(error) = limited.read_to_end(&mut plain) {
        let cause = match (error.kind(), error.to_string()) {
            (io::ErrorKind::UnexpectedEof, _) => "unexpected EOF".to_owned(),
            (_, text) if text.contains("checksum") => "gzip: invalid checksum".to_owned(),
            (_, text) if text.contains("header") => "gzip: invalid header".to_owned(),
            _ => format!("flate: corrupt input before offset {}", message.len() - decoder.get_ref().len()),
        };
        return Err(Status::internal(format!("grpc: failed to read decompressed data: {cause}")));
    }
    let length = plain.len() - PREFIX_LEN;
    if length > message_bytes_max {
        let text = format!("grpc: received message after decompression larger than max {message_bytes_max}");
        return Err(Status::resource_exhausted(text));
    }
    plain[1..PREFIX_LEN].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(Bytes::from(plain))
}

fn not_inflated(cause: &str) -> Status {
    Status::internal(format!("grpc: failed to decompress the message: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    fn message(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut message = vec![flags];
        message.extend((payload.len() as u32).to_be_bytes());
        message.extend(payload);
        message
    }

    /// What a service gets of a body that comes in pieces of these lengths, and how it ends.
    fn cut(encoding: Encoding, mut body: &[u8], lengths: &[usize]) -> (Vec<u8>, Result<(), (Code, String)>) {
        let mut cutter = Cutter::new(encoding, 1000, Load::new());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut plain = Vec::new();
        let told = |refusal: Status| (refusal.code(), refusal.message().to_owned());
        for length in lengths.iter().cycle() {
            let (piece, rest) = body.split_at(body.len().min(*length));
            body = rest;
            cutter.chunk = Bytes::copy_from_slice(piece);
            loop {
                match cutter.poll_next(&mut cx) {
                    Poll::Ready(Ok(Some(piece))) => plain.extend(piece),
                    Poll::Ready(Ok(None)) => break,
                    Poll::Ready(Err(refusal)) => return (plain, Err(told(refusal))),
                    Poll::Pending => panic!("there is memory for all of it"),
                }
            }
            if body.is_empty() {
                break;
            }
        }
        (plain, cutter.end().map_err(told))
    }

    proptest! {
        #[test]
        fn messages_come_through_however_the_body_is_cut(
            messages in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..50)), 0..6),
            lengths in prop::collection::vec(1_usize..40, 1..10),
        ) {
            let expected: Vec<u8> = messages.iter().flat_map(|(_, payload)| message(0, payload)).collect();
            let compressed = messages.iter().flat_map(|(is_compressed, payload)| match is_compressed {
                true => message(1, &gzip(payload)),
                false => message(0, payload),
            });
            let compressed: Vec<u8> = compressed.collect();
            prop_assert_eq!(cut(Encoding::Gzip, &compressed, &lengths), (expected.clone(), Ok(())));
            prop_assert_eq!(cut(Encoding::Identity, &expected, &lengths), (expected, Ok(())));
        }
    }

    #[test]
    fn what_is_wrong_with_a_message_is_told_in_the_words_of_etcd() {
        use Encoding::*;
        let broken = |at: usize| {
            let mut message = gzip(b"plain");
            let at = message.len() - at;
            message[at] ^= 1;
            message
        };
        let internal = |text: &str| (Code::Internal, format!("grpc: {text}"));
        let cases = [
            (
                Identity,
                message(0, &[0; 1001]),
                (
                    Code::ResourceExhausted,
                    "grpc: received message larger than max (1001 vs. 1000)".to_owned(),
                ),
            ),
            (
                Identity,
                vec![0, 0xff, 0xff, 0xff, 0xff],
                (
                    Code::ResourceExhausted,
                    "grpc: received message larger than max (4294967295 vs. 1000)".to_owned(),
                ),
            ),
            (
                Identity,
                message(1, &gzip(b"a")),
                internal("compressed flag set with identity or empty encoding"),
            ),
            (Gzip, message(2, b"a"), internal("received unexpected payload format 2")),
            (Gzip, message(1, b""), internal("failed to decompress the message: EOF")),
            (Gzip, message(1, b"abc"), internal("failed to decompress the message: unexpected EOF")),
            (
                Gzip,
                message(1, b"abcabcabcabc"),
                internal("failed to decompress the message: gzip: invalid header"),
            ),
            (
                Gzip,
                message(1, &gzip(b"plain")[..15]),
                internal("failed to read decompressed data: unexpected EOF"),
            ),
            (
                Gzip,
                message(1, &[&gzip(b"plain")[..], &[1, 2, 3]].concat()),
                internal("failed to read decompressed data: unexpected EOF"),
            ),
            (
                Gzip,
                message(1, &broken(6)),
                internal("failed to read decompressed data: gzip: invalid checksum"),
            ),
            (
                Gzip,
                // Two hundred thousand bytes in two hundred.
                message(1, &gzip(&[0; 200_000])),
                (
                    Code::ResourceExhausted,
                    "grpc: received message after decompression larger than max 1000".to_owned(),
                ),
            ),
            (Identity, vec![0, 0], (Code::Unknown, "EOF".to_owned())),
            (Identity, vec![0, 0, 0, 0, 2, 1], (Code::Unknown, "unexpected EOF".to_owned())),
        ];
        // What came before it is served.
        let before = message(0, b"before");
        for (encoding, body, expected) in cases {
            let body = [&before[..], &body].concat();
            for length in [1, 3, 7, 4000] {
                let (plain, end) = cut(encoding, &body, &[length]);
                assert_eq!(end, Err(expected.clone()));
                assert_eq!(plain[..before.len()], before);
            }
        }
    }

    #[test]
    fn a_message_may_be_compressed_in_parts() {
        let body = message(1, &[gzip(b"two "), gzip(b"parts")].concat());
        assert_eq!(cut(Encoding::Gzip, &body, &[9]), (message(0, b"two parts"), Ok(())));
    }
}
