//! Commands written as words, and their outcomes as lines, for tests that can be read like a script.
//!
//! ```text
//! put KEY VALUE [lease ID] [prev]     VALUE `_` keeps the value, ID `_` keeps the lease
//! del RANGE [prev]                    RANGE is `a`, `a..c` or `a..`
//! get RANGE [at REV]                  inside a transaction
//! txn [if TARGET RANGE OPERATOR GIVEN]... { OPS } [else { OPS }]
//! compact REV | grant ID TTL | revoke ID | left ID MILLIS
//! alarm KIND MEMBER | disarm KIND MEMBER | publish MEMBER NAME
//! user add NAME HASH | user del NAME | user password NAME HASH        HASH `_` is none
//! user grant NAME ROLE | user revoke NAME ROLE
//! auth on | auth off | login NAME AUTH_REV LETTERS
//! v2 set KEY VALUE [until NANOS] | v2 rmr KEY | v2 expire NANOS MOST
//! role add NAME | role del NAME | role permit NAME KIND RANGE | role forbid NAME RANGE
//! ```
//!
//! Semicolons separate commands, and operations within a transaction.

use std::{fmt::Write, iter::Peekable, str::FromStr, vec};

use bytes::Bytes;

use crate::{
    apply::{
        Alarm, AlarmKind, Applied, AuthCommand, Command, Compare, CompareOperator, CompareTarget,
        DeleteRange, Op, OpResult, Put, Response, Txn, TxnResult,
    },
    auth::{Permission, PermissionKind, TokenHash},
    mvcc::Range,
    types::{Event, EventKind, KeyRange, KeyValue, LeaseId, MemberId, Rev},
    v2::{Change, Key, KeyChange, V2Command, Who, Written},
};

/// Each command with its own words.
pub(crate) fn parse(script: &str) -> Vec<(String, Command)> {
    let script = script.replace(';', " ; ");
    let mut words = Words::of(&script);
    let mut commands = Vec::new();
    while !words.at_end() {
        let before = words.0.clone();
        let command = words.command();
        let said = before.len() - words.0.len();
        commands.push((before.take(said).collect::<Vec<_>>().join(" "), command));
        words.skip(";");
    }
    commands
}

pub(super) fn print(applied: &Applied) -> String {
    let outcome = &applied.outcome;
    let mut out = format!("{}: ", outcome.rev);
    match &outcome.result {
        Ok(response) => print_response(response, &mut out),
        Err(refusal) => write!(out, "refused: {refusal}"),
    }
    .expect("a String takes what it is given");
    for event in &applied.events {
        out += &format!("\n    {}", print_event(event));
    }
    out
}

fn print_response(response: &Response, out: &mut String) -> std::fmt::Result {
    match response {
        Response::Put { prev_kv } => write!(out, "put{}", print_prev(prev_kv)),
        Response::DeleteRange { deleted, prev_kvs } => {
            write!(out, "deleted {deleted}{}", print_prev(prev_kvs))
        }
        Response::Txn(result) => write!(out, "{}", print_txn(result)),
        Response::Compact => write!(out, "compacted"),
        Response::LeaseGrant { id, ttl_secs } => write!(out, "granted {id} for {ttl_secs} s"),
        Response::LeaseRevoke => write!(out, "revoked"),
        Response::LeaseCheckpoint => write!(out, "noted"),
        Response::Alarm { alarms } => write!(out, "alarms {}", print_alarms(alarms.iter().copied())),
        Response::MemberPublish => write!(out, "published"),
        Response::Auth => write!(out, "done"),
        Response::V2(answer) => write!(out, "{answer:?}"),
    }
}

pub(super) fn print_alarms(alarms: impl Iterator<Item = Alarm>) -> String {
    let alarms: Vec<String> = alarms.map(|Alarm { member, kind }| format!("{kind:?} of {member}")).collect();
    format!("[{}]", alarms.join(", "))
}

fn print_txn(result: &TxnResult) -> String {
    let responses: Vec<String> = result
        .responses
        .iter()
        .map(|response| match response {
            OpResult::Range { rev, result } => {
                let kvs: Vec<String> = result.kvs.iter().map(print_kv).collect();
                format!("{rev}: {} of {} [{}]", kvs.len(), result.count, kvs.join(", "))
            }
            OpResult::Put { rev, prev_kv } => format!("{rev}: put{}", print_prev(prev_kv)),
            OpResult::DeleteRange { rev, deleted, prev_kvs } => {
                format!("{rev}: deleted {deleted}{}", print_prev(prev_kvs))
            }
            OpResult::Txn(inner) => print_txn(inner),
        })
        .collect();
    let branch = if result.succeeded { "then" } else { "else" };
    match &responses[..] {
        [] => format!("{branch} {{ }}"),
        responses => format!("{branch} {{ {} }}", responses.join("; ")),
    }
}

fn print_prev<'kv>(prev: impl IntoIterator<Item = &'kv KeyValue>) -> String {
    let prev: Vec<String> = prev.into_iter().map(print_kv).collect();
    if prev.is_empty() { String::new() } else { format!(" over {}", prev.join(", ")) }
}

fn print_event(event: &Event) -> String {
    let kind = match event.kind {
        EventKind::Put => "+",
        EventKind::Delete => "-",
    };
    format!("{kind} {}{}", print_kv(&event.kv), print_prev(&event.prev_kv))
}

/// `key=value (created modified version)`, and the lease.
fn print_kv(kv: &KeyValue) -> String {
    let KeyValue { key, value, create_rev, mod_rev, version, lease } = kv;
    let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
    let lease = if lease.is_some() { format!(" lease {lease}") } else { String::new() };
    format!("{key}={value} ({create_rev} {mod_rev} {version}){lease}")
}

struct Words<'s>(Peekable<vec::IntoIter<&'s str>>);

impl<'s> Words<'s> {
    fn of(script: &'s str) -> Words<'s> {
        Words(script.split_whitespace().collect::<Vec<_>>().into_iter().peekable())
    }

    fn at_end(&mut self) -> bool {
        self.0.peek().is_none()
    }

    fn next(&mut self) -> &'s str {
        self.0.next().expect("a word")
    }

    fn skip(&mut self, word: &str) -> bool {
        self.0.next_if(|next| *next == word).is_some()
    }

    fn number<T: FromStr>(&mut self) -> T {
        let word = self.next();
        word.parse().unwrap_or_else(|_| panic!("a number: {word}"))
    }

    fn lease(&mut self) -> LeaseId {
        LeaseId(self.number())
    }

    fn command(&mut self) -> Command {
        match self.next() {
            "put" => Command::Put(self.put()),
            "del" => Command::DeleteRange(self.delete()),
            "txn" => Command::Txn(self.txn()),
            "compact" => Command::Compact { rev: Rev(self.number()) },
            "grant" => Command::LeaseGrant { id: self.lease(), ttl_secs: self.number() },
            "revoke" => Command::LeaseRevoke { id: self.lease() },
            "left" => Command::LeaseCheckpoint { remaining_millis: vec![(self.lease(), self.number())] },
            "alarm" => Command::AlarmActivate(self.alarm()),
            "disarm" => Command::AlarmDeactivate(self.alarm()),
            "publish" => Command::MemberPublish {
                id: MemberId(self.number()),
                name: self.next().to_owned(),
                client_urls: Vec::new(),
            },
            "user" => Command::Auth(self.user()),
            "role" => Command::Auth(self.role()),
            "auth" => Command::Auth(match self.next() {
                "on" => AuthCommand::Enable,
                "off" => AuthCommand::Disable,
                other => panic!("on or off: {other}"),
            }),
            "login" => Command::Auth(AuthCommand::Login {
                name: self.name(),
                auth_rev: self.number(),
                token: TokenHash::of(self.next()),
            }),
            "v2" => Command::V2(self.v2()),
            other => panic!("a command: {other}"),
        }
    }

    fn v2(&mut self) -> V2Command {
        let word = self.next();
        if word == "expire" {
            return V2Command::Expire { cutoff: self.number(), most: self.number() };
        }
        let key = Key::of(self.next()).expect("short");
        let change = match word {
            "set" => {
                let value = self.next().into();
                let expires = self.skip("until").then(|| self.number());
                Change::Set(Written { value, dir: false, expires, refresh: false })
            }
            "rmr" => Change::Delete { dir: true, recursive: true },
            other => panic!("a command of version 2: {other}"),
        };
        V2Command::Key(KeyChange { who: Who::Guest, key, at: 0, change })
    }

    fn name(&mut self) -> String {
        self.next().to_owned()
    }

    fn user(&mut self) -> AuthCommand {
        match self.next() {
            "add" => {
                let (name, hash) = (self.name(), self.name());
                let no_password = hash == "_";
                AuthCommand::UserAdd { name, password_hash: hash, no_password }
            }
            "del" => AuthCommand::UserDelete { name: self.name() },
            "password" => AuthCommand::UserChangePassword { name: self.name(), password_hash: self.name() },
            "grant" => AuthCommand::UserGrantRole { name: self.name(), role: self.name() },
            "revoke" => AuthCommand::UserRevokeRole { name: self.name(), role: self.name() },
            other => panic!("something to do with a user: {other}"),
        }
    }

    fn role(&mut self) -> AuthCommand {
        match self.next() {
            "add" => AuthCommand::RoleAdd { name: self.name() },
            "del" => AuthCommand::RoleDelete { name: self.name() },
            "permit" => {
                let role = self.name();
                let kind = match self.next() {
                    "read" => PermissionKind::Read,
                    "write" => PermissionKind::Write,
                    "readwrite" => PermissionKind::ReadWrite,
                    other => panic!("a kind of access: {other}"),
                };
                let permission = Permission { kind, range: self.key_range() };
                AuthCommand::RoleGrantPermission { role, permission }
            }
            "forbid" => AuthCommand::RoleRevokePermission { role: self.name(), range: self.key_range() },
            other => panic!("something to do with a role: {other}"),
        }
    }

    fn put(&mut self) -> Put {
        let key = Bytes::copy_from_slice(self.next().as_bytes());
        let value = match self.next() {
            "_" => None,
            value => Some(Bytes::copy_from_slice(value.as_bytes())),
        };
        let lease = match self.skip("lease") {
            true if self.skip("_") => None,
            true => Some(self.lease()),
            false => Some(LeaseId::NONE),
        };
        Put::new(key, value, lease, self.skip("prev"))
    }

    fn delete(&mut self) -> DeleteRange {
        DeleteRange { range: self.key_range(), prev_kv: self.skip("prev") }
    }

    fn key_range(&mut self) -> KeyRange {
        let bytes = |word: &str| Bytes::copy_from_slice(word.as_bytes());
        let word = self.next();
        match word.split_once("..") {
            None => KeyRange::Point(bytes(word)),
            Some((start, "")) => KeyRange::From(bytes(start)),
            Some((start, end)) => KeyRange::Span(bytes(start), bytes(end)),
        }
    }

    fn alarm(&mut self) -> Alarm {
        let kind = match self.next() {
            "nospace" => AlarmKind::NoSpace,
            "corrupt" => AlarmKind::Corrupt,
            other => panic!("a kind of alarm: {other}"),
        };
        Alarm { member: MemberId(self.number()), kind }
    }

    fn txn(&mut self) -> Txn {
        let mut txn = Txn::default();
        while self.skip("if") {
            txn.compares.push(self.compare());
        }
        txn.success = self.ops();
        if self.skip("else") {
            txn.failure = self.ops();
        }
        txn
    }

    fn compare(&mut self) -> Compare {
        let target = self.next();
        let range = self.key_range();
        let operator = match self.next() {
            "=" => CompareOperator::Equal,
            ">" => CompareOperator::Greater,
            "<" => CompareOperator::Less,
            "!=" => CompareOperator::NotEqual,
            "?" => CompareOperator::Unknown,
            other => panic!("an operator: {other}"),
        };
        let target = match target {
            "version" => CompareTarget::Version(self.number()),
            "create" => CompareTarget::CreateRev(self.number()),
            "mod" => CompareTarget::ModRev(self.number()),
            "value" => CompareTarget::Value(Bytes::copy_from_slice(self.next().as_bytes())),
            "lease" => CompareTarget::Lease(self.number()),
            other => panic!("a target: {other}"),
        };
        Compare { range, operator, target }
    }

    fn ops(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        assert!(self.skip("{"), "a block");
        while !self.skip("}") {
            ops.push(match self.next() {
                "get" => Op::Range(self.range()),
                "put" => Op::Put(self.put()),
                "del" => Op::DeleteRange(self.delete()),
                "txn" => Op::Txn(self.txn()),
                other => panic!("an operation: {other}"),
            });
            self.skip(";");
        }
        ops
    }

    fn range(&mut self) -> Range {
        let mut range = Range::of(self.key_range());
        if self.skip("at") {
            range.rev = self.number();
        }
        range
    }
}
