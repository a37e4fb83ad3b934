//! gRPC's standard service for health checks.
//!
//! As in etcd, its only service is the whole server, under the empty name, and that is always `SERVING`.
//! Whether a member is healthy is answered by the HTTP endpoints.

use std::{collections::HashMap, pin::Pin};

use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status};

use crate::pb::grpc::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus, health_server,
};

#[derive(Clone, Copy)]
pub(super) struct Health;

/// The status of a service, if there is a service of this name.
fn status_of(service: &str) -> Option<HealthCheckResponse> {
    service.is_empty().then_some(HealthCheckResponse { status: ServingStatus::Serving.into() })
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = status_of(&request.into_inner().service);
        status.map(Response::new).ok_or_else(|| Status::not_found("unknown service"))
    }

    async fn list(
        &self,
        _request: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let statuses = status_of("").map(|status| (String::new(), status));
        Ok(Response::new(HealthListResponse { statuses: HashMap::from_iter(statuses) }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Sends the status once, because it never changes.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let status = status_of(&request.into_inner().service).unwrap_or(unknown);
        Ok(Response::new(Box::pin(stream::iter([Ok(status)]).chain(stream::pending()))))
    }
}
