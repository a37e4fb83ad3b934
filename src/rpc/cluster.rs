//! Who the members are.
//!
//! There is one member so far. Changes are checked as etcd checks them, in its order and with
//! its words; one that would leave a working cluster of another size is refused.

use tonic::{Request, Response, Status};

use super::{parse, render, status::Refusal};
use crate::{
    node::{Member, Node},
    pb::etcdserverpb::{
        self as pb, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
        MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
        MemberUpdateRequest, MemberUpdateResponse, ResponseHeader, cluster_server,
    },
    types::{MemberId, Rev},
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

    fn member(&self, id: u64) -> Result<Member, Refusal> {
        let members = self.node.members();
        members.into_iter().find(|member| member.id == MemberId(id)).ok_or(Refusal::MemberNotFound)
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let urls = parse::member_urls(&request.into_inner().peer_ur_ls)?;
        let members = self.node.members();
        if members.iter().any(|member| member.peer_urls.iter().any(|url| urls.contains(url))) {
            return Err(Refusal::PeerUrlExists.into());
        }
        Err(Refusal::NotEnoughStartedMembers.into())
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.member(request.into_inner().id)?;
        // Nobody would be left.
        Err(Refusal::NotEnoughStartedMembers.into())
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let request = request.into_inner();
        let member = self.member(request.id)?;
        let mut urls = request.peer_ur_ls;
        urls.sort();
        if urls != member.peer_urls {
            return Err(Status::unimplemented("retcd: peer URLs cannot be changed yet"));
        }
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
        let member = self.member(request.into_inner().id)?;
        let refusal = if member.is_learner { Refusal::LearnerNotReady } else { Refusal::MemberNotLearner };
        Err(refusal.into())
    }
}
