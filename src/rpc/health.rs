//! gRPC's standard service for health checks.
//!
//! Like etcd's it knows the server as a whole, under the empty name, which serves for as long as it
//! can be asked. Whether a member can do its work is told by the HTTP endpoints.

use std::{collections::HashMap, pin::Pin};

use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status};

use crate::pb::grpc::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus, health_server,
};

#[derive(Clone, Copy)]
pub(super) struct Health;

/// Of a service by its name, if there is one.
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

    /// Tells the status once: it never changes.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let status = status_of(&request.into_inner().service).unwrap_or(unknown);
        Ok(Response::new(Box::pin(stream::iter([Ok(status)]).chain(stream::pending()))))
    }
}
