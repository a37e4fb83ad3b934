//! Putting a member together, and taking it apart again.
//!
//! The order matters in both directions. A start opens the directory, the database and the log, starts
//! consensus, and serves requests only after that. A stop ends the requests first, then the core
//! thread, and last the disk thread, which makes one more checkpoint, so that the next start has
//! nothing to replay.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{
    Node, StartError,
    assembly::{Core, Marks, Signals, State, marks},
    boot::{self, DataDir},
    disk_thread::{DiskThread, Orders},
    divergence,
    end::End,
    outside::Outside,
};
use crate::{
    config::Config,
    raft::{LogStore, Replica, Tokens, base, open_log},
    storage::{StorageError, io_error},
    sync::watch,
    telemetry::Metrics,
    threads::{self, Thread},
};

/// A data directory that has been read. No thread of the member runs yet, and nothing is written:
/// a process that ends now loses nothing.
pub(crate) struct Opened {
    config: Config,
    outside: Outside,
    metrics: Arc<Metrics>,
    data_dir: DataDir,
    replica: Replica,
    log: LogStore,
    tokens: Tokens,
}

/// A member at work.
pub(crate) struct Running {
    stopping: watch::Sender<bool>,
    /// Ends the core.
    end_core: oneshot::Sender<()>,
    core: Thread,
    orders: Arc<Orders>,
    disk_thread: Thread,
    ready: mpsc::Receiver<Result<Node, StartError>>,
    end: mpsc::Receiver<End>,
    _data_dir: DataDir,
}

/// Opens the data directory, and reads the database and the log. A new member also asks the others, and waits for
/// their answer; everything else waits for the disk.
pub(crate) async fn open(
    config: Config,
    metrics: Arc<Metrics>,
    outside: Outside,
) -> Result<Opened, StartError> {
    let tokens = Tokens::open(&config.auth_token, config.auth_token_ttl)?;
    let (config, outside, data_dir) = boot::open(config, outside).await?;
    let replica = Replica::open(data_dir.database.clone())?;
    let log_has_begun = boot::log_has_begun(&data_dir.database)?;
    let wal_dir = outside.disks.open(&data_dir.wal_dir).map_err(io_error("open", &data_dir.wal_dir))?;
    let founders = data_dir.founders.len();
    let values = data_dir.database.values().cloned();
    let log = open_log(wal_dir, log_has_begun, &replica, founders, values, metrics.clone())?;
    if log_has_begun && config.checks_history_at_start {
        let state = &replica.state;
        divergence::check_at_start(&config, data_dir.identity, state, &outside, metrics.clone()).await?;
    }
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
    Ok(Opened { config, outside, metrics, data_dir, replica, log, tokens })
}

impl Opened {
    /// Starts the member's threads. `serve_peers` runs on the core thread, from before the first election.
    pub(crate) fn run<F>(self, serve_peers: impl FnOnce(Node) -> F + Send + 'static) -> Running
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // One message is enough: the first failure ends the process.
        let (fail, end) = mpsc::channel(1);
        let (tell_ready, ready) = mpsc::channel(1);
        let (stopping, stopping_seen) = watch::channel(false);
        let (end_core, core_ends) = oneshot::channel();
        let signals = Signals { stopping: stopping_seen, fail, ready: tell_ready };

        let (marks, marks_seen) = marks(&self.replica);
        let state = State::new(self.replica, self.data_dir.database.clone(), self.metrics, self.log);
        let Marks { applied, durable, compacted, damage } = marks;
        let disk_thread = DiskThread::new(
            state.orders.clone(),
            state.checkpointer(durable, compacted),
            self.config.compaction_batch_limit,
            self.config.compaction_sleep_interval,
            damage,
        );
        let disk_thread = start_disk_thread(disk_thread, signals.fail.clone());
        let orders = state.orders.clone();
        let marks = (applied, marks_seen);
        let core = Core::new(self.config, self.outside, &self.data_dir, state, self.tokens, marks, signals);
        let core = start_core_thread(core, serve_peers, core_ends);
        Running { stopping, end_core, core, orders, disk_thread, ready, end, _data_dir: self.data_dir }
    }
}

fn start_disk_thread(disk_thread: DiskThread, fail: mpsc::Sender<End>) -> Thread {
    let ended = move |result: Result<(), StorageError>| {
        if let Err(error) = result {
            let _ = fail.try_send(End::Failed(format!("checkpoint failed: {error}")));
        }
    };
    #[cfg(test)]
    if threads::is_simulated() {
        let work = async move { ended(disk_thread.run_as_task().await) };
        return threads::try_host("retcd-disk", work).expect("a task can be started");
    }
    threads::begin("retcd-disk", move || ended(disk_thread.run()))
}

fn start_core_thread<F>(
    core: Core,
    serve_peers: impl FnOnce(Node) -> F + Send + 'static,
    core_ends: oneshot::Receiver<()>,
) -> Thread
where
    F: Future<Output = ()> + Send + 'static,
{
    let thread = threads::try_host("retcd-core", core.run(serve_peers, core_ends));
    thread.expect("the system can start a thread with a runtime")
}

/// The whole way at once, for a member that is alone.
#[cfg(test)]
pub(crate) fn start(config: Config, metrics: Arc<Metrics>) -> (Running, Node) {
    let outside = Outside::of_process(&config, |config| Ok(config.clone()));
    let opened = threads::wait(open(config, metrics, outside));
    let mut running = opened.expect("the directory can be opened").run(|_| async {});
    let node = threads::wait(running.ready()).expect("the member starts");
    (running, node)
}

impl Running {
    /// Resolves once this member knows its leader and can serve, or never will.
    pub(crate) async fn ready(&mut self) -> Result<Node, StartError> {
        let ended = || Err(StartError::Refused("the core thread ended while starting".to_owned()));
        self.ready.recv().await.unwrap_or_else(ended)
    }

    /// Wakes all tasks that wait on [`Node::stopping`].
    pub(crate) fn announce_stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Resolves if the member stopped because of an error, or was removed from the cluster.
    pub(crate) async fn ended(&mut self) -> End {
        match self.end.recv().await {
            Some(end) => end,
            None => End::Failed("the member's threads ended".to_owned()),
        }
    }

    /// Ends the member and blocks until it has ended.
    pub(crate) fn stop(self) {
        threads::wait(self.stopped());
    }

    /// Ends the member: everything applied is in the database afterwards.
    pub(crate) async fn stopped(self) {
        self.announce_stop();
        // The core thread may have ended already, and then nothing receives this.
        let _ = self.end_core.send(());
        self.core.ended().await;
        self.orders.stop();
        self.disk_thread.ended().await;
    }
}
