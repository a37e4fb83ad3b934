//! Any call by its path and its bytes, and what it was answered as one line.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures_util::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::time;
use tonic::{
    Request, Response, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
    transport::Channel,
};

use super::calls::Kind;
use crate::pb::etcdserverpb::WatchResponse;

/// What a call that is permitted is answered.
pub(super) const OK: &str = "OK";

/// How long a call may take. Some of etcd 3.5's never end; that is an answer too. A call that is given up may undo what
/// it began, a campaign for example, so the time is long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const SILENCE: &str = "no answer";

/// Answers that only say that the machine was slow.
const HASTE: [&str; 3] = ["request timed out", "leader changed", "too many requests"];

pub(super) async fn ask(
    channel: &Channel,
    path: &'static str,
    kind: Kind,
    messages: Vec<Vec<u8>>,
    token: Option<&str>,
) -> String {
    loop {
        let answer = time::timeout(PATIENCE, ask_once(channel, path, kind, messages.clone(), token)).await;
        let line = match answer {
            Ok(Ok(line)) => line,
            Ok(Err(status)) => format!("{:?}: {}", status.code(), blotted(status.message())),
            Err(_) => SILENCE.to_owned(),
        };
        // etcd 3.5.1 sometimes forgets to answer a change of the members.
        let is_forgotten = line == SILENCE && path.starts_with("/etcdserverpb.Cluster/");
        if !is_forgotten && !HASTE.iter().any(|haste| line.contains(haste)) {
            return line;
        }
    }
}

/// A call of the test itself, which has to succeed.
pub(super) async fn tell(
    channel: &Channel,
    path: &'static str,
    message: &impl Message,
    token: Option<&str>,
) -> Bytes {
    try_tell(channel, path, message, token).await.unwrap_or_else(|status| panic!("{path}: {status}"))
}

pub(super) async fn try_tell(
    channel: &Channel,
    path: &'static str,
    message: &impl Message,
    token: Option<&str>,
) -> Result<Bytes, Status> {
    loop {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        let request = with_token(message.encode_to_vec(), token);
        match grpc.unary(request, PathAndQuery::from_static(path), Plain).await {
            Err(status) if HASTE.iter().any(|haste| status.message().contains(haste)) => {}
            answer => return answer.map(Response::into_inner),
        }
    }
}

fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let token = MetadataValue::try_from(token).expect("a token is ASCII");
        request.metadata_mut().insert("token", token);
    }
    request
}

async fn ask_once(
    channel: &Channel,
    path: &'static str,
    kind: Kind,
    messages: Vec<Vec<u8>>,
    token: Option<&str>,
) -> Result<String, Status> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let path_and_query = PathAndQuery::from_static(path);
    if kind == Kind::Unary {
        let message = messages.into_iter().next().expect("a unary call has a message");
        grpc.unary(with_token(message, token), path_and_query, Plain).await?;
        return Ok(OK.to_owned());
    }
    let answers = messages.len();
    let end =
        if kind == Kind::Bidi { stream::pending().left_stream() } else { stream::empty().right_stream() };
    let request = with_token(stream::iter(messages).chain(end), token);
    let mut received = grpc.streaming(request, path_and_query, Plain).await?.into_inner();
    for _ in 0..answers {
        let Some(answer) = received.message().await? else { return Ok("OK, and no answer".to_owned()) };
        if path.ends_with("/Watch") && path.contains("etcdserverpb") {
            let watch = WatchResponse::decode(answer).map_err(|error| Status::unknown(error.to_string()))?;
            if watch.canceled && !watch.cancel_reason.is_empty() {
                return Ok(format!("OK, cancelled: {}", blotted(&watch.cancel_reason)));
            }
        }
    }
    Ok(OK.to_owned())
}

/// Without ids, which differ from run to run.
fn blotted(text: &str) -> String {
    let mut words = Vec::new();
    for word in text.split(' ') {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_id = bare.len() >= 12 && bare.bytes().all(|digit| digit.is_ascii_hexdigit());
        words.push(if is_id { word.replace(bare, "ID") } else { word.to_owned() });
    }
    words.join(" ")
}

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Plain;
    type Decoder = Plain;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
