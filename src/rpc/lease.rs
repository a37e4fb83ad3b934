//! Leases. They are granted and revoked through the log; keep-alives and queries are answered from memory.

use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{render, session, wrong_kind};
use crate::{
    apply::{self, Command},
    node::{Node, Session},
    pb::etcdserverpb::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
        LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
        LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader, lease_server,
    },
    types::LeaseId,
};

#[derive(Clone)]
pub(crate) struct Lease {
    node: Node,
}

impl Lease {
    pub(crate) fn new(node: Node) -> Lease {
        Lease { node }
    }

    fn header(&self) -> ResponseHeader {
        render::header(&self.node, self.node.rev())
    }

    async fn keep_alive(
        &self,
        session: &Session,
        request: LeaseKeepAliveRequest,
    ) -> Result<LeaseKeepAliveResponse, Status> {
        // The header is made before the renewal. Otherwise an answer could say that a lease was renewed, with
        // a revision at which the lease was revoked already.
        let header = self.header();
        let ttl_secs = session.lease_keep_alive(LeaseId(request.id)).await?;
        Ok(LeaseKeepAliveResponse { header: Some(header), id: request.id, ttl: ttl_secs.unwrap_or(0) })
    }
}

#[tonic::async_trait]
impl lease_server::Lease for Lease {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let session = session(&self.node, &request);
        let request = request.into_inner();
        let outcome = session.lease_grant(request.id, request.ttl).await?;
        match outcome.result? {
            apply::Response::LeaseGrant { id, ttl_secs } => Ok(Response::new(LeaseGrantResponse {
                header: Some(render::header(&self.node, outcome.rev)),
                id: id.0,
                ttl: ttl_secs,
                error: String::new(),
            })),
            other => Err(wrong_kind(&other)),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let session = session(&self.node, &request);
        let id = LeaseId(request.into_inner().id);
        let outcome = session.propose(Command::LeaseRevoke { id }).await?;
        outcome.result?;
        Ok(Response::new(LeaseRevokeResponse { header: Some(render::header(&self.node, outcome.rev)) }))
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<LeaseKeepAliveResponse, Status>>;

    /// Answers each request, in order. If the lease does not exist, the answer has a TTL of 0. Any error ends
    /// the stream.
    async fn lease_keep_alive(
        &self,
        requests: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let session = session(&self.node, &requests);
        let state = (self.clone(), session, requests.into_inner());
        let answers = stream::try_unfold(state, |(lease, session, mut requests)| async move {
            let request = requests.message().await.inspect_err(|status| {
                if status.code() != Code::Cancelled {
                    let failures = &lease.node.metrics().stream_failures;
                    failures.with_label_values(&["receive", "lease-keepalive"]).inc();
                }
            })?;
            let Some(request) = request else { return Ok(None) };
            let answer = lease.keep_alive(&session, request).await?;
            Ok(Some((answer, (lease, session, requests))))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let session = session(&self.node, &request);
        let request = request.into_inner();
        let info = session.lease_time_to_live(LeaseId(request.id), request.keys).await?;
        let header = Some(self.header());
        Ok(Response::new(match info {
            Some(info) => LeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl: info.remaining_secs,
                granted_ttl: info.granted_secs,
                keys: info.keys,
            },
            None => LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() },
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let leases =
            session(&self.node, &request).leases()?.into_iter().map(|id| LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: Some(self.header()), leases }))
    }
}
