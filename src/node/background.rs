//! What is done behind the writers' backs: checkpoints, compaction, defragmentation, scrubbing.
//!
//! One thread of its own, for it waits for the disk. It alone writes the database. It takes what
//! was applied since its last turn, with the log index that it reaches, and commits it in one
//! durable transaction; the log before that index may go. A crash loses nothing: the log is
//! replayed from where the database stands.
//!
//! Whatever takes long is done in strides, and checkpoints go on between them: what is written
//! meanwhile gathers in memory, of which there is an end.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use super::{
    lane::{Lane, Run},
    scrub::{self, Scrubber},
};
use crate::{
    limits,
    mvcc::{CompactionStep, Size},
    raft::{LogStore, Replica},
    storage::{Copied, Database, Defragmentation, StorageError},
    telemetry::{GoDuration, HumanBytes, Metrics},
    types::Rev,
};

/// What the rest of the node asks of this thread. Each thing is asked for or it is not, so there is
/// no queue that could be full; who waits for it waits for what comes of it.
pub(crate) struct Orders {
    asked: Mutex<Asked>,
    arrived: Condvar,
    pub(super) defragmentations: Lane<(), Result<(), String>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// A compaction was applied; there is space to free.
    compaction: bool,
    /// Somebody waits until what was compacted is off the disk.
    physical_compaction: bool,
    /// Somebody waits until the database holds what has been applied.
    checkpoint: bool,
    defragmentation: bool,
    /// One last checkpoint, then end.
    stop: bool,
}

impl Orders {
    pub(crate) fn new() -> Orders {
        Orders {
            asked: Mutex::default(),
            arrived: Condvar::new(),
            defragmentations: Lane::new(limits::DEFRAGMENTATIONS_WAITING),
        }
    }

    pub(super) fn compact(&self) {
        self.ask(|asked| asked.compaction = true);
    }

    pub(super) fn compact_physically(&self) {
        self.ask(|asked| (asked.compaction, asked.physical_compaction) = (true, true));
    }

    pub(super) fn checkpoint(&self) {
        self.ask(|asked| asked.checkpoint = true);
    }

    pub(super) fn defragment(&self) {
        self.ask(|asked| asked.defragmentation = true);
    }

    pub(super) fn stop(&self) {
        self.ask(|asked| asked.stop = true);
    }

    fn ask(&self, ask: impl FnOnce(&mut Asked)) {
        ask(&mut self.asked.lock());
        self.arrived.notify_one();
    }

    /// What was asked since the last call. Waits for something that long.
    fn take(&self, wait: Duration) -> Asked {
        let mut asked = self.asked.lock();
        let is_something = |asked: &Asked| {
            let Asked { compaction, physical_compaction, checkpoint, defragmentation, stop } = *asked;
            compaction || physical_compaction || checkpoint || defragmentation || stop
        };
        if !is_something(&asked) && !wait.is_zero() {
            self.arrived.wait_for(&mut asked, wait);
        }
        std::mem::take(&mut asked)
    }
}

/// The thread's own things.
pub(crate) struct Background {
    pub(crate) replica: Arc<RwLock<Replica>>,
    pub(crate) database: Arc<Database>,
    pub(crate) log: LogStore,
    /// See [`Parts`](crate::raft::Parts).
    pub(crate) checkpointing: Arc<Mutex<()>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) orders: Arc<Orders>,
    /// Index of the last log entry that the database holds.
    pub(crate) durable: watch::Sender<u64>,
    /// What was compacted up to here is off the disk.
    pub(crate) compacted: watch::Sender<Rev>,
    /// How often damage was found.
    pub(crate) damage: watch::Sender<u64>,
    pub(crate) compaction_stride_keys: usize,
    pub(crate) compaction_pause: Duration,
}

/// What the thread has in hand.
struct Work {
    /// There may be something that has been compacted and not freed.
    is_compacting: bool,
    /// Somebody waits for that.
    is_compaction_awaited: bool,
    /// When the compaction began that is under way.
    compaction_began: Option<Instant>,
    defragmenting: Option<Defragmenting>,
    checkpoint_due: Instant,
    scrub_due: Instant,
    scrubber: Scrubber,
}

/// A defragmentation that was begun. Its callers may have gone since: etcd goes on without them,
/// and those whose patience is shorter than a large database takes count on that.
struct Defragmenting {
    run: Run<(), Result<(), String>>,
    start: Instant,
    before: Size,
    stage: Stage,
}

enum Stage {
    /// What had been compacted up to here when it began is freed first.
    Freeing(Rev),
    Copying {
        copy: Box<Defragmentation>,
        passes: u32,
    },
}

impl Work {
    fn is_copying(&self) -> bool {
        self.defragmenting.as_ref().is_some_and(|under_way| matches!(under_way.stage, Stage::Copying { .. }))
    }
}

impl Background {
    /// Runs until told to stop. An error means that the database cannot be trusted any more: the
    /// node has to end, and start-up repairs it from the log.
    pub(crate) fn run(self) -> Result<(), StorageError> {
        let now = Instant::now();
        let mut work = Work {
            // A compaction that a crash interrupted goes on where it can.
            is_compacting: true,
            is_compaction_awaited: false,
            compaction_began: None,
            defragmenting: None,
            checkpoint_due: now + limits::CHECKPOINT_INTERVAL,
            scrub_due: now + limits::SCRUB_INTERVAL,
            scrubber: Scrubber::new(now),
        };
        loop {
            let asked = self.orders.take(self.pause(&work));
            let is_abandoned = Arc::strong_count(&self.orders) == 1;
            if asked.stop || is_abandoned {
                work.defragmenting = None;
                self.checkpoint(&mut work)?;
                return Ok(());
            }
            work.is_compacting |= asked.compaction;
            work.is_compaction_awaited |= asked.physical_compaction;
            self.checkpoint_if_due(&mut work, asked.checkpoint)?;
            self.compact(&mut work)?;
            self.defragment(&mut work)?;
            if Instant::now() >= work.scrub_due {
                if work.scrubber.turn(&self.database, Instant::now()) {
                    self.damage.send_modify(|found| *found += 1);
                }
                work.scrub_due = Instant::now() + limits::SCRUB_INTERVAL;
            }
        }
    }

    /// How long to wait for orders.
    fn pause(&self, work: &Work) -> Duration {
        if work.defragmenting.is_some() {
            Duration::ZERO
        } else if work.is_compacting {
            self.compaction_pause
        } else {
            work.checkpoint_due.saturating_duration_since(Instant::now())
        }
    }

    fn checkpoint_if_due(&self, work: &mut Work, is_asked: bool) -> Result<(), StorageError> {
        let start = Instant::now();
        if !is_asked && start < work.checkpoint_due {
            return Ok(());
        }
        self.checkpoint(work)?;
        // However slow the disk is, most of its time belongs to the log.
        work.checkpoint_due = Instant::now() + limits::CHECKPOINT_INTERVAL.max(start.elapsed() * 2);
        // To see whether there is anything costs nothing.
        work.is_compacting = true;
        Ok(())
    }

    /// Moves what was applied since the last time into the database. True if there is more than
    /// one checkpoint takes.
    fn checkpoint(&self, work: &mut Work) -> Result<bool, StorageError> {
        let _checkpointing = self.checkpointing.lock();
        let mut replica = self.replica.write();
        let index = replica.applied_index();
        let Some((captured, meta)) = replica.capture() else {
            drop(replica);
            self.durable.send_if_modified(|durable| std::mem::replace(durable, index) != index);
            return Ok(false);
        };
        drop(replica);
        // A quorum of others may have committed what this member's own log does not hold yet.
        self.log.wait_for_disk(index);
        self.metrics.compacted_revisions.inc_by(captured.checkpoint.removed.len() as u64);
        let committing = Instant::now();
        let removed_bytes = self.database.commit(&captured.checkpoint)?;
        self.metrics.observe_checkpoint(committing.elapsed());
        if let Some(Defragmenting { stage: Stage::Copying { copy, .. }, .. }) = &mut work.defragmenting {
            copy.committed(&captured.checkpoint);
        }
        let mut replica = self.replica.write();
        replica.checkpointed(captured.rev, removed_bytes, meta)?;
        let compacted = replica.state.mvcc.rev_compact_finished();
        drop(replica);
        self.durable.send_replace(index);
        self.compacted.send_if_modified(|known| std::mem::replace(known, compacted) != compacted);
        Ok(captured.more)
    }

    /// Until nothing is left that belongs into the database.
    fn checkpoint_all(&self, work: &mut Work) -> Result<(), StorageError> {
        while self.checkpoint(work)? {}
        Ok(())
    }

    /// Frees the history of some keys, or removes what was freed from some of the database. Not
    /// while the database is copied: nothing may be removed from it then.
    fn compact(&self, work: &mut Work) -> Result<(), StorageError> {
        if !work.is_compacting || work.is_copying() {
            return Ok(());
        }
        let start = Instant::now();
        let step = self.compaction_step()?;
        if !matches!(step, CompactionStep::Idle) {
            work.compaction_began.get_or_insert(start);
        }
        match step {
            CompactionStep::Idle => {
                work.is_compacting = false;
                if std::mem::take(&mut work.is_compaction_awaited) {
                    self.checkpoint_all(work)?;
                }
            }
            CompactionStep::AwaitsCheckpoint => {
                self.checkpoint(work)?;
            }
            CompactionStep::More | CompactionStep::Read(_) => {
                self.metrics.observe_compaction_pause(start.elapsed());
            }
            CompactionStep::Finished(rev) => {
                let size = self.replica.read().state.mvcc.size();
                let began = work.compaction_began.take().unwrap_or(start);
                tracing::info!(
                    "compact-revision" = rev.0,
                    took = %GoDuration(began.elapsed()),
                    "current-db-size-bytes" = size.total,
                    "current-db-size" = %HumanBytes(size.total),
                    "current-db-size-in-use-bytes" = size.in_use,
                    "current-db-size-in-use" = %HumanBytes(size.in_use),
                    "finished scheduled compaction"
                );
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.metrics.compaction_last.set(now.as_secs() as i64);
                self.metrics.observe_compaction(began.elapsed());
            }
        }
        Ok(())
    }

    fn compaction_step(&self) -> Result<CompactionStep, StorageError> {
        // A snapshot that is installed meanwhile would bring another database and another index.
        let _checkpointing = self.checkpointing.lock();
        let step = self.replica.write().state.mvcc.compaction_stride(self.compaction_stride_keys);
        let CompactionStep::Read(stride) = step else { return Ok(step) };
        let records = stride.load()?;
        if let Some(damage) = &records.damage {
            scrub::tell(damage);
            self.damage.send_modify(|found| *found += 1);
        }
        let judged = self.replica.read().state.mvcc.judge(records);
        Ok(self.replica.write().state.mvcc.judged(judged))
    }

    /// Goes on with rewriting the database without its holes, if somebody asked for that. Reads,
    /// writes and checkpoints go on. A full disk is an answer and no reason to stop.
    fn defragment(&self, work: &mut Work) -> Result<(), StorageError> {
        if work.defragmenting.is_none() {
            let Some(run) = self.orders.defragmentations.take() else { return Ok(()) };
            self.metrics.defrag_inflight.set(1);
            tracing::info!("starting defragment");
            // What `endpoint status` shows, before and afterwards.
            let before = self.replica.read().state.mvcc.size();
            tracing::info!(
                path = %self.path().display(),
                "current-db-size-bytes" = before.total,
                "current-db-size" = %HumanBytes(before.total),
                "current-db-size-in-use-bytes" = before.in_use,
                "current-db-size-in-use" = %HumanBytes(before.in_use),
                "defragmenting"
            );
            let stage = Stage::Freeing(self.replica.read().state.mvcc.rev_compacted());
            work.is_compacting = true;
            work.defragmenting = Some(Defragmenting { run, start: Instant::now(), before, stage });
        }
        match self.defragment_slice(work) {
            Ok(false) => return Ok(()),
            Ok(true) => self.defragmented(work, Ok(()))?,
            Err(error @ StorageError::Unsettled { .. }) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "defragment failed; the database is as it was");
                self.defragmented(work, Err(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// True if it is done. An error leaves the database as it was, unless it is
    /// [`StorageError::Unsettled`].
    fn defragment_slice(&self, work: &mut Work) -> Result<bool, StorageError> {
        let Some(Defragmenting { stage, .. }) = &mut work.defragmenting else { return Ok(true) };
        let (copy, passes) = match stage {
            Stage::Freeing(rev) => {
                let is_freed = self.replica.read().state.mvcc.rev_compact_finished() >= *rev;
                if !is_freed && work.is_compacting {
                    return Ok(false);
                }
                return self.begin_copy(work).map(|()| false);
            }
            Stage::Copying { copy, passes } => (copy, passes),
        };
        let until = Instant::now() + limits::DEFRAGMENTATION_SLICE;
        let copied = loop {
            match copy.step()? {
                Copied::More if Instant::now() < until => {}
                copied => break copied,
            }
        };
        let Copied::Pass { bytes } = copied else { return Ok(false) };
        *passes += 1;
        if bytes > limits::DEFRAGMENTATION_REST_BYTES && *passes < limits::DEFRAGMENTATION_PASSES_MAX {
            return self.next_pass(work).map(|()| false);
        }
        copy.sync()?;
        self.checkpoint(work)?;
        self.finish_copy(work)
    }

    fn begin_copy(&self, work: &mut Work) -> Result<(), StorageError> {
        // With these go all removals that are known.
        self.checkpoint_all(work)?;
        let _checkpointing = self.checkpointing.lock();
        let copy = Box::new(Defragmentation::begin(&self.database)?);
        if let Some(Defragmenting { stage, .. }) = &mut work.defragmenting {
            *stage = Stage::Copying { copy, passes: 0 };
        }
        Ok(())
    }

    fn next_pass(&self, work: &mut Work) -> Result<(), StorageError> {
        let _checkpointing = self.checkpointing.lock();
        match &mut work.defragmenting {
            Some(Defragmenting { stage: Stage::Copying { copy, .. }, .. }) if copy.is_of(&self.database) => {
                copy.next_pass(&self.database)
            }
            _ => {
                self.begin_again(work);
                Ok(())
            }
        }
    }

    /// False if all was in vain.
    fn finish_copy(&self, work: &mut Work) -> Result<bool, StorageError> {
        let _checkpointing = self.checkpointing.lock();
        let Some(Defragmenting { stage, .. }) = &mut work.defragmenting else { return Ok(true) };
        let freed = Stage::Freeing(Rev::NEVER_COMPACTED);
        match std::mem::replace(stage, freed) {
            Stage::Copying { copy, .. } if copy.is_of(&self.database) => {
                self.database.finish_defragmentation(*copy)?;
                self.replica.write().state.mvcc.defragmented()?;
                Ok(true)
            }
            Stage::Copying { .. } | Stage::Freeing(_) => Ok(false),
        }
    }

    /// A snapshot was installed, and its file took the place of the one that is copied.
    fn begin_again(&self, work: &mut Work) {
        if let Some(Defragmenting { stage, .. }) = &mut work.defragmenting {
            *stage = Stage::Freeing(Rev::NEVER_COMPACTED);
        }
    }

    fn defragmented(&self, work: &mut Work, result: Result<(), String>) -> Result<(), StorageError> {
        let Some(Defragmenting { run, start, before, .. }) = work.defragmenting.take() else {
            return Ok(());
        };
        self.metrics.defrag_inflight.set(0);
        self.metrics.backend_defrag.observe(start.elapsed().as_secs_f64());
        if result.is_ok() {
            // With the size that it has now.
            self.checkpoint(work)?;
            let size = self.replica.read().state.mvcc.size();
            tracing::info!(
                path = %self.path().display(),
                "current-db-size-bytes-diff" = size.total - before.total,
                "current-db-size-bytes" = size.total,
                "current-db-size" = %HumanBytes(size.total),
                "current-db-size-in-use-bytes-diff" = size.in_use - before.in_use,
                "current-db-size-in-use-bytes" = size.in_use,
                "current-db-size-in-use" = %HumanBytes(size.in_use),
                took = %GoDuration(start.elapsed()),
                "finished defragmenting directory"
            );
            tracing::info!("finished defragment");
        }
        run.finish(result);
        Ok(())
    }

    /// Of the database's file.
    fn path(&self) -> PathBuf {
        self.database.dir().join("db")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::Bytes;
    use futures_util::FutureExt;
    use tempfile::TempDir;

    use crate::{
        apply::{Command, Put},
        config::Config,
        node::{self, Node, Running},
        telemetry::Metrics,
        types::LeaseId,
    };

    async fn member() -> (Running, Node, TempDir) {
        member_with(30).await
    }

    /// A member with a database of so many megabytes.
    async fn member_with(megabytes: u32) -> (Running, Node, TempDir) {
        let data_dir = TempDir::new().expect("there is a place for temporary files");
        let config = Config::of_flags(&[&format!("--data-dir={}", data_dir.path().display())]);
        let metrics = std::sync::Arc::new(Metrics::new(&config));
        let (running, node) = node::start(config, metrics);
        for number in 0..megabytes {
            put(&node, number, vec![7; 1_000_000]).await;
        }
        (running, node, data_dir)
    }

    async fn put(node: &Node, number: u32, value: Vec<u8>) {
        let put = Put {
            key: format!("key {number}").into(),
            value: Some(Bytes::from(value)),
            lease: Some(LeaseId::NONE),
            prev_kv: false,
        };
        node.propose(Command::Put(put)).await.expect("there is room");
    }

    fn copies(data_dir: &TempDir) -> bool {
        data_dir.path().join("member/snap/db.unfinished").exists()
    }

    async fn copying(data_dir: &TempDir) {
        while !copies(data_dir) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn checkpoints_and_writes_go_on_while_a_database_is_defragmented() {
        // So much that the copy takes many turns of the thread on a fast machine too.
        let (running, node, data_dir) = member_with(120).await;
        let mut defragmented = Box::pin(node.defragment());
        let mut checkpoints = 0;
        loop {
            if let Some(result) = (&mut defragmented).now_or_never() {
                result.expect("there is room");
                break;
            }
            put(&node, 1000 + checkpoints, vec![8; 100]).await;
            node.checkpoint().await;
            checkpoints += u32::from(copies(&data_dir));
        }
        // The last may have been the one that the defragmentation itself makes before its end.
        assert!(checkpoints > 2, "there were {checkpoints}");
        drop(defragmented);
        drop(node);
        running.stop();
        let config = Config::of_flags(&[&format!("--data-dir={}", data_dir.path().display())]);
        let metrics = std::sync::Arc::new(Metrics::new(&config));
        let (running, node) = node::start(config, metrics);
        assert!(node.rev().0 >= 121 + i64::from(checkpoints), "all of it is there");
        drop(node);
        running.stop();
    }

    #[tokio::test]
    async fn a_defragmentation_does_not_hold_up_the_stop() {
        let (running, node, data_dir) = member().await;
        let mut defragmented = Box::pin(node.defragment());
        assert_eq!((&mut defragmented).now_or_never(), None);
        copying(&data_dir).await;
        running.stop();
        let result = defragmented.await;
        assert!(result.is_err(), "it was abandoned: {result:?}");
        let left = fs::read_dir(data_dir.path().join("member/snap")).expect("a directory");
        let names: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
        assert_eq!(names, ["db"]);
    }

    #[tokio::test]
    async fn a_defragmentation_that_nobody_waits_for_does_not_begin() {
        let (running, node, data_dir) = member().await;
        let mut first = Box::pin(node.defragment());
        assert_eq!((&mut first).now_or_never(), None);
        copying(&data_dir).await;
        for _ in 0..100 {
            assert_eq!(node.defragment().now_or_never(), None, "it waits, and is given up");
        }
        first.await.expect("there is room");
        // It comes after all that was asked for before.
        node.checkpoint().await;
        assert_eq!(node.metrics().backend_defrag.get_sample_count(), 1);
        assert!(!copies(&data_dir));
        running.stop();
    }

    /// A client that takes no more is not asked for the next piece, however far it is.
    #[tokio::test]
    async fn who_stops_taking_a_snapshot_does_not_hold_up_the_others() {
        let (running, node, _data_dir) = member().await;
        let mut stopped = Vec::new();
        for _ in 0..=crate::limits::SNAPSHOT_READS_AT_ONCE {
            let mut snapshot = node.snapshot().await.expect("there is room");
            let mut next = Box::pin(async move { snapshot.next().await });
            assert!((&mut next).now_or_never().is_none(), "it is read elsewhere");
            stopped.push(next);
        }
        let mut snapshot = node.snapshot().await.expect("they share an image");
        let next = tokio::time::timeout(std::time::Duration::from_secs(60), snapshot.next()).await;
        assert!(next.expect("nobody is in its way").expect("it is read").is_some());
        drop((stopped, snapshot));
        running.stop();
    }

    /// What was asked for is given up when those who asked have gone.
    #[tokio::test]
    async fn a_snapshot_that_nobody_waits_for_leaves_nothing() {
        let (running, node, data_dir) = member().await;
        let begun = tokio::time::timeout(std::time::Duration::ZERO, node.snapshot()).await;
        assert!(begun.is_err(), "it takes longer");
        // The one after it is made whole, once the first is given up.
        let snapshot = node.snapshot().await.expect("there is room");
        drop(snapshot);
        let names = || {
            let left = fs::read_dir(data_dir.path().join("member/snap")).expect("a directory");
            left.map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>()
        };
        // The thread that made the image lets go of it a moment after it has told of it.
        while names() != ["db"] {
            tokio::task::yield_now().await;
        }
        running.stop();
    }
}
