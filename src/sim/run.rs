//! One run: a plan is carried out, first breaking things and then healing them, and the judges judge.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{task::JoinHandle, time};

use super::{
    clients::{self, Client, Locker, Shared, Tenant, within},
    dice::Dice,
    host::Ended,
    judges::{
        history::{Change, History, Restart, Stored, Watched},
        linearize, replay, watches, wire,
    },
    leaders::Leaders,
    network::Counts,
    past,
    pb::etcdserverpb::{
        DefragmentRequest, HashKvRequest, MemberAddRequest, MemberListRequest, MemberRemoveRequest,
        MoveLeaderRequest, RangeRequest, cluster_client::ClusterClient, kv_client::KvClient,
        maintenance_client::MaintenanceClient,
    },
    plan::{Fault, Plan, Planned, Target},
    replicas::Replicas,
    watchers,
    wires::peer_url,
    world::{self, World},
};
use crate::planted;

/// How long the members may take until they serve, at first and after the healing.
const START_PATIENCE: Duration = Duration::from_secs(30);
const HEAL_PATIENCE: Duration = Duration::from_secs(30);

/// How long the load goes on after the healing.
const AFTERMATH: Duration = Duration::from_secs(2);

/// What a run has seen, for the summary.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) seeds: u64,
    pub(super) virtual_time: Duration,
    pub(super) operations: usize,
    pub(super) answered: u64,
    pub(super) revisions: i64,
    pub(super) events: usize,
    pub(super) past_reads: usize,
    pub(super) faults: BTreeMap<&'static str, u64>,
    pub(super) network: Counts,
    pub(super) disk_operations: u64,
    pub(super) digest: u32,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, seeds, virtual_time, operations, answered, revisions, events, faults, .. } = self;
        match seeds {
            1 => write!(f, "seed {seed}: ")?,
            _ => write!(f, "{seeds} seeds: ")?,
        }
        write!(
            f,
            "{:.1} virtual s, {operations} operations, {answered} answered, {revisions} revisions, {events} events, \
             {} past reads, {} parcels, {} snapshots, {} disk operations, faults",
            virtual_time.as_secs_f64(),
            self.past_reads,
            self.network.parcels,
            self.network.snapshots,
            self.disk_operations
        )?;
        for (kind, count) in faults {
            write!(f, " [{kind} {count}]")?;
        }
        write!(f, ", digest {:08x}", self.digest)
    }
}

/// What is wrong with a run.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) judge: &'static str,
    pub(super) what: String,
    /// The end of the trace.
    pub(super) trace: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.judge, self.what)
    }
}

/// Carries out a plan on this thread.
pub(super) fn run(plan: &Plan) -> Result<Report, Failure> {
    let mut run = Run::begin(plan);
    let result = run.all();
    let trace = run.world.trace.clone();
    result.map_err(|(judge, what)| Failure {
        judge,
        what,
        trace: format!("{}---\n{}", trace.text(), trace.story()),
    })
}

/// The whole trace of a plan, however it ends.
pub(super) fn traced(plan: &Plan) -> String {
    let mut run = Run::begin(plan);
    let result = run.all();
    format!("{}{result:?}", run.world.trace.text())
}

type Verdict<T = ()> = Result<T, (&'static str, String)>;

/// What is to be done at a time that a fault has set.
enum Later {
    Start(usize),
    Uncut(usize, usize),
    Unlossy,
    Undelay(usize),
}

struct Run<'a> {
    plan: &'a Plan,
    world: World,
    shared: Arc<Shared>,
    dice: Dice,
    later: BTreeMap<(Duration, u64), Later>,
    serial: u64,
    /// The hosts whose disks were made to fail, so that their members may end.
    may_fail: BTreeSet<usize>,
    leaders: Leaders,
    replicas: Replicas,
    restarts: Vec<Restart>,
    faults: BTreeMap<&'static str, u64>,
    disk_operations: u64,
    /// The members that are added now and then, and what became of the attempt.
    spare: Spare,
    /// The cluster has said that the spare member is removed, and nobody has asked for another one since.
    is_spare_removed: bool,
    errands: Vec<JoinHandle<()>>,
}

/// The host where a member is added and removed.
enum Spare {
    Free,
    Adding(JoinHandle<Option<Vec<(usize, String)>>>),
    Member,
    Removing(JoinHandle<bool>),
}

impl<'a> Run<'a> {
    fn begin(plan: &'a Plan) -> Run<'a> {
        plan.knobs.iter().for_each(|(knob, bound)| knob.set(*bound));
        planted::plant(plan.planted);
        let world = World::new(&plan.setting);
        let members = plan.setting.members;
        let shared = Shared::new(world.network.clone(), world.clients_host(), members, world.clients_clock());
        Run {
            plan,
            shared,
            dice: Dice::new(plan.setting.seed, 20),
            world,
            later: BTreeMap::new(),
            serial: 0,
            may_fail: BTreeSet::new(),
            leaders: Leaders::default(),
            replicas: Replicas::default(),
            restarts: Vec::new(),
            faults: BTreeMap::new(),
            disk_operations: 0,
            spare: Spare::Free,
            is_spare_removed: false,
            errands: Vec::new(),
        }
    }

    fn all(&mut self) -> Verdict<Report> {
        for host in 0..self.plan.setting.members {
            let now = self.world.now;
            self.world.hosts[host].start(now);
        }
        self.until(START_PATIENCE, Run::all_serve, "liveness: the members of a new cluster serve")?;
        let shared = &self.shared;
        let seed = self.plan.setting.seed;
        let mut load: Vec<JoinHandle<()>> = Vec::new();
        for number in 0..self.plan.clients {
            let client = Client::new(number, Dice::new(seed, 100 + number as u64), shared.clone());
            load.push(self.world.spawn(client.run(self.plan.pause * self.plan.clients as u32)));
        }
        for number in 0..4 {
            let dice = Dice::new(seed, 200 + number as u64);
            load.push(self.world.spawn(Tenant { number, dice, shared: shared.clone() }.run()));
        }
        for number in 200..203 {
            let dice = Dice::new(seed, 100 + number as u64);
            load.push(self.world.spawn(Locker { number, dice, shared: shared.clone() }.run()));
        }
        let watching: Vec<JoinHandle<Vec<Watched>>> =
            watchers::all(shared).into_iter().map(|watcher| self.world.spawn(watcher.run())).collect();
        self.break_things()?;
        self.heal()?;
        let end = self.world.now + AFTERMATH;
        while self.world.now < end {
            self.step()?;
        }
        self.shared.end();
        self.until(HEAL_PATIENCE, |_| load.iter().all(JoinHandle::is_finished), "liveness: the clients end")?;
        let (final_state, final_revision) = self.settle()?;
        self.shared.last_revision.send_replace(Some(final_revision));
        let is_over = |_: &mut Run<'_>| watching.iter().all(JoinHandle::is_finished);
        self.until(HEAL_PATIENCE, is_over, "liveness: every watcher gets every event")?;
        let watched: Vec<Watched> =
            watching.into_iter().flat_map(|watcher| self.world.result(watcher)).collect();
        self.judge(watched, final_state, final_revision)
    }

    fn break_things(&mut self) -> Verdict {
        let began = self.world.now;
        for Planned { at, fault } in self.plan.faults.clone() {
            while self.world.now < began + at {
                self.step()?;
            }
            self.world.trace.line(self.world.now, format_args!("fault {fault:?}"));
            if self.begin_fault(&fault) {
                *self.faults.entry(fault.kind()).or_default() += 1;
            }
        }
        while self.world.now < began + self.plan.chaos {
            self.step()?;
        }
        Ok(())
    }

    /// Ends all faults, and starts all members again. From then on the cluster has to recover.
    fn heal(&mut self) -> Verdict {
        self.world.trace.line(self.world.now, "healing");
        self.later.clear();
        self.world.network.heal();
        let now = self.world.now;
        for host in &mut self.world.hosts {
            host.paused_until = now;
            host.clock_rate = 1_000_000;
        }
        for host in 0..self.world.hosts.len() {
            // A failure that was to come does not come any more.
            if self.may_fail.contains(&host) && self.world.hosts[host].is_up() {
                self.power_loss(host);
            }
            if !self.world.hosts[host].is_up() && self.is_member(host) {
                self.start(host);
            }
        }
        self.may_fail.clear();
        self.until(HEAL_PATIENCE, Run::all_serve, "liveness: after the healing all members serve")
    }

    fn is_member(&self, host: usize) -> bool {
        host < self.plan.setting.members || matches!(self.spare, Spare::Member | Spare::Removing(_))
    }

    fn all_serve(&mut self) -> bool {
        (0..self.plan.setting.members).all(|host| {
            let node = self.world.hosts[host].node();
            node.is_some_and(|node| node.leadership().leader.is_some())
        })
    }

    fn until(
        &mut self,
        patience: Duration,
        mut is_so: impl FnMut(&mut Run<'a>) -> bool,
        what: &'static str,
    ) -> Verdict {
        let end = self.world.now + patience;
        while !is_so(self) {
            if self.world.now >= end {
                return Err(("liveness", format!("not within {patience:?}: {what}; {}", self.state())));
            }
            self.step()?;
        }
        Ok(())
    }

    /// How the members are, for a failure.
    fn state(&self) -> String {
        let hosts = self.world.hosts.iter().map(|host| match host.node() {
            Some(node) => {
                let now = node.leadership();
                format!(
                    "m{}: term {} leader {:?} revision {}",
                    host.number,
                    now.term,
                    now.leader,
                    node.rev().0
                )
            }
            None => format!("m{}: up {} {:?}", host.number, host.is_up(), host.ended()),
        });
        hosts.collect::<Vec<_>>().join(", ")
    }

    fn step(&mut self) -> Verdict {
        self.world.step();
        let now = self.world.now;
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            match entry.remove() {
                Later::Start(host) => self.start(host),
                Later::Uncut(from, to) => {
                    self.world.network.change_road(from, to, |road| road.is_cut = false)
                }
                Later::Unlossy => self.each_road(|road| (road.lost, road.broken) = (0, 0)),
                Later::Undelay(host) => self.each_road_of(host, |road| road.delay = Duration::ZERO),
            }
        }
        self.watch_over_hosts()?;
        self.watch_over_spare();
        let members = self.world.hosts.iter().filter_map(|host| Some((host.number, host.node()?)));
        let members: Vec<_> = members.collect();
        self.leaders.see(members.iter().cloned()).map_err(|what| ("one leader a term", what))?;
        self.replicas.see(members.into_iter()).map_err(|what| ("replicas are equal", what))?;
        if let Some(panic) = super::panics::take() {
            return Err(("no panic", panic));
        }
        if let Some(what) = self.shared.violations.lock().pop() {
            return Err(("leases and locks", what));
        }
        Ok(())
    }

    /// Ends hosts whose power has failed, and finds members that have ended without a reason.
    fn watch_over_hosts(&mut self) -> Verdict {
        for host in 0..self.world.hosts.len() {
            if self.world.hosts[host].is_up() && self.world.hosts[host].disks.has_failed() {
                self.power_loss(host);
            }
            let Some(ended) = self.world.hosts[host].ended() else { continue };
            let is_expected = match &ended {
                Ended::Stopped => true,
                Ended::Removed => host >= self.plan.setting.members,
                // A new member asks the others, who may not be there.
                Ended::Refused(_) => self.may_fail.contains(&host) || host >= self.plan.setting.members,
                Ended::Failed(_) => self.may_fail.contains(&host),
            };
            if !is_expected {
                return Err(("no member ends by itself", format!("m{host}: {ended:?}")));
            }
            self.world.trace.line(self.world.now, format_args!("m{host} has ended: {ended:?}"));
            self.disk_operations += self.world.hosts[host].disks.operations();
            match ended {
                Ended::Stopped => self.world.hosts[host].bury(),
                _ => {
                    let dice = self.world.dice.clone();
                    self.world.hosts[host].lose_power(&dice);
                }
            }
            self.may_fail.remove(&host);
            if self.is_member(host) && !matches!(ended, Ended::Removed) && !self.starts_later(host) {
                self.later(Duration::from_millis(500), Later::Start(host));
            }
        }
        Ok(())
    }

    fn starts_later(&self, host: usize) -> bool {
        self.later.values().any(|later| matches!(later, Later::Start(other) if *other == host))
    }

    fn later(&mut self, after: Duration, what: Later) {
        self.serial += 1;
        self.later.insert((self.world.now + after, self.serial), what);
    }

    fn start(&mut self, host: usize) {
        if !self.world.hosts[host].is_up() {
            let now = self.world.now;
            self.world.trace.line(now, format_args!("m{host} starts"));
            self.restarts.push(Restart { at: now, member: host });
            self.leaders.restarted(host);
            self.replicas.restarted(host);
            self.world.hosts[host].start(now);
        }
    }

    fn power_loss(&mut self, host: usize) {
        self.world.trace.line(self.world.now, format_args!("m{host} loses power"));
        self.disk_operations += self.world.hosts[host].disks.operations();
        let dice = self.world.dice.clone();
        self.world.hosts[host].lose_power(&dice);
        self.may_fail.remove(&host);
    }

    fn each_road(&self, change: impl Fn(&mut super::network::Road)) {
        let hosts = self.world.hosts.len() + 1;
        for from in 0..hosts {
            for to in (0..hosts).filter(|to| *to != from) {
                self.world.network.change_road(from, to, &change);
            }
        }
    }

    fn each_road_of(&self, host: usize, change: impl Fn(&mut super::network::Road)) {
        for other in (0..=self.world.hosts.len()).filter(|other| *other != host) {
            self.world.network.change_road(host, other, &change);
            self.world.network.change_road(other, host, &change);
        }
    }

    fn host_of(&self, target: Target) -> Option<usize> {
        match target {
            Target::Host(host) => Some(host),
            Target::Leader => {
                let leads =
                    |host: &&super::host::Host| host.node().is_some_and(|node| node.leadership().is_leader);
                self.world.hosts.iter().find(leads).map(|host| host.number)
            }
        }
    }

    /// False if there was nothing to do it to.
    fn begin_fault(&mut self, fault: &Fault) -> bool {
        let of = |target: &Target| self.host_of(*target).filter(|host| self.world.hosts[*host].is_up());
        match fault {
            Fault::Kill { target, down } => {
                let Some(host) = of(target) else { return false };
                self.disk_operations += self.world.hosts[host].disks.operations();
                self.world.hosts[host].kill();
                self.may_fail.remove(&host);
                self.later(*down, Later::Start(host));
            }
            Fault::PowerLoss { target, down } => {
                let Some(host) = of(target) else { return false };
                self.power_loss(host);
                self.later(*down, Later::Start(host));
            }
            Fault::PowerLossAtOperation { target, operations, down } => {
                let Some(host) = of(target) else { return false };
                self.world.hosts[host].disks.fail_after(*operations);
                self.may_fail.insert(host);
                self.later(*down, Later::Start(host));
            }
            Fault::SyncError { target, syncs, down } => {
                let Some(host) = of(target) else { return false };
                self.world.hosts[host].disks.fail_sync_after(*syncs);
                self.may_fail.insert(host);
                self.later(*down, Later::Start(host));
            }
            Fault::Stop { target, down } => {
                let Some(host) = of(target) else { return false };
                self.world.hosts[host].stop();
                self.later(*down, Later::Start(host));
            }
            Fault::Pause { target, time } => {
                let Some(host) = of(target) else { return false };
                self.world.hosts[host].paused_until = self.world.now + *time;
            }
            Fault::Isolate { target, time } => {
                let Some(host) = self.host_of(*target) else { return false };
                for other in (0..self.world.hosts.len()).filter(|other| *other != host) {
                    self.cut(host, other, *time);
                    self.cut(other, host, *time);
                }
            }
            Fault::CutOneWay { from, to, time } => {
                let Some(from) = self.host_of(*from).filter(|from| from != to) else { return false };
                self.cut(from, *to, *time);
            }
            Fault::Delay { target, delay, time } => {
                let Some(host) = self.host_of(*target) else { return false };
                self.each_road_of(host, |road| road.delay = *delay);
                self.later(*time, Later::Undelay(host));
            }
            Fault::Lossy { lost, broken, time } => {
                self.each_road(|road| (road.lost, road.broken) = (*lost, *broken));
                self.later(*time, Later::Unlossy);
            }
            Fault::Drift { target, rate } => {
                let Some(host) = self.host_of(*target) else { return false };
                self.world.hosts[host].clock_rate = *rate;
            }
            Fault::WallJump { target, secs } => {
                let Some(host) = self.host_of(*target) else { return false };
                self.world.hosts[host].wall_offset_secs += secs;
            }
            Fault::MoveLeader => {
                let Some(host) = self.host_of(Target::Leader) else { return false };
                let (shared, dice) = (self.shared.clone(), self.dice.clone());
                let task = self.world.spawn(async move { move_leader(&shared, host, &dice).await });
                self.errands.push(task);
            }
            Fault::Compact => {
                let member = self.dice.below(self.plan.setting.members as u64) as usize;
                let kept = *self.dice.one_of(&[30, 100, 300]);
                let task = self.world.spawn(clients::compact(self.shared.clone(), member, kept));
                self.errands.push(task);
            }
            Fault::Defragment { target } => {
                let Some(host) = of(target) else { return false };
                let shared = self.shared.clone();
                let task = self.world.spawn(async move {
                    let mut client = MaintenanceClient::new(shared.wire(host));
                    let _ = within(client.defragment(DefragmentRequest {})).await;
                });
                self.errands.push(task);
            }
            Fault::AddMember => {
                if !matches!(self.spare, Spare::Free) || self.plan.setting.spares == 0 {
                    return false;
                }
                let host = self.plan.setting.members;
                let (shared, member) = (self.shared.clone(), self.dice.below(host as u64) as usize);
                self.is_spare_removed = false;
                self.spare = Spare::Adding(self.world.spawn(add_member(shared, member, host)));
            }
            Fault::RemoveMember => {
                if !matches!(self.spare, Spare::Member) {
                    return false;
                }
                let host = self.plan.setting.members;
                let (shared, member) = (self.shared.clone(), self.dice.below(host as u64) as usize);
                self.spare = Spare::Removing(self.world.spawn(remove_member(shared, member, host)));
            }
        }
        true
    }

    fn cut(&mut self, from: usize, to: usize, time: Duration) {
        self.world.network.change_road(from, to, |road| road.is_cut = true);
        self.later(time, Later::Uncut(from, to));
    }

    /// Starts the member that was added, and ends the one that was removed.
    fn watch_over_spare(&mut self) {
        let host = self.plan.setting.members;
        match std::mem::replace(&mut self.spare, Spare::Free) {
            Spare::Adding(task) if task.is_finished() => {
                if let Some(members) = self.world.result(task) {
                    let founders = members.into_iter().map(|(host, _)| host);
                    let config = world::config(host, founders, "existing", &self.plan.setting.flags);
                    self.world.hosts[host].config = config;
                    self.world.hosts[host].disks = Default::default();
                    self.spare = Spare::Member;
                    self.start(host);
                }
            }
            Spare::Removing(task) if task.is_finished() => {
                if self.world.result(task) {
                    self.is_spare_removed = true;
                    self.world.hosts[host].kill();
                } else {
                    self.spare = Spare::Member;
                }
            }
            other => self.spare = other,
        }
    }

    /// The final keys and their revision, once they are the same on all members and do not change any more: a write
    /// whose client has given up may still be executed, and leases still end.
    fn settle(&mut self) -> Verdict<(Vec<Stored>, i64)> {
        let end = self.world.now + HEAL_PATIENCE;
        let mut before = None;
        loop {
            let members = self.plan.setting.members;
            let states: Vec<_> =
                (0..members).map(|member| self.world.spawn(state_of(self.shared.clone(), member))).collect();
            let is_over = |_: &mut Run<'_>| states.iter().all(JoinHandle::is_finished);
            self.until(HEAL_PATIENCE, is_over, "liveness: every member answers a read")?;
            let mut states: Vec<_> = states.into_iter().map(|state| self.world.result(state)).collect();
            let are_equal = states.windows(2).all(|pair| pair[0] == pair[1]);
            let first = states.swap_remove(0);
            if let Some(state) = first.clone().filter(|_| are_equal)
                && !state.0.iter().any(|stored| stored.key.starts_with("lease/"))
                && before == Some(first.clone())
            {
                if self.is_spare_removed && state.3.contains(&peer_url(members)) {
                    return Err(("members", format!("the member that was removed is listed: {:?}", state.3)));
                }
                return Ok((state.0, state.1));
            }
            if self.world.now > end {
                states.insert(0, first);
                return Err(("replicas are equal", format!("they differ, or leases do not end: {states:?}")));
            }
            before = Some(first);
            let pause = self.world.now + Duration::from_millis(500);
            while self.world.now < pause {
                self.step()?;
            }
        }
    }

    /// Compacts, and reads keys at the revisions that are left.
    fn read_the_past(&mut self, changes: Vec<Change>, last: i64) -> Verdict<usize> {
        let member = self.dice.below(self.plan.setting.members as u64) as usize;
        let kept = *self.dice.one_of(&[30, 100]);
        let task = self.world.spawn(clients::compact(self.shared.clone(), member, kept));
        self.until(HEAL_PATIENCE, |_| task.is_finished(), "liveness: a compaction ends")?;
        // Records are removed some time later, on each member.
        let pause = self.world.now + Duration::from_secs(1);
        while self.world.now < pause {
            self.step()?;
        }
        let compacted = self.shared.compactions.lock().iter().map(|compaction| compaction.revision).max();
        let from = compacted.unwrap_or(1).max(1);
        if changes.is_empty() {
            return Ok(0);
        }
        let reading = past::check(self.shared.clone(), self.dice.clone(), changes, (from, last));
        let reading = self.world.spawn(reading);
        self.until(HEAL_PATIENCE, |_| reading.is_finished(), "liveness: reads of the past are answered")?;
        self.world.result(reading).map_err(|what| ("past revisions", what))
    }

    fn judge(
        &mut self,
        watched: Vec<Watched>,
        final_state: Vec<Stored>,
        final_revision: i64,
    ) -> Verdict<Report> {
        let mut operations = self.shared.operations.lock().clone();
        operations.sort_by_key(|operation| operation.called);
        let history = History {
            operations,
            watched,
            compactions: self.shared.compactions.lock().clone(),
            restarts: std::mem::take(&mut self.restarts),
            final_state,
            final_revision,
        };
        let replayed = replay::check(&history).map_err(|violation| ("replay", violation.to_string()))?;
        let searched = linearize::check(&history);
        searched.map_err(|violation| ("linearizability", violation.to_string()))?;
        let seen = watches::check(&history, &replayed);
        let seen = seen.map_err(|violation| ("watch", violation.to_string()))?;
        let past_reads = self.read_the_past(replayed.changes, final_revision)?;
        let disks = self.world.hosts.iter().map(|host| host.disks.operations()).sum::<u64>();
        Ok(Report {
            seed: self.plan.setting.seed,
            seeds: 1,
            virtual_time: self.world.now,
            operations: history.operations.len(),
            answered: self.shared.answered.load(Relaxed),
            revisions: final_revision,
            events: seen.events,
            past_reads,
            faults: self.faults.clone(),
            network: self.world.network.counts(),
            disk_operations: self.disk_operations + disks,
            digest: self.world.trace.digest(),
        })
    }
}

/// The keys that a member has, their revision, the hash of all history, and the members that it knows. `None` if it
/// did not answer.
async fn state_of(shared: Arc<Shared>, member: usize) -> Option<(Vec<Stored>, i64, u32, Vec<String>)> {
    let mut client = KvClient::new(shared.wire(member));
    let request = RangeRequest {
        key: wire::start_of("").into(),
        range_end: wire::end_of("").into(),
        ..RangeRequest::default()
    };
    let state = within(client.range(request)).await.ok()?.into_inner();
    let revision = state.header?.revision;
    let mut client = MaintenanceClient::new(shared.wire(member));
    let hash = within(client.hash_kv(HashKvRequest { revision })).await.ok()?.into_inner();
    let mut client = ClusterClient::new(shared.wire(member));
    let listed =
        within(client.member_list(MemberListRequest { linearizable: false })).await.ok()?.into_inner();
    let urls = listed.members.into_iter().flat_map(|member| member.peer_ur_ls).collect();
    Some((wire::all(state.kvs), revision, hash.hash, urls))
}

async fn move_leader(shared: &Shared, leader: usize, dice: &Dice) {
    let mut client = ClusterClient::new(shared.wire(leader));
    let listed = within(client.member_list(MemberListRequest { linearizable: false })).await;
    let Ok(listed) = listed else { return };
    let members = listed.into_inner().members;
    let target = dice.one_of(&members).id;
    let mut client = MaintenanceClient::new(shared.wire(leader));
    let _ = within(client.move_leader(MoveLeaderRequest { target_id: target })).await;
}

/// The members, with the one that was added.
async fn add_member(shared: Arc<Shared>, member: usize, host: usize) -> Option<Vec<(usize, String)>> {
    let mut client = ClusterClient::new(shared.wire(member));
    let request = MemberAddRequest { peer_ur_ls: vec![peer_url(host)], ..MemberAddRequest::default() };
    let added =
        time::timeout(Duration::from_secs(10), client.member_add(request)).await.ok()?.ok()?.into_inner();
    let members = added.members.into_iter().filter_map(|member| {
        let url = member.peer_ur_ls.first()?.clone();
        let host = (0..=host).find(|host| peer_url(*host) == url)?;
        Some((host, url))
    });
    Some(members.collect())
}

async fn remove_member(shared: Arc<Shared>, member: usize, host: usize) -> bool {
    let mut client = ClusterClient::new(shared.wire(member));
    let listed = within(client.member_list(MemberListRequest { linearizable: true })).await;
    let Ok(listed) = listed else { return false };
    let is_it = |url: &String| *url == peer_url(host);
    let found = listed.into_inner().members.into_iter().find(|member| member.peer_ur_ls.iter().any(is_it));
    let Some(found) = found else { return false };
    let removed = client.member_remove(MemberRemoveRequest { id: found.id });
    matches!(time::timeout(Duration::from_secs(10), removed).await, Ok(Ok(_)))
}
