//! One run: a cluster under load, one fault, and the judgement.
//!
//! ```text
//! found -> load reaches its floor -> the fault, which must prove that it happened -> heal ->
//! load reaches its floor again, every client is answered -> quiet -> members equal -> judge
//! ```
//!
//! Runs take turns: each wants both cores, or its load would say little.

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
    proxy::{Network, Wire},
    shim::Shims,
};

/// Often enough that watchers have many of them to be wrong about.
pub(crate) const FLAGS: &[&str] = &["--watch-progress-notify-interval=200ms"];

/// Acknowledged writes that show that those who are left go on.
const GOING_ON: u64 = 50;

/// What a question takes to a member's socket, at most. If it takes more, less is shown.
const QUESTIONS_ARRIVE: Duration = Duration::from_millis(200);

static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Run {
    pub(crate) cluster: Cluster,
    pub(crate) network: Network,
    pub(crate) load: Load,
    pub(crate) shims: Shims,
    /// That of the leader before the fault.
    first_term: u64,
}

/// Founds a cluster, lets `fault` happen to it under load, and judges what clients saw.
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

    /// Starts members again, together, and waits until all of them serve.
    pub(crate) fn start(&mut self, numbers: &[usize]) {
        for &number in numbers {
            self.load.restarts(number);
        }
        start(&mut self.cluster, numbers);
    }

    /// Terms that were begun since the fault.
    pub(crate) fn elections(&self) -> u64 {
        self.load.term() - self.first_term
    }

    /// The other two.
    pub(crate) fn others(&self, than: usize) -> [usize; 2] {
        [(than + 1) % 3, (than + 2) % 3]
    }

    /// Has a member's process stand still while `meanwhile` happens, as a hypervisor or an operator
    /// may. When it goes on it finds questions that were asked while it did not know the answer,
    /// before any news of what that is now.
    pub(crate) async fn pause(&mut self, number: usize, meanwhile: impl AsyncFnOnce(&mut Run)) {
        let clients = self.load.connect(number).await;
        self.cluster.members[number].signal(Signal::STOP);
        self.wait_until("the process stands still", || self.is_paused(number)).await;
        meanwhile(self).await;
        self.load.question(clients, number);
        // Until they are in its sockets.
        time::sleep(QUESTIONS_ARRIVE).await;
        assert!(self.is_paused(number), "it stood still all the time");
        self.cluster.members[number].signal(Signal::CONT);
    }

    fn is_paused(&self, number: usize) -> bool {
        let process = self.cluster.members[number].process_id().expect("it runs");
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
        // The name before it is in parentheses, and may be anything.
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    /// Cuts wires, and waits until something was held between each two whose wires were cut. Where
    /// one does not hear the other it may have nothing to say.
    pub(crate) async fn cut(&self, wires: &[Wire]) {
        let held = |(from, to): Wire| self.network.held((from, to)) + self.network.held((to, from));
        let before: Vec<u64> = wires.iter().map(|wire| held(*wire)).collect();
        self.network.cut(wires.iter().copied());
        self.wait_until("something is held by cut wires", || {
            wires.iter().zip(&before).all(|(wire, before)| held(*wire) > *before)
        })
        .await;
    }

    /// Waits until those of `numbers` are led by somebody other than `old`. Returns by whom.
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

    /// Waits until writes that began from now on have been acknowledged.
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
        // The rest lasts for as long as the members do.
        let Run { cluster, load, network: _network, shims: _shims, .. } = self;
        let history = load.finish(&cluster).await;
        cluster.assert_equal().await;
        let summary = judge::judge(name, &history);
        // Past the test program's capture: what was shown is of interest when all is well, too.
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
