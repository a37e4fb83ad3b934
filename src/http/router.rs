//! etcd's HTTP endpoints: paths, statuses, headers and bodies.

use std::env;

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::any,
};
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use crate::{
    config::{Config, ETCD_VERSION},
    types::CommonName,
};

use super::{
    Probe,
    body::discard,
    health::{self, Endpoint, run_checks},
    request::Encrypted,
};

const TEXT: &str = "text/plain; charset=utf-8";
/// etcd's text for a call in JSON with a client certificate that names a user.
const COMMON_NAME_IS_IGNORED: &str =
    "CommonName of client sending a request against gateway will be ignored and not used as expected";
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The query parameters of a URL. A name may occur more than once.
type Pairs = Query<Vec<(String, String)>>;

/// The endpoints of a client port, with `more` of them, after the CORS and host checks.
pub(super) fn client_router<P: Probe>(node: &P, more: Router) -> Router {
    let access = Access::new(node);
    endpoints::<P>()
        .route("/version", any(version::<P>))
        .route("/debug/vars", any(vars))
        .with_state(node.clone())
        .merge(more)
        .layer(middleware::from_fn_with_state(access, guard::<P>))
}

/// The endpoints of `--listen-metrics-urls`.
pub(super) fn metrics_router<P: Probe>(node: &P) -> Router {
    endpoints::<P>().with_state(node.clone())
}

fn endpoints<P: Probe>() -> Router<P> {
    Router::new()
        .route("/health", any(health::<P>))
        .route("/livez", any(livez::<P>))
        .route("/livez/{check}", any(livez_check::<P>))
        .route("/readyz", any(readyz::<P>))
        .route("/readyz/{check}", any(readyz_check::<P>))
        .route("/metrics", any(metrics::<P>))
        .fallback(|| async { not_found() })
}

async fn health<P: Probe>(State(node): State<P>, method: Method, Query(pairs): Pairs) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    let serializable = pairs.iter().find(|(name, _)| name == "serializable");
    let serializable = serializable.is_some_and(|(_, value)| value == "true");
    let verdict = health::health(&node, &values(&pairs, "exclude"), serializable).await;
    let metrics = node.metrics();
    match verdict {
        Ok(()) => {
            metrics.health_success.inc();
            ([(header::CONTENT_TYPE, TEXT)], r#"{"health":"true","reason":""}"#).into_response()
        }
        Err(reason) => {
            metrics.health_failures.inc();
            tracing::warn!(reason, "serving /health false");
            // Formatted by hand, because etcd writes the fields in this order.
            let reason = json!(reason);
            refusal(StatusCode::SERVICE_UNAVAILABLE, &format!(r#"{{"health":"false","reason":{reason}}}"#))
        }
    }
}

async fn livez<P: Probe>(State(node): State<P>, method: Method, query: Pairs) -> Response {
    all_checks(&node, &method, Endpoint::Livez, query).await
}

async fn readyz<P: Probe>(State(node): State<P>, method: Method, query: Pairs) -> Response {
    all_checks(&node, &method, Endpoint::Readyz, query).await
}

async fn livez_check<P: Probe>(
    State(node): State<P>,
    method: Method,
    check: Path<String>,
    query: Pairs,
) -> Response {
    one_check(&node, &method, Endpoint::Livez, &check, query).await
}

async fn readyz_check<P: Probe>(
    State(node): State<P>,
    method: Method,
    check: Path<String>,
    query: Pairs,
) -> Response {
    one_check(&node, &method, Endpoint::Readyz, &check, query).await
}

async fn all_checks<P: Probe>(node: &P, method: &Method, endpoint: Endpoint, query: Pairs) -> Response {
    let Query(pairs) = query;
    let exclude = values(&pairs, "exclude");
    for name in exclude.iter().filter(|name| !endpoint.checks().iter().any(|check| check.name() == **name)) {
        tracing::warn!(check = name, endpoint = endpoint.name(), "some health checks cannot be excluded");
    }
    let checks = endpoint.checks().iter().copied().filter(|check| !exclude.contains(&check.name()));
    report(node, method, endpoint, &checks.collect::<Vec<_>>(), &pairs).await
}

async fn one_check<P: Probe>(
    node: &P,
    method: &Method,
    endpoint: Endpoint,
    name: &str,
    query: Pairs,
) -> Response {
    match endpoint.checks().iter().find(|check| check.name() == name) {
        Some(check) => report(node, method, endpoint, &[*check], &query).await,
        None => not_found(),
    }
}

async fn report<P: Probe>(
    node: &P,
    method: &Method,
    endpoint: Endpoint,
    checks: &[health::Check],
    pairs: &[(String, String)],
) -> Response {
    if *method != Method::GET {
        return method_not_allowed();
    }
    let report = run_checks(node, endpoint, checks).await;
    if !report.well {
        tracing::warn!(endpoint = endpoint.name(), output = report.lines, "health check failed");
        return refusal(StatusCode::SERVICE_UNAVAILABLE, &report.lines);
    }
    let verbose = pairs.iter().any(|(name, _)| name == "verbose");
    let lines = if verbose { report.lines } else { String::new() };
    text(StatusCode::OK, format!("{lines}ok\n"))
}

async fn version<P: Probe>(State(node): State<P>, method: Method) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    let versions = node.versions();
    let cluster = versions.cluster.unwrap_or_else(|| "not_decided".to_owned());
    let storage = versions.storage.unwrap_or_else(|| "unknown".to_owned());
    let body =
        format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#);
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn metrics<P: Probe>(State(node): State<P>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TEXT)], node.metrics().render(&node.state())).into_response()
}

async fn vars() -> Response {
    let args: Vec<String> = env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let vars = json!({ "cmdline": args, "file_descriptor_limit": limit });
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], vars.to_string()).into_response()
}

/// Who may use the HTTP endpoints of a client port.
#[derive(Clone)]
struct Access<P> {
    node: P,
    cors: Option<Vec<String>>,
    hosts: Option<Vec<String>>,
}

impl<P: Probe> Access<P> {
    fn new(node: &P) -> Access<P> {
        let Config { cors, host_whitelist, .. } = node.config();
        Access { node: node.clone(), cors: cors.clone(), hosts: host_whitelist.clone() }
    }

    /// Whether the client may expect a call in JSON to be made by the user whom its certificate names. Such calls
    /// never are: a page in a browser could use that certificate without its owner's knowledge. As in etcd the
    /// call is refused, so that nobody finds out by its effects.
    fn misleads(&self, request: &Parts) -> bool {
        let names_user = request.extensions.get::<CommonName>().is_some();
        let path = request.uri.path();
        let is_call = path.starts_with("/v3/") || path.starts_with("/v3beta/");
        names_user && is_call && self.node.config().enable_grpc_gateway && self.node.is_auth_enabled()
    }

    /// The value of `Access-Control-Allow-Origin`, if pages from the request's origin may read the answer.
    fn origin(&self, request: &Parts) -> Option<HeaderValue> {
        let Some(allowed) = &self.cors else { return Some(HeaderValue::from_static("*")) };
        let origin = request.headers.get(header::ORIGIN)?;
        allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }

    /// Protects against DNS rebinding: a web page whose host name was made to resolve to this server still
    /// sends its own host name.
    fn host_is_welcome(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|welcome| welcome == name))
    }
}

async fn guard<P: Probe>(State(access): State<Access<P>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    // With TLS, the name that was asked for is the one in the certificate.
    let is_encrypted = parts.extensions.get::<Encrypted>().is_some();
    if !is_encrypted && !access.host_is_welcome(host) {
        tracing::warn!(host, "rejected HTTP request to prevent DNS rebinding attacks");
        let why =
            format!("host {host:?} is not in --host-whitelist: refused, to prevent DNS rebinding attacks");
        discard(body).await;
        return refusal(StatusCode::MISDIRECTED_REQUEST, &why);
    }
    if access.misleads(&parts) {
        discard(body).await;
        return refusal(StatusCode::BAD_REQUEST, COMMON_NAME_IS_IGNORED);
    }
    let origin = access.origin(&parts);
    let mut response = if parts.method == Method::OPTIONS {
        Response::new(Body::empty())
    } else {
        next.run(Request::from_parts(parts, body)).await
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
        );
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("accept, content-type, authorization"),
        );
    }
    response
}

/// Every non-empty value of the parameter `name`.
fn values<'a>(pairs: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let of_name = pairs.iter().filter(|(key, value)| key == name && !value.is_empty());
    of_name.map(|(_, value)| value.as_str()).collect()
}

fn text(status: StatusCode, body: String) -> Response {
    let headers = [(header::CONTENT_TYPE, TEXT), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, body).into_response()
}

/// An error as Go's `http.Error` writes it: the text and a newline.
fn refusal(status: StatusCode, why: &str) -> Response {
    text(status, format!("{why}\n"))
}

fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "404 page not found")
}

fn method_not_allowed() -> Response {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}
