//! Random calls of an operator: members, alarms, maintenance, users and roles.
//!
//! Values that a server chose itself (its id, its ports, the id of an added member) have the same placeholder
//! on both sides. A call contains the placeholder and is sent with the side's value; in an answer the value
//! is replaced by the placeholder.

use std::cell::Cell;

use bytes::Bytes;
use tonic::Status;

use super::{
    call::{Dice, terse},
    normal,
};
use crate::{
    client::{Client, revision},
    pb::{
        authpb::{Permission, UserAddOptions},
        etcdserverpb::*,
    },
    tools::Reference,
};

/// The member that is asked.
const SELF: u64 = u64::MAX;
/// The member that was added last.
const ADDED: u64 = u64::MAX - 1;
const OWN_PEER_URL: &str = "http://own-peer:1";
const OWN_CLIENT_URL: &str = "http://own-client:1";

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Alarm(AlarmRequest),
    Status(StatusRequest),
    Defragment(DefragmentRequest),
    Hash(HashRequest),
    MoveLeader(MoveLeaderRequest),
    Downgrade(DowngradeRequest),
    MemberAdd(MemberAddRequest),
    MemberRemove(MemberRemoveRequest),
    MemberUpdate(MemberUpdateRequest),
    MemberPromote(MemberPromoteRequest),
    MemberList(MemberListRequest),
    AuthEnable(AuthEnableRequest),
    AuthDisable(AuthDisableRequest),
    AuthStatus(AuthStatusRequest),
    Authenticate(AuthenticateRequest),
    UserAdd(AuthUserAddRequest),
    UserGet(AuthUserGetRequest),
    UserList(AuthUserListRequest),
    UserDelete(AuthUserDeleteRequest),
    UserChangePassword(AuthUserChangePasswordRequest),
    UserGrantRole(AuthUserGrantRoleRequest),
    UserRevokeRole(AuthUserRevokeRoleRequest),
    RoleAdd(AuthRoleAddRequest),
    RoleGet(AuthRoleGetRequest),
    RoleList(AuthRoleListRequest),
    RoleDelete(AuthRoleDeleteRequest),
    RoleGrantPermission(AuthRoleGrantPermissionRequest),
    RoleRevokePermission(AuthRoleRevokePermissionRequest),
}

impl Operation {
    /// Whether a reference of this release answers the call as later releases do.
    pub(crate) fn is_known_to(&self, reference: &Reference) -> bool {
        match self {
            Operation::Downgrade(_) => reference.has((3, 6, 0)),
            Operation::RoleGet(request) => request.role != "root" || reference.has((3, 6, 0)),
            Operation::RoleGrantPermission(AuthRoleGrantPermissionRequest { perm: Some(perm), .. }) => {
                let is_range =
                    perm.range_end.is_empty() || perm.range_end == "\0" || perm.range_end > perm.key;
                reference.has((3, 6, 0)) || (!perm.key.is_empty() && is_range)
            }
            _ => true,
        }
    }
}

pub(crate) fn any(dice: &mut Dice) -> Operation {
    match dice.below(100) {
        0..60 => of_users_and_roles(dice),
        60..80 => of_members(dice),
        80..84 => Operation::Alarm(AlarmRequest {
            // Clears an alarm that is not active, and raises the type that is no alarm.
            action: dice.pick(&[0, 0, 2]),
            member_id: dice.pick(&[0, SELF, 7]),
            alarm: dice.pick(&[0, 1, 2]),
        }),
        84 => Operation::Alarm(AlarmRequest { action: 1, member_id: SELF, alarm: 0 }),
        85..89 => Operation::Status(StatusRequest {}),
        89..92 => Operation::MoveLeader(MoveLeaderRequest { target_id: dice.pick(&[0, 7, SELF, ADDED]) }),
        92 => Operation::Defragment(DefragmentRequest {}),
        93 => Operation::Hash(HashRequest {}),
        _ => Operation::Downgrade(downgrade(dice)),
    }
}

fn downgrade(dice: &mut Dice) -> DowngradeRequest {
    const POSSIBLE: [&str; 4] = ["3.6", "3.6.0", "3.6.99", "3.6.0-rc.1"];
    const IMPOSSIBLE: [&str; 12] =
        ["", "3", "3.", "3.5", "3.7", "3.7.0", "3.8.0", "4.0", "v3.6.0", "3.6.0.0", "3.x", "nonsense"];
    let action = dice.pick(&[0, 0, 1, 2, 9]);
    // A downgrade that etcd starts would make the two servers differ: see DIFFERENCES.
    let version = if action != 1 && dice.chance(40) { dice.pick(&POSSIBLE) } else { dice.pick(&IMPOSSIBLE) };
    DowngradeRequest { action, version: version.to_owned() }
}

fn of_members(dice: &mut Dice) -> Operation {
    let id = dice.pick(&[0, 7, SELF, ADDED, ADDED]);
    match dice.below(10) {
        0..2 => Operation::MemberList(MemberListRequest { linearizable: dice.chance(50) }),
        2..6 => {
            let mut request = MemberAddRequest { peer_ur_ls: urls(dice), is_learner: dice.chance(60) };
            // An added voter that does not run would cost the quorum.
            let is_accepted = |url: &String| GOOD_URLS.contains(&url.as_str()) || url == LARGE_PORT_URL;
            request.is_learner |= request.peer_ur_ls.iter().all(is_accepted);
            Operation::MemberAdd(request)
        }
        6 => Operation::MemberPromote(MemberPromoteRequest { id }),
        7 => {
            // The URLs of the member under test must stay, and etcd panics if other members have invalid
            // ones.
            let peer_ur_ls = match id {
                SELF => vec![OWN_PEER_URL.to_owned()],
                // Not a URL that is in use: see DIFFERENCES.
                ADDED => vec![dice.pick(&GOOD_URLS).trim().to_owned()],
                _ => urls(dice),
            };
            Operation::MemberUpdate(MemberUpdateRequest { id, peer_ur_ls })
        }
        _ => Operation::MemberRemove(MemberRemoveRequest { id: if id == SELF { ADDED } else { id } }),
    }
}

const GOOD_URLS: [&str; 5] =
    ["http://127.0.0.1:1", "https://host.invalid:2", "http://[::1]:3", " http://127.0.0.1:4 ", "HTTP://A:5"];

/// Leads nowhere, and is accepted: etcd does not ask how large a port is.
const LARGE_PORT_URL: &str = "http://127.0.0.1:99999999";

fn urls(dice: &mut Dice) -> Vec<String> {
    const BAD_URLS: [&str; 16] = [
        "",
        "nonsense",
        "127.0.0.1:1",
        "http://127.0.0.1",
        "http://127.0.0.1:",
        "http://127.0.0.1:1/",
        "http://127.0.0.1:1/path",
        "http://user@127.0.0.1:1/",
        "http://127.0.0.1:port",
        LARGE_PORT_URL,
        "http:///127.0.0.1:1",
        "http://::1:1",
        "http://[::1:1",
        "ftp://127.0.0.1:1",
        "http//127.0.0.1:1",
        "http://a b:1",
    ];
    match dice.below(10) {
        0..4 => vec![dice.pick(&GOOD_URLS).to_owned()],
        4 => vec![dice.pick(&GOOD_URLS).to_owned(), dice.pick(&GOOD_URLS).to_owned()],
        5 => vec![OWN_PEER_URL.to_owned()],
        6 => vec![dice.pick(&GOOD_URLS).to_owned(), dice.pick(&BAD_URLS).to_owned()],
        7 => vec![],
        _ => vec![dice.pick(&BAD_URLS).to_owned()],
    }
}

fn of_users_and_roles(dice: &mut Dice) -> Operation {
    let user = |dice: &mut Dice| dice.pick(&["ann", "ann", "bob", "bob", "root", ""]).to_owned();
    let role = |dice: &mut Dice| dice.pick(&["reader", "reader", "writer", "writer", "root", ""]).to_owned();
    let password = |dice: &mut Dice| match dice.below(10) {
        0 => "x".repeat(72),
        1 => "x".repeat(73),
        2 | 3 => String::new(),
        _ => "secret".to_owned(),
    };
    let key = |dice: &mut Dice| Bytes::from_static(dice.pick(&[b"a", b"a", b"b", b"c", b"\0", b""]));
    let end = |dice: &mut Dice| Bytes::from_static(dice.pick(&[b"", b"", b"b", b"c", b"a", b"\0"]));
    match dice.below(100) {
        0..3 => Operation::AuthEnable(AuthEnableRequest {}),
        3..5 => Operation::AuthDisable(AuthDisableRequest {}),
        5..9 => Operation::AuthStatus(AuthStatusRequest {}),
        9..11 => Operation::Authenticate(AuthenticateRequest { name: user(dice), password: password(dice) }),
        11..21 => Operation::UserAdd(AuthUserAddRequest {
            name: user(dice),
            password: password(dice),
            options: dice.pick(&[
                None,
                None,
                Some(UserAddOptions { no_password: false }),
                Some(UserAddOptions { no_password: true }),
            ]),
            // A hash in the request is ignored.
            hashed_password: dice.pick(&["", "", "", "bm9uc2Vuc2U="]).to_owned(),
        }),
        21..28 => Operation::UserGet(AuthUserGetRequest { name: user(dice) }),
        28..32 => Operation::UserList(AuthUserListRequest {}),
        32..36 => Operation::UserDelete(AuthUserDeleteRequest { name: user(dice) }),
        36..40 => Operation::UserChangePassword(AuthUserChangePasswordRequest {
            name: user(dice),
            password: password(dice),
            hashed_password: dice.pick(&["", "", "bm9uc2Vuc2U="]).to_owned(),
        }),
        40..50 => {
            let (user, mut role) = (user(dice), role(dice));
            if user == "root" && role == "root" {
                // With this role authentication could be enabled: see DIFFERENCES.
                role = "reader".to_owned();
            }
            Operation::UserGrantRole(AuthUserGrantRoleRequest { user, role })
        }
        50..54 => Operation::UserRevokeRole(AuthUserRevokeRoleRequest { name: user(dice), role: role(dice) }),
        54..62 => Operation::RoleAdd(AuthRoleAddRequest { name: role(dice) }),
        62..70 => Operation::RoleGet(AuthRoleGetRequest { role: role(dice) }),
        70..74 => Operation::RoleList(AuthRoleListRequest {}),
        74..77 => Operation::RoleDelete(AuthRoleDeleteRequest { role: role(dice) }),
        77..91 => Operation::RoleGrantPermission(AuthRoleGrantPermissionRequest {
            name: role(dice),
            perm: if dice.chance(5) {
                None
            } else {
                let perm_type = dice.pick(&[0, 1, 2, 0, 1, 2, 7]);
                Some(Permission { perm_type, key: key(dice), range_end: end(dice) })
            },
        }),
        _ => Operation::RoleRevokePermission(AuthRoleRevokePermissionRequest {
            role: role(dice),
            key: key(dice),
            range_end: end(dice),
        }),
    }
}

/// The values that a server chose itself.
pub(crate) struct Chosen {
    pub(crate) member_id: u64,
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
    pub(crate) added: Cell<u64>,
}

impl Chosen {
    /// Before any member was added.
    pub(crate) const NOBODY: u64 = 4321;

    fn id(&self, named: u64) -> u64 {
        match named {
            SELF => self.member_id,
            ADDED => self.added.get(),
            other => other,
        }
    }

    fn name(&self, id: u64) -> u64 {
        match id {
            id if id == self.member_id => SELF,
            id if id == self.added.get() => ADDED,
            other => other,
        }
    }

    fn urls(&self, named: &[String]) -> Vec<String> {
        let own = format!("http://127.0.0.1:{}", self.peer_port);
        named.iter().map(|url| if url == OWN_PEER_URL { own.clone() } else { url.clone() }).collect()
    }

    fn name_members(&self, members: &mut [Member]) {
        for member in members.iter_mut() {
            member.id = self.name(member.id);
            for (urls, port, name) in [
                (&mut member.peer_ur_ls, self.peer_port, OWN_PEER_URL),
                (&mut member.client_ur_ls, self.client_port, OWN_CLIENT_URL),
            ] {
                let own = format!("http://127.0.0.1:{port}");
                urls.iter_mut().filter(|url| **url == own).for_each(|url| *url = name.to_owned());
            }
        }
        // Members are listed in the order of their ids.
        members.sort_by_key(|member| member.id);
    }
}

/// Makes the call. Returns the comparable part of the answer.
pub(crate) async fn answer(
    client: &Client,
    chosen: &Chosen,
    operation: &Operation,
    at: &mut i64,
) -> Result<String, Status> {
    macro_rules! ask {
        ($service:ident, $method:ident, $request:expr) => {
            client.$service().$method($request).await?.into_inner()
        };
    }
    macro_rules! plain {
        ($service:ident, $method:ident, $request:expr) => {{
            let mut response = ask!($service, $method, $request.clone());
            *at = revision(&response.header);
            normal::header(&mut response.header);
            terse(&response)
        }};
    }
    macro_rules! of_members {
        ($method:ident, $request:expr) => {{
            let mut response = ask!(cluster, $method, $request);
            normal::header(&mut response.header);
            chosen.name_members(&mut response.members);
            terse(&response)
        }};
    }
    Ok(match operation {
        Operation::Alarm(request) => {
            let request = AlarmRequest { member_id: chosen.id(request.member_id), ..*request };
            let mut response = ask!(maintenance, alarm, request);
            *at = revision(&response.header);
            normal::header(&mut response.header);
            for alarm in &mut response.alarms {
                alarm.member_id = chosen.name(alarm.member_id);
            }
            response.alarms.sort_by_key(|alarm| (alarm.alarm, alarm.member_id));
            terse(&response)
        }
        Operation::Status(request) => {
            let mut response = ask!(maintenance, status, *request);
            *at = revision(&response.header);
            normal::status(&mut response);
            response.leader = chosen.name(response.leader);
            terse(&response)
        }
        Operation::Defragment(request) => terse(&ask!(maintenance, defragment, *request)),
        Operation::Hash(request) => {
            let mut response = ask!(maintenance, hash, *request);
            *at = revision(&response.header);
            normal::header(&mut response.header);
            // The hash of the whole file differs between servers.
            response.hash = 0;
            terse(&response)
        }
        Operation::MoveLeader(request) => {
            let request = MoveLeaderRequest { target_id: chosen.id(request.target_id) };
            terse(&ask!(maintenance, move_leader, request))
        }
        Operation::Downgrade(request) => plain!(maintenance, downgrade, request),
        Operation::MemberAdd(request) => {
            let urls = chosen.urls(&request.peer_ur_ls);
            let mut response =
                ask!(cluster, member_add, MemberAddRequest { peer_ur_ls: urls, ..request.clone() });
            normal::header(&mut response.header);
            let mut added: Vec<Member> = response.member.into_iter().collect();
            chosen.added.set(added.first().map_or(Chosen::NOBODY, |member| member.id));
            chosen.name_members(&mut added);
            chosen.name_members(&mut response.members);
            response.member = added.pop();
            terse(&response)
        }
        Operation::MemberRemove(request) => {
            of_members!(member_remove, MemberRemoveRequest { id: chosen.id(request.id) })
        }
        Operation::MemberUpdate(request) => {
            let peer_ur_ls = chosen.urls(&request.peer_ur_ls);
            of_members!(member_update, MemberUpdateRequest { id: chosen.id(request.id), peer_ur_ls })
        }
        Operation::MemberPromote(request) => {
            of_members!(member_promote, MemberPromoteRequest { id: chosen.id(request.id) })
        }
        Operation::MemberList(request) => of_members!(member_list, *request),
        Operation::AuthEnable(request) => plain!(auth, auth_enable, request),
        Operation::AuthDisable(request) => plain!(auth, auth_disable, request),
        Operation::AuthStatus(request) => plain!(auth, auth_status, request),
        Operation::Authenticate(request) => plain!(auth, authenticate, request),
        Operation::UserAdd(request) => plain!(auth, user_add, request),
        Operation::UserGet(request) => plain!(auth, user_get, request),
        Operation::UserList(request) => plain!(auth, user_list, request),
        Operation::UserDelete(request) => plain!(auth, user_delete, request),
        Operation::UserChangePassword(request) => plain!(auth, user_change_password, request),
        Operation::UserGrantRole(request) => plain!(auth, user_grant_role, request),
        Operation::UserRevokeRole(request) => plain!(auth, user_revoke_role, request),
        Operation::RoleAdd(request) => plain!(auth, role_add, request),
        Operation::RoleGet(request) => plain!(auth, role_get, request),
        Operation::RoleList(request) => plain!(auth, role_list, request),
        Operation::RoleDelete(request) => plain!(auth, role_delete, request),
        Operation::RoleGrantPermission(request) => plain!(auth, role_grant_permission, request),
        Operation::RoleRevokePermission(request) => plain!(auth, role_revoke_permission, request),
    })
}
