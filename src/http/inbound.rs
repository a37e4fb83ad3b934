//! The bytes that a connection receives, before our HTTP/2 library parses them.
//!
//! The HTTP/2 library is stricter than etcd's: it resets a request because of the value of a header that
//! no service reads, closes the connection because of a field that is not valid HTTP, and counts some
//! errors for as long as the connection lives. So this file follows the frames before the library. Frames
//! other than HEADERS are passed on by their length, without reading them. Header blocks are decoded, and a
//! request that the library would not accept as etcd does is rewritten (`request.rs` says which requests,
//! decision 0020 says why).
//!
//! Until the first request of a connection is rewritten, all bytes are passed on unchanged, and the
//! library's HPACK table equals the client's. After the first rewritten request the two tables differ, so
//! every later request is rewritten too, in a form that does not use the table.
//!
//! ```text
//! socket --> frames, header blocks --> all plain so far --> as they came  --> our HTTP/2
//!                                  \-> from the first    --> written anew -/
//!                                      that is not
//! ```

use std::{borrow::Cow, sync::Arc};

use tokio::io::ReadBuf;

use super::{
    calls::Calls,
    flood::{Excess, Flood},
    hpack::{Decoder, Fields},
    request::{self, Fate},
};
use crate::{clock, limits};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_LEN: usize = 9;
/// The maximum length of a frame's payload. It is HTTP/2's default, which the server does not change.
const FRAME_LEN_MAX: usize = 16_384;

const TYPE_DATA: u8 = 0;
const TYPE_HEADERS: u8 = 1;
const TYPE_PING: u8 = 6;
const TYPE_CONTINUATION: u8 = 9;
const FLAG_ACK: u8 = 0x1;
const FLAG_END_STREAM: u8 = 0x1;
const FLAG_END_HEADERS: u8 = 0x4;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

/// A block that is not valid HPACK. Our HTTP/2 library closes the connection when it receives it.
const BROKEN_BLOCK: &[u8] = &[0x80];

/// Follows what one connection receives.
#[derive(Debug)]
pub(super) struct Inbound {
    state: State,
    /// Whether requests are for gRPC services. If not, header blocks are passed on as they are.
    is_grpc: bool,
    flood: Flood,
    calls: Arc<Calls>,
    /// Why the connection has to be closed.
    excess: Option<Excess>,
    hpack: Decoder,
    fields: Fields,
    is_rewriting: bool,
    /// The stream of the newest request.
    stream_id: u32,
    /// Requests since [`Inbound::take_burst`] last returned true.
    requests: usize,
    frames: u64,
    /// Bytes that were received but not passed on yet, because the frame is incomplete or `ready` is full.
    /// They begin with a frame, or within a frame that is passed on unchanged.
    held: Vec<u8>,
    /// The number of held bytes at which they are parsed again. Without it, a client that sends a header block
    /// byte by byte would make the server parse the whole block again for each byte.
    needed: usize,
    /// Bytes that are passed on before all others.
    ready: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of the preface have arrived.
    Preface(usize),
    /// Within the frames: so many bytes of the current frame are still to come.
    Frames { to_skip: usize },
    /// The first bytes were not those of HTTP/2: everything passes.
    NotHttp2,
    /// Our HTTP/2 is about to close the connection because of an error in its frames: everything passes.
    Broken,
}

/// What a client has begun to send and has to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// The preface, the first frame or a block of headers.
    Head,
    /// Another frame.
    Frame,
}

/// What is done with the frame, or with the frames of one header block, at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// So many bytes have to arrive before the frame can be judged.
    Incomplete(usize),
    /// So many bytes are passed on unchanged. Not all of them may have arrived.
    Pass(usize),
    /// So many bytes are not passed on. `ready` holds what is passed on in their place, if anything.
    Consumed(usize),
    Broken,
}

impl Inbound {
    pub(super) fn new(is_grpc: bool, flood: Flood, calls: Arc<Calls>) -> Inbound {
        Inbound {
            state: State::Preface(0),
            is_grpc,
            flood,
            calls,
            excess: None,
            hpack: Decoder::default(),
            fields: Fields::default(),
            is_rewriting: false,
            stream_id: 0,
            requests: 0,
            frames: 0,
            held: Vec::new(),
            needed: 0,
            ready: Vec::new(),
        }
    }

    /// Takes the next bytes. The first so many of them are passed on unchanged, followed by what
    /// [`Inbound::take_ready`] returns.
    pub(super) fn received(&mut self, bytes: &[u8]) -> usize {
        debug_assert!(self.ready.is_empty(), "bytes that are ready are passed on before more are received");
        let (passed, taken) = if self.held.is_empty() { self.pass(bytes) } else { (0, 0) };
        self.held.extend_from_slice(&bytes[taken..]);
        passed
    }

    /// Moves bytes that are to be passed on into `buffer`, until it is full.
    pub(super) fn take_ready(&mut self, buffer: &mut ReadBuf<'_>) {
        if self.ready.is_empty() && !self.held.is_empty() && self.held.len() >= self.needed {
            self.advance();
        }
        let length = self.ready.len().min(buffer.remaining());
        buffer.put_slice(&self.ready[..length]);
        self.ready.drain(..length);
        if self.ready.is_empty() {
            // The connection does not keep the memory that one large block needed.
            self.ready.shrink_to(limits::HEADER_SCRATCH_BYTES);
        }
    }

    /// Whether so many requests arrived, since this was last true, that they should be started before more
    /// are read: requests that the client cancels meanwhile take up memory until they were started.
    pub(super) fn take_burst(&mut self) -> bool {
        let is_burst = self.requests >= limits::HTTP2_REQUESTS_AT_ONCE;
        if is_burst {
            self.requests = 0;
        }
        is_burst
    }

    /// How many of these bytes are passed on unchanged, and how many need not be held. No earlier bytes are held.
    fn pass(&mut self, bytes: &[u8]) -> (usize, usize) {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::NotHttp2 | State::Broken => return (bytes.len(), bytes.len()),
                State::Preface(come) => {
                    let expected = &PREFACE[come..];
                    let length = expected.len().min(rest.len());
                    self.state = if rest[..length] != expected[..length] {
                        State::NotHttp2
                    } else if length < expected.len() {
                        State::Preface(come + length)
                    } else {
                        State::Frames { to_skip: 0 }
                    };
                    at += length;
                }
                State::Frames { to_skip } if to_skip > 0 => {
                    let skipped = to_skip.min(rest.len());
                    self.state = State::Frames { to_skip: to_skip - skipped };
                    at += skipped;
                }
                State::Frames { .. } => match self.step(rest) {
                    Step::Pass(length) => self.state = State::Frames { to_skip: length },
                    Step::Broken => self.state = State::Broken,
                    Step::Incomplete(needed) => {
                        self.needed = needed;
                        return (at, at);
                    }
                    Step::Consumed(length) => return (at, at + length),
                },
            }
        }
        (at, at)
    }

    /// Moves held bytes to `ready`. Stops once enough are ready, because a few bytes can be rewritten to many.
    fn advance(&mut self) {
        let held = std::mem::take(&mut self.held);
        let mut at = 0;
        self.needed = 0;
        while at < held.len() && self.ready.len() < limits::HEADER_SCRATCH_BYTES {
            let rest = &held[at..];
            match self.state {
                State::Frames { to_skip: 0 } => match self.step(rest) {
                    Step::Pass(length) => self.state = State::Frames { to_skip: length },
                    Step::Broken => self.state = State::Broken,
                    Step::Incomplete(needed) => {
                        self.needed = needed;
                        break;
                    }
                    Step::Consumed(length) => at += length,
                },
                State::Frames { to_skip } => {
                    let skipped = to_skip.min(rest.len());
                    self.state = State::Frames { to_skip: to_skip - skipped };
                    self.ready.extend_from_slice(&rest[..skipped]);
                    at += skipped;
                }
                State::Preface(_) | State::NotHttp2 | State::Broken => {
                    self.ready.extend_from_slice(rest);
                    at = held.len();
                }
            }
        }
        self.held = held;
        self.held.drain(..at);
        if self.held.is_empty() {
            self.held.shrink_to(limits::HEADER_SCRATCH_BYTES);
        }
    }

    /// The number of frames received so far.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    /// The newest request's stream.
    pub(super) fn last_stream_id(&self) -> u32 {
        self.stream_id
    }

    /// Whether the first bytes were not those of HTTP/2.
    pub(super) fn is_not_http2(&self) -> bool {
        self.state == State::NotHttp2
    }

    /// What the client has begun and not finished, once everything received was passed on as far as it goes.
    pub(super) fn unfinished(&self) -> Option<Unfinished> {
        match self.state {
            State::Preface(_) | State::Broken => Some(Unfinished::Head),
            // The first frame belongs to the preface.
            State::Frames { .. } if self.frames == 0 => Some(Unfinished::Head),
            State::Frames { to_skip: 0 } => (!self.held.is_empty()).then_some(Unfinished::Head),
            State::Frames { .. } => Some(Unfinished::Frame),
            State::NotHttp2 => None,
        }
    }

    /// Why the connection has to be closed, if it has to.
    pub(super) fn excess(&self) -> Option<Excess> {
        self.excess
    }

    /// The server has sent so many HEADERS and DATA frames.
    pub(super) fn answered(&mut self, frames: u32) {
        self.flood.answered(frames);
    }

    /// Looks at bytes that begin with a frame.
    fn step(&mut self, bytes: &[u8]) -> Step {
        let Some((header, payload)) = frame(bytes) else { return Step::Incomplete(FRAME_HEADER_LEN) };
        let end = FRAME_HEADER_LEN + header.length;
        self.frames += 1;
        match header.kind {
            // A frame without data has no effect, but our HTTP/2 counts them.
            TYPE_DATA if header.length == 0 && header.flags & (FLAG_END_STREAM | FLAG_PADDED) == 0 => {
                self.void_frame();
                Step::Consumed(end)
            }
            TYPE_DATA => Step::Pass(end),
            TYPE_HEADERS if self.is_grpc => self.headers(header, payload, bytes),
            TYPE_HEADERS => {
                self.begins(header.stream_id);
                Step::Pass(end)
            }
            // Our HTTP/2 counts them for each block.
            TYPE_CONTINUATION => Step::Pass(end),
            TYPE_PING if header.flags & FLAG_ACK == 0 => {
                let judged = self.flood.ping(self.calls.has_open(), clock::now());
                self.excess = self.excess.or(judged.err());
                Step::Pass(end)
            }
            _ => {
                self.void_frame();
                Step::Pass(end)
            }
        }
    }

    fn void_frame(&mut self) {
        let judged = self.flood.void_frame(clock::now);
        self.excess = self.excess.or(judged.err());
    }

    /// Whether a HEADERS frame of this stream begins a request.
    fn begins(&mut self, stream_id: u32) -> bool {
        let begins = stream_id > self.stream_id;
        if begins {
            self.stream_id = stream_id;
            self.requests += 1;
            self.flood.requested();
        }
        begins
    }

    /// Looks at bytes that begin with a HEADERS frame.
    fn headers(&mut self, header: Header, payload: Option<&[u8]>, bytes: &[u8]) -> Step {
        if header.length > FRAME_LEN_MAX {
            return Step::Broken;
        }
        let mut end = FRAME_HEADER_LEN + header.length;
        let Some(payload) = payload else { return Step::Incomplete(end) };
        let Some(fragment) = fragment(header.flags, payload) else { return Step::Broken };
        let mut block = Cow::Borrowed(fragment);
        let mut is_whole = header.flags & FLAG_END_HEADERS != 0;
        let mut continuations = 0;
        while !is_whole {
            continuations += 1;
            if end > limits::HEADER_HELD_BYTES || continuations > limits::HEADER_CONTINUATIONS {
                return self.broken(header.stream_id, end);
            }
            let Some((next, payload)) = frame(&bytes[end..]) else {
                return Step::Incomplete(end + FRAME_HEADER_LEN);
            };
            let follows = next.kind == TYPE_CONTINUATION && next.stream_id == header.stream_id;
            if !follows || next.length > FRAME_LEN_MAX {
                return Step::Broken;
            }
            let Some(payload) = payload else {
                return Step::Incomplete(end + FRAME_HEADER_LEN + next.length);
            };
            block.to_mut().extend_from_slice(payload);
            end += FRAME_HEADER_LEN + next.length;
            is_whole = next.flags & FLAG_END_HEADERS != 0;
        }
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        let step = match self.hpack.decode(&block, &mut fields) {
            Ok(()) => self.decoded(header, &block, &fields, end),
            Err(_) => self.broken(header.stream_id, end),
        };
        self.fields = fields;
        step
    }

    fn decoded(&mut self, header: Header, block: &[u8], fields: &Fields, end: usize) -> Step {
        let Header { stream_id, flags, .. } = header;
        if !self.begins(stream_id) {
            // A second block on an open stream holds the trailers, which no service reads.
            if !self.is_rewriting {
                return Step::Pass(end);
            }
            self.write_headers(stream_id, flags, &[]);
            return Step::Consumed(end);
        }
        let mut rewritten = Vec::new();
        let fate = request::fate(fields);
        let block = match fate {
            // Our HTTP/2 library itself refuses a request that is too large.
            Fate::Passed | Fate::TooLarge if !self.is_rewriting => return Step::Pass(end),
            Fate::Passed | Fate::Rewritten
                if fields.list_bytes() <= limits::HEADER_SCRATCH_BYTES + 2 * block.len() =>
            {
                request::rewrite(fields, &mut rewritten);
                &rewritten
            }
            // Only references to the table can make the fields larger than that, and rewriting would multiply the bytes.
            Fate::Passed | Fate::Rewritten | Fate::TooLarge | Fate::Reset => request::MALFORMED_BLOCK,
        };
        self.is_rewriting = true;
        self.write_headers(stream_id, flags, block);
        Step::Consumed(end)
    }

    /// Passes on an invalid block, so that our HTTP/2 library closes the connection.
    fn broken(&mut self, stream_id: u32, end: usize) -> Step {
        self.write_headers(stream_id, FLAG_END_STREAM, BROKEN_BLOCK);
        self.state = State::Broken;
        Step::Consumed(end)
    }

    fn write_headers(&mut self, stream_id: u32, flags: u8, block: &[u8]) {
        let mut kind = TYPE_HEADERS;
        let mut flags = flags & FLAG_END_STREAM;
        let mut rest = block;
        loop {
            let (fragment, behind) = rest.split_at(rest.len().min(FRAME_LEN_MAX));
            rest = behind;
            if rest.is_empty() {
                flags |= FLAG_END_HEADERS;
            }
            let [_, length @ ..] = (fragment.len() as u32).to_be_bytes();
            self.ready.extend_from_slice(&length);
            self.ready.extend_from_slice(&[kind, flags]);
            self.ready.extend_from_slice(&stream_id.to_be_bytes());
            self.ready.extend_from_slice(fragment);
            if rest.is_empty() {
                return;
            }
            (kind, flags) = (TYPE_CONTINUATION, 0);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Header {
    length: usize,
    kind: u8,
    flags: u8,
    stream_id: u32,
}

/// The header of the frame at the beginning of some bytes, and the frame's payload if all of it has arrived.
fn frame(bytes: &[u8]) -> Option<(Header, Option<&[u8]>)> {
    let (header, rest) = bytes.split_first_chunk::<FRAME_HEADER_LEN>()?;
    let [high, middle, low, kind, flags, stream_id @ ..] = *header;
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    let stream_id = u32::from_be_bytes(stream_id) & 0x7fff_ffff;
    Some((Header { length, kind, flags, stream_id }, rest.get(..length)))
}

/// The part of a HEADERS frame's payload that belongs to the header block.
fn fragment(flags: u8, mut payload: &[u8]) -> Option<&[u8]> {
    let mut padding = 0;
    if flags & FLAG_PADDED != 0 {
        padding = usize::from(*payload.split_off_first()?);
    }
    if flags & FLAG_PRIORITY != 0 {
        // The priority, which the server ignores.
        payload.split_off(..5)?;
    }
    payload.get(..payload.len().checked_sub(padding)?)
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, task::Poll, time::Duration};

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::http::{Load, flood::PingPolicy, hpack::write_field};

    fn fresh() -> Inbound {
        let pings = PingPolicy { interval_min: Duration::ZERO, without_calls: true };
        let flood = Flood::new(pings, limits::HTTP2_VOID_FRAMES, clock::now());
        Inbound::new(true, flood, Calls::new(Load::new()))
    }

    /// What is passed on of bytes that are received in pieces of these lengths, over and over.
    fn passed_on(inbound: &mut Inbound, mut bytes: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut passed_on = Vec::new();
        let ready = |inbound: &mut Inbound, passed_on: &mut Vec<u8>| {
            loop {
                let mut buffer = [0; 700];
                let mut buffer = ReadBuf::new(&mut buffer);
                inbound.take_ready(&mut buffer);
                if buffer.filled().is_empty() {
                    return;
                }
                passed_on.extend_from_slice(buffer.filled());
            }
        };
        for cut in cuts.iter().cycle() {
            let (piece, rest) = bytes.split_at(bytes.len().min(*cut));
            bytes = rest;
            let passed = inbound.received(piece);
            passed_on.extend_from_slice(&piece[..passed]);
            ready(inbound, &mut passed_on);
            if bytes.is_empty() {
                return passed_on;
            }
        }
        passed_on
    }

    fn frame_of(kind: u8, flags: u8, stream_id: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream_id.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn block_of(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            write_field(&mut block, name.as_bytes(), value.as_bytes());
        }
        block
    }

    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const REQUEST: [(&str, &str); 4] =
        [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), ("te", "trailers")];

    #[test]
    fn plain_traffic_passes_byte_for_byte() {
        let block = block_of(&REQUEST);
        let mut sent = [PREFACE, &SETTINGS].concat();
        sent.extend(frame_of(TYPE_HEADERS, FLAG_END_HEADERS, 1, &block));
        sent.extend(frame_of(TYPE_DATA, 0, 1, &[7; 3000]));
        sent.extend(frame_of(TYPE_HEADERS, 0, 3, &block[..5]));
        sent.extend(frame_of(TYPE_CONTINUATION, FLAG_END_HEADERS, 3, &block[5..]));
        sent.extend(frame_of(TYPE_DATA, FLAG_END_STREAM, 3, &[]));
        for cut in 1..60 {
            assert_eq!(passed_on(&mut fresh(), &sent, &[cut]), sent, "in pieces of {cut}");
        }
        let http1 = b"GET / HTTP/1.1\r\n\r\n";
        assert_eq!(passed_on(&mut fresh(), http1, &[3]), http1);
    }

    /// Whoever sends a block in crumbs has it looked at for each frame of it, and not for each byte; and may not send
    /// it in any number of frames.
    #[test]
    fn a_block_in_crumbs_is_not_looked_at_for_each_of_them() {
        let block = block_of(&REQUEST);
        let mut sent = [PREFACE, &SETTINGS].concat();
        let mut inbound = fresh();
        passed_on(&mut inbound, &sent, &[64]);
        let before = inbound.frames();
        sent = frame_of(TYPE_HEADERS, 0, 1, &block);
        sent.extend(frame_of(TYPE_CONTINUATION, 0, 1, &[0; 10_000]));
        sent.extend(frame_of(TYPE_CONTINUATION, 0, 1, &[0; 10_000]));
        passed_on(&mut inbound, &sent, &[1]);
        assert!(inbound.frames() - before <= 8, "{} looks", inbound.frames() - before);

        let mut inbound = fresh();
        let mut sent = [PREFACE, &SETTINGS].concat();
        sent.extend(frame_of(TYPE_HEADERS, 0, 1, &block));
        for _ in 0..=limits::HEADER_CONTINUATIONS {
            sent.extend(frame_of(TYPE_CONTINUATION, 0, 1, &[]));
        }
        passed_on(&mut inbound, &sent, &[4096]);
        assert_eq!(inbound.state, State::Broken, "our HTTP/2 closes the connection");
    }

    /// They have no effect, and our HTTP/2 closes the connection at the hundredth.
    #[test]
    fn frames_without_anything_in_them_are_left_out() {
        let headers = frame_of(TYPE_HEADERS, FLAG_END_HEADERS, 1, &block_of(&REQUEST));
        let empty = frame_of(TYPE_DATA, 0, 1, &[]);
        let sent = [PREFACE, &headers, &empty, &empty, &SETTINGS, &empty].concat();
        let expected = [PREFACE, &headers, &SETTINGS].concat();
        for cut in 1..60 {
            assert_eq!(passed_on(&mut fresh(), &sent, &[cut]), expected, "in pieces of {cut}");
        }
    }

    #[test]
    fn a_block_that_never_ends_is_not_collected_for_ever() {
        let mut inbound = fresh();
        let block = block_of(&REQUEST);
        let begin = [PREFACE, &frame_of(TYPE_HEADERS, 0, 1, &block)].concat();
        passed_on(&mut inbound, &begin, &[1000]);
        let more = frame_of(TYPE_CONTINUATION, 0, 1, &[0; FRAME_LEN_MAX]);
        let mut received = begin.len();
        while inbound.state != State::Broken {
            assert!(received <= limits::HEADER_HELD_BYTES + 2 * more.len(), "{received} bytes are held");
            passed_on(&mut inbound, &more, &[more.len()]);
            received += more.len();
        }
        assert!(inbound.held.is_empty() && inbound.ready.is_empty());
    }

    #[test]
    fn a_large_field_cannot_be_multiplied() {
        let mut inbound = fresh();
        let mut block = block_of(&[(":authority", "no [ host")]);
        block.extend(block_of(&REQUEST));
        // A field that enters the table, and a hundred references to it.
        block.extend([0x40, 1, b'x', 0x7f, 0x81, 0x1d]);
        block.extend([b'v'; 0x7f + 0x1d * 128 + 1]);
        block.extend([0xbe; 100]);
        let sent = [PREFACE, &frame_of(TYPE_HEADERS, FLAG_END_HEADERS, 1, &block)].concat();
        let expected =
            [PREFACE, &frame_of(TYPE_HEADERS, FLAG_END_HEADERS, 1, request::MALFORMED_BLOCK)].concat();
        assert!(passed_on(&mut inbound, &sent, &[100]) == expected, "the stream is reset");
    }

    /// An HPACK encoder that takes whatever form chance wants.
    #[derive(Default)]
    struct Encoder {
        /// The newest is first.
        table: VecDeque<(String, String)>,
    }

    #[derive(Clone, Debug)]
    struct Form {
        /// Use the table where it has the field, or its name.
        refer: bool,
        /// 0 to enter the table, else one of the two forms that do not.
        kind: u8,
    }

    impl Encoder {
        fn write(&mut self, block: &mut Vec<u8>, name: &str, value: &str, form: &Form) {
            let field = self.table.iter().position(|(n, v)| (n.as_str(), v.as_str()) == (name, value));
            if form.refer
                && let Some(place) = field
            {
                return write_integer(block, 0x80, 7, 62 + place);
            }
            let index = match self.table.iter().position(|(n, _)| n == name) {
                Some(place) if form.refer => 62 + place,
                _ if form.refer && name == ":authority" => 1,
                _ => 0,
            };
            match form.kind {
                0 => write_integer(block, 0x40, 6, index),
                1 => write_integer(block, 0x00, 4, index),
                _ => write_integer(block, 0x10, 4, index),
            }
            if index == 0 {
                write_integer(block, 0, 7, name.len());
                block.extend(name.as_bytes());
            }
            write_integer(block, 0, 7, value.len());
            block.extend(value.as_bytes());
            if form.kind == 0 {
                self.table.push_front((name.to_owned(), value.to_owned()));
                let bytes = |table: &VecDeque<(String, String)>| -> usize {
                    table.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
                };
                while bytes(&self.table) > 4096 {
                    self.table.pop_back();
                }
            }
        }
    }

    fn write_integer(block: &mut Vec<u8>, kind: u8, bits: u32, value: usize) {
        let most = (1 << bits) - 1;
        if value < most {
            return block.push(kind | value as u8);
        }
        block.push(kind | most as u8);
        let mut left = value - most;
        while left >= 0x80 {
            block.push(0x80 | (left & 0x7f) as u8);
            left >>= 7;
        }
        block.push(left as u8);
    }

    #[derive(Clone, Debug)]
    struct Sent {
        authorities: Vec<String>,
        regular: Vec<(String, String)>,
        forms: Vec<Form>,
        /// How the block is cut into frames.
        fragments: Vec<usize>,
        padding: Option<u8>,
        has_priority: bool,
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let authority = prop_oneof![
            Just("localhost:2379".to_owned()),
            Just(String::new()),
            Just("#initially=[http://a:1;http://b:2]".to_owned()),
            Just("127.0.0.1:1,127.0.0.1:2".to_owned()),
            "[ -~]{0,40}",
            "[a-z]{0,3000}",
        ];
        let regular = ("[a-z]{1,3}", "[ -~]{0,10}|[a-z]{500,1500}")
            .prop_map(|(name, value)| (format!("x-{name}"), value));
        let form = (any::<bool>(), 0..3_u8).prop_map(|(refer, kind)| Form { refer, kind });
        (
            prop_oneof![6 => prop::collection::vec(authority.clone(), 1..2), 1 => prop::collection::vec(authority, 0..3)],
            prop::collection::vec(regular, 0..4),
            prop::collection::vec(form, 12),
            prop::collection::vec(1..200_usize, 1..6),
            prop::option::of(any::<u8>()),
            any::<bool>(),
        )
            .prop_map(|(authorities, regular, forms, fragments, padding, has_priority)| Sent {
                authorities,
                regular,
                forms,
                fragments,
                padding,
                has_priority,
            })
    }

    impl Sent {
        fn write(&self, encoder: &mut Encoder, stream_id: u32, bytes: &mut Vec<u8>) {
            let mut fields = vec![(":method", "POST")];
            fields.extend(self.authorities.iter().map(|authority| (":authority", authority.as_str())));
            fields.extend([(":scheme", "http"), (":path", "/a.B/C"), ("te", "trailers")]);
            fields.extend(self.regular.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            let mut block = Vec::new();
            for ((name, value), form) in fields.iter().zip(self.forms.iter().cycle()) {
                encoder.write(&mut block, name, value, form);
            }
            let (mut kind, mut flags) = (TYPE_HEADERS, FLAG_END_STREAM);
            let mut rest = &block[..];
            for length in self.fragments.iter().chain([&usize::MAX]) {
                let (fragment, behind) = rest.split_at((*length).min(rest.len()).min(1000));
                rest = behind;
                let mut payload = Vec::new();
                if kind == TYPE_HEADERS {
                    payload.extend(self.padding);
                    flags |= if self.padding.is_some() { FLAG_PADDED } else { 0 };
                    payload.extend(if self.has_priority { &[0, 0, 0, 0, 16][..] } else { &[] });
                    flags |= if self.has_priority { FLAG_PRIORITY } else { 0 };
                }
                payload.extend(fragment);
                if kind == TYPE_HEADERS {
                    payload.extend(vec![0; usize::from(self.padding.unwrap_or(0))]);
                }
                flags |= if rest.is_empty() { FLAG_END_HEADERS } else { 0 };
                bytes.extend(frame_of(kind, flags, stream_id, &payload));
                (kind, flags) = (TYPE_CONTINUATION, 0);
                if rest.is_empty() {
                    return;
                }
            }
            while !rest.is_empty() {
                let (fragment, behind) = rest.split_at(rest.len().min(1000));
                rest = behind;
                let flags = if rest.is_empty() { FLAG_END_HEADERS } else { 0 };
                bytes.extend(frame_of(TYPE_CONTINUATION, flags, stream_id, fragment));
            }
        }
    }

    /// What our HTTP/2 makes of these bytes: the path and the other headers of each request.
    async fn taken(bytes: Vec<u8>, requests: usize) -> Vec<Vec<(String, String)>> {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(&bytes).await.expect("it is read");
        let mut builder = h2::server::Builder::new();
        let builder =
            builder.max_header_list_size(limits::HEADER_LIST_BYTES).max_local_error_reset_streams(None);
        let mut connection = builder.handshake::<_, bytes::Bytes>(server).await.expect("a preface");
        let mut taken = Vec::new();
        while taken.len() < requests {
            // All bytes are there already: whatever does not come now never will. A task is only
            // given so much to do in one go, so it is asked more than once.
            let mut accepted = None;
            for _ in 0..10 {
                if let Poll::Ready(request) = futures_util::poll!(std::pin::pin!(connection.accept())) {
                    accepted = request;
                    break;
                }
                tokio::task::yield_now().await;
            }
            let Some(Ok((request, mut answer))) = accepted else { return taken };
            let mut fields = vec![(":path".to_owned(), request.uri().path().to_owned())];
            fields.extend(
                request
                    .headers()
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").to_owned())),
            );
            taken.push(fields);
            answer.send_response(http::Response::new(()), true).expect("the stream is open");
        }
        taken
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        /// Whatever the authority of each is, however it is encoded and cut, in frames or on the way.
        #[test]
        fn every_request_is_taken(
            requests in prop::collection::vec(sent(), 1..8),
            cuts in prop::collection::vec(1..300_usize, 1..10),
        ) {
            let mut bytes = [PREFACE, &SETTINGS].concat();
            let mut encoder = Encoder::default();
            for (request, stream_id) in requests.iter().zip((1..).step_by(2)) {
                request.write(&mut encoder, stream_id, &mut bytes);
            }
            let passed_on = passed_on(&mut fresh(), &bytes, &cuts);
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let mut taken = runtime.block_on(taken(passed_on, requests.len()));
            prop_assert_eq!(taken.len(), requests.len(), "a request was not taken");
            for (request, taken) in requests.iter().zip(&mut taken) {
                let mut expected = request.regular.clone();
                expected.extend([
                    (":path".to_owned(), "/a.B/C".to_owned()),
                    ("te".to_owned(), "trailers".to_owned()),
                ]);
                expected.sort();
                taken.sort();
                prop_assert_eq!(&*taken, &expected);
            }
        }

        #[test]
        fn no_bytes_do_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            cuts in prop::collection::vec(1..50_usize, 1..5),
        ) {
            passed_on(&mut fresh(), &[PREFACE, &bytes].concat(), &cuts);
            let headers = frame_of(TYPE_HEADERS, bytes.first().copied().unwrap_or(4), 1, &bytes);
            passed_on(&mut fresh(), &[PREFACE, &headers, &bytes].concat(), &cuts);
        }
    }
}
