//! What operators ask: status, alarms, members, defragmentation, leadership.

use std::time::Duration;

use tokio::time;

use super::{
    MoveLeaderError, Node, ProposeError,
    lane::{Begun, LaneFull},
};
use crate::{
    apply::{Alarm, AlarmKind},
    clock,
    config::ETCD_CLUSTER_VERSION,
    limits,
    telemetry::{GoDuration, NodeState},
    types::MemberId,
};

/// Election timeouts that a leader which is about to end gives to handing over.
const STEP_ASIDE_TIMEOUTS: u32 = 3;

/// The state of this member, without asking others.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) db_size: i64,
    pub(crate) db_size_in_use: i64,
    /// 0 if there is none.
    pub(crate) leader: MemberId,
    pub(crate) raft_index: u64,
    pub(crate) raft_term: u64,
    pub(crate) raft_applied_index: u64,
    pub(crate) errors: Vec<String>,
    pub(crate) is_learner: bool,
    /// The quota in force, in bytes; 0 if there is none.
    pub(crate) quota: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) id: MemberId,
    /// Empty until the member has started.
    pub(crate) name: String,
    pub(crate) peer_urls: Vec<String>,
    pub(crate) client_urls: Vec<String>,
    pub(crate) is_learner: bool,
}

/// An alarm as protobuf's text format writes it, which leaves out what is 0.
fn alarm_text(alarm: Alarm) -> String {
    let kind = alarm.kind.as_str();
    match alarm.member {
        MemberId(0) => format!("alarm:{kind}"),
        MemberId(id) => format!("memberID:{id} alarm:{kind}"),
    }
}

impl Node {
    pub(super) fn status(&self) -> Status {
        let leadership = self.leadership();
        let replica = self.shared.replica.read();
        let size = replica.state.mvcc.size();
        let mut errors = Vec::new();
        if leadership.leader.is_none() {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(replica.state.alarms.active().map(alarm_text));
        errors.extend(self.full_disks().into_iter().map(|path| format!("disk full: {path}")));
        let raft_applied_index = replica.applied_index();
        Status {
            db_size: size.total,
            db_size_in_use: size.in_use,
            leader: MemberId(leadership.leader.unwrap_or(0)),
            raft_index: self.shared.consensus.committed_index().max(raft_applied_index),
            raft_term: leadership.term,
            raft_applied_index,
            errors,
            is_learner: leadership.is_learner,
            quota: self.shared.config.quota_backend_bytes.unwrap_or(0),
        }
    }

    pub(super) fn alarms(&self) -> Vec<Alarm> {
        self.shared.replica.read().state.alarms.active().collect()
    }

    /// The directories of this member whose disk is full.
    pub(crate) fn full_disks(&self) -> Vec<String> {
        self.shared.space.full()
    }

    /// What alarms there are, for the health of this member.
    pub(crate) fn alarm_kinds(&self) -> Vec<AlarmKind> {
        self.alarms().into_iter().map(|alarm| alarm.kind).collect()
    }

    /// All members, by id. Names and client URLs are what the members published of themselves.
    pub(super) fn members(&self) -> Vec<Member> {
        let replica = self.shared.replica.read();
        replica
            .peers()
            .map(|(id, peer)| {
                let attributes = replica.state.members.get(MemberId(id));
                Member {
                    id: MemberId(id),
                    name: attributes.map_or(String::new(), |attributes| attributes.name.clone()),
                    peer_urls: peer.peer_urls.clone(),
                    client_urls: attributes.map_or(Vec::new(), |attributes| attributes.client_urls.clone()),
                    is_learner: peer.is_learner,
                }
            })
            .collect()
    }

    /// Rewrites the database without its holes, while reads and writes go on. All who ask while a
    /// defragmentation is under way share the next.
    pub(super) async fn defragment(&self) -> Result<(), String> {
        let defragmentations = &self.shared.orders.defragmentations;
        let ticket = defragmentations.join((), Begun::IsTooOld);
        let ticket = ticket.map_err(|LaneFull| ProposeError::TooManyRequests.to_string())?;
        self.shared.orders.defragment();
        ticket.result().await.unwrap_or_else(|| Err(ProposeError::Stopped.to_string()))
    }

    /// Hands leadership to another voter.
    pub(super) async fn move_leader(&self, target: MemberId) -> Result<(), MoveLeaderError> {
        let (_, own) = self.ids();
        if !self.leadership().is_leader {
            return Err(MoveLeaderError::NotLeader);
        }
        if target == own {
            return Ok(());
        }
        if !self.shared.replica.read().voters().any(|voter| voter == target.0) {
            return Err(MoveLeaderError::BadTransferee);
        }
        self.hand_over(target, self.request_timeout()).await
    }

    /// Asks `target` to lead and waits until there is another leader.
    pub(super) async fn hand_over(
        &self,
        target: MemberId,
        patience: Duration,
    ) -> Result<(), MoveLeaderError> {
        let mut leadership = self.shared.leadership.clone();
        let term = leadership.borrow().term;
        let start = clock::now();
        let (_, own) = self.ids();
        assert_ne!(target, own, "leadership goes to another member");
        tracing::info!(
            "local-member-id" = %own,
            "current-leader-member-id" = %own,
            "transferee-member-id" = %target,
            "leadership transfer starting"
        );
        self.checkpoint_leases_for_successor().await;
        self.shared.consensus.transfer_leader(target.0).await;
        let decided = leadership.wait_for(|leadership| leadership.leader.is_some() && leadership.term > term);
        match time::timeout(patience, decided).await {
            Ok(Ok(next)) if next.leader == Some(target.0) => {
                tracing::info!(
                    "local-member-id" = %own,
                    "old-leader-member-id" = %own,
                    "new-leader-member-id" = %target,
                    took = %GoDuration(clock::since(start)),
                    "leadership transfer finished"
                );
                Ok(())
            }
            _ => Err(MoveLeaderError::Timeout),
        }
    }

    /// Hands leadership to the voter that has most of the log, before this member stops or is removed.
    /// The election that this starts may fail, and this member may win the next one. So it tries again
    /// until another member leads or no other voter answers. Without a handover the others elect a leader
    /// too, but only after an election timeout.
    pub(super) async fn step_aside(&self) {
        let election_timeout = self.shared.config.election_timeout;
        let now = self.leadership();
        let (_, own) = self.ids();
        if !now.is_leader || now.is_sole_voter {
            let why = if now.is_leader {
                " for single voting member cluster"
            } else {
                "; local server is not leader"
            };
            tracing::info!(
                "local-member-id" = %own,
                "current-leader-member-id" = %MemberId(now.leader.unwrap_or(0)),
                "skipped leadership transfer{why}"
            );
            return;
        }
        let mut leadership = self.shared.leadership.clone();
        let handed_over = async {
            let round = election_timeout / 2;
            let mut silence_max = election_timeout;
            while leadership.borrow().is_leader {
                let Some(best) = self.successor(silence_max) else {
                    tracing::info!("skipped leadership transfer; no other voting member answers");
                    return;
                };
                if let Err(error) = self.hand_over(best, round).await {
                    tracing::warn!(%error, "failed to transfer leadership");
                }
                if leadership.has_changed().is_err() {
                    // Consensus has stopped, so this member leads no more.
                    return;
                }
                // A voter that still runs has answered since this round began, or takes part in an
                // election now.
                silence_max = round;
                let _ = time::timeout(round, leadership.wait_for(|now| now.leader.is_some())).await;
            }
        };
        let _ = time::timeout(election_timeout * STEP_ASIDE_TIMEOUTS, handed_over).await;
    }

    /// A leader whose disk is full hands leadership to a voter whose disk is not, if one answers.
    pub(super) async fn leave_lead_of_full_disk(&self) {
        let leadership = self.leadership();
        if !leadership.is_leader || leadership.is_sole_voter || !self.shared.space.is_full() {
            return;
        }
        let election_timeout = self.shared.config.election_timeout;
        let best = self.successor(election_timeout);
        if let Some(best) = best.filter(|best| !self.shared.space.is_peer_full(best.0))
            && let Err(error) = self.hand_over(best, election_timeout).await
        {
            tracing::warn!(%error, "failed to transfer leadership to a member whose disk is not full");
        }
    }

    /// Whether the disk of this member is full and the lead cannot go to a voter whose disk is not. Then what
    /// adds data is refused, no matter which member it came to.
    pub(super) fn is_full_without_successor(&self) -> bool {
        self.shared.space.is_full()
            && self
                .successor(self.shared.config.election_timeout)
                .is_none_or(|best| self.shared.space.is_peer_full(best.0))
    }

    /// Of the other voters that answered within `silence_max`, the one that has most of the log, and first
    /// those whose disk is not full.
    fn successor(&self, silence_max: Duration) -> Option<MemberId> {
        let (_, own) = self.ids();
        let progress = self.shared.consensus.progress();
        let heard_of = self.shared.consensus.heard_of();
        let is_there = |id: &u64| heard_of.get(id).is_some_and(|silence| *silence < silence_max);
        let replica = self.shared.replica.read();
        let others = replica.voters().filter(|id| *id != own.0 && is_there(id));
        let rank = |id: &u64| (!self.shared.space.is_peer_full(*id), progress.get(id).copied());
        others.max_by_key(rank).map(MemberId)
    }
}

impl Node {
    /// Everything that a scrape shows of this member, at this moment.
    pub(crate) fn state(&self) -> NodeState {
        let status = self.status();
        let leadership = self.leadership();
        let (_, id) = self.ids();
        let watches = self.watch_hub().census();
        let queue_free = self.shared.queue.capacity();
        assert!(queue_free <= limits::PROPOSAL_QUEUE, "the queue has no more places than it was made with");
        let replica = self.shared.replica.read();
        NodeState {
            member_id: id.to_string(),
            cluster_version: ETCD_CLUSTER_VERSION.trim_end_matches(".0").to_owned(),
            known_peers: replica.peers().map(|(id, _)| MemberId(id).to_string()).collect(),
            has_leader: leadership.leader.is_some(),
            is_leader: leadership.is_leader,
            is_learner: status.is_learner,
            proposals_committed: status.raft_index,
            proposals_applied: status.raft_applied_index,
            proposals_pending: (limits::PROPOSAL_QUEUE - queue_free) as u64,
            quota_bytes: status.quota,
            db_bytes: status.db_size,
            db_in_use_bytes: status.db_size_in_use,
            open_read_transactions: 0,
            rev_current: replica.state.mvcc.rev_current().0,
            rev_compacted: replica.state.mvcc.rev_compacted().0,
            auth_revision: replica.state.auth.rev(),
            keys: replica.state.mvcc.keys_live() as u64,
            watch_streams: watches.streams,
            watchers: watches.watchers,
            slow_watchers: watches.unsynced,
            pending_events: watches.pending,
            full_disks: self.full_disks(),
            alarms: replica
                .state
                .alarms
                .active()
                .map(|alarm| (alarm.member.to_string(), alarm.kind.as_str()))
                .collect(),
        }
    }
}
