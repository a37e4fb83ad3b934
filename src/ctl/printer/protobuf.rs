//! `protobuf`: the bytes of the answer.

use std::io::Write;

use prost::Message;

use super::{Printer, Shown, Style, unsupported};
use crate::cli::{Exit, Failure};

pub(super) struct Protobuf;

impl Printer for Protobuf {
    fn print(&self, shown: &Shown<'_>, _: Style, out: &mut dyn Write) -> Result<(), Failure> {
        let bytes = match *shown {
            Shown::Get(response) => response.encode_to_vec(),
            Shown::Put(response) => response.encode_to_vec(),
            Shown::Delete(response) => response.encode_to_vec(),
            Shown::Txn(response) => response.encode_to_vec(),
            Shown::Watch(response) => {
                // etcdctl's client has dropped the other fields before it prints.
                let mut response = response.clone();
                (response.watch_id, response.cancel_reason, response.fragment) = (0, String::new(), false);
                response.encode_to_vec()
            }
            // Of answers about leases, etcdctl's client keeps the header only in a form that it can encode.
            Shown::LeaseGrant(response) => response.header.unwrap_or_default().encode_to_vec(),
            Shown::LeaseKeepAlive(response) => response.header.unwrap_or_default().encode_to_vec(),
            Shown::LeaseTimeToLive { response, .. } => response.header.unwrap_or_default().encode_to_vec(),
            Shown::Leases(response) => response.header.unwrap_or_default().encode_to_vec(),
            Shown::LeaseRevoke(..) => {
                return Err(Exit::BadFeature.because("marshal unsupported for the answer to a revocation"));
            }
            Shown::MemberAdd(response) => response.encode_to_vec(),
            Shown::MemberRemove(_, response) => response.encode_to_vec(),
            Shown::MemberUpdate(_, response) => response.encode_to_vec(),
            Shown::MemberPromote(_, response) => response.encode_to_vec(),
            Shown::MemberList(response) => response.encode_to_vec(),
            Shown::Health(_) | Shown::Status(_) | Shown::HashKv(_) => return Err(unsupported("protobuf")),
            Shown::MoveLeader { response, .. } => response.encode_to_vec(),
            Shown::Downgrade(_, response) => response.encode_to_vec(),
            Shown::Alarm(response) => response.encode_to_vec(),
            Shown::RoleAdd(_, response) => response.encode_to_vec(),
            Shown::RoleGet(_, response) => response.encode_to_vec(),
            Shown::RoleDelete(_, response) => response.encode_to_vec(),
            Shown::RoleList(response) => response.encode_to_vec(),
            Shown::RoleGrantPermission(_, response) => response.encode_to_vec(),
            Shown::RoleRevokePermission { response, .. } => response.encode_to_vec(),
            Shown::UserAdd(_, response) => response.encode_to_vec(),
            Shown::UserGet(_, response) => response.encode_to_vec(),
            Shown::UserList(response) => response.encode_to_vec(),
            Shown::UserChangePassword(response) => response.encode_to_vec(),
            Shown::UserGrantRole(_, _, response) => response.encode_to_vec(),
            Shown::UserRevokeRole(_, _, response) => response.encode_to_vec(),
            Shown::UserDelete(_, response) => response.encode_to_vec(),
            Shown::AuthStatus(response) => response.encode_to_vec(),
        };
        Ok(out.write_all(&bytes)?)
    }
}
