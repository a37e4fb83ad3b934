//! Answers: their status, headers and body.

use axum::{body::Body, response::Response};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::json::{self, Fields};
use crate::{
    node::{ProposeError, RaftMark, V2Error},
    types::ClusterId,
    v2::{Code, Refusal},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const ETCD_INDEX: HeaderName = HeaderName::from_static("x-etcd-index");
const RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
const RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");

pub(super) fn status(code: u16, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).expect("a constant");
    response
}

pub(super) fn json(code: u16, body: impl Into<Body>) -> Response {
    let mut response = status(code, body);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// A line, as Go's `http.Error` writes it.
pub(super) fn text(code: u16, line: &str) -> Response {
    let mut response = status(code, format!("{line}\n"));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, TEXT);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A text without an end of line.
pub(super) fn plain(body: String) -> Response {
    let mut response = status(200, body);
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}

/// An error of the endpoints that are not about keys.
pub(super) fn message(code: u16, text: &str) -> Response {
    let mut out = String::new();
    let mut fields = Fields::begin(&mut out);
    fields.text("message", text);
    fields.end();
    json(code, out)
}

pub(super) fn not_found() -> Response {
    text(404, "404 page not found")
}

/// Refuses other methods than `allowed`.
pub(super) fn allow(method: &Method, allowed: &'static str) -> Result<(), Response> {
    if allowed.split(',').any(|name| name == method.as_str()) {
        return Ok(());
    }
    let mut response = text(405, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    Err(response)
}

pub(super) fn moved(method: &Method, path: &str, query: Option<&str>) -> Response {
    let mut location = escape_path(path);
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        location = format!("{location}?{query}");
    }
    let body = if *method == Method::GET {
        format!("<a href=\"{}\">Moved Permanently</a>.\n\n", location.replace('&', "&amp;"))
    } else {
        String::new()
    };
    let mut response = status(301, body);
    let headers = response.headers_mut();
    if matches!(*method, Method::GET | Method::HEAD) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(header::LOCATION, location);
    }
    response
}

fn escape_path(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

pub(super) fn with_cluster(mut response: Response, cluster: ClusterId) -> Response {
    number(&mut response, CLUSTER_ID, cluster);
    response
}

pub(super) fn with_marks(mut response: Response, index: u64, mark: RaftMark) -> Response {
    number(&mut response, ETCD_INDEX, index);
    number(&mut response, RAFT_INDEX, mark.index);
    number(&mut response, RAFT_TERM, mark.term);
    response
}

pub(super) fn refused(refusal: &Refusal) -> Response {
    let mut response = json(refusal.code.http_status(), json::refusal(refusal));
    number(&mut response, ETCD_INDEX, refusal.index);
    response
}

/// A refusal about keys, for a reason that is not in the tree.
pub(super) fn failed(error: V2Error) -> Response {
    match error {
        V2Error::Refused(refusal) => refused(&refusal),
        error => refused(&Refusal::of_request(Code::RaftInternal, reason(&error))),
    }
}

/// The text that etcd has for it.
fn reason(error: &V2Error) -> String {
    match error {
        V2Error::Refused(refusal) => refusal.to_string(),
        V2Error::Failed(ProposeError::NoSpace) => "etcdserver: mvcc: database space exceeded".to_owned(),
        V2Error::Failed(error) => format!("etcdserver: {error}"),
        V2Error::NotApplied(refusal) => format!("etcdserver: {refusal}"),
        V2Error::TooManyWatchers => "etcdserver: too many watchers".to_owned(),
    }
}

/// The same, for the other endpoints: etcd does not say why.
pub(super) fn internal(error: &V2Error) -> Response {
    tracing::warn!(error = reason(error), "a request of the version 2 API failed");
    message(500, "Internal Server Error")
}

fn number(response: &mut Response, name: HeaderName, value: impl std::fmt::Display) {
    let value = HeaderValue::from_str(&value.to_string()).expect("digits");
    response.headers_mut().insert(name, value);
}
