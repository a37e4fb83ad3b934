//! `fields`: one line for each field, `"Name" : value`.

use std::io::{self, Write};

use super::{Printer, Shown, Style, event_type, unsupported};
use crate::{
    cli::{
        Failure,
        go::{Listed, quote},
    },
    pb::{
        etcdserverpb::{self as pb, response_op::Response},
        mvccpb::KeyValue,
    },
};

pub(super) struct Fields;

impl Printer for Fields {
    fn print(&self, shown: &Shown<'_>, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
        let mut page = Page { hex: style.hex, out };
        match *shown {
            Shown::Get(response) => page.get(response)?,
            Shown::Put(response) => page.put(response)?,
            Shown::Delete(response) => page.delete(response)?,
            Shown::Txn(response) => page.txn(response)?,
            Shown::Watch(response) => {
                page.header(&response.header)?;
                for event in &response.events {
                    page.field("Type", event_type(event))?;
                    for kv in event.prev_kv.iter() {
                        page.key_value("Prev", kv)?;
                    }
                    page.key_value("", &event.kv.clone().unwrap_or_default())?;
                }
            }
            Shown::LeaseGrant(pb::LeaseGrantResponse { header, id, ttl, .. })
            | Shown::LeaseKeepAlive(pb::LeaseKeepAliveResponse { header, id, ttl }) => {
                page.header(header)?;
                page.lease("ID", *id)?;
                page.field("TTL", ttl)?;
            }
            Shown::LeaseTimeToLive { response, .. } => {
                page.header(&response.header)?;
                page.lease("ID", response.id)?;
                page.field("TTL", response.ttl)?;
                page.field("GrantedTTL", response.granted_ttl)?;
                response.keys.iter().try_for_each(|key| page.quoted("Key", key))?;
            }
            Shown::Leases(response) => {
                page.header(&response.header)?;
                response.leases.iter().try_for_each(|lease| page.lease("ID", lease.id))?;
            }
            Shown::MemberList(response) => {
                page.header(&response.header)?;
                for member in &response.members {
                    page.id("ID", member.id)?;
                    page.quoted("Name", member.name.as_bytes())?;
                    member.peer_ur_ls.iter().try_for_each(|url| page.quoted("PeerURL", url.as_bytes()))?;
                    member
                        .client_ur_ls
                        .iter()
                        .try_for_each(|url| page.quoted("ClientURL", url.as_bytes()))?;
                    page.field("IsLearner", member.is_learner)?;
                    page.end()?;
                }
            }
            Shown::Health(list) => {
                for health in list {
                    page.quoted("Endpoint", health.endpoint.as_bytes())?;
                    page.field("Health", health.is_healthy)?;
                    page.field("Took", &health.took)?;
                    page.field("Error", &health.error)?;
                    page.end()?;
                }
            }
            Shown::Status(list) => {
                list.iter().try_for_each(|(endpoint, status)| page.status(endpoint, status))?
            }
            Shown::HashKv(list) => {
                for (endpoint, response) in list {
                    page.header(&response.header)?;
                    page.quoted("Endpoint", endpoint.as_bytes())?;
                    page.field("Hash", response.hash)?;
                    page.field("HashRevision", response.hash_revision)?;
                    page.end()?;
                }
            }
            Shown::Alarm(response) => {
                page.header(&response.header)?;
                for alarm in &response.alarms {
                    page.id("MemberID", alarm.member_id)?;
                    page.field("AlarmType", alarm.alarm().as_str_name())?;
                    page.end()?;
                }
            }
            Shown::RoleGet(_, response) => {
                page.header(&response.header)?;
                for perm in &response.perm {
                    writeln!(page.out, "\"PermType\" :  {}", perm.perm_type().as_str_name())?;
                    page.quoted("Key", &perm.key)?;
                    page.quoted("RangeEnd", &perm.range_end)?;
                }
            }
            Shown::RoleList(response) => {
                page.header(&response.header)?;
                let roles: String =
                    response.roles.iter().map(|role| format!(" {}", quote(role.as_bytes()))).collect();
                writeln!(page.out, "\"Roles\" :{roles}")?;
            }
            Shown::LeaseRevoke(_, pb::LeaseRevokeResponse { header })
            | Shown::RoleAdd(_, pb::AuthRoleAddResponse { header })
            | Shown::RoleDelete(_, pb::AuthRoleDeleteResponse { header })
            | Shown::RoleGrantPermission(_, pb::AuthRoleGrantPermissionResponse { header })
            | Shown::RoleRevokePermission {
                response: pb::AuthRoleRevokePermissionResponse { header }, ..
            }
            | Shown::UserAdd(_, pb::AuthUserAddResponse { header })
            | Shown::UserChangePassword(pb::AuthUserChangePasswordResponse { header })
            | Shown::UserGrantRole(_, _, pb::AuthUserGrantRoleResponse { header })
            | Shown::UserRevokeRole(_, _, pb::AuthUserRevokeRoleResponse { header })
            | Shown::UserDelete(_, pb::AuthUserDeleteResponse { header }) => page.header(header)?,
            Shown::MemberAdd(_)
            | Shown::MemberRemove(..)
            | Shown::MemberUpdate(..)
            | Shown::MemberPromote(..)
            | Shown::MoveLeader { .. }
            | Shown::Downgrade(..)
            | Shown::UserGet(..)
            | Shown::UserList(_)
            | Shown::AuthStatus(_) => return Err(unsupported("fields")),
        }
        Ok(())
    }
}

struct Page<'a> {
    hex: bool,
    out: &'a mut dyn Write,
}

impl Page<'_> {
    fn field(&mut self, name: &str, value: impl std::fmt::Display) -> io::Result<()> {
        writeln!(self.out, "\"{name}\" : {value}")
    }

    fn quoted(&mut self, name: &str, value: &[u8]) -> io::Result<()> {
        self.field(name, quote(value))
    }

    fn id(&mut self, name: &str, id: u64) -> io::Result<()> {
        if self.hex { self.field(name, format_args!("{id:x}")) } else { self.field(name, id) }
    }

    fn lease(&mut self, name: &str, id: i64) -> io::Result<()> {
        if self.hex { self.field(name, format_args!("{id:016x}")) } else { self.field(name, id) }
    }

    /// After each item of a list.
    fn end(&mut self) -> io::Result<()> {
        writeln!(self.out)
    }

    fn header(&mut self, header: &Option<pb::ResponseHeader>) -> io::Result<()> {
        let header = header.unwrap_or_default();
        self.id("ClusterID", header.cluster_id)?;
        self.id("MemberID", header.member_id)?;
        // Only answers about keys have one.
        if header.revision > 0 {
            self.field("Revision", header.revision)?;
        }
        self.field("RaftTerm", header.raft_term)
    }

    fn key_value(&mut self, prefix: &str, kv: &KeyValue) -> io::Result<()> {
        self.quoted(&format!("{prefix}Key"), &kv.key)?;
        self.field(&format!("{prefix}CreateRevision"), kv.create_revision)?;
        self.field(&format!("{prefix}ModRevision"), kv.mod_revision)?;
        self.field(&format!("{prefix}Version"), kv.version)?;
        self.quoted(&format!("{prefix}Value"), &kv.value)?;
        self.lease(&format!("{prefix}Lease"), kv.lease)
    }

    fn get(&mut self, response: &pb::RangeResponse) -> io::Result<()> {
        self.header(&response.header)?;
        response.kvs.iter().try_for_each(|kv| self.key_value("", kv))?;
        self.field("More", response.more)?;
        self.field("Count", response.count)
    }

    fn put(&mut self, response: &pb::PutResponse) -> io::Result<()> {
        self.header(&response.header)?;
        response.prev_kv.iter().try_for_each(|kv| self.key_value("Prev", kv))
    }

    fn delete(&mut self, response: &pb::DeleteRangeResponse) -> io::Result<()> {
        self.header(&response.header)?;
        self.field("Deleted", response.deleted)?;
        response.prev_kvs.iter().try_for_each(|kv| self.key_value("Prev", kv))
    }

    fn txn(&mut self, response: &pb::TxnResponse) -> io::Result<()> {
        self.header(&response.header)?;
        self.field("Succeeded", response.succeeded)?;
        for part in &response.responses {
            match &part.response {
                Some(Response::ResponseRange(response)) => self.get(response)?,
                Some(Response::ResponsePut(response)) => self.put(response)?,
                Some(Response::ResponseDeleteRange(response)) => self.delete(response)?,
                // No command sends a transaction within a transaction.
                Some(Response::ResponseTxn(_)) | None => self.quoted("Unknown", b"")?,
            }
        }
        Ok(())
    }

    fn status(&mut self, endpoint: &str, status: &pb::StatusResponse) -> io::Result<()> {
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        self.header(&status.header)?;
        self.quoted("Version", status.version.as_bytes())?;
        self.quoted("StorageVersion", status.storage_version.as_bytes())?;
        self.field("DBSize", status.db_size)?;
        self.field("DBSizeInUse", status.db_size_in_use)?;
        self.field("DBSizeQuota", status.db_size_quota)?;
        self.field("Leader", status.leader)?;
        self.field("IsLearner", status.is_learner)?;
        self.field("RaftIndex", status.raft_index)?;
        self.field("RaftAppliedIndex", status.raft_applied_index)?;
        self.field("Errors", Listed(&status.errors))?;
        self.quoted("Endpoint", endpoint.as_bytes())?;
        self.quoted("DowngradeTargetVersion", downgrade.target_version.as_bytes())?;
        self.field("DowngradeEnabled", downgrade.enabled)?;
        self.end()
    }
}
