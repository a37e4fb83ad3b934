//! One run: a cluster under load, one fault, and the judgement.
//!
//! ```text
//! found -> load reaches its floor -> the fault, which must prove that it happened -> heal ->
//! load reaches its floor again, every client is answered -> quiet -> members equal -> judge
//! ```
//!
//! Only one run is active at a time, because the load of each needs both cores.

use std::{
    fs,
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{runtime::Builder, task::block_in_place, time};

use crate::{
    cluster::{Cluster, PATIENCE, Plan},
    judge,
    load::Load,
    pb::etcdserverpb::LeaseGrantRequest,
    proxy::{Network, Wire},
    shim::Shims,
};

/// Often, so that watchers get many progress notifications that could be wrong.
pub(crate) const FLAGS: &[&str] = &["--watch-progress-notify-interval=200ms"];

/// The number of acknowledged writes that shows that the remaining members work.
const GOING_ON: u64 = 50;

/// The time that a write may need when nothing is in its way.
const ATTEMPT: Duration = Duration::from_millis(500);

/// The time that a request may need to reach a member's socket. If it needs more, the run shows less.
const QUESTIONS_ARRIVE: Duration = Duration::from_millis(200);

static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Run {
    pub(crate) cluster: Cluster,
    pub(crate) network: Network,
    pub(crate) load: Load,
    pub(crate) shims: Shims,
    /// The term before the fault.
    first_term: u64,
}

/// Founds a cluster, causes `fault` under load, and judges the history.
pub(crate) fn under_load(name: &str, fault: impl AsyncFnOnce(&mut Run)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the system can start threads");
    runtime.block_on(async {
        let mut run = Run::found();
        run.cluster.leader().await;
        run.load.reach_floor("before the fault").await;
        run.first_term = run.load.term();
        fault(&mut run).await;
        run.network.mend();
        run.cluster.leader().await;
        run.load.reach_everybody().await;
        run.load.reach_floor("after the fault").await;
        run.load.reach_enough().await;
        run.judge(name).await;
    });
}

impl Run {
    fn found() -> Run {
        let network = Network::new();
        let mut members = Plan::new(3).proxied().flags(FLAGS).members();
        let shims = Shims::compile();
        for (number, member) in members.iter_mut().enumerate() {
            network.lay(number, member.advertised_peer_port, member.peer_port);
            shims.put_under(number, member);
        }
        let endpoints = members.iter().map(|member| member.endpoint()).collect();
        let mut cluster = Cluster { members };
        start(&mut cluster, &[0, 1, 2]);
        Run { cluster, network, load: Load::start(endpoints), shims, first_term: 0 }
    }

    /// Starts members together, and waits until all of them serve.
    pub(crate) fn start(&mut self, numbers: &[usize]) {
        for &number in numbers {
            self.load.restarts(number);
        }
        start(&mut self.cluster, numbers);
    }

    /// The number of terms since the fault.
    pub(crate) fn elections(&self) -> u64 {
        self.load.term() - self.first_term
    }

    /// The other two.
    pub(crate) fn others(&self, than: usize) -> [usize; 2] {
        [(than + 1) % 3, (than + 2) % 3]
    }

    /// Pauses a member's process during `meanwhile`, as a hypervisor or an operator may. When the process
    /// continues, it finds requests of that time before any message about what has happened meanwhile.
    pub(crate) async fn pause(&mut self, number: usize, meanwhile: impl AsyncFnOnce(&mut Run)) {
        let clients = self.load.connect(number).await;
        self.cluster.members[number].signal(Signal::STOP);
        self.wait_until("the process stands still", || self.is_paused(number)).await;
        meanwhile(self).await;
        self.load.question(clients, number);
        // Waits until the requests are in its sockets.
        time::sleep(QUESTIONS_ARRIVE).await;
        assert!(self.is_paused(number), "it stood still all the time");
        self.cluster.members[number].signal(Signal::CONT);
    }

    fn is_paused(&self, number: usize) -> bool {
        let process = self.cluster.members[number].process_id().expect("it runs");
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
        // The name of the process, in parentheses, may contain any characters.
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    /// Cuts wires, and waits until bytes were held back between each pair of members. In one direction there
    /// may be nothing to send.
    pub(crate) async fn cut(&self, wires: &[Wire]) {
        let held = |(from, to): Wire| self.network.held((from, to)) + self.network.held((to, from));
        let before: Vec<u64> = wires.iter().map(|wire| held(*wire)).collect();
        self.network.cut(wires.iter().copied());
        self.wait_until("something is held by cut wires", || {
            wires.iter().zip(&before).all(|(wire, before)| held(*wire) > *before)
        })
        .await;
    }

    /// Cuts ports, each from one member, and waits until something was held on the way to each.
    pub(crate) async fn cut_ports(&self, wires: &[Wire]) {
        let before: Vec<u64> = wires.iter().map(|wire| self.network.held(*wire)).collect();
        self.network.cut_ports(wires.iter().copied());
        self.wait_until("something is held on the way to a port", || {
            wires.iter().zip(&before).all(|(wire, before)| self.network.held(*wire) > *before)
        })
        .await;
    }

    /// Waits until a write through a member has been answered. It is one that changes no key, so that what
    /// the clients of the load see needs no explanation.
    pub(crate) async fn reach_log_through(&self, number: usize) {
        let since = Instant::now();
        loop {
            let mut leases = self.cluster.members[number].leases();
            let request = LeaseGrantRequest { ttl: 60, id: 0 };
            let asked = time::timeout(ATTEMPT, leases.lease_grant(request)).await;
            if matches!(asked, Ok(Ok(_))) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "member {number} takes no writes: {asked:?}");
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the members `numbers` have another leader than `old`. Returns the leader.
    pub(crate) async fn leader_other_than(&self, old: usize, numbers: &[usize]) -> usize {
        let since = Instant::now();
        loop {
            let leader = self.cluster.leader_among(numbers).await;
            if leader != old {
                return leader;
            }
            assert!(since.elapsed() < PATIENCE, "{old} leads on");
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until writes that begin from now on are acknowledged.
    pub(crate) async fn go_on(&self) {
        self.load.more_writes(GOING_ON).await;
    }

    pub(crate) async fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}");
            time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn judge(self, name: &str) {
        let elections = self.elections();
        // The other values live as long as the members.
        let Run { cluster, load, network: _network, shims: _shims, .. } = self;
        let history = load.finish(&cluster).await;
        cluster.assert_equal().await;
        let summary = judge::judge(name, &history);
        // Printed directly and not captured by the test program, because the summary is of interest for
        // successful runs too.
        let _ = writeln!(io::stderr(), "{name}: {summary}, {elections} elections");
    }
}

fn start(cluster: &mut Cluster, numbers: &[usize]) {
    for &number in numbers {
        cluster.members[number].spawn();
    }
    block_in_place(|| {
        for &number in numbers {
            cluster.members[number].wait_until_ready();
        }
    });
}
