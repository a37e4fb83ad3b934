//! Logins that fail, in numbers: whoever is logged in goes on, and the server's memory is bounded.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
};

use tokio::task::JoinSet;
use tonic::{Request, metadata::MetadataValue};

use crate::{
    client::soon,
    pb::etcdserverpb::*,
    server::{Launch, Server},
};

const CLIENTS: usize = 200;
const PUTS: usize = 50;

/// What the storm may add to the memory of the process.
const STORM_MIB_MAX: u64 = 96;

async fn enable(server: &Server) {
    let mut auth = server.client().auth();
    let add = AuthUserAddRequest {
        name: "root".to_owned(),
        password: "canary-right".to_owned(),
        ..AuthUserAddRequest::default()
    };
    auth.user_add(add).await.expect("it is new");
    let grant = AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    auth.user_grant_role(grant).await.expect("it is granted");
    auth.auth_enable(AuthEnableRequest {}).await.expect("root is there");
}

fn login(name: &str, password: &str) -> AuthenticateRequest {
    AuthenticateRequest { name: name.to_owned(), password: password.to_owned() }
}

fn resident_mib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number") >> 10
}

/// Clients that log in with wrong passwords all the time, each on a connection of its own.
struct Storm {
    clients: JoinSet<()>,
    /// What they are answered, and how often.
    answers: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Storm {
    fn start(server: &Server) -> Storm {
        let mut storm = Storm { clients: JoinSet::new(), answers: Arc::default() };
        for number in 0..CLIENTS {
            let (mut auth, answers) = (server.client().auth(), Arc::clone(&storm.answers));
            let name = if number % 2 == 0 { "root" } else { "nobody" };
            storm.clients.spawn(async move {
                loop {
                    let refusal =
                        auth.authenticate(login(name, "canary-wrong")).await.expect_err("it is wrong");
                    let answer = format!("{:?}: {}", refusal.code(), refusal.message());
                    *answers.lock().expect("nobody panics").entry(answer).or_default() += 1;
                }
            });
        }
        storm
    }

    fn answered(&self) -> usize {
        self.answers.lock().expect("nobody panics").values().sum()
    }

    /// Answers of which a password was looked at. Others are refused at once, as many as the machine likes.
    fn checked(&self) -> usize {
        let answers = self.answers.lock().expect("nobody panics");
        answers
            .iter()
            .filter(|(answer, _)| answer.starts_with("InvalidArgument"))
            .map(|(_, count)| count)
            .sum()
    }

    /// Until each client has been wrong once.
    async fn has_raged(&self) {
        let goal = self.answered() + 2 * CLIENTS;
        soon("the storm rages", async {
            while self.answered() < goal {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn end(mut self) -> BTreeMap<String, usize> {
        self.clients.abort_all();
        while self.clients.join_next().await.is_some() {}
        std::mem::take(&mut self.answers.lock().expect("nobody panics"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_logged_in_goes_on_beside_a_storm_of_wrong_passwords() {
    let server = Launch::subject().flag("bcrypt-cost", 6).start();
    enable(&server).await;
    let mut auth = server.client().auth();
    let token =
        auth.authenticate(login("root", "canary-right")).await.expect("it is right").into_inner().token;
    let before = resident_mib(&server);

    let storm = Storm::start(&server);
    storm.has_raged().await;
    let client = server.client();
    for number in 0..PUTS {
        let mut put = Request::new(PutRequest { key: format!("k{number}").into(), ..PutRequest::default() });
        put.metadata_mut().insert("token", MetadataValue::try_from(&token).expect("it is ASCII"));
        soon("a put of who is logged in", client.kv().put(put)).await.expect("root may");
    }
    let added = resident_mib(&server).saturating_sub(before);
    assert!(added < STORM_MIB_MAX, "the storm takes {added} MiB");
    let answers = storm.end().await;
    let known = [
        "InvalidArgument: etcdserver: authentication failed, invalid user ID or password",
        "Unknown: etcdserver: too many requests",
        // On a machine that is busy with other things.
        "Unavailable: etcdserver: request timed out",
    ];
    assert!(answers.keys().all(|answer| known.contains(&answer.as_str())), "{answers:?}");
    soon("a login with the right password", async {
        while auth.authenticate(login("root", "canary-right")).await.is_err() {}
    })
    .await;
}

/// Whoever was not wrong lately does not wait for those who were, although all come from the same address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_password_is_checked_before_those_of_a_storm_of_wrong_ones() {
    const USERS: usize = 10;
    let server = Launch::subject().flag("bcrypt-cost", 6).start();
    enable(&server).await;
    let mut auth = server.client().auth();
    let root =
        auth.authenticate(login("root", "canary-right")).await.expect("it is right").into_inner().token;
    for number in 0..USERS {
        let (name, password) = (format!("user-{number}"), "canary-user".to_owned());
        let mut add = Request::new(AuthUserAddRequest { name, password, ..AuthUserAddRequest::default() });
        add.metadata_mut().insert("token", MetadataValue::try_from(&root).expect("it is ASCII"));
        auth.user_add(add).await.expect("it is new");
    }
    let storm = Storm::start(&server);
    storm.has_raged().await;
    let mut overtaken_by = 0;
    for number in 0..USERS {
        let mut auth = server.client().auth();
        let before = storm.checked();
        let attempt = auth.authenticate(login(&format!("user-{number}"), "canary-user"));
        soon("a login beside the storm", attempt).await.expect("it is right");
        overtaken_by += storm.checked() - before;
    }
    let fair = USERS * CLIENTS / 2;
    assert!(overtaken_by < fair, "{overtaken_by} wrong passwords were checked before {USERS} right ones");
    storm.end().await;
}
