//! The five formats of what a command shows.
//!
//! A command hands over what it got as a [`Shown`], and a [`Printer`] writes it. Each printer has one `match` over
//! everything that is shown, so a new kind of answer has to be given a look in each format, or none.

mod fields;
mod json;
mod protobuf;
mod simple;
mod table;

use std::io::Write;

use crate::{
    cli::{Exit, Failure, Format},
    pb::etcdserverpb as pb,
};

/// An answer, with what the user asked for where the answer does not repeat it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown<'a> {
    Get(&'a pb::RangeResponse),
    Put(&'a pb::PutResponse),
    Delete(&'a pb::DeleteRangeResponse),
    Txn(&'a pb::TxnResponse),
    Watch(&'a pb::WatchResponse),
    LeaseGrant(&'a pb::LeaseGrantResponse),
    LeaseRevoke(i64, &'a pb::LeaseRevokeResponse),
    LeaseKeepAlive(&'a pb::LeaseKeepAliveResponse),
    LeaseTimeToLive {
        response: &'a pb::LeaseTimeToLiveResponse,
        keys: bool,
    },
    Leases(&'a pb::LeaseLeasesResponse),
    MemberAdd(&'a pb::MemberAddResponse),
    MemberRemove(u64, &'a pb::MemberRemoveResponse),
    MemberUpdate(u64, &'a pb::MemberUpdateResponse),
    MemberPromote(u64, &'a pb::MemberPromoteResponse),
    MemberList(&'a pb::MemberListResponse),
    Health(&'a [Health]),
    Status(&'a [(String, pb::StatusResponse)]),
    HashKv(&'a [(String, pb::HashKvResponse)]),
    MoveLeader {
        leader: u64,
        target: u64,
        response: &'a pb::MoveLeaderResponse,
    },
    Downgrade(pb::downgrade_request::DowngradeAction, &'a pb::DowngradeResponse),
    Alarm(&'a pb::AlarmResponse),
    RoleAdd(&'a str, &'a pb::AuthRoleAddResponse),
    RoleGet(&'a str, &'a pb::AuthRoleGetResponse),
    RoleDelete(&'a str, &'a pb::AuthRoleDeleteResponse),
    RoleList(&'a pb::AuthRoleListResponse),
    RoleGrantPermission(&'a str, &'a pb::AuthRoleGrantPermissionResponse),
    RoleRevokePermission {
        role: &'a str,
        key: &'a [u8],
        end: &'a [u8],
        response: &'a pb::AuthRoleRevokePermissionResponse,
    },
    UserAdd(&'a str, &'a pb::AuthUserAddResponse),
    UserGet(&'a str, &'a pb::AuthUserGetResponse),
    UserList(&'a pb::AuthUserListResponse),
    UserChangePassword(&'a pb::AuthUserChangePasswordResponse),
    UserGrantRole(&'a str, &'a str, &'a pb::AuthUserGrantRoleResponse),
    UserRevokeRole(&'a str, &'a str, &'a pb::AuthUserRevokeRoleResponse),
    UserDelete(&'a str, &'a pb::AuthUserDeleteResponse),
    AuthStatus(&'a pb::AuthStatusResponse),
}

/// How one endpoint is.
#[derive(Clone, Debug)]
pub(super) struct Health {
    pub(super) endpoint: String,
    pub(super) is_healthy: bool,
    /// As Go writes a duration; empty: nothing was asked.
    pub(super) took: String,
    /// Empty: none.
    pub(super) error: String,
}

/// What flags change within a format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// `--hex`
    pub(super) hex: bool,
    /// `--print-value-only`
    pub(super) value_only: bool,
}

pub(super) trait Printer {
    fn print(&self, shown: &Shown<'_>, style: Style, out: &mut dyn Write) -> Result<(), Failure>;
}

impl dyn Printer {
    pub(super) fn of(format: Format) -> Box<dyn Printer> {
        match format {
            Format::Simple => Box::new(simple::Simple),
            Format::Fields => Box::new(fields::Fields),
            Format::Json => Box::new(json::Json),
            Format::Table => Box::new(table::Table),
            Format::Protobuf => Box::new(protobuf::Protobuf),
        }
    }
}

/// The format has no look for what is shown.
fn unsupported(format: &str) -> Failure {
    Exit::BadFeature.because(format_args!("{format} not supported as output format"))
}

/// The name of an event's type.
pub(super) fn event_type(event: &crate::pb::mvccpb::Event) -> &'static str {
    event.r#type().as_str_name()
}
