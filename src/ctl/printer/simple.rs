//! `simple`: a few words, as people and most scripts read them.

use std::io::{self, Write};

use super::{Printer, Shown, Style, event_type, table};
use crate::{
    cli::{Failure, go::Listed, output::complain},
    ctl::ranges::prefix_end,
    pb::{
        authpb::{Permission, permission},
        etcdserverpb::{self as pb, downgrade_request::DowngradeAction, response_op::Response},
        mvccpb::KeyValue,
    },
};

pub(super) struct Simple;

impl Printer for Simple {
    fn print(&self, shown: &Shown<'_>, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
        match *shown {
            Shown::Get(response) => get(response, style, out)?,
            Shown::Put(response) => put(response, style, out)?,
            Shown::Delete(response) => delete(response, style, out)?,
            Shown::Txn(response) => txn(response, style, out)?,
            Shown::Watch(response) => {
                for event in &response.events {
                    writeln!(out, "{}", event_type(event))?;
                    for kv in event.prev_kv.iter() {
                        key_value(kv, style, out)?;
                    }
                    key_value(&event.kv.clone().unwrap_or_default(), style, out)?;
                }
            }
            Shown::LeaseGrant(pb::LeaseGrantResponse { id, ttl, .. }) => {
                writeln!(out, "lease {id:016x} granted with TTL({ttl}s)")?;
            }
            Shown::LeaseRevoke(id, _) => writeln!(out, "lease {id:016x} revoked")?,
            Shown::LeaseKeepAlive(pb::LeaseKeepAliveResponse { id, ttl, .. }) => {
                writeln!(out, "lease {id:016x} keepalived with TTL({ttl})")?;
            }
            Shown::LeaseTimeToLive { response, keys } => time_to_live(response, keys, out)?,
            Shown::Leases(pb::LeaseLeasesResponse { leases, .. }) => {
                writeln!(out, "found {} leases", leases.len())?;
                for lease in leases {
                    writeln!(out, "{:016x}", lease.id)?;
                }
            }
            Shown::MemberAdd(response) => {
                let member = response.member.clone().unwrap_or_default();
                let role = if member.is_learner { " as learner " } else { " " };
                let cluster = cluster(&response.header);
                writeln!(out, "Member {:16x} added{role}to cluster {cluster:16x}", member.id)?;
            }
            Shown::MemberRemove(id, response) => {
                writeln!(out, "Member {id:16x} removed from cluster {:16x}", cluster(&response.header))?;
            }
            Shown::MemberUpdate(id, response) => {
                writeln!(out, "Member {id:16x} updated in cluster {:16x}", cluster(&response.header))?;
            }
            Shown::MemberPromote(id, response) => {
                writeln!(out, "Member {id:16x} promoted in cluster {:16x}", cluster(&response.header))?;
            }
            Shown::MemberList(response) => rows(&table::members(response), out)?,
            Shown::Health(list) => {
                for health in list {
                    if health.error.is_empty() {
                        let took = &health.took;
                        let endpoint = &health.endpoint;
                        writeln!(
                            out,
                            "{endpoint} is healthy: successfully committed proposal: took = {took}"
                        )?;
                    } else {
                        complain(format_args!(
                            "{} is unhealthy: failed to commit proposal: {}",
                            health.endpoint, health.error
                        ));
                    }
                }
            }
            Shown::Status(list) => rows(&table::statuses(list), out)?,
            Shown::HashKv(list) => rows(&table::hashes(list), out)?,
            Shown::MoveLeader { leader, target, .. } => {
                writeln!(out, "Leadership transferred from {leader:x} to {target:x}")?;
            }
            Shown::Downgrade(action, response) => {
                let action = match action {
                    DowngradeAction::Validate => "validate",
                    DowngradeAction::Enable => "enable",
                    DowngradeAction::Cancel => "cancel",
                };
                writeln!(out, "Downgrade {action} success, cluster version {}", response.version)?;
            }
            Shown::Alarm(response) => {
                for alarm in &response.alarms {
                    writeln!(out, "{}", alarm_text(alarm))?;
                }
            }
            Shown::RoleAdd(role, _) => writeln!(out, "Role {role} created")?,
            Shown::RoleGet(role, response) => role_get(role, response, out)?,
            Shown::RoleDelete(role, _) => writeln!(out, "Role {role} deleted")?,
            Shown::RoleList(response) => lines(&response.roles, out)?,
            Shown::RoleGrantPermission(role, _) => writeln!(out, "Role {role} updated")?,
            Shown::RoleRevokePermission { role, key, end, .. } => {
                let (key, role) = (key.escape(), role);
                match end {
                    b"" => writeln!(out, "Permission of key {key} is revoked from role {role}")?,
                    b"\0" => {
                        writeln!(out, "Permission of range [{key}, <open ended> is revoked from role {role}")?
                    }
                    end => writeln!(
                        out,
                        "Permission of range [{key}, {}) is revoked from role {role}",
                        end.escape()
                    )?,
                }
            }
            Shown::UserAdd(user, _) => writeln!(out, "User {user} created")?,
            Shown::UserGet(user, response) => {
                let roles: String = response.roles.iter().map(|role| format!(" {role}")).collect();
                writeln!(out, "User: {user}\nRoles:{roles}")?;
            }
            Shown::UserList(response) => lines(&response.users, out)?,
            Shown::UserChangePassword(_) => writeln!(out, "Password updated")?,
            Shown::UserGrantRole(user, role, _) => writeln!(out, "Role {role} is granted to user {user}")?,
            Shown::UserRevokeRole(user, role, _) => writeln!(out, "Role {role} is revoked from user {user}")?,
            Shown::UserDelete(user, _) => writeln!(out, "User {user} deleted")?,
            Shown::AuthStatus(response) => writeln!(
                out,
                "Authentication Status: {}\nAuthRevision: {}",
                response.enabled, response.auth_revision
            )?,
        }
        Ok(())
    }
}

fn get(response: &pb::RangeResponse, style: Style, out: &mut dyn Write) -> io::Result<()> {
    response.kvs.iter().try_for_each(|kv| key_value(kv, style, out))
}

fn put(response: &pb::PutResponse, style: Style, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "OK")?;
    response.prev_kv.iter().try_for_each(|kv| key_value(kv, style, out))
}

fn delete(response: &pb::DeleteRangeResponse, style: Style, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", response.deleted)?;
    response.prev_kvs.iter().try_for_each(|kv| key_value(kv, style, out))
}

fn txn(response: &pb::TxnResponse, style: Style, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", if response.succeeded { "SUCCESS" } else { "FAILURE" })?;
    for part in &response.responses {
        writeln!(out)?;
        match &part.response {
            Some(Response::ResponseRange(response)) => get(response, style, out)?,
            Some(Response::ResponsePut(response)) => put(response, style, out)?,
            Some(Response::ResponseDeleteRange(response)) => delete(response, style, out)?,
            // No command sends a transaction within a transaction.
            Some(Response::ResponseTxn(_)) | None => writeln!(out, "unexpected response")?,
        }
    }
    Ok(())
}

fn key_value(kv: &KeyValue, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut write = |bytes: &[u8]| {
        if style.hex {
            bytes.iter().try_for_each(|byte| write!(out, "\\x{byte:02x}"))?;
        } else {
            out.write_all(bytes)?;
        }
        out.write_all(b"\n")
    };
    if !style.value_only {
        write(&kv.key)?;
    }
    write(&kv.value)
}

fn time_to_live(response: &pb::LeaseTimeToLiveResponse, keys: bool, out: &mut dyn Write) -> io::Result<()> {
    let pb::LeaseTimeToLiveResponse { id, ttl, granted_ttl, .. } = response;
    if *granted_ttl == 0 && *ttl == -1 {
        return writeln!(out, "lease {id:016x} already expired");
    }
    write!(out, "lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)")?;
    if keys {
        let keys: Vec<_> = response.keys.iter().map(|key| key.escape()).collect();
        write!(out, ", attached keys({})", Listed(&keys))?;
    }
    writeln!(out)
}

fn role_get(role: &str, response: &pb::AuthRoleGetResponse, out: &mut dyn Write) -> io::Result<()> {
    const ROOT: &str = "root";
    writeln!(out, "Role {role}")?;
    if role == ROOT && response.perm.is_empty() {
        return writeln!(out, "KV Read:\n\t[, <open ended>\nKV Write:\n\t[, <open ended>");
    }
    let mut list = |heading: &str, kind: permission::Type| {
        writeln!(out, "{heading}")?;
        let is_meant = |perm: &&Permission| [kind, permission::Type::Readwrite].contains(&perm.perm_type());
        response.perm.iter().filter(is_meant).try_for_each(|perm| writeln!(out, "\t{}", range(perm)))
    };
    list("KV Read:", permission::Type::Read)?;
    list("KV Write:", permission::Type::Write)
}

fn range(perm: &Permission) -> String {
    let (key, end) = (perm.key.escape(), perm.range_end.escape());
    let range = match &*perm.range_end {
        b"" => return key,
        b"\0" => format!("[{key}, <open ended>"),
        _ => format!("[{key}, {end})"),
    };
    if !perm.key.is_empty() && prefix_end(&perm.key) == perm.range_end {
        return format!("{range} (prefix {key})");
    }
    range
}

/// As Go's formatter for messages writes it.
fn alarm_text(alarm: &pb::AlarmMember) -> String {
    let member = Some(alarm.member_id).filter(|id| *id != 0).map(|id| format!("memberID:{id}"));
    let kind = Some(alarm.alarm()).filter(|kind| *kind != pb::AlarmType::None);
    let kind = kind.map(|kind| format!("alarm:{}", kind.as_str_name()));
    member.into_iter().chain(kind).collect::<Vec<_>>().join(" ")
}

fn rows(rows: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    rows.iter().try_for_each(|row| writeln!(out, "{}", row.join(", ")))
}

fn lines(list: &[String], out: &mut dyn Write) -> io::Result<()> {
    list.iter().try_for_each(|line| writeln!(out, "{line}"))
}

fn cluster(header: &Option<pb::ResponseHeader>) -> u64 {
    header.as_ref().map_or(0, |header| header.cluster_id)
}

/// Bytes in the middle of a line.
trait Escape {
    fn escape(&self) -> String;
}

impl Escape for [u8] {
    fn escape(&self) -> String {
        String::from_utf8_lossy(self).into_owned()
    }
}
