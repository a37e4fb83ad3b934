//! The checks that etcd's gRPC transport makes before it calls a method.
//!
//! A call whose headers are not valid gRPC is refused here with the texts and codes of etcd's transport,
//! and does not reach a service. A call that passes has only headers that our services interpret as
//! etcd's services do.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{Router, body::Body, routing::future::RouteFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use hyper::{Request, body::Incoming};
use tonic::{Code, Status};
use tower::Service;

use super::{
    Load,
    body::{Cutter, Encoding, Messages},
    request::{METHOD_HEADER, PATH_HEADER},
};
use crate::limits;

const CONTENT_TYPE: &str = "application/grpc";
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// What the services of one port are called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Methods {
    /// The services, as `package.Service`.
    pub(crate) services: &'static [&'static str],
    /// The paths of methods whose clients send a stream of messages. The client of any other method sends one.
    pub(crate) client_streams: &'static [&'static str],
}

/// The services of one port.
#[derive(Clone)]
pub(super) struct Grpc {
    pub(super) router: Router,
    pub(super) methods: Methods,
    pub(super) message_bytes_max: usize,
}

/// A call that is not answered yet.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every call is of the large kind, and is not worth a box"
)]
pub(super) enum Call {
    Refused(Option<Response<Body>>),
    Running {
        answer: RouteFuture<Infallible>,
        path: http::Uri,
        content_type: Option<HeaderValue>,
        services: &'static [&'static str],
    },
}

impl Grpc {
    /// Refuses a call for which there is no place.
    pub(super) fn refuse(&self, request: Request<Incoming>, load: &Arc<Load>) -> Call {
        drop(self.messages(request.into_body(), Encoding::Identity, false, load));
        let text = format!("too many concurrent calls: the server has {} of them open", limits::CALLS_MAX);
        Call::Refused(Some(Status::resource_exhausted(text).into_http()))
    }

    pub(super) fn call(&self, request: Request<Incoming>, load: &Arc<Load>) -> Call {
        let (mut parts, incoming) = request.into_parts();
        let checked = check(&mut parts, self.methods.services);
        let encoding = checked.as_ref().map_or(Encoding::Identity, |checked| checked.encoding);
        let is_stream = self.methods.client_streams.contains(&parts.uri.path());
        let body = self.messages(incoming, encoding, is_stream, load);
        match checked {
            Err(refusal) => Call::Refused(Some(*refusal)),
            Ok(Checked { content_type, .. }) => Call::Running {
                path: parts.uri.clone(),
                content_type,
                services: self.methods.services,
                // A router is shared behind its clones, and always ready.
                answer: self.router.clone().call(Request::from_parts(parts, body)),
            },
        }
    }

    /// The messages of a request. Those of a refused call are read and discarded once this is dropped.
    fn messages(
        &self,
        incoming: Incoming,
        encoding: Encoding,
        is_stream: bool,
        load: &Arc<Load>,
    ) -> Messages {
        let cutter = Cutter::new(encoding, self.message_bytes_max, load.clone());
        Messages::new(incoming, cutter, is_stream)
    }
}

/// Whether a request is a gRPC call, as etcd decides it where it serves both on one connection.
pub(super) fn is_call<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let call = CONTENT_TYPE.as_bytes();
    content_type.is_some_and(|value| value.as_bytes().windows(call.len()).any(|window| window == call))
}

impl Future for Call {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Call::Refused(response) => {
                Poll::Ready(Ok(response.take().expect("a future is not polled after its end")))
            }
            Call::Running { answer, path, content_type, services } => {
                let Ok(mut response) = ready!(Pin::new(answer).poll(cx));
                if is_unknown(response.headers()) {
                    response = unknown(path.path(), services).into_http();
                }
                if let Some(content_type) = content_type.take() {
                    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
                }
                Poll::Ready(Ok(response))
            }
        }
    }
}

/// What the headers of a valid call say.
struct Checked {
    encoding: Encoding,
    /// The content type of the answer, if it is not `application/grpc`.
    content_type: Option<HeaderValue>,
}

/// Checks the headers of a call in the same order as etcd's transport, so that the first error is the same.
fn check(parts: &mut Parts, names: &[&str]) -> Result<Checked, Box<Response<Body>>> {
    let headers = &mut parts.headers;
    let mut subtype = None;
    let mut other = &[][..];
    for value in headers.get_all(header::CONTENT_TYPE) {
        match grpc_subtype(value.as_bytes()) {
            Some(found) => subtype = Some(found),
            None => other = value.as_bytes(),
        }
    }
    let Some(subtype) = subtype else {
        let text = format!("invalid gRPC request content-type {}", quoted(other));
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, Status::invalid_argument(text), None));
    };
    let content_type = (!subtype.is_empty())
        .then(|| HeaderValue::from_bytes(&[CONTENT_TYPE.as_bytes(), b"+", subtype].concat()).ok())
        .flatten();
    if let Some(text) = bad_binary_header(headers) {
        return Err(refused(StatusCode::BAD_REQUEST, Status::internal(text), content_type));
    }
    if let Some(method) = headers.get(METHOD_HEADER) {
        let method = quoted(method.as_bytes());
        let text = format!("Received a HEADERS frame with :method {method} which should be POST");
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, Status::internal(text), content_type));
    }
    if let Some(path) = headers.get(PATH_HEADER) {
        let path = String::from_utf8_lossy(path.as_bytes());
        return Err(refused(StatusCode::OK, unknown(&path, names), content_type));
    }
    let encoding = match headers.get_all(&ENCODING).iter().next_back().map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Encoding::Identity,
        Some(b"gzip") => Encoding::Gzip,
        Some(other) => {
            let text = format!("grpc: Decompressor is not installed for grpc-encoding {}", quoted(other));
            return Err(refused(StatusCode::OK, Status::unimplemented(text), content_type));
        }
    };
    headers.remove(&ENCODING);
    // An answer is compressed as its request was, even if the client accepts other encodings too.
    match encoding {
        Encoding::Identity => drop(headers.remove(&ACCEPT_ENCODING)),
        Encoding::Gzip => drop(headers.insert(&ACCEPT_ENCODING, HeaderValue::from_static("gzip"))),
    }
    keep_few(headers);
    Ok(Checked { encoding, content_type })
}

/// The subtype of a content type of gRPC: what follows `application/grpc+`.
fn grpc_subtype(content_type: &[u8]) -> Option<&[u8]> {
    match content_type.strip_prefix(CONTENT_TYPE.as_bytes())? {
        [] => Some(&[]),
        [b'+' | b';', subtype @ ..] => Some(subtype),
        _ => None,
    }
}

/// The error about the last binary header whose value is not base64.
fn bad_binary_header(headers: &HeaderMap) -> Option<String> {
    let binary = headers.iter().filter(|(name, _)| name.as_str().ends_with("-bin"));
    let faults = binary.filter_map(|(name, value)| Some((name, value, base64_fault(value.as_bytes())?)));
    let (name, value, at) = faults.last()?;
    let (name, value) = (quoted(name.as_str().as_bytes()), quoted(value.as_bytes()));
    Some(format!(
        "malformed binary metadata {value} in header {name}: illegal base64 data at input byte {at}"
    ))
}

/// The position at which Go's base64 decoder would report an error. The padding is optional.
fn base64_fault(text: &[u8]) -> Option<usize> {
    let is_padded = text.len().is_multiple_of(4);
    let digits = text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte));
    let digits = digits.count();
    match (&text[digits..], digits % 4) {
        // A single digit has fewer bits than a byte.
        ([], 1) => Some(digits - 1),
        ([], _) | (b"=", 3) | (b"==", 2) if is_padded || digits == text.len() => None,
        ([b'=', b'=', ..], 2) if is_padded => Some(digits + 2),
        ([b'=', ..], 3) if is_padded => Some(digits + 1),
        _ => Some(digits),
    }
}

/// Keeps only the headers that a service reads. A client may send thousands of headers and a call may
/// wait for a long time, and the unused headers would take up memory until its end.
fn keep_few(headers: &mut HeaderMap) {
    if headers.len() <= limits::HEADERS_KEPT {
        return;
    }
    let mut few = HeaderMap::new();
    for name in ["token", "authorization", "hasleader", "client-api-version", "grpc-timeout", "user-agent"] {
        if let Some(value) = headers.remove(name) {
            few.insert(name, value);
        }
    }
    for name in [header::CONTENT_TYPE, ACCEPT_ENCODING] {
        if let Some(value) = headers.remove(&name) {
            few.insert(name, value);
        }
    }
    *headers = few;
}

fn refused(
    http_status: StatusCode,
    status: Status,
    content_type: Option<HeaderValue>,
) -> Box<Response<Body>> {
    let mut response: Response<Body> = status.into_http();
    *response.status_mut() = http_status;
    if let Some(content_type) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    Box::new(response)
}

/// Whether an answer says that the method does not exist: the gRPC library then sends `Unimplemented` without a
/// text, which none of our methods does.
fn is_unknown(headers: &HeaderMap) -> bool {
    let is_unimplemented = headers
        .get(Status::GRPC_STATUS)
        .is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::Unimplemented);
    is_unimplemented && headers.get(Status::GRPC_MESSAGE).is_none_or(HeaderValue::is_empty)
}

/// The refusal of a path that is not the path of a method.
fn unknown(path: &str, names: &[&str]) -> Status {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
        return Status::unimplemented(format!("malformed method name: {}", quoted(path.as_bytes())));
    };
    Status::unimplemented(if names.contains(&service) {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    })
}

/// A text from a client, quoted as Go's `%q` does.
fn quoted(text: &[u8]) -> String {
    let mut quoted = String::from('"');
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                '\t' => quoted.push_str("\\t"),
                c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => quoted.push(c),
            }
        }
        for byte in chunk.invalid() {
            quoted.push_str(&format!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_go_reads_it() {
        for (text, fault) in [
            ("", None),
            ("AAAA", None),
            ("AA==", None),
            ("AAA=", None),
            ("AA", None),
            ("AAA", None),
            ("%%%", Some(0)),
            ("AAAAA", Some(4)),
            ("AA=", Some(2)),
            ("A===", Some(1)),
            ("AA=A", Some(2)),
            ("AAA=AAAA", Some(4)),
            ("AA==AAAA", Some(4)),
            ("AAAA AAA", Some(4)),
        ] {
            assert_eq!(base64_fault(text.as_bytes()), fault, "{text}");
        }
    }

    #[test]
    fn a_path_that_leads_nowhere_is_told_apart() {
        for (path, text) in [
            ("", r#"malformed method name: """#),
            ("/", r#"malformed method name: "/""#),
            ("a/b", r#"malformed method name: "a/b""#),
            ("//", "unknown service "),
            ("/a/b/c", "unknown service a/b"),
            ("/pkg.A/Nope", "unknown method Nope for service pkg.A"),
            ("/pkg.A/", "unknown method  for service pkg.A"),
            ("/pkg.A/Nope/", "unknown service pkg.A/Nope"),
        ] {
            assert_eq!(unknown(path, &["pkg.A"]).message(), text, "{path}");
        }
    }

    #[test]
    fn a_content_type_is_grpcs_or_it_is_not() {
        for (content_type, subtype) in [
            ("application/grpc", Some("")),
            ("application/grpc+", Some("")),
            ("application/grpc+proto", Some("proto")),
            ("application/grpc;x=1", Some("x=1")),
            ("application/grpc-web", None),
            ("APPLICATION/GRPC", None),
            ("", None),
        ] {
            assert_eq!(grpc_subtype(content_type.as_bytes()), subtype.map(str::as_bytes), "{content_type}");
        }
    }
}
