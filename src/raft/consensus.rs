//! The handle to consensus that `node` has: it proposes and reads, changes the membership, answers peers
//! and says who leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use openraft::{
    ChangeMembers, Config, SnapshotPolicy, async_runtime::watch::WatchReceiver, raft::ClientWriteResponse,
    vote::leader_id_std::CommittedLeaderId,
};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::{sync::oneshot, time};

use super::{
    expected_log::ExpectedLog,
    log_store::LogStore,
    network::Network,
    plausible::{self, Implausible},
    retention::Retention,
    runtime,
    snapshot::{Inbox, Outgoing},
    stages::Began,
    state_machine::RaftStateMachine,
    typ::{Batch, Callback, Tag, TypeConfig, WriteResult},
};
use crate::{
    apply::{self, Outcome, Request},
    chance::Chance,
    clock, limits,
    link::{Peer, Peers},
    sync::watch,
};

type Raft = openraft::Raft<TypeConfig, RaftStateMachine>;

/// How long a candidate that was not elected waits before it stands again, in parts of the election
/// timeout.
const STAND_AGAIN: Range<f64> = 0.1..0.35;

/// Consensus could not be started, or has stopped and will not run again in this process.
#[derive(Debug, Error)]
#[error("consensus: {0}")]
pub(crate) struct ConsensusError(String);

/// A proposal that was not accepted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotProposed {
    /// This member does not lead (any more).
    NotLeader,
    /// The entry was in the log and was replaced; it may still be committed through another leader.
    Unknown,
    Stopped,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) heartbeat: Duration,
    pub(crate) election_timeout: Duration,
    pub(crate) pre_vote: bool,
}

/// What a member knows of who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) term: u64,
    pub(crate) leader: Option<u64>,
    pub(crate) is_leader: bool,
    /// Nobody else votes: this member's own log is the quorum.
    pub(crate) is_sole_voter: bool,
    /// This member was asked for as a learner, and has no vote.
    pub(crate) is_learner: bool,
    /// When this member last began to lead. It may not lead any more.
    pub(crate) elected_at: Option<Instant>,
    /// Since when this member has known of no leader. `None` while it knows one.
    pub(crate) leaderless_since: Option<Instant>,
}

/// A change of who belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemberChange {
    /// A node that gets the log and has no vote.
    Add {
        id: u64,
        peer: Peer,
    },
    Remove {
        id: u64,
    },
    /// The node is reached elsewhere, or is to be a voter.
    Update {
        id: u64,
        peer: Peer,
    },
    /// The node gets a vote, and is no learner any more.
    Promote {
        id: u64,
        peer: Peer,
    },
    /// A change that was left half done is finished.
    Settle,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Consensus {
    pub(super) id: u64,
    peers: Arc<Peers>,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) inbox: Arc<Inbox>,
    outgoing: Arc<Outgoing>,
    election_timeout: Duration,
    /// When this member last took a message of a leader. `None` from the start until the first: the
    /// stored vote may name a leader, but of the time before the start.
    pub(super) heard: Arc<Mutex<Option<Instant>>>,
    /// Held while an append is judged, so that appends are judged one after the other.
    pub(super) expected: Arc<tokio::sync::Mutex<ExpectedLog>>,
}

impl Consensus {
    /// Starts openraft on the current runtime, which from then on runs it. A member that has never
    /// been part of a cluster founds one with the `founders`, each of which does the same. Without
    /// founders the member waits until a leader contacts it.
    pub(crate) async fn start(
        peers: Arc<Peers>,
        founders: BTreeMap<u64, Peer>,
        timing: Timing,
        chance: Chance,
        log: LogStore,
        machine: RaftStateMachine,
    ) -> Result<Consensus, ConsensusError> {
        let fail = |error: &dyn std::fmt::Display| ConsensusError(error.to_string());
        runtime::draw_from(chance.clone());
        let id = peers.own();
        let config = openraft_config(timing).validate().map_err(|error| fail(&error))?;
        let outgoing = Arc::new(Outgoing::default());
        let network = Network::new(peers.clone(), outgoing.clone(), timing.election_timeout);
        let inbox = Arc::new(machine.inbox());
        let raft = Raft::new(id, Arc::new(config), network, log.clone(), machine)
            .await
            .map_err(|error| fail(&error))?;
        if !founders.is_empty() && !raft.is_initialized().await.map_err(|error| fail(&error))? {
            raft.initialize(founders).await.map_err(|error| fail(&error))?;
        }
        let heard = Arc::new(Mutex::new(None));
        let election_timeout = timing.election_timeout;
        let expected = Arc::default();
        let consensus =
            Consensus { id, peers, raft, log, inbox, outgoing, election_timeout, heard, expected };
        tokio::spawn(stand_again(consensus.raft.clone(), election_timeout, chance));
        if consensus.leadership().is_sole_voter {
            // A sole voter needs no other vote, so it does not wait for an election timeout.
            consensus.raft.trigger().elect(false).await.map_err(|error| fail(&error))?;
        }
        Ok(consensus)
    }

    /// Hands a batch to the log. `done` runs on the core thread once it has been applied here.
    pub(crate) async fn propose(
        &self,
        commands: Arc<[Request]>,
        began: Began,
        done: impl FnOnce(Result<Vec<Outcome>, NotProposed>) + Send + 'static,
    ) {
        assert!(!commands.is_empty(), "an entry of the log holds a command");
        assert!(began.queued <= began.taken, "a batch is queued before it is taken");
        let callback = Callback::new(move |result: WriteResult| done(outcomes(result)));
        let batch = Batch { commands, tag: None, began: Some(began) };
        // If the core has stopped, it drops the callback, and so `done` never runs.
        let _ = self.raft.client_write_ff(batch, Some(callback)).await;
    }

    /// Hands a batch to the log, if this member is the leader of `term`. Resolves once the batch has been
    /// applied here. Its outcome goes to the member that the tag names, when that member applies the batch.
    pub(crate) async fn propose_tagged(
        &self,
        term: u64,
        commands: Arc<[Request]>,
        tag: (u64, u64),
        began: Option<Began>,
    ) -> Result<(), NotProposed> {
        let (tell, result) = oneshot::channel();
        let callback = Callback::new(move |result: WriteResult| {
            // The receiver is gone if the caller has given up.
            let _ = tell.send(outcomes(result).map(|_| ()));
        });
        let tag = Some(Tag { member: tag.0, serial: tag.1 });
        let write = self.raft.write(Batch { commands, tag, began }).responder(callback);
        write.with_leader(CommittedLeaderId { term }).await.map_err(|_| NotProposed::Stopped)?;
        result.await.unwrap_or(Err(NotProposed::Stopped))
    }

    /// A batch as [`Peers::propose`] takes it.
    pub(crate) fn encode(commands: &[Request]) -> Bytes {
        let mut bytes = Vec::new();
        apply::codec::encode(commands, &mut bytes);
        assert!(bytes.len() <= limits::COMMAND_BYTES_MAX, "a batch of {} bytes cannot travel", bytes.len());
        bytes.into()
    }

    /// Changes who belongs to the cluster; only the leader can. Resolves once the change has been
    /// applied here, with the index that the log had then.
    pub(crate) async fn change(&self, change: MemberChange) -> Result<u64, NotProposed> {
        let changed = match change {
            MemberChange::Add { id, peer } => {
                let nodes = BTreeMap::from([(id, peer)]);
                self.raft.change_membership(ChangeMembers::AddNodes(nodes), true).await
            }
            MemberChange::Update { id, peer } => {
                let nodes = BTreeMap::from([(id, peer)]);
                self.raft.change_membership(ChangeMembers::SetNodes(nodes), true).await
            }
            MemberChange::Promote { id, peer } => {
                assert!(!peer.is_learner, "a member that gets a vote is no learner any more");
                let changes = vec![
                    ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])),
                    ChangeMembers::AddVoterIds(BTreeSet::from([id])),
                ];
                self.raft.change_membership(ChangeMembers::Batch(changes), true).await
            }
            MemberChange::Remove { id } => {
                let is_voter = self.raft.voter_ids().any(|voter| voter == id);
                let ids = BTreeSet::from([id]);
                let change =
                    if is_voter { ChangeMembers::RemoveVoters(ids) } else { ChangeMembers::RemoveNodes(ids) };
                self.raft.change_membership(change, false).await
            }
            MemberChange::Settle => {
                self.raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), true).await
            }
        };
        match changed {
            Ok(response) => Ok(response.log_id.index),
            Err(error) => {
                tracing::warn!(%error, "the membership could not be changed");
                Err(match error.forward_to_leader() {
                    Some(_) => NotProposed::NotLeader,
                    None => NotProposed::Unknown,
                })
            }
        }
    }

    /// Where a member is reached, as far as this member's log goes.
    pub(crate) fn peer(&self, id: u64) -> Option<Peer> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&id).cloned()
    }

    /// Resolves once this member knows of any members, which takes a moment when it has just started.
    pub(crate) async fn knows_members(&self) {
        let mut metrics = self.raft.metrics();
        while metrics.borrow_and_update().membership_config.membership().nodes().next().is_none() {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Who votes, and all members with where they are reached, as far as this member's log goes.
    pub(crate) fn membership(&self) -> (BTreeSet<u64>, BTreeMap<u64, Peer>) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let nodes = membership.nodes().map(|(&id, peer)| (id, peer.clone())).collect();
        (membership.voter_ids().collect(), nodes)
    }

    /// Whether the membership is between an old one and a new one.
    pub(crate) fn is_changing(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_joint_config().len() > 1
    }

    /// How far the log of each other member matches this leader's. Empty if this member does not
    /// lead.
    pub(crate) fn progress(&self) -> BTreeMap<u64, u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.iter().flatten();
        matched.map(|(&id, matched)| (id, matched.as_ref().map_or(0, |matched| matched.index))).collect()
    }

    /// Members that have answered this leader, and how long ago.
    pub(crate) fn heard_of(&self) -> BTreeMap<u64, Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.iter().flatten();
        heard.filter_map(|(&id, at)| Some((id, at.as_ref()?.age()))).collect()
    }

    /// Waits until each of these members has answered this leader. Ends if consensus has stopped, too.
    pub(crate) async fn heard_of_each(&self, ids: &[u64]) {
        let mut metrics = self.raft.metrics();
        loop {
            let is_heard = {
                let metrics = metrics.borrow_and_update();
                let heard: BTreeSet<u64> =
                    metrics.heartbeat.iter().flatten().filter_map(|(&id, at)| at.map(|_| id)).collect();
                ids.iter().all(|id| heard.contains(id))
            };
            if is_heard || metrics.changed().await.is_err() {
                return;
            }
        }
    }

    pub(crate) fn last_log_index(&self) -> u64 {
        self.raft.metrics().borrow_watched().last_log_index.unwrap_or(0)
    }

    /// Judges an index that another member says this member's log has to come to.
    pub(crate) fn judge_index(&self, index: u64) -> Result<(), Implausible> {
        plausible::awaited_index(index, self.last_log_index())
    }

    /// Asks `target` to take over. It has when it leads.
    pub(crate) async fn transfer_leader(&self, target: u64) {
        // If the core has stopped, this member leads no more.
        let _ = self.raft.trigger().transfer_leader(target).await;
    }

    pub(crate) fn leadership(&self) -> Leadership {
        leadership(self.id, &self.raft.metrics().borrow_watched())
    }

    /// Follows leadership, and where the members are, until consensus stops. Returns why.
    pub(crate) async fn follow(&self, publish: watch::Sender<Leadership>) -> ConsensusError {
        let mut metrics = self.raft.metrics();
        let mut known_membership = None;
        loop {
            let is_alone;
            {
                let metrics = metrics.borrow_and_update();
                let membership = &metrics.membership_config;
                if known_membership != Some(*membership.log_id()) {
                    known_membership = Some(*membership.log_id());
                    // Not only once it is committed: it may take the moved member to commit it.
                    let nodes = membership.membership().nodes();
                    self.peers.moved_to(nodes.map(|(&id, peer)| (id, peer.clone())).collect());
                }
                if let Err(fatal) = &metrics.running_state {
                    return ConsensusError(fatal.to_string());
                }
                let mut now = leadership(self.id, &metrics);
                is_alone = now.is_sole_voter;
                let quiet_for = match &metrics.last_quorum_acked {
                    _ if is_alone => Duration::ZERO,
                    Some(acked) if now.is_leader => acked.age(),
                    _ if now.is_leader => Duration::ZERO,
                    _ => self.heard.lock().map_or(Duration::MAX, clock::since),
                };
                if quiet_for > self.election_timeout {
                    // A leader without a quorum leads nobody, and a leader that is not heard is none.
                    now.leader = None;
                    now.is_leader = false;
                }
                publish.send_if_modified(|known| {
                    assert!(known.term <= now.term, "terms do not fall: {} after {}", now.term, known.term);
                    let begins = now.is_leader && !(known.is_leader && known.term == now.term);
                    now.elected_at = if begins { Some(clock::now()) } else { known.elected_at };
                    now.leaderless_since = match now.leader {
                        Some(_) => None,
                        None => known.leaderless_since.or_else(|| Some(clock::now())),
                    };
                    let changed = *known != now;
                    *known = now;
                    changed
                });
            }
            let changed = metrics.changed();
            let changed = if is_alone {
                changed.await
            } else {
                // Nothing wakes this task when a leader falls silent, so it looks now and then.
                time::timeout(self.election_timeout / 4, changed).await.unwrap_or(Ok(()))
            };
            if changed.is_err() {
                return ConsensusError("stopped".to_owned());
            }
        }
    }

    /// Index of the last committed entry, as this member knows it.
    pub(crate) fn committed_index(&self) -> u64 {
        self.raft.metrics().borrow_watched().local_committed.as_ref().map_or(0, |committed| committed.index)
    }

    /// Removes log files whose entries the database holds, up to `durable_index`. For peers that are a
    /// little behind, `keep` entries stay, or as many of them as fit the segments that may be kept. What a
    /// peer will need after the snapshot that it is being sent stays in any case.
    pub(crate) async fn release_log(&self, durable_index: u64, keep: u64) -> Result<(), ConsensusError> {
        let retention = Retention {
            durable_index,
            sealed: &self.log.sealed(),
            is_alone: self.leadership().is_sole_voter,
            keep_entries: keep,
            // A peer that installs a snapshot needs the log behind that snapshot next.
            needed_after: self.outgoing.needed_after(&self.progress()),
        };
        let Some(upto) = retention.released_upto() else { return Ok(()) };
        assert!(
            upto <= durable_index,
            "entries up to {upto} are released, and the database ends at {durable_index}"
        );
        let trigger = self.raft.trigger();
        trigger.snapshot().await.map_err(|error| ConsensusError(error.to_string()))?;
        trigger.purge_log(upto).await.map_err(|error| ConsensusError(error.to_string()))
    }

    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "consensus did not stop cleanly");
        }
    }
}

/// Repeats an election that nobody has won, after a random pause.
///
/// Two members that stand at the same time split the votes, and openraft has both of them wait for another
/// election timeout. An election takes a few messages and a sync; a member that is still a candidate well
/// after that has not won, and nobody else has. So it stands again. It does so once for each term, so that
/// a member that cannot win does not go on at this pace; and it begins with a pre-vote, so that a leader
/// that the others have keeps its term.
async fn stand_again(raft: Raft, election_timeout: Duration, chance: Chance) {
    let mut metrics = raft.server_metrics();
    let mut lost = None;
    loop {
        let standing =
            metrics.wait_until(|now| now.state.is_candidate() && Some(now.vote.leader_id.term) != lost);
        let Ok(standing) = standing.await else { return };
        let term = standing.vote.leader_id.term;
        let pause = chance.part_of(election_timeout, STAND_AGAIN);
        let decided = metrics.wait_until(|now| !now.state.is_candidate() || now.vote.leader_id.term != term);
        match time::timeout(pause, decided).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                lost = Some(term);
                if raft.trigger().elect(true).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// After the last message of the leader, a follower of openraft waits for the longest timeout and then for
/// a random one between the shortest and the longest. Together these are between 1.1 and 1.4 times the
/// election timeout that was configured, so no member stands earlier than one of etcd would.
fn openraft_config(timing: Timing) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let election = millis(timing.election_timeout);
    let (shortest, longest) = (election * 2 / 5, election * 7 / 10);
    Config {
        cluster_name: "retcd".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: shortest,
        election_timeout_max: longest,
        enable_pre_vote: Some(timing.pre_vote),
        // A leader whose messages arrive and that gets no answers sends nothing now and then, so that
        // the others elect another leader. The pause is that long because a follower waits for at most
        // twice the longest timeout, and the election has to end before the old leader sends again.
        quorum_loss_probe_interval: Some(longest * 4),
        // A leader that was restarted must not serve before it was elected again: its state machine may
        // not have applied everything that clients have seen.
        enable_leader_restore: Some(false),
        // The log is removed after checkpoints: see `Consensus::release_log`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX / 2,
        // A peer whose next entry is in the log gets entries and no snapshot, however far behind it is.
        replication_lag_threshold: u64::MAX / 2,
        install_snapshot_timeout: 30 * 60 * 1000,
        ..Config::default()
    }
}

fn leadership(id: u64, metrics: &openraft::RaftMetrics<TypeConfig>) -> Leadership {
    let membership = metrics.membership_config.membership();
    // After a restart the stored vote still names this member, though it has not won again; and a
    // leader that has won has yet to apply what was committed before. It has once it applied an
    // entry of its own term. Until then it must neither be read from nor act for the leases.
    let is_ready = metrics.state.is_leader()
        && metrics.last_applied.is_some_and(|applied| applied.leader_id.term == metrics.current_term);
    let leader = metrics.current_leader.filter(|leader| *leader != id || is_ready);
    Leadership {
        term: metrics.current_term,
        leader,
        is_leader: leader == Some(id),
        is_sole_voter: membership.voter_ids().eq([id]),
        is_learner: membership.get_node(&id).is_some_and(|own| own.is_learner),
        elected_at: None,
        leaderless_since: None,
    }
}

fn outcomes(result: WriteResult) -> Result<Vec<Outcome>, NotProposed> {
    use openraft::errors::ClientWriteError;
    match result {
        Ok(ClientWriteResponse { data, .. }) => Ok(data.0),
        Err(ClientWriteError::ForwardToLeader(_)) => Err(NotProposed::NotLeader),
        Err(_) => Err(NotProposed::Unknown),
    }
}
