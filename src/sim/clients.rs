//! Clients that write and read, and record their requests and answers.
//!
//! Some keep to a member, the others use all in turn. All use the same few keys, so that they affect each other.
//! Every value is written once, so a value identifies its write. A client has one request in progress; after a
//! write without an answer it first reads, because unknown outcomes multiply the work of the judges.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time;
use tonic::{Code, Status};

use super::{
    dice::Dice,
    judges::{
        history::{Compaction, Compare, Operation, Outcome, Request, Stored, Txn, Write},
        wire,
    },
    logins::{DOUBT, Permitted, Tokens, User},
    network::{Network, Port, Wire},
    pb::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, kv_client::KvClient},
};
use crate::sync::watch;

const GROUPS: [char; 4] = ['a', 'b', 'c', 'd'];
const GROUP_KEYS: u64 = 4;

/// A little more than the fault has.
const DRIFT_PER_MILLE: u32 = 60;

/// How long a client waits for an answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_millis(2500);

/// What all clients of a world share.
pub(super) struct Shared {
    network: Network,
    /// Where the clients are.
    host: usize,
    pub(super) members: usize,
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    /// By how much the clocks of the members may differ from the world's within a time, in thousandths of it.
    drift_per_mille: u32,
    is_over: AtomicBool,
    next_value: AtomicU64,
    pub(super) answered: AtomicU64,
    /// The newest revision in any answer.
    revision: AtomicI64,
    /// The revision that watchers must reach before they end, once it is known.
    pub(super) last_revision: watch::Sender<Option<i64>>,
    pub(super) operations: Mutex<Vec<Operation>>,
    pub(super) compactions: Mutex<Vec<Compaction>>,
    /// What clients saw that may not be, and which judge says so.
    pub(super) violations: Mutex<Vec<(&'static str, String)>>,
    /// Who holds the lock, and who leads.
    holders: Mutex<BTreeMap<&'static str, Holder>>,
    pub(super) elections_won: AtomicU64,
    /// What was told of who leads.
    pub(super) leaders_told: Mutex<Vec<Told>>,
    /// Whether calls are of users, and their tokens.
    needs_users: bool,
    pub(super) tokens: Arc<Tokens>,
    pub(super) permitted: Mutex<Permitted>,
    pub(super) logins: AtomicU64,
    pub(super) user_changes: AtomicU64,
    pub(super) permissions_judged: AtomicU64,
    /// How often the alarm for a full database was changed or about to be changed, and whether it is active, if that is
    /// known.
    alarm: Mutex<(u64, Option<bool>)>,
    /// A change of the alarm without an answer may still come until then.
    alarm_doubtful_until: Mutex<Duration>,
    /// Writes that were refused because of the alarm.
    pub(super) alarm_refusals: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        network: Network,
        host: usize,
        members: usize,
        needs_users: bool,
        clocks_drift: bool,
        clock: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Arc<Shared> {
        Arc::new(Shared {
            network,
            host,
            members,
            clock: Box::new(clock),
            drift_per_mille: if clocks_drift { DRIFT_PER_MILLE } else { 0 },
            is_over: AtomicBool::new(false),
            next_value: AtomicU64::new(1),
            answered: AtomicU64::new(0),
            revision: AtomicI64::new(0),
            last_revision: watch::Sender::new(None),
            operations: Mutex::default(),
            compactions: Mutex::default(),
            violations: Mutex::default(),
            holders: Mutex::default(),
            elections_won: AtomicU64::new(0),
            leaders_told: Mutex::default(),
            needs_users,
            tokens: Arc::default(),
            permitted: Mutex::default(),
            logins: AtomicU64::new(0),
            user_changes: AtomicU64::new(0),
            permissions_judged: AtomicU64::new(0),
            alarm: Mutex::new((0, Some(false))),
            alarm_doubtful_until: Mutex::default(),
            alarm_refusals: AtomicU64::new(0),
        })
    }

    pub(super) fn now(&self) -> Duration {
        (self.clock)()
    }

    /// Until when a lease with this TTL certainly lives, whatever the clocks do.
    pub(super) fn certain_until(&self, lives_until: Duration, ttl: Duration) -> Duration {
        lives_until.saturating_sub(ttl * self.drift_per_mille / 1000)
    }

    pub(super) fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// For calls of the load.
    pub(super) fn wire(&self, member: usize) -> Wire {
        self.wire_of(member, User::Load)
    }

    /// For calls that only an administrator may make.
    pub(super) fn admin_wire(&self, member: usize) -> Wire {
        self.wire_of(member, User::Root)
    }

    pub(super) fn wire_of(&self, member: usize, user: User) -> Wire {
        let wire = self.plain_wire(member);
        if self.needs_users { wire.by(self.tokens.clone(), user) } else { wire }
    }

    /// For calls of nobody.
    pub(super) fn plain_wire(&self, member: usize) -> Wire {
        self.network.wire(self.host, member, Port::Client)
    }

    pub(super) fn alarm(&self) -> (u64, Option<bool>) {
        *self.alarm.lock()
    }

    pub(super) fn alarm_is(&self, is_active: Option<bool>) {
        let mut alarm = self.alarm.lock();
        *alarm = (alarm.0 + 1, is_active);
    }

    pub(super) fn new_value(&self) -> u64 {
        self.next_value.fetch_add(1, Relaxed)
    }

    pub(super) fn violated(&self, judge: &'static str, what: String) {
        self.violations.lock().push((judge, what));
    }

    pub(super) fn alarm_doubtful_until(&self) -> Duration {
        *self.alarm_doubtful_until.lock()
    }

    /// The alarm was to be changed, and there was no answer.
    pub(super) fn doubt_alarm(&self) {
        *self.alarm_doubtful_until.lock() = self.now() + DOUBT;
    }

    /// A client has got what one can have at a time, by its key, and until then at the latest.
    pub(super) fn holds(&self, what: &'static str, client: usize, key: &str, until: Duration) {
        let now = self.now();
        let holder = Holder { client, key: key.to_owned(), until };
        let before = self.holders.lock().insert(what, holder);
        if let Some(other) = before.filter(|other| other.client != client && other.until > now) {
            self.violated(
                "elections and locks",
                format!("client {client} has got {what} at {now:?}, which is not free: {other:?}"),
            );
        }
    }

    pub(super) fn releases(&self, what: &'static str, client: usize) {
        let mut holders = self.holders.lock();
        if holders.get(what).is_some_and(|holder| holder.client == client) {
            holders.remove(what);
        }
    }

    pub(super) fn holder(&self, what: &'static str) -> Option<Holder> {
        self.holders.lock().get(what).cloned()
    }

    pub(super) fn record(&self, operation: Operation) {
        self.operations.lock().push(operation);
    }
}

/// What a member has told of the leader of the election, and at which revision.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) revision: i64,
    pub(super) key: String,
}

/// Who holds the lock, or leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    client: usize,
    pub(super) key: String,
    pub(super) until: Duration,
}

pub(super) struct Client {
    number: usize,
    /// The member that is asked next.
    member: usize,
    keeps_to_member: bool,
    dice: Dice,
    shared: Arc<Shared>,
    /// The last values of keys that this client saw, for comparisons.
    known: BTreeMap<String, Stored>,
    /// A key of the last write, if its outcome is unknown.
    doubt: Option<String>,
}

impl Client {
    pub(super) fn new(number: usize, dice: Dice, shared: Arc<Shared>) -> Client {
        Client {
            number,
            member: number % shared.members,
            keeps_to_member: number % 3 != 2,
            dice,
            shared,
            known: BTreeMap::new(),
            doubt: None,
        }
    }

    /// Sends requests until the load is over.
    pub(super) async fn run(mut self, pause: Duration) {
        while !self.shared.is_over() {
            time::sleep(self.dice.between(Duration::ZERO, pause * 2)).await;
            let request = self.choose();
            let operation = ask(&self.shared, self.number, self.member, request).await;
            self.learn(&operation);
            self.shared.record(operation);
            if !self.keeps_to_member {
                self.member = (self.member + 1) % self.shared.members;
            }
        }
    }

    fn choose(&self) -> Request {
        if let Some(key) = &self.doubt {
            return Request::Get { key: key.clone(), serializable: false };
        }
        let group = self.dice.one_of(&GROUPS);
        let number = self.dice.below(GROUP_KEYS);
        let key = format!("{group}/{number}");
        let prefix = format!("{group}/");
        match self.dice.below(100) {
            0..25 => Request::Put { key, value: self.shared.new_value() },
            25..33 => Request::Delete { key },
            33..51 => Request::Get { key, serializable: false },
            51..61 => Request::Get { key, serializable: true },
            61..69 => Request::List { prefix, serializable: false },
            69..73 => Request::List { prefix, serializable: true },
            _ => {
                let shift = self.dice.within(1..GROUP_KEYS);
                let other = |shift| format!("{group}/{}", (number + shift) % GROUP_KEYS);
                self.exchange([key, other(shift), other(shift % (GROUP_KEYS - 1) + 1)])
            }
        }
    }

    /// Writes two keys if the first has the value that this client last saw, and may ask the same of a third one, in
    /// either branch.
    fn exchange(&self, [key, another, third]: [String; 3]) -> Request {
        let compares = vec![self.compare(&key)];
        let mut success = vec![
            Write::Put { key: key.clone(), value: self.shared.new_value() },
            Write::Put { key: another.clone(), value: self.shared.new_value() },
            Write::Get { key: key.clone() },
        ];
        let otherwise = if self.dice.below(4) == 0 {
            Write::Delete { key: another }
        } else {
            Write::Get { key: another }
        };
        let mut failure = vec![Write::Get { key: key.clone() }, otherwise];
        if self.dice.below(3) == 0 {
            success.push(self.nested(&key, &third));
            failure.insert(0, self.nested(&key, &third));
        }
        Request::Txn(Txn { compares, success, failure })
    }

    /// A transaction within another one. Its comparison is of a key that the other one writes, as it was before, or of
    /// its own key.
    fn nested(&self, outer: &str, key: &str) -> Write {
        let compared = if self.dice.flip() { outer } else { key };
        let innermost = Txn {
            compares: vec![self.compare(key)],
            success: vec![Write::Get { key: outer.to_owned() }],
            failure: vec![Write::Delete { key: key.to_owned() }],
        };
        Write::Txn(Txn {
            compares: vec![self.compare(compared)],
            success: vec![
                Write::Put { key: key.to_owned(), value: self.shared.new_value() },
                Write::Get { key: key.to_owned() },
            ],
            failure: vec![Write::Get { key: outer.to_owned() }, Write::Txn(innermost)],
        })
    }

    /// That a key is as this client last saw it.
    fn compare(&self, key: &str) -> Compare {
        let of = key.to_owned();
        let known = self.known.get(key);
        let number = |of: fn(&Stored) -> i64| known.map_or(0, of);
        match (self.dice.below(4), known) {
            (0, Some(known)) => Compare::Value { key: of, equal: known.value },
            (1, _) => Compare::Version { key: of, equal: number(|known| known.version) },
            (2, _) => Compare::CreateRevision { key: of, equal: number(|known| known.create_revision) },
            _ => Compare::ModRevision { key: of, equal: number(|known| known.mod_revision) },
        }
    }

    fn learn(&mut self, operation: &Operation) {
        let written = operation.request.writes();
        match &operation.outcome {
            Outcome::Ok(answer) => {
                self.doubt = None;
                for (key, _) in written {
                    self.known.remove(key);
                }
                self.known.extend(answer.seen().map(|stored| (stored.key.clone(), stored.clone())));
            }
            Outcome::Unknown => self.doubt = written.first().map(|(key, _)| (*key).to_owned()),
            Outcome::Refused => {}
        }
    }
}

/// Asks a member, for as long as a client waits.
pub(super) async fn ask(shared: &Shared, client: usize, member: usize, request: Request) -> Operation {
    let mut connection = KvClient::new(shared.wire(member));
    let is_write = !request.writes().is_empty();
    let called = shared.now();
    let alarm = shared.alarm();
    let asked = time::timeout(REQUEST_TIMEOUT, wire::ask(&mut connection, &request)).await;
    let mut returned = Some(shared.now());
    if alarm == shared.alarm() && matches!(request, Request::Put { .. }) {
        match &asked {
            Ok(Ok(_)) if alarm.1 == Some(true) => {
                let now = shared.now();
                shared.violated(
                    "alarms",
                    format!("{request} was done before {now:?}, although the alarm is active"),
                );
            }
            Ok(Err(status)) if status.code() == Code::ResourceExhausted => {
                shared.alarm_refusals.fetch_add(1, Relaxed);
            }
            _ => {}
        }
    }
    let outcome = match asked {
        Ok(Ok((header, answer))) => {
            shared.answered.fetch_add(1, Relaxed);
            shared.revision.fetch_max(header.revision, Relaxed);
            Outcome::Ok(answer)
        }
        // A read without an answer changes nothing, neither now nor later.
        Ok(Err(status)) if !is_write || wire::is_refusal(&status) => Outcome::Refused,
        Err(_) if !is_write => Outcome::Refused,
        Ok(Err(_)) | Err(_) => {
            returned = None;
            Outcome::Unknown
        }
    };
    Operation { client, member, called, returned, request, outcome }
}

/// The answer to a call, for as long as a client waits.
pub(super) async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("the client has given up");
    time::timeout(REQUEST_TIMEOUT, call).await.map_err(late)?
}

/// Puts a key and deletes it, and compacts up to that deletion, which is the newest revision then. The result is that
/// revision.
pub(super) async fn compact_deletion(shared: Arc<Shared>, member: usize, key: String) -> Result<i64, Status> {
    loop {
        match try_compact_deletion(&shared, member, &key).await {
            // The user has to log in again.
            Err(status) if wire::is_refusal(&status) => time::sleep(Duration::from_millis(100)).await,
            done => return done,
        }
    }
}

async fn try_compact_deletion(shared: &Shared, member: usize, key: &str) -> Result<i64, Status> {
    let mut client = KvClient::new(shared.admin_wire(member));
    let (key, value) = (key.to_owned(), shared.new_value().to_string().into());
    within(client.put(PutRequest { key: key.clone().into(), value, ..PutRequest::default() })).await?;
    let request = DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() };
    let deleted = within(client.delete_range(request)).await?.into_inner();
    let revision = deleted.header.expect("every answer has a header").revision;
    within(client.compact(CompactionRequest { revision, physical: false })).await?;
    Ok(revision)
}

/// Compacts history up to the newest revision that a client has seen, less a few.
pub(super) async fn compact(shared: Arc<Shared>, member: usize, kept: i64) {
    let revision = shared.revision.load(Relaxed) - kept;
    if revision <= 0 {
        return;
    }
    shared.compactions.lock().push(Compaction { called: shared.now(), revision });
    let mut client = KvClient::new(shared.admin_wire(member));
    // The outcome does not matter.
    let _ = within(client.compact(CompactionRequest { revision, physical: false })).await;
}
