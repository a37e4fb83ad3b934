//! Messages of a peer that were changed at random, given to a follower with a real log.
//!
//! The follower is openraft with its log and its state machine, in one process and without a network.
//! Whatever it is told, consensus goes on, and the log that it leaves can be opened. A run is its seed:
//! one that failed is repeated by its seed, and its seed stays in the list. `RETCD_FUZZ_SECS` has further
//! seeds tried for so long.

use std::{
    collections::BTreeMap,
    env,
    fmt::Debug,
    fs,
    io::{self, Write},
    path::Path,
    thread,
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use openraft::storage::RaftLogStorage;
use prost::Message;
use tempfile::TempDir;
use tokio::time;

use super::*;
use crate::{
    chance::Chance,
    config::Config,
    disk::memory::MemoryDisk,
    limits,
    link::{Peer, tests::unreachable_peers},
    pb::retcd::raft as pb,
    raft::{LeaseClock, LogStore, Parts, RaftStateMachine, Replica, ReplicaLock, Tags, Timing},
    storage::Database,
    sync::watch,
    telemetry::Metrics,
    v2,
    watch::WatchHub,
};

const OWN: u64 = 1;
const LEADER: u64 = 7;

/// Each once found something, or stands for those that did not.
const SEEDS: &[u64] = &[1, 2, 3, 4, 1032];

const MESSAGES: usize = 400;

/// A message that is not answered by then never is.
const HANGS: Duration = Duration::from_secs(30);

struct Follower {
    consensus: Consensus,
    log: LogStore,
    disk: MemoryDisk,
    replica: Arc<ReplicaLock>,
    _home: TempDir,
}

fn open_log(disk: &MemoryDisk, has_begun: bool, replica: &Replica, metrics: Arc<Metrics>) -> LogStore {
    let disk = Arc::new(disk.clone());
    let log = LogStore::open(disk, has_begun, replica.applied(), replica.installed(), 3, None, metrics);
    log.expect("the log can be opened")
}

impl Follower {
    async fn start(chance: Chance) -> Follower {
        let metrics = Arc::new(Metrics::new(&Config::of_flags(&[])));
        let home = tempfile::tempdir().expect("a directory");
        let database = Database::at(&home.path().join("db"), 1 << 20).expect("a database");
        let database = Arc::new(database);
        let replica = Replica::open(database.clone()).expect("a replica");
        let disk = MemoryDisk::default();
        let log = open_log(&disk, false, &replica, metrics.clone());
        let rev = replica.state.mvcc.rev_current();
        let replica = Arc::new(ReplicaLock::new(replica));
        let parts = Parts {
            replica: replica.clone(),
            database,
            checkpointing: Arc::default(),
            entry: Arc::default(),
            ask_for_checkpoint: Box::new(|| {}),
            durable: watch::Sender::new(0).subscribe(),
            hub: Arc::new(Mutex::new(WatchHub::new(rev))),
            v2_hub: Arc::new(Mutex::new(v2::Hub::new(0))),
            leases: Arc::new(LeaseClock::default()),
            logins: Arc::default(),
            tags: Arc::new(Tags::default()),
            applied: watch::Sender::new(0),
            own_cells: Vec::new(),
            metrics: metrics.clone(),
            slow_syncs: log.slow_syncs(),
            warning_apply_duration: Duration::MAX,
            warning_write_duration: Duration::MAX,
        };
        let founders = [OWN, LEADER, 8].map(|id| (id, Peer::default()));
        // It does not stand for election by itself.
        let timing = Timing {
            heartbeat: Duration::from_secs(60),
            election_timeout: Duration::from_secs(3600),
            pre_vote: true,
        };
        let consensus = Consensus::start(
            unreachable_peers(OWN, metrics),
            BTreeMap::from(founders),
            timing,
            chance,
            log.clone(),
            RaftStateMachine::new(OWN, parts),
        );
        let consensus = consensus.await.expect("consensus starts");
        Follower { consensus, log, disk, replica, _home: home }
    }

    /// A message that the leader of the newest term may send now.
    async fn honest(&mut self, chance: &Chance) -> Lie {
        let known = self.consensus.known();
        let state = self.log.get_log_state().await.expect("the log says how it is");
        let last = state.last_log_id.as_ref().map(codec::log_id_message);
        let is_followed = known.vote.leader_id.voted_for == LEADER && known.vote.committed;
        let term = known.vote.leader_id.term + u64::from(!is_followed);
        let vote = |committed| Some(pb::Vote { term, voted_for: LEADER, committed });
        match chance.number() % 8 {
            0 => Lie::Vote(pb::VoteRequest {
                vote: Some(pb::Vote { term: term + 1, voted_for: LEADER, committed: false }),
                last,
                leadership_transfer: chance.number().is_multiple_of(2),
            }),
            1 => Lie::Transfer(pb::TransferRequest { leader: vote(true), target: OWN, last }),
            _ => {
                let next = last.as_ref().map_or(0, |last| last.index + 1);
                let entries = (next..next + chance.number() % 4).map(|index| pb::Entry {
                    term,
                    index,
                    kind: (chance.number() % 5) as u32 % 4,
                    payload: Bytes::new(),
                });
                let entries: Vec<_> = entries.collect();
                let newest = entries.last().map(|entry| pb::LogId { term, index: entry.index });
                Lie::Append(pb::AppendRequest {
                    vote: vote(true),
                    previous: last,
                    committed: newest.or(last),
                    entries,
                })
            }
        }
    }

    /// Whether the message was believed.
    async fn told(&self, kind: MessageKind, message: Bytes) -> bool {
        let answer = self.consensus.handle(LEADER, kind, message);
        let answer = match kind {
            // A member that is to lead answers when its log has come as far as the leader says.
            MessageKind::TransferLeader => answer.now_or_never().unwrap_or(Err(Unreadable.into())),
            _ => time::timeout(HANGS, answer).await.expect("every other message is answered"),
        };
        if let Err(MessageError::Stopped(error)) = answer {
            panic!("consensus has stopped: {error}");
        }
        answer.is_ok()
    }

    /// Ends it. Its log can be opened again.
    async fn end(self) {
        self.consensus.stop().await;
        let Follower { consensus, log, disk, replica, _home } = self;
        drop((consensus, log));
        let metrics = Arc::new(Metrics::new(&Config::of_flags(&[])));
        open_log(&disk, true, &replica.read(), metrics);
    }
}

enum Lie {
    Append(pb::AppendRequest),
    Vote(pb::VoteRequest),
    Transfer(pb::TransferRequest),
}

impl Lie {
    fn numbers(&mut self) -> Vec<&mut u64> {
        fn of_id(id: &mut Option<pb::LogId>) -> impl Iterator<Item = &mut u64> {
            id.iter_mut().flat_map(|id| [&mut id.term, &mut id.index])
        }
        fn of_vote(vote: &mut Option<pb::Vote>) -> impl Iterator<Item = &mut u64> {
            vote.iter_mut().flat_map(|vote| [&mut vote.term, &mut vote.voted_for])
        }
        match self {
            Lie::Append(append) => {
                let entries = append.entries.iter_mut().flat_map(|entry| [&mut entry.term, &mut entry.index]);
                let ids = of_id(&mut append.previous).chain(of_id(&mut append.committed));
                of_vote(&mut append.vote).chain(ids).chain(entries).collect()
            }
            Lie::Vote(request) => of_vote(&mut request.vote).chain(of_id(&mut request.last)).collect(),
            Lie::Transfer(request) => of_vote(&mut request.leader).chain(of_id(&mut request.last)).collect(),
        }
    }

    /// Puts another number in the place of one of them.
    fn twist(&mut self, chance: &Chance) {
        let mut numbers = self.numbers();
        let place = chance.number() as usize % numbers.len();
        let number = &mut *numbers[place];
        *number = match chance.number() % 12 {
            10 => chance.number() % 32,
            11 => number.saturating_sub(chance.number() % 16),
            0 => 0,
            1 => number.wrapping_add(1),
            2 => number.wrapping_sub(1),
            3 => number.wrapping_add(1000),
            4 => limits::TERMS_AHEAD_MAX,
            5 => limits::INDICES_AHEAD_MAX,
            6 => limits::LOG_NUMBER_MAX,
            7 => u64::MAX,
            8 => u64::MAX - 1,
            _ => chance.number(),
        };
    }

    fn encode(&self, chance: &Chance) -> (MessageKind, Vec<u8>) {
        match self {
            Lie::Append(request) => (MessageKind::Append, request.encode_to_vec()),
            Lie::Vote(request) if chance.number().is_multiple_of(2) => {
                (MessageKind::Vote, request.encode_to_vec())
            }
            Lie::Vote(request) => (MessageKind::PreVote, request.encode_to_vec()),
            Lie::Transfer(request) => (MessageKind::TransferLeader, request.encode_to_vec()),
        }
    }
}

fn damage(bytes: &mut Vec<u8>, chance: &Chance) {
    if bytes.is_empty() {
        return;
    }
    let place = chance.number() as usize % bytes.len();
    match chance.number() % 3 {
        0 => bytes[place] = chance.number() as u8,
        1 => bytes.truncate(place),
        _ => bytes.insert(place, chance.number() as u8),
    }
}

/// Names the seed, or the file, of a run that fails.
struct Named<T: Debug>(T);

impl<T: Debug> Drop for Named<T> {
    fn drop(&mut self) {
        if thread::panicking() {
            // Nothing more can be done if that fails.
            let _ = writeln!(io::stderr(), "the run of {:?} fails", self.0);
        }
    }
}

async fn run(seed: u64) -> usize {
    let _named = Named(seed);
    let chance = Chance::seeded(seed);
    let mut follower = Follower::start(chance.clone()).await;
    let mut believed = 0;
    for _ in 0..MESSAGES {
        let mut message = follower.honest(&chance).await;
        let changes = chance.number() % 4;
        (1..changes).for_each(|_| message.twist(&chance));
        let (kind, mut bytes) = message.encode(&chance);
        if chance.number().is_multiple_of(8) {
            damage(&mut bytes, &chance);
        }
        believed += usize::from(follower.told(kind, bytes.into()).await);
    }
    follower.end().await;
    believed
}

#[tokio::test]
async fn whatever_a_peer_says_consensus_goes_on_and_its_log_can_be_opened() {
    for seed in SEEDS {
        let believed = run(*seed).await;
        assert!(believed > MESSAGES / 10, "seed {seed} exercises what is believed: {believed}");
        assert!(believed < MESSAGES, "seed {seed} exercises what is refused");
    }
    let secs = env::var("RETCD_FUZZ_SECS").ok().and_then(|secs| secs.parse().ok()).unwrap_or(0);
    let end = clock::now() + Duration::from_secs(secs);
    let mut seed = 1000;
    while clock::now() < end {
        run(seed).await;
        seed += 1;
    }
}

/// Messages as they once arrived: a line for each, its kind and its bytes in hexadecimal digits.
fn recorded(text: &str) -> Vec<(MessageKind, Bytes)> {
    let message = |line: &str| {
        let (kind, digits) = line.split_once(' ').expect("a kind and bytes");
        let kind = match kind {
            "append" => MessageKind::Append,
            "vote" => MessageKind::Vote,
            "pre-vote" => MessageKind::PreVote,
            "transfer" => MessageKind::TransferLeader,
            other => panic!("no kind of a message: {other}"),
        };
        let digits = digits.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("digits"));
        (kind, digits.map(|pair| u8::from_str_radix(pair, 16).expect("digits")).collect())
    };
    text.lines().filter(|line| !line.starts_with('#')).map(message).collect()
}

/// The messages of `tests/corpus/peer`, each file to a member of its own, one after the other and then all at
/// once.
#[tokio::test]
async fn recorded_messages_leave_a_member_that_goes_on() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/peer");
    let files = fs::read_dir(folder).expect("the corpus is in the tree");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= 5, "the corpus is there");
    for file in files {
        let _named = Named(&file);
        let messages = recorded(&fs::read_to_string(&file).expect("a file"));
        let follower = Follower::start(Chance::seeded(1)).await;
        for (kind, message) in messages.clone() {
            follower.told(kind, message).await;
        }
        follower.end().await;
        let follower = Follower::start(Chance::seeded(1)).await;
        join_all(messages.into_iter().map(|(kind, message)| follower.told(kind, message))).await;
        follower.end().await;
    }
}
