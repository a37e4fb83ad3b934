//! A client of HTTP/2 over a raw socket: it sends the frames that a test wants, valid or not.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) fn frame(kind: u8, flags: u8, stream_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream_id.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The preface with the frame that belongs to it.
pub(crate) fn greeting() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// The header block of a call.
pub(crate) fn call_block(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.extend([0, name.len() as u8]);
        block.extend(name.as_bytes());
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend(value.as_bytes());
    }
    block
}

/// A message as gRPC sends it.
pub(crate) fn message(payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend((payload.len() as u32).to_be_bytes());
    message.extend(payload);
    message
}

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream_id: u32,
    pub(crate) payload: Vec<u8>,
}

/// What the server said before it closed a connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    /// The error code and the text of a GOAWAY frame.
    pub(crate) goaway: Option<(u32, String)>,
    pub(crate) took: Duration,
}

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    next_stream_id: u32,
}

impl Raw {
    /// A connection over which nothing was sent yet.
    pub(crate) fn silent(port: u16) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        stream.set_nodelay(true).expect("a socket of TCP");
        Raw { stream, next_stream_id: 1 }
    }

    /// A connection over which these bytes were sent.
    pub(crate) fn saying(port: u16, bytes: &[u8]) -> Raw {
        let mut raw = Raw::silent(port);
        raw.send(bytes).expect("the server reads");
        raw
    }

    pub(crate) fn greeted(port: u16) -> Raw {
        Raw::saying(port, &greeting())
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends the headers of a call.
    pub(crate) fn open(&mut self, path: &str) -> u32 {
        let stream_id = self.next_stream_id;
        self.next_stream_id += 2;
        self.send(&frame(HEADERS, END_HEADERS, stream_id, &call_block(path))).expect("the server reads");
        stream_id
    }

    /// Makes a whole call with one message.
    pub(crate) fn call(&mut self, path: &str, payload: &[u8]) -> u32 {
        let stream_id = self.open(path);
        self.send(&frame(DATA, END_STREAM, stream_id, &message(payload))).expect("the server reads");
        stream_id
    }

    /// The next frame; an error at the end of the connection, or if no frame comes within `patience`.
    pub(crate) fn read(&mut self, patience: Duration) -> io::Result<Frame> {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout can be set");
        let mut header = [0; 9];
        self.stream.read_exact(&mut header)?;
        let [high, middle, low, kind, flags, stream_id @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        self.stream.read_exact(&mut payload)?;
        Ok(Frame { kind, flags, stream_id: u32::from_be_bytes(stream_id), payload })
    }

    /// Reads until a stream has ended, and returns its last frame.
    pub(crate) fn ended(&mut self, stream_id: u32, patience: Duration) -> io::Result<Frame> {
        loop {
            let frame = self.read(patience)?;
            let is_end = frame.kind == RST_STREAM || frame.flags & END_STREAM != 0;
            if frame.stream_id == stream_id && is_end && frame.kind <= RST_STREAM {
                return Ok(frame);
            }
        }
    }

    /// Reads until the server closes the connection. An error if it does not within `patience`.
    pub(crate) fn closed(&mut self, patience: Duration) -> io::Result<Closed> {
        let start = Instant::now();
        let mut closed = Closed::default();
        loop {
            let left = patience.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
            match self.read(left) {
                Ok(frame) if frame.kind == GOAWAY => {
                    let (code, text) = frame.payload[4..].split_first_chunk().expect("an error code");
                    let text = String::from_utf8_lossy(text).into_owned();
                    closed.goaway = Some((u32::from_be_bytes(*code), text));
                    // What is still on its way is of no interest, and the server waits for the end.
                    let _ = self.stream.shutdown(Shutdown::Write);
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(error);
                }
                Err(_) => {
                    closed.took = start.elapsed();
                    return Ok(closed);
                }
            }
        }
    }
}
