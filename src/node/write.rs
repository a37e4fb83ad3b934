//! Writes: admitted, queued for the log, answered once applied here.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc::error::TrySendError, oneshot};

use super::{Node, ProposeError, background::Request, core::Proposal, mailbox::Ticket};
use crate::{
    apply::{Alarm, AlarmKind, Command, Outcome, admission},
    types::{LeaseId, Rev},
};

/// What a lease's holder may ask about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LeaseInfo {
    pub(crate) granted_secs: i64,
    pub(crate) remaining_secs: i64,
    pub(crate) keys: Vec<Bytes>,
}

impl Node {
    /// Puts a command into the log. The answer is what all replicas agree on; an error says that
    /// it was not accepted, or that nobody knows.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        if command.size() > self.shared.config.max_request_bytes {
            return Err(ProposeError::RequestTooLarge);
        }
        let (slot, answer) = oneshot::channel();
        let proposal = Proposal { command, ticket: Ticket { mailbox: self.mailbox.clone(), slot } };
        match self.shared.queue.try_send(proposal) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(ProposeError::TooManyRequests),
            Err(TrySendError::Closed(_)) => return Err(ProposeError::Stopped),
        }
        let outcome = answer.await.unwrap_or(Err(ProposeError::Stopped));
        if outcome.is_err() {
            self.metrics().proposals_failed.inc();
        }
        outcome
    }

    /// As [`Node::propose`], for commands that take space: refused, and the alarm raised, when
    /// the quota is used up.
    pub(crate) async fn propose_with_quota(&self, command: Command) -> Result<Outcome, ProposeError> {
        if let Some(quota) = self.shared.config.quota_backend_bytes {
            let size = self.shared.replica.read().state.mvcc.size().total;
            if size + admission::quota_cost(&command) >= quota && admission::quota_cost(&command) > 0 {
                self.raise_no_space(size, quota).await?;
                return Err(ProposeError::NoSpace);
            }
        }
        self.propose(command).await
    }

    async fn raise_no_space(&self, size: i64, quota: i64) -> Result<(), ProposeError> {
        let alarm = Alarm { member: self.shared.identity.member, kind: AlarmKind::NoSpace };
        if !self.alarms().contains(&alarm) {
            tracing::warn!(
                db_size_bytes = size,
                quota_backend_bytes = quota,
                "database space exceeded: writes are refused. To free space: `etcdctl compact <revision>`, \
                 `etcdctl defrag`, then `etcdctl alarm disarm`; or raise --quota-backend-bytes"
            );
            self.propose(Command::AlarmActivate(alarm)).await?;
        }
        Ok(())
    }

    /// Forgets history below `rev`. With `physical` the answer waits until the space is free.
    pub(crate) async fn compact(&self, rev: Rev, physical: bool) -> Result<Outcome, ProposeError> {
        let outcome = self.propose(Command::Compact { rev }).await?;
        if outcome.result.is_ok() {
            self.ask_background(Request::Compact)?;
        }
        if physical {
            let (done, freed) = oneshot::channel();
            self.ask_background(Request::AwaitCompaction(done))?;
            freed.await.map_err(|_| ProposeError::Stopped)?;
        }
        Ok(outcome)
    }

    pub(super) fn ask_background(&self, request: Request) -> Result<(), ProposeError> {
        self.shared.background.send(request).map_err(|_| ProposeError::Stopped)
    }

    /// Grants a lease; id 0 lets the member choose. The TTL is raised to what the cluster can keep.
    pub(crate) async fn lease_grant(&self, id: i64, ttl_secs: i64) -> Result<Outcome, ProposeError> {
        let id = LeaseId(if id == 0 { self.choose_lease_id() } else { id });
        let ttl_secs = ttl_secs.max(self.lease_ttl_secs_min());
        self.propose_with_quota(Command::LeaseGrant { id, ttl_secs }).await
    }

    /// A lease must outlive an election: one and a half election timeouts, in whole seconds.
    fn lease_ttl_secs_min(&self) -> i64 {
        let millis = self.shared.config.election_timeout.as_millis() as i64 * 3 / 2;
        (millis + 999) / 1000
    }

    /// Renews a lease in the leader's memory. `None` if it does not exist or has expired.
    pub(crate) async fn lease_keep_alive(&self, id: LeaseId) -> Result<Option<i64>, ProposeError> {
        self.read_barrier().await?;
        let (ttl_secs, has_checkpoint) = {
            let replica = self.shared.replica.read();
            let Some(lease) = replica.state.lessor.get(id) else { return Ok(None) };
            (lease.ttl_secs, lease.remaining_secs > 0)
        };
        if !self.expiry().renew(id, seconds(ttl_secs), Instant::now()) {
            return Ok(None);
        }
        if has_checkpoint {
            self.propose(Command::LeaseCheckpoint { remaining_secs: vec![(id, 0)] }).await?;
        }
        self.metrics().leases_renewed.inc();
        Ok(Some(ttl_secs))
    }

    /// `None` if the lease does not exist or has expired.
    pub(crate) async fn lease_time_to_live(
        &self,
        id: LeaseId,
        with_keys: bool,
    ) -> Result<Option<LeaseInfo>, ProposeError> {
        self.read_barrier().await?;
        let (granted_secs, keys) = {
            let replica = self.shared.replica.read();
            let Some(lease) = replica.state.lessor.get(id) else { return Ok(None) };
            let keys = if with_keys { lease.keys.iter().cloned().collect() } else { Vec::new() };
            (lease.ttl_secs, keys)
        };
        let remaining = self.expiry().remaining(id, Instant::now());
        Ok(remaining.map(|remaining| LeaseInfo {
            granted_secs,
            remaining_secs: remaining.as_secs() as i64,
            keys,
        }))
    }

    /// All leases, those that end first first.
    pub(crate) fn leases(&self) -> Vec<LeaseId> {
        let mut leases: Vec<LeaseId> =
            self.shared.replica.read().state.lessor.leases().map(|(id, _)| id).collect();
        let now = Instant::now();
        let expiry = self.expiry();
        leases.sort_by_key(|id| expiry.remaining(*id, now));
        leases
    }

    /// This member leads now: every lease gets its whole TTL, and the time an election may take.
    pub(super) fn promote_leases(&self) {
        let leases: Vec<(LeaseId, Duration)> = {
            let replica = self.shared.replica.read();
            let lessor = &replica.state.lessor;
            lessor
                .leases()
                .map(|(id, lease)| {
                    let left = if lease.remaining_secs > 0 { lease.remaining_secs } else { lease.ttl_secs };
                    (id, seconds(left))
                })
                .collect()
        };
        self.expiry().promote(Instant::now(), self.shared.config.election_timeout, leases);
    }

    /// How long a request waits for the cluster: five seconds, and two elections on top.
    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + self.shared.config.election_timeout * 2
    }
}

fn seconds(secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(secs).unwrap_or(0))
}
