//! From an opened data directory to a [`Node`]: what the threads of a member share, and how the core
//! thread becomes a member of its cluster.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time,
};

use super::{
    Node, ProposeError, Shared, StartError,
    answer_memory::AnswerMemory,
    backup,
    boot::{DataDir, Identity},
    cleanup::Cleanups,
    compactor, contacts,
    core::{self, Proposal},
    disk_thread::{Checkpointer, Orders},
    divergence,
    end::End,
    forward::Forwarder,
    health::LastHealth,
    lane::Lane,
    leader,
    long_answer::LongAnswers,
    mailbox::{Confirmed, Mailbox, Ticket},
    members,
    outside::Outside,
    passwords::Passwords,
    patience::Patience,
    peer::{AskingBack, ToldRefusals},
    read_index::ReadIndex,
    sampler, scrub,
    snapshot::Images,
    space::Space,
    v2::wall_nanos,
    waiting,
    walk::Turns,
    watchdog,
};
use crate::{
    apply::Command,
    chance::Chance,
    config::{Config, ETCD_CLUSTER_VERSION},
    limits,
    link::{Connector, Peer, Peers, REMOVED},
    raft::{
        Consensus, Leadership, LeaseClock, LogStore, Logins, Parts, RaftStateMachine, Replica, ReplicaLock,
        Tags, Timing, Tokens,
    },
    sockets::Io,
    storage::{Database, Reserve},
    sync::watch,
    telemetry::{GoDuration, Metrics},
    types::Rev,
    v2::Hub as V2Hub,
    watch::WatchHub,
};

/// How long what is under way may take when the member is asked to end. Clients are told before
/// their connections are cut.
const GIVE_UP: Duration = limits::DRAIN_TIMEOUT.saturating_sub(Duration::from_millis(100));

/// What the disk thread and the core thread share.
pub(super) struct State {
    replica: Arc<ReplicaLock>,
    database: Arc<Database>,
    log: LogStore,
    checkpointing: Arc<Mutex<()>>,
    entry: Arc<tokio::sync::Mutex<()>>,
    pub(super) orders: Arc<Orders>,
    hub: Arc<Mutex<WatchHub>>,
    v2_hub: Arc<Mutex<V2Hub>>,
    space: Arc<Space>,
    metrics: Arc<Metrics>,
}

impl State {
    pub(super) fn new(
        replica: Replica,
        database: Arc<Database>,
        metrics: Arc<Metrics>,
        log: LogStore,
    ) -> State {
        State {
            hub: Arc::new(Mutex::new(WatchHub::new(replica.state.mvcc.rev_current()))),
            v2_hub: Arc::new(Mutex::new(V2Hub::new(replica.state.v2.tree().index))),
            replica: Arc::new(ReplicaLock::new(replica)),
            database,
            log,
            checkpointing: Arc::default(),
            entry: Arc::default(),
            orders: Arc::new(Orders::new()),
            space: Arc::default(),
            metrics,
        }
    }

    pub(super) fn checkpointer(
        &self,
        durable: watch::Sender<u64>,
        compacted: watch::Sender<Rev>,
    ) -> Checkpointer {
        Checkpointer {
            replica: self.replica.clone(),
            database: self.database.clone(),
            log: self.log.clone(),
            checkpointing: self.checkpointing.clone(),
            entry: self.entry.clone(),
            metrics: self.metrics.clone(),
            durable,
            compacted,
            reserve: Reserve::on(self.database.disk().clone()),
            held_back: None,
            space: self.space.clone(),
        }
    }
}

/// How far the member is, for those who move a mark.
pub(super) struct Marks {
    /// Index of the last applied entry.
    pub(super) applied: watch::Sender<u64>,
    /// Index of the last entry that the database holds.
    pub(super) durable: watch::Sender<u64>,
    /// What was compacted up to here is off the disk.
    pub(super) compacted: watch::Sender<Rev>,
    /// How often damage was found.
    pub(super) damage: watch::Sender<u64>,
}

/// The same, for those who wait for a mark.
pub(super) struct MarksSeen {
    applied: watch::Receiver<u64>,
    durable: watch::Receiver<u64>,
    compacted: watch::Receiver<Rev>,
    damage: watch::Receiver<u64>,
}

/// The marks of a replica that has just been opened: the database holds all of it.
pub(super) fn marks(replica: &Replica) -> (Marks, MarksSeen) {
    let (applied, applied_seen) = watch::channel(replica.applied_index());
    let (durable, durable_seen) = watch::channel(replica.applied_index());
    let (compacted, compacted_seen) = watch::channel(replica.state.mvcc.rev_compact_finished());
    let (damage, damage_seen) = watch::channel(0);
    (
        Marks { applied, durable, compacted, damage },
        MarksSeen {
            applied: applied_seen,
            durable: durable_seen,
            compacted: compacted_seen,
            damage: damage_seen,
        },
    )
}

/// What the core thread hears from and tells the one that runs the member.
pub(super) struct Signals {
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) fail: mpsc::Sender<End>,
    /// Whether the member can serve, or why it never will. The first message counts.
    pub(super) ready: mpsc::Sender<Result<Node, StartError>>,
}

/// What the core thread begins with.
pub(super) struct Core {
    config: Config,
    connector: Arc<dyn Connector>,
    chance: Chance,
    identity: Identity,
    founders: BTreeMap<u64, Peer>,
    own_cells: Vec<(Bytes, Option<Bytes>)>,
    state: State,
    /// Moved by the state machine.
    applied: watch::Sender<u64>,
    marks: MarksSeen,
    leases: Arc<LeaseClock>,
    logins: Arc<Logins>,
    tags: Arc<Tags>,
    signals: Signals,
}

/// Consensus at work, and what it takes to ask it.
#[derive(Clone)]
struct Joined {
    consensus: Consensus,
    peers: Arc<Peers>,
    leadership: watch::Receiver<Leadership>,
    patience: Arc<Patience>,
}

/// The other ends of a node's queues: of two that the core thread takes from, and of one that it fills.
struct Queues {
    proposals: mpsc::Receiver<Proposal>,
    reads: mpsc::Receiver<Ticket<Confirmed>>,
    tunnels: mpsc::Sender<Io>,
}

impl Core {
    /// With the mark that it moves, and those that it sees.
    pub(super) fn new(
        config: Config,
        outside: Outside,
        data_dir: &DataDir,
        state: State,
        tokens: Tokens,
        (applied, marks): (watch::Sender<u64>, MarksSeen),
        signals: Signals,
    ) -> Core {
        let logins = {
            let auth = &state.replica.read().state.auth;
            Logins::new(auth, tokens)
        };
        Core {
            logins: Arc::new(logins),
            config,
            connector: outside.connector,
            chance: outside.chance,
            identity: data_dir.identity,
            founders: data_dir.founders.clone(),
            own_cells: data_dir.own_cells.clone(),
            state,
            applied,
            marks,
            leases: Arc::default(),
            tags: Arc::default(),
            signals,
        }
    }

    /// Runs the member until `Running` ends it, or is gone.
    pub(super) async fn run<F>(self, serve_peers: impl FnOnce(Node) -> F, core_ends: oneshot::Receiver<()>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (give_up, giving_up) = watch::channel(false);
        let Some(joined) = self.start_consensus(giving_up).await else { return };
        let (node, queues) = self.node(&joined);
        tokio::spawn(serve_peers(node.clone()));
        self.spawn_tasks(&node, &joined, queues, give_up);
        if core_ends.await.is_ok() {
            node.cleaned_up().await;
            node.step_aside().await;
        }
        joined.consensus.stop().await;
    }

    /// Starts openraft, and follows who leads. `None` if that failed and those who wait know it.
    async fn start_consensus(&self, giving_up: watch::Receiver<bool>) -> Option<Joined> {
        let Identity { cluster, member, base } = self.identity;
        let metrics = self.state.metrics.clone();
        let (connector, election_timeout) = (self.connector.clone(), self.config.election_timeout);
        let peers = Arc::new(Peers::new(cluster.0, member.0, base, connector, election_timeout, metrics));
        let timing = Timing {
            heartbeat: self.config.heartbeat,
            election_timeout: self.config.election_timeout,
            pre_vote: self.config.pre_vote,
        };
        let machine = RaftStateMachine::new(member.0, self.parts());
        let (founders, log, chance) = (self.founders.clone(), self.state.log.clone(), self.chance.clone());
        let started = Consensus::start(peers.clone(), founders, timing, chance, log, machine).await;
        let consensus = match started {
            Ok(consensus) => consensus,
            Err(error) => {
                let _ = self.signals.ready.try_send(Err(StartError::Refused(error.to_string())));
                return None;
            }
        };
        let (publish, leadership) = watch::channel(Leadership::default());
        let Signals { ready, fail, .. } = &self.signals;
        tokio::spawn(follow(consensus.clone(), publish, ready.clone(), fail.clone()));
        let patience = Patience::new(
            self.config.request_timeout(),
            giving_up,
            self.config.election_timeout,
            leadership.clone(),
        );
        Some(Joined { consensus, peers, leadership, patience: Arc::new(patience) })
    }

    /// What the state machine works with.
    fn parts(&self) -> Parts {
        let State { replica, database, log, checkpointing, entry, orders, hub, v2_hub, space: _, metrics } =
            &self.state;
        Parts {
            replica: replica.clone(),
            database: database.clone(),
            checkpointing: checkpointing.clone(),
            entry: entry.clone(),
            ask_for_checkpoint: {
                let orders = orders.clone();
                Box::new(move || orders.checkpoint())
            },
            durable: self.marks.durable.clone(),
            hub: hub.clone(),
            v2_hub: v2_hub.clone(),
            leases: self.leases.clone(),
            logins: self.logins.clone(),
            tags: self.tags.clone(),
            applied: self.applied.clone(),
            own_cells: self.own_cells.clone(),
            metrics: metrics.clone(),
            slow_syncs: log.slow_syncs(),
            warning_apply_duration: self.config.warning_apply_duration,
            warning_write_duration: self.config.warning_unary_request_duration,
        }
    }

    /// The handle that the reactors and the tasks use, and the receiving ends of its queues.
    fn node(&self, joined: &Joined) -> (Node, Queues) {
        let Joined { consensus, peers, leadership, patience } = joined.clone();
        let (queue, proposals) = mpsc::channel(limits::PROPOSAL_QUEUE);
        let (reads, reads_out) = mpsc::channel(limits::READ_QUEUE);
        let (tunnels_in, tunnels) = mpsc::channel(limits::TUNNELS_QUEUED);
        let mailbox = Arc::new(Mailbox::default());
        assert!(
            *self.marks.durable.borrow() <= *self.marks.applied.borrow(),
            "what is durable has been applied"
        );
        let shared = Shared {
            config: self.config.clone(),
            identity: self.identity,
            replica: self.state.replica.clone(),
            hub: self.state.hub.clone(),
            v2_hub: self.state.v2_hub.clone(),
            started: wall_nanos(),
            leader_since: Mutex::default(),
            leases: self.leases.clone(),
            logins: self.logins.clone(),
            passwords: Passwords::new(self.config.bcrypt_cost, &self.chance),
            chance: self.chance.clone(),
            database: self.state.database.clone(),
            consensus,
            leadership,
            peers,
            patience,
            queue,
            queue_bytes: Arc::new(Semaphore::new(limits::PROPOSAL_QUEUE_BYTES)),
            reads,
            orders: self.state.orders.clone(),
            durable: self.marks.durable.clone(),
            compacted: self.marks.compacted.clone(),
            hashes: Lane::new(limits::HASHES_WAITING),
            images: Images::new(),
            space: self.state.space.clone(),
            answer_memory: AnswerMemory::new(),
            long_answers: LongAnswers::new(),
            turns: Turns::new(),
            metrics: self.state.metrics.clone(),
            changing: tokio::sync::Mutex::default(),
            lease_notes: tokio::sync::Mutex::default(),
            cleanups: Cleanups::new(mailbox.clone()),
            applied: self.marks.applied.clone(),
            next_lease_id: AtomicU64::new(self.chance.number()),
            stopping: self.signals.stopping.clone(),
            told_refusals: ToldRefusals::default(),
            asking_back: AskingBack::default(),
            last_health: LastHealth::default(),
            tunnels: tokio::sync::Mutex::new(tunnels),
        };
        let queues = Queues { proposals, reads: reads_out, tunnels: tunnels_in };
        (Node { shared: Arc::new(shared), mailbox }, queues)
    }

    /// Takes batches to the leader.
    fn forwarder(&self, joined: &Joined) -> Forwarder {
        let Joined { consensus, peers, leadership, patience } = joined.clone();
        Forwarder {
            consensus,
            peers,
            tags: self.tags.clone(),
            leadership,
            own: self.identity.member.0,
            next_serial: AtomicU64::new(self.chance.number().max(1)),
            patience,
            unsettled: Arc::new(Semaphore::new(limits::BATCHES_UNSETTLED)),
        }
    }

    /// The barrier of reads.
    fn read_index(&self, joined: &Joined) -> ReadIndex {
        let Joined { consensus, peers, leadership, patience } = joined.clone();
        ReadIndex {
            consensus,
            peers,
            leadership,
            applied: self.marks.applied.clone(),
            metrics: self.state.metrics.clone(),
            own: self.identity.member.0,
            patience,
            attempt: self.config.election_timeout,
        }
    }

    /// The tasks of the core thread, which end with its runtime.
    fn spawn_tasks(self, node: &Node, joined: &Joined, queues: Queues, give_up: watch::Sender<bool>) {
        tokio::spawn(node.mailbox.clone().hand_out());
        tokio::spawn(core::gather(queues.proposals, Arc::new(self.forwarder(joined))));
        tokio::spawn(self.read_index(joined).run(queues.reads));
        tokio::spawn(joined.peers.clone().keep_tunnels(queues.tunnels));
        tokio::spawn(leader::run(node.clone(), joined.leadership.clone()));
        tokio::spawn(compactor::run(node.clone()));
        tokio::spawn(backup::run(node.clone()));
        let keep = self.config.snapshot_catchup_entries;
        tokio::spawn(release_log(joined.consensus.clone(), keep, self.marks.durable));
        tokio::spawn(scrub::report(node.clone(), self.marks.damage));
        tokio::spawn(members::promote(node.clone()));
        tokio::spawn(members::probe(node.clone()));
        tokio::spawn(contacts::run(node.clone()));
        tokio::spawn(divergence::run_periodic(node.clone()));
        tokio::spawn(divergence::run_compactions(node.clone()));
        tokio::spawn(sampler::run(node.clone()));
        tokio::spawn(watchdog::run(node.clone()));
        tokio::spawn(waiting::report(node.clone()));
        let Signals { ready, fail, .. } = self.signals;
        tokio::spawn(end_when_removed(node.clone(), joined.peers.clone(), give_up, ready.clone(), fail));
        tokio::spawn(publish_and_tell(node.clone(), ready));
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
        // The command needs a leader. A closed channel means that the member stops.
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
    let mut released = 0;
    while durable.changed().await.is_ok() {
        let index = *durable.borrow_and_update();
        assert!(released <= index, "the log is released up to {released}, and the database holds {index}");
        released = index;
        if let Err(error) = consensus.release_log(index, keep).await {
            tracing::warn!(%error, "could not release the log; will retry after the next checkpoint");
        }
    }
}
