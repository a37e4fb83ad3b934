//! Who the members are.
//!
//! Any member takes a change and has the leader make it. What is refused, and in which order, is
//! etcd's; see `node`.

use tonic::{Request, Response, Status};

use super::{parse, render};
use crate::{
    node::{Change, Node},
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

    /// These answers say nothing about the store.
    fn header(&self) -> ResponseHeader {
        render::header(&self.node, Rev(0))
    }

    fn members(&self) -> Vec<pb::Member> {
        render::members(self.node.members())
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let request = request.into_inner();
        let urls = parse::member_urls(&request.peer_ur_ls)?;
        let member = self.node.member_add(urls, request.is_learner).await?;
        Ok(Response::new(MemberAddResponse {
            header: Some(self.header()),
            member: render::members(vec![member]).pop(),
            members: self.members(),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let id = request.into_inner().id;
        self.node.change(Change::Remove { id }).await?;
        // This member may be the one, and then it does not see itself go.
        let mut members = self.members();
        members.retain(|member| member.id != id);
        Ok(Response::new(MemberRemoveResponse { header: Some(self.header()), members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let MemberUpdateRequest { id, peer_ur_ls: mut peer_urls } = request.into_inner();
        peer_urls.sort();
        self.node.change(Change::Update { id, peer_urls }).await?;
        Ok(Response::new(MemberUpdateResponse { header: Some(self.header()), members: self.members() }))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.node.read_barrier().await?;
        }
        Ok(Response::new(MemberListResponse { header: Some(self.header()), members: self.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.node.change(Change::Promote { id: request.into_inner().id }).await?;
        Ok(Response::new(MemberPromoteResponse { header: Some(self.header()), members: self.members() }))
    }
}
