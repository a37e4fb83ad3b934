//! Answers of gRPC services as answers over HTTP.
//!
//! An answer of one message is sent when it is whole, unless it arrives in pieces, as long answers do: then it is
//! sent as it arrives. A stream of messages is a line of JSON for each of them.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{BoxError, body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Status};

use super::{
    decode::PREFIX_BYTES,
    encode::{Encoder, NotThisMessage},
    refusal,
    schema::{Message, Method},
};

/// etcd's gateway has a header of its own for every header of the gRPC answer.
const GRPC_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");

/// The answer over HTTP. `place` is given back when all of it was sent.
pub(super) async fn reply(
    answer: Response,
    method: &'static Method,
    place: OwnedSemaphorePermit,
) -> Response {
    let refused = if method.gives_stream { refusal::stream_response } else { refusal::response };
    if let Some(status) = failure(answer.headers()) {
        return refused(&status);
    }
    let mut messages = answer.into_body();
    let mut transcoder = Transcoder::new(method);
    let mut json = Vec::new();
    loop {
        match messages.frame().await {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().and_then(failure) {
                    return refused(&status);
                }
                let Some(piece) = frame.data_ref() else { continue };
                if let Err(error) = transcoder.write(piece, &mut json) {
                    return refused(&broken(error));
                }
                let goes_on = method.gives_stream || !transcoder.is_between();
                if goes_on && !json.is_empty() {
                    let lines = Lines { messages, transcoder, json, is_over: false, _place: place };
                    return answered(Body::new(lines));
                }
            }
            Some(Err(error)) => return refused(&Status::from_error(error.into())),
            None => return answered(Body::from(json)),
        }
    }
}

fn answered(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, refusal::JSON);
    response.headers_mut().insert(GRPC_CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The status of a call in its headers or trailers, if it failed.
fn failure(headers: &HeaderMap) -> Option<Status> {
    if headers.get(Status::GRPC_STATUS)? == "0" {
        return None;
    }
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

fn broken(error: NotThisMessage) -> Status {
    tracing::error!(%error, "cannot answer a call of the JSON gateway");
    Status::internal(error.to_string())
}

/// The rest of an answer: of a stream, or of a message that arrives in pieces.
struct Lines {
    messages: Body,
    transcoder: Transcoder,
    /// What is to be sent next.
    json: Vec<u8>,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Lines {
    /// The end of an answer that failed. A line can tell a client why; where there is no line, the connection is
    /// closed, so that the client does not take a part of the answer for the whole.
    fn fail(&mut self, status: Status) -> Result<(), BoxError> {
        self.is_over = true;
        if !self.transcoder.is_stream || !self.transcoder.is_between() {
            return Err(status.into());
        }
        self.json.extend(refusal::line(&status));
        Ok(())
    }
}

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if !this.json.is_empty() {
                let json = std::mem::take(&mut this.json);
                return Poll::Ready(Some(Ok(Frame::data(json.into()))));
            }
            if this.is_over {
                return Poll::Ready(None);
            }
            let outcome = match ready!(Pin::new(&mut this.messages).poll_frame(cx)) {
                Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref().and_then(failure)) {
                    (Some(piece), _) => match this.transcoder.write(piece, &mut this.json) {
                        Ok(()) => Ok(()),
                        Err(error) => this.fail(broken(error)),
                    },
                    (None, Some(status)) => this.fail(status),
                    (None, None) => Ok(()),
                },
                Some(Err(error)) => this.fail(Status::from_error(error.into())),
                None => {
                    this.is_over = true;
                    Ok(())
                }
            };
            if let Err(error) = outcome {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}

/// Makes JSON of messages of gRPC, however they are cut into pieces.
struct Transcoder {
    message: &'static Message,
    is_stream: bool,
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    /// Bytes of the message that are still to come.
    left: usize,
    encoder: Option<Encoder>,
}

impl Transcoder {
    fn new(method: &Method) -> Transcoder {
        Transcoder {
            message: method.response,
            is_stream: method.gives_stream,
            prefix: [0; PREFIX_BYTES],
            prefix_len: 0,
            left: 0,
            encoder: None,
        }
    }

    fn is_between(&self) -> bool {
        self.prefix_len == 0 && self.encoder.is_none()
    }

    fn write(&mut self, mut piece: &[u8], json: &mut Vec<u8>) -> Result<(), NotThisMessage> {
        while !piece.is_empty() {
            let taken = match &mut self.encoder {
                Some(encoder) => {
                    let taken = piece.len().min(self.left);
                    encoder.write(&piece[..taken], json)?;
                    self.left -= taken;
                    taken
                }
                None => {
                    let taken = piece.len().min(PREFIX_BYTES - self.prefix_len);
                    self.prefix[self.prefix_len..][..taken].copy_from_slice(&piece[..taken]);
                    self.prefix_len += taken;
                    taken
                }
            };
            piece = &piece[taken..];
            if self.prefix_len == PREFIX_BYTES {
                self.prefix_len = 0;
                // Most of a message becomes digits of base64 and names.
                json.reserve(piece.len() * 2);
                self.begin(json);
            }
            if self.encoder.is_some() && self.left == 0 {
                self.end(json)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, json: &mut Vec<u8>) {
        let [_flags, length @ ..] = self.prefix;
        self.left = u32::from_be_bytes(length) as usize;
        if self.is_stream {
            json.extend_from_slice(br#"{"result":"#);
        }
        self.encoder = Some(Encoder::new(self.message, self.left, json));
    }

    fn end(&mut self, json: &mut Vec<u8>) -> Result<(), NotThisMessage> {
        let encoder = self.encoder.take();
        if encoder.is_none_or(|encoder| !encoder.is_done()) {
            return Err(NotThisMessage);
        }
        if self.is_stream {
            json.extend_from_slice(b"}\n");
        }
        Ok(())
    }
}
