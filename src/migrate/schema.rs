//! The buckets of etcd's database, and the encoding of their keys and values.
//!
//! | bucket | key | value |
//! |---|---|---|
//! | `key` | main, `_`, sub, and `t` for a tombstone; i64 each, big-endian | `mvccpb.KeyValue` |
//! | `lease` | id: i64, big-endian | `leasepb.Lease` |
//! | `alarm` | `etcdserverpb.AlarmMember` | nothing |
//! | `auth` | `authEnabled`, `authRevision` | one byte; u64, big-endian |
//! | `authUsers`, `authRoles` | name | `authpb.User`, `authpb.Role` |
//! | `members` | id in hex | JSON |
//! | `members_removed` | id in hex | `removed` |
//! | `cluster` | `clusterVersion`, `downgrade` | text; JSON |
//! | `meta` | `consistent_index`, `term` | the last applied entry: u64, big-endian |
//! | `meta` | `scheduledCompactRev`, `finishedCompactRev` | as a key of `key` |
//! | `meta` | `confState`, `storageVersion` | JSON; text |

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::{
    apply::Member,
    auth::{Permission, PermissionKind},
    lease::{Lease, Lessor},
    limits::LEASE_TTL_SECS_MAX,
    mvcc::etcd_key,
    pb::{authpb, etcdserverpb::AlarmMember},
    storage::Table,
    types::{KeyRange, LeaseId, MemberId, Rev, Revision},
};

pub(super) const KEY: &str = "key";
pub(super) const LEASE: &str = "lease";
pub(super) const ALARM: &str = "alarm";
pub(super) const AUTH: &str = "auth";
pub(super) const AUTH_USERS: &str = "authUsers";
pub(super) const AUTH_ROLES: &str = "authRoles";
pub(super) const MEMBERS: &str = "members";
pub(super) const MEMBERS_REMOVED: &str = "members_removed";
pub(super) const CLUSTER: &str = "cluster";
pub(super) const META: &str = "meta";

pub(super) const CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub(super) const TERM: &[u8] = b"term";
pub(super) const COMPACT_SCHEDULED: &[u8] = b"scheduledCompactRev";
pub(super) const COMPACT_FINISHED: &[u8] = b"finishedCompactRev";
pub(super) const CONF_STATE: &[u8] = b"confState";
pub(super) const STORAGE_VERSION: &[u8] = b"storageVersion";
pub(super) const AUTH_ENABLED: &[u8] = b"authEnabled";
pub(super) const AUTH_REVISION: &[u8] = b"authRevision";
pub(super) const CLUSTER_VERSION: &[u8] = b"clusterVersion";

/// The oldest version whose schema has all that we write. A newer etcd raises it at its first start; an
/// older one does not know it. No `clusterVersion` is written, because an etcd refuses to start below it.
pub(super) const STORAGE_VERSION_WRITTEN: &str = "3.6.0";

/// The bucket of a table that etcd has none for. etcd does not look at it, and whoever restores the file with retcd
/// gets the table back.
pub(super) fn own_bucket(table: Table) -> Option<&'static str> {
    match table {
        Table::V2Node => Some("retcd_v2_node"),
        Table::V2Event => Some("retcd_v2_event"),
        Table::V2Account => Some("retcd_v2_account"),
        Table::Meta
        | Table::Lease
        | Table::Alarm
        | Table::Member
        | Table::MemberRemoved
        | Table::AuthUser
        | Table::AuthRole => None,
    }
}

/// The value in `members_removed`.
pub(super) const REMOVED: &[u8] = b"removed";

/// The key of a record.
pub(super) fn record_key(revision: Revision, is_tombstone: bool) -> Bytes {
    etcd_key(revision, is_tombstone).into()
}

/// The revision that a key of `key` names, and whether it is a tombstone.
pub(super) fn revision_of(key: &[u8]) -> Option<(Revision, bool)> {
    let (number, is_tombstone) = match key {
        [number @ .., b't'] if number.len() == 17 => (number, true),
        number => (number, false),
    };
    let (main, rest) = number.split_first_chunk::<8>()?;
    let (separator, sub) = rest.split_first()?;
    let sub: [u8; 8] = sub.try_into().ok()?;
    let revision = Revision::new(i64::from_be_bytes(*main), i64::from_be_bytes(sub));
    (*separator == b'_').then_some((revision, is_tombstone))
}

/// The value of `scheduledCompactRev` and `finishedCompactRev`.
pub(super) fn compaction(rev: Rev) -> Bytes {
    record_key(Revision::new(rev.0, 0), false)
}

pub(super) fn compaction_of(value: &[u8]) -> Option<Rev> {
    revision_of(value).map(|(revision, _)| revision.main)
}

#[derive(Clone, PartialEq, Message)]
struct LeaseValue {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl_secs: i64,
    #[prost(int64, tag = "3")]
    remaining_secs: i64,
}

/// The value in `lease`. A remaining TTL is rounded up, so that no lease ends early.
pub(super) fn lease(id: LeaseId, lease: &Lease) -> Bytes {
    let remaining_secs = lease.remaining_millis.max(0).saturating_add(999) / 1000;
    LeaseValue { id: id.0, ttl_secs: lease.ttl_secs, remaining_secs }.encode_to_vec().into()
}

/// Grants the lease of a key and a value in `lease`.
pub(super) fn take_lease(key: &[u8], value: &[u8], lessor: &mut Lessor) -> Option<LeaseId> {
    let LeaseValue { id, ttl_secs, remaining_secs } = LeaseValue::decode(value).ok()?;
    let is_sound = key == id.to_be_bytes() && id != 0 && ttl_secs <= LEASE_TTL_SECS_MAX;
    let id = LeaseId(id);
    if !is_sound || !lessor.grant(id, ttl_secs) {
        return None;
    }
    lessor.checkpoint(id, remaining_secs.clamp(0, LEASE_TTL_SECS_MAX) * 1000);
    Some(id)
}

/// The key in `alarm` of a member's alarm, whose kinds have the same numbers in both.
pub(super) fn alarm(member: u64, kind: u8) -> Bytes {
    AlarmMember { member_id: member, alarm: kind.into() }.encode_to_vec().into()
}

pub(super) fn alarm_of(key: &[u8]) -> Option<(u64, u8)> {
    let alarm = AlarmMember::decode(key).ok()?;
    Some((alarm.member_id, u8::try_from(alarm.alarm).ok()?))
}

/// The name of a member's cells.
pub(super) fn member_key(id: MemberId) -> Bytes {
    id.to_string().into()
}

pub(super) fn member_of(key: &[u8]) -> Option<MemberId> {
    u64::from_str_radix(str::from_utf8(key).ok()?, 16).ok().map(MemberId)
}

/// The value in `members`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct MemberValue {
    id: u64,
    #[serde(rename = "peerURLs", default)]
    pub(super) peer_urls: Option<Vec<String>>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_learner: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    client_urls: Vec<String>,
}

pub(super) fn member(id: MemberId, member: &Member) -> Bytes {
    let Member { name, peer_urls, client_urls, is_learner } = member.clone();
    let value = MemberValue { id: id.0, peer_urls: Some(peer_urls), is_learner, name, client_urls };
    serde_json::to_vec(&value).expect("strings and numbers are JSON").into()
}

/// The value of `confState`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ConfState {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) voters: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) learners: Vec<u64>,
    #[serde(default)]
    pub(super) auto_leave: bool,
}

/// The value in `authUsers`.
pub(super) fn user(name: &str, password_hash: &str, no_password: bool, roles: Vec<String>) -> Bytes {
    let options = Some(authpb::UserAddOptions { no_password });
    let (name, password) = (name.to_owned().into(), password_hash.to_owned().into());
    authpb::User { name, password, roles, options }.encode_to_vec().into()
}

/// A user of `authUsers`.
pub(super) struct UserValue {
    pub(super) name: String,
    pub(super) password_hash: String,
    pub(super) no_password: bool,
    pub(super) roles: Vec<String>,
}

pub(super) fn user_of(value: &[u8]) -> Option<UserValue> {
    let authpb::User { name, password, roles, options } = authpb::User::decode(value).ok()?;
    let text = |bytes: Bytes| String::from_utf8(bytes.into()).ok();
    let no_password = options.is_some_and(|options| options.no_password);
    Some(UserValue { name: text(name)?, password_hash: text(password)?, no_password, roles })
}

/// The value in `authRoles`.
pub(super) fn role(name: &str, permissions: &[Permission]) -> Bytes {
    let permissions = permissions.iter().map(|permission| {
        let (key, range_end) = permission.range.to_wire();
        authpb::Permission { perm_type: permission.kind.number(), key, range_end }
    });
    let name = name.to_owned().into();
    authpb::Role { name, key_permission: permissions.collect() }.encode_to_vec().into()
}

pub(super) fn role_of(value: &[u8]) -> Option<(String, Vec<Permission>)> {
    let authpb::Role { name, key_permission } = authpb::Role::decode(value).ok()?;
    let permissions = key_permission.into_iter().map(|permission| Permission {
        kind: PermissionKind::of(permission.perm_type),
        range: KeyRange::parse(permission.key, permission.range_end),
    });
    Some((String::from_utf8(name.into()).ok()?, permissions.collect()))
}

pub(super) fn number_of(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}
