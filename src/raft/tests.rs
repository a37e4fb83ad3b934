//! The contract of a member's stores: what a method has promised is there after the power was lost, and damage is not
//! served.
//!
//! A script of a member's work (votes, entries, entries cut off, checkpoints, entries let go of, values moved,
//! defragmentation) is
//! run again and again, and the power fails at each of its disk operations in turn. Of what was not synced, nothing,
//! all, or a random part survives. The next start must find the state before the action that failed, or the one
//! after it.

use std::{
    collections::BTreeMap,
    env,
    io::{self, Write as _},
    panic,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::FutureExt;
use openraft::{
    EntryPayload,
    storage::{IOFlushed, RaftLogStorage},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    codec,
    flips::{self, Met},
    log_store::LogStore,
    replica::Replica,
    start_up::catch_up,
    typ::{Batch, Entry, Vote},
};
use crate::{
    apply::{Command, Put},
    config::Config,
    disk::{Disks, memory::MemoryDisks},
    limits::Knob,
    planted::{self, Bug},
    storage::{Database, StorageError, Values},
    telemetry::Metrics,
    types::{Caller, LeaseId, Revision},
    wal::LogPosition,
};

/// A line for whoever runs the test with `--nocapture`.
macro_rules! tell {
    ($($what:tt)*) => {
        // Nobody is harmed if it cannot be written.
        let _ = writeln!(io::stdout(), $($what)*);
    };
}

/// What the stores hold, as far as the script knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Promised {
    vote: Option<(u64, bool)>,
    /// The terms of entries, by index.
    entries: BTreeMap<u64, u64>,
    purged: Option<u64>,
    /// The last entry that the database holds.
    applied: Option<u64>,
}

impl Promised {
    fn last(&self) -> Option<u64> {
        self.entries.keys().next_back().copied().or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last + 1)
    }
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Vote,
    Append {
        count: u64,
    },
    /// Cuts off entries that were not applied.
    Truncate {
        count: u64,
    },
    Checkpoint,
    Purge {
        kept: u64,
    },
    Defragment,
    /// Moves values out of files of which little is needed, and removes the files that are not.
    MoveValues,
}

fn script(seed: u64, length: usize) -> Vec<Action> {
    let mut dice = StdRng::seed_from_u64(seed);
    let action = |_| match dice.random_range(0..13) {
        0 | 1 => Action::Vote,
        2..=6 => Action::Append { count: dice.random_range(1..6) },
        7 => Action::Truncate { count: dice.random_range(1..4) },
        8 | 9 => Action::Checkpoint,
        10 => Action::Purge { kept: dice.random_range(0..5) },
        11 => Action::MoveValues,
        _ => Action::Defragment,
    };
    (0..length).map(action).collect()
}

struct Stores {
    database: Arc<Database>,
    replica: Replica,
    log: LogStore,
}

const SNAP: &str = "/member/snap";
const WAL: &str = "/member/wal";

impl Stores {
    fn open(disks: &MemoryDisks, has_begun: bool) -> Result<Stores, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let open = |path: &str| disks.open(Path::new(path)).map_err(|error| text(&error));
        let values = Arc::new(Values::open(open(WAL)?).map_err(|error| text(&error))?);
        let database = Database::open_with(open(SNAP)?, Path::new("db"), 1024 * 1024, Some(values));
        let database = Arc::new(database.map_err(|error| text(&error))?);
        // As a start does.
        let reader = database.reader().map_err(|error| text(&error))?;
        reader.check_cells().map_err(|error| text(&error))?;
        drop(reader);
        let replica = Replica::open(database.clone()).map_err(|error| text(&error))?;
        let metrics = Arc::new(Metrics::new(&Config::of_flags(&[])));
        let log = LogStore::open(
            open(WAL)?,
            has_begun,
            replica.applied(),
            replica.installed(),
            1,
            database.values().cloned(),
            metrics,
        );
        Ok(Stores { database, replica, log: log.map_err(|error| text(&error))? })
    }

    /// Does it, and returns what is promised then. `None` if the disk has failed.
    fn act(&mut self, action: Action, before: &Promised) -> (Promised, bool) {
        let mut after = before.clone();
        let term = after.vote.map_or(1, |(term, _)| term);
        let is_reserved = self.log.reserve_next_segment().is_ok();
        let is_done = is_reserved
            && match action {
                Action::Vote => {
                    let is_committed = after.vote.is_some_and(|(_, committed)| !committed);
                    let term = if is_committed { term } else { term + 1 };
                    after.vote = Some((term, is_committed));
                    self.now(|log| log.save_vote(&vote(term, is_committed)).now_or_never())
                }
                Action::Append { count } => {
                    let first = after.next();
                    let entries: Vec<Entry> =
                        (first..first + count).map(|index| entry(term, index)).collect();
                    after.entries.extend((first..first + count).map(|index| (index, term)));
                    self.now(|log| log.append(entries, IOFlushed::noop()).now_or_never())
                }
                Action::Truncate { count } => {
                    let floor = after.applied.max(after.purged).map_or(0, |applied| applied + 1);
                    let from = after.next().saturating_sub(count).max(floor);
                    if from >= after.next() {
                        return (after, true);
                    }
                    after.entries.retain(|index, _| *index < from);
                    let last = after.entries.last_key_value().map(|(index, term)| (*index, *term));
                    if last.is_none() {
                        return (before.clone(), true);
                    }
                    let last = last.map(|(index, term)| codec::log_id(LogPosition { term, index }));
                    self.now(|log| log.truncate_after(last).now_or_never())
                }
                Action::Checkpoint => {
                    after.applied = after.last();
                    catch_up(&self.database, &mut self.replica, &self.log).is_ok()
                }
                Action::Purge { kept } => {
                    let Some(upto) = after.applied.and_then(|applied| applied.checked_sub(kept)) else {
                        return (after, true);
                    };
                    let Some(term) = after.entries.get(&upto).copied() else { return (after, true) };
                    after.entries.retain(|index, _| *index > upto);
                    after.purged = Some(upto);
                    let upto = codec::log_id(LogPosition { term, index: upto });
                    self.now(|log| log.purge(upto).now_or_never())
                }
                Action::Defragment => self.database.defragment(|all| Box::new(all)).is_ok(),
                Action::MoveValues => self.move_values().is_ok(),
            };
        (after, is_done)
    }

    fn move_values(&self) -> Result<(), StorageError> {
        while let Some(mut moving) = self.database.begin_moving(&|_| false) {
            while !self.database.move_some(&mut moving)?.is_done {}
        }
        self.database.sweep_values().map(drop)
    }

    /// A log of a sole member writes at once.
    fn now(&mut self, act: impl FnOnce(&mut LogStore) -> Option<Result<(), io::Error>>) -> bool {
        act(&mut self.log).is_some_and(|done| done.is_ok())
    }

    /// What is there.
    fn found(&mut self) -> Promised {
        let vote = self.log.vote();
        let state = self.log.get_log_state().now_or_never().expect("it is known").expect("it is known");
        let purged = state.last_purged_log_id.map(|purged| purged.index);
        let entries = self
            .log
            .entries_after(0, false)
            .into_iter()
            .map(|entry| (entry.log_id.index, entry.log_id.leader_id.term));
        Promised {
            vote: vote.map(|vote| (vote.leader_id.term, vote.committed)),
            entries: entries.collect(),
            purged,
            applied: self.replica.applied().map(|applied| applied.index),
        }
    }
}

fn vote(term: u64, committed: bool) -> Vote {
    let leader_id = openraft::vote::leader_id_std::LeaderId { term, voted_for: 1 };
    Vote { leader_id, committed }
}

fn entry(term: u64, index: u64) -> Entry {
    let put = Put::new(format!("k{}", index % 17).into(), Some(value(index)), Some(LeaseId::NONE), false);
    let commands = vec![Command::Put(put).by(Caller::Nobody)].into();
    let log_id = codec::log_id(LogPosition { term, index });
    Entry { log_id, payload: EntryPayload::Normal(Batch { commands, tag: None, began: None }) }
}

/// Some of them are large enough to be left to the log.
fn value(index: u64) -> Bytes {
    vec![index as u8; 200 + (index as usize * 37) % 900].into()
}

/// Directories, and the stores that were begun there.
fn begun() -> (MemoryDisks, Stores) {
    let disks = MemoryDisks::default();
    for path in [SNAP, WAL] {
        disks.make(Path::new(path)).expect("the power is on");
    }
    let stores = Stores::open(&disks, false).expect("the power is on");
    (disks, stores)
}

/// Checks an image against the states that it may be in.
fn check(image: &MemoryDisks, allowed: [&Promised; 2], what: &str) {
    let mut stores = Stores::open(image, true).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = stores.found();
    let [before, after] = allowed;
    let is_vote = found.vote == before.vote || found.vote == after.vote;
    let of_log = |promised: &Promised| (promised.entries.clone(), promised.purged);
    let is_log = of_log(&found) == of_log(before) || of_log(&found) == of_log(after);
    let is_applied = found.applied == before.applied || found.applied == after.applied;
    assert!(is_vote && is_log && is_applied, "{what}: found {found:?}\nbefore {before:?}\nafter {after:?}");
    // Every entry writes one revision, so the database and the log together hold all of them.
    let Stores { database, replica, log } = &mut stores;
    catch_up(database, replica, log).unwrap_or_else(|error| panic!("{what}: {error}"));
    let revisions = found.last().map_or(0, |last| last + 1);
    assert_eq!(replica.state.mvcc.rev_current().0 as u64, 1 + revisions, "{what}: {found:?}");
    let reader = database.reader().expect("the power is on");
    for item in reader.records(Revision::default()).expect("the power is on") {
        let (revision, record) = item.unwrap_or_else(|error| panic!("{what}: {error}"));
        let expected = value(revision.main.0 as u64 - 2);
        assert_eq!(record.key_value().value, expected, "{what}: revision {revision}");
    }
}

/// Small, so that much happens in a short script.
fn set_knobs() {
    Knob::SegmentBytes.set(64 * 1024);
    Knob::ValueApartBytes.set(800);
}

/// Runs the script with a power that fails at `operation`, and checks `images` of what is found then. False if the
/// script came to its end before.
fn crash(seed: u64, actions: &[Action], operation: u64, images: u64) -> bool {
    let (disks, mut stores) = begun();
    disks.fail_after(operation);
    let mut promised = Promised::default();
    for (number, action) in actions.iter().enumerate() {
        let (after, is_done) = stores.act(*action, &promised);
        if !is_done {
            let what = format!("seed {seed}, operation {operation}, action {number} {action:?}");
            for image in 0..images {
                let mut dice = StdRng::seed_from_u64(seed ^ operation << 16 ^ image);
                let found = match image {
                    0 => disks.after_power_loss(|| false),
                    1 => disks.after_power_loss(|| true),
                    _ => disks.after_power_loss(|| dice.random_bool(0.5)),
                };
                check(&found, [&promised, &after], &format!("{what}, image {image}"));
            }
            return true;
        }
        promised = after;
    }
    false
}

/// A few images in every run of the tests; `scripts/sim --contract` checks 20,000.
#[test]
fn what_was_promised_is_there_after_a_power_loss() {
    let number = |name: &str, default: u64| {
        env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
    };
    let (seeds, stride, images) = (
        number("RETCD_CONTRACT_SEEDS", 1),
        number("RETCD_CONTRACT_STRIDE", 7),
        number("RETCD_CONTRACT_IMAGES", 3),
    );
    set_knobs();
    let (mut checked, mut operations) = (0, 0);
    for seed in 0..seeds {
        let actions = script(seed, 60);
        let mut operation = 0;
        while crash(seed, &actions, operation, images) {
            checked += images;
            operation += stride;
        }
        operations += operation;
    }
    tell!("contract: {checked} images of {seeds} scripts with {operations} operations, nothing lost");
    assert!(checked > 60, "a script has operations");
}

/// The contract is tested as well: it finds bugs that break a promise of the stores. Some of them a simulated cluster hardly
/// ever suffers from, such as a vote that is forgotten: somebody has to ask for the same vote again.
#[test]
fn the_contract_finds_planted_bugs() {
    set_knobs();
    for bug in [Bug::AckBeforeSync, Bug::VoteNotSynced, Bug::TruncateNotLogged, Bug::ForgetAppliedId] {
        planted::plant(Some(bug));
        let mut images = 0;
        let found = (0..10).find(|seed| {
            let actions = script(*seed, 60);
            let crashes = || {
                let mut operation = 0;
                while crash(*seed, &actions, operation, 3) {
                    images += 3;
                    operation += 7;
                }
            };
            panic::catch_unwind(panic::AssertUnwindSafe(crashes)).is_err()
        });
        planted::plant(None);
        tell!("contract: {bug:?} found by script {found:?}, after {images} sound images");
        assert!(found.is_some(), "the contract does not find {bug:?}");
    }
}

/// A start on a damaged file is refused with its name, or finds everything as it was: the bit was in a part that holds
/// nothing. redb panics where it cannot parse a page; the process ends there with the name of the file (see
/// `storage::Inside`). In the log nothing does.
#[test]
fn a_flipped_bit_is_never_served() {
    let flips = flips::wanted(60);
    let kinds = [SNAP, WAL];
    let Some(apart) = flips::apart("raft::tests::a_flipped_bit_is_never_served", &kinds, flips) else {
        return;
    };
    set_knobs();
    let (disks, mut stores) = begun();
    let mut promised = Promised::default();
    for action in script(5, 60).into_iter().chain([Action::Checkpoint, Action::Append { count: 5 }]) {
        let (after, is_done) = stores.act(action, &promised);
        assert!(is_done, "the power is on");
        promised = after;
    }
    drop(stores);
    let whole = disks.after_power_loss(|| true);
    let served = {
        let state = Stores::open(&whole.after_power_loss(|| true), true).expect("no damage").replica.state;
        (state.mvcc.rev_current(), state.mvcc.keys_live())
    };
    check(&whole.after_power_loss(|| true), [&promised, &promised], "without damage");
    for number in apart {
        let (kind, flip) = (kinds[(number / flips) as usize], number % flips);
        let files: Vec<_> = whole.files().into_iter().filter(|path| path.starts_with(kind)).collect();
        let mut dice = StdRng::seed_from_u64(flip);
        let image = whole.after_power_loss(|| true);
        let file = &files[dice.random_range(0..files.len())];
        image.flip_bit(file, |bits| dice.random_range(0..bits));
        let mut stores = match Stores::open(&image, true) {
            Ok(stores) => stores,
            Err(error) => {
                assert!(error.contains(kind), "flip {flip} of {file:?}: {error:?} does not name the file");
                flips::tell(Met::Refused);
                continue;
            }
        };
        // A flip in the last frame looks like one that was only partly written.
        let found = stores.found();
        let lost = promised.last() != found.last();
        assert!(found == promised || (kind == WAL && lost), "flip {flip} of {file:?}: {found:?}");
        let state = &stores.replica.state.mvcc;
        assert_eq!((state.rev_current(), state.keys_live()), served, "flip {flip} of {file:?}");
        // redb writes when it closes a file, and may find only then that a page makes no sense.
        drop(stores);
        flips::tell(Met::Harmless);
    }
}
