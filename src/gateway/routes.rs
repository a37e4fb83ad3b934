//! The paths of the gateway.

use axum::{
    Router,
    extract::{Request, State},
    response::{Redirect, Response},
    routing::any,
};
use http::{Method as HttpMethod, Uri};
use tonic::Status;

use super::{
    call::{Call, Gateway, Shared},
    refusal,
    schema::{self, Method},
    websocket,
};
use crate::{config::Config, http::discard};

/// The paths of the gateway, which calls the services of `grpc`. There are none without `--enable-grpc-gateway`.
pub(crate) fn routes(config: &Config, grpc: Router, shared: Shared) -> Router {
    if !config.enable_grpc_gateway {
        return Router::new();
    }
    Router::new()
        .route("/v3", any(async || Redirect::temporary("/v3/")))
        .route("/v3/", any(serve))
        .route("/v3/{*path}", any(serve))
        // The name in etcd 3.3.
        .route("/v3beta/", any(serve))
        .route("/v3beta/{*path}", any(serve))
        .with_state(Gateway { grpc, shared })
}

async fn serve(State(gateway): State<Gateway>, request: Request) -> Response {
    let method = method(request.uri());
    if websocket::is_upgrade(request.headers()) {
        return websocket::upgrade(gateway, method, request);
    }
    let is_post = request.method() == HttpMethod::POST;
    let (parts, body) = request.into_parts();
    match method {
        Some(method) if is_post => {
            let call = Call { method, headers: parts.headers, remote: parts.extensions.get().cloned() };
            gateway.call(call, body).await
        }
        Some(_) => {
            discard(body).await;
            refusal::response(&Status::unimplemented("Method Not Allowed"))
        }
        None => {
            discard(body).await;
            refusal::response(&Status::not_found("Not Found"))
        }
    }
}

/// The method that a path leads to.
fn method(uri: &Uri) -> Option<&'static Method> {
    let path = uri.path();
    schema::method(path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/"))?)
}
