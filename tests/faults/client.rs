//! One client: which request it sends next, and how it uses the answer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{self, MissedTickBehavior};
use tonic::transport::Channel;

use crate::{
    history::{Compare, Operation, Outcome, Request, Stored, Txn, Write},
    load::{self, Shared},
    pb::etcdserverpb::kv_client::KvClient,
    wire,
};

/// Keys are `a/0` to `e/3`: so few that several clients use each of them.
pub(crate) const GROUPS: [char; 5] = ['a', 'b', 'c', 'd', 'e'];
const GROUP_KEYS: u64 = 4;

/// How long a client waits for an answer: longer than an election, shorter than a fault.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_millis(2500);

pub(crate) struct Client {
    number: usize,
    /// The member that is asked next.
    member: usize,
    keeps_to_member: bool,
    shared: Arc<Shared>,
    /// The connections, by endpoint.
    connections: BTreeMap<String, KvClient<Channel>>,
    /// The last values of keys that this client saw, for comparisons.
    known: BTreeMap<String, Stored>,
    /// A key of the last write, if its outcome is unknown.
    doubt: Option<String>,
    operations: Vec<Operation>,
}

impl Client {
    pub(crate) fn new(number: usize, keeps_to_member: bool, shared: Arc<Shared>) -> Client {
        Client {
            number,
            member: number % load::MEMBERS,
            keeps_to_member,
            shared,
            connections: BTreeMap::new(),
            known: BTreeMap::new(),
            doubt: None,
            operations: Vec::new(),
        }
    }

    /// Sends requests until the load is over.
    pub(crate) async fn run(mut self, interval: Duration) -> Vec<Operation> {
        let mut pace = time::interval(interval);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.shared.is_over() {
            pace.tick().await;
            let request = self.choose();
            let operation = self.ask(request).await;
            self.learn(&operation);
            self.operations.push(operation);
            if !self.keeps_to_member {
                self.member = (self.member + 1) % load::MEMBERS;
            }
        }
        self.operations
    }

    /// Makes one linearizable read at `member`, and keeps the connection.
    pub(crate) async fn read_at(&mut self, member: usize) {
        self.member = member;
        let key = format!("{}/{}", GROUPS[self.number % GROUPS.len()], 0);
        let operation = self.ask(Request::Get { key, serializable: false }).await;
        self.operations.push(operation);
    }

    pub(crate) fn into_operations(self) -> Vec<Operation> {
        self.operations
    }

    fn choose(&self) -> Request {
        if let Some(key) = &self.doubt {
            return Request::Get { key: key.clone(), serializable: false };
        }
        let group = GROUPS[rand::random_range(0..GROUPS.len())];
        let number = rand::random_range(0..GROUP_KEYS);
        let key = format!("{group}/{number}");
        let prefix = format!("{group}/");
        match rand::random_range(0..100) {
            0..25 => Request::Put { key, value: self.shared.new_value() },
            25..33 => Request::Delete { key },
            33..51 => Request::Get { key, serializable: false },
            51..61 => Request::Get { key, serializable: true },
            61..69 => Request::List { prefix, serializable: false },
            69..73 => Request::List { prefix, serializable: true },
            _ => {
                let shift = rand::random_range(1..GROUP_KEYS);
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
        let otherwise = if rand::random_range(0..4) == 0 {
            Write::Delete { key: another }
        } else {
            Write::Get { key: another }
        };
        let mut failure = vec![Write::Get { key: key.clone() }, otherwise];
        if rand::random_range(0..3) == 0 {
            success.push(self.nested(&key, &third));
            failure.insert(0, self.nested(&key, &third));
        }
        Request::Txn(Txn { compares, success, failure })
    }

    /// A transaction within another one. Its comparison is of a key that the other one writes, as it was before, or of
    /// its own key.
    fn nested(&self, outer: &str, key: &str) -> Write {
        let compared = if rand::random_bool(0.5) { outer } else { key };
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
        match (rand::random_range(0..4), known) {
            (0, Some(known)) => Compare::Value { key: of, equal: known.value },
            (1, _) => Compare::Version { key: of, equal: number(|known| known.version) },
            (2, _) => Compare::CreateRevision { key: of, equal: number(|known| known.create_revision) },
            _ => Compare::ModRevision { key: of, equal: number(|known| known.mod_revision) },
        }
    }

    async fn ask(&mut self, request: Request) -> Operation {
        let endpoint = self.shared.endpoint(self.member);
        let connection = self.connections.entry(endpoint);
        let client = connection.or_insert_with_key(|endpoint| KvClient::new(load::connect(endpoint)));
        let is_write = !request.writes().is_empty();
        let called = self.shared.now();
        let asked = time::timeout(REQUEST_TIMEOUT, wire::ask(client, &request)).await;
        let mut returned = Some(self.shared.now());
        let outcome = match asked {
            Ok(Ok((header, answer))) => {
                self.shared.told(self.number, is_write, &header);
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
        Operation { client: self.number, member: self.member, called, returned, request, outcome }
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
