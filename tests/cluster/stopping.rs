//! Signals and notifications of the service manager: a member can be stopped at any time.

use std::{
    fs,
    net::TcpListener,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::{
    cluster::{Member, PATIENCE, Plan},
    pb::{
        etcdserverpb::{LeaseGrantRequest, RangeRequest},
        v3lockpb::{LockRequest, UnlockRequest, lock_client::LockClient},
    },
};

/// The last lines of etcd's log.
#[track_caller]
fn assert_stopped_well(ended: (ExitStatus, String), signal: &str) {
    let (status, log) = ended;
    assert_eq!(status.code(), Some(0), "{status}\n{log}");
    for line in ["received signal; shutting down", "closing etcd server", "closed etcd server"] {
        assert!(log.contains(line), "{line:?} is not in:\n{log}");
    }
    assert!(log.contains(&format!("\"signal\":\"{signal}\"")), "{log}");
    assert!(!log.contains("\"level\":\"error\""), "{log}");
}

/// One of three members, alone.
fn waiting_member() -> Member {
    let mut member = Plan::new(3).members().swap_remove(0);
    member.spawn();
    member.wait_for_line("peer became inactive");
    member
}

#[test]
fn a_member_that_waits_for_a_quorum_can_be_stopped() {
    for (signal, name) in [(Signal::TERM, "terminated"), (Signal::INT, "interrupt")] {
        let mut member = waiting_member();
        member.signal(signal);
        assert_stopped_well(member.wait_for_end(), name);
    }
}

/// The member waits for a peer that does not answer.
#[test]
fn a_member_that_has_not_opened_its_directory_can_be_stopped() {
    let mut members = Plan::new(2).members();
    let silent = TcpListener::bind(("127.0.0.1", members[1].peer_port)).expect("the port is free");
    let member = &mut members[0];
    member.state = "existing";
    member.spawn();
    let _asked = silent.accept().expect("the member asks");
    member.signal(Signal::TERM);
    assert_stopped_well(member.wait_for_end(), "terminated");
}

/// The other members are paused, so a leader that is stopped needs time to look for a successor.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_member_at_once() {
    let mut cluster = Plan::new(3).flags(&["--election-timeout=4000"]).found();
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    for &other in &others {
        cluster.members[other].signal(Signal::STOP);
    }
    let member = &mut cluster.members[leader];
    member.signal(Signal::TERM);
    member.wait_for_line("leadership transfer starting");
    // Like `timeout`, which signals its child and then the group of the child.
    member.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(700));
    assert!(!member.log().contains("received a second signal"), "{}", member.log());
    member.signal(Signal::TERM);
    let (status, log) = member.wait_for_end();
    assert_eq!(status.code(), Some(128 + Signal::TERM.as_raw()), "{log}");
    assert!(log.contains("received a second signal") && !log.contains("closed etcd server"), "{log}");
    for &other in &others {
        cluster.members[other].signal(Signal::CONT);
    }
    // No data is lost, and the member can be started again.
    cluster.members[leader].start();
}

/// The kernel does not deliver signals to the first process of a container that has no handlers for them.
#[test]
fn the_first_process_of_a_container_can_be_stopped_while_it_waits() {
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).args(arguments).stdin(Stdio::null());
        command
    };
    let allowed = unshare(&["true"]).stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("left out: this user may not make a namespace of processes (unshare --pid)");
        return;
    }
    let mut member = Plan::new(3).members().swap_remove(0);
    member.wrap(&unshare(&[]));
    member.spawn();
    member.wait_for_line("peer became inactive");
    let outside = child_of(member.process_id().expect("it runs"));
    rustix::process::kill_process(outside, Signal::TERM).expect("it runs");
    assert_stopped_well(member.wait_for_end(), "terminated");
}

/// The only child of a process.
fn child_of(parent: u32) -> Pid {
    let is_child = |status: &str| status.lines().any(|line| line == format!("PPid:\t{parent}"));
    let processes = fs::read_dir("/proc").expect("there is /proc").flatten();
    let children = processes.filter_map(|process| {
        let status = fs::read_to_string(process.path().join("status")).ok()?;
        let id = process.file_name().to_str()?.parse().ok()?;
        is_child(&status).then_some(id)
    });
    Pid::from_raw(children.last().expect("it has a child")).expect("a process id is positive")
}

/// The part of a service manager that a unit of Type=notify needs.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn listen(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).expect("the path is free");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Manager { socket }
    }

    fn told(&self) -> String {
        let mut buffer = [0; 4096];
        let len = self.socket.recv(&mut buffer).expect("the member says something");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    /// All messages up to the first that begins with this text.
    fn told_until(&self, start: &str) -> Vec<String> {
        let mut messages = Vec::new();
        while messages.last().is_none_or(|last: &String| !last.starts_with(start)) {
            messages.push(self.told());
        }
        messages
    }
}

#[test]
fn a_service_manager_hears_when_a_member_serves_and_when_it_stops() {
    let mut members = Plan::new(2).members();
    let manager = Manager::listen(&members[0].home().join("notify"));
    let address = members[0].home().join("notify").display().to_string();
    members[0].environment.push(("NOTIFY_SOCKET".to_owned(), address));
    members[0].environment.push(("WATCHDOG_USEC".to_owned(), "400000".to_owned()));
    members[0].spawn();
    members[0].wait_for_line("waiting for other members");
    members[1].spawn();
    let told = manager.told_until("READY=1\n");
    let waits = |message: &String| message.starts_with("STATUS=waiting for other members: 1 of 2 answer");
    assert!(told.iter().any(waits), "{told:?}");
    assert_eq!(told.iter().filter(|message| message.contains("READY")).count(), 1, "{told:?}");
    members[0].wait_for_line("successfully notified init daemon");
    for member in &mut members {
        member.wait_until_ready();
    }
    for _ in 0..3 {
        manager.told_until("WATCHDOG=1\n");
    }
    members[0].signal(Signal::TERM);
    manager.told_until("STOPPING=1\n");
    assert_stopped_well(members[0].wait_for_end(), "terminated");
}

/// The service manager may have ended, or never have existed.
#[test]
fn a_member_serves_though_nobody_can_be_told() {
    for address in ["/nowhere/at/all", "@retcd-test-nobody-is-here", "no/path", ""] {
        let mut member = Plan::new(1).members().swap_remove(0);
        member.environment.push(("NOTIFY_SOCKET".to_owned(), address.to_owned()));
        member.start();
        member.signal(Signal::TERM);
        let (status, log) = member.wait_for_end();
        assert_eq!(status.code(), Some(0), "{log}");
        assert_eq!(log.contains("failed to notify systemd"), !address.is_empty(), "{log}");
    }
}

/// When a member stops, as a leader or as a follower, it removes its clients that wait for a lock from the
/// queue. Otherwise later clients would have to wait until the leases of these clients expire.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_that_stops_leaves_nobody_in_a_queue() {
    let mut cluster = Plan::new(3).found();
    for stops_leader in [false, true] {
        let leader = cluster.leader().await;
        let (stopped, other) =
            if stops_leader { (leader, (leader + 1) % 3) } else { ((leader + 1) % 3, leader) };
        let lock = async |member: &Member, lease: i64| {
            let mut client = LockClient::new(member.channel());
            client.lock(LockRequest { name: "l".into(), lease }).await.map(|lock| lock.into_inner().key)
        };
        let held = lock(&cluster.members[other], 0).await.expect("nobody has it");
        let lease = LeaseGrantRequest { ttl: 600, id: 0 };
        let lease =
            cluster.members[other].leases().lease_grant(lease).await.expect("a lease").into_inner().id;
        let waiting = [0, 0, lease].map(|lease| {
            let mut client = LockClient::new(cluster.members[stopped].channel());
            tokio::spawn(async move { client.lock(LockRequest { name: "l".into(), lease }).await })
        });
        let queue = RangeRequest { key: "l/".into(), range_end: "l0".into(), ..RangeRequest::default() };
        let queued = async |member: &Member| {
            let kvs = member.kv().range(queue.clone()).await.expect("a read").into_inner().kvs;
            kvs.into_iter().map(|kv| kv.key).collect::<Vec<_>>()
        };
        let since = Instant::now();
        while queued(&cluster.members[other]).await.len() < 4 {
            assert!(since.elapsed() < PATIENCE, "they do not queue up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cluster.members[stopped].signal(Signal::TERM);
        assert_stopped_well(cluster.members[stopped].wait_for_end(), "terminated");
        for waiting in waiting {
            waiting.await.expect("no panic").expect_err("nobody got it");
        }
        cluster
            .leader_among(&[
                other,
                (0..3).find(|number| ![stopped, other].contains(number)).expect("a third"),
            ])
            .await;
        assert_eq!(queued(&cluster.members[other]).await, std::slice::from_ref(&held));
        let unlock = UnlockRequest { key: held };
        LockClient::new(cluster.members[other].channel()).unlock(unlock).await.expect("an unlock");
        cluster.members[stopped].start();
    }
}
