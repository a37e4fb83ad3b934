//! A second, slow and simple implementation of the same rules, with a copy of all keys for every revision.
//!
//! The model shares no code with the implementation that it judges. Of a range it implements limit,
//! revision, `keys_only` and `count_only`; sorting and filtering are tested in `mvcc`.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use bytes::Bytes;

use crate::{
    apply::{
        Alarm, AlarmKind, Applied, ApplyError, AuthCommand, Command, Compare, CompareOperator, CompareTarget,
        DeleteRange, Op, OpResult, Outcome, Put, Response, Txn, TxnResult,
    },
    auth::AuthError,
    mvcc::{Range, RangeResult},
    types::{Chunked, Event, EventKind, KeyValue, LeaseId, Rev},
};

type Map = BTreeMap<Bytes, KeyValue>;

pub(super) struct Model {
    /// `history[n]` is the map at revision `n + 1`.
    history: Vec<Map>,
    compacted: i64,
    leases: BTreeSet<LeaseId>,
    alarms: BTreeSet<Alarm>,
    auth: Auth,
}

/// Kind, key and range end of a permission.
type ModelPermission = (i32, Bytes, Bytes);

/// Users and roles as plain lists, in the order in which they came.
#[derive(Default)]
pub(super) struct Auth {
    /// Name, password hash, whether the user never has a password, roles.
    users: Vec<(String, String, bool, Vec<String>)>,
    /// Name, and what it permits: kind, key, range end.
    roles: Vec<(String, Vec<ModelPermission>)>,
    changes: u64,
    is_enabled: bool,
}

/// The map while a command changes it.
struct Work {
    rev: Rev,
    before: Map,
    map: Map,
    events: Chunked<Event>,
}

impl Model {
    pub(super) fn new() -> Model {
        Model {
            history: vec![Map::new()],
            compacted: -1,
            leases: BTreeSet::new(),
            alarms: BTreeSet::new(),
            auth: Auth::default(),
        }
    }

    pub(super) fn auth(&self) -> &Auth {
        &self.auth
    }

    pub(super) fn map(&self) -> &Map {
        self.history.last().expect("there is always a first map")
    }

    fn current(&self) -> Rev {
        Rev(i64::try_from(self.history.len()).expect("few revisions"))
    }

    /// What [`crate::apply::StateMachine::apply`] has to answer when previous pairs are wanted.
    pub(super) fn apply(&mut self, command: &Command) -> Applied {
        let mut work = Work {
            rev: self.current().next(),
            before: self.map().clone(),
            map: self.map().clone(),
            events: Chunked::default(),
        };
        let result = self.refusal(command).map_or(Ok(()), Err).and_then(|()| self.run(command, &mut work));
        if !work.events.is_empty() {
            assert!(result.is_ok(), "the model wrote and then refused");
            self.history.push(work.map);
        }
        Applied { outcome: Outcome { rev: self.current(), result, unread: None }, events: work.events }
    }

    fn refusal(&self, command: &Command) -> Option<ApplyError> {
        let any = |kind| self.alarms.iter().any(|alarm| alarm.kind == kind);
        let (mutates, grows) = match command {
            Command::Put(_) | Command::LeaseGrant { .. } => (true, true),
            Command::Txn(txn) => {
                let ops = || txn.success.iter().chain(&txn.failure);
                (ops().any(|op| !matches!(op, Op::Range(_))), ops().any(has_put))
            }
            Command::DeleteRange(_) | Command::Compact { .. } | Command::LeaseRevoke { .. } => (true, false),
            Command::LeaseCheckpoint { .. }
            | Command::AlarmActivate(_)
            | Command::AlarmDeactivate(_)
            | Command::MemberPublish { .. }
            | Command::Auth(_)
            | Command::V2(_) => (false, false),
        };
        if mutates && any(AlarmKind::Corrupt) {
            Some(ApplyError::Corrupt)
        } else if grows && any(AlarmKind::NoSpace) {
            Some(ApplyError::NoSpace)
        } else {
            None
        }
    }

    fn run(&mut self, command: &Command, work: &mut Work) -> Result<Response, ApplyError> {
        Ok(match command {
            Command::Put(put) => {
                self.check_put(put)?;
                Response::Put { prev_kv: work.put(put) }
            }
            Command::DeleteRange(delete) => {
                let (deleted, prev_kvs) = work.delete(delete);
                Response::DeleteRange { deleted, prev_kvs }
            }
            Command::Txn(txn) => {
                self.check(txn)?;
                Response::Txn(self.execute(txn, work))
            }
            Command::Compact { rev } => {
                if rev.0 <= self.compacted {
                    return Err(ApplyError::Compacted { asked: *rev, compacted: Rev(self.compacted) });
                }
                if *rev > self.current() {
                    return Err(ApplyError::FutureRevision { asked: *rev, current: self.current() });
                }
                self.compacted = rev.0;
                Response::Compact
            }
            Command::LeaseGrant { ttl_secs, .. } if *ttl_secs > 9_000_000_000 => {
                return Err(ApplyError::LeaseTtlTooLarge);
            }
            Command::LeaseGrant { id, ttl_secs } => match self.leases.insert(*id) {
                true => Response::LeaseGrant { id: *id, ttl_secs: *ttl_secs },
                false => return Err(ApplyError::LeaseExists),
            },
            Command::LeaseRevoke { id } => {
                if !self.leases.remove(id) {
                    return Err(ApplyError::LeaseNotFound);
                }
                work.delete_where(|kv| kv.lease == *id);
                Response::LeaseRevoke
            }
            Command::LeaseCheckpoint { .. } => Response::LeaseCheckpoint,
            Command::AlarmActivate(alarm) => {
                self.alarms.insert(*alarm);
                Response::Alarm { alarms: vec![*alarm] }
            }
            Command::AlarmDeactivate(alarm) => {
                let found = self.alarms.remove(alarm);
                Response::Alarm { alarms: found.then_some(*alarm).into_iter().collect() }
            }
            Command::MemberPublish { .. } => Response::MemberPublish,
            Command::Auth(command) => {
                self.auth.run(command)?;
                Response::Auth
            }
            Command::V2(_) => panic!("the model of version 2 is in its own module"),
        })
    }

    fn check_put(&self, put: &Put) -> Result<(), ApplyError> {
        if put.lease.is_some_and(|id| id != LeaseId(0) && !self.leases.contains(&id)) {
            return Err(ApplyError::LeaseNotFound);
        }
        if (put.value.is_none() || put.lease.is_none()) && !self.map().contains_key(&put.key) {
            return Err(ApplyError::KeyNotFound);
        }
        Ok(())
    }

    /// The branch that a transaction takes. Comparisons of nested transactions, too, are made against the
    /// state before the outermost one.
    fn branch<'t>(&self, txn: &'t Txn) -> (bool, &'t [Op]) {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        (succeeded, if succeeded { &txn.success } else { &txn.failure })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let keys: Vec<&KeyValue> = self.map().values().filter(|kv| compare.range.contains(&kv.key)).collect();
        let holds = |version: i64, create: i64, modified: i64, lease: i64, value: Option<&Bytes>| {
            let ordering = match &compare.target {
                CompareTarget::Version(given) => version.cmp(given),
                CompareTarget::CreateRev(given) => create.cmp(given),
                CompareTarget::ModRev(given) => modified.cmp(given),
                CompareTarget::Lease(given) => lease.cmp(given),
                CompareTarget::Value(given) => match value {
                    Some(value) => value.cmp(given),
                    None => return false,
                },
            };
            match compare.operator {
                CompareOperator::Equal => ordering == Ordering::Equal,
                CompareOperator::NotEqual => ordering != Ordering::Equal,
                CompareOperator::Less => ordering == Ordering::Less,
                CompareOperator::Greater => ordering == Ordering::Greater,
                CompareOperator::Unknown => true,
            }
        };
        if keys.is_empty() {
            return holds(0, 0, 0, 0, None);
        }
        keys.iter().all(|kv| holds(kv.version, kv.create_rev.0, kv.mod_rev.0, kv.lease.0, Some(&kv.value)))
    }

    fn check(&self, txn: &Txn) -> Result<(), ApplyError> {
        for op in self.branch(txn).1 {
            match op {
                Op::Put(put) => self.check_put(put)?,
                Op::Txn(inner) => self.check(inner)?,
                Op::DeleteRange(_) => {}
                Op::Range(range) => {
                    let (asked, current) = (Rev(range.rev), self.current());
                    if range.rev != 0 && asked > current {
                        return Err(ApplyError::FutureRevision { asked, current });
                    }
                    if range.rev != 0 && range.rev < self.compacted {
                        return Err(ApplyError::Compacted { asked, compacted: Rev(self.compacted) });
                    }
                }
            }
        }
        Ok(())
    }

    fn execute(&self, txn: &Txn, work: &mut Work) -> TxnResult {
        let (succeeded, ops) = self.branch(txn);
        let responses = ops
            .iter()
            .map(|op| match op {
                Op::Range(range) => {
                    let map = match range.rev {
                        ..=0 => &work.map,
                        rev => &self.history[usize::try_from(rev - 1).expect("checked")],
                    };
                    OpResult::Range { rev: work.rev_so_far(), result: read(map, range) }
                }
                Op::Put(put) => {
                    let prev_kv = work.put(put);
                    OpResult::Put { rev: work.rev_so_far(), prev_kv }
                }
                Op::DeleteRange(delete) => {
                    let (deleted, prev_kvs) = work.delete(delete);
                    OpResult::DeleteRange { rev: work.rev_so_far(), deleted, prev_kvs }
                }
                Op::Txn(inner) => OpResult::Txn(self.execute(inner, work)),
            })
            .collect();
        TxnResult { succeeded, responses }
    }
}

impl Auth {
    fn run(&mut self, command: &AuthCommand) -> Result<(), AuthError> {
        let user = |name: &str| self.users.iter().position(|user| user.0 == name);
        let role = |name: &str| self.roles.iter().position(|role| role.0 == name);
        let has_root =
            self.users.iter().find(|user| user.0 == "root").map(|root| root.3.contains(&"root".to_owned()));
        match command {
            AuthCommand::Enable if self.is_enabled => return Ok(()),
            AuthCommand::Enable => {
                match has_root {
                    None => return Err(AuthError::RootUserNotExist),
                    Some(false) => return Err(AuthError::RootRoleNotExist),
                    Some(true) => self.is_enabled = true,
                }
                return Ok(());
            }
            AuthCommand::Disable if !self.is_enabled => return Ok(()),
            AuthCommand::Disable => self.is_enabled = false,
            AuthCommand::Login { .. } if !self.is_enabled => return Err(AuthError::NotEnabled),
            AuthCommand::Login { auth_rev, .. } if *auth_rev != 1 + self.changes => {
                return Err(AuthError::OldRevision);
            }
            AuthCommand::Login { name, .. } => {
                let at = user(name).ok_or(AuthError::LoginFailed)?;
                return if self.users[at].2 { Err(AuthError::LoginFailed) } else { Ok(()) };
            }
            AuthCommand::UserDelete { name } | AuthCommand::RoleDelete { name }
                if self.is_enabled && name == "root" =>
            {
                return Err(AuthError::InvalidAuthManagement);
            }
            AuthCommand::UserRevokeRole { name, role }
                if self.is_enabled && name == "root" && role == "root" =>
            {
                return Err(AuthError::InvalidAuthManagement);
            }
            AuthCommand::UserAdd { name, .. } if name.is_empty() => return Err(AuthError::UserEmpty),
            AuthCommand::UserAdd { name, .. } if user(name).is_some() => {
                return Err(AuthError::UserAlreadyExists);
            }
            AuthCommand::UserAdd { name, password_hash, no_password } => {
                let hash = if *no_password { String::new() } else { password_hash.clone() };
                self.users.push((name.clone(), hash, *no_password, Vec::new()));
            }
            AuthCommand::UserDelete { name } => {
                let at = user(name).ok_or(AuthError::UserNotFound)?;
                self.users.remove(at);
            }
            AuthCommand::UserChangePassword { name, password_hash } => {
                let at = user(name).ok_or(AuthError::UserNotFound)?;
                if !self.users[at].2 {
                    self.users[at].1 = password_hash.clone();
                }
            }
            AuthCommand::UserGrantRole { name, role: granted } => {
                let at = user(name).ok_or(AuthError::UserNotFound)?;
                if granted != "root" && role(granted).is_none() {
                    return Err(AuthError::RoleNotFound);
                }
                if self.users[at].3.contains(granted) {
                    return Ok(());
                }
                self.users[at].3.push(granted.clone());
            }
            AuthCommand::UserRevokeRole { name, role } => {
                let at = user(name).ok_or(AuthError::UserNotFound)?;
                if !self.users[at].3.contains(role) {
                    return Err(AuthError::RoleNotGranted);
                }
                self.users[at].3.retain(|had| had != role);
            }
            AuthCommand::RoleAdd { name } if name.is_empty() => return Err(AuthError::RoleEmpty),
            AuthCommand::RoleAdd { name } if role(name).is_some() => {
                return Err(AuthError::RoleAlreadyExists);
            }
            AuthCommand::RoleAdd { name } => self.roles.push((name.clone(), Vec::new())),
            AuthCommand::RoleDelete { name } => {
                let at = role(name).ok_or(AuthError::RoleNotFound)?;
                self.roles.remove(at);
                self.users.iter_mut().for_each(|user| user.3.retain(|had| had != name));
            }
            AuthCommand::RoleGrantPermission { role: name, permission } => {
                let (key, end) = permission.range.to_wire();
                if key.is_empty() || !(end.is_empty() || end == "\0" || end > key) {
                    return Err(AuthError::InvalidAuthManagement);
                }
                let at = role(name).ok_or(AuthError::RoleNotFound)?;
                let permissions = &mut self.roles[at].1;
                let kind = permission.kind.number();
                match permissions.iter_mut().find(|had| had.1 == key && had.2 == end) {
                    Some(had) => had.0 = kind,
                    None => permissions.push((kind, key, end)),
                }
                permissions.sort_by(|a, b| a.1.cmp(&b.1));
            }
            AuthCommand::RoleRevokePermission { role: name, range } => {
                let at = role(name).ok_or(AuthError::RoleNotFound)?;
                let permissions = &mut self.roles[at].1;
                let (key, end) = range.to_wire();
                let before = permissions.len();
                permissions.retain(|had| had.1 != key || had.2 != end);
                if permissions.len() == before {
                    return Err(AuthError::PermissionNotGranted);
                }
            }
        }
        self.changes += 1;
        Ok(())
    }

    /// As etcd lists them: everything by name.
    pub(super) fn dump(&self) -> String {
        let (mut users, mut roles) = (self.users.clone(), self.roles.clone());
        users.sort();
        roles.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out = format!("{} {}\n", 1 + self.changes, self.is_enabled);
        for (name, hash, no_password, mut roles) in users {
            roles.sort();
            out += &format!("{name}: {hash:?} {no_password} {roles:?}\n");
        }
        for (name, mut permissions) in roles {
            if name == "root" {
                permissions = vec![(2, Bytes::new(), Bytes::from("\0"))];
            }
            out += &format!("{name}: {permissions:?}\n");
        }
        let root = self.users.iter().find(|user| user.0 == "root");
        let holds_root = root.map(|root| root.3.contains(&"root".to_owned()));
        out + &format!("{holds_root:?}\n")
    }
}

impl Work {
    fn rev_so_far(&self) -> Rev {
        if self.events.is_empty() { Rev(self.rev.0 - 1) } else { self.rev }
    }

    fn put(&mut self, put: &Put) -> Option<KeyValue> {
        let before = self.map.get(&put.key).cloned();
        let kept = before.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone().unwrap_or(kept.value),
            create_rev: if before.is_some() { kept.create_rev } else { self.rev },
            mod_rev: self.rev,
            version: kept.version + 1,
            lease: put.lease.unwrap_or(kept.lease),
        };
        self.map.insert(put.key.clone(), kv.clone());
        let prev_kv = self.before.get(&put.key).filter(|_| kv.version > 1).cloned();
        self.events.push(Event { kind: EventKind::Put, kv, prev_kv });
        before.filter(|_| put.prev_kv)
    }

    fn delete(&mut self, delete: &DeleteRange) -> (i64, Vec<KeyValue>) {
        let deleted = self.delete_where(|kv| delete.range.contains(&kv.key));
        let count = i64::try_from(deleted.len()).expect("few keys");
        (count, if delete.prev_kv { deleted } else { Vec::new() })
    }

    fn delete_where(&mut self, doomed: impl Fn(&KeyValue) -> bool) -> Vec<KeyValue> {
        let deleted: Vec<KeyValue> = self.map.values().filter(|kv| doomed(kv)).cloned().collect();
        for before in &deleted {
            self.map.remove(&before.key);
            let kv = KeyValue { key: before.key.clone(), mod_rev: self.rev, ..KeyValue::default() };
            let prev_kv = self.before.get(&before.key).cloned();
            self.events.push(Event { kind: EventKind::Delete, kv, prev_kv });
        }
        deleted
    }
}

fn read(map: &Map, range: &Range) -> RangeResult {
    let mut kvs: Vec<KeyValue> = map.values().filter(|kv| range.range.contains(&kv.key)).cloned().collect();
    let count = i64::try_from(kvs.len()).expect("few keys");
    if range.count_only {
        return RangeResult { kvs: Vec::new(), more: false, count };
    }
    let more = range.limit > 0 && count > range.limit;
    if more {
        kvs.truncate(usize::try_from(range.limit).expect("positive"));
    }
    if range.keys_only {
        kvs.iter_mut().for_each(|kv| (kv.value, kv.lease) = (Bytes::new(), LeaseId::NONE));
    }
    RangeResult { kvs, more, count }
}

fn has_put(op: &Op) -> bool {
    match op {
        Op::Put(_) => true,
        Op::Txn(txn) => txn.success.iter().chain(&txn.failure).any(has_put),
        Op::Range(_) | Op::DeleteRange(_) => false,
    }
}
