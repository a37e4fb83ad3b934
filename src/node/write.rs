//! Writes: admitted, queued for the log, answered once applied here.

use std::{
    sync::{Arc, mpsc as std_mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc::error::TrySendError, oneshot},
    time,
};

use super::{
    Node, ProposeError, background::Request, core::Proposal, forward::known_leader, mailbox::Ticket,
};
use crate::{
    apply::{Alarm, AlarmKind, Command, Outcome, admission},
    raft::{LeaseAnswer, LeaseQuery, NotProposed},
    types::{LeaseId, Rev},
};

/// Pause before the leader is asked again about a lease, unless news comes earlier.
const LEASE_RETRY_PAUSE: Duration = Duration::from_millis(50);

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
        let answer = async { answer.await.unwrap_or(Err(ProposeError::Stopped)) };
        let outcome = if self.is_sole_leader() {
            answer.await
        } else {
            let start = Instant::now();
            match time::timeout(self.request_timeout(), answer).await {
                Ok(outcome) => outcome,
                Err(_) => Err(self.shared.patience.timeout(start)),
            }
        };
        if outcome.is_err() {
            self.metrics().proposals_failed.inc();
        }
        outcome
    }

    /// Puts commands into the log of this member as the leader of `term`, or nowhere.
    pub(super) async fn propose_in_term(
        &self,
        term: u64,
        commands: Arc<[Command]>,
    ) -> Result<(), ProposeError> {
        let (_, own) = self.ids();
        // Nobody waits for this serial: that it was applied is all there is to know.
        let proposed = self.shared.consensus.propose_tagged(term, commands, (own.0, 0));
        match time::timeout(self.request_timeout(), proposed).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NotProposed::NotLeader)) => Err(ProposeError::NoLeader),
            Ok(Err(NotProposed::Unknown)) => Err(ProposeError::LeaderChanged),
            Ok(Err(NotProposed::Stopped)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::Timeout),
        }
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
            // Only a nudge: with a full queue the thread finds the work at its next checkpoint.
            let _ = self.ask_background(Request::Compact);
        }
        if physical {
            let (done, freed) = oneshot::channel();
            self.ask_background(Request::AwaitCompaction(done))?;
            freed.await.map_err(|_| ProposeError::Stopped)?;
        }
        Ok(outcome)
    }

    pub(super) fn ask_background(&self, request: Request) -> Result<(), ProposeError> {
        self.shared.background.try_send(request).map_err(|error| match error {
            std_mpsc::TrySendError::Full(_) => ProposeError::TooManyRequests,
            std_mpsc::TrySendError::Disconnected(_) => ProposeError::Stopped,
        })
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
        Ok(self.lease(id, true, false).await?.map(|lease| lease.granted_secs))
    }

    /// `None` if the lease does not exist or has expired.
    pub(crate) async fn lease_time_to_live(
        &self,
        id: LeaseId,
        with_keys: bool,
    ) -> Result<Option<LeaseInfo>, ProposeError> {
        self.lease(id, false, with_keys).await
    }

    /// Asks whoever leads, until somebody does or it takes too long.
    async fn lease(&self, id: LeaseId, renew: bool, keys: bool) -> Result<Option<LeaseInfo>, ProposeError> {
        match time::timeout(self.request_timeout(), self.lease_of_leader(id, renew, keys)).await {
            Ok(answer) => answer,
            Err(_) if !self.has_leader() => Err(ProposeError::NoLeader),
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    async fn lease_of_leader(
        &self,
        id: LeaseId,
        renew: bool,
        keys: bool,
    ) -> Result<Option<LeaseInfo>, ProposeError> {
        let mut leadership = self.shared.leadership.clone();
        let (_, own) = self.ids();
        loop {
            let (leader, _) = known_leader(&mut leadership).await?;
            let answer = if leader == own.0 {
                self.lease_as_leader(id, renew, keys).await
            } else {
                let query = LeaseQuery { id: id.0, renew, keys };
                let asked = async {
                    let peer = self.shared.consensus.peer(leader)?;
                    self.shared
                        .peers
                        .lease(leader, &peer, self.shared.config.election_timeout, query)
                        .await
                        .ok()
                };
                asked.await.unwrap_or(LeaseAnswer::NotLeader)
            };
            match answer {
                LeaseAnswer::NotFound => return Ok(None),
                LeaseAnswer::Found { granted_secs, remaining_secs, keys } => {
                    return Ok(Some(LeaseInfo { granted_secs, remaining_secs, keys }));
                }
                LeaseAnswer::NotLeader => {
                    let _ = time::timeout(LEASE_RETRY_PAUSE, leadership.changed()).await;
                }
            }
        }
    }

    /// The answer if this member leads. That is made sure of first, with a quorum: an old leader
    /// that nobody follows any more must neither renew a lease nor say that it has ended.
    pub(super) async fn lease_as_leader(&self, id: LeaseId, renew: bool, with_keys: bool) -> LeaseAnswer {
        if !self.leadership().is_leader || self.read_barrier().await.is_err() {
            return LeaseAnswer::NotLeader;
        }
        let (granted_secs, has_checkpoint, keys) = {
            let replica = self.shared.replica.read();
            let Some(lease) = replica.state.lessor.get(id) else { return LeaseAnswer::NotFound };
            let keys = if with_keys { lease.keys.iter().cloned().collect() } else { Vec::new() };
            (lease.ttl_secs, lease.remaining_secs > 0, keys)
        };
        let remaining = {
            let mut expiry = self.expiry();
            if !expiry.is_leading() {
                // It was deposed meanwhile, or has not taken over the leases yet.
                return LeaseAnswer::NotLeader;
            }
            if renew && !expiry.renew(id, seconds(granted_secs), Instant::now()) {
                return LeaseAnswer::NotFound;
            }
            expiry.remaining(id, Instant::now())
        };
        let Some(remaining) = remaining else { return LeaseAnswer::NotFound };
        if renew {
            self.metrics().leases_renewed.inc();
            let forget = Command::LeaseCheckpoint { remaining_secs: vec![(id, 0)] };
            if has_checkpoint && self.propose(forget).await.is_err() {
                return LeaseAnswer::NotLeader;
            }
        }
        LeaseAnswer::Found { granted_secs, remaining_secs: remaining.as_secs() as i64, keys }
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
            lessor.leases().map(|(id, lease)| (id, lease.remaining())).collect()
        };
        self.expiry().promote(Instant::now(), self.shared.config.election_timeout, leases);
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.shared.patience.limit
    }
}

fn seconds(secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(secs).unwrap_or(0))
}
