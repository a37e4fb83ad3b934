//! Leases: granted through the log, renewed and looked up in the memory of the leader.
//!
//! What a member says about a lease is true at some moment between question and answer. Therefore the
//! leader renews a lease first and has a quorum confirm its leadership *after* that: if another member
//! led meanwhile, the renewal is void and the client is not told of it. A leader that was paused can
//! neither renew a lease that another leader has revoked, nor report the end of a lease that another
//! leader has renewed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time;

use super::{
    Node, ProposeError,
    leader_search::{NotFound, Route},
};
use crate::{
    apply::{Command, admission::Call, codec},
    auth::AuthError,
    clock,
    lease::{Expiry, Renewal},
    limits,
    link::{LeaseAnswer, LeaseQuery},
    types::{Caller, LeaseId},
};

/// Pause before the leader is asked again about a lease, unless leadership changes earlier.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What a lease's holder may ask about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LeaseInfo {
    pub(crate) granted_secs: i64,
    pub(crate) remaining_secs: i64,
    pub(crate) keys: Vec<Bytes>,
}

/// What this member can do by itself for a lease that is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Renewed {
        /// The log says, or is about to say, that less is left.
        is_noted: bool,
        is_being_noted: bool,
    },
    Ended,
    Unknown,
}

impl Node {
    /// The command that grants a lease; id 0 lets the member choose. The TTL is raised to what the cluster can
    /// keep.
    pub(super) fn lease_grant_command(&self, id: i64, ttl_secs: i64) -> Command {
        let id = LeaseId(if id == 0 { self.choose_lease_id() } else { id });
        assert_ne!(id, LeaseId::NONE, "0 stands for no lease");
        let ttl_secs = ttl_secs.max(self.lease_ttl_secs_min());
        Command::LeaseGrant { id, ttl_secs }
    }

    /// A lease must outlive an election: one and a half election timeouts, in whole seconds.
    fn lease_ttl_secs_min(&self) -> i64 {
        let millis = self.shared.config.election_timeout.as_millis() as i64 * 3 / 2;
        (millis + 999) / 1000
    }

    /// Renews a lease in the leader's memory. `None` if it does not exist or has expired.
    pub(super) async fn lease_keep_alive(
        &self,
        caller: &Caller,
        id: LeaseId,
    ) -> Result<Option<i64>, ProposeError> {
        let query = LeaseQuery { id: id.0, renew: true, caller: codec::encode_caller(caller) };
        Ok(self.lease(caller, query, false).await?.map(|lease| lease.granted_secs))
    }

    /// `None` if the lease does not exist or has expired.
    pub(super) async fn lease_time_to_live(
        &self,
        caller: &Caller,
        id: LeaseId,
        with_keys: bool,
    ) -> Result<Option<LeaseInfo>, ProposeError> {
        let query = LeaseQuery { id: id.0, renew: false, caller: codec::encode_caller(caller) };
        self.lease(caller, query, with_keys).await
    }

    /// Asks the leader, until one answers or the request times out.
    async fn lease(
        &self,
        caller: &Caller,
        query: LeaseQuery,
        with_keys: bool,
    ) -> Result<Option<LeaseInfo>, ProposeError> {
        let answer = async {
            let Some((mut lease, applied)) = self.lease_of_leader(caller, &query).await? else {
                return Ok(None);
            };
            if with_keys {
                match self.keys_of_lease(LeaseId(query.id), applied).await? {
                    Some(keys) => lease.keys = keys,
                    None => return Ok(None),
                }
            }
            Ok(Some(lease))
        };
        match time::timeout(self.request_timeout(), answer).await {
            Ok(answer) => answer,
            Err(_) if !self.has_leader() => Err(ProposeError::NoLeader),
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    /// The keys of a lease, not older than log entry `applied`. They are not asked of the leader: a
    /// lease may have more of them than fits a message. `None` if it was revoked meanwhile.
    async fn keys_of_lease(&self, id: LeaseId, applied: u64) -> Result<Option<Vec<Bytes>>, ProposeError> {
        let mut applied_here = self.shared.applied.clone();
        let caught_up = applied_here.wait_for(|here| *here >= applied).await;
        caught_up.map_err(|_| ProposeError::Stopped)?;
        let replica = self.shared.replica.read();
        Ok(replica.state.lessor.get(id).map(|lease| lease.keys.iter().cloned().collect()))
    }

    /// What the leader says, and how far it had applied the log.
    async fn lease_of_leader(
        &self,
        caller: &Caller,
        query: &LeaseQuery,
    ) -> Result<Option<(LeaseInfo, u64)>, ProposeError> {
        let patience = self.shared.config.election_timeout;
        let mut search = self.search_leader(RETRY_PAUSE);
        loop {
            // No longer than that, because a holder that gets an error can renew through another member.
            let leader = search.next(patience).await.map_err(|not_found| match not_found {
                NotFound::Leaderless => ProposeError::NoLeader,
                NotFound::Stopped => ProposeError::Stopped,
            })?;
            let answer = match &leader.route {
                Route::Own => self.lease_as_leader(caller, query).await,
                Route::Peer(peer) => {
                    let asked = self.shared.peers.lease(leader.id, peer, patience, query.clone()).await;
                    asked.ok().filter(|answer| self.can_be_true(answer)).unwrap_or(LeaseAnswer::NotLeader)
                }
                Route::Unknown => LeaseAnswer::NotLeader,
            };
            match answer {
                LeaseAnswer::NotFound => return Ok(None),
                LeaseAnswer::Denied => return Err(self.why_denied(caller, call_of(query)).await),
                LeaseAnswer::Found { granted_secs, remaining_secs, applied } => {
                    let lease = LeaseInfo { granted_secs, remaining_secs, keys: Vec::new() };
                    return Ok(Some((lease, applied)));
                }
                LeaseAnswer::NotLeader => {}
            }
        }
    }

    /// Whether a leader can have given the answer. If not, the leader is asked again.
    fn can_be_true(&self, answer: &LeaseAnswer) -> bool {
        let LeaseAnswer::Found { granted_secs, remaining_secs, applied } = answer else { return true };
        (0..=limits::LEASE_TTL_SECS_MAX).contains(granted_secs)
            && *remaining_secs >= 0
            && self.shared.consensus.judge_index(*applied).is_ok()
    }

    /// The leader has applied a change of users or roles that this member had not: with it, this member knows
    /// the reason too.
    async fn why_denied(&self, caller: &Caller, call: Call<'_>) -> ProposeError {
        match self.read_barrier().await {
            Ok(()) => self.permit(caller, call).err().unwrap_or(AuthError::PermissionDenied).into(),
            Err(error) => error,
        }
    }

    /// The answer, if this member leads. `caller` asked this member or another one. The leader judges the
    /// call again, because it may have applied a change of users and roles that the other member has not.
    /// The keys of a lease are not asked of the leader: the member that reads them judges that.
    pub(super) async fn lease_as_leader(&self, caller: &Caller, query: &LeaseQuery) -> LeaseAnswer {
        let leadership = self.leadership();
        if !leadership.is_leader {
            return LeaseAnswer::NotLeader;
        }
        let id = LeaseId(query.id);
        if self.permit(caller, call_of(query)).is_err() {
            return LeaseAnswer::Denied;
        }
        let answer = if query.renew {
            self.renew_as_leader(id, leadership.term).await
        } else {
            self.look_as_leader(id, leadership.term).await
        };
        answer.unwrap_or(LeaseAnswer::NotLeader)
    }

    /// `None` if this member does not lead `term` any more.
    async fn look_as_leader(&self, id: LeaseId, term: u64) -> Option<LeaseAnswer> {
        // Taken before the quorum is asked: at that time no other member can have led.
        let asked = clock::now();
        if !self.confirm_leadership(term).await {
            return None;
        }
        self.describe(id, term, asked)
    }

    /// `None` if this member does not lead `term` any more.
    async fn renew_as_leader(&self, id: LeaseId, term: u64) -> Option<LeaseAnswer> {
        let mut kept = self.renew_here(id, term)?;
        if kept == Kept::Unknown {
            // The grant of the lease may be committed and not applied here yet.
            if !self.confirm_leadership(term).await {
                return None;
            }
            kept = self.renew_here(id, term)?;
        }
        match kept {
            Kept::Unknown => return Some(LeaseAnswer::NotFound),
            Kept::Ended => {}
            Kept::Renewed { is_noted, is_being_noted } => {
                if is_being_noted {
                    // The checkpoint under way has to come first in the log, and the one that resets it after it.
                    drop(self.shared.lease_notes.lock().await);
                }
                if is_noted || is_being_noted {
                    self.propose_own(Command::LeaseCheckpoint { remaining_millis: vec![(id, 0)] })
                        .await
                        .ok()?;
                }
            }
        }
        #[cfg(test)]
        let asks = !crate::planted::is(crate::planted::Bug::RenewOnDemotedLeader);
        #[cfg(not(test))]
        let asks = true;
        if asks && !self.confirm_leadership(term).await {
            return None;
        }
        if kept == Kept::Ended {
            self.await_revoke(id, term).await;
            return Some(LeaseAnswer::NotFound);
        }
        // The lease is gone if a client has revoked it meanwhile.
        let answer = self.describe(id, term, clock::now())?;
        if answer != LeaseAnswer::NotFound {
            self.metrics().leases_renewed.inc();
        }
        Some(answer)
    }

    fn renew_here(&self, id: LeaseId, term: u64) -> Option<Kept> {
        let replica = self.shared.replica.read();
        let mut expiry = self.expiry();
        if expiry.term() != Some(term) {
            return None;
        }
        let Some(lease) = replica.state.lessor.get(id) else { return Some(Kept::Unknown) };
        Some(match expiry.renew(id, lease.ttl(), clock::now()) {
            Renewal::Renewed { is_being_noted } => {
                Kept::Renewed { is_noted: lease.has_checkpoint(), is_being_noted }
            }
            Renewal::Ended => Kept::Ended,
            Renewal::Unknown => Kept::Unknown,
        })
    }

    fn describe(&self, id: LeaseId, term: u64, at: Instant) -> Option<LeaseAnswer> {
        let replica = self.shared.replica.read();
        let expiry = self.expiry();
        if expiry.term() != Some(term) {
            return None;
        }
        let (Some(lease), Some(remaining)) = (replica.state.lessor.get(id), expiry.remaining(id, at)) else {
            return Some(LeaseAnswer::NotFound);
        };
        let remaining_secs = i64::try_from(remaining.as_secs()).unwrap_or(i64::MAX);
        let applied = replica.applied_index();
        Some(LeaseAnswer::Found { granted_secs: lease.ttl_secs, remaining_secs, applied })
    }

    /// Waits until the revoke is applied, so that a holder that learns of the end of its lease finds its keys gone.
    async fn await_revoke(&self, id: LeaseId, term: u64) {
        let mut leadership = self.shared.leadership.clone();
        let mut applied = self.shared.applied.clone();
        let revoked = applied.wait_for(|_| !self.shared.replica.read().state.lessor.contains(id));
        let lost = leadership.wait_for(|now| !now.is_leader || now.term != term);
        tokio::select! { biased;
            _ = revoked => {}
            _ = lost => {}
            () = time::sleep(self.request_timeout()) => {}
        }
    }

    /// All leases, in the order in which they end.
    pub(super) fn leases(&self) -> Vec<LeaseId> {
        let mut leases: Vec<LeaseId> =
            self.shared.replica.read().state.lessor.leases().map(|(id, _)| id).collect();
        let now = clock::now();
        let expiry = self.expiry();
        leases.sort_by_key(|id| expiry.remaining(*id, now));
        leases
    }
}

/// The keys of a lease are not asked of the leader.
fn call_of(query: &LeaseQuery) -> Call<'static> {
    let id = LeaseId(query.id);
    if query.renew { Call::LeaseKeepAlive(id) } else { Call::LeaseTimeToLive { id, with_keys: false } }
}

/// What the leader does about leases.
impl Node {
    /// This member leads `term` now: every lease gets what the log says is left of it, and the time
    /// an election may take.
    pub(super) fn promote_leases(&self, term: u64) {
        let replica = self.shared.replica.read();
        let leases = replica.state.lessor.leases().map(|(id, lease)| (id, lease.remaining()));
        #[cfg(test)]
        let leases = leases.map(|(id, remaining)| {
            (
                id,
                if crate::planted::is(crate::planted::Bug::LeasesCutShort) {
                    remaining / 8
                } else {
                    remaining
                },
            )
        });
        let mut expiry = self.expiry();
        assert_eq!(expiry.term(), None, "the deadlines of one term are gone before those of the next");
        let extension = self.shared.config.election_timeout;
        #[cfg(test)]
        let extension =
            if crate::planted::is(crate::planted::Bug::LeasesCutShort) { Duration::ZERO } else { extension };
        expiry.promote(term, clock::now(), extension, leases);
    }

    /// Notes in the log what is left of leases that nobody has renewed for long.
    pub(super) async fn checkpoint_leases(&self, term: u64) {
        let _turn = self.shared.lease_notes.lock().await;
        let notes = self.notes(term, |expiry, now| expiry.due_notes(now, limits::LEASE_CHECKPOINT_LEASES));
        self.note(term, &notes).await;
    }

    /// The same for all leases, before another member leads.
    pub(super) async fn checkpoint_leases_for_successor(&self) {
        let term = self.leadership().term;
        if !self.shared.config.lease_checkpoint {
            return;
        }
        let _turn = self.shared.lease_notes.lock().await;
        let notes = self.notes(term, |expiry, now| expiry.all_notes(now, limits::LEASE_HANDOVER_LEASES));
        let is_news = |(id, left): &(LeaseId, Duration)| {
            let replica = self.shared.replica.read();
            replica
                .state
                .lessor
                .get(*id)
                .is_some_and(|lease| lease.remaining() > *left + Duration::from_secs(1))
        };
        assert!(notes.len() <= limits::LEASE_HANDOVER_LEASES, "what a handover notes is bounded");
        let (news, known): (Vec<_>, Vec<_>) = notes.into_iter().partition(is_news);
        self.expiry().noted(&known);
        // A handover must not take long: without the checkpoint, leases only begin again with their TTL.
        let _ = time::timeout(self.shared.config.election_timeout / 2, self.note(term, &news)).await;
    }

    fn notes(
        &self,
        term: u64,
        choose: impl FnOnce(&mut Expiry, Instant) -> Vec<(LeaseId, Duration)>,
    ) -> Vec<(LeaseId, Duration)> {
        let mut expiry = self.expiry();
        if expiry.term() == Some(term) { choose(&mut expiry, clock::now()) } else { Vec::new() }
    }

    async fn note(&self, term: u64, notes: &[(LeaseId, Duration)]) {
        if notes.is_empty() {
            return;
        }
        assert!(notes.len() <= limits::LEASE_HANDOVER_LEASES, "what is noted at once is bounded");
        let millis = |left: &Duration| i64::try_from(left.as_millis()).unwrap_or(i64::MAX).max(1);
        let commands = notes.chunks(limits::LEASE_CHECKPOINT_LEASES).map(|notes| Command::LeaseCheckpoint {
            remaining_millis: notes.iter().map(|(id, left)| (*id, millis(left))).collect(),
        });
        match self.propose_in_term(term, commands.collect()).await {
            Ok(()) | Err(ProposeError::NoLeader) => self.expiry().noted(notes),
            // The checkpoint may still be applied, so a renewal of one of these leases has to reset it.
            Err(error) => tracing::warn!(%error, count = notes.len(), "failed to checkpoint leases"),
        }
    }
}
