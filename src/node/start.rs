//! Putting a member together, and taking it apart again.
//!
//! Order matters in both directions. Up: the directory, the database, the log, consensus, and
//! only then anybody who could ask. Down: first those who ask, then the core, and last the
//! background thread with one more checkpoint, so that the next start has nothing to replay.

use std::{
    panic,
    sync::{Arc, atomic::AtomicU64, mpsc as std_mpsc},
    thread::{self, JoinHandle},
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
};

use super::{
    Node, Shared, StartError,
    background::{Background, Request},
    boot::{self, DataDir},
    compactor, core, leader,
    mailbox::Mailbox,
    random_u64,
};
use crate::{
    apply::{Alarm, AlarmKind, Command},
    config::Config,
    limits,
    raft::{Consensus, Leadership, LeaseClock, LogStore, RaftStateMachine, Replica, Timing},
    telemetry::Metrics,
    watch::WatchHub,
};

/// A member at work.
pub(crate) struct Running {
    pub(crate) node: Node,
    stopping: watch::Sender<bool>,
    /// Dropped to end the core.
    end_core: oneshot::Sender<()>,
    core: JoinHandle<()>,
    background: JoinHandle<()>,
    failure: mpsc::Receiver<String>,
    _data_dir: DataDir,
}

/// Opens the data directory and starts the member's threads. Returns when this member knows its
/// leader and can serve.
pub(crate) fn start(config: Config, metrics: Arc<Metrics>) -> Result<Running, StartError> {
    let data_dir = boot::open(&config)?;
    let replica = Replica::open(data_dir.database.clone())?;
    let log_has_begun = boot::log_has_begun(&data_dir.database)?;
    let log = LogStore::open(&data_dir.wal_dir, log_has_begun, replica.applied(), metrics.clone())?;
    if !log_has_begun {
        boot::note_log_begun(&data_dir.database)?;
    }
    let hub = Arc::new(Mutex::new(WatchHub::new(replica.state.mvcc.rev_current())));
    let replica = Arc::new(RwLock::new(replica));
    let leases = Arc::new(LeaseClock::default());
    let machine = RaftStateMachine::new(
        replica.clone(),
        hub.clone(),
        leases.clone(),
        metrics.clone(),
        config.warning_apply_duration,
    );

    // One message is enough: the first failure ends the process.
    let (fail, failure) = mpsc::channel(1);
    let (stopping, stopping_seen) = watch::channel(false);
    let (durable, durable_seen) = watch::channel(0);
    let (damage, damage_seen) = watch::channel(false);
    let (requests, requests_in) = std_mpsc::channel();
    let background = Background {
        replica: replica.clone(),
        database: data_dir.database.clone(),
        metrics: metrics.clone(),
        requests: requests_in,
        durable,
        compaction_stride_keys: config.compaction_batch_limit,
        compaction_pause: config.compaction_sleep_interval,
        damage,
    };
    let background = spawn("retcd-disk", {
        let fail = fail.clone();
        move || {
            if let Err(error) = background.run() {
                let _ = fail.try_send(format!("checkpoint failed: {error}"));
            }
        }
    });

    let (queue, queue_out) = mpsc::channel(limits::PROPOSAL_QUEUE);
    let (started, starting) = std_mpsc::channel();
    let (end_core, core_ends) = oneshot::channel();
    let identity = data_dir.identity;
    let database = data_dir.database.clone();
    let core = spawn("retcd-core", move || {
        let runtime = runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime needs nothing but memory and one descriptor");
        runtime.block_on(async move {
            let timing = Timing {
                heartbeat: config.heartbeat,
                election_timeout: config.election_timeout,
                pre_vote: config.pre_vote,
            };
            let peer_urls = config.initial_advertise_peer_urls.clone();
            let consensus = Consensus::start(identity.member.0, peer_urls, timing, log, machine).await;
            let consensus = match consensus {
                Ok(consensus) => consensus,
                Err(error) => {
                    let _ = started.send(Err(StartError::Refused(error.to_string())));
                    return;
                }
            };
            let (publish, leadership) = watch::channel(Leadership::default());
            tokio::spawn({
                let consensus = consensus.clone();
                async move {
                    let error = consensus.follow(publish).await;
                    let _ = fail.try_send(error.to_string());
                }
            });
            let shared = Shared {
                config,
                identity,
                replica,
                hub,
                leases,
                database,
                consensus: consensus.clone(),
                leadership: leadership.clone(),
                queue,
                background: requests,
                metrics,
                next_lease_id: AtomicU64::new(random_u64()),
                stopping: stopping_seen,
            };
            let node = Node { shared: Arc::new(shared), mailbox: Arc::new(Mailbox::default()) };
            tokio::spawn(node.mailbox.clone().hand_out());
            tokio::spawn(leader::run(node.clone(), leadership));
            tokio::spawn(compactor::run(node.clone()));
            tokio::spawn(release_log(consensus.clone(), durable_seen));
            tokio::spawn(report_damage(node.clone(), damage_seen));
            tokio::spawn(core::gather(queue_out, consensus.clone()));
            tokio::spawn(async move {
                node.publish().await;
                let _ = started.send(Ok(node));
            });
            // Ends when `Running` says so, or is gone.
            let _ = core_ends.await;
            consensus.stop().await;
        });
    });

    let node = match starting.recv() {
        Ok(node) => node?,
        Err(_) => return Err(StartError::Refused("the core thread ended while starting".to_owned())),
    };
    Ok(Running { node, stopping, end_core, core, background, failure, _data_dir: data_dir })
}

impl Running {
    /// Tells everybody who waits on [`Node::stopping`].
    pub(crate) fn announce_stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Resolves if the member cannot go on.
    pub(crate) async fn failed(&mut self) -> String {
        match self.failure.recv().await {
            Some(reason) => reason,
            None => "the member's threads ended".to_owned(),
        }
    }

    /// Ends the member: everything applied is in the database afterwards.
    pub(crate) fn stop(self) {
        self.announce_stop();
        drop(self.end_core);
        join(self.core);
        let _ = self.node.shared.background.send(Request::Stop);
        join(self.background);
    }
}

impl Node {
    /// Tells the cluster this member's name and client URLs, unless it knows them.
    async fn publish(&self) {
        let mut leadership = self.shared.leadership.clone();
        // Without a leader there is nobody to tell; a closed channel means the end is near.
        let _ = leadership.wait_for(|leadership| leadership.leader.is_some()).await;
        let config = self.config();
        let (_, id) = self.ids();
        let known = self.members().iter().any(|member| {
            member.id == id
                && member.name == config.name
                && member.client_urls == config.advertise_client_urls
        });
        if !known {
            let command = Command::MemberPublish {
                id,
                name: config.name.clone(),
                client_urls: config.advertise_client_urls.clone(),
            };
            if let Err(error) = self.propose(command).await {
                tracing::warn!(%error, "failed to publish this member; clients may see it as unstarted");
                return;
            }
        }
        tracing::info!(
            local_member_id = %id,
            name = config.name,
            "published local member to cluster through raft"
        );
    }
}

/// Tells the cluster that this member's disk is not what it was.
async fn report_damage(node: Node, mut damage: watch::Receiver<bool>) {
    if damage.wait_for(|found| *found).await.is_ok() {
        let alarm = Alarm { member: node.ids().1, kind: AlarmKind::Corrupt };
        if let Err(error) = node.propose(Command::AlarmActivate(alarm)).await {
            tracing::error!(%error, "could not raise the CORRUPT alarm");
        }
    }
}

/// Lets go of the log behind the checkpoints.
async fn release_log(consensus: Consensus, mut durable: watch::Receiver<u64>) {
    while durable.changed().await.is_ok() {
        let index = *durable.borrow_and_update();
        if let Err(error) = consensus.release_log(index, limits::LOG_ENTRIES_KEPT).await {
            tracing::warn!(%error, "could not release the log; will retry after the next checkpoint");
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).expect("the system can start a thread")
}

fn join(thread: JoinHandle<()>) {
    if let Err(panic) = thread.join() {
        panic::resume_unwind(panic);
    }
}
