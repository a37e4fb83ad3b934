//! What an error of gRPC is over HTTP: a status and a JSON body.
//!
//! The body is that of etcd 3.7, and beside it has the members that 3.5 wrote, for clients that read only those.

use std::io::Write as _;

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use tonic::{Code, Status};

use super::encode::write_escaped;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The answer to a call that failed before anything was sent.
pub(super) fn response(status: &Status) -> Response {
    with_body(status, body(status))
}

/// The same for a call whose answer is a stream.
pub(super) fn stream_response(status: &Status) -> Response {
    with_body(status, line(status))
}

/// The last line of a stream that failed.
pub(super) fn line(status: &Status) -> Vec<u8> {
    let code = status.code() as i32;
    let http_status = http_status(status.code());
    let mut json = Vec::new();
    write!(json, "{{\"error\":{{\"code\":{code},\"message\":\"").expect("memory takes what it is given");
    write_escaped(status.message().as_bytes(), &mut json);
    writeln!(
        json,
        "\",\"grpc_code\":{code},\"http_code\":{},\"http_status\":\"{}\"}}}}",
        http_status.as_u16(),
        http_status.canonical_reason().unwrap_or_default()
    )
    .expect("memory takes what it is given");
    json
}

fn body(status: &Status) -> Vec<u8> {
    let mut json = br#"{"error":""#.to_vec();
    write_escaped(status.message().as_bytes(), &mut json);
    write!(json, "\",\"code\":{},\"message\":\"", status.code() as i32)
        .expect("memory takes what it is given");
    write_escaped(status.message().as_bytes(), &mut json);
    json.extend_from_slice(b"\"}");
    json
}

fn with_body(status: &Status, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = http_status(status.code());
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    if status.code() == Code::Unauthenticated
        && let Ok(message) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, message);
    }
    response
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // The client has closed its request: nginx's number, which has no name.
        Code::Cancelled => StatusCode::from_u16(499).expect("a status has three digits"),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_found_where_each_release_of_etcd_has_it() {
        let status = Status::failed_precondition("a \"b\"");
        let json = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).expect("JSON");
        let body = json(body(&status));
        assert_eq!((&body["code"], &body["message"]), (&9.into(), &"a \"b\"".into()));
        assert_eq!(body["error"], body["message"]);
        let line = json(line(&status));
        let error = &line["error"];
        assert_eq!((&error["code"], &error["message"]), (&9.into(), &"a \"b\"".into()));
        assert_eq!((&error["grpc_code"], &error["http_code"]), (&9.into(), &400.into()));
        assert_eq!(error["http_status"], "Bad Request");
    }
}
