//! The world: hosts, the network between them, and one clock.

use std::{
    panic::{self, AssertUnwindSafe},
    time::Duration,
};

use tokio::{
    runtime::Runtime,
    task::JoinHandle,
    time::{self, Instant},
};

use super::{
    dice::Dice,
    host::{Host, runtime},
    network::Network,
    panics,
    trace::Trace,
    wires::{client_url, peer_url},
};
use crate::{chance::Chance, clock, config::Config, threads};

/// How far the hosts run before the network is looked at.
const STEP: Duration = Duration::from_millis(2);

/// When the world begins, as the time of day.
const DAWN: Duration = Duration::from_secs(1_800_000_000);

/// What a world begins with.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) seed: u64,
    pub(super) members: usize,
    /// Further hosts, where members can be added later.
    pub(super) spares: usize,
    pub(super) latency: (Duration, Duration),
    /// How long a log takes for a sync.
    pub(super) sync: (Duration, Duration),
    /// Flags of every member.
    pub(super) flags: Vec<String>,
    pub(super) keeps_trace: bool,
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) hosts: Vec<Host>,
    pub(super) network: Network,
    pub(super) trace: Trace,
    pub(super) dice: Dice,
    clients: Runtime,
    origin: Instant,
}

impl World {
    /// Nothing runs yet. One world at a time is on a thread, and none was before.
    pub(super) fn new(setting: &Setting) -> World {
        let pace = Dice::new(setting.seed, 1);
        let (least, most) = setting.sync;
        threads::simulate(move || pace.between(least, most));
        clock::simulate_wall(DAWN);
        let trace = Trace::new(setting.keeps_trace);
        let hosts = setting.members + setting.spares;
        let network = Network::new(hosts + 1, setting.latency, Dice::new(setting.seed, 2), trace.clone());
        let chance = Chance::seeded(setting.seed);
        let hosts = (0..hosts).map(|number| {
            let founders = 0..setting.members;
            let config = config(number, founders, "new", &setting.flags);
            Host::new(number, network.clone(), chance.clone(), config)
        });
        let hosts: Vec<Host> = hosts.collect();
        let clients = runtime();
        let origin = clients.block_on(async { Instant::now() });
        network.process_began(hosts.len(), clients.handle().clone());
        World {
            now: Duration::ZERO,
            hosts,
            network,
            trace,
            dice: Dice::new(setting.seed, 3),
            clients,
            origin,
        }
    }

    /// Where the clients are.
    pub(super) fn clients_host(&self) -> usize {
        self.hosts.len()
    }

    /// Starts a client.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        client: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.clients.spawn(client)
    }

    /// The result of a client that has ended.
    pub(super) fn result<T>(&self, client: JoinHandle<T>) -> T {
        assert!(client.is_finished(), "only the result of a client that has ended is asked for");
        self.clients.block_on(client).expect("a client does not panic")
    }

    /// The world's time, for clients.
    pub(super) fn clients_clock(&self) -> impl Fn() -> Duration + Clone + Send + Sync + use<> {
        let origin = self.origin;
        move || Instant::now() - origin
    }

    /// One step of everything.
    pub(super) fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        self.network.arrive(now);
        for host in &mut self.hosts {
            clock::simulate_wall(DAWN + now + Duration::from_secs(host.wall_offset_secs));
            host.run(now);
        }
        let until = self.origin + now;
        self.clients.block_on(async move { time::sleep_until(until).await });
    }
}

/// Members hold the network, which holds what they serve: nothing of that would ever be freed.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.hosts.iter_mut().for_each(Host::kill);
            // As when a process ends.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| self.network.clear()));
            panics::forget_those_of_redb();
        }
    }
}

/// The settings of the member at a host. `founders` are the hosts of the members that it is started with.
pub(super) fn config(
    host: usize,
    founders: impl IntoIterator<Item = usize>,
    state: &str,
    flags: &[String],
) -> Config {
    let cluster: Vec<String> =
        founders.into_iter().map(|host| format!("m{host}={}", peer_url(host))).collect();
    let mut all = vec![
        format!("--name=m{host}"),
        format!("--data-dir=/m{host}"),
        format!("--initial-cluster={}", cluster.join(",")),
        format!("--initial-cluster-state={state}"),
        format!("--initial-advertise-peer-urls={}", peer_url(host)),
        format!("--listen-peer-urls={}", peer_url(host)),
        format!("--listen-client-urls={}", client_url(host)),
        format!("--advertise-client-urls={}", client_url(host)),
        "--bcrypt-cost=4".to_owned(),
    ];
    all.extend(flags.iter().cloned());
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    Config::of_flags(&all)
}
