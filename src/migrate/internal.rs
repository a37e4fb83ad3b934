//! The entries of etcd's log: `raftpb.Entry` with an `etcdserverpb.InternalRaftRequest`, or, of old versions, with a
//! request to the v2 API.

use bytes::Bytes;
use prost::Message;

use crate::{
    apply::{
        Request,
        codec::{self, DecodeError},
    },
    pb::{
        etcdserverpb::{
            AlarmRequest, AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest,
            AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
            AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGrantRoleRequest,
            AuthUserRevokeRoleRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest,
            LeaseRevokeRequest, PutRequest, alarm_request::AlarmAction,
        },
        retcd::log::{self, LeaseRemaining, command::Command as Logged},
    },
    types::Caller,
};

/// A record of the log's files.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WalRecord {
    #[prost(int64, tag = "1")]
    pub(super) kind: i64,
    #[prost(uint32, tag = "2")]
    pub(super) crc: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) data: Bytes,
}

/// `raftpb.Entry`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    /// 0 is a request, 1 and 2 change the members.
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(uint64, tag = "2")]
    pub(super) term: u64,
    #[prost(uint64, tag = "3")]
    pub(super) index: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) data: Bytes,
}

/// `raftpb.HardState`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HardState {
    #[prost(uint64, tag = "1")]
    pub(super) term: u64,
    #[prost(uint64, tag = "3")]
    pub(super) commit: u64,
}

/// `etcdserverpb.Metadata`: whose log it is.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WalMetadata {
    #[prost(uint64, tag = "1")]
    pub(super) member: u64,
    #[prost(uint64, tag = "2")]
    pub(super) cluster: u64,
}

/// `walpb.Snapshot`: the state up to an entry is in a file of its own.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WalSnapshot {
    #[prost(uint64, tag = "1")]
    pub(super) index: u64,
    #[prost(uint64, tag = "2")]
    pub(super) term: u64,
}

/// What tells a request to the v2 API: its second field is the name of a method. A request of today has none, and an
/// older one has a request to the v2 API there.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(bytes = "bytes", tag = "2")]
    v2: Bytes,
}

/// `etcdserverpb.InternalRaftRequest`, without requests that change no state of ours.
#[derive(Clone, PartialEq, Message)]
struct InternalRequest {
    #[prost(message, optional, tag = "100")]
    header: Option<Header>,
    #[prost(message, optional, tag = "4")]
    put: Option<PutRequest>,
    #[prost(message, optional, tag = "5")]
    delete_range: Option<DeleteRangeRequest>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    txn: Option<Bytes>,
    #[prost(message, optional, tag = "7")]
    compaction: Option<CompactionRequest>,
    #[prost(message, optional, tag = "8")]
    lease_grant: Option<LeaseGrantRequest>,
    #[prost(message, optional, tag = "9")]
    lease_revoke: Option<LeaseRevokeRequest>,
    #[prost(message, optional, tag = "10")]
    alarm: Option<AlarmRequest>,
    #[prost(message, optional, tag = "11")]
    lease_checkpoint: Option<Checkpoints>,
    #[prost(message, optional, tag = "1000")]
    auth_enable: Option<AuthEnableRequest>,
    #[prost(message, optional, tag = "1011")]
    auth_disable: Option<AuthDisableRequest>,
    #[prost(message, optional, tag = "1100")]
    auth_user_add: Option<AuthUserAddRequest>,
    #[prost(message, optional, tag = "1101")]
    auth_user_delete: Option<AuthUserDeleteRequest>,
    #[prost(message, optional, tag = "1103")]
    auth_user_change_password: Option<AuthUserChangePasswordRequest>,
    #[prost(message, optional, tag = "1104")]
    auth_user_grant_role: Option<AuthUserGrantRoleRequest>,
    #[prost(message, optional, tag = "1105")]
    auth_user_revoke_role: Option<AuthUserRevokeRoleRequest>,
    #[prost(message, optional, tag = "1200")]
    auth_role_add: Option<AuthRoleAddRequest>,
    #[prost(message, optional, tag = "1201")]
    auth_role_delete: Option<AuthRoleDeleteRequest>,
    #[prost(message, optional, tag = "1203")]
    auth_role_grant_permission: Option<AuthRoleGrantPermissionRequest>,
    #[prost(message, optional, tag = "1204")]
    auth_role_revoke_permission: Option<AuthRoleRevokePermissionRequest>,
}

/// Who asked.
#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(string, tag = "2")]
    user: String,
    #[prost(uint64, tag = "3")]
    auth_revision: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Checkpoints {
    #[prost(message, repeated, tag = "1")]
    checkpoints: Vec<RemainingTtl>,
}

#[derive(Clone, PartialEq, Message)]
struct RemainingTtl {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    remaining_secs: i64,
}

/// Leases whose TTL is shorter get this one. etcd computes it of its election timeout when it applies a grant; this is
/// the result for the default of that.
const LEASE_TTL_SECS_MIN: i64 = 2;

/// The default of etcd's `--bcrypt-cost`.
const BCRYPT_COST: u32 = 10;

/// Why an entry cannot be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    #[error("it is not an entry of etcd: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error(transparent)]
    Command(#[from] DecodeError),
    #[error("it puts a key without a name")]
    EmptyKey,
    #[error("the password hash of user {0:?} cannot be read")]
    PasswordHash(String),
    #[error("the password of user {0:?} cannot be hashed")]
    Password(String),
}

/// What an entry asks of the state. `None` if it changes nothing of ours: it reads, or names a version, a member, or a
/// key of the v2 API.
pub(super) fn request(data: Bytes) -> Result<Option<Request>, EntryError> {
    if data.is_empty() {
        return Ok(None);
    }
    // A request to the v2 API is another message, whose fields have other types.
    if !Head::decode(data.clone())?.v2.is_empty() {
        return Ok(None);
    }
    let mut request = InternalRequest::decode(data)?;
    let caller = match request.header.take() {
        Some(header) if !header.user.is_empty() => {
            Caller::User { name: header.user.into(), auth_rev: header.auth_revision }
        }
        Some(_) | None => Caller::Nobody,
    };
    let Some((checked, command)) = command(request)? else { return Ok(None) };
    let caller = if checked == Checked::InApply { caller } else { Caller::Internal };
    Ok(Some(codec::command(command)?.by(caller)))
}

/// Where etcd checks permissions for a kind of request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checked {
    InApply,
    /// What is in the log was permitted. Members propose some of these requests by themselves.
    Before,
}

fn command(request: InternalRequest) -> Result<Option<(Checked, Logged)>, EntryError> {
    use Checked::{Before, InApply};
    let InternalRequest {
        header: _,
        put,
        delete_range,
        txn,
        compaction,
        lease_grant,
        lease_revoke,
        alarm,
        lease_checkpoint,
        auth_enable,
        auth_disable,
        auth_user_add,
        auth_user_delete,
        auth_user_change_password,
        auth_user_grant_role,
        auth_user_revoke_role,
        auth_role_add,
        auth_role_delete,
        auth_role_grant_permission,
        auth_role_revoke_permission,
    } = request;
    if put.as_ref().is_some_and(|put| put.key.is_empty()) {
        return Err(EntryError::EmptyKey);
    }
    let granted =
        lease_grant.map(|grant| LeaseGrantRequest { ttl: grant.ttl.max(LEASE_TTL_SECS_MIN), ..grant });
    let alarm = alarm.filter(|alarm| alarm.alarm != 0 && alarm.action != i32::from(AlarmAction::Get));
    let noted = lease_checkpoint.map(|Checkpoints { checkpoints }| {
        let leases = checkpoints.into_iter().map(|RemainingTtl { id, remaining_secs }| LeaseRemaining {
            id,
            millis: remaining_secs.saturating_mul(1000),
        });
        log::LeaseCheckpoint { leases: leases.collect() }
    });
    let added = auth_user_add.map(with_hash).transpose()?;
    let changed = auth_user_change_password.map(with_new_hash).transpose()?;
    let in_apply = |command: Option<Logged>| command.map(|command| (InApply, command));
    let before = |command: Option<Logged>| command.map(|command| (Before, command));
    Ok(in_apply(put.map(Logged::Put))
        .or(in_apply(delete_range.map(Logged::DeleteRange)))
        .or(in_apply(txn.map(Logged::Txn)))
        .or(before(compaction.map(Logged::Compact)))
        .or(before(granted.map(Logged::LeaseGrant)))
        .or(in_apply(lease_revoke.map(Logged::LeaseRevoke)))
        .or(before(alarm.map(Logged::Alarm)))
        .or(before(noted.map(Logged::LeaseCheckpoint)))
        .or(before(auth_enable.map(Logged::AuthEnable)))
        .or(in_apply(auth_disable.map(Logged::AuthDisable)))
        .or(in_apply(added.map(Logged::AuthUserAdd)))
        .or(in_apply(auth_user_delete.map(Logged::AuthUserDelete)))
        .or(in_apply(changed.map(Logged::AuthUserChangePassword)))
        .or(in_apply(auth_user_grant_role.map(Logged::AuthUserGrantRole)))
        .or(in_apply(auth_user_revoke_role.map(Logged::AuthUserRevokeRole)))
        .or(in_apply(auth_role_add.map(Logged::AuthRoleAdd)))
        .or(in_apply(auth_role_delete.map(Logged::AuthRoleDelete)))
        .or(in_apply(auth_role_grant_permission.map(Logged::AuthRoleGrantPermission)))
        .or(in_apply(auth_role_revoke_permission.map(Logged::AuthRoleRevokePermission))))
}

fn with_hash(mut add: AuthUserAddRequest) -> Result<AuthUserAddRequest, EntryError> {
    let no_password = add.options.as_ref().is_some_and(|options| options.no_password);
    if !no_password {
        add.hashed_password = password_hash(&add.name, &add.password, &add.hashed_password)?;
    }
    add.password = String::new();
    Ok(add)
}

fn with_new_hash(
    mut change: AuthUserChangePasswordRequest,
) -> Result<AuthUserChangePasswordRequest, EntryError> {
    change.hashed_password = password_hash(&change.name, &change.password, &change.hashed_password)?;
    change.password = String::new();
    Ok(change)
}

/// The text of a bcrypt hash. etcd has the hash in base64; versions before 3.5 have the password itself.
fn password_hash(user: &str, password: &str, hash: &str) -> Result<String, EntryError> {
    if hash.is_empty() && !password.is_empty() {
        let hash = bcrypt::hash_with_result(password, BCRYPT_COST);
        let hash = hash.map(|hash| hash.format_for_version(bcrypt::Version::TwoA));
        return hash.map_err(|_| EntryError::Password(user.to_owned()));
    }
    let hash = from_base64(hash).and_then(|hash| String::from_utf8(hash).ok());
    hash.ok_or_else(|| EntryError::PasswordHash(user.to_owned()))
}

/// Standard base64 with padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut value, mut bits) = (0_u32, 0);
    for digit in digits.bytes() {
        let six = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (value, bits) = ((value << 6 | u32::from(six)) & 0xF_FFFF, bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((value >> bits) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, bytes) in
            [("", ""), ("YQ==", "a"), ("YWI=", "ab"), ("YWJj", "abc"), ("JDJhJDEwJA==", "$2a$10$")]
        {
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(from_base64("a b"), None);
    }

    /// As etcd 3.4 writes its own name and the cluster's version into the log.
    #[test]
    fn a_request_to_the_v2_api_is_left_out() {
        // id, method, path, value
        let v2 = [&[8, 1, 18, 3][..], b"PUT", &[26, 10], b"/0/version", &[34, 5], b"3.4.0"].concat();
        assert!(request(v2.into()).expect("it can be read").is_none());
    }
}
