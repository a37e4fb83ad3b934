//! A simple and slow store, with whose answers the replay compares those of the cluster.
//!
//! A request that changes nothing is answered with the current revision; a request that changes something
//! makes the next revision.

use std::collections::BTreeMap;

use super::history::{Answer, Change, ChangeKind, Compare, Request, Response, Stored, Txn, Write};

pub(crate) struct Model {
    pub(crate) revision: i64,
    pub(crate) kvs: BTreeMap<String, Stored>,
}

impl Model {
    pub(crate) fn new() -> Model {
        Model { revision: 1, kvs: BTreeMap::new() }
    }

    /// The answer to a request, and its changes.
    pub(crate) fn evaluate(&self, request: &Request) -> (Answer, Vec<Change>) {
        let mut answer = Answer::default();
        let mut changes = Vec::new();
        match request {
            Request::Get { key, .. } => answer.kvs.extend(self.kvs.get(key).cloned()),
            Request::List { prefix, .. } => {
                let inside = self.kvs.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(prefix));
                answer.kvs.extend(inside.map(|(_, stored)| stored.clone()));
            }
            Request::Put { key, value } => {
                answer.previous = Some(self.kvs.get(key).cloned().into_iter().collect());
                changes.push(self.put(key, *value));
            }
            Request::Delete { key } => {
                answer.previous = Some(self.kvs.get(key).cloned().into_iter().collect());
                changes.extend(self.delete(key));
                answer.deleted = i64::from(!changes.is_empty());
            }
            Request::Txn(txn) => (answer.succeeded, answer.responses) = self.run(txn, &mut changes),
        }
        answer.revision = self.revision + i64::from(!changes.is_empty());
        (answer, changes)
    }

    pub(crate) fn commit(&mut self, changes: &[Change]) {
        self.revision += i64::from(!changes.is_empty());
        for change in changes {
            match change.kind {
                ChangeKind::Put => self.kvs.insert(change.key.clone(), change.stored.clone()),
                ChangeKind::Delete => self.kvs.remove(&change.key),
            };
        }
    }

    /// The comparisons are made with the state before the outermost transaction, which is still that of the model.
    fn run(&self, txn: &Txn, changes: &mut Vec<Change>) -> (bool, Vec<Response>) {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let responses = txn.branch(succeeded).iter().map(|write| self.write(write, changes)).collect();
        (succeeded, responses)
    }

    /// A get sees the earlier changes of its transaction; no key is written twice.
    fn write(&self, write: &Write, changes: &mut Vec<Change>) -> Response {
        match write {
            Write::Put { key, value } => {
                changes.push(self.put(key, *value));
                Response::Put
            }
            Write::Delete { key } => {
                let change = self.delete(key);
                let deleted = i64::from(change.is_some());
                changes.extend(change);
                Response::Deleted(deleted)
            }
            Write::Get { key } => match changes.iter().find(|change| change.key == *key) {
                Some(change) => {
                    Response::Got((change.kind == ChangeKind::Put).then(|| change.stored.clone()))
                }
                None => Response::Got(self.kvs.get(key).cloned()),
            },
            Write::Txn(inner) => {
                let (succeeded, responses) = self.run(inner, changes);
                Response::Txn { succeeded, responses }
            }
        }
    }

    fn put(&self, key: &str, value: u64) -> Change {
        let prev = self.kvs.get(key).cloned();
        let mod_revision = self.revision + 1;
        let stored = Stored {
            key: key.to_owned(),
            value,
            create_revision: prev.as_ref().map_or(mod_revision, |prev| prev.create_revision),
            mod_revision,
            version: prev.as_ref().map_or(1, |prev| prev.version + 1),
        };
        Change { key: key.to_owned(), kind: ChangeKind::Put, stored, prev }
    }

    fn delete(&self, key: &str) -> Option<Change> {
        let prev = self.kvs.get(key).cloned()?;
        let mod_revision = self.revision + 1;
        let stored = Stored { key: key.to_owned(), value: 0, create_revision: 0, mod_revision, version: 0 };
        Some(Change { key: key.to_owned(), kind: ChangeKind::Delete, stored, prev: Some(prev) })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let stored = self.kvs.get(compare.key());
        let number = |of: fn(&Stored) -> i64| stored.map_or(0, of);
        match compare {
            Compare::Value { equal, .. } => stored.is_some_and(|stored| stored.value == *equal),
            Compare::Version { equal, .. } => number(|stored| stored.version) == *equal,
            Compare::CreateRevision { equal, .. } => number(|stored| stored.create_revision) == *equal,
            Compare::ModRevision { equal, .. } => number(|stored| stored.mod_revision) == *equal,
        }
    }
}
