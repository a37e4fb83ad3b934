//! A call through the gateway, from its request over HTTP to the answer over HTTP.

use std::{convert::Infallible, future::Future, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method as HttpMethod, Uri};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};
use tonic::{Status, transport::server::TcpConnectInfo};
use tower::Service;

use super::{
    headers, refusal,
    reply::reply,
    request::{Bounds, Requests, single},
    schema::Method,
};
use crate::{config::Config, http::Load, limits};

/// What the gateways of all reactors share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// As many calls as may run at the same time. etcd's gateway has one gRPC connection for all its calls, so that
    /// `--max-concurrent-streams` bounds them together; further calls wait.
    places: Arc<Semaphore>,
    bounds: Bounds,
}

impl Shared {
    pub(crate) fn new(config: &Config, load: Arc<Load>) -> Shared {
        let places = (config.max_concurrent_streams as usize).min(limits::CALLS_MAX);
        let message_bytes_max = config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES;
        Shared { places: Arc::new(Semaphore::new(places)), bounds: Bounds { message_bytes_max, load } }
    }
}

pub(super) struct Call {
    pub(super) method: &'static Method,
    /// Of the HTTP request.
    pub(super) headers: HeaderMap,
    /// The client's address. Nothing else of the connection is known to the service, above all no certificate: a
    /// page in a browser may use the certificate of its user without the user's knowledge.
    pub(super) remote: Option<TcpConnectInfo>,
}

#[derive(Clone)]
pub(super) struct Gateway {
    pub(super) grpc: Router,
    pub(super) shared: Shared,
}

impl Gateway {
    pub(super) async fn call(&self, call: Call, body: Body) -> Response {
        let method = call.method;
        match self.begin(call, body).await {
            Ok((answer, place)) => reply(answer, method, place).await,
            Err(refused) => refusal::response(&refused),
        }
    }

    /// The answer of the service, and the place of the call.
    async fn begin(&self, call: Call, body: Body) -> Result<(Response, OwnedSemaphorePermit), Status> {
        let Call { method, headers, remote } = call;
        let deadline = headers::deadline(&headers, Instant::now())?;
        let mut metadata = headers::metadata(&headers);
        drop(headers);
        let places = self.shared.places.clone();
        let place = within(deadline, async { Ok(places.acquire_owned().await) }).await?;
        let place = place.expect("the places are never closed");
        let bounds = &self.shared.bounds;
        let body = if method.takes_stream {
            Body::new(Requests::new(body, method.request, bounds.clone()))
        } else {
            Body::from(within(deadline, single(body, method.request, bounds)).await?)
        };
        if let Some(deadline) = deadline {
            headers::set_timeout(&mut metadata, deadline.saturating_duration_since(Instant::now()));
        }
        let mut request = Request::new(body);
        *request.method_mut() = HttpMethod::POST;
        *request.uri_mut() = Uri::from_static(method.path);
        *request.headers_mut() = metadata;
        if let Some(remote) = remote {
            request.extensions_mut().insert(remote);
        }
        // A router is shared behind its clones, and always ready.
        let answer: Result<_, Infallible> = self.grpc.clone().call(request).await;
        let Ok(answer) = answer;
        Ok((answer.into_response(), place))
    }
}

async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(deadline) = deadline else { return work.await };
    let passed = |_| Status::deadline_exceeded("context deadline exceeded");
    time::timeout_at(deadline, work).await.map_err(passed)?
}
