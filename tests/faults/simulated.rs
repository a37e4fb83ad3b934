//! A simulated cluster: the history that its clients would record, from a seed, with or without one planted
//! violation. It is used to test the checkers.
//!
//! Time advances in steps. In each step one client or watcher makes progress: it calls, or its request takes
//! effect, or it gets the answer. Members lag behind. Some requests are refused, and some are never answered,
//! of which some are executed, at once or much later.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    history::{
        Answer, Batch, Change, Compare, History, Operation, Outcome, Request, Response, Stored, Txn, Watched,
        Write,
    },
    model::Model,
};

/// The violation, which happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    Nothing,
    LostWrite,
    LostDelete,
    StaleRead,
    DirtyRead,
    RefusedButDone,
    HalfTxn,
    WrongBranch,
    /// A transaction within another one takes the wrong branch.
    WrongInnerBranch,
    DoneTwice,
    MixedList,
    MemberGoesBack,
}

pub(crate) struct Setting {
    pub(crate) seed: u64,
    pub(crate) clients: usize,
    pub(crate) operations: usize,
    /// How many of a thousand requests are not answered.
    pub(crate) unknown: u32,
    /// How many groups of keys the clients use.
    pub(crate) groups: usize,
    /// The violation that is planted as soon as possible after the middle of the run.
    pub(crate) planted: Planted,
}

/// Five groups of four keys: `a/0` to `e/3`.
const GROUPS: [&str; 5] = ["a/", "b/", "c/", "d/", "e/"];
const KEYS_PER_GROUP: usize = 4;
const MEMBERS: usize = 3;

enum Client {
    Idle,
    /// The request was called; with the index of the operation.
    Called(usize),
    Answered(usize, Outcome),
}

pub(crate) struct Simulation {
    setting: Setting,
    rng: StdRng,
    now: Duration,
    model: Model,
    /// The state after each revision, beginning with the first.
    states: Vec<BTreeMap<String, Stored>>,
    changes: Vec<Change>,
    /// How far each member has applied.
    applied: [i64; MEMBERS],
    clients: Vec<Client>,
    /// The last value of each key that each client saw.
    known: Vec<BTreeMap<String, Stored>>,
    /// Requests that are not answered and not executed yet.
    late: Vec<usize>,
    next_value: u64,
    /// The operation with the planted violation.
    planted: Option<usize>,
    history: History,
}

/// The history, if the violation could be planted.
pub(crate) fn run(setting: Setting) -> Option<History> {
    let clients = setting.clients;
    let mut simulation = Simulation {
        rng: StdRng::seed_from_u64(setting.seed),
        now: Duration::ZERO,
        model: Model::new(),
        states: vec![BTreeMap::new()],
        changes: Vec::new(),
        applied: [1; MEMBERS],
        clients: (0..clients).map(|_| Client::Idle).collect(),
        known: vec![BTreeMap::new(); clients],
        late: Vec::new(),
        next_value: 1,
        planted: None,
        history: History::default(),
        setting,
    };
    simulation.run();
    let is_done = simulation.planted.is_some() || simulation.setting.planted == Planted::Nothing;
    is_done.then_some(simulation.history)
}

impl Simulation {
    fn run(&mut self) {
        let prefixes = ["", "", "", "a/", "c/", "e/3"];
        for (watcher, prefix) in prefixes.into_iter().enumerate() {
            self.history.watched.push(Watched {
                watcher,
                member: watcher % MEMBERS,
                prefix: prefix.to_owned(),
                from_revision: if watcher < 3 { 2 } else { self.rng.random_range(2..50) },
                batches: Vec::new(),
                compacted: None,
            });
        }
        while self.history.operations.len() < self.setting.operations
            || !self.clients.iter().all(|client| matches!(client, Client::Idle))
        {
            self.now += Duration::from_micros(self.rng.random_range(1..200));
            let client = self.rng.random_range(0..self.clients.len());
            self.step(client);
            let member = self.rng.random_range(0..MEMBERS);
            self.applied[member] = self.rng.random_range(self.applied[member]..=self.model.revision);
            let watcher = self.rng.random_range(0..4 * self.history.watched.len());
            if watcher < self.history.watched.len() {
                self.watch(watcher);
            }
            if !self.late.is_empty() && self.rng.random_ratio(1, 100) {
                let index = self.late.swap_remove(self.rng.random_range(0..self.late.len()));
                let (_, changes) = self.model.evaluate(&self.history.operations[index].request);
                self.commit(&changes);
            }
        }
        self.now += Duration::from_secs(1);
        self.applied = [self.model.revision; MEMBERS];
        for watcher in 0..self.history.watched.len() {
            while self.watch(watcher) {}
        }
        self.history.final_state = self.model.kvs.values().cloned().collect();
        self.history.final_revision = self.model.revision;
    }

    fn step(&mut self, client: usize) {
        match std::mem::replace(&mut self.clients[client], Client::Idle) {
            Client::Idle => {
                if self.history.operations.len() < self.setting.operations {
                    let request = self.request(client);
                    self.clients[client] = Client::Called(self.history.operations.len());
                    self.history.operations.push(Operation {
                        client,
                        member: self.rng.random_range(0..MEMBERS),
                        called: self.now,
                        returned: None,
                        request,
                        outcome: Outcome::Unknown,
                    });
                }
            }
            Client::Called(index) => {
                let is_lost = self.rng.random_ratio(self.setting.unknown, 2000);
                let is_refused = self.rng.random_ratio(1, 200);
                if is_lost {
                    self.late.push(index);
                } else if is_refused {
                    if self.is_due(Planted::RefusedButDone) {
                        let (_, changes) = self.model.evaluate(&self.history.operations[index].request);
                        self.commit(&changes);
                        self.planted = (!changes.is_empty()).then_some(index);
                    }
                    self.clients[client] = Client::Answered(index, Outcome::Refused);
                } else {
                    let answer = self.apply(index);
                    self.clients[client] = Client::Answered(index, Outcome::Ok(answer));
                }
            }
            Client::Answered(index, outcome) => {
                let is_lost = self.rng.random_ratio(self.setting.unknown, 2000);
                if matches!(outcome, Outcome::Ok(_)) && is_lost && self.planted != Some(index) {
                    return;
                }
                if let Outcome::Ok(answer) = &outcome {
                    let member = &mut self.applied[self.history.operations[index].member];
                    *member = (*member).max(answer.revision.min(self.model.revision));
                    let seen = answer.seen().map(|stored| (stored.key.clone(), stored.clone()));
                    self.known[client].extend(seen);
                }
                self.history.operations[index].returned = Some(self.now);
                self.history.operations[index].outcome = outcome;
            }
        }
    }

    /// Executes the request, or plants the violation.
    fn apply(&mut self, index: usize) -> Answer {
        let Operation { request, member, .. } = self.history.operations[index].clone();
        if self.history.operations[index].is_serializable() {
            return self.apply_serializably(index, &request, member);
        }
        let (mut answer, mut changes) = self.model.evaluate(&request);
        match &request {
            Request::Put { .. } if self.is_due(Planted::LostWrite) => {
                changes.clear();
                self.planted = Some(index);
            }
            Request::Delete { .. } if answer.deleted > 0 && self.is_due(Planted::LostDelete) => {
                changes.clear();
                self.planted = Some(index);
            }
            Request::Put { .. } if self.is_due(Planted::DoneTwice) => {
                self.commit(&changes);
                (answer, changes) = self.model.evaluate(&request);
                self.planted = Some(index);
            }
            Request::Txn(_) if changes.len() > 1 && self.is_due(Planted::HalfTxn) => {
                changes.truncate(1);
                self.planted = Some(index);
            }
            Request::Txn(txn) if !txn.compares.is_empty() && self.is_due(Planted::WrongBranch) => {
                let succeeded = !answer.succeeded;
                (answer, changes) = self.model.evaluate(&Request::Txn(forced(txn, succeeded)));
                answer.succeeded = succeeded;
                self.planted = Some(index);
            }
            Request::Txn(txn) if self.is_due(Planted::WrongInnerBranch) => {
                let mut wrong = txn.clone();
                let branch = if answer.succeeded { &mut wrong.success } else { &mut wrong.failure };
                for (write, response) in branch.iter_mut().zip(&answer.responses) {
                    if let (Write::Txn(inner), Response::Txn { succeeded, .. }) = (write, response) {
                        *inner = forced(inner, !succeeded);
                        self.planted = Some(index);
                    }
                }
                let told = std::mem::take(&mut answer.responses);
                (answer, changes) = self.model.evaluate(&Request::Txn(wrong));
                for (response, right) in answer.responses.iter_mut().zip(told) {
                    if let (Response::Txn { succeeded, .. }, Response::Txn { succeeded: right, .. }) =
                        (response, right)
                    {
                        *succeeded = !right;
                    }
                }
            }
            Request::Get { .. } if self.is_due(Planted::StaleRead) => {
                let old = self.at(self.model.revision - 100);
                let (told, _) = old.evaluate(&request);
                if told.kvs != answer.kvs {
                    answer = told;
                    self.planted = Some(index);
                }
            }
            Request::Get { key, .. } if self.is_due(Planted::DirtyRead) => {
                let refused = self.history.operations.iter().find_map(|operation| match operation {
                    Operation { request: Request::Put { value, .. }, outcome: Outcome::Refused, .. } => {
                        Some(*value)
                    }
                    _ => None,
                });
                let Some(value) = refused else { return answer };
                let revision = self.model.revision;
                let dirty = Model { revision: revision - 1, kvs: self.states[revision as usize - 2].clone() };
                let (_, dirty) = dirty.evaluate(&Request::Put { key: key.clone(), value });
                answer.kvs = dirty.into_iter().map(|change| change.stored).collect();
                self.planted = Some(index);
            }
            _ => {}
        }
        self.commit(&changes);
        answer
    }

    fn apply_serializably(&mut self, index: usize, request: &Request, member: usize) -> Answer {
        let (mut answer, _) = self.at(self.applied[member]).evaluate(request);
        match request {
            Request::List { .. } if self.is_due(Planted::MixedList) => {
                let (other, _) = self.at(self.applied[member] - 100).evaluate(request);
                for stored in &mut answer.kvs {
                    let old = other.kvs.iter().find(|old| old.key == stored.key && *old != stored);
                    if let Some(old) = old.filter(|_| self.planted.is_none()) {
                        *stored = old.clone();
                        self.planted = Some(index);
                    }
                }
            }
            _ if self.is_due(Planted::MemberGoesBack) => {
                // Longer than any client waits.
                answer = self.at(self.applied[member] - 300).evaluate(request).0;
                self.planted = Some(index);
            }
            _ => {}
        }
        answer
    }

    fn is_due(&self, planted: Planted) -> bool {
        self.planted.is_none()
            && self.setting.planted == planted
            && self.history.operations.len() > self.setting.operations / 2
    }

    fn at(&self, revision: i64) -> Model {
        let revision = revision.max(1);
        Model { revision, kvs: self.states[revision as usize - 1].clone() }
    }

    fn commit(&mut self, changes: &[Change]) {
        if !changes.is_empty() {
            self.model.commit(changes);
            self.states.push(self.model.kvs.clone());
            self.changes.extend_from_slice(changes);
        }
    }

    /// Sends a batch or a progress notification; false if everything was sent.
    fn watch(&mut self, watcher: usize) -> bool {
        let watched = &mut self.history.watched[watcher];
        let applied = self.applied[watched.member];
        let last = watched.batches.last().map_or(watched.from_revision - 1, |batch| {
            batch.events.last().map_or(batch.header_revision, |change| change.stored.mod_revision)
        });
        let until = applied.min(last + self.rng.random_range(1..20));
        let up_to = |revision| self.changes.partition_point(|change| change.stored.mod_revision <= revision);
        let changes = &self.changes[up_to(last)..up_to(until.max(last))];
        let is_inside = |change: &&Change| change.key.starts_with(&watched.prefix);
        let events: Vec<Change> = changes.iter().filter(is_inside).cloned().collect();
        if until <= last {
            return false;
        }
        let is_progress = events.is_empty();
        let header_revision = if is_progress { until } else { applied };
        watched.batches.push(Batch { received: self.now, header_revision, events, is_progress });
        true
    }

    fn request(&mut self, client: usize) -> Request {
        let group = self.rng.random_range(0..self.setting.groups);
        let mut key = |shift: usize| {
            let number = (self.rng.random_range(0..KEYS_PER_GROUP / 2) + shift) % KEYS_PER_GROUP;
            format!("{}{number}", GROUPS[group])
        };
        let (one, other) = (key(0), key(KEYS_PER_GROUP / 2));
        let mut value = || {
            self.next_value += 1;
            self.next_value
        };
        match self.rng.random_range(0..100) {
            0..20 => Request::Get { key: one, serializable: false },
            20..28 => Request::Get { key: other, serializable: true },
            28..36 => Request::List { prefix: GROUPS[group].to_owned(), serializable: false },
            36..42 => Request::List { prefix: GROUPS[group].to_owned(), serializable: true },
            42..66 => Request::Put { key: if value() % 2 == 0 { one } else { other }, value: value() },
            66..75 => Request::Delete { key: if value() % 2 == 0 { one } else { other } },
            // The value that the client saw may still be current.
            75..85 => {
                let seen = self.known[client].get(&one);
                let (mod_revision, seen) = seen.map_or((0, 0), |seen| (seen.mod_revision, seen.value));
                let compare = match value() % 2 {
                    0 => Compare::ModRevision { key: one.clone(), equal: mod_revision },
                    _ => Compare::Value { key: one.clone(), equal: seen },
                };
                Request::Txn(Txn {
                    compares: vec![compare],
                    success: vec![
                        Write::Put { key: one.clone(), value: value() },
                        Write::Put { key: other, value: value() },
                        Write::Get { key: one.clone() },
                    ],
                    failure: vec![Write::Get { key: one }],
                })
            }
            // The transaction within is of a key that was just written, as it was before.
            85..89 => {
                let compare = Compare::Version { key: one.clone(), equal: 1 };
                let inner = |value: u64| Txn {
                    compares: vec![compare.clone()],
                    success: vec![Write::Put { key: other.clone(), value }],
                    failure: vec![Write::Get { key: one.clone() }, Write::Delete { key: other.clone() }],
                };
                Request::Txn(Txn {
                    compares: vec![Compare::Version { key: other.clone(), equal: 0 }],
                    success: vec![
                        Write::Put { key: one.clone(), value: value() },
                        Write::Txn(inner(value())),
                        Write::Get { key: other.clone() },
                    ],
                    failure: vec![Write::Txn(inner(value())), Write::Get { key: one.clone() }],
                })
            }
            89..94 => Request::Txn(Txn {
                compares: vec![match value() % 3 {
                    0 => Compare::Version { key: one.clone(), equal: 1 },
                    1 => Compare::Version { key: one.clone(), equal: 0 },
                    _ => Compare::CreateRevision { key: one.clone(), equal: 0 },
                }],
                success: vec![
                    Write::Put { key: one.clone(), value: value() },
                    Write::Get { key: other.clone() },
                ],
                failure: vec![Write::Delete { key: one }, Write::Put { key: other, value: value() }],
            }),
            _ => Request::Txn(Txn {
                compares: Vec::new(),
                success: vec![
                    Write::Get { key: one.clone() },
                    Write::Delete { key: one },
                    Write::Put { key: other, value: value() },
                ],
                failure: Vec::new(),
            }),
        }
    }
}

/// A transaction that takes a branch, whatever its comparisons say.
fn forced(txn: &Txn, succeeded: bool) -> Txn {
    Txn { compares: Vec::new(), success: txn.branch(succeeded).to_vec(), failure: Vec::new() }
}
