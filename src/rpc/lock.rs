//! Locks: the client with the oldest key under a name holds the lock, until that key is deleted.

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::{recipe, render, session, status, status::Refusal, wrong_kind};
use crate::{
    apply::{self, Command, Op, Txn},
    mvcc::Range,
    node::{Node, Session},
    pb::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server},
    types::{KeyRange, LeaseId, Rev},
};

#[derive(Clone)]
pub(crate) struct Lock {
    node: Node,
}

impl Lock {
    pub(crate) fn new(node: Node) -> Lock {
        Lock { node }
    }

    async fn do_lock(&self, session: &Session, request: LockRequest) -> Result<LockResponse, Status> {
        let held = recipe::held_lease(session, LeaseId(request.lease)).await?;
        let lease = held.id;
        let prefix = recipe::prefix(&request.name);
        let key = recipe::own_key(&prefix, lease);
        let oldest = Op::Range(recipe::oldest(&prefix));
        // Adds this lease's key to the queue, or finds the one that it has there; and reads the oldest key.
        let enqueue = Txn {
            compares: vec![recipe::created_at(&key, 0)],
            success: vec![recipe::put(&key, Default::default(), lease), oldest.clone()],
            failure: vec![recipe::get(&key), oldest],
        };
        let mut queued = recipe::enqueue(session, held, &key, enqueue).await?;
        let rev = match recipe::found(&mut queued.result, 1) {
            Some(first) if first.create_rev != queued.place.rev => {
                queued.place.wait();
                self.wait(session, &prefix, &key, queued.place.rev).await?
            }
            _ => queued.rev,
        };
        queued.place.keep();
        Ok(LockResponse { header: Some(render::header(&self.node, rev)), key })
    }

    /// Waits until the own key is the oldest, and checks that the lease has not expired meanwhile.
    async fn wait(
        &self,
        session: &Session,
        prefix: &Bytes,
        key: &Bytes,
        own_rev: Rev,
    ) -> Result<Rev, Status> {
        recipe::wait_for_turn(session, prefix, own_rev).await?;
        let own = Range::of(KeyRange::Point(key.clone()));
        let (rev, result) = recipe::read(session, &own).await?;
        if result.kvs.is_empty() { Err(Refusal::SessionExpired.into()) } else { Ok(rev) }
    }

    async fn do_unlock(&self, session: &Session, request: UnlockRequest) -> Result<UnlockResponse, Status> {
        if request.key.is_empty() {
            return Err(Refusal::EmptyKey.into());
        }
        let delete = apply::DeleteRange { range: KeyRange::Point(request.key), prev_kv: false };
        let outcome = session.propose(Command::DeleteRange(delete)).await?;
        match outcome.result? {
            apply::Response::DeleteRange { .. } => {
                Ok(UnlockResponse { header: Some(render::header(&self.node, outcome.rev)) })
            }
            other => Err(wrong_kind(&other)),
        }
    }
}

#[tonic::async_trait]
impl lock_server::Lock for Lock {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        self.do_lock(&session(&self.node, &request).await, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status::from_recipe)
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        self.do_unlock(&session(&self.node, &request).await, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status::from_recipe)
    }
}
