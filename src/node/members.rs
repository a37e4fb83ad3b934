//! Who belongs to the cluster, and how that changes.
//!
//! The leader makes one change at a time and checks it first, as etcd does: a change that would
//! leave the cluster without a working quorum is refused. Where etcd gives a new voter its vote
//! at once, here it gets the log first, and its vote as soon as it has caught up. So a mistyped
//! URL or a machine that never starts costs no quorum; it is listed as a voter from the start.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use thiserror::Error;
use tokio::time;

use super::{
    Member, Node, ProposeError,
    leader_search::{NotFound, Route},
};
use crate::{
    apply::{admission::Call, codec},
    clock, config, limits,
    link::{Change, ChangeRefusal, Peer},
    raft::{MemberChange, NotProposed},
    types::{Caller, MemberId},
};

/// Pause before the leader is asked again for a change, unless leadership changes earlier.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How often the leader checks whether a new member has the log and can be given its vote.
const PROMOTE_INTERVAL: Duration = Duration::from_millis(500);
/// The number of log entries that a new member may lack when it is given its vote.
const PROMOTE_LAG: u64 = 1000;
/// How often the other members are asked whether they answer.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// How recently a member must have answered to count as healthy.
const HEALTHY: Duration = Duration::from_secs(5);
/// How long a removed member runs on, so that a client that asked it for the removal gets its answer.
pub(super) const LAST_BREATH: Duration = Duration::from_secs(1);
/// How often a member checks whether it is still part of the membership.
const REMOVED_INTERVAL: Duration = Duration::from_secs(1);

/// Why the membership was not changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Refused(#[from] ChangeRefusal),
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl Node {
    /// Adds a member that is going to be reached at `peer_urls`.
    pub(super) async fn member_add(
        &self,
        caller: &Caller,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<Member, ChangeError> {
        let id = config::added_member_id(&peer_urls, clock::wall().as_secs());
        self.change(caller, Change::Add { id: id.0, peer_urls: peer_urls.clone(), is_learner }).await?;
        Ok(Member { id, name: String::new(), peer_urls, client_urls: Vec::new(), is_learner })
    }

    /// Has the leader change the membership. Once this returns, this member knows of it.
    pub(super) async fn change(&self, caller: &Caller, change: Change) -> Result<(), ChangeError> {
        let (_, own) = self.ids();
        let removes_own = change == Change::Remove { id: own.0 };
        let changed = async {
            let index = self.change_through_leader(caller, &change).await?;
            if removes_own {
                // A removed member gets no more log entries, so it would wait in vain.
                return Ok(());
            }
            let mut applied = self.shared.applied.clone();
            applied.wait_for(|applied| *applied >= index).await.map_err(|_| ProposeError::Stopped)?;
            Ok(())
        };
        let start = clock::now();
        match time::timeout(self.request_timeout(), changed).await {
            Ok(changed) => changed,
            Err(_) if !self.has_leader() && self.is_unhealthy_to(&change) => {
                Err(ChangeRefusal::Unhealthy.into())
            }
            Err(_) if !self.has_leader() && matches!(change, Change::Promote { .. }) => {
                Err(ProposeError::NoLeader.into())
            }
            Err(_) => Err(self.shared.patience.timeout(start).into()),
        }
    }

    /// Whether a cluster without a leader is in no state for the change.
    fn is_unhealthy_to(&self, change: &Change) -> bool {
        matches!(change, Change::Add { .. }) && self.config().strict_reconfig_check
    }

    async fn change_through_leader(&self, caller: &Caller, change: &Change) -> Result<u64, ChangeError> {
        // A leader may have made the change without being able to answer. Then the next leader is asked,
        // which refuses the change because it is made already.
        let mut may_be_done = false;
        let refusal_if_done = self.refusal_if_done(change);
        let mut search = self.search_leader(RETRY_PAUSE);
        loop {
            // An election may be under way, but it takes no longer than that.
            let leader = match search.next(2 * self.config().election_timeout).await {
                Ok(leader) => leader,
                Err(NotFound::Leaderless) if self.is_unhealthy_to(change) => {
                    return Err(ChangeRefusal::Unhealthy.into());
                }
                Err(NotFound::Leaderless) => continue,
                Err(NotFound::Stopped) => return Err(ProposeError::Stopped.into()),
            };
            let changed = match &leader.route {
                Route::Own => self.change_as_leader(caller, change.clone()).await,
                Route::Peer(peer) => {
                    let patience = self.request_timeout();
                    let call = (codec::encode_caller(caller), change.clone());
                    let asked = self.shared.peers.change(leader.id, peer, patience, call);
                    // The answer of a member that is not the leader any more is not waited for.
                    let answer = tokio::select! { biased;
                        answer = asked => answer.map_err(|error| error.was_sent),
                        () = search.replaced(&leader) => Err(true),
                    };
                    let answer = answer.and_then(|answer| match answer {
                        Ok(index) if self.shared.consensus.judge_index(index).is_err() => Err(true),
                        answer => Ok(answer),
                    });
                    answer.unwrap_or_else(|was_sent| {
                        self.shared.patience.connection_lost();
                        may_be_done |= was_sent;
                        Err(ChangeRefusal::NotLeader)
                    })
                }
                Route::Unknown => Err(ChangeRefusal::NotLeader),
            };
            match changed {
                Err(refusal) if may_be_done && Some(refusal) == refusal_if_done => {
                    self.read_barrier().await?;
                    return Ok(self.shared.replica.read().applied_index());
                }
                Err(ChangeRefusal::NotLeader) => {}
                changed => return Ok(changed?),
            }
        }
    }

    /// The refusal that a second attempt at the change gets if the first one was made. `None` if making it
    /// twice changes nothing, or if even the first attempt would be refused.
    fn refusal_if_done(&self, change: &Change) -> Option<ChangeRefusal> {
        let find = |wanted: u64| self.members().into_iter().find(|member| member.id.0 == wanted);
        match *change {
            // The id is new with every request.
            Change::Add { .. } => Some(ChangeRefusal::Exists),
            Change::Remove { id } => find(id).map(|_| ChangeRefusal::NotFound),
            Change::Promote { id } => {
                find(id).filter(|member| member.is_learner).map(|_| ChangeRefusal::NotLearner)
            }
            Change::Update { .. } => None,
        }
    }

    /// Makes a change for `caller`, who asked this member or another, if this member leads and the change
    /// may be made. Returns the index that the log reached with the change.
    pub(super) async fn change_as_leader(
        &self,
        caller: &Caller,
        change: Change,
    ) -> Result<u64, ChangeRefusal> {
        let _changing = self.shared.changing.lock().await;
        // The decision has to rest on the committed state, and the leader has to make it.
        if !self.leadership().is_leader || self.read_barrier().await.is_err() {
            return Err(ChangeRefusal::NotLeader);
        }
        // The member that was asked may not have applied all changes of users and roles yet.
        self.permit(caller, Call::MemberChange).map_err(|_| ChangeRefusal::Denied)?;
        self.hear_of_voters().await;
        let is_promotion = matches!(change, Change::Promote { .. });
        let changed = self.make_change(change).await;
        match &changed {
            Ok(_) if is_promotion => self.metrics().learners_promoted.inc(),
            Err(refusal) if is_promotion => {
                self.metrics().learners_refused.with_label_values(&[&refusal.to_string()]).inc();
            }
            Ok(_) | Err(_) => {}
        }
        changed
    }

    /// A leader that was elected a moment ago may not have heard of all voters yet, which says nothing of their
    /// health. It waits for them, but no longer than for an election timeout from its own election on.
    async fn hear_of_voters(&self) {
        let Some(elected_at) = self.leadership().elected_at else { return };
        let (_, own) = self.ids();
        let (voters, _) = self.shared.consensus.membership();
        let others: Vec<u64> = voters.into_iter().filter(|voter| *voter != own.0).collect();
        let until = elected_at + self.config().election_timeout;
        let _ = time::timeout_at(until.into(), self.shared.consensus.heard_of_each(&others)).await;
    }

    async fn make_change(&self, change: Change) -> Result<u64, ChangeRefusal> {
        let change = self.check(change)?;
        let (_, own) = self.ids();
        if change == (MemberChange::Remove { id: own.0 }) {
            // A leader that removes itself leaves the cluster without a leader until the next election.
            // So another member has to lead first, and to make the change.
            self.step_aside().await;
            if !self.leadership().is_leader {
                return Err(ChangeRefusal::NotLeader);
            }
        }
        let removed = match &change {
            MemberChange::Remove { id } => self.shared.consensus.peer(*id).map(|peer| (*id, peer)),
            _ => None,
        };
        let changed = self.shared.consensus.change(change).await.map_err(|error| match error {
            NotProposed::NotLeader | NotProposed::Unknown | NotProposed::Stopped => ChangeRefusal::NotLeader,
        })?;
        if let Some((id, peer)) = removed {
            self.tell_removed(id, peer);
        }
        Ok(changed)
    }

    /// A removed member gets no more log entries, often not even the one that removes it. Without this
    /// message it would learn of its removal only from refused requests; with it, the member ends at once.
    fn tell_removed(&self, id: u64, peer: Peer) {
        let node = self.clone();
        tokio::spawn(async move {
            let patience = node.config().election_timeout;
            if let Err(reason) = node.shared.peers.tell_removed(id, &peer, patience).await {
                tracing::info!(
                    removed_member_id = %MemberId(id),
                    reason,
                    "could not notify the removed member; it will exit when it next contacts the cluster"
                );
            }
        });
    }

    /// The change as consensus makes it, or why it may not be made.
    fn check(&self, change: Change) -> Result<MemberChange, ChangeRefusal> {
        let roster = Roster(self.members());
        match change {
            Change::Add { id, peer_urls, is_learner } => self.check_add(&roster, id, peer_urls, is_learner),
            Change::Remove { id } => self.check_remove(&roster, id),
            Change::Update { id, peer_urls } => self.check_update(&roster, id, peer_urls),
            Change::Promote { id } => self.check_promote(&roster, id),
        }
    }

    fn check_add(
        &self,
        roster: &Roster,
        id: u64,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<MemberChange, ChangeRefusal> {
        let voters = roster.voters().count();
        if self.config().strict_reconfig_check {
            let started = roster.started();
            let is_one_of_one = voters == 1 && started == 1;
            if !is_learner && !is_one_of_one && started < quorum(voters + 1) {
                return Err(ChangeRefusal::NotEnoughStarted);
            }
            if self.healthy(roster.voters()) < quorum(voters) {
                return Err(ChangeRefusal::Unhealthy);
            }
        }
        if self.shared.replica.read().state.members.is_removed(MemberId(id)) {
            return Err(ChangeRefusal::NotFound);
        }
        if roster.find(id).is_ok() {
            return Err(ChangeRefusal::Exists);
        }
        roster.check_urls(id, &peer_urls)?;
        if is_learner && roster.0.len() - voters >= self.config().max_learners {
            return Err(ChangeRefusal::TooManyLearners);
        }
        Ok(MemberChange::Add { id, peer: Peer { peer_urls, is_learner } })
    }

    fn check_remove(&self, roster: &Roster, id: u64) -> Result<MemberChange, ChangeRefusal> {
        let member = roster.find(id)?;
        if self.config().strict_reconfig_check && !member.is_learner {
            let voters_left = roster.voters().count() - 1;
            let started_left = roster.started() - usize::from(!member.name.is_empty());
            if started_left < quorum(voters_left) {
                return Err(ChangeRefusal::NotEnoughStarted);
            }
            let is_healthy = self.healthy([member].into_iter()) == 1;
            if is_healthy && self.healthy(roster.voters()) - 1 < quorum(voters_left) {
                return Err(ChangeRefusal::Unhealthy);
            }
        }
        Ok(MemberChange::Remove { id })
    }

    fn check_update(
        &self,
        roster: &Roster,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<MemberChange, ChangeRefusal> {
        let is_learner = roster.find(id)?.is_learner;
        roster.check_urls(id, &peer_urls)?;
        Ok(MemberChange::Update { id, peer: Peer { peer_urls, is_learner } })
    }

    fn check_promote(&self, roster: &Roster, id: u64) -> Result<MemberChange, ChangeRefusal> {
        let member = roster.find(id)?;
        if !member.is_learner {
            return Err(ChangeRefusal::NotLearner);
        }
        let consensus = &self.shared.consensus;
        let matched = consensus.progress().get(&id).copied().unwrap_or(0);
        if matched * 10 < consensus.last_log_index() * 9 {
            return Err(ChangeRefusal::LearnerNotReady);
        }
        let voters = roster.voters().count() + 1;
        if self.config().strict_reconfig_check && roster.started() + 1 < quorum(voters) {
            return Err(ChangeRefusal::NotEnoughStarted);
        }
        Ok(MemberChange::Promote {
            id,
            peer: Peer { peer_urls: member.peer_urls.clone(), is_learner: false },
        })
    }

    /// How many of `members` answered within [`HEALTHY`]; this member counts as answering.
    fn healthy<'m>(&self, members: impl Iterator<Item = &'m Member>) -> usize {
        let (_, own) = self.ids();
        let heard_of = self.shared.consensus.heard_of();
        let is_healthy = |id: MemberId| id == own || heard_of.get(&id.0).is_some_and(|ago| *ago < HEALTHY);
        members.filter(|member| is_healthy(member.id)).count()
    }

    /// Gives a vote to each new member that has caught up, and finishes a change that another leader began.
    async fn promote_voters(&self) {
        let _changing = self.shared.changing.lock().await;
        let consensus = &self.shared.consensus;
        if consensus.is_changing() {
            // The leader before this one began it. If that was this member, the change is finished by now.
            let _ = consensus.change(MemberChange::Settle).await;
            return;
        }
        let (progress, last) = (consensus.progress(), consensus.last_log_index());
        let voters: BTreeSet<u64> = self.shared.replica.read().voters().collect();
        for member in self.members() {
            let id = member.id.0;
            let matched = progress.get(&id).copied().unwrap_or(0);
            if member.is_learner || voters.contains(&id) || matched == 0 || matched + PROMOTE_LAG < last {
                continue;
            }
            let peer = Peer { peer_urls: member.peer_urls, is_learner: false };
            match consensus.change(MemberChange::Promote { id, peer }).await {
                Ok(_) => {
                    tracing::info!(member = %member.id, "a new member has caught up and is a voting member now")
                }
                Err(_) => return,
            }
        }
    }
}

/// The members that a change is checked against.
struct Roster(Vec<Member>);

impl Roster {
    fn find(&self, id: u64) -> Result<&Member, ChangeRefusal> {
        self.0.iter().find(|member| member.id == MemberId(id)).ok_or(ChangeRefusal::NotFound)
    }

    /// Those who vote, and those who will as soon as they have the log.
    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.0.iter().filter(|member| !member.is_learner)
    }

    /// How many of the voters have started: a member has a name from then on.
    fn started(&self) -> usize {
        self.voters().filter(|member| !member.name.is_empty()).count()
    }

    /// Whether member `id` may be reached at `urls`.
    fn check_urls(&self, id: u64, urls: &[String]) -> Result<(), ChangeRefusal> {
        let others = self.0.iter().filter(|member| member.id != MemberId(id));
        let of_others: Vec<&String> = others.flat_map(|member| &member.peer_urls).collect();
        if of_others.iter().any(|url| urls.contains(url)) {
            return Err(ChangeRefusal::UrlExists);
        }
        let all = of_others.into_iter().chain(urls);
        let bytes: usize = all.map(|url| url.len() + limits::URL_BYTES).sum();
        if bytes > limits::MEMBERSHIP_BYTES_MAX { Err(ChangeRefusal::TooManyUrls) } else { Ok(()) }
    }
}

pub(super) fn quorum(members: usize) -> usize {
    let quorum = members / 2 + 1;
    assert!(2 * quorum > members, "any two quorums have a member in common");
    quorum
}

/// Gives new members their votes while this member leads, until the member stops.
pub(crate) async fn promote(node: Node) {
    loop {
        tokio::select! { biased;
            () = node.stopping() => return,
            () = time::sleep(PROMOTE_INTERVAL) => {}
        }
        if node.leadership().is_leader {
            node.promote_voters().await;
        }
    }
}

/// Asks the other members whether they answer, until this member stops: followers send each other nothing
/// else that would show it.
pub(crate) async fn probe(node: Node) {
    let (_, own) = node.ids();
    let patience = node.config().election_timeout;
    loop {
        tokio::select! { biased;
            () = node.stopping() => return,
            () = time::sleep(PROBE_INTERVAL) => {}
        }
        let others: Vec<(u64, Peer)> = {
            let replica = node.shared.replica.read();
            let others = replica.peers().filter(|(id, _)| *id != own.0);
            others.map(|(id, peer)| (id, peer.clone())).collect()
        };
        let probes = others.iter().map(|(id, peer)| node.shared.peers.probe(*id, peer, patience));
        // `Peers` logs a member that does not answer.
        let answers = join_all(probes).await;
        let full = others.iter().zip(answers).filter(|(_, answer)| matches!(answer, Ok(true)));
        node.shared.space.note_peers(full.map(|((id, _), _)| *id).collect());
        node.leave_lead_of_full_disk().await;
    }
}

/// Resolves once this member has applied that it was removed from the cluster. It may also learn
/// that from the others, who do not speak to it any more.
pub(crate) async fn removed(node: &Node) {
    let (_, own) = node.ids();
    // One that joins may have to apply much of the log before it finds itself in there.
    let mut was_member = false;
    loop {
        let is_member = node.shared.replica.read().peers().any(|(id, _)| id == own.0);
        if was_member && !is_member {
            return;
        }
        was_member = is_member;
        time::sleep(REMOVED_INTERVAL).await;
    }
}
