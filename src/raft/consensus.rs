//! The handle that leaves this room.

use std::{sync::Arc, time::Duration};

use openraft::{Config, SnapshotPolicy, async_runtime::watch::WatchReceiver, raft::ClientWriteResponse};
use thiserror::Error;
use tokio::sync::watch;

use super::{
    log_store::LogStore,
    network::Network,
    state_machine::RaftStateMachine,
    typ::{Batch, Callback, Peer, Raft, TypeConfig, WriteResult, single_voter},
};
use crate::apply::{Command, Outcome};

/// Consensus could not be started, or has stopped for good.
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
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Consensus {
    id: u64,
    raft: Raft,
    log: LogStore,
}

impl Consensus {
    /// Starts openraft on the current runtime, which from then on runs it. A member that has never
    /// been part of a cluster founds one of itself.
    pub(crate) async fn start(
        id: u64,
        peer_urls: Vec<String>,
        timing: Timing,
        log: LogStore,
        machine: RaftStateMachine,
    ) -> Result<Consensus, ConsensusError> {
        let fail = |error: &dyn std::fmt::Display| ConsensusError(error.to_string());
        let config = openraft_config(timing).validate().map_err(|error| fail(&error))?;
        let raft = Raft::new(id, Arc::new(config), Network, log.clone(), machine)
            .await
            .map_err(|error| fail(&error))?;
        if !raft.is_initialized().await.map_err(|error| fail(&error))? {
            raft.initialize(single_voter(id, Peer { peer_urls })).await.map_err(|error| fail(&error))?;
        }
        let consensus = Consensus { id, raft, log };
        if consensus.leadership().is_sole_voter {
            // Nobody can object, so there is no reason to sit out an election timeout.
            consensus.raft.trigger().elect(false).await.map_err(|error| fail(&error))?;
        }
        Ok(consensus)
    }

    /// Hands a batch to the log. `done` runs on the core thread once it has been applied here.
    pub(crate) async fn propose(
        &self,
        commands: Arc<[Command]>,
        done: impl FnOnce(Result<Vec<Outcome>, NotProposed>) + Send + 'static,
    ) {
        let callback = Callback::new(move |result: WriteResult| done(outcomes(result)));
        // If the core has stopped it drops the callback, and with it whoever waits.
        let _ = self.raft.client_write_ff(Batch(commands), Some(callback)).await;
    }

    pub(crate) fn leadership(&self) -> Leadership {
        leadership(self.id, &self.raft.metrics().borrow_watched())
    }

    /// Follows leadership until consensus stops; `gone` learns why.
    pub(crate) async fn follow(&self, publish: watch::Sender<Leadership>) -> ConsensusError {
        let mut metrics = self.raft.metrics();
        loop {
            {
                let metrics = metrics.borrow_and_update();
                if let Err(fatal) = &metrics.running_state {
                    return ConsensusError(fatal.to_string());
                }
                let now = leadership(self.id, &metrics);
                publish.send_if_modified(|known| {
                    let changed = *known != now;
                    *known = now;
                    changed
                });
            }
            if metrics.changed().await.is_err() {
                return ConsensusError("stopped".to_owned());
            }
        }
    }

    /// Index of the last committed entry, as this member knows it.
    pub(crate) fn committed_index(&self) -> u64 {
        self.raft.metrics().borrow_watched().local_committed.as_ref().map_or(0, |committed| committed.index)
    }

    /// Lets go of log files whose entries the database holds up to `durable_index`, keeping
    /// `keep` entries for peers that are a little behind.
    pub(crate) async fn release_log(&self, durable_index: u64, keep: u64) -> Result<(), ConsensusError> {
        if self.log.sealed_segments() == 0 {
            return Ok(());
        }
        let trigger = self.raft.trigger();
        trigger.snapshot().await.map_err(|error| ConsensusError(error.to_string()))?;
        trigger
            .purge_log(durable_index.saturating_sub(keep))
            .await
            .map_err(|error| ConsensusError(error.to_string()))
    }

    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "consensus did not stop cleanly");
        }
    }
}

fn openraft_config(timing: Timing) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "retcd".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_timeout),
        election_timeout_max: millis(timing.election_timeout) * 2,
        enable_pre_vote: Some(timing.pre_vote),
        // A restarted leader must not serve before it has won again: its state machine may be
        // behind what clients have seen.
        enable_leader_restore: Some(false),
        // The checkpointer decides when the log may go.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
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
