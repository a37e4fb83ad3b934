//! One member: everything below the wire, put together.
//!
//! ```text
//! reactors ---- Node (this handle) ----+---- queue ----> core thread (gather, openraft, WAL, apply)
//!                                      +---- reads ----> Replica, under its lock, in short strides
//!                                      +---- watch ----> WatchHub
//! disk thread: checkpoints, compaction, defragmentation, scrubbing
//! peers ---- core thread: their requests, and ours to them
//! ```

mod admin;
mod answer_memory;
mod assembly;
mod backup;
mod boot;
mod check;
mod cleanup;
mod compactor;
mod contacts;
mod contents;
mod core;
mod disk_thread;
mod divergence;
mod end;
mod error;
mod export;
mod forward;
#[cfg(test)]
mod glance;
mod hash;
mod health;
mod identity;
mod image_file;
mod lane;
mod leader;
mod leader_search;
mod lease;
mod login;
mod long_answer;
mod mailbox;
mod members;
mod outside;
mod passwords;
mod past;
mod patience;
mod peer;
mod read;
mod read_index;
mod restore;
mod sampler;
mod scrub;
mod session;
mod snapshot;
mod space;
mod start;
mod stopped;
mod unfit;
mod v2;
mod waiting;
mod walk;
mod watchdog;
mod watching;
mod write;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, mpsc};

pub(crate) use admin::Member;
pub(crate) use answer_memory::Memory;
pub(crate) use check::{CheckStep, check};
pub(crate) use contents::{Contents, ContentsError};
pub(crate) use end::End;
pub(crate) use error::{MoveLeaderError, ProposeError, ReadError, StartError, StorageError};
pub(crate) use export::export;
#[cfg(test)]
pub(crate) use glance::Glance;
pub(crate) use health::MemberHealth;
pub(crate) use identity::Credentials;
pub(crate) use long_answer::Tail;
pub(crate) use outside::Outside;
pub(crate) use passwords::{Origin, PasswordError};
pub(crate) use past::ManyEvents;
pub(crate) use peer::{Envelope, PeerRefusal};
pub(crate) use read::Found;
pub(crate) use restore::{RestoreError, RestoreStep, Restored, import, restore};
pub(crate) use session::{AuthChanges, Session};
pub(crate) use snapshot::Snapshot;
#[cfg(test)]
pub(crate) use start::start;
pub(crate) use start::{Running, open};

pub(crate) use crate::link::{
    Change, ChangeRefusal, Forwarded, KnownCluster, LeaseAnswer, LeaseQuery, MemberStatus, Piece,
};
pub(crate) use members::ChangeError;
pub(crate) use v2::{RaftMark, Since, V2Error, V2Watch, wall_nanos};
pub(crate) use watching::{CaughtUp, NotCreated, WatchStream};

use self::{
    answer_memory::AnswerMemory,
    boot::Identity,
    cleanup::Cleanups,
    core::Proposal,
    disk_thread::Orders,
    hash::{Hash, HashOf},
    health::LastHealth,
    lane::Lane,
    leader_search::LeaderSearch,
    long_answer::LongAnswers,
    mailbox::{Confirmed, Mailbox, Ticket},
    passwords::Passwords,
    patience::Patience,
    peer::{AskingBack, ToldRefusals},
    snapshot::Images,
    space::Space,
    walk::Turns,
};
use crate::{
    chance::Chance,
    config::Config,
    lease::Expiry,
    link::Peers,
    raft::{Consensus, Leadership, LeaseClock, Logins, ReplicaLock},
    sockets::Io,
    storage::Database,
    sync::watch,
    telemetry::Metrics,
    threads,
    types::{ClusterId, MemberId, Rev},
    v2::Hub as V2Hub,
    watch::WatchHub,
};

/// A handle to the member. Cheap to clone; each reactor has its own, with its own mailbox.
#[derive(Clone)]
pub(crate) struct Node {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
}

struct Shared {
    config: Config,
    identity: Identity,
    replica: Arc<ReplicaLock>,
    hub: Arc<Mutex<WatchHub>>,
    v2_hub: Arc<Mutex<V2Hub>>,
    /// When this member started, and when it learned of the leader, for the statistics of the version 2 API.
    started: i64,
    leader_since: Mutex<Option<(MemberId, i64)>>,
    leases: Arc<LeaseClock>,
    logins: Arc<Logins>,
    passwords: Passwords,
    chance: Chance,
    database: Arc<Database>,
    consensus: Consensus,
    leadership: watch::Receiver<Leadership>,
    peers: Arc<Peers>,
    patience: Arc<Patience>,
    queue: mpsc::Sender<Proposal>,
    /// What is left of the bytes that may wait in the queue.
    queue_bytes: Arc<Semaphore>,
    reads: mpsc::Sender<Ticket<Confirmed>>,
    /// What is asked of the thread that writes the database, and what came of it: how much of the
    /// log the database holds, and how much of what was compacted is off the disk.
    orders: Arc<Orders>,
    durable: watch::Receiver<u64>,
    compacted: watch::Receiver<Rev>,
    hashes: Lane<HashOf, Result<Hash, Arc<StorageError>>>,
    images: Images,
    space: Arc<Space>,
    answer_memory: AnswerMemory,
    long_answers: LongAnswers,
    turns: Turns,
    metrics: Arc<Metrics>,
    next_lease_id: AtomicU64,
    /// Held by whoever changes the membership: one change at a time.
    changing: tokio::sync::Mutex<()>,
    /// Held while checkpoints of leases are on their way through the log.
    lease_notes: tokio::sync::Mutex<()>,
    cleanups: Cleanups,
    applied: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    told_refusals: ToldRefusals,
    asking_back: AskingBack,
    last_health: LastHealth,
    /// Connections on which peers make requests, though this member has made them.
    tunnels: tokio::sync::Mutex<mpsc::Receiver<Io>>,
}

impl Node {
    /// The same member, for another reactor: answers come to that reactor's own mailbox, which
    /// the returned future hands out. It has to run on the reactor.
    pub(crate) fn for_reactor(&self) -> (Node, impl Future<Output = ()> + use<>) {
        let mailbox = Arc::new(Mailbox::default());
        (Node { shared: self.shared.clone(), mailbox: mailbox.clone() }, mailbox.hand_out())
    }

    /// The next connection that a peer makes requests on, though this member has made it: it is to be
    /// served as those that are accepted at the peer port. `None` once there will be no more.
    pub(crate) async fn next_tunnel(&self) -> Option<Io> {
        self.shared.tunnels.lock().await.recv().await
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shared.config
    }

    pub(crate) fn chance(&self) -> &Chance {
        &self.shared.chance
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    pub(crate) fn ids(&self) -> (ClusterId, MemberId) {
        (self.shared.identity.cluster, self.shared.identity.member)
    }

    pub(crate) fn leadership(&self) -> Leadership {
        *self.shared.leadership.borrow()
    }

    pub(crate) fn raft_term(&self) -> u64 {
        self.leadership().term
    }

    pub(crate) fn has_leader(&self) -> bool {
        self.leadership().leader.is_some()
    }

    pub(crate) fn is_auth_enabled(&self) -> bool {
        self.guarded_at().is_some()
    }

    /// The revision of users and roles, while authentication is enabled.
    fn guarded_at(&self) -> Option<u64> {
        self.shared.logins.guarded_at()
    }

    /// The newest revision that reads can see.
    pub(crate) fn rev(&self) -> Rev {
        self.shared.replica.read().state.mvcc.rev_current()
    }

    fn watch_hub(&self) -> MutexGuard<'_, WatchHub> {
        self.shared.hub.lock()
    }

    fn expiry(&self) -> MutexGuard<'_, Expiry> {
        self.shared.leases.expiry()
    }

    /// Resolves when a deadline was set since the last call.
    async fn lease_changed(&self) {
        self.shared.leases.changed().await;
    }

    /// Resolves once the server is asked to stop.
    pub(crate) async fn stopping(&self) {
        let mut stopping = self.shared.stopping.clone();
        // The sender lives in `Running`; without it the process is ending anyway.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// A positive id that this member has not given out before, and that another member is
    /// unlikely to choose.
    fn choose_lease_id(&self) -> i64 {
        let serial = self.shared.next_lease_id.fetch_add(1, Ordering::Relaxed);
        let id = (serial & (i64::MAX as u64)) as i64;
        let id = if id == 0 { 1 } else { id };
        assert!(id > 0, "a chosen lease id is positive");
        id
    }
}

impl Node {
    /// A search for whoever leads, with `pause` between two leaders that are asked.
    fn search_leader(&self, pause: Duration) -> LeaderSearch<'_> {
        let (_, own) = self.ids();
        LeaderSearch::new(&self.shared.consensus, &self.shared.leadership, own.0, pause)
    }

    /// Runs long disk work beside the reactor.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        threads::blocking(work).await.expect("blocking work does not panic and is not cancelled")
    }
}
