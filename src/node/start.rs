//! Putting a member together, and taking it apart again.
//!
//! Order matters in both directions. Up: the directory, the database, the log, consensus, and
//! only then anybody who could ask. Down: first those who ask, then the core, and last the
//! background thread with one more checkpoint, so that the next start has nothing to replay.

use std::{
    panic,
    sync::{Arc, atomic::AtomicU64, mpsc as std_mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
    time,
};

use super::{
    Node, ProposeError, Shared, StartError,
    background::{Background, Request},
    boot::{self, DataDir},
    compactor, core,
    forward::Forwarder,
    leader,
    mailbox::Mailbox,
    members,
    patience::Patience,
    random_u64,
    read_index::ReadIndex,
};
use crate::{
    apply::{Alarm, AlarmKind, Command},
    config::Config,
    limits,
    raft::{
        Consensus, Leadership, LeaseClock, LogStore, Parts, Peers, REMOVED, RaftStateMachine, Replica, Tags,
        Timing,
    },
    telemetry::Metrics,
    watch::WatchHub,
};

/// Why a member ends that was not asked to.
#[derive(Debug)]
pub(crate) enum End {
    /// It does not belong to the cluster any more.
    Removed,
    /// It cannot go on. The text is for a person.
    Failed(String),
}

/// How long what is under way may take when the member is asked to end. Clients are told before
/// their connections are cut.
const GIVE_UP: Duration = limits::DRAIN_TIMEOUT.saturating_sub(Duration::from_millis(100));

/// A member at work.
pub(crate) struct Running {
    pub(crate) node: Node,
    stopping: watch::Sender<bool>,
    /// Ends the core.
    end_core: oneshot::Sender<Node>,
    core: JoinHandle<()>,
    background: JoinHandle<()>,
    end: mpsc::Receiver<End>,
    _data_dir: DataDir,
}

/// Opens the data directory and starts the member's threads. Returns when this member knows its
/// leader and can serve. `serve_peers` runs on the core thread, from before the first election.
pub(crate) fn start<F>(
    config: Config,
    metrics: Arc<Metrics>,
    serve_peers: impl FnOnce(Node) -> F + Send + 'static,
) -> Result<Running, StartError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let data_dir = boot::open(&config)?;
    let replica = Replica::open(data_dir.database.clone())?;
    let members = replica.membership().nodes().count().max(data_dir.founders.len());
    let log_has_begun = boot::log_has_begun(&data_dir.database)?;
    let log = LogStore::open(
        &data_dir.wal_dir,
        log_has_begun,
        replica.applied(),
        replica.installed(),
        members,
        metrics.clone(),
    )?;
    if !log_has_begun {
        boot::note_log_begun(&data_dir.database)?;
    }
    if config.force_new_cluster {
        boot::force_new_cluster(&config, data_dir.identity, &replica, &log)?;
    }
    let (applied, applied_seen) = watch::channel(replica.applied_index());
    let checkpointing = Arc::new(Mutex::new(()));
    let tags = Arc::new(Tags::default());
    let hub = Arc::new(Mutex::new(WatchHub::new(replica.state.mvcc.rev_current())));
    let replica = Arc::new(RwLock::new(replica));
    let leases = Arc::new(LeaseClock::default());
    let identity = data_dir.identity;
    let (requests, requests_in) = std_mpsc::sync_channel(limits::DISK_QUEUE);
    let parts = Parts {
        replica: replica.clone(),
        database: data_dir.database.clone(),
        checkpointing: checkpointing.clone(),
        ask_for_checkpoint: {
            let requests = requests.clone();
            // If the queue is full, the answer is dropped, and that is an answer.
            Box::new(move |answer| drop(requests.try_send(Request::Checkpoint(answer))))
        },
        hub: hub.clone(),
        leases: leases.clone(),
        tags: tags.clone(),
        applied,
        own_cells: data_dir.own_cells.clone(),
        metrics: metrics.clone(),
        slow_syncs: log.slow_syncs(),
        warning_apply_duration: config.warning_apply_duration,
        warning_write_duration: config.warning_unary_request_duration,
    };
    let machine = RaftStateMachine::new(identity.member.0, parts);
    let peers = Arc::new(Peers::new(identity.cluster.0, identity.member.0, metrics.clone()));

    // One message is enough: the first failure ends the process.
    let (fail, end) = mpsc::channel(1);
    let (stopping, stopping_seen) = watch::channel(false);
    let (durable, durable_seen) = watch::channel(0);
    let (damage, damage_seen) = watch::channel(false);
    let background = Background {
        replica: replica.clone(),
        database: data_dir.database.clone(),
        log: log.clone(),
        checkpointing,
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
                let _ = fail.try_send(End::Failed(format!("checkpoint failed: {error}")));
            }
        }
    });

    let (queue, queue_out) = mpsc::channel(limits::PROPOSAL_QUEUE);
    let (reads, reads_out) = mpsc::channel(limits::READ_QUEUE);
    let (started, starting) = std_mpsc::channel();
    let (end_core, core_ends) = oneshot::channel();
    let database = data_dir.database.clone();
    let founders = data_dir.founders.clone();
    let core = spawn("retcd-core", move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime needs nothing but memory and a few descriptors");
        runtime.block_on(async move {
            let timing = Timing {
                heartbeat: config.heartbeat,
                election_timeout: config.election_timeout,
                pre_vote: config.pre_vote,
            };
            let consensus = Consensus::start(peers.clone(), founders, timing, log, machine).await;
            let consensus = match consensus {
                Ok(consensus) => consensus,
                Err(error) => {
                    let _ = started.send(Err(StartError::Refused(error.to_string())));
                    return;
                }
            };
            let (publish, leadership) = watch::channel(Leadership::default());
            tokio::spawn({
                let (consensus, fail, started) = (consensus.clone(), fail.clone(), started.clone());
                async move {
                    let error = consensus.follow(publish).await;
                    let _ = started.send(Err(StartError::Refused(error.to_string())));
                    let _ = fail.try_send(End::Failed(error.to_string()));
                }
            });
            let told_removed = {
                let peers = peers.clone();
                async move { peers.removed().await }
            };
            let (give_up, giving_up) = watch::channel(false);
            let patience = Arc::new(Patience::new(
                config.request_timeout(),
                config.election_timeout,
                leadership.clone(),
            ));
            let keep = config.snapshot_catchup_entries;
            let forwarder = Arc::new(Forwarder {
                consensus: consensus.clone(),
                peers: peers.clone(),
                tags,
                leadership: leadership.clone(),
                own: identity.member.0,
                next_serial: AtomicU64::new(random_u64().max(1)),
                patience: patience.clone(),
                giving_up: giving_up.clone(),
            });
            let read_index = ReadIndex {
                consensus: consensus.clone(),
                peers: peers.clone(),
                leadership: leadership.clone(),
                applied: applied_seen.clone(),
                metrics: metrics.clone(),
                own: identity.member.0,
                patience: patience.limit,
                attempt: config.election_timeout,
                giving_up,
            };
            let shared = Shared {
                config,
                identity,
                replica,
                hub,
                leases,
                database,
                consensus: consensus.clone(),
                leadership: leadership.clone(),
                peers,
                patience,
                queue,
                reads,
                background: requests,
                metrics,
                changing: tokio::sync::Mutex::default(),
                lease_notes: tokio::sync::Mutex::default(),
                applied: applied_seen.clone(),
                next_lease_id: AtomicU64::new(random_u64()),
                stopping: stopping_seen,
            };
            let node = Node { shared: Arc::new(shared), mailbox: Arc::new(Mailbox::default()) };
            tokio::spawn(node.mailbox.clone().hand_out());
            tokio::spawn(leader::run(node.clone(), leadership));
            tokio::spawn(compactor::run(node.clone()));
            tokio::spawn(release_log(consensus.clone(), keep, durable_seen));
            tokio::spawn(report_damage(node.clone(), damage_seen));
            tokio::spawn(core::gather(queue_out, forwarder));
            tokio::spawn(read_index.run(reads_out));
            tokio::spawn(serve_peers(node.clone()));
            tokio::spawn(members::promote(node.clone()));
            tokio::spawn(members::probe(node.clone()));
            tokio::spawn({
                let (node, started) = (node.clone(), started.clone());
                async move {
                    let is_removed = tokio::select! { biased;
                        () = told_removed => true,
                        () = members::removed(&node) => true,
                        () = node.stopping() => false,
                    };
                    if !is_removed {
                        time::sleep(GIVE_UP).await;
                        give_up.send_replace(true);
                        return;
                    }
                    give_up.send_replace(true);
                    // Whichever of the two is waited for.
                    let _ = started.send(Err(StartError::Refused(REMOVED.to_owned())));
                    time::sleep(members::LAST_BREATH).await;
                    let _ = fail.try_send(End::Removed);
                }
            });
            tokio::spawn(async move {
                node.publish().await;
                let _ = started.send(Ok(node));
            });
            // Ends when `Running` says so, or is gone.
            if let Ok(node) = core_ends.await {
                let node: Node = node;
                node.step_aside().await;
            }
            consensus.stop().await;
        });
    });

    let node = match starting.recv() {
        Ok(node) => node?,
        Err(_) => return Err(StartError::Refused("the core thread ended while starting".to_owned())),
    };
    Ok(Running { node, stopping, end_core, core, background, end, _data_dir: data_dir })
}

impl Running {
    /// Tells everybody who waits on [`Node::stopping`].
    pub(crate) fn announce_stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Resolves if the member cannot go on, or is not to.
    pub(crate) async fn ended(&mut self) -> End {
        match self.end.recv().await {
            Some(end) => end,
            None => End::Failed("the member's threads ended".to_owned()),
        }
    }

    /// Ends the member: everything applied is in the database afterwards.
    pub(crate) fn stop(self) {
        self.announce_stop();
        // If the core has ended by itself there is nobody to tell.
        let _ = self.end_core.send(self.node.clone());
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
        let command = Command::MemberPublish {
            id,
            name: config.name.clone(),
            client_urls: config.advertise_client_urls.clone(),
        };
        let mut published = known;
        while !published {
            match self.propose(command.clone()).await {
                Ok(_) => published = true,
                Err(ProposeError::Stopped) => return,
                Err(error) => tracing::warn!(%error, "failed to publish this member; will retry"),
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
async fn release_log(consensus: Consensus, keep: u64, mut durable: watch::Receiver<u64>) {
    while durable.changed().await.is_ok() {
        let index = *durable.borrow_and_update();
        if let Err(error) = consensus.release_log(index, keep).await {
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
