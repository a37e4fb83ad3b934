//! A leader and a member behind it, in one process and without consensus: what is on the disk at
//! each step of an install, and what becomes of transfers that break.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use openraft::{
    EntryPayload,
    storage::{IOFlushed, RaftLogStorage, RaftStateMachine as _},
    vote::leader_id_std::LeaderId,
};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::{
    runtime::Builder,
    sync::{Notify, mpsc},
};

use super::{
    part::{Part, Parts},
    send::UnderWay,
    *,
};
use crate::{
    apply::{Command, Put, Request},
    config::{Config, Invocation},
    disk::{
        Directory, Disks,
        memory::{MemoryDisk, MemoryDisks},
    },
    limits,
    link::Piece,
    mvcc::Step,
    planted::{self, Bug},
    raft::{
        LeaseClock, LogStore, Parts as StateMachineParts, RaftStateMachine, ReplicaLock, Tags, codec,
        flips::{self, Met},
        message,
        typ::{Batch, Entry, LogId, Vote},
    },
    storage::{Table, Values},
    sync::watch,
    telemetry::Metrics,
    types::{Caller, LeaseId, Rev},
    v2,
    wal::LogPosition,
    watch::WatchHub,
};

const SNAP: &str = "/member/snap";
const WAL: &str = "/member/wal";

const IDENTITY: &[u8] = b"identity";
const JOINED: &[u8] = b"joined";

/// A member's files and what it makes of them.
struct Member {
    /// `None` on a disk in memory.
    home: Option<TempDir>,
    database: Arc<Database>,
    replica: Arc<ReplicaLock>,
    machine: RaftStateMachine,
    /// One for all that it receives, as in a running member: the inbox keeps one thread from removing
    /// the files of another.
    inbox: Inbox,
    log: LogStore,
    /// Checkpoints that it asks for, each to be answered through the other.
    asked: mpsc::UnboundedReceiver<()>,
    durable: watch::Sender<u64>,
}

fn at(index: u64) -> LogId {
    codec::log_id(LogPosition { term: 1, index })
}

fn leader_vote() -> Vote {
    Vote { leader_id: LeaderId { term: 1, voted_for: 7 }, committed: true }
}

fn entry(index: u64, value: usize) -> Entry {
    let put = Put::new(
        format!("k{:04}", index % 97).into(),
        Some(vec![index as u8; value].into()),
        Some(LeaseId::NONE),
        false,
    );
    let commands: Arc<[Request]> = vec![Command::Put(put).by(Caller::Nobody)].into();
    Entry { log_id: at(index), payload: EntryPayload::Normal(Batch { commands, tag: None, began: None }) }
}

fn metrics() -> Arc<Metrics> {
    let Ok(Invocation::Serve(config)) = Config::load(&[], &[]) else { panic!("etcd starts without flags") };
    Arc::new(Metrics::new(&config))
}

impl Member {
    /// Opens what is in the directory, as the start does.
    fn open(home: TempDir, own: &'static str) -> Member {
        let (snap, wal) = (home.path().join("snap"), home.path().join("wal"));
        let has_begun = wal.exists();
        fs::create_dir_all(&snap).expect("a directory");
        fs::create_dir_all(&wal).expect("a directory");
        let disk = |path: &Path| -> Arc<dyn Disk> { Arc::new(Directory::open(path).expect("a directory")) };
        let member = Member::on(disk(&snap), disk(&wal), has_begun, own);
        Member { home: Some(home), ..member.expect("a member whose log fits its database") }
    }

    /// The same on a disk in memory.
    fn in_memory(disks: &MemoryDisks, has_begun: bool) -> Result<Member, String> {
        let disk = |path: &str| {
            disks.make(Path::new(path)).map_err(|error| error.to_string())?;
            disks.open(Path::new(path)).map_err(|error| error.to_string())
        };
        Member::on(disk(SNAP)?, disk(WAL)?, has_begun, "behind")
    }

    fn on(
        snap: Arc<dyn Disk>,
        wal: Arc<dyn Disk>,
        has_begun: bool,
        own: &'static str,
    ) -> Result<Member, String> {
        let text = |error: &dyn fmt::Display| error.to_string();
        let values = Arc::new(Values::open(wal.clone()).map_err(|error| text(&error))?);
        let database = Database::open_with(snap, Path::new("db"), 1 << 20, Some(values));
        let database = database.map_err(|error| text(&error))?;
        let database = Arc::new(database);
        // As a start does.
        let reader = database.reader().map_err(|error| text(&error))?;
        reader.check_cells().map_err(|error| text(&error))?;
        drop(reader);
        let own_cells = vec![(IDENTITY.into(), Some(own.into())), (JOINED.into(), None)];
        let replica = Replica::open(database.clone()).map_err(|error| text(&error))?;
        let (applied, installed) = (replica.applied(), replica.installed());
        let log =
            LogStore::open(wal, has_begun, applied, installed, 3, database.values().cloned(), metrics());
        let log = log.map_err(|error| text(&error))?;
        let rev = replica.state.mvcc.rev_current();
        let replica = Arc::new(ReplicaLock::new(replica));
        let (ask, asked) = mpsc::unbounded_channel();
        let durable = watch::Sender::new(0);
        let machine = RaftStateMachine::new(
            1,
            StateMachineParts {
                replica: replica.clone(),
                database: database.clone(),
                checkpointing: Arc::default(),
                entry: Arc::default(),
                ask_for_checkpoint: Box::new(move || ask.send(()).expect("somebody listens")),
                durable: durable.subscribe(),
                hub: Arc::new(Mutex::new(WatchHub::new(rev))),
                v2_hub: Arc::new(Mutex::new(v2::Hub::new(0))),
                leases: Arc::new(LeaseClock::default()),
                logins: Arc::default(),
                tags: Arc::new(Tags::default()),
                applied: watch::Sender::new(0),
                own_cells,
                metrics: metrics(),
                slow_syncs: log.slow_syncs(),
                warning_apply_duration: Duration::MAX,
                warning_write_duration: Duration::MAX,
            },
        );
        let inbox = machine.inbox();
        Ok(Member { home: None, database, replica, machine, inbox, log, asked, durable })
    }

    fn new(own: &'static str) -> Member {
        Member::open(tempfile::tempdir().expect("a directory"), own)
    }

    fn home(&self) -> &Path {
        self.home.as_ref().expect("it is not in memory").path()
    }

    /// Appends, applies and checkpoints these entries.
    async fn write(&mut self, entries: impl Iterator<Item = Entry> + Clone + Send) {
        let appended = self.log.append(entries.clone().collect::<Vec<_>>(), IOFlushed::noop()).await;
        appended.expect("the log can be written");
        let entries = entries.map(|entry| Ok((entry, None))).collect::<Vec<_>>();
        self.machine.apply(stream::iter(entries)).await.expect("entries can be applied");
        self.log.wait_for_disk(self.replica.read().applied_index());
        self.checkpoint();
    }

    fn checkpoint(&self) {
        let (mut captured, meta) = self.replica.write().capture().expect("something changed");
        while self.replica.read().state.gather(&mut captured) == Step::More {}
        let removed = self.database.commit(&captured.checkpoint).expect("a checkpoint");
        let body = self.database.reader().expect("a checkpoint");
        let body_before = self.replica.write().checkpointed(captured.rev, removed, meta, body);
        drop(body_before);
    }

    /// The snapshot of this member as it travels.
    async fn pieces(&mut self) -> (Bytes, Vec<Result<Piece, String>>) {
        let snapshot = self.machine.get_current_snapshot().await.expect("it can be read");
        let snapshot = snapshot.expect("something was applied");
        let SnapshotImage::Pinned(reader) = snapshot.snapshot else { panic!("it was not received") };
        let records = reader.record_count().expect("a count");
        let header = message::encode_snapshot_header(&leader_vote(), &snapshot.meta, records);
        let parts = Parts::of(*reader).expect("parts");
        let pieces = parts.flat_map(|part| Piece::of(part.expect("a sound part").encode()));
        (header, pieces.map(Ok).collect())
    }

    async fn receive(&self, header: &Bytes, pieces: Vec<Result<Piece, String>>) -> Result<Snapshot, String> {
        let header = Header::decode(header.clone()).expect("a header");
        self.inbox.receive(header, stream::iter(pieces)).await
    }

    /// What a start finds after a crash at this moment.
    fn crashed(&self) -> Member {
        let copy = tempfile::tempdir().expect("a directory");
        for dir in ["snap", "wal"] {
            fs::create_dir(copy.path().join(dir)).expect("a directory");
            for file in files(&self.home().join(dir)) {
                let file = Path::new(dir).join(file);
                fs::copy(self.home().join(&file), copy.path().join(&file)).expect("a copy");
            }
        }
        Member::open(copy, "of nobody")
    }

    /// How far the state goes, a hash of all of it, and where the log begins and ends.
    async fn summary(&mut self) -> (u64, Rev, u32, (u64, u64)) {
        let log = self.log.get_log_state().await.expect("a log");
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        let hash = self.database.hash(&|| true).expect("a sound database").expect("it is wanted");
        let log = (index(log.last_purged_log_id), index(log.last_log_id));
        let replica = self.replica.read();
        (replica.applied_index(), replica.state.mvcc.rev_current(), hash, log)
    }

    fn own_cell(&self, key: &[u8]) -> Option<Bytes> {
        self.database.reader().expect("a reader").cell(Table::Meta, key).expect("a sound cell")
    }
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

async fn leader() -> Member {
    let mut leader = Member::new("leader");
    leader.write((0..=500).map(|index| entry(index, 3000))).await;
    let cells = [IDENTITY, JOINED].map(|key| (Table::Meta, key.into(), Some("leader".into())));
    let cells = crate::storage::Checkpoint { cells: cells.into(), ..Default::default() };
    leader.database.commit(&cells).expect("a commit");
    leader
}

async fn behind() -> Member {
    let mut behind = Member::new("behind");
    behind.write((0..=3).map(|index| entry(index, 10))).await;
    behind
}

/// The rename is the one moment at which the old state becomes the new one. Before it there is
/// the old state with all of its log; after it the new one, with a log that begins where it ends,
/// whether or not the log was told before the crash.
#[tokio::test]
async fn a_crash_at_any_step_of_an_install_leaves_the_old_state_or_the_new_one() {
    let (mut leader, mut behind) = (leader().await, behind().await);
    let old = behind.summary().await;
    assert_eq!((old.0, old.3), (3, (0, 3)));
    let (_, rev, hash, _) = leader.summary().await;
    let new = (500, rev, hash, (500, 500));

    let (header, pieces) = leader.pieces().await;
    assert!(pieces.len() > 3, "it travels in several pieces");
    let received = behind.receive(&header, pieces).await.expect("it is complete");
    assert_eq!(behind.summary().await, old, "a snapshot that was received changes nothing");
    assert_eq!(files(&behind.home().join("snap")).len(), 2);
    assert_eq!(behind.crashed().summary().await, old);

    behind.machine.install_snapshot(&received.meta, received.snapshot).await.expect("it can be installed");
    assert_eq!(files(&behind.home().join("snap")), ["db"]);
    // The log has not been told yet.
    assert_eq!(behind.summary().await, (500, rev, hash, (0, 3)));
    let mut crashed = behind.crashed();
    assert_eq!(crashed.summary().await, new);
    assert_eq!(crashed.crashed().summary().await, new, "the log has been told by the start");

    behind.log.purge(at(500)).await.expect("the log can be written");
    assert_eq!(behind.summary().await, new);
    assert_eq!(behind.crashed().summary().await, new);
    assert_eq!(behind.own_cell(IDENTITY).as_deref(), Some(&b"behind"[..]));
    assert_eq!(behind.own_cell(JOINED), None, "whoever sent it had joined");

    // It goes on from there, in the file that took the old one's place.
    behind.write((501..=510).map(|index| entry(index, 10))).await;
    leader.write((501..=510).map(|index| entry(index, 10))).await;
    let (applied, rev, hash, _) = leader.summary().await;
    assert_eq!(behind.crashed().summary().await, (applied, rev, hash, (500, 510)));
}

/// How many images are looked at of each power loss; `scripts/sim --contract` asks for more.
fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// A line for whoever runs the test with `--nocapture`.
macro_rules! tell {
    ($($what:tt)*) => {
        // Nobody is harmed if it cannot be written.
        let _ = writeln!(io::stdout(), $($what)*);
    };
}

/// A small snapshot, and a disk with a member that is behind it.
async fn small() -> ((Bytes, Vec<Piece>), Member, MemoryDisks) {
    let mut leader = Member::new("leader");
    leader.write((0..=40).map(|index| entry(index, 300))).await;
    let (header, pieces) = leader.pieces().await;
    let pieces = pieces.into_iter().map(|piece| piece.expect("a sound piece")).collect();
    let disks = MemoryDisks::default();
    let mut behind = Member::in_memory(&disks, false).expect("the power is on");
    behind.write((0..=3).map(|index| entry(index, 10))).await;
    ((header, pieces), leader, disks)
}

/// Receives a snapshot and installs it, as far as the disk allows it.
async fn install(member: &mut Member, (header, pieces): &(Bytes, Vec<Piece>)) -> Result<(), String> {
    let received = member.receive(header, pieces.iter().cloned().map(Ok).collect()).await?;
    let meta = received.meta.clone();
    member.machine.install_snapshot(&meta, received.snapshot).await.map_err(|error| error.to_string())?;
    member.log.purge(at(40)).await.map_err(|error| error.to_string())
}

/// What was found after power losses in operations of an install.
#[derive(Default)]
struct Images {
    checked: u64,
    /// With the new state.
    installed: u64,
    /// With neither the old state nor the new one, or with the old one after the install was done.
    wrong: Vec<String>,
}

/// Installs a snapshot again and again, with a power failure in another operation of the disk each time, which may lose and
/// tear what was not synced.
async fn power_losses(planted: Option<Bug>) -> Images {
    let (stride, images) = (number("RETCD_CONTRACT_STRIDE", 5), number("RETCD_CONTRACT_IMAGES", 3));
    let (snapshot, mut leader, disks) = small().await;
    let (applied, rev, hash, _) = leader.summary().await;
    let new = (applied, rev, hash, (40, 40));
    let begin = || disks.after_power_loss(|| true);
    let old = Member::in_memory(&begin(), true).expect("no damage").summary().await;
    assert_eq!((old.0, old.3), (3, (0, 3)));
    if planted.is_some() {
        // A bug is one of this thread.
        threads::simulate(|| Duration::ZERO);
        planted::plant(planted);
    }
    let mut seen = Images::default();
    for operation in (0..).step_by(stride as usize) {
        let disks = begin();
        let mut behind = Member::in_memory(&disks, true).expect("no damage");
        disks.fail_after(operation);
        let is_done = install(&mut behind, &snapshot).await.is_ok();
        for image in 0..images {
            let mut dice = StdRng::seed_from_u64(operation << 16 ^ image);
            let found = match image {
                0 => disks.after_power_loss(|| false),
                1 => disks.after_power_loss(|| true),
                _ => disks.after_power_loss(|| dice.random_bool(0.5)),
            };
            seen.checked += 1;
            let found = match Member::in_memory(&found, true) {
                Ok(mut found) => found.summary().await,
                Err(error) => {
                    seen.wrong.push(format!("operation {operation}, image {image}: {error}"));
                    continue;
                }
            };
            seen.installed += u64::from(found == new);
            if found != new && (found != old || is_done) {
                seen.wrong
                    .push(format!("operation {operation}, image {image}: {found:?}; {old:?} or {new:?}"));
            }
        }
        if is_done {
            return seen;
        }
    }
    unreachable!("an install has an end")
}

#[tokio::test]
async fn a_power_loss_in_any_operation_of_an_install_leaves_the_old_state_or_the_new_one() {
    let Images { checked, installed, wrong } = power_losses(None).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    tell!("contract: {checked} images of an install, {installed} of them after it, nothing lost");
    assert!(installed > 0 && installed < checked, "the power fails before and after the install");
}

#[test]
fn a_power_loss_finds_a_name_that_was_not_synced() {
    let Images { checked, wrong, .. } = threads::wait(power_losses(Some(Bug::SwapNotSynced)));
    tell!("contract: SwapNotSynced found in {} of {checked} images", wrong.len());
    assert!(!wrong.is_empty());
}

/// A bit of the file changes between the receipt of a snapshot and its install, or after it.
#[test]
fn a_flipped_bit_of_a_received_snapshot_is_never_served() {
    let test = "raft::snapshot::tests::a_flipped_bit_of_a_received_snapshot_is_never_served";
    let Some(apart) = flips::apart(test, &[SNAP], flips::wanted(40)) else { return };
    let runtime = || Builder::new_current_thread().enable_all().build().expect("a runtime");
    let made = runtime();
    let (snapshot, mut leader, disks) = made.block_on(small());
    let (applied, rev, hash, _) = made.block_on(leader.summary());
    for flip in apart {
        let found = disks.after_power_loss(|| true);
        let runtime = runtime();
        let member = runtime.block_on(with_flipped_snapshot(&snapshot, &found, flip));
        let met = match member {
            Err(error) => {
                assert!(error.contains(SNAP), "flip {flip}: {error:?} does not name the file");
                Met::Refused
            }
            Ok(mut member) => {
                let found = runtime.block_on(member.summary());
                assert_eq!((found.0, found.1, found.2), (applied, rev, hash), "flip {flip}");
                // redb writes when it closes a file, and may find only then that a page makes no sense.
                runtime.block_on(async { drop(member) });
                Met::Harmless
            }
        };
        // It waits for the threads that close files.
        drop(runtime);
        flips::tell(met);
    }
}

/// Starts a member that has received a snapshot of which a bit has flipped on its disk.
async fn with_flipped_snapshot(
    (header, pieces): &(Bytes, Vec<Piece>),
    disks: &MemoryDisks,
    flip: u64,
) -> Result<Member, String> {
    let mut dice = StdRng::seed_from_u64(flip);
    let mut behind = Member::in_memory(disks, true).expect("no damage");
    let received = behind.receive(header, pieces.iter().cloned().map(Ok).collect()).await;
    let received = received.expect("it is complete");
    let image = disks.files().into_iter().find(|path| path.starts_with(SNAP) && !path.ends_with("db"));
    let image = image.expect("a file beside the database");
    disks.flip_bit(&image, |bits| dice.random_range(0..bits));
    let meta = received.meta.clone();
    let installed = behind.machine.install_snapshot(&meta, received.snapshot).await;
    installed.expect("nobody reads what is in the file");
    drop(behind);
    Member::in_memory(&disks.after_power_loss(|| true), true)
}

/// A member that catches up applies faster than its disk takes it.
#[tokio::test]
async fn what_is_not_on_the_disk_is_bounded() {
    let Member { replica, database, mut machine, mut asked, durable, .. } = Member::new("behind");
    let entries = limits::UNSAVED_BYTES as u64 / 1_000_000 + 20;
    let applied = async {
        let entries = (0..entries).map(|index| Ok((entry(index, 1_000_000), None)));
        machine.apply(stream::iter(entries)).await.expect("entries can be applied");
        drop(machine);
    };
    let answered = async {
        let mut reached = Vec::new();
        while let Some(()) = asked.recv().await {
            // What was asked for again meanwhile is the same checkpoint.
            while asked.try_recv().is_ok() {}
            let unsaved = replica.read().state.mvcc.unsaved_bytes();
            assert!(unsaved < limits::UNSAVED_BYTES + 2_000_000, "{unsaved}");
            let index = replica.read().applied_index();
            reached.push(index);
            let captured = replica.write().capture();
            let (captured, meta) = captured.expect("something was applied");
            let body = database.reader().expect("it can be read");
            let body_before = replica.write().checkpointed(captured.rev, 0, meta, body);
            drop(body_before);
            durable.send_replace(index);
        }
        reached
    };
    let ((), reached) = tokio::join!(applied, answered);
    assert_eq!(reached.len(), 1, "it was asked for early, and waited for once: {reached:?}");
    assert!(reached[0] < entries - 1 && reached[0] > entries / 2, "{reached:?}");
}

/// A purge that goes beyond the log's end is the end of the log on the disk, too: checkpoints wait
/// for the log, and must not wait for what it will never have.
#[tokio::test]
async fn a_checkpoint_does_not_wait_for_entries_that_a_snapshot_replaced() {
    let (mut leader, mut behind) = (leader().await, behind().await);
    let (header, pieces) = leader.pieces().await;
    let received = behind.receive(&header, pieces).await.expect("it is complete");
    behind.machine.install_snapshot(&received.meta, received.snapshot).await.expect("it can be installed");
    behind.log.purge(at(500)).await.expect("the log can be written");
    behind.log.wait_for_disk(500);
}

/// Whatever breaks off leaves no file, and the next attempt begins anew.
#[tokio::test]
async fn what_breaks_off_on_the_way_changes_nothing() {
    let (mut leader, mut behind) = (leader().await, behind().await);
    let old = behind.summary().await;
    let refused = |pieces, header: Bytes, reason: &'static str| {
        let behind = &behind;
        async move {
            let error = behind.receive(&header, pieces).await.expect_err("it is not complete");
            assert!(error.contains(reason), "{error}");
            // The thread may be about to end.
            while files(&behind.home().join("snap")) != ["db"] {
                tokio::task::yield_now().await;
            }
        }
    };
    let (header, mut pieces) = leader.pieces().await;
    pieces.pop();
    refused(pieces, header, "the transfer broke off after").await;

    let (header, mut pieces) = leader.pieces().await;
    pieces[1] = Err("connection reset".to_owned());
    refused(pieces, header, "connection reset").await;

    let (header, mut pieces) = leader.pieces().await;
    let Ok(piece) = &mut pieces[1] else { panic!("a piece") };
    let mut data = piece.data.to_vec();
    data[77] ^= 4;
    piece.data = data.into();
    refused(pieces, header, "is damaged").await;

    let (header, mut pieces) = leader.pieces().await;
    drop(pieces.remove(1));
    refused(pieces, header, "is damaged").await;

    let (_, pieces) = leader.pieces().await;
    let meta = SnapshotMeta { last_log_id: Some(at(499)), ..SnapshotMeta::default() };
    let header = message::encode_snapshot_header(&leader_vote(), &meta, 500);
    refused(pieces, header, "the received data is not the announced state at 499").await;

    assert_eq!(behind.summary().await, old);
    let (header, pieces) = leader.pieces().await;
    let received = behind.receive(&header, pieces).await.expect("it is complete");
    behind.machine.install_snapshot(&received.meta, received.snapshot).await.expect("it can be installed");
    assert_eq!(behind.summary().await.0, 500);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_stored_says_where_and_what_to_do() {
    let mut leader = leader().await;
    let (header, pieces) = leader.pieces().await;
    let disk = MemoryDisk::default();
    disk.fail_at(0);
    let header = Header::decode(header).expect("a header");
    let inbox = Inbox::new(Arc::new(disk), Vec::new(), metrics());
    let error = inbox.receive(header, stream::iter(pieces)).await;
    let error = error.expect_err("the disk fails");
    assert!(error.contains("cannot be stored in image-peer-"), "{error}");
    assert!(error.ends_with("the disk needs free space for a second copy of the whole state"), "{error}");
}

/// The older one may hang for good: whoever sent it is paused.
#[tokio::test]
async fn a_newer_snapshot_takes_the_place_of_one_that_hangs() {
    let (mut leader, behind) = (leader().await, behind().await);
    let inbox = &behind.inbox;
    let (header, mut pieces) = leader.pieces().await;
    let first = pieces.remove(0);
    let begun = Arc::new(Notify::new());
    let hanging = {
        let begun = begun.clone();
        stream::unfold(Some(first), move |first| {
            let begun = begun.clone();
            async move {
                if first.is_none() {
                    begun.notify_one();
                    std::future::pending::<()>().await;
                }
                first.map(|first| (first, None))
            }
        })
    };
    let older = inbox.receive(Header::decode(header).expect("a header"), Box::pin(hanging));
    let newer = async {
        begun.notified().await;
        let (header, pieces) = leader.pieces().await;
        inbox.receive(Header::decode(header).expect("a header"), stream::iter(pieces)).await
    };
    let (older, newer) = tokio::join!(older, newer);
    assert_eq!(older.expect_err("it hangs"), "another snapshot is arriving");
    assert_eq!(newer.expect("it is complete").meta.last_log_id, Some(at(500)));
}

#[tokio::test]
async fn a_part_is_read_as_it_was_written() {
    let mut leader = leader().await;
    let (_, pieces) = leader.pieces().await;
    let mut records = 0;
    for (number, piece) in pieces.iter().enumerate() {
        let data = &piece.as_ref().expect("a piece").data;
        assert!(data.len() < limits::STRETCH_BYTES + 4096, "{}", data.len());
        let part = Part::decode(data.clone()).expect("a part");
        assert_eq!(part.is_last, number == pieces.len() - 1);
        assert_eq!(part.encode(), data);
        records += part.content.records.len();
    }
    assert_eq!(records, 501);
    assert!(Part::decode(Bytes::from_static(b"\xff\xff")).is_err());
}

/// Records and cells of any size travel, for no piece is larger than a message may be.
#[tokio::test]
async fn what_is_larger_than_a_piece_travels_in_several() {
    let (mut leader, mut behind) = (leader().await, behind().await);
    leader.write([entry(501, 3 * limits::SNAPSHOT_PIECE_BYTES + 77)].into_iter()).await;
    let granted = |bytes: usize| {
        let mut role = [0_i32.to_be_bytes(), u32::try_from(bytes).expect("a length").to_be_bytes()].concat();
        role.resize(role.len() + bytes, b'k');
        role.extend_from_slice(&0_u32.to_be_bytes());
        (Table::AuthRole, Bytes::from_static(b"role"), Some(role.into()))
    };
    let cells = vec![granted(5 * limits::SNAPSHOT_PIECE_BYTES)];
    let checkpoint = crate::storage::Checkpoint { cells, ..Default::default() };
    leader.database.commit(&checkpoint).expect("a commit");

    let (header, pieces) = leader.pieces().await;
    let lengths = pieces.iter().map(|piece| piece.as_ref().expect("a piece").data.len());
    assert_eq!(lengths.max(), Some(limits::SNAPSHOT_PIECE_BYTES));
    let received = behind.receive(&header, pieces).await.expect("it is complete");
    behind.machine.install_snapshot(&received.meta, received.snapshot).await.expect("it can be installed");
    assert_eq!(behind.summary().await.2, leader.summary().await.2);

    // A part that does not come to its end is none.
    let (header, mut pieces) = leader.pieces().await;
    let in_the_middle = pieces.iter().rposition(|piece| piece.as_ref().is_ok_and(|piece| piece.is_continued));
    pieces.truncate(in_the_middle.expect("a cell is larger than a piece") + 1);
    let error = behind.receive(&header, pieces).await.expect_err("it is not complete");
    assert!(error.starts_with("the transfer broke off after"), "{error}");
}

/// The log behind a snapshot is kept from when it is pinned until the peer is known to have it.
#[test]
fn the_log_behind_a_snapshot_is_kept_until_it_is_installed() {
    let outgoing = Outgoing::default();
    let meta = |index| SnapshotMeta { last_log_id: Some(at(index)), ..SnapshotMeta::default() };
    let progress = |pairs: &[(u64, u64)]| pairs.iter().copied().collect::<BTreeMap<_, _>>();
    assert_eq!(outgoing.needed_after(&progress(&[(2, 0), (3, 0)])), None);
    let to_two = UnderWay::begin(&outgoing, 2, &meta(100));
    let to_three = UnderWay::begin(&outgoing, 3, &meta(90));
    assert_eq!(outgoing.needed_after(&progress(&[(2, 0), (3, 0)])), Some(90));
    to_two.installed();
    let rests = [to_three.broken(), UnderWay::begin(&outgoing, 3, &meta(95)).broken()];
    assert_eq!(rests[1], rests[0] * 2);
    // Consensus has not heard yet.
    assert_eq!(outgoing.needed_after(&progress(&[(2, 99), (3, 0)])), Some(100));
    assert_eq!(outgoing.needed_after(&progress(&[(2, 100), (3, 0)])), None);
    // Whoever does not lead keeps nothing for others.
    UnderWay::begin(&outgoing, 2, &meta(200)).installed();
    assert_eq!(outgoing.needed_after(&progress(&[])), None);
}

/// A part is held in memory until its last piece has arrived, which need not be ever.
#[tokio::test]
async fn a_part_without_an_end_is_given_up() {
    let mut leader = Member::new("the leader");
    leader.write((0..3).map(|index| entry(index, 100))).await;
    let (header, _) = leader.pieces().await;
    let data = Bytes::from(vec![0; limits::SNAPSHOT_PIECE_BYTES]);
    let piece = Piece { crc32c: crc32c::crc32c(&data), data, is_continued: true };
    let count = limits::SNAPSHOT_PART_BYTES_MAX / limits::SNAPSHOT_PIECE_BYTES + 1;
    let follower = Member::new("the follower");
    let reason = follower.receive(&header, vec![Ok(piece); count]).await.expect_err("it is given up");
    assert!(reason.contains("a part of more than"), "{reason}");
}
