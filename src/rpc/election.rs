//! Elections: the client with the oldest key under a name is the leader, and the value of that key is the
//! leader's proclamation.
//!
//! A leadership is identified by the key and the revision that created it, so that a former leader cannot
//! act for a later leadership.

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status};

use super::{
    recipe::{self, Changes},
    render, session, status,
    status::Refusal,
};
use crate::{
    apply::{Txn, TxnResult},
    node::{Node, Session},
    pb::{
        etcdserverpb::ResponseHeader,
        v3electionpb::{
            CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
            ProclaimResponse, ResignRequest, ResignResponse, election_server,
        },
    },
    types::{EventKind, KeyRange, KeyValue, LeaseId, Rev},
};

#[derive(Clone)]
pub(crate) struct Election {
    node: Node,
}

impl Election {
    pub(crate) fn new(node: Node) -> Election {
        Election { node }
    }

    fn header(&self, rev: Rev) -> Option<ResponseHeader> {
        Some(render::header(&self.node, rev))
    }

    async fn do_campaign(
        &self,
        session: &Session,
        request: CampaignRequest,
    ) -> Result<CampaignResponse, Status> {
        let held = recipe::held_lease(session, LeaseId(request.lease)).await?;
        let lease = held.id;
        let prefix = recipe::prefix(&request.name);
        let key = recipe::own_key(&prefix, lease);
        let enqueue = Txn {
            compares: vec![recipe::created_at(&key, 0)],
            success: vec![recipe::put(&key, request.value.clone(), lease)],
            failure: vec![recipe::get(&key)],
        };
        let mut queued = recipe::enqueue(session, held, &key, enqueue).await?;
        let own_rev = queued.place.rev;
        let leader = LeaderKey { name: request.name, key, rev: own_rev.0, lease: lease.0 };
        let has_campaigned_before = queued.found.is_some();
        // The same lease may have campaigned before, with another value.
        let proclaimed = match queued.found {
            Some(kv) if kv.value != request.value => {
                self.proclaim_as(session, &leader, request.value).await.map(drop)
            }
            _ => Ok(()),
        };
        queued.place.wait();
        proclaimed?;
        let waited = recipe::wait_for_turn(session, &prefix, own_rev).await;
        // As in etcd, a refusal does not end what an earlier campaign of this lease has won; only a client that goes does.
        if waited.is_ok() || has_campaigned_before {
            queued.place.keep();
        }
        waited?;
        Ok(CampaignResponse { header: self.header(queued.rev), leader: Some(leader) })
    }

    async fn do_proclaim(
        &self,
        session: &Session,
        request: ProclaimRequest,
    ) -> Result<ProclaimResponse, Status> {
        let leader = leadership(request.leader)?;
        let rev = self.proclaim_as(session, &leader, request.value).await?;
        Ok(ProclaimResponse { header: self.header(rev) })
    }

    async fn proclaim_as(&self, session: &Session, leader: &LeaderKey, value: Bytes) -> Result<Rev, Status> {
        let held = recipe::held_lease(session, LeaseId(leader.lease)).await?;
        let proclaim = Txn {
            compares: vec![recipe::created_at(&leader.key, leader.rev)],
            success: vec![recipe::put(&leader.key, value, held.id)],
            failure: Vec::new(),
        };
        // Even if this call does not learn the result, the leader's key may be attached to the lease.
        let proclaimed = session.outliving(|session| async move {
            match recipe::commit(&session, proclaim).await {
                Ok((_, TxnResult { succeeded: false, .. })) => Err(Refusal::ElectionNotLeader.into()),
                proclaimed => {
                    held.keep();
                    proclaimed.map(|(rev, _)| rev)
                }
            }
        });
        proclaimed.await.map_err(|_| Refusal::Stopped)?
    }

    async fn do_leader(&self, session: &Session, request: LeaderRequest) -> Result<LeaderResponse, Status> {
        let oldest = recipe::oldest(&recipe::prefix(&request.name));
        let (rev, mut result) = recipe::read(session, &oldest).await?;
        let kv = result.kvs.pop().ok_or(Refusal::ElectionNoLeader)?;
        Ok(self.leader_response(rev, kv))
    }

    async fn do_resign(&self, session: &Session, request: ResignRequest) -> Result<ResignResponse, Status> {
        let leader = leadership(request.leader)?;
        let resign = Txn {
            compares: vec![recipe::created_at(&leader.key, leader.rev)],
            success: vec![recipe::delete(&leader.key)],
            failure: Vec::new(),
        };
        let (rev, _) = recipe::commit(session, resign).await?;
        Ok(ResignResponse { header: self.header(rev) })
    }

    fn leader_response(&self, rev: Rev, kv: KeyValue) -> LeaderResponse {
        LeaderResponse { header: self.header(rev), kv: Some(render::key_value(kv)) }
    }
}

fn leadership(leader: Option<LeaderKey>) -> Result<LeaderKey, Refusal> {
    let leader = leader.ok_or(Refusal::MissingLeaderKey)?;
    if leader.key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(leader) }
}

/// A client that observes an election.
struct Observer {
    election: Election,
    session: Session,
    prefix: Bytes,
    /// The changes of the leader's key; `None` while there is no leader.
    leader: Option<Changes>,
}

impl Observer {
    async fn next(&mut self) -> Result<LeaderResponse, Status> {
        let session = &self.session;
        if let Some(changes) = &mut self.leader {
            let event = changes.next().await?;
            if event.kind == EventKind::Put {
                return Ok(self.election.leader_response(event.kv.mod_rev, event.kv));
            }
            self.leader = None;
        }
        let (rev, mut result) = recipe::read(session, &recipe::oldest(&self.prefix)).await?;
        let (rev, kv) = match result.kvs.pop() {
            Some(kv) => (rev, kv),
            None => {
                let mut arrivals = Changes::follow(session, recipe::under(&self.prefix), rev)?;
                loop {
                    let event = arrivals.next().await?;
                    if event.kind == EventKind::Put {
                        break (event.kv.mod_rev, event.kv);
                    }
                }
            }
        };
        self.leader = Some(Changes::follow(session, KeyRange::Point(kv.key.clone()), rev.next())?);
        Ok(self.election.leader_response(rev, kv))
    }
}

#[tonic::async_trait]
impl election_server::Election for Election {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        self.do_campaign(&session(&self.node, &request).await, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status::from_recipe)
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        self.do_proclaim(&session(&self.node, &request).await, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status::from_recipe)
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        self.do_leader(&session(&self.node, &request).await, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status::from_recipe)
    }

    type ObserveStream = BoxStream<'static, Result<LeaderResponse, Status>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let session = session(&self.node, &request).await;
        let prefix = recipe::prefix(&request.into_inner().name);
        let observer = Observer { election: self.clone(), session, prefix, leader: None };
        let answers = stream::try_unfold(observer, |mut observer| async move {
            let answer = observer.next().await.map_err(status::from_recipe)?;
            Ok(Some((answer, observer)))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        self.do_resign(&session(&self.node, &request).await, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status::from_recipe)
    }
}
