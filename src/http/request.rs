//! Whether a request can be served, judged by its header fields.
//!
//! etcd's transport checks less than our HTTP/2 library: it accepts any value of `:authority`, `:scheme`
//! and `te`, and answers a wrong `:method` or `:path` with an error text. The library resets the stream,
//! and closes the connection because of a field that is not valid HTTP. So each field is judged here, before
//! the library, as etcd's transport judges it, and a request with a field that the library would not accept
//! is rewritten.

use http::{Method, Request, Uri};

use super::hpack::{Fields, write_field};

/// Headers in which a rewritten request keeps a method other than POST, and a path that our HTTP/2 library could
/// refuse, so that `grpc.rs` can refuse them in etcd's words. A client cannot set these headers itself: they are removed.
pub(super) const METHOD_HEADER: &str = "retcd-method";
pub(super) const PATH_HEADER: &str = "retcd-path";
const OWN_PREFIX: &[u8] = b"retcd-";

/// Our HTTP/2 library does not accept longer paths.
const PATH_LEN_MAX: usize = 1024;

/// An extension of requests that nobody between the client and this server can have read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encrypted;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    slot: Slot,
    verdict: Verdict,
}

/// The kind of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Authority,
    Method,
    Path,
    Protocol,
    Scheme,
    Regular,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// Our HTTP/2 library accepts the field and interprets it as etcd's does.
    Plain,
    /// Our HTTP/2 library would refuse the request because of the field, or interpret the field in another way than etcd's.
    Odd,
    /// Every HTTP/2 library refuses a request with the field.
    Malformed,
}

pub(super) fn judge(name: &[u8], value: &[u8]) -> Judgement {
    use Slot::*;
    use Verdict::*;
    let (slot, verdict) = match name {
        b":authority" => (Authority, plain_if(http::uri::Authority::try_from(value).is_ok())),
        b":method" => (Method, plain_if(value == b"POST")),
        b":path" => (Path, plain_if(is_plain_path(value))),
        b":protocol" => (Protocol, Odd),
        b":scheme" => (Scheme, plain_if(matches!(value, b"http" | b"https"))),
        b"connection" => (Regular, Malformed),
        // These fields describe the connection or the length of the body, which HTTP/2 has frames for.
        b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" | b"content-length" => {
            (Regular, Odd)
        }
        b"te" => (Regular, plain_if(value == b"trailers")),
        _ if !is_name(name) => (Regular, Malformed),
        _ => (Regular, plain_if(!name.starts_with(OWN_PREFIX))),
    };
    Judgement { slot, verdict: if is_value(value) { verdict } else { Malformed } }
}

fn plain_if(is_plain: bool) -> Verdict {
    if is_plain { Verdict::Plain } else { Verdict::Odd }
}

/// Whether a path consists only of characters that occur in the paths of gRPC methods.
fn is_plain_path(value: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    value.starts_with(b"/") && value.len() <= PATH_LEN_MAX && value.iter().all(is_plain)
}

fn is_name(name: &[u8]) -> bool {
    let is_letter =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(is_letter)
}

fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..))
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The request is passed on unchanged.
    Passed,
    /// The request is rewritten.
    Rewritten,
    /// The stream of the request is reset.
    Reset,
    /// The request has more fields than the server accepts.
    TooLarge,
}

pub(super) fn fate(fields: &Fields) -> Fate {
    let mut worst = Verdict::Plain;
    let mut seen = 0_u8;
    for field in fields.iter() {
        let Judgement { slot, verdict } = field.judgement;
        worst = worst.max(verdict);
        let bit = 1 << slot as u8;
        match slot {
            Slot::Regular => {}
            // etcd resets a request with two authorities. This server never reads the authority, so it accepts two.
            Slot::Authority if seen & bit != 0 => worst = worst.max(Verdict::Odd),
            _ if seen & bit != 0 || seen & (1 << Slot::Regular as u8) != 0 => worst = Verdict::Malformed,
            _ => {}
        }
        seen |= bit;
    }
    let needed = 1 << Slot::Method as u8 | 1 << Slot::Path as u8 | 1 << Slot::Scheme as u8;
    match worst {
        _ if fields.is_cut => Fate::TooLarge,
        Verdict::Malformed => Fate::Reset,
        Verdict::Plain if seen & needed == needed => Fate::Passed,
        _ => Fate::Rewritten,
    }
}

/// Writes the request in a form that our HTTP/2 library accepts.
pub(super) fn rewrite(fields: &Fields, block: &mut Vec<u8>) {
    let of_slot = |slot| fields.iter().find(|field| field.judgement.slot == slot);
    let (method, path) = (of_slot(Slot::Method), of_slot(Slot::Path));
    write_field(block, b":method", b"POST");
    write_field(block, b":scheme", b"http");
    let plain_path = path.filter(|path| path.judgement.verdict == Verdict::Plain);
    write_field(block, b":path", plain_path.map_or(b"/", |path| path.value));
    if method.is_none_or(|method| method.judgement.verdict != Verdict::Plain) {
        write_field(block, METHOD_HEADER.as_bytes(), method.map_or(b"", |method| method.value));
    }
    if plain_path.is_none() {
        write_field(block, PATH_HEADER.as_bytes(), path.map_or(b"", |path| path.value));
    }
    for field in fields.iter() {
        if field.judgement == (Judgement { slot: Slot::Regular, verdict: Verdict::Plain }) {
            write_field(block, field.name, field.value);
        }
    }
}

/// A request that is not for gRPC, with the method and the path that it had before it was rewritten. A path that is not
/// valid remains `/`.
pub(super) fn as_it_was_sent<B>(mut request: Request<B>) -> Request<B> {
    if let Some(method) = request.headers_mut().remove(METHOD_HEADER)
        && let Ok(method) = Method::from_bytes(method.as_bytes())
    {
        *request.method_mut() = method;
    }
    if let Some(path) = request.headers_mut().remove(PATH_HEADER)
        && let Ok(path) = Uri::try_from(path.as_bytes())
    {
        *request.uri_mut() = path;
    }
    request
}

/// A block with two methods: our HTTP/2 library resets the stream, and keeps the connection.
pub(super) const MALFORMED_BLOCK: &[u8] = &[0x83, 0x83];
