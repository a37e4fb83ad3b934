//! The messages of the API as tables: what a field is called in JSON, and what it is on the wire.
//!
//! `proto/schema.rs` generates the tables from `proto/*.proto` when retcd is built.

use std::sync::OnceLock;

/// A method of a gRPC service.
#[derive(Debug)]
pub(super) struct Method {
    /// As in `/etcdserverpb.KV/Range`.
    pub(super) path: &'static str,
    pub(super) request: &'static Message,
    pub(super) response: &'static Message,
    /// Whether a client sends a stream of requests, or one.
    pub(super) takes_stream: bool,
    pub(super) gives_stream: bool,
}

#[derive(Debug)]
pub(super) struct Message {
    /// In the order of their numbers.
    pub(super) fields: &'static [Field],
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// As in `range_end`; answers have these names.
    pub(super) name: &'static str,
    /// As in `rangeEnd`; requests may have either name.
    pub(super) json_name: &'static str,
    pub(super) kind: Kind,
    pub(super) is_repeated: bool,
    /// The full name of the `oneof` that the field belongs to. Such a field is on the wire even if it is zero.
    pub(super) one_of: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Bool,
    Int64,
    Uint32,
    Uint64,
    String,
    Bytes,
    Enum(&'static Enum),
    Message(&'static Message),
}

#[derive(Debug)]
pub(super) struct Enum {
    pub(super) values: &'static [(i32, &'static str)],
}

impl Message {
    /// The field of this name, and its place in the table.
    pub(super) fn by_name(&self, name: &[u8]) -> Option<(usize, &'static Field)> {
        let is_named = |field: &&Field| field.name.as_bytes() == name || field.json_name.as_bytes() == name;
        self.fields.iter().enumerate().find(|(_, field)| is_named(field))
    }

    pub(super) fn by_number(&self, number: u32) -> Option<&'static Field> {
        // Nearly all messages number their fields without a gap.
        let guess = self.fields.get((number as usize).wrapping_sub(1));
        guess
            .filter(|field| field.number == number)
            .or_else(|| self.fields.iter().find(|field| field.number == number))
    }
}

impl Kind {
    /// The name in error texts.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Int64 => "int64",
            Kind::Uint32 => "uint32",
            Kind::Uint64 => "uint64",
            Kind::String => "string",
            Kind::Bytes => "bytes",
            Kind::Enum(_) => "enum",
            Kind::Message(_) => "message",
        }
    }
}

impl Enum {
    pub(super) fn number(&self, name: &str) -> Option<i32> {
        self.values.iter().find(|(_, of_value)| *of_value == name).map(|(number, _)| *number)
    }

    pub(super) fn name(&self, number: i32) -> Option<&'static str> {
        self.values.iter().find(|(of_value, _)| *of_value == number).map(|(_, name)| *name)
    }
}

/// The method that is called with `POST /v3/{path}`.
pub(super) fn method(path: &str) -> Option<&'static Method> {
    static SORTED: OnceLock<Vec<(&str, &Method)>> = OnceLock::new();
    let sorted = SORTED.get_or_init(|| {
        let mut sorted: Vec<_> = PATHS.iter().map(|(path, method)| (*path, by_path(method))).collect();
        sorted.sort_by_key(|(path, _)| *path);
        sorted
    });
    let place = sorted.binary_search_by_key(&path, |(path, _)| path).ok()?;
    Some(sorted[place].1)
}

fn by_path(path: &str) -> &'static Method {
    let method = METHODS.iter().find(|method| method.path == path);
    method.expect("the table of paths has only methods of the API, as a test shows")
}

/// The paths of etcd's gateway below `/v3/`.
const PATHS: &[(&str, &str)] = &[
    ("kv/range", "/etcdserverpb.KV/Range"),
    ("kv/put", "/etcdserverpb.KV/Put"),
    ("kv/deleterange", "/etcdserverpb.KV/DeleteRange"),
    ("kv/txn", "/etcdserverpb.KV/Txn"),
    ("kv/compaction", "/etcdserverpb.KV/Compact"),
    ("watch", "/etcdserverpb.Watch/Watch"),
    ("lease/grant", "/etcdserverpb.Lease/LeaseGrant"),
    ("lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("lease/keepalive", "/etcdserverpb.Lease/LeaseKeepAlive"),
    ("lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("kv/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("kv/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("cluster/member/add", "/etcdserverpb.Cluster/MemberAdd"),
    ("cluster/member/remove", "/etcdserverpb.Cluster/MemberRemove"),
    ("cluster/member/update", "/etcdserverpb.Cluster/MemberUpdate"),
    ("cluster/member/list", "/etcdserverpb.Cluster/MemberList"),
    ("cluster/member/promote", "/etcdserverpb.Cluster/MemberPromote"),
    ("maintenance/alarm", "/etcdserverpb.Maintenance/Alarm"),
    ("maintenance/status", "/etcdserverpb.Maintenance/Status"),
    ("maintenance/defragment", "/etcdserverpb.Maintenance/Defragment"),
    ("maintenance/hash", "/etcdserverpb.Maintenance/Hash"),
    ("maintenance/hashkv", "/etcdserverpb.Maintenance/HashKV"),
    ("maintenance/snapshot", "/etcdserverpb.Maintenance/Snapshot"),
    ("maintenance/transfer-leadership", "/etcdserverpb.Maintenance/MoveLeader"),
    ("maintenance/downgrade", "/etcdserverpb.Maintenance/Downgrade"),
    ("auth/enable", "/etcdserverpb.Auth/AuthEnable"),
    ("auth/disable", "/etcdserverpb.Auth/AuthDisable"),
    ("auth/status", "/etcdserverpb.Auth/AuthStatus"),
    ("auth/authenticate", "/etcdserverpb.Auth/Authenticate"),
    ("auth/user/add", "/etcdserverpb.Auth/UserAdd"),
    ("auth/user/get", "/etcdserverpb.Auth/UserGet"),
    ("auth/user/list", "/etcdserverpb.Auth/UserList"),
    ("auth/user/delete", "/etcdserverpb.Auth/UserDelete"),
    ("auth/user/changepw", "/etcdserverpb.Auth/UserChangePassword"),
    ("auth/user/grant", "/etcdserverpb.Auth/UserGrantRole"),
    ("auth/user/revoke", "/etcdserverpb.Auth/UserRevokeRole"),
    ("auth/role/add", "/etcdserverpb.Auth/RoleAdd"),
    ("auth/role/get", "/etcdserverpb.Auth/RoleGet"),
    ("auth/role/list", "/etcdserverpb.Auth/RoleList"),
    ("auth/role/delete", "/etcdserverpb.Auth/RoleDelete"),
    ("auth/role/grant", "/etcdserverpb.Auth/RoleGrantPermission"),
    ("auth/role/revoke", "/etcdserverpb.Auth/RoleRevokePermission"),
    ("lock/lock", "/v3lockpb.Lock/Lock"),
    ("lock/unlock", "/v3lockpb.Lock/Unlock"),
    ("election/campaign", "/v3electionpb.Election/Campaign"),
    ("election/proclaim", "/v3electionpb.Election/Proclaim"),
    ("election/leader", "/v3electionpb.Election/Leader"),
    ("election/observe", "/v3electionpb.Election/Observe"),
    ("election/resign", "/v3electionpb.Election/Resign"),
];

include!(concat!(env!("OUT_DIR"), "/gateway.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_path_but_those_that_etcd_has_none_for() {
        let without: Vec<&str> = METHODS
            .iter()
            .map(|method| method.path)
            .filter(|path| PATHS.iter().all(|(_, method)| method != path))
            .collect();
        assert_eq!(without, ["/etcdserverpb.KV/RangeStream"]);
        for (path, of_path) in PATHS {
            assert_eq!(method(path).expect("it is in the table").path, *of_path);
        }
        assert!(method("kv").is_none() && method("").is_none() && method("kv/range/").is_none());
    }

    #[test]
    fn fields_are_found_by_each_of_their_names_and_by_number() {
        let range = method("kv/range").expect("a path").request;
        for name in ["range_end", "rangeEnd"] {
            assert_eq!(range.by_name(name.as_bytes()).expect("a field").1.number, 2);
        }
        assert!(range.by_name(b"rangeend").is_none());
        for method in METHODS {
            for message in [method.request, method.response] {
                for field in message.fields {
                    assert_eq!(message.by_number(field.number).expect("a field").name, field.name);
                }
            }
        }
        assert!(range.by_number(0).is_none() && range.by_number(999).is_none());
    }
}
