//! The methods of etcd's services that commands call, and which of them may be called twice.

use std::marker::PhantomData;

use crate::pb::etcdserverpb::*;

/// A method, with the types of its request and its answer.
pub(in crate::ctl) struct Method<Q, R> {
    pub(super) path: &'static str,
    pub(super) retry: Retry,
    types: PhantomData<fn(Q) -> R>,
}

/// When a call that failed is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// Whenever a server was not available: to do it twice has no other effect than to do it once.
    Always,
    /// Only if the server cannot have got it.
    IfUnsent,
}

const fn read<Q, R>(path: &'static str) -> Method<Q, R> {
    Method { path, retry: Retry::Always, types: PhantomData }
}

const fn write<Q, R>(path: &'static str) -> Method<Q, R> {
    Method { path, retry: Retry::IfUnsent, types: PhantomData }
}

macro_rules! methods {
    ($($name:ident: $kind:ident($path:literal) $request:ty => $answer:ty;)*) => {
        $(pub(in crate::ctl) const $name: Method<$request, $answer> = $kind(concat!("/etcdserverpb.", $path));)*
    };
}

methods! {
    RANGE: read("KV/Range") RangeRequest => RangeResponse;
    RANGE_STREAM: read("KV/RangeStream") RangeRequest => RangeStreamResponse;
    PUT: write("KV/Put") PutRequest => PutResponse;
    DELETE_RANGE: write("KV/DeleteRange") DeleteRangeRequest => DeleteRangeResponse;
    TXN: write("KV/Txn") TxnRequest => TxnResponse;
    COMPACT: write("KV/Compact") CompactionRequest => CompactionResponse;
    WATCH: write("Watch/Watch") WatchRequest => WatchResponse;
    LEASE_GRANT: read("Lease/LeaseGrant") LeaseGrantRequest => LeaseGrantResponse;
    LEASE_REVOKE: read("Lease/LeaseRevoke") LeaseRevokeRequest => LeaseRevokeResponse;
    LEASE_KEEP_ALIVE: read("Lease/LeaseKeepAlive") LeaseKeepAliveRequest => LeaseKeepAliveResponse;
    LEASE_TIME_TO_LIVE: read("Lease/LeaseTimeToLive") LeaseTimeToLiveRequest => LeaseTimeToLiveResponse;
    LEASES: read("Lease/LeaseLeases") LeaseLeasesRequest => LeaseLeasesResponse;
    MEMBER_ADD: write("Cluster/MemberAdd") MemberAddRequest => MemberAddResponse;
    MEMBER_REMOVE: write("Cluster/MemberRemove") MemberRemoveRequest => MemberRemoveResponse;
    MEMBER_UPDATE: write("Cluster/MemberUpdate") MemberUpdateRequest => MemberUpdateResponse;
    MEMBER_LIST: read("Cluster/MemberList") MemberListRequest => MemberListResponse;
    MEMBER_PROMOTE: write("Cluster/MemberPromote") MemberPromoteRequest => MemberPromoteResponse;
    ALARM: read("Maintenance/Alarm") AlarmRequest => AlarmResponse;
    STATUS: read("Maintenance/Status") StatusRequest => StatusResponse;
    DEFRAGMENT: write("Maintenance/Defragment") DefragmentRequest => DefragmentResponse;
    HASH_KV: read("Maintenance/HashKV") HashKvRequest => HashKvResponse;
    SNAPSHOT: read("Maintenance/Snapshot") SnapshotRequest => SnapshotResponse;
    MOVE_LEADER: read("Maintenance/MoveLeader") MoveLeaderRequest => MoveLeaderResponse;
    DOWNGRADE: write("Maintenance/Downgrade") DowngradeRequest => DowngradeResponse;
    AUTH_ENABLE: write("Auth/AuthEnable") AuthEnableRequest => AuthEnableResponse;
    AUTH_DISABLE: write("Auth/AuthDisable") AuthDisableRequest => AuthDisableResponse;
    AUTH_STATUS: write("Auth/AuthStatus") AuthStatusRequest => AuthStatusResponse;
    AUTHENTICATE: write("Auth/Authenticate") AuthenticateRequest => AuthenticateResponse;
    USER_ADD: write("Auth/UserAdd") AuthUserAddRequest => AuthUserAddResponse;
    USER_GET: read("Auth/UserGet") AuthUserGetRequest => AuthUserGetResponse;
    USER_LIST: read("Auth/UserList") AuthUserListRequest => AuthUserListResponse;
    USER_DELETE: write("Auth/UserDelete") AuthUserDeleteRequest => AuthUserDeleteResponse;
    USER_CHANGE_PASSWORD: write("Auth/UserChangePassword")
        AuthUserChangePasswordRequest => AuthUserChangePasswordResponse;
    USER_GRANT_ROLE: write("Auth/UserGrantRole") AuthUserGrantRoleRequest => AuthUserGrantRoleResponse;
    USER_REVOKE_ROLE: write("Auth/UserRevokeRole") AuthUserRevokeRoleRequest => AuthUserRevokeRoleResponse;
    ROLE_ADD: write("Auth/RoleAdd") AuthRoleAddRequest => AuthRoleAddResponse;
    ROLE_GET: read("Auth/RoleGet") AuthRoleGetRequest => AuthRoleGetResponse;
    ROLE_LIST: read("Auth/RoleList") AuthRoleListRequest => AuthRoleListResponse;
    ROLE_DELETE: write("Auth/RoleDelete") AuthRoleDeleteRequest => AuthRoleDeleteResponse;
    ROLE_GRANT_PERMISSION: write("Auth/RoleGrantPermission")
        AuthRoleGrantPermissionRequest => AuthRoleGrantPermissionResponse;
    ROLE_REVOKE_PERMISSION: write("Auth/RoleRevokePermission")
        AuthRoleRevokePermissionRequest => AuthRoleRevokePermissionResponse;
}
