//! Random commands over few keys and leases, so that commands often affect each other.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};

use crate::{
    apply::{
        Alarm, AlarmKind, AuthCommand, Command, Compare, CompareOperator, CompareTarget, DeleteRange, Op,
        Put, Request, Txn,
    },
    auth::{Permission, PermissionKind, TokenHash},
    mvcc::{Range, RevBounds, Sort, SortOrder, SortTarget},
    types::{Caller, KeyRange, LeaseId, MemberId, Rev},
    v2::{AccountChange, Change, Condition, Key, KeyChange, Patterns, V2Command, Who, Written},
};

pub(super) fn commands(most: usize) -> impl Strategy<Value = Vec<Command>> {
    vec(command(), 1..most)
}

pub(super) fn requests(most: usize) -> impl Strategy<Value = Vec<Request>> {
    vec((caller(), any_command()).prop_map(|(caller, command)| command.by(caller)), 1..most)
}

/// Requests by callers that may be users, at revisions that may be current. Most are by members, so that
/// authentication is enabled and disabled often.
pub(super) fn guarded_request() -> impl Strategy<Value = Request> {
    let caller = prop_oneof![
        6 => Just(Caller::Internal),
        1 => Just(Caller::Nobody),
        4 => (prop::sample::select(vec!["a", "b", "root"]), 1u64..30)
            .prop_map(|(name, auth_rev)| Caller::User { name: name.into(), auth_rev }),
    ];
    let command = prop_oneof![
        2 => command(),
        2 => auth_command().prop_map(Command::Auth),
        1 => v2_command().prop_map(Command::V2),
    ];
    (caller, command).prop_map(|(caller, command)| command.by(caller))
}

fn caller() -> impl Strategy<Value = Caller> {
    prop_oneof![
        2 => Just(Caller::Nobody),
        1 => Just(Caller::Internal),
        2 => ("[a-c]{1,200}", any::<u64>())
            .prop_map(|(name, auth_rev)| Caller::User { name: name.into(), auth_rev }),
    ]
}

/// Also of the version 2 API, which the model of `apply` does not have.
pub(super) fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![3 => command(), 1 => v2_command().prop_map(Command::V2)]
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        30 => put().prop_map(Command::Put),
        12 => delete_range().prop_map(Command::DeleteRange),
        30 => txn().prop_map(Command::Txn),
        4 => (-2i64..30).prop_map(|rev| Command::Compact { rev: Rev(rev) }),
        12 => (lease(), prop_oneof![1i64..600, Just(9_000_000_001)])
            .prop_map(|(id, ttl_secs)| Command::LeaseGrant { id, ttl_secs }),
        5 => lease().prop_map(|id| Command::LeaseRevoke { id }),
        3 => vec((lease(), 0i64..600), 0..3)
            .prop_map(|remaining_millis| Command::LeaseCheckpoint { remaining_millis }),
        1 => alarm().prop_map(Command::AlarmActivate),
        3 => alarm().prop_map(Command::AlarmDeactivate),
        2 => (member(), "[a-c]{0,2}", vec("[a-c]{0,2}", 0..3))
            .prop_map(|(id, name, client_urls)| Command::MemberPublish { id, name, client_urls }),
        10 => auth_command().prop_map(Command::Auth),
    ]
}

pub(super) fn txn() -> impl Strategy<Value = Txn> {
    let leaf = txn_of(op().boxed());
    leaf.prop_recursive(3, 12, 3, |inner| {
        txn_of(prop_oneof![4 => op(), 1 => inner.prop_map(Op::Txn)].boxed())
    })
}

fn txn_of(op: BoxedStrategy<Op>) -> BoxedStrategy<Txn> {
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4))
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
        .boxed()
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => range().prop_map(Op::Range),
        3 => put().prop_map(Op::Put),
        1 => delete_range().prop_map(Op::DeleteRange),
    ]
}

fn put() -> impl Strategy<Value = Put> {
    let value = prop_oneof![8 => bytes().prop_map(Some), 1 => Just(None)];
    let lease = prop_oneof![
        6 => Just(Some(LeaseId::NONE)),
        4 => lease().prop_map(Some),
        1 => Just(None),
    ];
    (key(), value, lease, any::<bool>())
        .prop_map(|(key, value, lease, prev_kv)| Put::new(key, value, lease, prev_kv))
}

fn delete_range() -> impl Strategy<Value = DeleteRange> {
    (key_range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRange { range, prev_kv })
}

pub(super) fn range() -> impl Strategy<Value = Range> {
    let rev = prop_oneof![6 => Just(0i64), 2 => -1i64..20];
    let limit = prop_oneof![2 => Just(0i64), 1 => -1i64..4];
    let bounds = || {
        let bound = || prop_oneof![4 => Just(0i64), 1 => 1i64..20];
        (bound(), bound()).prop_map(|(min, max)| RevBounds { min, max })
    };
    let order = prop::sample::select(vec![SortOrder::None, SortOrder::Ascend, SortOrder::Descend]);
    let target = prop::sample::select(vec![
        SortTarget::Key,
        SortTarget::Version,
        SortTarget::CreateRev,
        SortTarget::ModRev,
        SortTarget::Value,
    ]);
    let sort = (target, order).prop_map(|(target, order)| Sort { target, order });
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    (key_range(), rev, limit, sort, bounds(), bounds(), flags).prop_map(
        |(range, rev, limit, sort, mod_rev, create_rev, (keys_only, count_only))| Range {
            range,
            rev,
            limit,
            sort,
            mod_rev,
            create_rev,
            keys_only,
            count_only,
        },
    )
}

pub(super) fn compare() -> impl Strategy<Value = Compare> {
    let operator = prop::sample::select(vec![
        CompareOperator::Equal,
        CompareOperator::Greater,
        CompareOperator::Less,
        CompareOperator::NotEqual,
        CompareOperator::Unknown,
    ]);
    let target = prop_oneof![
        (0i64..4).prop_map(CompareTarget::Version),
        (0i64..12).prop_map(CompareTarget::CreateRev),
        (0i64..12).prop_map(CompareTarget::ModRev),
        bytes().prop_map(CompareTarget::Value),
        option::of(lease()).prop_map(|id| CompareTarget::Lease(id.unwrap_or_default().0)),
    ];
    (key_range(), operator, target).prop_map(|(range, operator, target)| Compare { range, operator, target })
}

/// A range as it is parsed from a request: a span never ends with `\0`, which means "no end".
fn key_range() -> impl Strategy<Value = KeyRange> {
    let end = prop_oneof![4 => Just(Bytes::new()), 1 => Just(Bytes::from_static(b"\0")), 4 => key()];
    (key(), end).prop_map(|(key, end)| KeyRange::parse(key, end))
}

fn key() -> impl Strategy<Value = Bytes> {
    "[a-d]".prop_map(Bytes::from)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    "[x-z]{0,2}".prop_map(Bytes::from)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    prop::sample::select(vec![LeaseId(-7), LeaseId(1), LeaseId(2)])
}

fn member() -> impl Strategy<Value = MemberId> {
    prop::sample::select(vec![MemberId(0), MemberId(1), MemberId(u64::MAX)])
}

/// Few names, `root` and the empty one among them, so that a command often names one that exists.
pub(super) fn auth_command() -> impl Strategy<Value = AuthCommand> {
    let name = || prop::sample::select(vec!["", "a", "b", "root"]).prop_map(str::to_owned);
    let hash = || "[x-z]{0,2}";
    let kind = prop_oneof![4 => 0i32..3, 1 => any::<i32>()].prop_map(PermissionKind::of);
    let permission = (kind, auth_range()).prop_map(|(kind, range)| Permission { kind, range });
    prop_oneof![
        3 => (name(), hash(), any::<bool>()).prop_map(|(name, password_hash, no_password)| {
            AuthCommand::UserAdd { name, password_hash, no_password }
        }),
        1 => name().prop_map(|name| AuthCommand::UserDelete { name }),
        2 => (name(), hash())
            .prop_map(|(name, password_hash)| AuthCommand::UserChangePassword { name, password_hash }),
        4 => (name(), name()).prop_map(|(name, role)| AuthCommand::UserGrantRole { name, role }),
        2 => (name(), name()).prop_map(|(name, role)| AuthCommand::UserRevokeRole { name, role }),
        3 => name().prop_map(|name| AuthCommand::RoleAdd { name }),
        1 => name().prop_map(|name| AuthCommand::RoleDelete { name }),
        8 => (name(), permission)
            .prop_map(|(role, permission)| AuthCommand::RoleGrantPermission { role, permission }),
        4 => (name(), auth_range())
            .prop_map(|(role, range)| AuthCommand::RoleRevokePermission { role, range }),
        2 => Just(AuthCommand::Enable),
        1 => Just(AuthCommand::Disable),
        3 => (name(), 1u64..30, "[a-c]").prop_map(|(name, auth_rev, letters)| AuthCommand::Login {
            name,
            auth_rev,
            token: TokenHash::of(&letters),
        }),
    ]
}

fn auth_range() -> impl Strategy<Value = KeyRange> {
    let key = || prop::sample::select(vec!["", "\0", "a", "b", "c"]).prop_map(Bytes::from);
    (key(), key()).prop_map(|(key, end)| KeyRange::parse(key, end))
}

fn alarm() -> impl Strategy<Value = Alarm> {
    let kind = prop::sample::select(vec![AlarmKind::NoSpace, AlarmKind::Corrupt]);
    (member(), kind).prop_map(|(member, kind)| Alarm { member, kind })
}

/// Over few keys, so that files, directories and missing nodes are met, at times of a minute.
pub(crate) fn v2_command() -> impl Strategy<Value = V2Command> {
    let name = || prop::sample::select(vec!["a", "b", "_h", "a-", ""]);
    let key = vec(name(), 0..4).prop_map(|names| Key::of(&names.join("/")).expect("short"));
    let value = || "[x-z]{0,2}";
    let time = || 1i64..60;
    let written = (value(), any::<bool>(), option::of(time()), prop::bool::weighted(0.2)).prop_map(
        |(value, dir, expires, refresh)| Written {
            value: if refresh { "".into() } else { value.into() },
            dir,
            expires,
            refresh,
        },
    );
    let condition = (option::of("[x-z]"), option::of(4u64..30))
        .prop_map(|(value, index)| Condition { value: value.map(Into::into), index });
    let change = prop_oneof![
        4 => written.clone().prop_map(Change::Set),
        3 => (written.clone(), any::<bool>())
            .prop_map(|(written, in_order)| Change::Create { written, in_order }),
        2 => written.clone().prop_map(Change::Update),
        2 => (condition.clone(), written)
            .prop_map(|(condition, written)| Change::CompareAndSwap { condition, written }),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(dir, recursive)| Change::Delete { dir, recursive }),
        1 => condition.prop_map(Change::CompareAndDelete),
    ];
    let who = || prop_oneof![3 => Just(Who::Guest), 1 => "[uv]".prop_map(|name| Who::User(name.into()))];
    prop_oneof![
        10 => (who(), key, time(), change)
            .prop_map(|(who, key, at, change)| V2Command::Key(KeyChange { who, key, at, change })),
        2 => (time(), 0u32..3).prop_map(|(cutoff, most)| V2Command::Expire { cutoff, most }),
        1 => (who(), account_change()).prop_map(|(who, change)| V2Command::Account { who, change }),
    ]
}

fn account_change() -> impl Strategy<Value = AccountChange> {
    let name = || prop::sample::select(vec!["u", "v", "root"]).prop_map(str::to_owned);
    let names = || option::of(vec(name(), 0..2));
    let patterns = || {
        let patterns =
            || option::of(vec(prop::sample::select(vec!["/a", "/a*"]).prop_map(str::to_owned), 0..2));
        (patterns(), patterns()).prop_map(|(read, write)| Patterns { read, write })
    };
    prop_oneof![
        3 => (name(), option::of("[x-z]"), names(), vec(name(), 0..2), vec(name(), 0..2)).prop_map(
            |(name, password_hash, roles, grant, revoke)| {
                AccountChange::PutUser { name, password_hash, roles, grant, revoke }
            }
        ),
        1 => name().prop_map(|name| AccountChange::DeleteUser { name }),
        2 => (name(), patterns()).prop_map(|(name, permits)| AccountChange::CreateRole { name, permits }),
        2 => (name(), patterns(), patterns())
            .prop_map(|(name, grant, revoke)| AccountChange::UpdateRole { name, grant, revoke }),
        1 => name().prop_map(|name| AccountChange::DeleteRole { name }),
        1 => Just(AccountChange::Enable),
        1 => Just(AccountChange::Disable),
    ]
}
