//! A cluster under test: the directories, ports and logs of its members, and how they end.
//!
//! A member is the real binary. It is ready when its log says so; no test sleeps instead. When a test fails,
//! the end of every log is shown. A process ends when its value is dropped.

// No test program uses all of this file.
#![allow(dead_code)]

#[path = "canary.rs"]
pub(crate) mod canary;

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::time;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::{
    pb::etcdserverpb::{
        cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
        maintenance_client::MaintenanceClient, watch_client::WatchClient, *,
    },
    tools,
};

/// How long anything that should happen soon may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const READY: &str = "ready to serve client requests";

/// How a test connects to a member.
pub(crate) type Connect = Arc<dyn Fn(&Endpoint) -> Channel + Send + Sync>;

pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
}

/// A cluster before its members are started.
pub(crate) struct Plan {
    size: usize,
    program: PathBuf,
    flags: Vec<String>,
    is_proxied: bool,
    is_on_unix_sockets: bool,
    has_peer_tls: bool,
    client_tls: Option<Connect>,
}

impl Plan {
    /// New members of retcd.
    pub(crate) fn new(size: usize) -> Plan {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_retcd"));
        Plan {
            size,
            program,
            flags: Vec::new(),
            is_proxied: false,
            is_on_unix_sockets: false,
            has_peer_tls: false,
            client_tls: None,
        }
    }

    /// Members of a real etcd, for comparison.
    pub(crate) fn reference(size: usize) -> Plan {
        Plan { program: tools::reference().etcd.clone(), ..Plan::new(size) }
    }

    /// Members of this release of etcd, which has to be at hand.
    pub(crate) fn release(release: tools::Release, size: usize) -> Plan {
        Plan { program: release.etcd(), ..Plan::new(size) }
    }

    pub(crate) fn is_reference(&self) -> bool {
        self.program != Path::new(env!("CARGO_BIN_EXE_retcd"))
    }

    /// Members of any program that takes etcd's flags and logs when it is ready.
    pub(crate) fn program(mut self, program: PathBuf) -> Plan {
        self.program = program;
        self
    }

    /// Further flags for each member.
    pub(crate) fn flags(mut self, flags: &[&str]) -> Plan {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self
    }

    /// Members advertise another port to peers than they listen on, because a proxy is in between.
    pub(crate) fn proxied(mut self) -> Plan {
        self.is_proxied = true;
        self
    }

    /// Members connect to each other through Unix sockets.
    pub(crate) fn on_unix_sockets(mut self) -> Plan {
        self.is_on_unix_sockets = true;
        self
    }

    /// The peer URLs are `https`. The flags have to name certificates.
    pub(crate) fn with_peer_tls(mut self) -> Plan {
        self.has_peer_tls = true;
        self
    }

    /// The client URLs are `https`, and tests connect to them like this. The flags have to name certificates.
    pub(crate) fn with_client_tls(mut self, connect: Connect) -> Plan {
        self.client_tls = Some(connect);
        self
    }

    /// Creates the members without starting them.
    pub(crate) fn members(self) -> Vec<Member> {
        let mut members: Vec<Member> =
            (0..self.size).map(|number| Member::new(&format!("m{number}"), self.program.clone())).collect();
        if self.is_proxied {
            for member in &mut members {
                member.advertised_peer_port = free_port();
            }
        }
        if self.is_on_unix_sockets {
            for member in &mut members {
                member.move_to_unix_socket();
            }
        }
        for member in &mut members {
            member.has_peer_tls = self.has_peer_tls;
            member.client_tls.clone_from(&self.client_tls);
        }
        let all: Vec<String> = members.iter().map(Member::initial_cluster_item).collect();
        for member in &mut members {
            member.initial_cluster = all.join(",");
            member.flags.clone_from(&self.flags);
        }
        members
    }

    /// Starts the members together and waits until all of them serve.
    pub(crate) fn found(self) -> Cluster {
        let mut members = self.members();
        for member in &mut members {
            member.spawn();
        }
        for member in &mut members {
            member.wait_until_ready();
        }
        Cluster { members }
    }
}

pub(crate) struct Member {
    pub(crate) name: String,
    program: PathBuf,
    home: TempDir,
    pub(crate) client_port: u16,
    /// The port on which it listens for peers.
    pub(crate) peer_port: u16,
    /// The port that it advertises to peers.
    pub(crate) advertised_peer_port: u16,
    /// The directory of the Unix socket on which it listens for peers, if it does.
    socket_dir: Option<TempDir>,
    has_peer_tls: bool,
    client_tls: Option<Connect>,
    pub(crate) initial_cluster: String,
    /// `--initial-cluster-state`.
    pub(crate) state: &'static str,
    pub(crate) flags: Vec<String>,
    /// A program that starts the member's program, with its arguments.
    wrapper: Vec<OsString>,
    /// Environment variables of the process in addition to those of the test.
    pub(crate) environment: Vec<(String, String)>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    news: mpsc::Receiver<News>,
}

enum News {
    Ready,
    Closed,
}

impl Cluster {
    /// Starts `size` new members together and waits until all of them serve.
    pub(crate) fn found(size: usize) -> Cluster {
        Plan::new(size).found()
    }

    /// A member that was added to the cluster and is not started yet.
    pub(crate) fn prepare(&mut self, name: &str) -> &mut Member {
        let program = self.members.first().expect("a cluster has members").program.clone();
        let mut member = Member::new(name, program);
        member.has_peer_tls = self.members[0].has_peer_tls;
        member.client_tls.clone_from(&self.members[0].client_tls);
        let all = self.members.iter().map(Member::initial_cluster_item);
        member.initial_cluster = all.chain([member.initial_cluster_item()]).collect::<Vec<_>>().join(",");
        member.state = "existing";
        self.members.push(member);
        self.members.last_mut().expect("just added")
    }

    pub(crate) fn endpoints(&self) -> String {
        let running = self.members.iter().filter(|member| member.running.is_some());
        running.map(Member::endpoint).collect::<Vec<_>>().join(",")
    }

    /// The leader, as soon as all running members agree on one of them.
    pub(crate) async fn leader(&self) -> usize {
        let numbers = 0..self.members.len();
        let running: Vec<_> = numbers.filter(|number| self.members[*number].running.is_some()).collect();
        self.leader_among(&running).await
    }

    /// The leader, as soon as these members agree on one of them, whatever the other members report.
    pub(crate) async fn leader_among(&self, numbers: &[usize]) -> usize {
        let since = Instant::now();
        loop {
            let mut said = BTreeMap::new();
            for &number in numbers {
                if let Ok(status) = self.members[number].try_status().await {
                    let header = status.header.expect("every answer has a header");
                    said.insert(number, (header.member_id, status.leader, header.raft_term));
                }
            }
            let leaders = said.iter().filter(|(_, (id, leader, _))| id == leader);
            if let [(number, (id, _, term))] = leaders.collect::<Vec<_>>()[..]
                && said.values().all(|(_, leader, of_term)| leader == id && of_term == term)
            {
                return *number;
            }
            assert!(since.elapsed() < PATIENCE, "the members agree on no leader: {said:?}");
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all running members have applied the same log, and checks that their data are equal.
    pub(crate) async fn assert_equal(&self) {
        let since = Instant::now();
        loop {
            let mut hashes = Vec::new();
            for member in self.members.iter().filter(|member| member.running.is_some()) {
                let hash = member.maintenance().hash_kv(HashKvRequest { revision: 0 }).await;
                let hash = hash.expect("HashKV needs no quorum").into_inner();
                hashes.push((hash.header.expect("every answer has a header").revision, hash.hash));
            }
            if hashes.iter().all(|(rev, _)| *rev == hashes[0].0) {
                assert!(hashes.iter().all(|hash| *hash == hashes[0]), "members differ: {hashes:?}");
                return;
            }
            assert!(since.elapsed() < PATIENCE, "a member does not catch up: {hashes:?}");
            time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Member {
    fn new(name: &str, program: PathBuf) -> Member {
        let peer_port = free_port();
        let home = tempfile::Builder::new()
            .prefix("member-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("the build's directory for tests is writable");
        Member {
            name: name.to_owned(),
            program,
            home,
            client_port: free_port(),
            peer_port,
            advertised_peer_port: peer_port,
            socket_dir: None,
            has_peer_tls: false,
            client_tls: None,
            initial_cluster: String::new(),
            state: "new",
            flags: Vec::new(),
            wrapper: Vec::new(),
            environment: Vec::new(),
            running: None,
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    fn client_url(&self) -> String {
        let scheme = if self.client_tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.endpoint())
    }

    /// The peer URL that other members know.
    pub(crate) fn peer_url(&self) -> String {
        match &self.socket_dir {
            Some(directory) => format!("unix://{}", directory.path().join("peer.sock").display()),
            None => format!("{}://127.0.0.1:{}", self.peer_scheme(), self.advertised_peer_port),
        }
    }

    fn peer_scheme(&self) -> &'static str {
        if self.has_peer_tls { "https" } else { "http" }
    }

    fn listen_peer_url(&self) -> String {
        match &self.socket_dir {
            Some(_) => self.peer_url(),
            None => format!("{}://127.0.0.1:{}", self.peer_scheme(), self.peer_port),
        }
    }

    /// Takes effect at the next start. The directory is not below that of the build, whose path may be too
    /// long for a socket.
    pub(crate) fn move_to_unix_socket(&mut self) {
        self.socket_dir = Some(tempfile::tempdir().expect("a temporary directory"));
    }

    /// The process, while it runs.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    fn initial_cluster_item(&self) -> String {
        format!("{}={}", self.name, self.peer_url())
    }

    /// A directory for a test's own files, beside the data directory.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// From the next start on the member is one of retcd, with the same name, ports and URLs, and an empty data
    /// directory. Returns where its old directory is now.
    pub(crate) fn become_retcd(&mut self) -> PathBuf {
        assert!(self.running.is_none(), "a member that runs stays what it is");
        let old = self.home.path().join("old");
        fs::rename(self.data_dir(), &old).expect("it can be renamed");
        self.program = PathBuf::from(env!("CARGO_BIN_EXE_retcd"));
        old
    }

    /// Starts the member's program with `command`, which gets the program's name and arguments after its own.
    pub(crate) fn wrap(&mut self, command: &Command) {
        let program = [command.get_program()].into_iter();
        self.wrapper = program.chain(command.get_args()).map(OsString::from).collect();
    }

    pub(crate) fn start(&mut self) {
        self.spawn();
        self.wait_until_ready();
    }

    /// Starts the process without waiting for it.
    pub(crate) fn spawn(&mut self) {
        assert!(self.running.is_none(), "the member already runs");
        let client_url = self.client_url();
        let mut program = self.wrapper.iter().map(OsString::as_os_str).chain([self.program.as_os_str()]);
        let mut child = Command::new(program.next().expect("there is a program"))
            .args(program)
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.data_dir().display()))
            .arg(format!("--listen-client-urls={client_url}"))
            .arg(format!("--advertise-client-urls={client_url}"))
            .arg(format!("--listen-peer-urls={}", self.listen_peer_url()))
            .arg(format!("--initial-advertise-peer-urls={}", self.peer_url()))
            .arg(format!("--initial-cluster={}", self.initial_cluster))
            .arg(format!("--initial-cluster-state={}", self.state))
            .args(&self.flags)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let stderr = child.stderr.take().expect("standard error is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (tell, news) = mpsc::channel();
        let written = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { break };
                if line.contains(READY) {
                    tell.send(News::Ready).ok();
                }
                written.lock().expect("no reader of the log panics").push(line);
            }
            tell.send(News::Closed).ok();
        });
        self.running = Some(Running { child, log, news });
    }

    pub(crate) fn wait_until_ready(&mut self) {
        let running = self.running.as_mut().expect("it was started");
        match running.news.recv_timeout(PATIENCE) {
            Ok(News::Ready) => {}
            Ok(News::Closed) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                panic!("{} ended before it was ready", self.name)
            }
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{} was not ready within {PATIENCE:?}", self.name),
        }
    }

    /// Starts a member that must refuse to serve. Returns its log.
    pub(crate) fn start_refused(&mut self) -> String {
        self.spawn();
        let (status, log) = self.wait_for_end();
        assert!(!status.success() && !log.contains(READY), "it should have refused to start:\n{log}");
        log
    }

    /// Kills the member.
    pub(crate) fn kill(&mut self) {
        let mut running = self.running.take().expect("a member to be killed runs");
        running.child.kill().expect("a running child can be killed");
        running.child.wait().expect("a child can be waited for");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("a member to be signalled runs");
        let id = Pid::from_raw(running.child.id().cast_signed()).expect("a child's id is positive");
        rustix::process::kill_process(id, signal).expect("a running child can be signalled");
    }

    /// Waits until the process has ended. Returns how it ended, and its log.
    pub(crate) fn wait_for_end(&mut self) -> (ExitStatus, String) {
        let mut running = self.running.take().expect("a member that ends was running");
        loop {
            match running.news.recv_timeout(PATIENCE) {
                Ok(News::Ready) => {}
                Ok(News::Closed) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    running.child.kill().ok();
                    panic!("{} still runs after {PATIENCE:?}", self.name);
                }
            }
        }
        let status = running.child.wait().expect("a child can be waited for");
        let log = running.log.lock().expect("no writer of the log panics").join("\n");
        if self.program == Path::new(env!("CARGO_BIN_EXE_retcd")) {
            assert_eq!(canary::found_in(log.lines()), [""; 0], "secrets are logged");
        }
        (status, log)
    }

    pub(crate) fn log(&self) -> String {
        let running = self.running.as_ref().expect("it runs");
        running.log.lock().expect("no writer of the log panics").join("\n")
    }

    /// Waits until the running member has logged a line with this text. Returns the line.
    pub(crate) fn wait_for_line(&self, words: &str) -> String {
        self.wait_for_line_behind(0, words)
    }

    /// As [`Member::wait_for_line`], after the first `known` lines.
    pub(crate) fn wait_for_line_behind(&self, known: usize, words: &str) -> String {
        let since = Instant::now();
        loop {
            if let Some(line) = self.log().lines().skip(known).find(|line| line.contains(words)) {
                return line.to_owned();
            }
            assert!(since.elapsed() < PATIENCE, "{} did not say {words:?}:\n{}", self.name, self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        match &self.client_tls {
            None => self.channel_with(&|endpoint| endpoint.connect_lazy()),
            Some(connect) => self.channel_with(&**connect),
        }
    }

    pub(crate) fn channel_with(&self, connect: &dyn Fn(&Endpoint) -> Channel) -> Channel {
        let endpoint = Endpoint::from_shared(self.client_url()).expect("a loopback address is a URL");
        connect(&endpoint.connect_timeout(Duration::from_secs(5)))
    }

    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel())
    }

    pub(crate) fn leases(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel())
    }

    pub(crate) fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel())
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel())
    }

    pub(crate) async fn try_status(&self) -> Result<StatusResponse, Status> {
        Ok(self.maintenance().status(StatusRequest {}).await?.into_inner())
    }

    pub(crate) async fn id(&self) -> u64 {
        let status = self.try_status().await.expect("a running member says how it is");
        status.header.expect("every answer has a header").member_id
    }

    /// In hexadecimal.
    pub(crate) async fn cluster_id(&self) -> String {
        let status = self.try_status().await.expect("a running member says how it is");
        format!("{:x}", status.header.expect("every answer has a header").cluster_id)
    }

    pub(crate) async fn try_put(&self, key: &str, value: &str) -> Result<PutResponse, Status> {
        let request = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..PutRequest::default()
        };
        Ok(self.kv().put(request).await?.into_inner())
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> PutResponse {
        self.try_put(key, value).await.expect("a put is accepted")
    }

    pub(crate) async fn try_get(&self, key: &str, serializable: bool) -> Result<Option<String>, Status> {
        let request = RangeRequest { key: key.to_owned().into(), serializable, ..RangeRequest::default() };
        let answer = self.kv().range(request).await?.into_inner();
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("tests write text");
        Ok(answer.kvs.first().map(|kv| text(&kv.value)))
    }

    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        self.try_get(key, false).await.expect("a read is answered")
    }

    pub(crate) async fn members(&self) -> Vec<crate::pb::etcdserverpb::Member> {
        let mut client = ClusterClient::new(self.channel());
        let list = client.member_list(MemberListRequest { linearizable: true }).await;
        list.expect("the members are listed").into_inner().members
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let is_ours = self.program == Path::new(env!("CARGO_BIN_EXE_retcd"));
        let Some(mut running) = self.running.take() else { return };
        running.child.kill().ok();
        running.child.wait().ok();
        if thread::panicking() {
            let log = running.log.lock().expect("no writer of the log panics");
            eprintln!("the end of the log of {}:", self.name);
            for line in log.iter().skip(log.len().saturating_sub(25)) {
                eprintln!("  {line:.300}");
            }
        } else if is_ours {
            let log = running.log.lock().expect("no writer of the log panics");
            let found = canary::found_in(log.iter().map(String::as_str));
            assert!(found.is_empty(), "secrets are logged:\n{}", found.join("\n"));
        }
    }
}

/// A port below the kernel's range for outgoing connections, so that none can take it between
/// this check and the member's start. The process id spreads parallel test runs apart.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    let spread = (std::process::id() % u32::from(COUNT) / 500 * 500) as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (spread + step % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
