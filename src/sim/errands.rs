//! What an operator does now and then, and what is asked of the members in the end.

use std::{sync::Arc, time::Duration};

use tokio::time;

use super::{
    clients::{Shared, within},
    dice::Dice,
    judges::{history::Stored, wire},
    pb::etcdserverpb::{
        AlarmRequest, AlarmType, HashKvRequest, LeaseGrantRequest, LeaseLeasesRequest, Member,
        MemberAddRequest, MemberListRequest, MemberRemoveRequest, MoveLeaderRequest, RangeRequest,
        alarm_request::AlarmAction, cluster_client::ClusterClient, kv_client::KvClient,
        lease_client::LeaseClient, maintenance_client::MaintenanceClient,
    },
    wires::peer_url,
};

/// The pause before an operator tries again what has failed.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long an operator waits for the answer to a change of the members.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);

/// What a member has in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) kvs: Vec<Stored>,
    pub(super) revision: i64,
    /// Of all history.
    pub(super) hash: u32,
    pub(super) peer_urls: Vec<String>,
    pub(super) leases: Vec<i64>,
}

/// `None` if the member did not answer.
pub(super) async fn state_of(shared: Arc<Shared>, member: usize) -> Option<State> {
    let mut client = KvClient::new(shared.wire(member));
    let request = RangeRequest {
        key: wire::start_of("").into(),
        range_end: wire::end_of("").into(),
        ..RangeRequest::default()
    };
    let state = within(client.range(request)).await.ok()?.into_inner();
    let revision = state.header?.revision;
    let mut client = MaintenanceClient::new(shared.admin_wire(member));
    let hash = within(client.hash_kv(HashKvRequest { revision })).await.ok()?.into_inner().hash;
    let mut client = ClusterClient::new(shared.admin_wire(member));
    let listed =
        within(client.member_list(MemberListRequest { linearizable: false })).await.ok()?.into_inner();
    let peer_urls = listed.members.into_iter().flat_map(|member| member.peer_ur_ls).collect();
    let mut client = LeaseClient::new(shared.admin_wire(member));
    let leases = within(client.lease_leases(LeaseLeasesRequest {})).await.ok()?.into_inner().leases;
    let leases = leases.into_iter().map(|lease| lease.id).collect();
    Some(State { kvs: wire::all(state.kvs), revision, hash, peer_urls, leases })
}

pub(super) async fn move_leader(shared: &Shared, leader: usize, dice: &Dice) {
    let mut client = ClusterClient::new(shared.admin_wire(leader));
    let listed = within(client.member_list(MemberListRequest { linearizable: false })).await;
    let Ok(listed) = listed else { return };
    let members = listed.into_inner().members;
    let target = dice.one_of(&members).id;
    let mut client = MaintenanceClient::new(shared.admin_wire(leader));
    let _ = within(client.move_leader(MoveLeaderRequest { target_id: target })).await;
}

/// Adds a member at a host, and tries again until it is one. The result are the hosts of all members.
pub(super) async fn add_member(shared: Arc<Shared>, host: usize, hosts: usize) -> Vec<usize> {
    let mut member = host;
    loop {
        member = (member + 1) % shared.members;
        if member == host {
            continue;
        }
        let mut client = ClusterClient::new(shared.admin_wire(member));
        let listed = within(client.member_list(MemberListRequest { linearizable: true })).await;
        if let Ok(listed) = listed {
            let members = listed.into_inner().members;
            // An earlier attempt may have had no answer.
            if members.iter().any(|member| is_at(member, host)) {
                return hosts_of(&members, hosts);
            }
            let request =
                MemberAddRequest { peer_ur_ls: vec![peer_url(host)], ..MemberAddRequest::default() };
            if let Ok(Ok(added)) = time::timeout(CHANGE_PATIENCE, client.member_add(request)).await {
                return hosts_of(&added.into_inner().members, hosts);
            }
        }
        time::sleep(RETRY_PAUSE).await;
    }
}

fn hosts_of(members: &[Member], hosts: usize) -> Vec<usize> {
    (0..hosts).filter(|host| members.iter().any(|member| is_at(member, *host))).collect()
}

fn is_at(member: &Member, host: usize) -> bool {
    member.peer_ur_ls.contains(&peer_url(host))
}

pub(super) async fn remove_member(shared: Arc<Shared>, member: usize, host: usize) -> bool {
    let mut client = ClusterClient::new(shared.admin_wire(member));
    let listed = within(client.member_list(MemberListRequest { linearizable: true })).await;
    let Ok(listed) = listed else { return false };
    let found = listed.into_inner().members.into_iter().find(|member| is_at(member, host));
    let Some(found) = found else { return false };
    let removed = client.member_remove(MemberRemoveRequest { id: found.id });
    matches!(time::timeout(CHANGE_PATIENCE, removed).await, Ok(Ok(_)))
}

/// Removes the member `old` at a host, whose disk is damaged, and adds a new one in its place. The result are the hosts of
/// all members.
pub(super) async fn replace_member(shared: Arc<Shared>, host: usize, hosts: usize, old: u64) -> Vec<usize> {
    let mut member = host;
    loop {
        time::sleep(RETRY_PAUSE).await;
        member = (member + 1) % shared.members;
        if member == host {
            continue;
        }
        let mut client = ClusterClient::new(shared.admin_wire(member));
        let listed = within(client.member_list(MemberListRequest { linearizable: true })).await;
        let Ok(listed) = listed else { continue };
        if listed.into_inner().members.iter().all(|member| member.id != old) {
            return add_member(shared, host, hosts).await;
        }
        // The outcome is seen in the next list.
        let _ = within(client.member_remove(MemberRemoveRequest { id: old })).await;
    }
}

/// Disarms alarms until there are none; those of one kind, or all, and then none may be on its way any more either: an
/// alarm that was raised without an answer may still come.
pub(super) async fn disarm(shared: Arc<Shared>, only: Option<AlarmType>) {
    let mut member = 0;
    loop {
        member = (member + 1) % shared.members;
        let mut client = MaintenanceClient::new(shared.admin_wire(member));
        let ask = |action: AlarmAction, member: u64, alarm: AlarmType| AlarmRequest {
            action: action.into(),
            member_id: member,
            alarm: alarm.into(),
        };
        if let Ok(listed) = within(client.alarm(ask(AlarmAction::Get, 0, AlarmType::None))).await {
            let alarms = listed.into_inner().alarms;
            let mut alarms = alarms.iter().filter(|alarm| only.is_none_or(|only| only == alarm.alarm()));
            match alarms.next() {
                Some(first) => {
                    let disarmed = ask(AlarmAction::Deactivate, first.member_id, first.alarm());
                    if within(client.alarm(disarmed)).await.is_err() {
                        shared.doubt_alarm();
                    }
                }
                None if only.is_some() || shared.now() >= shared.alarm_doubtful_until() => return,
                None => {}
            }
        }
        time::sleep(RETRY_PAUSE).await;
    }
}

/// Raises the alarm for a full database by hand, and disarms it some time later.
pub(super) async fn alarm(shared: Arc<Shared>, member: usize, active: Duration) {
    let mut client = MaintenanceClient::new(shared.admin_wire(member));
    let (alarm, action) = (AlarmType::Nospace.into(), AlarmAction::Activate.into());
    shared.alarm_is(None);
    let raised = within(client.alarm(AlarmRequest { action, member_id: 1, alarm })).await;
    match raised {
        Ok(_) if shared.now() >= shared.alarm_doubtful_until() => shared.alarm_is(Some(true)),
        Ok(_) => {}
        Err(_) => shared.doubt_alarm(),
    }
    time::sleep(active).await;
    shared.alarm_is(None);
    disarm(shared.clone(), Some(AlarmType::Nospace)).await;
    if shared.now() >= shared.alarm_doubtful_until() {
        shared.alarm_is(Some(false));
    }
}

const STORM_LANES: usize = 6;
const STORM_LEASES: usize = 20;

/// Many leases that all end at about the same time.
pub(super) async fn lease_storm(shared: Arc<Shared>, dice: Dice) {
    let lane = || async {
        for _ in 0..STORM_LEASES {
            let member = dice.below(shared.members as u64) as usize;
            let request = LeaseGrantRequest { ttl: 2, id: 0 };
            // Whatever the answer, the lease ends some time.
            let _ = within(LeaseClient::new(shared.wire(member)).lease_grant(request)).await;
        }
    };
    futures_util::future::join_all((0..STORM_LANES).map(|_| lane())).await;
}
