//! What a call needs before it is executed: permissions and space.
//!
//! The functions here depend on the call alone. The member that received a request and the checks when
//! a command is applied ([`super::alarm`]) therefore agree on which commands add data and which only
//! read. One table has the permissions of commands, which are checked when the command is applied, and
//! those of reads, which are checked before and after reading.

use std::ops::Bound;

use bytes::Bytes;

use crate::{
    apply::{AuthCommand, Command, DeleteRange, Op, Put, Txn},
    auth::{Access, Asked, AuthError, AuthStore},
    lease::{Lease, Lessor},
    types::{Caller, KeyRange, LeaseId},
    v2::V2Command,
};

/// Everything that a client can ask of a member.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call<'c> {
    Command(&'c Command),
    Range(&'c KeyRange),
    /// A transaction that does not go through the log.
    ReadTxn(&'c Txn),
    /// A watcher is created.
    Watch(&'c KeyRange),
    LeaseKeepAlive(LeaseId),
    LeaseTimeToLive {
        id: LeaseId,
        with_keys: bool,
    },
    LeaseLeases,
    MemberList,
    /// A member is added, removed, moved or given a vote.
    MemberChange,
    AlarmList,
    /// An alarm of no kind is raised or cleared.
    AlarmChange,
    Status,
    /// The hash of the keys, or of the whole database.
    Hash,
    Defragment,
    Snapshot,
    MoveLeader,
    Downgrade,
    /// A password is hashed, for a user that is added or changed.
    PasswordHash,
    /// A role is granted no permission at all, which is refused whoever asks for it.
    GrantOfNothing,
    UserGet(&'c str),
    UserList,
    RoleGet(&'c str),
    RoleList,
    AuthStatus,
    /// Anything that only reads of the version 2 API, which has users of its own.
    V2Read,
}

/// One thing that a caller has to be, or has to be permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need<'c> {
    /// To be any user.
    Identity,
    /// To have the role `root`.
    Root,
    /// To be a member of the cluster and not a client.
    Internal,
    /// To be this user, or to have the role `root`.
    User(&'c str),
    /// To have this role, or the role `root`.
    Role(&'c str),
    Read(Keys<'c>),
    Write(Keys<'c>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys<'c> {
    Key(&'c Bytes),
    Range(&'c KeyRange),
    /// All keys that are attached to a lease; none if there is no such lease.
    OfLease(LeaseId),
    /// All keys that are attached to any lease.
    OfLeases,
}

/// Whether `caller` may make a call, by these users and roles.
pub(super) fn permit(
    auth: &AuthStore,
    lessor: &Lessor,
    caller: &Caller,
    call: Call<'_>,
) -> Result<(), AuthError> {
    if !auth.is_enabled() {
        return Ok(());
    }
    needs(call, &mut |need| judge(auth, lessor, caller, need))
}

fn judge(auth: &AuthStore, lessor: &Lessor, caller: &Caller, need: Need<'_>) -> Result<(), AuthError> {
    match need {
        Need::Identity => auth.check_identity(caller),
        Need::Root => auth.check_root(caller),
        Need::Internal if *caller == Caller::Internal => Ok(()),
        Need::Internal => Err(AuthError::PermissionDenied),
        Need::User(user) => auth.check_user(caller, user),
        Need::Role(role) => auth.check_role(caller, role),
        Need::Read(keys) => judge_keys(auth, lessor, caller, Access::Read, keys),
        Need::Write(keys) => judge_keys(auth, lessor, caller, Access::Write, keys),
    }
}

fn judge_keys(
    auth: &AuthStore,
    lessor: &Lessor,
    caller: &Caller,
    access: Access,
    keys: Keys<'_>,
) -> Result<(), AuthError> {
    match keys {
        Keys::Key(key) => auth.check_keys(caller, access, Asked::Key(key)),
        Keys::Range(range) => auth.check_keys(caller, access, Asked::Range(range)),
        Keys::OfLease(id) => judge_lease(auth, caller, access, lessor.get(id)),
        Keys::OfLeases => {
            auth.check_identity(caller)?;
            lessor.leases().try_for_each(|(_, lease)| judge_lease(auth, caller, access, Some(lease)))
        }
    }
}

/// As in etcd, a lease without keys needs nothing, and the keys of all leases are open to the role `root`
/// whenever its user was identified.
fn judge_lease(
    auth: &AuthStore,
    caller: &Caller,
    access: Access,
    lease: Option<&Lease>,
) -> Result<(), AuthError> {
    let Some(lease) = lease.filter(|lease| !lease.keys.is_empty()) else { return Ok(()) };
    if auth.check_root(caller).is_ok() {
        return Ok(());
    }
    let mut next = |from: Bound<&[u8]>| lease.keys.range::<[u8], _>((from, Bound::Unbounded)).next();
    auth.check_keys(caller, access, Asked::Set(&mut next))
}

/// Calls `ask` for each need of a call, until one is refused.
///
/// This is the complete table: a new kind of call does not compile until it has a line here.
fn needs<'c, E>(call: Call<'c>, ask: &mut impl FnMut(Need<'c>) -> Result<(), E>) -> Result<(), E> {
    match call {
        Call::Command(command) => needs_of_command(command, ask),
        Call::ReadTxn(txn) => needs_of_txn(txn, ask),
        Call::Range(range) | Call::Watch(range) => ask(Need::Read(Keys::Range(range))),
        Call::LeaseKeepAlive(id) => needs_of_lease(id, ask),
        Call::LeaseTimeToLive { id, with_keys } => {
            ask(Need::Identity)?;
            if with_keys { ask(Need::Read(Keys::OfLease(id))) } else { Ok(()) }
        }
        Call::LeaseLeases => ask(Need::Read(Keys::OfLeases)),
        Call::MemberList | Call::AlarmList | Call::Status => ask(Need::Identity),
        Call::MemberChange
        | Call::Hash
        | Call::Defragment
        | Call::Snapshot
        | Call::MoveLeader
        | Call::Downgrade
        | Call::AlarmChange
        | Call::PasswordHash
        | Call::GrantOfNothing
        | Call::UserList
        | Call::RoleList => ask(Need::Root),
        Call::UserGet(name) => ask(Need::User(name)),
        Call::RoleGet(name) => ask(Need::Role(name)),
        Call::AuthStatus | Call::V2Read => Ok(()),
    }
}

fn needs_of_command<'c, E>(
    command: &'c Command,
    ask: &mut impl FnMut(Need<'c>) -> Result<(), E>,
) -> Result<(), E> {
    match command {
        Command::Put(put) => needs_of_put(put, ask),
        Command::DeleteRange(delete) => needs_of_delete(delete, ask),
        Command::Txn(txn) => needs_of_txn(txn, ask),
        Command::LeaseGrant { .. } => ask(Need::Identity),
        Command::LeaseRevoke { id } => needs_of_lease(*id, ask),
        Command::LeaseCheckpoint { .. } | Command::MemberPublish { .. } => ask(Need::Internal),
        Command::Compact { .. } | Command::AlarmActivate(_) | Command::AlarmDeactivate(_) => ask(Need::Root),
        Command::Auth(command) => match command {
            AuthCommand::UserAdd { .. }
            | AuthCommand::UserDelete { .. }
            | AuthCommand::UserChangePassword { .. }
            | AuthCommand::UserGrantRole { .. }
            | AuthCommand::UserRevokeRole { .. }
            | AuthCommand::RoleAdd { .. }
            | AuthCommand::RoleDelete { .. }
            | AuthCommand::RoleGrantPermission { .. }
            | AuthCommand::RoleRevokePermission { .. }
            | AuthCommand::Enable
            | AuthCommand::Disable => ask(Need::Root),
            // The member that checked the password proposes it.
            AuthCommand::Login { .. } => ask(Need::Internal),
        },
        Command::V2(command) => match command {
            // The users of version 2 are others; the tree asks them when it applies the command.
            V2Command::Key(_) | V2Command::Account { .. } => Ok(()),
            V2Command::Expire { .. } => ask(Need::Internal),
        },
    }
}

/// What it takes to renew or to revoke a lease. A lease that does not exist, or has no keys, still takes a
/// user.
fn needs_of_lease<'c, E>(id: LeaseId, ask: &mut impl FnMut(Need<'c>) -> Result<(), E>) -> Result<(), E> {
    ask(Need::Identity)?;
    ask(Need::Write(Keys::OfLease(id)))
}

/// The needs of both branches, whichever is taken, and of nested transactions.
fn needs_of_txn<'c, E>(txn: &'c Txn, ask: &mut impl FnMut(Need<'c>) -> Result<(), E>) -> Result<(), E> {
    for compare in &txn.compares {
        ask(Need::Read(Keys::Range(&compare.range)))?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => ask(Need::Read(Keys::Range(&range.range)))?,
            Op::Put(put) => needs_of_put(put, ask)?,
            Op::DeleteRange(delete) => needs_of_delete(delete, ask)?,
            Op::Txn(txn) => needs_of_txn(txn, ask)?,
        }
    }
    Ok(())
}

/// As in etcd, only a caller that may revoke the lease may attach a key to it. A put that keeps the
/// value or the lease of its key needs no permission to read the key.
fn needs_of_put<'c, E>(put: &'c Put, ask: &mut impl FnMut(Need<'c>) -> Result<(), E>) -> Result<(), E> {
    ask(Need::Write(Keys::Key(&put.key)))?;
    if let Some(lease) = put.lease.filter(|lease| lease.is_some()) {
        ask(Need::Write(Keys::OfLease(lease)))?;
    }
    if put.prev_kv { ask(Need::Read(Keys::Key(&put.key))) } else { Ok(()) }
}

fn needs_of_delete<'c, E>(
    delete: &'c DeleteRange,
    ask: &mut impl FnMut(Need<'c>) -> Result<(), E>,
) -> Result<(), E> {
    ask(Need::Write(Keys::Range(&delete.range)))?;
    if delete.prev_kv { ask(Need::Read(Keys::Range(&delete.range))) } else { Ok(()) }
}

/// Bytes that a put and a lease take beside key and value: estimates, the same as in etcd.
const PUT_OVERHEAD: i64 = 256;
const LEASE_COST: i64 = 64;

/// The bytes that the command may add to the store. For a transaction, also a nested one, they are those
/// of the branch that adds more.
pub(crate) fn quota_cost(command: &Command) -> i64 {
    match command {
        Command::Put(put) => put_cost(put),
        Command::Txn(txn) => txn_cost(txn),
        Command::LeaseGrant { .. } => LEASE_COST,
        Command::DeleteRange(_)
        | Command::Compact { .. }
        | Command::LeaseRevoke { .. }
        | Command::LeaseCheckpoint { .. }
        | Command::AlarmActivate(_)
        | Command::AlarmDeactivate(_)
        | Command::MemberPublish { .. }
        | Command::Auth(_) => 0,
        Command::V2(command) => v2_cost(command),
    }
}

fn v2_cost(command: &V2Command) -> i64 {
    match command.growth() {
        0 => 0,
        bytes => PUT_OVERHEAD + i64::try_from(bytes).expect("a request fits in memory"),
    }
}

fn put_cost(put: &Put) -> i64 {
    let bytes = put.key.len() + put.value.as_ref().map_or(0, |value| value.len());
    PUT_OVERHEAD + i64::try_from(bytes).expect("a request fits in memory")
}

fn txn_cost(txn: &Txn) -> i64 {
    let (mut success, mut failure) = (0, 0);
    for op in &txn.success {
        success += op_cost(op);
    }
    for op in &txn.failure {
        failure += op_cost(op);
    }
    success.max(failure)
}

fn op_cost(op: &Op) -> i64 {
    match op {
        Op::Put(put) => put_cost(put),
        Op::Txn(txn) => txn_cost(txn),
        Op::Range(_) | Op::DeleteRange(_) => 0,
    }
}

/// Whether a transaction can be executed without the log, because both branches contain only ranges. A
/// transaction with a nested transaction always goes through the log.
pub(crate) fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Range(_)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::apply::tape;

    fn list(call: Call<'_>) -> String {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let keys = |keys| match keys {
            Keys::Key(key) => text(key),
            Keys::Range(KeyRange::Point(key)) => text(key),
            Keys::Range(KeyRange::Span(start, end)) => format!("{}..{}", text(start), text(end)),
            Keys::Range(KeyRange::From(start)) => format!("{}..", text(start)),
            Keys::OfLease(id) => format!("keys of lease {}", id.0),
            Keys::OfLeases => "keys of all leases".to_owned(),
        };
        let mut lines = Vec::new();
        let asked: Result<(), Infallible> = needs(call, &mut |need| {
            lines.push(match need {
                Need::Identity => "a user".to_owned(),
                Need::Root => "root".to_owned(),
                Need::Internal => "a member".to_owned(),
                Need::User(name) => format!("user {name}"),
                Need::Role(name) => format!("role {name}"),
                Need::Read(wanted) => format!("read {}", keys(wanted)),
                Need::Write(wanted) => format!("write {}", keys(wanted)),
            });
            Ok(())
        });
        asked.expect("nobody refuses");
        if lines.is_empty() { "nothing".to_owned() } else { lines.join(", ") }
    }

    fn check(script: &str, expected: Expect) {
        let lines = tape::parse(script)
            .into_iter()
            .map(|(words, command)| format!("{words}: {}\n", list(Call::Command(&command))));
        expected.assert_eq(&lines.collect::<String>());
    }

    #[test]
    fn what_commands_need() {
        check(
            "put k v; put k v prev; put k v lease 7; put k _ lease _; put k v lease 7 prev; del a..c; del a prev
             txn if version a = 1 { put b 1; get c } else { del d..; txn { put e 1 lease 7 prev } else { get f } }
             compact 5; grant 7 60; revoke 7; left 7 100; alarm nospace 1; disarm corrupt 1; publish 1 one
             user add u _; user del u; user password u h; user grant u r; user revoke u r
             role add r; role del r; role permit r read a; role forbid r a; auth on; auth off; login u 7 x",
            expect![[r#"
                put k v: write k
                put k v prev: write k, read k
                put k v lease 7: write k, write keys of lease 7
                put k _ lease _: write k
                put k v lease 7 prev: write k, write keys of lease 7, read k
                del a..c: write a..c
                del a prev: write a, read a
                txn if version a = 1 { put b 1 ; get c } else { del d.. ; txn { put e 1 lease 7 prev } else { get f } }: read a, write b, read c, write d.., write e, write keys of lease 7, read e, read f
                compact 5: root
                grant 7 60: a user
                revoke 7: a user, write keys of lease 7
                left 7 100: a member
                alarm nospace 1: root
                disarm corrupt 1: root
                publish 1 one: a member
                user add u _: root
                user del u: root
                user password u h: root
                user grant u r: root
                user revoke u r: root
                role add r: root
                role del r: root
                role permit r read a: root
                role forbid r a: root
                auth on: root
                auth off: root
                login u 7 x: a member
            "#]],
        );
    }

    #[test]
    fn what_reads_and_the_care_of_a_member_need() {
        let range = KeyRange::Span("a".into(), "c".into());
        let [(_, Command::Txn(txn))] = &tape::parse("txn if version a = 1 { get b } else { get c.. }")[..]
        else {
            panic!("a transaction");
        };
        let calls = [
            Call::Range(&range),
            Call::ReadTxn(txn),
            Call::Watch(&range),
            Call::LeaseKeepAlive(LeaseId(7)),
            Call::LeaseTimeToLive { id: LeaseId(7), with_keys: false },
            Call::LeaseTimeToLive { id: LeaseId(7), with_keys: true },
            Call::LeaseLeases,
            Call::MemberList,
            Call::MemberChange,
            Call::AlarmList,
            Call::AlarmChange,
            Call::Status,
            Call::Hash,
            Call::Defragment,
            Call::Snapshot,
            Call::MoveLeader,
            Call::Downgrade,
            Call::PasswordHash,
            Call::GrantOfNothing,
            Call::UserGet("u"),
            Call::UserList,
            Call::RoleGet("r"),
            Call::RoleList,
            Call::AuthStatus,
            Call::V2Read,
        ];
        let lines = calls.map(|call| {
            let is_txn = matches!(call, Call::ReadTxn(_));
            let name = if is_txn { "ReadTxn".to_owned() } else { format!("{call:?}") };
            format!("{name}: {}\n", list(call))
        });
        expect![[r#"
            Range(Span(b"a", b"c")): read a..c
            ReadTxn: read a, read b, read c..
            Watch(Span(b"a", b"c")): read a..c
            LeaseKeepAlive(LeaseId(7)): a user, write keys of lease 7
            LeaseTimeToLive { id: LeaseId(7), with_keys: false }: a user
            LeaseTimeToLive { id: LeaseId(7), with_keys: true }: a user, read keys of lease 7
            LeaseLeases: read keys of all leases
            MemberList: a user
            MemberChange: root
            AlarmList: a user
            AlarmChange: root
            Status: a user
            Hash: root
            Defragment: root
            Snapshot: root
            MoveLeader: root
            Downgrade: root
            PasswordHash: root
            GrantOfNothing: root
            UserGet("u"): user u
            UserList: root
            RoleGet("r"): role r
            RoleList: root
            AuthStatus: nothing
            V2Read: nothing
        "#]]
        .assert_eq(&lines.concat());
    }

    #[test]
    fn the_first_refusal_is_the_last_question() {
        let [(_, command)] = &tape::parse("put k v lease 7 prev")[..] else { panic!("one command") };
        let mut asked = 0;
        let refused = needs(Call::Command(command), &mut |_| {
            asked += 1;
            if asked == 2 { Err(asked) } else { Ok(()) }
        });
        assert_eq!((refused, asked), (Err(2), 2));
    }
}
