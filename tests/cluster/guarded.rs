//! A cluster that is guarded in every way: TLS for clients and for members, and users. Whatever happens to its
//! members, each of them judges everybody by the newest users and roles.

use std::{collections::BTreeMap, fs, sync::Arc};

use rustix::process::Signal;
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::{Code, Status, transport::Channel};

use crate::{
    certificates::{self, Authority, Pair},
    cluster::{Cluster, Connect, PATIENCE, Plan},
    logins::{DENIED, INVALID_TOKEN, by, is},
    pb::{
        authpb::Permission,
        etcdserverpb::{
            auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient,
            maintenance_client::MaintenanceClient, *,
        },
    },
    secure,
    snapshots::outgrow_the_log,
};

/// A long election timeout, because a busy machine must not cause elections; and little of the log is kept.
const FLAGS: &[&str] = &[
    "--snapshot-catchup-entries=10",
    "--heartbeat-interval=300",
    "--election-timeout=3000",
    "--bcrypt-cost=4",
    "--client-cert-auth",
    "--peer-client-cert-auth",
    "--peer-cert-allowed-cn=member",
];

const OLD: &str = "etcdserver: revision of auth store is old";
const LOGIN_FAILED: (Code, &str) =
    (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");

/// The users; each has a certificate with its name, and its name as password. Nobody adds the guest.
const NAMES: [&str; 5] = ["root", "ann", "bob", "eve", "guest"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tokens {
    /// Known to each member.
    Simple,
    /// Which say themselves whose they are.
    Signed,
}

/// How a user shows who it is.
#[derive(Clone, Copy, Debug)]
enum Way {
    Certificate,
    /// A token that another member has given out, on a connection with the certificate of nobody.
    Token,
}

struct Guarded {
    cluster: Cluster,
    /// Whose files the members read.
    _files: (Authority, TempDir),
    certificates: BTreeMap<&'static str, Arc<ClientConfig>>,
    /// The member that is stopped for a while.
    absent: Option<usize>,
}

impl Guarded {
    /// Three members with authentication enabled, the role `r`, which may read and write `a`, and its user `ann`.
    async fn found(tokens: Tokens) -> Guarded {
        let authority = Authority::new("ca");
        let key = tempfile::tempdir().expect("a temporary directory");
        fs::write(key.path().join("key"), b"the key of the tokens, of thirty-two bytes or more")
            .expect("it is writable");
        let certificates: BTreeMap<_, _> = NAMES
            .into_iter()
            .map(|name| (name, certificates::client(&[&authority], Some(&authority.issue(name)), "h2")))
            .collect();
        let root = Arc::clone(&certificates["root"]);
        let as_root: Connect = Arc::new(move |endpoint| secure::connect(endpoint, &root));
        let mut flags = tls_flags(&authority, &authority.issue("member"));
        flags.extend(FLAGS.iter().map(|flag| (*flag).to_owned()));
        if tokens == Tokens::Signed {
            let file = key.path().join("key");
            flags.push(format!("--auth-token=jwt,sign-method=HS256,priv-key={},ttl=1h", file.display()));
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let cluster = Plan::new(3).with_peer_tls().with_client_tls(as_root).flags(&flags).found();
        let guarded = Guarded { cluster, certificates, absent: None, _files: (authority, key) };
        // Each change at another member than the one before.
        guarded.add_user(0, "root", "root").await;
        guarded.admin(1).auth_enable(AuthEnableRequest {}).await.expect("there is a root");
        // A member that has not applied this yet would hand on the next call as nobody's, as in etcd.
        for number in 0..3 {
            let status = guarded.admin(number).auth_status(AuthStatusRequest {}).await.expect("a status");
            assert!(status.into_inner().enabled);
        }
        guarded.admin(2).role_add(AuthRoleAddRequest { name: "r".into() }).await.expect("a new role");
        guarded.permit(0, "a").await;
        guarded.add_user(1, "ann", "r").await;
        guarded
    }

    fn channel(&self, number: usize, name: &str) -> Channel {
        self.cluster.members[number]
            .channel_with(&|endpoint| secure::connect(endpoint, &self.certificates[name]))
    }

    /// By the certificate of root.
    fn admin(&self, number: usize) -> AuthClient<Channel> {
        AuthClient::new(self.channel(number, "root"))
    }

    async fn add_user(&self, number: usize, name: &str, role: &str) {
        let add = AuthUserAddRequest { name: name.into(), password: name.into(), ..Default::default() };
        self.admin(number).user_add(add).await.expect("a new user");
        let grant = AuthUserGrantRoleRequest { user: name.into(), role: role.into() };
        self.admin(number).user_grant_role(grant).await.expect("a role");
    }

    async fn permit(&self, number: usize, key: &str) {
        let perm = Permission { perm_type: 2, key: key.to_owned().into(), range_end: Default::default() };
        let permit = AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(perm) };
        self.admin(number).role_grant_permission(permit).await.expect("a permission");
    }

    async fn forbid(&self, number: usize, key: &str) {
        let (key, range_end) = (key.to_owned().into(), Default::default());
        let forbid = AuthRoleRevokePermissionRequest { role: "r".into(), key, range_end };
        self.admin(number).role_revoke_permission(forbid).await.expect("it was permitted");
    }

    /// The members that work.
    fn present(&self) -> Vec<usize> {
        let members = self.cluster.members.iter().enumerate();
        let running = members.filter(|(_, member)| member.process_id().is_some()).map(|(number, _)| number);
        running.filter(|number| Some(*number) != self.absent).collect()
    }

    fn present_after(&self, number: usize) -> usize {
        let present = self.present();
        present.iter().copied().find(|other| *other > number).unwrap_or(present[0])
    }

    async fn login(&self, number: usize, name: &str) -> Result<String, Status> {
        patiently(async || {
            let request = AuthenticateRequest { name: name.into(), password: name.into() };
            let mut auth = AuthClient::new(self.channel(number, "guest"));
            Ok(auth.authenticate(request).await?.into_inner().token)
        })
        .await
    }

    async fn put(&self, number: usize, way: Way, name: &str, key: &str) -> Result<(), Status> {
        let put = || PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() };
        patiently(async || match way {
            Way::Certificate => KvClient::new(self.channel(number, name)).put(put()).await,
            Way::Token => {
                let token = self.login(self.present_after(number), name).await?;
                KvClient::new(self.channel(number, "guest")).put(by(&token, put())).await
            }
        })
        .await
        .map(drop)
    }

    async fn get_with(&self, number: usize, token: &str, key: &str) -> Result<i64, Status> {
        patiently(async || {
            let request = RangeRequest { key: key.to_owned().into(), ..Default::default() };
            let mut kv = KvClient::new(self.channel(number, "guest"));
            Ok(kv.range(by(token, request)).await?.into_inner().count)
        })
        .await
    }

    /// Through every member that works.
    async fn may(&self, name: &str, key: &str) {
        for number in self.present() {
            for way in [Way::Certificate, Way::Token] {
                let put = self.put(number, way, name, key).await;
                put.unwrap_or_else(|status| panic!("{name} at member {number}, {way:?}: {status}"));
            }
        }
    }

    async fn may_not(&self, name: &str, key: &str) {
        for number in self.present() {
            for way in [Way::Certificate, Way::Token] {
                is(self.put(number, way, name, key).await, DENIED);
            }
        }
    }

    /// What ann may and what not, and that nobody else may anything.
    async fn judges_rightly(&self) {
        self.may("ann", "a").await;
        self.may_not("ann", "z").await;
        for number in self.present() {
            is(self.put(number, Way::Certificate, "guest", "a").await, DENIED);
            is(self.login(number, "guest").await, LOGIN_FAILED);
            is(self.get_with(number, "abcdefghijklmnop.1", "a").await, INVALID_TOKEN);
        }
    }

    async fn have_auth_revision(&self) -> u64 {
        let mut revisions = Vec::new();
        for number in self.present() {
            let status = self.admin(number).auth_status(AuthStatusRequest {}).await.expect("anybody may ask");
            revisions.push(status.into_inner().auth_revision);
        }
        assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{revisions:?}");
        revisions[0]
    }

    async fn leader(&self) -> usize {
        self.cluster.leader_among(&self.present()).await
    }

    async fn move_leader(&self) {
        let leader = self.leader().await;
        let target_id = self.cluster.members[self.present_after(leader)].id().await;
        let mut maintenance = MaintenanceClient::new(self.channel(leader, "root"));
        maintenance.move_leader(MoveLeaderRequest { target_id }).await.expect("leadership can be moved");
        assert_ne!(self.leader().await, leader);
    }

    fn kill(&mut self, number: usize) {
        self.cluster.members[number].kill();
    }

    /// A member in the place of another, which is gone for good.
    async fn replace(&mut self, number: usize) {
        let id = self.cluster.members[number].id().await;
        self.kill(number);
        let gone = self.cluster.members.remove(number);
        let other = self.present()[0];
        let mut client = ClusterClient::new(self.channel(other, "root"));
        patiently(async || client.clone().member_remove(MemberRemoveRequest { id }).await)
            .await
            .expect("there is a quorum without it");
        let new = self.cluster.prepare("new");
        new.flags.clone_from(&gone.flags);
        let peer_ur_ls = vec![new.peer_url()];
        let add = MemberAddRequest { peer_ur_ls, is_learner: false };
        client.member_add(add).await.expect("a new member");
        self.cluster.members.last_mut().expect("just added").start();
    }
}

/// As clients do, again if there was no leader, or if users or roles have changed since the member identified the
/// user.
async fn patiently<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let patience = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Err(status) if status.code() == Code::Unavailable || status.message() == OLD => {
                assert!(Instant::now() < patience, "still {status}");
            }
            answer => return answer,
        }
    }
}

/// One certificate for all ports; whose certificates are accepted there.
fn tls_flags(authority: &Authority, pair: &Pair) -> Vec<String> {
    let all = ["", "peer-"].map(|prefix| {
        [
            format!("--{prefix}cert-file={}", pair.cert.display()),
            format!("--{prefix}key-file={}", pair.key.display()),
            format!("--{prefix}trusted-ca-file={}", authority.cert().display()),
        ]
    });
    all.into_iter().flatten().collect()
}

async fn changes_are_seen_in_order(guarded: &Guarded) {
    let before = guarded.have_auth_revision().await;
    const ROUNDS: usize = 6;
    for round in 0..ROUNDS {
        let key = format!("k{round}");
        guarded.may_not("ann", &key).await;
        guarded.permit(round % 3, &key).await;
        guarded.may("ann", &key).await;
        guarded.forbid((round + 1) % 3, &key).await;
        guarded.may_not("ann", &key).await;
    }
    assert_eq!(guarded.have_auth_revision().await, before + 2 * ROUNDS as u64);
}

/// A token outlives leaders, whether they hand over or die.
async fn leaders_change(guarded: &mut Guarded) {
    let token = guarded.login(0, "ann").await.expect("the password is the name");
    let works = async |guarded: &Guarded| {
        for number in guarded.present() {
            guarded.get_with(number, &token, "a").await.expect("the token is known");
            is(guarded.get_with(number, &token, "z").await, DENIED);
        }
        guarded.judges_rightly().await;
    };
    works(guarded).await;
    guarded.move_leader().await;
    works(guarded).await;
    let leader = guarded.leader().await;
    guarded.kill(leader);
    guarded.leader().await;
    works(guarded).await;
    // Users change while it is away.
    let other = guarded.present_after(leader);
    guarded.permit(other, "meanwhile").await;
    guarded.cluster.members[leader].start();
    guarded.may("ann", "meanwhile").await;
    guarded.judges_rightly().await;
}

async fn all_restart(guarded: &mut Guarded) {
    let before = guarded.have_auth_revision().await;
    for member in &mut guarded.cluster.members {
        member.kill();
    }
    for member in &mut guarded.cluster.members {
        member.spawn();
    }
    for member in &mut guarded.cluster.members {
        member.wait_until_ready();
    }
    guarded.judges_rightly().await;
    assert_eq!(guarded.have_auth_revision().await, before);
}

/// A member that is behind by more than the log gets the users with a snapshot.
async fn one_gets_a_snapshot(guarded: &mut Guarded, tokens: Tokens) {
    guarded.add_user(0, "bob", "r").await;
    guarded.may("bob", "a").await;
    let late = guarded.present_after(guarded.leader().await);
    let token = guarded.login(late, "bob").await.expect("the password is the name");
    guarded.get_with(late, &token, "a").await.expect("the token is known");
    guarded.cluster.members[late].signal(Signal::STOP);
    guarded.absent = Some(late);
    let other = guarded.present()[0];
    let delete = AuthUserDeleteRequest { name: "bob".into() };
    guarded.admin(other).user_delete(delete).await.expect("bob was there");
    guarded.add_user(other, "eve", "r").await;
    guarded.permit(other, "e").await;
    let present = guarded.present();
    let present: Vec<_> = present.into_iter().map(|number| &guarded.cluster.members[number]).collect();
    outgrow_the_log(&present).await;
    guarded.cluster.members[late].signal(Signal::CONT);
    guarded.absent = None;
    guarded.cluster.members[late].wait_for_line("installed a snapshot from the leader");
    guarded.may("eve", "e").await;
    guarded.judges_rightly().await;
    for number in guarded.present() {
        is(guarded.put(number, Way::Certificate, "bob", "a").await, DENIED);
        is(guarded.login(number, "bob").await, LOGIN_FAILED);
        if tokens == Tokens::Simple {
            is(guarded.get_with(number, &token, "a").await, INVALID_TOKEN);
        }
    }
    guarded.have_auth_revision().await;
    guarded.cluster.assert_equal().await;
}

async fn one_is_replaced(guarded: &mut Guarded) {
    let follower = guarded.present_after(guarded.leader().await);
    guarded.replace(follower).await;
    guarded.judges_rightly().await;
    guarded.may("eve", "e").await;
    // It is as good as the others for changes, too.
    guarded.forbid(2, "e").await;
    guarded.may_not("eve", "e").await;
    guarded.cluster.assert_equal().await;
}

/// With the right name, and of another authority.
async fn a_stranger_stays_out(guarded: &mut Guarded) {
    let stranger = Authority::new("other");
    let pair = stranger.issue("member");
    let outside = guarded.present_after(guarded.leader().await);
    guarded.kill(outside);
    let member = &mut guarded.cluster.members[outside];
    let right = member.flags.clone();
    for file in ["cert", "key"] {
        let name = format!("--peer-{file}-file=");
        let path = if file == "cert" { &pair.cert } else { &pair.key };
        member.flags.retain(|flag| !flag.starts_with(&name));
        member.flags.push(format!("{name}{}", path.display()));
    }
    let present = guarded.present();
    let known = guarded.cluster.members[present[0]].log().lines().count();
    guarded.cluster.members[outside].spawn();
    guarded.absent = Some(outside);
    guarded.cluster.members[present[0]]
        .wait_for_line_behind(known, "certificate signed by unknown authority");
    guarded.permit(present[1], "s").await;
    guarded.may("ann", "s").await;
    let log = guarded.cluster.members[outside].log();
    assert!(!log.contains("ready to serve client requests"), "it has no quorum:\n{log}");
    guarded.kill(outside);
    guarded.absent = None;
    guarded.cluster.members[outside].flags = right;
    guarded.cluster.members[outside].start();
    guarded.may("ann", "s").await;
    guarded.judges_rightly().await;
    guarded.cluster.assert_equal().await;
}

async fn whatever_happens(tokens: Tokens) {
    let mut guarded = Guarded::found(tokens).await;
    guarded.judges_rightly().await;
    changes_are_seen_in_order(&guarded).await;
    leaders_change(&mut guarded).await;
    all_restart(&mut guarded).await;
    one_gets_a_snapshot(&mut guarded, tokens).await;
    one_is_replaced(&mut guarded).await;
    a_stranger_stays_out(&mut guarded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_members_simple_tokens_and_certificates_are_judged_rightly() {
    whatever_happens(Tokens::Simple).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_members_signed_tokens_and_certificates_are_judged_rightly() {
    whatever_happens(Tokens::Signed).await;
}
