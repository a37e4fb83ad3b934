//! The members of the cluster.
//!
//! Any member accepts a membership change, and the leader makes it. The refusals, and their order, are
//! those of etcd; see `node`.

use tonic::{Request, Response, Status};

use super::{parse, render, session};
use crate::{
    node::{Change, Node, Session},
    pb::etcdserverpb::{
        self as pb, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
        MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
        MemberUpdateRequest, MemberUpdateResponse, ResponseHeader, cluster_server,
    },
    types::Rev,
};

#[derive(Clone)]
pub(crate) struct Cluster {
    node: Node,
}

impl Cluster {
    pub(crate) fn new(node: Node) -> Cluster {
        Cluster { node }
    }

    /// As in etcd, the header of these answers has no revision.
    fn header(&self) -> ResponseHeader {
        render::header(&self.node, Rev(0))
    }
}

fn members(session: &Session) -> Result<Vec<pb::Member>, Status> {
    Ok(render::members(session.members()?))
}

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let session = session(&self.node, &request).await;
        let request = request.into_inner();
        let urls = parse::member_urls(&request.peer_ur_ls)?;
        let member = session.member_add(urls, request.is_learner).await?;
        Ok(Response::new(MemberAddResponse {
            header: Some(self.header()),
            member: render::members(vec![member]).pop(),
            members: members(&session)?,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let session = session(&self.node, &request).await;
        let id = request.into_inner().id;
        session.change(Change::Remove { id }).await?;
        // If this member is the removed one, its own list may still contain it.
        let mut members = members(&session)?;
        members.retain(|member| member.id != id);
        Ok(Response::new(MemberRemoveResponse { header: Some(self.header()), members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let session = session(&self.node, &request).await;
        let MemberUpdateRequest { id, peer_ur_ls: mut peer_urls } = request.into_inner();
        peer_urls.sort();
        session.change(Change::Update { id, peer_urls }).await?;
        Ok(Response::new(MemberUpdateResponse { header: Some(self.header()), members: members(&session)? }))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let session = session(&self.node, &request).await;
        if request.into_inner().linearizable {
            session.read_barrier().await?;
        }
        Ok(Response::new(MemberListResponse { header: Some(self.header()), members: members(&session)? }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let session = session(&self.node, &request).await;
        session.change(Change::Promote { id: request.into_inner().id }).await?;
        Ok(Response::new(MemberPromoteResponse { header: Some(self.header()), members: members(&session)? }))
    }
}
