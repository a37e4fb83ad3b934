//! `json`: an object in one line, as Go's encoder writes etcd's messages: fields that are zero are left out, bytes
//! are in base64, and 64-bit numbers are numbers.

use std::{
    fmt::{Display, Write as _},
    io::Write,
};

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{Health, Printer, Shown, Style};
use crate::{
    cli::{Failure, go::json_string as string},
    pb::{
        authpb::Permission,
        etcdserverpb::{self as pb, response_op::Response},
        mvccpb::{Event, KeyValue},
    },
};

pub(super) struct Json;

impl Printer for Json {
    fn print(&self, shown: &Shown<'_>, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
        Ok(writeln!(out, "{}", text(shown, style))?)
    }
}

fn text(shown: &Shown<'_>, style: Style) -> String {
    match *shown {
        Shown::Get(response) => range(response),
        Shown::Put(response) => put(response),
        Shown::Delete(response) => delete(response),
        Shown::Txn(response) => txn(response),
        Shown::Watch(response) => watch(response),
        Shown::LeaseGrant(response) => {
            let mut object = flat_header(&response.header);
            object.raw("ID", response.id).raw("TTL", response.ttl).raw("Error", string(&response.error)).end()
        }
        Shown::LeaseKeepAlive(response) => {
            flat_header(&response.header).raw("ID", response.id).raw("TTL", response.ttl).end()
        }
        Shown::LeaseTimeToLive { response, .. } => {
            let keys = response.keys.iter().map(|key| base64(key));
            let keys = if response.keys.is_empty() { "null".to_owned() } else { list(keys) };
            let mut object = flat_header(&response.header);
            object.raw("id", response.id).raw("ttl", response.ttl).raw("granted-ttl", response.granted_ttl);
            object.raw("keys", keys).end()
        }
        Shown::Leases(response) => {
            let lease = |lease: &pb::LeaseStatus| Object::new().raw("id", lease.id).end();
            flat_header(&response.header).raw("leases", list(response.leases.iter().map(lease))).end()
        }
        Shown::MemberAdd(response) => {
            members(&response.header, response.member.as_ref(), &response.members, style)
        }
        Shown::MemberRemove(_, pb::MemberRemoveResponse { header, members: list })
        | Shown::MemberUpdate(_, pb::MemberUpdateResponse { header, members: list })
        | Shown::MemberPromote(_, pb::MemberPromoteResponse { header, members: list })
        | Shown::MemberList(pb::MemberListResponse { header, members: list }) => {
            members(header, None, list, style)
        }
        Shown::Health(healths) => list(healths.iter().map(health)),
        Shown::Status(statuses) => {
            let one = |(endpoint, response): &(String, pb::StatusResponse)| {
                Object::new().raw("Endpoint", string(endpoint)).raw("Status", status(response)).end()
            };
            nullable(statuses.iter().map(one))
        }
        Shown::HashKv(hashes) => {
            let one = |(endpoint, response): &(String, pb::HashKvResponse)| {
                Object::new().raw("Endpoint", string(endpoint)).raw("HashKV", hash_kv(response)).end()
            };
            nullable(hashes.iter().map(one))
        }
        Shown::Alarm(response) => {
            let alarm = |alarm: &pb::AlarmMember| {
                Object::new().number("memberID", alarm.member_id).number("alarm", alarm.alarm).end()
            };
            with_header(&response.header).list("alarms", response.alarms.iter().map(alarm)).end()
        }
        Shown::Downgrade(_, response) => {
            with_header(&response.header).text("version", &response.version).end()
        }
        Shown::RoleGet(_, response) => {
            with_header(&response.header).list("perm", response.perm.iter().map(permission)).end()
        }
        Shown::RoleList(pb::AuthRoleListResponse { header, roles })
        | Shown::UserGet(_, pb::AuthUserGetResponse { header, roles }) => {
            with_header(header).list("roles", roles.iter().map(|role| string(role))).end()
        }
        Shown::UserList(response) => {
            with_header(&response.header).list("users", response.users.iter().map(|user| string(user))).end()
        }
        Shown::AuthStatus(response) => {
            let mut object = with_header(&response.header);
            object.flag("enabled", response.enabled).number("authRevision", response.auth_revision).end()
        }
        Shown::LeaseRevoke(_, pb::LeaseRevokeResponse { header })
        | Shown::MoveLeader { response: pb::MoveLeaderResponse { header }, .. }
        | Shown::RoleAdd(_, pb::AuthRoleAddResponse { header })
        | Shown::RoleDelete(_, pb::AuthRoleDeleteResponse { header })
        | Shown::RoleGrantPermission(_, pb::AuthRoleGrantPermissionResponse { header })
        | Shown::RoleRevokePermission { response: pb::AuthRoleRevokePermissionResponse { header }, .. }
        | Shown::UserAdd(_, pb::AuthUserAddResponse { header })
        | Shown::UserChangePassword(pb::AuthUserChangePasswordResponse { header })
        | Shown::UserGrantRole(_, _, pb::AuthUserGrantRoleResponse { header })
        | Shown::UserRevokeRole(_, _, pb::AuthUserRevokeRoleResponse { header })
        | Shown::UserDelete(_, pb::AuthUserDeleteResponse { header }) => with_header(header).end(),
    }
}

fn range(response: &pb::RangeResponse) -> String {
    let mut object = with_header(&response.header);
    object.list("kvs", response.kvs.iter().map(key_value));
    object.flag("more", response.more).number("count", response.count).end()
}

fn put(response: &pb::PutResponse) -> String {
    with_header(&response.header).message("prev_kv", response.prev_kv.as_ref().map(key_value)).end()
}

fn delete(response: &pb::DeleteRangeResponse) -> String {
    let mut object = with_header(&response.header);
    object.number("deleted", response.deleted).list("prev_kvs", response.prev_kvs.iter().map(key_value)).end()
}

fn txn(response: &pb::TxnResponse) -> String {
    let part = |part: &pb::ResponseOp| {
        let mut object = Object::new();
        match &part.response {
            Some(Response::ResponseRange(response)) => object.raw("response_range", range(response)),
            Some(Response::ResponsePut(response)) => object.raw("response_put", put(response)),
            Some(Response::ResponseDeleteRange(response)) => {
                object.raw("response_delete_range", delete(response))
            }
            // No command sends a transaction within a transaction.
            Some(Response::ResponseTxn(_)) | None => &mut object,
        };
        Object::new().raw("Response", object.end()).end()
    };
    let mut object = with_header(&response.header);
    object.flag("succeeded", response.succeeded).list("responses", response.responses.iter().map(part)).end()
}

fn watch(response: &pb::WatchResponse) -> String {
    let event = |event: &Event| {
        let mut object = Object::new();
        object.number("type", event.r#type).message("kv", event.kv.as_ref().map(key_value));
        object.message("prev_kv", event.prev_kv.as_ref().map(key_value)).end()
    };
    let header = response.header.unwrap_or_default();
    let mut object = Object::new();
    object.raw("Header", plain_header(&header)).raw("Events", nullable(response.events.iter().map(event)));
    object.raw("CompactRevision", response.compact_revision).raw("Canceled", response.canceled);
    object.raw("Created", response.created).raw("CancelReason", string(&response.cancel_reason)).end()
}

fn key_value(kv: &KeyValue) -> String {
    let mut object = Object::new();
    object.bytes("key", &kv.key).number("create_revision", kv.create_revision);
    object.number("mod_revision", kv.mod_revision).number("version", kv.version);
    object.bytes("value", &kv.value).number("lease", kv.lease).end()
}

fn permission(perm: &Permission) -> String {
    Object::new()
        .number("permType", perm.perm_type)
        .bytes("key", &perm.key)
        .bytes("range_end", &perm.range_end)
        .end()
}

fn health(health: &Health) -> String {
    let mut object = Object::new();
    object.raw("endpoint", string(&health.endpoint)).raw("health", health.is_healthy);
    object.raw("took", string(&health.took)).text("error", &health.error).end()
}

fn status(status: &pb::StatusResponse) -> String {
    let downgrade = |info: &pb::DowngradeInfo| {
        Object::new().flag("enabled", info.enabled).text("targetVersion", &info.target_version).end()
    };
    let mut object = with_header(&status.header);
    object.text("version", &status.version).number("dbSize", status.db_size).number("leader", status.leader);
    object.number("raftIndex", status.raft_index).number("raftTerm", status.raft_term);
    object.number("raftAppliedIndex", status.raft_applied_index);
    object.list("errors", status.errors.iter().map(|error| string(error)));
    object.number("dbSizeInUse", status.db_size_in_use).flag("isLearner", status.is_learner);
    object.text("storageVersion", &status.storage_version).number("dbSizeQuota", status.db_size_quota);
    object.message("downgradeInfo", status.downgrade_info.as_ref().map(downgrade)).end()
}

fn hash_kv(response: &pb::HashKvResponse) -> String {
    let mut object = with_header(&response.header);
    object.number("hash", response.hash).number("compact_revision", response.compact_revision);
    object.number("hash_revision", response.hash_revision).end()
}

/// With `--hex` the ids of members and clusters are strings of hexadecimal digits, and nothing but numbers is
/// left out.
fn members(
    header: &Option<pb::ResponseHeader>,
    added: Option<&pb::Member>,
    all: &[pb::Member],
    style: Style,
) -> String {
    if !style.hex {
        let member = |of: &pb::Member| {
            let mut object = Object::new();
            object.number("ID", of.id);
            rest_of_member(&mut object, of)
        };
        return with_header(header)
            .message("member", added.map(member))
            .list("members", all.iter().map(member))
            .end();
    }
    let member = |of: &pb::Member| {
        let mut object = Object::new();
        object.raw("ID", hex(of.id));
        rest_of_member(&mut object, of)
    };
    let header = header.map_or("null".to_owned(), |header| {
        let mut object = Object::new();
        object.raw("cluster_id", hex(header.cluster_id)).raw("member_id", hex(header.member_id));
        object.number("revision", header.revision).number("raft_term", header.raft_term).end()
    });
    let mut object = Object::new();
    object.raw("header", header);
    if let Some(added) = added {
        object.raw("member", member(added));
    }
    object.raw("members", list(all.iter().map(member))).end()
}

fn rest_of_member(object: &mut Object, of: &pb::Member) -> String {
    object.text("name", &of.name).list("peerURLs", of.peer_ur_ls.iter().map(|url| string(url)));
    object.list("clientURLs", of.client_ur_ls.iter().map(|url| string(url)));
    object.flag("isLearner", of.is_learner).end()
}

fn with_header(header: &Option<pb::ResponseHeader>) -> Object {
    let mut object = Object::new();
    object.message("header", header.as_ref().map(plain_header));
    object
}

fn plain_header(header: &pb::ResponseHeader) -> String {
    flat_header(&Some(*header)).end()
}

/// The fields of the header are fields of the answer itself.
fn flat_header(header: &Option<pb::ResponseHeader>) -> Object {
    let mut object = Object::new();
    if let Some(header) = header {
        object.number("cluster_id", header.cluster_id).number("member_id", header.member_id);
        object.number("revision", header.revision).number("raft_term", header.raft_term);
    }
    object
}

/// An object that is being written.
struct Object(String);

impl Object {
    fn new() -> Object {
        Object(String::new())
    }

    /// A field that is there whatever its value.
    fn raw(&mut self, name: &str, value: impl Display) -> &mut Object {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        // Writing to a string does not fail.
        let _ = write!(self.0, "\"{name}\":{value}");
        self
    }

    fn number<T: Display + Default + PartialEq>(&mut self, name: &str, value: T) -> &mut Object {
        if value == T::default() { self } else { self.raw(name, value) }
    }

    fn flag(&mut self, name: &str, value: bool) -> &mut Object {
        if value { self.raw(name, value) } else { self }
    }

    fn text(&mut self, name: &str, value: &str) -> &mut Object {
        if value.is_empty() { self } else { self.raw(name, string(value)) }
    }

    fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Object {
        if value.is_empty() { self } else { self.raw(name, base64(value)) }
    }

    fn message(&mut self, name: &str, value: Option<String>) -> &mut Object {
        match value {
            Some(value) => self.raw(name, value),
            None => self,
        }
    }

    fn list(&mut self, name: &str, values: impl Iterator<Item = String>) -> &mut Object {
        let mut values = values.peekable();
        if values.peek().is_some() { self.raw(name, list(values)) } else { self }
    }

    fn end(&mut self) -> String {
        let mut text = std::mem::take(&mut self.0);
        text.push_str(if text.is_empty() { "{}" } else { "}" });
        text
    }
}

fn list(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(","))
}

/// A list that Go has not made when nothing is in it.
fn nullable(values: impl Iterator<Item = String>) -> String {
    let mut values = values.peekable();
    if values.peek().is_some() { list(values) } else { "null".to_owned() }
}

fn base64(bytes: &[u8]) -> String {
    format!("\"{}\"", BASE64_STANDARD.encode(bytes))
}

fn hex(id: u64) -> String {
    format!("\"{id:x}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zero_is_left_out() {
        assert_eq!(Object::new().number("a", 0).flag("b", false).text("c", "").bytes("d", b"").end(), "{}");
        let mut object = Object::new();
        assert_eq!(
            object.number("a", -1).raw("b", 0).bytes("c", b"x").end(),
            "{\"a\":-1,\"b\":0,\"c\":\"eA==\"}"
        );
    }
}
