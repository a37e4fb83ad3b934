//! The encoding of commands, in log entries and in the proposals that members forward to the leader.
//!
//! The format is `proto/log.proto`. Decoding returns exactly what was encoded. Bytes that cannot be
//! decoded are damaged or come from a newer version; they are refused, because a member that skipped a
//! command would differ from the others permanently. Decoded keys and values are slices of the input.
//!
//! This is the one file of `apply` that knows protobuf.

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use crate::{
    apply::{
        Alarm, AlarmKind, AuthCommand, Command, Compare, CompareOperator, CompareTarget, DeleteRange, Op,
        Put, Request, Txn,
    },
    auth::{Permission, PermissionKind, TokenHash},
    limits,
    mvcc::{Range, RevBounds, Sort, SortOrder, SortTarget},
    pb::{
        authpb,
        etcdserverpb::{
            AlarmRequest, AlarmType, AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest,
            AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest,
            AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
            AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, CompactionRequest, Compare as PbCompare,
            DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, Member, PutRequest, RangeRequest,
            RequestOp, TxnRequest,
            alarm_request::AlarmAction,
            compare::{CompareResult as PbOperator, CompareTarget as PbTarget, TargetUnion},
            range_request::{SortOrder as PbOrder, SortTarget as PbSortTarget},
            request_op::Request as PbOp,
        },
        nested::{self, Fields, Nested},
        retcd::log::{
            self as pb, Batch, Command as PbCommand, LeaseCheckpoint, LeaseRemaining, Login, V2, V2Account,
            V2Expire, V2Key, caller::Caller as PbCaller, command::Command as Logged, v2, v2_key,
        },
    },
    types::{Caller, KeyRange, LeaseId, MemberId, Rev},
    v2::{Change, Condition, Key, KeyChange, V2Command, Who, Written},
};

/// The bytes are not commands that this version knows.
#[derive(Debug, Error)]
pub(crate) enum DecodeError {
    #[error("not a batch of commands: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("unknown {0}: damaged, or written by a newer version")]
    Unknown(&'static str),
    /// No member of this version proposes such a command: its sender is malicious, or has a higher limit.
    #[error("transactions nested more than {} deep", limits::TXN_DEPTH_MAX)]
    TooDeep,
}

/// Appends a batch to `out`.
pub(crate) fn encode(requests: &[Request], out: &mut Vec<u8>) {
    // Field 1 of `Batch`, length-delimited: each command is appended to `out` directly, without
    // building a `Batch` of all commands first.
    const COMMANDS: u8 = 1 << 3 | 2;
    for request in requests {
        let begin = out.len();
        out.push(COMMANDS);
        request_to_pb(request).encode_length_delimited(out).expect("a Vec grows as needed");
        debug_assert_eq!(out.len() - begin, encoded_len(request), "the length was computed without encoding");
    }
}

/// The bytes that [`encode`] appends for one request. This is on the path of every write, so keys, values
/// and operations are counted without copying them.
pub(crate) fn encoded_len(request: &Request) -> usize {
    let command = nested(match &request.command {
        Command::Put(put) => put_len(put),
        Command::DeleteRange(delete) => delete_len(delete),
        Command::Txn(txn) => txn_len(txn),
        Command::Compact { .. }
        | Command::LeaseGrant { .. }
        | Command::LeaseRevoke { .. }
        | Command::LeaseCheckpoint { .. }
        | Command::AlarmActivate(_)
        | Command::AlarmDeactivate(_)
        | Command::MemberPublish { .. }
        | Command::Auth(_)
        | Command::V2(_) => return nested(request_to_pb(request).encoded_len()),
    });
    nested(command + caller_len(&request.caller))
}

/// The length of the caller's field, which is left out for [`Caller::Nobody`].
fn caller_len(caller: &Caller) -> usize {
    // The number of this field is above 15, so its tag takes one byte more than that of the others.
    caller_to_pb(caller).map_or(0, |caller| 1 + nested(caller.encoded_len()))
}

/// The length of a length-delimited field whose number is below 16.
fn nested(len: usize) -> usize {
    1 + prost::length_delimiter_len(len) + len
}

/// As [`nested`], for a field that is left out when it is empty.
fn bytes_len(len: usize) -> usize {
    if len == 0 { 0 } else { nested(len) }
}

fn integer_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + prost::encoding::encoded_len_varint(value as u64) }
}

fn flag_len(is_set: bool) -> usize {
    2 * usize::from(is_set)
}

fn range_len(range: &KeyRange) -> usize {
    match range {
        KeyRange::Point(key) => bytes_len(key.len()),
        KeyRange::Span(start, end) => bytes_len(start.len()) + bytes_len(end.len()),
        KeyRange::From(start) => bytes_len(start.len()) + bytes_len(1),
    }
}

fn put_len(put: &Put) -> usize {
    bytes_len(put.key.len())
        + bytes_len(put.value.as_ref().map_or(0, Bytes::len))
        + integer_len(put.lease.unwrap_or_default().0)
        + flag_len(put.prev_kv)
        + flag_len(put.value.is_none())
        + flag_len(put.lease.is_none())
}

fn delete_len(delete: &DeleteRange) -> usize {
    range_len(&delete.range) + flag_len(delete.prev_kv)
}

fn txn_len(txn: &Txn) -> usize {
    let compares: usize = txn.compares.iter().map(|compare| nested(compare_len(compare))).sum();
    let ops = txn.success.iter().chain(&txn.failure);
    compares + ops.map(|op| nested(nested(op_len(op)))).sum::<usize>()
}

fn op_len(op: &Op) -> usize {
    match op {
        Op::Range(range) => range_to_pb(range).encoded_len(),
        Op::Put(put) => put_len(put),
        Op::DeleteRange(delete) => delete_len(delete),
        Op::Txn(txn) => txn_len(txn),
    }
}

fn compare_len(compare: &Compare) -> usize {
    compare_to_pb(compare).encoded_len()
}

/// A caller by itself, as members tell each other who asked. `Nobody` takes no bytes.
pub(crate) fn encode_caller(caller: &Caller) -> Bytes {
    caller_to_pb(caller).map_or(Bytes::new(), |caller| caller.encode_to_vec().into())
}

/// A caller that this version does not know is refused, as in a batch.
pub(crate) fn decode_caller(bytes: Bytes) -> Result<Caller, DecodeError> {
    let caller = if bytes.is_empty() { None } else { Some(pb::Caller::decode(bytes)?) };
    caller_from_pb(caller)
}

pub(crate) fn decode(batch: Bytes) -> Result<Vec<Request>, DecodeError> {
    Batch::decode(batch)?.commands.into_iter().map(request_from_pb).collect()
}

fn request_to_pb(request: &Request) -> PbCommand {
    PbCommand { command: Some(command_to_pb(&request.command)), caller: caller_to_pb(&request.caller) }
}

fn request_from_pb(request: PbCommand) -> Result<Request, DecodeError> {
    let PbCommand { command, caller } = request;
    let command = command_from_pb(command.ok_or(DecodeError::Unknown("command"))?)?;
    Ok(command.by(caller_from_pb(caller)?))
}

fn caller_to_pb(caller: &Caller) -> Option<pb::Caller> {
    let caller = match caller {
        Caller::Nobody => return None,
        Caller::Internal => PbCaller::Internal(pb::Internal {}),
        Caller::User { name, auth_rev } => {
            PbCaller::User(pb::User { name: name.to_string(), auth_revision: *auth_rev })
        }
    };
    Some(pb::Caller { caller: Some(caller) })
}

/// A kind of caller that this version does not know is refused, not taken for [`Caller::Nobody`].
fn caller_from_pb(caller: Option<pb::Caller>) -> Result<Caller, DecodeError> {
    let Some(pb::Caller { caller }) = caller else { return Ok(Caller::Nobody) };
    match caller.ok_or(DecodeError::Unknown("caller"))? {
        PbCaller::Internal(pb::Internal {}) => Ok(Caller::Internal),
        PbCaller::User(user) if user.name.is_empty() => Err(DecodeError::Unknown("user")),
        PbCaller::User(user) => Ok(Caller::User { name: user.name.into(), auth_rev: user.auth_revision }),
    }
}

fn command_to_pb(command: &Command) -> Logged {
    match command {
        Command::Put(put) => Logged::Put(put_to_pb(put)),
        Command::DeleteRange(delete) => Logged::DeleteRange(delete_to_pb(delete)),
        Command::Txn(txn) => Logged::Txn(nested::encode(txn).into()),
        Command::Compact { rev } => Logged::Compact(CompactionRequest { revision: rev.0, physical: false }),
        Command::LeaseGrant { id, ttl_secs } => {
            Logged::LeaseGrant(LeaseGrantRequest { id: id.0, ttl: *ttl_secs })
        }
        Command::LeaseRevoke { id } => Logged::LeaseRevoke(LeaseRevokeRequest { id: id.0 }),
        Command::LeaseCheckpoint { remaining_millis } => {
            let leases =
                remaining_millis.iter().map(|&(id, millis)| LeaseRemaining { id: id.0, millis }).collect();
            Logged::LeaseCheckpoint(LeaseCheckpoint { leases })
        }
        Command::AlarmActivate(alarm) => Logged::Alarm(alarm_to_pb(alarm, AlarmAction::Activate)),
        Command::AlarmDeactivate(alarm) => Logged::Alarm(alarm_to_pb(alarm, AlarmAction::Deactivate)),
        Command::MemberPublish { id, name, client_urls } => Logged::MemberPublish(Member {
            id: id.0,
            name: name.clone(),
            client_ur_ls: client_urls.clone(),
            ..Member::default()
        }),
        Command::Auth(auth) => auth_to_pb(auth),
        Command::V2(command) => Logged::V2(v2_to_pb(command)),
    }
}

/// A command in its decoded message. The messages are those of etcd's own log too, as far as they are of its API.
pub(crate) fn command(command: Logged) -> Result<Command, DecodeError> {
    command_from_pb(command)
}

fn command_from_pb(command: Logged) -> Result<Command, DecodeError> {
    Ok(match command {
        Logged::Put(put) => Command::Put(put_from_pb(put)),
        Logged::DeleteRange(delete) => Command::DeleteRange(delete_from_pb(delete)),
        Logged::Txn(txn) => Command::Txn(txn_from_bytes(txn, limits::TXN_DEPTH_MAX)?),
        Logged::Compact(compact) => Command::Compact { rev: Rev(compact.revision) },
        Logged::LeaseGrant(grant) => Command::LeaseGrant { id: LeaseId(grant.id), ttl_secs: grant.ttl },
        Logged::LeaseRevoke(revoke) => Command::LeaseRevoke { id: LeaseId(revoke.id) },
        Logged::LeaseCheckpoint(request) => Command::LeaseCheckpoint {
            remaining_millis: request
                .leases
                .into_iter()
                .map(|lease| (LeaseId(lease.id), lease.millis))
                .collect(),
        },
        Logged::Alarm(request) => {
            let kind = match AlarmType::try_from(request.alarm) {
                Ok(AlarmType::Nospace) => AlarmKind::NoSpace,
                Ok(AlarmType::Corrupt) => AlarmKind::Corrupt,
                Ok(AlarmType::None) | Err(_) => return Err(DecodeError::Unknown("alarm")),
            };
            let alarm = Alarm { member: MemberId(request.member_id), kind };
            match AlarmAction::try_from(request.action) {
                Ok(AlarmAction::Activate) => Command::AlarmActivate(alarm),
                Ok(AlarmAction::Deactivate) => Command::AlarmDeactivate(alarm),
                Ok(AlarmAction::Get) | Err(_) => return Err(DecodeError::Unknown("alarm action")),
            }
        }
        Logged::MemberPublish(member) => Command::MemberPublish {
            id: MemberId(member.id),
            name: member.name,
            client_urls: member.client_ur_ls,
        },
        Logged::AuthUserAdd(add) => Command::Auth(AuthCommand::UserAdd {
            name: add.name,
            password_hash: add.hashed_password,
            no_password: add.options.is_some_and(|options| options.no_password),
        }),
        Logged::AuthUserDelete(delete) => Command::Auth(AuthCommand::UserDelete { name: delete.name }),
        Logged::AuthUserChangePassword(change) => Command::Auth(AuthCommand::UserChangePassword {
            name: change.name,
            password_hash: change.hashed_password,
        }),
        Logged::AuthUserGrantRole(grant) => {
            Command::Auth(AuthCommand::UserGrantRole { name: grant.user, role: grant.role })
        }
        Logged::AuthUserRevokeRole(revoke) => {
            Command::Auth(AuthCommand::UserRevokeRole { name: revoke.name, role: revoke.role })
        }
        Logged::AuthRoleAdd(add) => Command::Auth(AuthCommand::RoleAdd { name: add.name }),
        Logged::AuthRoleDelete(delete) => Command::Auth(AuthCommand::RoleDelete { name: delete.role }),
        Logged::AuthRoleGrantPermission(grant) => {
            let permission = grant.perm.ok_or(DecodeError::Unknown("permission"))?;
            Command::Auth(AuthCommand::RoleGrantPermission {
                role: grant.name,
                permission: Permission {
                    kind: PermissionKind::of(permission.perm_type),
                    range: KeyRange::parse(permission.key, permission.range_end),
                },
            })
        }
        Logged::AuthRoleRevokePermission(revoke) => Command::Auth(AuthCommand::RoleRevokePermission {
            role: revoke.role,
            range: KeyRange::parse(revoke.key, revoke.range_end),
        }),
        Logged::AuthEnable(AuthEnableRequest {}) => Command::Auth(AuthCommand::Enable),
        Logged::AuthDisable(AuthDisableRequest {}) => Command::Auth(AuthCommand::Disable),
        Logged::Login(Login { name, auth_revision, token_hash }) => Command::Auth(AuthCommand::Login {
            name,
            auth_rev: auth_revision,
            token: TokenHash::from_bytes(&token_hash).ok_or(DecodeError::Unknown("token"))?,
        }),
        Logged::V2(command) => Command::V2(v2_from_pb(command)?),
    })
}

fn auth_to_pb(command: &AuthCommand) -> Logged {
    match command {
        AuthCommand::UserAdd { name, password_hash, no_password } => {
            Logged::AuthUserAdd(AuthUserAddRequest {
                name: name.clone(),
                password: String::new(),
                options: Some(authpb::UserAddOptions { no_password: *no_password }),
                hashed_password: password_hash.clone(),
            })
        }
        AuthCommand::UserDelete { name } => {
            Logged::AuthUserDelete(AuthUserDeleteRequest { name: name.clone() })
        }
        AuthCommand::UserChangePassword { name, password_hash } => {
            Logged::AuthUserChangePassword(AuthUserChangePasswordRequest {
                name: name.clone(),
                password: String::new(),
                hashed_password: password_hash.clone(),
            })
        }
        AuthCommand::UserGrantRole { name, role } => {
            Logged::AuthUserGrantRole(AuthUserGrantRoleRequest { user: name.clone(), role: role.clone() })
        }
        AuthCommand::UserRevokeRole { name, role } => {
            Logged::AuthUserRevokeRole(AuthUserRevokeRoleRequest { name: name.clone(), role: role.clone() })
        }
        AuthCommand::RoleAdd { name } => Logged::AuthRoleAdd(AuthRoleAddRequest { name: name.clone() }),
        AuthCommand::RoleDelete { name } => {
            Logged::AuthRoleDelete(AuthRoleDeleteRequest { role: name.clone() })
        }
        AuthCommand::RoleGrantPermission { role, permission } => {
            let (key, range_end) = permission.range.to_wire();
            let perm = authpb::Permission { perm_type: permission.kind.number(), key, range_end };
            Logged::AuthRoleGrantPermission(AuthRoleGrantPermissionRequest {
                name: role.clone(),
                perm: Some(perm),
            })
        }
        AuthCommand::Enable => Logged::AuthEnable(AuthEnableRequest {}),
        AuthCommand::Disable => Logged::AuthDisable(AuthDisableRequest {}),
        AuthCommand::Login { name, auth_rev, token } => Logged::Login(Login {
            name: name.clone(),
            auth_revision: *auth_rev,
            token_hash: Bytes::copy_from_slice(token.bytes()),
        }),
        AuthCommand::RoleRevokePermission { role, range } => {
            let (key, range_end) = range.to_wire();
            Logged::AuthRoleRevokePermission(AuthRoleRevokePermissionRequest {
                role: role.clone(),
                key,
                range_end,
            })
        }
    }
}

fn v2_to_pb(command: &V2Command) -> V2 {
    let command = match command {
        V2Command::Key(change) => v2::Command::Key(key_change_to_pb(change)),
        V2Command::Expire { cutoff, most } => v2::Command::Expire(V2Expire { cutoff: *cutoff, most: *most }),
        V2Command::Account { who, change } => {
            let change = serde_json::to_vec(change).expect("texts and lists are JSON").into();
            v2::Command::Account(V2Account { user: who_to_pb(who), change })
        }
    };
    V2 { command: Some(command) }
}

fn v2_from_pb(command: V2) -> Result<V2Command, DecodeError> {
    Ok(match command.command.ok_or(DecodeError::Unknown("command of version 2"))? {
        v2::Command::Key(change) => V2Command::Key(key_change_from_pb(change)?),
        v2::Command::Expire(V2Expire { cutoff, most }) => V2Command::Expire { cutoff, most },
        v2::Command::Account(V2Account { user, change }) => {
            let change = serde_json::from_slice(&change);
            let change = change.map_err(|_| DecodeError::Unknown("change of users of version 2"))?;
            V2Command::Account { who: who_from_pb(user), change }
        }
    })
}

fn who_to_pb(who: &Who) -> String {
    match who {
        Who::Guest => String::new(),
        Who::User(name) => name.to_string(),
    }
}

fn who_from_pb(user: String) -> Who {
    if user.is_empty() { Who::Guest } else { Who::User(user.into()) }
}

fn key_change_to_pb(KeyChange { who, key, at, change }: &KeyChange) -> V2Key {
    use v2_key::Action;
    let (action, written, condition) = match change {
        Change::Set(written) => (Action::Set, Some(written), None),
        Change::Create { written, in_order: false } => (Action::Create, Some(written), None),
        Change::Create { written, in_order: true } => (Action::CreateInOrder, Some(written), None),
        Change::Update(written) => (Action::Update, Some(written), None),
        Change::CompareAndSwap { condition, written } => {
            (Action::CompareAndSwap, Some(written), Some(condition))
        }
        Change::Delete { .. } => (Action::Delete, None, None),
        Change::CompareAndDelete(condition) => (Action::CompareAndDelete, None, Some(condition)),
    };
    let mut pb = V2Key {
        user: who_to_pb(who),
        key: key.as_str().to_owned(),
        at: *at,
        action: action.into(),
        ..V2Key::default()
    };
    if let Some(Written { value, dir, expires, refresh }) = written {
        (pb.value, pb.dir, pb.expires, pb.refresh) = (value.to_string(), *dir, *expires, *refresh);
    }
    if let Change::Delete { dir, recursive } = change {
        (pb.dir, pb.recursive) = (*dir, *recursive);
    }
    if let Some(Condition { value, index }) = condition {
        (pb.prev_value, pb.prev_index) = (value.as_ref().map(|value| value.to_string()), *index);
    }
    pb
}

fn key_change_from_pb(pb: V2Key) -> Result<KeyChange, DecodeError> {
    use v2_key::Action;
    let key = Key::of(&pb.key).ok().filter(|key| key.as_str() == pb.key);
    let key = key.ok_or(DecodeError::Unknown("form of a key of version 2"))?;
    let written = Written { value: pb.value.into(), dir: pb.dir, expires: pb.expires, refresh: pb.refresh };
    let condition = Condition { value: pb.prev_value.map(Into::into), index: pb.prev_index };
    let change = match Action::try_from(pb.action) {
        Ok(Action::Set) => Change::Set(written),
        Ok(Action::Create) => Change::Create { written, in_order: false },
        Ok(Action::CreateInOrder) => Change::Create { written, in_order: true },
        Ok(Action::Update) => Change::Update(written),
        Ok(Action::CompareAndSwap) => Change::CompareAndSwap { condition, written },
        Ok(Action::Delete) => Change::Delete { dir: pb.dir, recursive: pb.recursive },
        Ok(Action::CompareAndDelete) => Change::CompareAndDelete(condition),
        Err(_) => return Err(DecodeError::Unknown("action of version 2")),
    };
    Ok(KeyChange { who: who_from_pb(pb.user), key, at: pb.at, change })
}

fn put_to_pb(put: &Put) -> PutRequest {
    PutRequest {
        key: put.key.clone(),
        value: put.value.clone().unwrap_or_default(),
        lease: put.lease.unwrap_or_default().0,
        prev_kv: put.prev_kv,
        ignore_value: put.value.is_none(),
        ignore_lease: put.lease.is_none(),
    }
}

fn put_from_pb(put: PutRequest) -> Put {
    Put::new(
        put.key,
        (!put.ignore_value).then_some(put.value),
        (!put.ignore_lease).then_some(LeaseId(put.lease)),
        put.prev_kv,
    )
}

fn delete_to_pb(delete: &DeleteRange) -> DeleteRangeRequest {
    let (key, range_end) = delete.range.to_wire();
    DeleteRangeRequest { key, range_end, prev_kv: delete.prev_kv }
}

fn delete_from_pb(delete: DeleteRangeRequest) -> DeleteRange {
    DeleteRange { range: KeyRange::parse(delete.key, delete.range_end), prev_kv: delete.prev_kv }
}

/// As an `etcdserverpb.TxnRequest`.
impl Nested for Txn {
    fn fields(&self, fields: &mut impl Fields) {
        const SUCCESS: u32 = 2;
        const FAILURE: u32 = 3;
        for compare in &self.compares {
            fields.message(1, &compare_to_pb(compare));
        }
        for (tag, ops) in [(SUCCESS, &self.success), (FAILURE, &self.failure)] {
            for op in ops {
                match op {
                    Op::Range(range) => {
                        fields.message(tag, &op_to_pb(PbOp::RequestRange(range_to_pb(range))))
                    }
                    Op::Put(put) => fields.message(tag, &op_to_pb(PbOp::RequestPut(put_to_pb(put)))),
                    Op::DeleteRange(delete) => {
                        fields.message(tag, &op_to_pb(PbOp::RequestDeleteRange(delete_to_pb(delete))));
                    }
                    Op::Txn(txn) => fields.nested(tag, &TxnOp(txn)),
                }
            }
        }
    }
}

fn op_to_pb(request: PbOp) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// The `RequestOp` around a nested transaction.
struct TxnOp<'a>(&'a Txn);

impl Nested for TxnOp<'_> {
    fn fields(&self, fields: &mut impl Fields) {
        fields.nested(4, self.0);
    }
}

/// Calls itself for nested transactions, so its stack frame is kept small: loops instead of iterator
/// adapters, and large values only in other functions.
fn txn_from_bytes(txn: Bytes, depth_max: usize) -> Result<Txn, DecodeError> {
    let depth_left = depth_max.checked_sub(1).ok_or(DecodeError::TooDeep)?;
    let (compares, success, failure) = fields_of_txn(txn)?;
    Ok(Txn {
        compares,
        success: ops_from_pb(success, depth_left)?,
        failure: ops_from_pb(failure, depth_left)?,
    })
}

type TxnFields = (Vec<Compare>, Vec<RequestOp>, Vec<RequestOp>);

fn fields_of_txn(txn: Bytes) -> Result<TxnFields, DecodeError> {
    let TxnRequest { compare, success, failure } = TxnRequest::decode(txn)?;
    let compares = compare.into_iter().map(compare_from_pb).collect::<Result<_, _>>()?;
    Ok((compares, success, failure))
}

fn ops_from_pb(requests: Vec<RequestOp>, depth_left: usize) -> Result<Vec<Op>, DecodeError> {
    let mut ops = Vec::with_capacity(requests.len());
    for RequestOp { request } in requests {
        match request {
            Some(PbOp::RequestTxn(txn)) => ops.push(Op::Txn(txn_from_bytes(txn, depth_left)?)),
            request => push_op(request, &mut ops)?,
        }
    }
    Ok(ops)
}

/// Any operation but a nested transaction.
fn push_op(request: Option<PbOp>, ops: &mut Vec<Op>) -> Result<(), DecodeError> {
    ops.push(match request {
        Some(PbOp::RequestRange(range)) => Op::Range(range_from_pb(range)?),
        Some(PbOp::RequestPut(put)) => Op::Put(put_from_pb(put)),
        Some(PbOp::RequestDeleteRange(delete)) => Op::DeleteRange(delete_from_pb(delete)),
        Some(PbOp::RequestTxn(_)) | None => {
            return Err(DecodeError::Unknown("operation of a transaction"));
        }
    });
    Ok(())
}

fn range_to_pb(range: &Range) -> RangeRequest {
    let (key, range_end) = range.range.to_wire();
    let order = match range.sort.order {
        SortOrder::None => PbOrder::None,
        SortOrder::Ascend => PbOrder::Ascend,
        SortOrder::Descend => PbOrder::Descend,
    };
    let target = match range.sort.target {
        SortTarget::Key => PbSortTarget::Key,
        SortTarget::Version => PbSortTarget::Version,
        SortTarget::CreateRev => PbSortTarget::Create,
        SortTarget::ModRev => PbSortTarget::Mod,
        SortTarget::Value => PbSortTarget::Value,
    };
    RangeRequest {
        key,
        range_end,
        limit: range.limit,
        revision: range.rev,
        sort_order: order.into(),
        sort_target: target.into(),
        // Whether a read waits for the leader was decided before, and does not matter in the log.
        serializable: false,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.mod_rev.min,
        max_mod_revision: range.mod_rev.max,
        min_create_revision: range.create_rev.min,
        max_create_revision: range.create_rev.max,
    }
}

fn range_from_pb(range: RangeRequest) -> Result<Range, DecodeError> {
    let order = match PbOrder::try_from(range.sort_order) {
        Ok(PbOrder::None) => SortOrder::None,
        Ok(PbOrder::Ascend) => SortOrder::Ascend,
        Ok(PbOrder::Descend) => SortOrder::Descend,
        Err(_) => return Err(DecodeError::Unknown("sort order")),
    };
    let target = match PbSortTarget::try_from(range.sort_target) {
        Ok(PbSortTarget::Key) => SortTarget::Key,
        Ok(PbSortTarget::Version) => SortTarget::Version,
        Ok(PbSortTarget::Create) => SortTarget::CreateRev,
        Ok(PbSortTarget::Mod) => SortTarget::ModRev,
        Ok(PbSortTarget::Value) => SortTarget::Value,
        Err(_) => return Err(DecodeError::Unknown("sort target")),
    };
    Ok(Range {
        range: KeyRange::parse(range.key, range.range_end),
        rev: range.revision,
        limit: range.limit,
        sort: Sort { target, order },
        mod_rev: RevBounds { min: range.min_mod_revision, max: range.max_mod_revision },
        create_rev: RevBounds { min: range.min_create_revision, max: range.max_create_revision },
        keys_only: range.keys_only,
        count_only: range.count_only,
    })
}

/// Stands for [`CompareOperator::Unknown`]. No operator of the API has a negative number.
const OPERATOR_UNKNOWN: i32 = -1;

fn compare_to_pb(compare: &Compare) -> PbCompare {
    let (key, range_end) = compare.range.to_wire();
    let result = match compare.operator {
        CompareOperator::Equal => PbOperator::Equal.into(),
        CompareOperator::Greater => PbOperator::Greater.into(),
        CompareOperator::Less => PbOperator::Less.into(),
        CompareOperator::NotEqual => PbOperator::NotEqual.into(),
        CompareOperator::Unknown => OPERATOR_UNKNOWN,
    };
    let (target, given) = match &compare.target {
        CompareTarget::Version(version) => (PbTarget::Version, TargetUnion::Version(*version)),
        CompareTarget::CreateRev(rev) => (PbTarget::Create, TargetUnion::CreateRevision(*rev)),
        CompareTarget::ModRev(rev) => (PbTarget::Mod, TargetUnion::ModRevision(*rev)),
        CompareTarget::Value(value) => (PbTarget::Value, TargetUnion::Value(value.clone())),
        CompareTarget::Lease(lease) => (PbTarget::Lease, TargetUnion::Lease(*lease)),
    };
    PbCompare { result, target: target.into(), key, range_end, target_union: Some(given) }
}

fn compare_from_pb(compare: PbCompare) -> Result<Compare, DecodeError> {
    let operator = match PbOperator::try_from(compare.result) {
        Ok(PbOperator::Equal) => CompareOperator::Equal,
        Ok(PbOperator::Greater) => CompareOperator::Greater,
        Ok(PbOperator::Less) => CompareOperator::Less,
        Ok(PbOperator::NotEqual) => CompareOperator::NotEqual,
        Err(_) if compare.result == OPERATOR_UNKNOWN => CompareOperator::Unknown,
        Err(_) => return Err(DecodeError::Unknown("compare operator")),
    };
    // The variant of `target_union` determines the target. The field `target` repeats it for tools that
    // read the log with the schema of the API.
    let target = match compare.target_union.ok_or(DecodeError::Unknown("compare target"))? {
        TargetUnion::Version(version) => CompareTarget::Version(version),
        TargetUnion::CreateRevision(rev) => CompareTarget::CreateRev(rev),
        TargetUnion::ModRevision(rev) => CompareTarget::ModRev(rev),
        TargetUnion::Value(value) => CompareTarget::Value(value),
        TargetUnion::Lease(lease) => CompareTarget::Lease(lease),
    };
    Ok(Compare { range: KeyRange::parse(compare.key, compare.range_end), operator, target })
}

fn alarm_to_pb(alarm: &Alarm, action: AlarmAction) -> AlarmRequest {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => AlarmType::Nospace,
        AlarmKind::Corrupt => AlarmType::Corrupt,
    };
    AlarmRequest { action: action.into(), member_id: alarm.member.0, alarm: kind.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::apply::arbitrary;

    fn encoded(requests: &[Request]) -> Bytes {
        let mut out = Vec::new();
        encode(requests, &mut out);
        out.into()
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(requests in arbitrary::requests(12)) {
            let bytes = encoded(&requests);
            prop_assert_eq!(decode(bytes).expect("it was just encoded"), requests);
        }

        #[test]
        fn the_length_is_known_before(requests in arbitrary::requests(12)) {
            let lengths: usize = requests.iter().map(encoded_len).sum();
            prop_assert_eq!(encoded(&requests).len(), lengths);
        }

        #[test]
        fn damage_is_an_error_and_not_a_panic(
            requests in arbitrary::requests(3),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = encoded(&requests).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            // Any result is allowed, because damage is detected by the checksums of the log.
            let _ = decode(bytes.into());
        }
    }

    /// Appending command by command gives the same bytes as encoding a `Batch` of `log.proto`.
    #[test]
    fn the_format_is_the_one_of_the_schema() {
        let alarm = Alarm { member: MemberId(1), kind: AlarmKind::NoSpace };
        let requests = [
            Command::LeaseRevoke { id: LeaseId(-1) }.by(Caller::Internal),
            Command::AlarmDeactivate(alarm).by(Caller::User { name: "root".into(), auth_rev: 7 }),
        ];
        let batch = Batch { commands: requests.iter().map(request_to_pb).collect() };
        assert_eq!(encoded(&requests), batch.encode_to_vec());
    }

    /// A log that was written before there were callers can be read, and a put of nobody takes as many
    /// bytes as in such a log.
    #[test]
    fn nobody_takes_no_bytes() {
        let put = Put::new("k".into(), Some("v".into()), Some(LeaseId::NONE), false);
        let put = Command::Put(put).by(Caller::Nobody);
        let before_callers = Bytes::from_static(b"\x0a\x08\x0a\x06\x0a\x01k\x12\x01v");
        assert_eq!(encoded(std::slice::from_ref(&put)), before_callers);
        assert_eq!(decode(before_callers).expect("readable"), [put]);
    }

    #[test]
    fn a_caller_who_cannot_be_told_is_refused_and_not_taken_for_nobody() {
        let unnamed = pb::User { name: String::new(), auth_revision: 7 };
        for caller in [None, Some(PbCaller::User(unnamed))] {
            let caller = pb::Caller { caller };
            let revoke = Logged::LeaseRevoke(LeaseRevokeRequest { id: 1 });
            let command = PbCommand { command: Some(revoke), caller: Some(caller.clone()) };
            let batch = Batch { commands: vec![command] }.encode_to_vec();
            assert!(matches!(decode(batch.into()), Err(DecodeError::Unknown(_))), "{caller:?}");
        }
    }

    #[test]
    fn a_caller_by_itself_comes_back_or_is_refused() {
        let root = Caller::User { name: "root".into(), auth_rev: 7 };
        for caller in [Caller::Nobody, Caller::Internal, root] {
            let bytes = encode_caller(&caller);
            assert_eq!(bytes.is_empty(), caller == Caller::Nobody);
            assert_eq!(decode_caller(bytes).expect("it was just encoded"), caller);
        }
        // A caller of a kind that this version does not know, and bytes that are no caller.
        for bytes in [&b"\x1a\x00"[..], b"\x12\x00", b"\xff"] {
            assert!(decode_caller(Bytes::from_static(bytes)).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_command_of_the_future_is_not_skipped() {
        // Field 1 of the batch: a command whose field 99 is an empty message.
        let future = Bytes::from_static(&[0x0a, 0x03, 0x9a, 0x06, 0x00]);
        expect_test::expect!["unknown command: damaged, or written by a newer version"]
            .assert_eq(&decode(future).map(|_| ()).expect_err("unknown").to_string());
    }

    fn nested(depth: usize) -> Txn {
        let innermost = Txn::default();
        (1..depth).fold(innermost, |inner, _| Txn { success: vec![Op::Txn(inner)], ..Txn::default() })
    }

    /// With half of a thread's stack. The frames of a build for tests are larger than those of a
    /// release.
    #[test]
    fn the_deepest_transaction_can_be_read_back_and_a_deeper_one_is_an_error() {
        const STACK_BYTES: usize = 1024 * 1024;
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let thread = thread.spawn(read_back_the_deepest_transaction).expect("a thread");
        thread.join().expect("it fits");
    }

    fn read_back_the_deepest_transaction() {
        let deepest = vec![Command::Txn(nested(limits::TXN_DEPTH_MAX)).by(Caller::Nobody)];
        let decoded = decode(encoded(&deepest)).expect("no deeper than a request");
        assert!(decoded == deepest);
        // As deep as a message between members can be: decoding must not overflow the stack.
        for depth in [limits::TXN_DEPTH_MAX + 1, 100 * limits::TXN_DEPTH_MAX] {
            let txn = (1..depth).fold(Bytes::new(), |inner, _| {
                let success = vec![op_to_pb(PbOp::RequestTxn(inner))];
                TxnRequest { success, ..TxnRequest::default() }.encode_to_vec().into()
            });
            let commands = vec![PbCommand { command: Some(Logged::Txn(txn)), caller: None }];
            let deeper = Batch { commands }.encode_to_vec();
            assert!(matches!(decode(deeper.into()), Err(DecodeError::TooDeep)), "{depth}");
        }
    }

    #[test]
    fn decoded_values_are_not_copied() {
        let put = Put::new(Bytes::from_static(b"key"), Some(Bytes::from_static(b"value")), None, false);
        let bytes = encoded(&[Command::Put(put).by(Caller::Nobody)]);
        let within = bytes.as_ptr_range();
        match &decode(bytes.clone()).expect("it was just encoded")[..] {
            [Request { command: Command::Put(Put { key, value: Some(value), .. }), .. }] => {
                assert!(within.contains(&key.as_ptr()) && within.contains(&value.as_ptr()));
            }
            other => panic!("{other:?}"),
        }
    }
}
