//! A client of HTTP/2 that writes what a test wants, whether it is sound or not.

use std::collections::BTreeMap;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    http::hpack::{Decoder, Fields, write_field},
    limits,
};

/// A sound call.
pub(super) const CALL: [(&str, &str); 6] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/grpc.health.v1.Health/Check"),
    (":authority", "localhost:2379"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A message as it is sent in a call.
pub(super) fn message(payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend((payload.len() as u32).to_be_bytes());
    message.extend(payload);
    message
}

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Served,
    Refused { http: u16, code: u8, text: String },
    Reset,
}

pub(super) struct Wire {
    stream: TcpStream,
    decoder: Decoder,
    next_stream_id: u32,
    is_peer: bool,
}

impl Wire {
    pub(super) async fn connect(address: &str, is_peer: bool) -> Wire {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket of TCP");
        let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        begin.extend(frame(SETTINGS, 0, 0, &[]));
        stream.write_all(&begin).await.expect("sent");
        let mut wire = Wire { stream, decoder: Decoder::default(), next_stream_id: 1, is_peer };
        while wire.read().await.0 != SETTINGS {}
        wire
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        match self.is_peer {
            true => limits::PEER_MESSAGE_BYTES_MAX,
            false => limits::REQUEST_BYTES_MAX + limits::REQUEST_OVERHEAD_BYTES,
        }
    }

    /// Makes a call and expects an answer to it.
    pub(super) async fn serves(&mut self, fields: &[(&str, &str)], what: &str) {
        assert_eq!(self.call(fields, &message(&[])).await, Ended::Served, "{what}");
    }

    pub(super) async fn call(&mut self, fields: &[(&str, &str)], body: &[u8]) -> Ended {
        let stream_id = self.open(fields).await;
        self.data(stream_id, true, body).await;
        self.ended(stream_id).await
    }

    /// Sends the headers of a call.
    pub(super) async fn open(&mut self, fields: &[(&str, &str)]) -> u32 {
        let mut block = Vec::new();
        for (name, value) in fields {
            write_field(&mut block, name.as_bytes(), value.as_bytes());
        }
        let stream_id = self.next_stream_id;
        self.next_stream_id += 2;
        let mut frames = Vec::new();
        let mut fragments = block.chunks(16_384).enumerate().peekable();
        while let Some((number, fragment)) = fragments.next() {
            let flags = if fragments.peek().is_none() { END_HEADERS } else { 0 };
            frames.extend(frame(
                if number == 0 { HEADERS } else { CONTINUATION },
                flags,
                stream_id,
                fragment,
            ));
        }
        self.write(&frames).await;
        stream_id
    }

    pub(super) async fn data(&mut self, stream_id: u32, is_last: bool, payload: &[u8]) {
        self.write(&frame(DATA, u8::from(is_last), stream_id, payload)).await;
    }

    /// Appends a call that is given up at once.
    pub(super) fn write_given_up(&mut self, frames: &mut Vec<u8>) {
        let stream_id = self.next_stream_id;
        self.next_stream_id += 2;
        let mut block = vec![0x83, 0x86];
        write_field(&mut block, b":path", b"/a/b");
        frames.extend(frame(HEADERS, END_HEADERS, stream_id, &block));
        frames.extend(frame(RST_STREAM, 0, stream_id, &8_u32.to_be_bytes()));
    }

    pub(super) async fn write(&mut self, frames: &[u8]) {
        self.stream.write_all(frames).await.expect("the server reads");
    }

    /// Reads until a call has ended.
    pub(super) async fn ended(&mut self, wanted: u32) -> Ended {
        let mut fields = BTreeMap::new();
        loop {
            let (kind, flags, stream_id, payload) = self.read().await;
            match kind {
                GOAWAY => panic!("the server closes the connection: {}", String::from_utf8_lossy(&payload)),
                HEADERS => {
                    let mut decoded = Fields::default();
                    self.decoder.decode(&payload, &mut decoded).expect("the server speaks HPACK");
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    if stream_id == wanted {
                        fields.extend(decoded.iter().map(|field| (text(field.name), text(field.value))));
                    }
                }
                RST_STREAM if stream_id == wanted => return Ended::Reset,
                _ => {}
            }
            if stream_id == wanted && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                let of = |name: &str| fields.get(name).map_or("", String::as_str);
                let text = of("grpc-message").replace("%20", " ").replace("%22", "\"").replace("%3C", "<");
                let text = text.replace("%3E", ">").replace("%3F", "?").replace("%25", "%");
                return match (of(":status"), of("grpc-status")) {
                    ("200", "0") => Ended::Served,
                    (http, code) => Ended::Refused {
                        http: http.parse().expect("a status"),
                        code: code.parse().unwrap_or(0),
                        text,
                    },
                };
            }
        }
    }

    /// The next frame: kind, flags, stream, payload.
    async fn read(&mut self) -> (u8, u8, u32, Vec<u8>) {
        let mut header = [0; 9];
        self.stream.read_exact(&mut header).await.expect("the connection stays");
        let [high, middle, low, kind, flags, stream_id @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        self.stream.read_exact(&mut payload).await.expect("a whole frame");
        (kind, flags, u32::from_be_bytes(stream_id), payload)
    }
}

fn frame(kind: u8, flags: u8, stream_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream_id.to_be_bytes());
    frame.extend(payload);
    frame
}
