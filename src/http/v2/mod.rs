//! The version 2 API of etcd over HTTP: keys, statistics, members, users and roles.
//!
//! `form` reads parameters as Go does, `keys` makes commands and questions of them, `json` writes as Go writes,
//! and `caller` says who asks. What is asked goes through a `Session` of the node, and is judged by the tree.

// A refusal here is an answer that is ready to be sent, and is moved as often as any other answer.
#![allow(clippy::result_large_err)]

mod accounts;
mod caller;
mod form;
mod gate;
mod json;
mod keys;
mod listing;
mod members;
mod reply;
mod stats;
mod watch;

pub(crate) use gate::Gate;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::any,
};
use http::{Method, request::Parts};

use self::{
    accounts::About,
    gate::{BodyError, Received},
    reply::{not_found, text},
};
use crate::node::{Credentials, Node, Session};

/// What the handlers share.
#[derive(Clone)]
struct Front {
    node: Node,
    session: Session,
    gate: Arc<Gate>,
}

/// A request whose path is decoded and cleaned. Its body was received, also where nobody looks at it: a
/// connection with half a request in it could not be used any more.
struct Asked {
    method: Method,
    path: String,
    parts: Parts,
    body: Result<Received, BodyError>,
}

/// The routes of version 2, or, if it is not enabled, a line that names the flag.
pub(crate) fn routes(node: &Node, gate: &Arc<Gate>) -> Router {
    const PATHS: [&str; 3] = ["/v2", "/v2/", "/v2/{*rest}"];
    if !node.config().enable_v2 {
        return PATHS.into_iter().fold(Router::new(), |router, path| router.route(path, any(disabled)));
    }
    // The version 2 API has users of its own, so that its callers are nobody to version 3.
    let session = node.session(Credentials::Nothing);
    let front = Front { node: node.clone(), session, gate: gate.clone() };
    PATHS.into_iter().fold(Router::new(), |router, path| router.route(path, any(serve))).with_state(front)
}

async fn disabled() -> Response {
    text(404, "404 page not found: the version 2 API is disabled; --enable-v2=true enables it")
}

async fn serve(State(front): State<Front>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = front.gate.receive(body).await;
    let Some(path) = form::decode_path(parts.uri.path()) else {
        return text(400, "400 Bad Request");
    };
    let cleaned = form::clean(&path);
    let method = parts.method.clone();
    if cleaned != path {
        return reply::moved(&method, &cleaned, parts.uri.query());
    }
    let asked = Asked { method, path, parts, body };
    let below = |prefix: &str| {
        let rest = asked.path.strip_prefix(prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
    };
    if let Some(key) = below("/v2/keys") {
        return keys::serve(&front, asked, &key).await;
    }
    if let Some(id) = below("/v2/members") {
        return members::serve(&front, asked, id.trim_start_matches('/')).await;
    }
    match asked.path.as_str() {
        "/v2/machines" => members::machines(&front, &asked),
        "/v2/stats/store" => stats::store(&front, &asked),
        "/v2/stats/self" => stats::own(&front, &asked),
        "/v2/stats/leader" => stats::leader(&front, &asked),
        "/v2/auth/enable" => accounts::enable(&front, asked).await,
        _ => match (below("/v2/auth/users"), below("/v2/auth/roles")) {
            (Some(name), _) => accounts::serve(&front, asked, About::Users, &name).await,
            (_, Some(name)) => accounts::serve(&front, asked, About::Roles, &name).await,
            (None, None) => not_found(),
        },
    }
}
