//! Putting a member together, and taking it apart again.
//!
//! Order matters in both directions. Up: the directory, the database, the log, consensus, and
//! only then anybody who could ask. Down: first those who ask, then the core, and last the
//! disk thread with one more checkpoint, so that the next start has nothing to replay.

use std::{
    collections::BTreeMap,
    panic,
    sync::{Arc, atomic::AtomicU64},
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
    boot::{self, DataDir, Identity},
    cleanup::Cleanups,
    compactor, core,
    disk_thread::{Checkpointer, DiskThread, Orders},
    forward::Forwarder,
    lane::Lane,
    leader,
    mailbox::Mailbox,
    members,
    patience::Patience,
    peer::ToldRefusals,
    read_index::ReadIndex,
    scrub,
    snapshot::Images,
    waiting,
};
use crate::{
    apply::Command,
    chance::Chance,
    config::{Config, ETCD_CLUSTER_VERSION},
    limits,
    raft::{
        Consensus, Leadership, LeaseClock, LogStore, Parts, Peer, Peers, REMOVED, RaftStateMachine, Replica,
        Tags, Timing, base,
    },
    storage::Database,
    telemetry::{GoDuration, Metrics},
    types::Rev,
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

/// A data directory that has been read. No thread of the member runs yet, and nothing is written:
/// a process that ends now loses nothing.
pub(crate) struct Opened {
    config: Config,
    metrics: Arc<Metrics>,
    data_dir: DataDir,
    replica: Replica,
    log: LogStore,
}

/// A member at work.
pub(crate) struct Running {
    stopping: watch::Sender<bool>,
    /// Ends the core.
    end_core: oneshot::Sender<()>,
    core: JoinHandle<()>,
    orders: Arc<Orders>,
    disk_thread: JoinHandle<()>,
    ready: mpsc::Receiver<Result<Node, StartError>>,
    end: mpsc::Receiver<End>,
    _data_dir: DataDir,
}

/// Opens the data directory, and reads the database and the log.
pub(crate) fn open(config: Config, metrics: Arc<Metrics>) -> Result<Opened, StartError> {
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
    let replica = match data_dir.identity.base {
        Some(_) => replica,
        None => base::mend(&data_dir.database, replica, &log)?,
    };
    if config.force_new_cluster {
        boot::force_new_cluster(&config, data_dir.identity, &replica, &log)?;
    }
    Ok(Opened { config, metrics, data_dir, replica, log })
}

impl Opened {
    /// Starts the member's threads. What the member does by chance comes from `chance`. `serve_peers` runs on the core thread, from before the first
    /// election.
    pub(crate) fn run<F>(
        self,
        chance: Chance,
        serve_peers: impl FnOnce(Node) -> F + Send + 'static,
    ) -> Running
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Opened { config, metrics, data_dir, replica, log } = self;
        let (applied, applied_seen) = watch::channel(replica.applied_index());
        let hub = Arc::new(Mutex::new(WatchHub::new(replica.state.mvcc.rev_current())));
        let (durable, durable_seen) = watch::channel(replica.applied_index());
        let (compacted, compacted_seen) = watch::channel(replica.state.mvcc.rev_compact_finished());
        let replica = Arc::new(RwLock::new(replica));
        let checkpointing = Arc::new(Mutex::new(()));
        let leases = Arc::new(LeaseClock::default());
        let tags = Arc::new(Tags::default());
        let orders = Arc::new(Orders::new());
        let (damage, damage_seen) = watch::channel(0);
        // One message is enough: the first failure ends the process.
        let (fail, end) = mpsc::channel(1);
        let (tell_ready, ready) = mpsc::channel(1);
        let (stopping, stopping_seen) = watch::channel(false);
        let (end_core, core_ends) = oneshot::channel();

        let checkpointer = Checkpointer {
            replica: replica.clone(),
            database: data_dir.database.clone(),
            log: log.clone(),
            checkpointing: checkpointing.clone(),
            metrics: metrics.clone(),
            durable,
            compacted,
        };
        let (stride_keys, pause) = (config.compaction_batch_limit, config.compaction_sleep_interval);
        let disk_thread = DiskThread::new(orders.clone(), checkpointer, stride_keys, pause, damage);
        let disk_thread = spawn("retcd-disk", {
            let fail = fail.clone();
            move || {
                if let Err(error) = disk_thread.run() {
                    let _ = fail.try_send(End::Failed(format!("checkpoint failed: {error}")));
                }
            }
        });
        let parts = Parts {
            replica: replica.clone(),
            database: data_dir.database.clone(),
            checkpointing,
            ask_for_checkpoint: {
                let orders = orders.clone();
                Box::new(move || orders.checkpoint())
            },
            durable: durable_seen.clone(),
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
        let core = Core {
            machine: RaftStateMachine::new(data_dir.identity.member.0, parts),
            identity: data_dir.identity,
            founders: data_dir.founders.clone(),
            database: data_dir.database.clone(),
            config,
            chance,
            metrics,
            log,
            replica,
            hub,
            leases,
            tags,
            orders: orders.clone(),
            applied: applied_seen,
            durable: durable_seen,
            compacted: compacted_seen,
            damage: damage_seen,
            stopping: stopping_seen,
            fail,
            ready: tell_ready,
        };
        let core = spawn("retcd-core", move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime needs nothing but memory and a few descriptors");
            runtime.block_on(core.run(serve_peers, core_ends));
        });
        Running { stopping, end_core, core, orders, disk_thread, ready, end, _data_dir: data_dir }
    }
}

/// The whole way at once, for a member that is alone.
#[cfg(test)]
pub(crate) fn start(config: Config, metrics: Arc<Metrics>) -> (Running, Node) {
    let mut running =
        open(config, metrics).expect("the directory can be opened").run(Chance::from_system(), |_| async {});
    // On a thread of its own, for whoever calls this may be on a runtime already.
    let ready = thread::scope(|scope| scope.spawn(|| running.ready.blocking_recv()).join());
    let node = ready.expect("waiting does not panic").expect("the core runs").expect("the member starts");
    (running, node)
}

/// What the core thread begins with.
struct Core {
    config: Config,
    chance: Chance,
    identity: Identity,
    founders: BTreeMap<u64, Peer>,
    metrics: Arc<Metrics>,
    database: Arc<Database>,
    log: LogStore,
    machine: RaftStateMachine,
    replica: Arc<RwLock<Replica>>,
    hub: Arc<Mutex<WatchHub>>,
    leases: Arc<LeaseClock>,
    tags: Arc<Tags>,
    orders: Arc<Orders>,
    /// Index of the last applied entry.
    applied: watch::Receiver<u64>,
    /// Index of the last entry that the database holds.
    durable: watch::Receiver<u64>,
    /// What was compacted up to here is off the disk.
    compacted: watch::Receiver<Rev>,
    damage: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    fail: mpsc::Sender<End>,
    /// Whether the member can serve, or why it never will. The first message counts.
    ready: mpsc::Sender<Result<Node, StartError>>,
}

impl Core {
    /// Runs the member until `Running` ends it, or is gone.
    async fn run<F>(self, serve_peers: impl FnOnce(Node) -> F, core_ends: oneshot::Receiver<()>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Identity { cluster, member, base } = self.identity;
        let peers = Arc::new(Peers::new(cluster.0, member.0, base, self.metrics.clone()));
        let timing = Timing {
            heartbeat: self.config.heartbeat,
            election_timeout: self.config.election_timeout,
            pre_vote: self.config.pre_vote,
        };
        let consensus = Consensus::start(
            peers.clone(),
            self.founders,
            timing,
            self.chance.clone(),
            self.log,
            self.machine,
        )
        .await;
        let consensus = match consensus {
            Ok(consensus) => consensus,
            Err(error) => {
                let _ = self.ready.try_send(Err(StartError::Refused(error.to_string())));
                return;
            }
        };
        let (publish, leadership) = watch::channel(Leadership::default());
        tokio::spawn(follow(consensus.clone(), publish, self.ready.clone(), self.fail.clone()));

        let (give_up, giving_up) = watch::channel(false);
        let patience = Arc::new(Patience::new(
            self.config.request_timeout(),
            giving_up,
            self.config.election_timeout,
            leadership.clone(),
        ));
        let forwarder = Arc::new(Forwarder {
            consensus: consensus.clone(),
            peers: peers.clone(),
            tags: self.tags,
            leadership: leadership.clone(),
            own: self.identity.member.0,
            next_serial: AtomicU64::new(self.chance.number().max(1)),
            patience: patience.clone(),
        });
        let read_index = ReadIndex {
            consensus: consensus.clone(),
            peers: peers.clone(),
            leadership: leadership.clone(),
            applied: self.applied.clone(),
            metrics: self.metrics.clone(),
            own: self.identity.member.0,
            patience: patience.clone(),
            attempt: self.config.election_timeout,
        };
        let (queue, queue_out) = mpsc::channel(limits::PROPOSAL_QUEUE);
        let (reads, reads_out) = mpsc::channel(limits::READ_QUEUE);
        let keep = self.config.snapshot_catchup_entries;
        let mailbox = Arc::new(Mailbox::default());
        let shared = Shared {
            config: self.config,
            identity: self.identity,
            replica: self.replica,
            hub: self.hub,
            leases: self.leases,
            database: self.database,
            consensus: consensus.clone(),
            leadership: leadership.clone(),
            peers: peers.clone(),
            patience,
            queue,
            reads,
            orders: self.orders,
            durable: self.durable.clone(),
            compacted: self.compacted,
            hashes: Lane::new(limits::HASHES_WAITING),
            images: Images::new(),
            metrics: self.metrics,
            changing: tokio::sync::Mutex::default(),
            lease_notes: tokio::sync::Mutex::default(),
            cleanups: Cleanups::new(mailbox.clone()),
            applied: self.applied,
            next_lease_id: AtomicU64::new(self.chance.number()),
            stopping: self.stopping,
            told_refusals: ToldRefusals::default(),
        };
        let node = Node { shared: Arc::new(shared), mailbox };

        tokio::spawn(node.mailbox.clone().hand_out());
        tokio::spawn(leader::run(node.clone(), leadership));
        tokio::spawn(compactor::run(node.clone()));
        tokio::spawn(release_log(consensus.clone(), keep, self.durable));
        tokio::spawn(scrub::report(node.clone(), self.damage));
        tokio::spawn(core::gather(queue_out, forwarder));
        tokio::spawn(read_index.run(reads_out));
        tokio::spawn(serve_peers(node.clone()));
        tokio::spawn(members::promote(node.clone()));
        tokio::spawn(members::probe(node.clone()));
        tokio::spawn(waiting::report(node.clone()));
        tokio::spawn(end_when_removed(node.clone(), peers, give_up, self.ready.clone(), self.fail));
        tokio::spawn(publish_and_tell(node.clone(), self.ready));
        if core_ends.await.is_ok() {
            node.cleaned_up().await;
            node.step_aside().await;
        }
        consensus.stop().await;
    }
}

impl Running {
    /// Resolves once this member knows its leader and can serve, or never will.
    pub(crate) async fn ready(&mut self) -> Result<Node, StartError> {
        let ended = || Err(StartError::Refused("the core thread ended while starting".to_owned()));
        self.ready.recv().await.unwrap_or_else(ended)
    }

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
        let _ = self.end_core.send(());
        join(self.core);
        self.orders.stop();
        join(self.disk_thread);
    }
}

/// Follows who leads until consensus ends, which ends the member.
async fn follow(
    consensus: Consensus,
    publish: watch::Sender<Leadership>,
    ready: mpsc::Sender<Result<Node, StartError>>,
    fail: mpsc::Sender<End>,
) {
    let error = consensus.follow(publish).await;
    // Whichever of the two is waited for.
    let _ = ready.try_send(Err(StartError::Refused(error.to_string())));
    let _ = fail.try_send(End::Failed(error.to_string()));
}

/// Ends the member when it is removed from the cluster; when it is asked to stop, ends what still
/// waits for a quorum.
async fn end_when_removed(
    node: Node,
    peers: Arc<Peers>,
    give_up: watch::Sender<bool>,
    ready: mpsc::Sender<Result<Node, StartError>>,
    fail: mpsc::Sender<End>,
) {
    let is_removed = tokio::select! { biased;
        () = peers.removed() => true,
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
    let _ = ready.try_send(Err(StartError::Refused(REMOVED.to_owned())));
    time::sleep(members::LAST_BREATH).await;
    let _ = fail.try_send(End::Removed);
}

/// The last step of the start.
async fn publish_and_tell(node: Node, ready: mpsc::Sender<Result<Node, StartError>>) {
    node.publish().await;
    let _ = ready.try_send(Ok(node));
}

impl Node {
    /// Tells the cluster this member's name and client URLs, unless it knows them.
    async fn publish(&self) {
        let mut leadership = self.shared.leadership.clone();
        // Without a leader there is nobody to tell; a closed channel means the end is near.
        let _ = leadership.wait_for(|leadership| leadership.leader.is_some()).await;
        let config = self.config();
        let (cluster, id) = self.ids();
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
            match self.propose_own(command.clone()).await {
                Ok(_) => published = true,
                Err(ProposeError::Stopped) => return,
                Err(error) => {
                    tracing::warn!(%error, "failed to publish this member; will retry");
                    time::sleep(limits::PUBLISH_RETRY_PAUSE).await;
                }
            }
        }
        tracing::info!(
            "local-member-id" = %id,
            "local-member-attributes" =
                format!("{{Name:{} ClientURLs:[{}]}}", config.name, config.advertise_client_urls.join(" ")),
            "cluster-id" = %cluster,
            "publish-timeout" = %GoDuration(config.request_timeout()),
            "published local member to cluster through raft"
        );
        // Old scripts and test suites wait for this line. Every member has the same version of the API
        // from the beginning, so there is nothing to enable.
        let (version, _patch) = ETCD_CLUSTER_VERSION.rsplit_once('.').unwrap_or((ETCD_CLUSTER_VERSION, ""));
        tracing::info!("cluster-version" = version, "enabled capabilities for version");
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
