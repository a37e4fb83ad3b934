//! One run of the matrix: a cluster of three with simple tokens, first without and then with authentication, and
//! a single member with JSON web tokens.

use std::{fs, sync::Arc};

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tonic::transport::{Channel, Endpoint};

use super::{
    callers::{self, ADMIN, Caller, ROOT},
    calls::{self, AUTH_DISABLE, Call, Case, GRANT_OF_NO_RANGE},
    table::{Part, Row, Table},
    wire::{self, OK, tell},
};
use crate::{
    certificates::{self, Authority},
    cluster::{Connect, Member, Plan},
    pb::etcdserverpb::{AlarmRequest, AlarmType, AuthDisableRequest, alarm_request::AlarmAction},
    secure,
};

/// Cheap passwords, no change of leader on a busy machine, and no wait until a young cluster counts as healthy.
const FLAGS: [&str; 4] = [
    "--bcrypt-cost=4",
    "--heartbeat-interval=300",
    "--election-timeout=3000",
    "--strict-reconfig-check=false",
];

const KEY: &[u8] = b"the key of the tokens, of thirty-two bytes or more";

const ALARMS: [(&str, Option<AlarmType>); 3] =
    [("", None), ("/nospace", Some(AlarmType::Nospace)), ("/corrupt", Some(AlarmType::Corrupt))];

/// Calls that are left out, because they would end the run or change what others are answered.
type Left = fn(&Call, &Caller, Option<AlarmType>) -> bool;

pub(super) fn nothing_more(_: &Call, _: &Caller, _: Option<AlarmType>) -> bool {
    false
}

/// Tokens without a user or a revision.
pub(super) const NAMELESS_TOKENS: [&str; 2] = ["without-a-user", "without-a-revision"];

/// etcd 3.5.1 lets anybody disable authentication while there is an alarm, and grants permissions on ranges that do
/// not exist, which raises the revision of users and roles. A token without a user or a revision ends its process.
pub(super) fn what_harms_etcd_35(call: &Call, caller: &Caller, alarm: Option<AlarmType>) -> bool {
    call.name == AUTH_DISABLE && alarm.is_some()
        || call.name == GRANT_OF_NO_RANGE
        || NAMELESS_TOKENS.contains(&caller.name)
}

/// All parts of the matrix.
pub(super) async fn play(plan: impl Fn(usize) -> Plan, left: Left) -> Table {
    let calls = Arc::new(calls::all());
    let mut parts = simple(plan(3), &calls, left).await;
    parts.push(signed(plan(1), &calls, left).await);
    parts.push(certified(plan(1), &calls, left).await);
    Table { parts }
}

async fn simple(plan: Plan, calls: &Arc<Vec<Call>>, left: Left) -> Vec<Part> {
    let cluster = plan.flags(&FLAGS).found();
    let leader = cluster.leader().await;
    let member = &cluster.members[leader];
    let follower = &cluster.members[(leader + 1) % 3];
    let places = vec![place("leader", member), place("follower", follower)];
    let channel = places[0].channel.clone();
    let mut grounds = Grounds {
        places,
        calls: Arc::clone(calls),
        admin: None,
        is_enabled: false,
        cases: 0,
        left,
        changing: Arc::default(),
    };
    callers::prepare(&channel, 150).await;
    let mut parts = vec![grounds.part("authentication is disabled", callers::of_no_auth()).await];

    callers::enable(&channel).await;
    let callers = callers::with_simple_tokens(&channel).await;
    let root = callers.iter().find(|caller| caller.name == ROOT).expect("there is one");
    grounds.admin.clone_from(&root.token);
    grounds.is_enabled = true;
    parts.push(grounds.part("simple tokens", callers).await);
    tell(&channel, "/etcdserverpb.Auth/AuthDisable", &AuthDisableRequest {}, grounds.admin.as_deref()).await;
    parts
}

async fn signed(plan: Plan, calls: &Arc<Vec<Call>>, left: Left) -> Part {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("key");
    fs::write(&file, KEY).expect("it is writable");
    let token = format!("--auth-token=jwt,sign-method=HS256,priv-key={},ttl=1h", file.display());
    let cluster = plan.flags(&[&FLAGS[..], &[&token]].concat()).found();
    let places = vec![place("alone", &cluster.members[0])];
    let channel = places[0].channel.clone();
    callers::prepare(&channel, 50).await;
    callers::enable(&channel).await;
    let callers = callers::with_signed_tokens(&channel, KEY).await;
    let admin = Some(callers::sign_root(KEY));
    let (calls, changing) = (Arc::clone(calls), Arc::default());
    let mut grounds = Grounds { places, calls, admin, is_enabled: true, cases: 0, left, changing };
    grounds.part("JSON web tokens", callers).await
}

async fn certified(plan: Plan, calls: &Arc<Vec<Call>>, left: Left) -> Part {
    let authority = Authority::new("ca");
    let server = authority.issue("server");
    let tls = [
        format!("--cert-file={}", server.cert.display()),
        format!("--key-file={}", server.key.display()),
        format!("--trusted-ca-file={}", authority.cert().display()),
        "--client-cert-auth".to_owned(),
    ];
    let flags: Vec<&str> = FLAGS.into_iter().chain(tls.iter().map(String::as_str)).collect();
    let root = certificates::client(&[&authority], Some(&authority.issue(ROOT)), "h2");
    let connect: Connect = Arc::new(move |endpoint| secure::connect(endpoint, &root));
    let cluster = plan.with_client_tls(connect).flags(&flags).found();
    let member = &cluster.members[0];
    let endpoint =
        Endpoint::from_shared(format!("https://{}", member.endpoint())).expect("an address is a URL");
    let channel = member.channel();
    callers::prepare(&channel, 50).await;
    callers::enable(&channel).await;
    let callers = callers::with_certificates(&channel, &authority).await;
    let places = vec![Place { name: "alone", endpoint, channel, peer_url: member.peer_url() }];
    let (calls, changing) = (Arc::clone(calls), Arc::default());
    let mut grounds = Grounds { places, calls, admin: None, is_enabled: true, cases: 0, left, changing };
    grounds.part("certificates", callers).await
}

/// etcd loses one of two changes of the members that are made at the same time.
const CHANGES: [&str; 4] = ["/MemberAdd", "/MemberRemove", "/MemberUpdate", "/MemberPromote"];

/// A member, and what calls to it refer to.
#[derive(Clone)]
struct Place {
    name: &'static str,
    endpoint: Endpoint,
    channel: Channel,
    peer_url: String,
}

fn place(name: &'static str, member: &Member) -> Place {
    let endpoint =
        Endpoint::from_shared(format!("http://{}", member.endpoint())).expect("an address is a URL");
    Place { name, endpoint, channel: member.channel(), peer_url: member.peer_url() }
}

struct Grounds {
    places: Vec<Place>,
    calls: Arc<Vec<Call>>,
    /// The token with which alarms are raised, if one is needed.
    admin: Option<String>,
    is_enabled: bool,
    /// How many callers have played so far, each in one circumstance.
    cases: i64,
    changing: Arc<Mutex<()>>,
    left: Left,
}

impl Grounds {
    async fn part(&mut self, name: &str, callers: Vec<Caller>) -> Part {
        let mut circumstances = Vec::new();
        let mut columns = Vec::new();
        for (suffix, alarm) in ALARMS {
            if let Some(alarm) = alarm {
                self.set_alarm(AlarmAction::Activate, alarm).await;
            }
            for place in self.places.clone() {
                circumstances.push(format!("{}{suffix}", place.name));
                columns.push(self.circumstance(&place, &callers, alarm).await);
            }
            if let Some(alarm) = alarm {
                self.set_alarm(AlarmAction::Deactivate, alarm).await;
            }
        }
        let rows = self.calls.iter().enumerate().map(|(at, call)| Row {
            call: call.name.clone(),
            answers: columns
                .iter()
                .map(|callers: &Vec<Vec<Option<String>>>| {
                    callers.iter().map(|answers| answers[at].clone()).collect()
                })
                .collect(),
        });
        Part {
            name: name.to_owned(),
            callers: callers.iter().map(|caller| caller.name.to_owned()).collect(),
            circumstances,
            rows: rows.collect(),
        }
    }

    /// The answers of all calls, by caller.
    async fn circumstance(
        &mut self,
        place: &Place,
        callers: &[Caller],
        alarm: Option<AlarmType>,
    ) -> Vec<Vec<Option<String>>> {
        let is_enabled = self.is_enabled;
        let playing = callers.iter().map(|caller| {
            self.cases += 1;
            let (calls, place, caller) = (Arc::clone(&self.calls), place.clone(), caller.clone());
            let changing = Arc::clone(&self.changing);
            let left = self.left;
            let is_left = move |call: &Call, caller: &Caller| {
                // It would end the run.
                let ends = is_enabled && call.name == AUTH_DISABLE && [ROOT, ADMIN].contains(&caller.user);
                ends || is_enabled && left(call, caller, alarm)
            };
            tokio::spawn(one_caller(calls, place, caller, self.cases - 1, is_left, changing))
        });
        let played = join_all(playing.collect::<Vec<_>>()).await;
        played.into_iter().map(|answers| answers.expect("no caller panics")).collect()
    }

    /// The answer of each member shows that it has applied the alarm.
    async fn set_alarm(&self, action: AlarmAction, alarm: AlarmType) {
        let request =
            |action: AlarmAction| AlarmRequest { action: action.into(), member_id: 1, alarm: alarm.into() };
        for (place, action) in self.places.iter().zip([action, AlarmAction::Get]) {
            let token = self.admin.as_deref();
            tell(&place.channel, "/etcdserverpb.Maintenance/Alarm", &request(action), token).await;
        }
    }
}

async fn one_caller(
    calls: Arc<Vec<Call>>,
    place: Place,
    caller: Caller,
    number: i64,
    is_left: impl Fn(&Call, &Caller) -> bool,
    changing: Arc<Mutex<()>>,
) -> Vec<Option<String>> {
    let case = Case { number, user: caller.user, peer_url: &place.peer_url };
    let channel = caller.connect(&place.endpoint);
    let mut answers = Vec::new();
    for call in calls.iter() {
        if is_left(call, &caller) {
            answers.push(None);
            continue;
        }
        let messages = (call.make)(&case);
        let token = caller.token.as_deref();
        let is_change = CHANGES.iter().any(|change| call.path.ends_with(change));
        let _turn = if is_change { Some(changing.lock().await) } else { None };
        answers.push(Some(wire::ask(&channel, call.path, call.kind, messages, token).await));
    }
    let made = || answers.iter().flatten();
    assert!(made().next().is_none() || made().any(|answer| answer == OK), "health checks are for everybody");
    answers
}
