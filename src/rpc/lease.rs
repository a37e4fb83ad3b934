//! Leases. They are granted and revoked through the log; keep-alives and queries are answered from memory.

use std::collections::VecDeque;

use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{render, session, wrong_kind};
use crate::{
    apply::{self, Command},
    limits::LEASES_HELD_BY_STREAM,
    node::{AuthChanges, Node, Session},
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

/// A client's stream of keep-alives.
struct Renewals {
    lease: Lease,
    session: Session,
    requests: Streaming<LeaseKeepAliveRequest>,
    /// The leases that were renewed last, the newest at the end.
    renewed: VecDeque<LeaseId>,
    auth_changes: AuthChanges,
}

impl Renewals {
    fn new(lease: Lease, session: Session, requests: Streaming<LeaseKeepAliveRequest>) -> Renewals {
        let auth_changes = session.auth_changes();
        Renewals { lease, session, requests, renewed: VecDeque::new(), auth_changes }
    }

    /// `None` once the client sends no more requests. Ends with an error as soon as the client may not
    /// renew one of its leases any more.
    async fn next(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Status> {
        let request = loop {
            tokio::select! { biased;
                () = self.auth_changes.changed() => {
                    self.session.may_keep_alive(self.renewed.iter().copied())?;
                }
                request = self.requests.message() => break request,
            }
        };
        let request = request.inspect_err(|status| {
            if status.code() != Code::Cancelled {
                let failures = &self.lease.node.metrics().stream_failures;
                failures.with_label_values(&["receive", "lease-keepalive"]).inc();
            }
        })?;
        let Some(request) = request else { return Ok(None) };
        let answer = self.lease.keep_alive(&self.session, request).await?;
        self.remember(LeaseId(request.id));
        Ok(Some(answer))
    }

    fn remember(&mut self, id: LeaseId) {
        if self.renewed.contains(&id) {
            return;
        }
        if self.renewed.len() == LEASES_HELD_BY_STREAM {
            self.renewed.pop_front();
        }
        self.renewed.push_back(id);
    }
}

#[tonic::async_trait]
impl lease_server::Lease for Lease {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let session = session(&self.node, &request).await;
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
        let session = session(&self.node, &request).await;
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
        let session = session(&self.node, &requests).await;
        let renewals = Renewals::new(self.clone(), session, requests.into_inner());
        let answers = stream::try_unfold(renewals, |mut renewals| async move {
            Ok(renewals.next().await?.map(|answer| (answer, renewals)))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let session = session(&self.node, &request).await;
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
        let leases = session(&self.node, &request).await.leases()?;
        let leases = leases.into_iter().map(|id| LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: Some(self.header()), leases }))
    }
}
