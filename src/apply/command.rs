//! The commands that can be proposed, and their outcomes.
//!
//! A [`Command`] is a request that has been parsed. It means the same on every replica and at any later
//! time: what depends on chance or on a clock, such as the id of a lease, was decided before the command
//! was proposed. All replicas have the same [`Outcome`] of a command, also if it is a refusal.

use bytes::Bytes;
use thiserror::Error;

use crate::{
    auth::{AuthError, Permission, TokenHash},
    limits::{self, Knob},
    mvcc::{Hold, Range, RangeResult},
    types::{Caller, KeyRange, KeyValue, LeaseId, MemberId, Rev, Revision, Whereabouts},
    v2::{Answer, V2Command},
};

/// One request in the replicated log: a command, and who asked for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) caller: Caller,
    pub(crate) command: Command,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
    Compact {
        rev: Rev,
    },
    LeaseGrant {
        id: LeaseId,
        ttl_secs: i64,
    },
    LeaseRevoke {
        id: LeaseId,
    },
    /// Notes the remaining TTLs of leases; 0 removes the note.
    LeaseCheckpoint {
        remaining_millis: Vec<(LeaseId, i64)>,
    },
    AlarmActivate(Alarm),
    AlarmDeactivate(Alarm),
    /// A member publishes its name and client URLs.
    MemberPublish {
        id: MemberId,
        name: String,
        client_urls: Vec<String>,
    },
    Auth(AuthCommand),
    V2(V2Command),
}

/// A change of users or roles, or a login. Passwords are bcrypt hashes; an empty hash matches no password.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AuthCommand {
    UserAdd {
        name: String,
        password_hash: String,
        no_password: bool,
    },
    UserDelete {
        name: String,
    },
    UserChangePassword {
        name: String,
        password_hash: String,
    },
    UserGrantRole {
        name: String,
        role: String,
    },
    UserRevokeRole {
        name: String,
        role: String,
    },
    RoleAdd {
        name: String,
    },
    RoleDelete {
        name: String,
    },
    RoleGrantPermission {
        role: String,
        permission: Permission,
    },
    RoleRevokePermission {
        role: String,
        range: KeyRange,
    },
    Enable,
    Disable,
    /// A client has proved to a member that it is this user, by the password of revision `auth_rev` of the
    /// users and roles. Every member then knows the token with this hash. Users and roles stay as they are.
    Login {
        name: String,
        auth_rev: u64,
        token: TokenHash,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Put {
    pub(crate) key: Bytes,
    /// `None` keeps the value that the key has (`ignore_value`).
    pub(crate) value: Option<Bytes>,
    /// `None` keeps the lease that the key has (`ignore_lease`).
    pub(crate) lease: Option<LeaseId>,
    pub(crate) prev_kv: bool,
    /// Where the log of this member has the value, if that is large.
    pub(crate) whereabouts: Whereabouts,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeleteRange {
    pub(crate) range: KeyRange,
    pub(crate) prev_kv: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Txn {
    pub(crate) compares: Vec<Compare>,
    pub(crate) success: Vec<Op>,
    pub(crate) failure: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Range(Range),
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
}

/// A comparison, `actual operator given`, that has to hold for every key of the range.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compare {
    pub(crate) range: KeyRange,
    pub(crate) operator: CompareOperator,
    pub(crate) target: CompareTarget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompareOperator {
    Equal,
    Greater,
    Less,
    NotEqual,
    /// An operator that etcd does not know. As in etcd, its comparison always holds.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CompareTarget {
    Version(i64),
    CreateRev(i64),
    ModRev(i64),
    Value(Bytes),
    Lease(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Alarm {
    pub(crate) member: MemberId,
    pub(crate) kind: AlarmKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AlarmKind {
    NoSpace,
    Corrupt,
}

impl Command {
    pub(crate) fn by(self, caller: Caller) -> Request {
        Request { caller, command: self }
    }

    /// Approximately the bytes that the command takes in the log.
    pub(crate) fn size(&self) -> usize {
        const OVERHEAD: usize = 16;
        OVERHEAD
            + match self {
                Command::Put(put) => put.size(),
                Command::DeleteRange(delete) => delete.range.size(),
                Command::Txn(txn) => txn.size(),
                Command::LeaseCheckpoint { remaining_millis } => remaining_millis.len() * OVERHEAD,
                Command::MemberPublish { name, client_urls, .. } => {
                    name.len() + client_urls.iter().map(String::len).sum::<usize>()
                }
                Command::Auth(auth) => auth.size(),
                Command::V2(command) => command.size(),
                Command::Compact { .. }
                | Command::LeaseGrant { .. }
                | Command::LeaseRevoke { .. }
                | Command::AlarmActivate(_)
                | Command::AlarmDeactivate(_) => 0,
            }
    }
}

impl AuthCommand {
    fn size(&self) -> usize {
        match self {
            AuthCommand::UserAdd { name, password_hash, .. }
            | AuthCommand::UserChangePassword { name, password_hash } => name.len() + password_hash.len(),
            AuthCommand::UserGrantRole { name, role } | AuthCommand::UserRevokeRole { name, role } => {
                name.len() + role.len()
            }
            AuthCommand::UserDelete { name }
            | AuthCommand::RoleAdd { name }
            | AuthCommand::RoleDelete { name } => name.len(),
            AuthCommand::Login { name, .. } => name.len() + TokenHash::BYTES,
            AuthCommand::Enable | AuthCommand::Disable => 0,
            AuthCommand::RoleGrantPermission { role, permission } => role.len() + permission.range.size(),
            AuthCommand::RoleRevokePermission { role, range } => role.len() + range.size(),
        }
    }
}

impl Put {
    /// Whether the value is large enough to be stored once, where the log has it.
    pub(crate) fn is_apart(value: &[u8]) -> bool {
        value.len() >= Knob::ValueApartBytes.or(limits::VALUE_APART_BYTES)
    }

    pub(crate) fn new(key: Bytes, value: Option<Bytes>, lease: Option<LeaseId>, prev_kv: bool) -> Put {
        let is_apart = value.as_deref().is_some_and(Put::is_apart);
        let whereabouts = if is_apart { Whereabouts::expected() } else { Whereabouts::default() };
        Put { key, value, lease, prev_kv, whereabouts }
    }

    fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl Txn {
    fn size(&self) -> usize {
        let compares: usize = self
            .compares
            .iter()
            .map(|compare| {
                let given = match &compare.target {
                    CompareTarget::Value(value) => value.len(),
                    CompareTarget::Version(_)
                    | CompareTarget::CreateRev(_)
                    | CompareTarget::ModRev(_)
                    | CompareTarget::Lease(_) => 0,
                };
                compare.range.size() + given
            })
            .sum();
        let mut size = compares;
        for op in self.success.iter().chain(&self.failure) {
            size += op.size();
        }
        size
    }
}

impl Op {
    fn size(&self) -> usize {
        match self {
            Op::Range(range) => range.range.size(),
            Op::Put(put) => put.size(),
            Op::DeleteRange(delete) => delete.range.size(),
            Op::Txn(txn) => txn.size(),
        }
    }
}

impl AlarmKind {
    /// As etcd spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        }
    }
}

/// The result of one command, and the store's revision after it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) rev: Rev,
    pub(crate) result: Result<Response, ApplyError>,
    /// What the response lacks until the member that answers has read it.
    pub(crate) unread: Option<Box<Unread>>,
}

/// The moments that the reading operations of a command see, in the order of the operations.
#[derive(Clone, Debug)]
pub(crate) struct Unread {
    pub(super) hold: Hold,
    pub(super) moments: Vec<Revision>,
}

/// Tests compare outcomes, and may do so only when nothing is left to be read.
impl PartialEq for Unread {
    fn eq(&self, _: &Unread) -> bool {
        false
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Response {
    Put {
        prev_kv: Option<KeyValue>,
    },
    DeleteRange {
        deleted: i64,
        prev_kvs: Vec<KeyValue>,
    },
    Txn(TxnResult),
    Compact,
    LeaseGrant {
        id: LeaseId,
        ttl_secs: i64,
    },
    LeaseRevoke,
    LeaseCheckpoint,
    /// The alarms that the command raised or cleared.
    Alarm {
        alarms: Vec<Alarm>,
    },
    MemberPublish,
    Auth,
    V2(Box<Answer>),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TxnResult {
    pub(crate) succeeded: bool,
    pub(crate) responses: Vec<OpResult>,
}

/// The answer to one operation of a transaction, with the revision for its inner header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OpResult {
    Range { rev: Rev, result: RangeResult },
    Put { rev: Rev, prev_kv: Option<KeyValue> },
    DeleteRange { rev: Rev, deleted: i64, prev_kvs: Vec<KeyValue> },
    Txn(TxnResult),
}

/// A refusal on which all replicas agree. It is an answer to the client; the next command is applied.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ApplyError {
    #[error("required revision has been compacted (asked {asked}, compacted {compacted})")]
    Compacted { asked: Rev, compacted: Rev },
    #[error("required revision is a future revision (asked {asked}, current {current})")]
    FutureRevision { asked: Rev, current: Rev },
    #[error("requested lease not found")]
    LeaseNotFound,
    #[error("lease already exists")]
    LeaseExists,
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("key not found")]
    KeyNotFound,
    #[error("database space exceeded")]
    NoSpace,
    #[error("corrupt cluster")]
    Corrupt,
    #[error(transparent)]
    Auth(#[from] AuthError),
}
