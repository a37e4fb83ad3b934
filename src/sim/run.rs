//! One run: a plan is carried out, first breaking things and then healing them, and the judges judge.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::task::JoinHandle;

use super::{
    candidates::{self, Candidate},
    clients::{self, Client, Shared, within},
    dice::Dice,
    errands::{self, State},
    flips,
    host::Ended,
    judges::{
        history::{Change, History, Restart, Stored, Watched},
        linearize, replay, watches,
    },
    leaders::Leaders,
    network::Counts,
    panics::Panic,
    past,
    pb::etcdserverpb::{AlarmType, DefragmentRequest, maintenance_client::MaintenanceClient},
    plan::{Fault, Plan, Planned, Target},
    replicas::Replicas,
    tenants::{Locker, Tenant},
    users::{self, Guest, Operator},
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
    /// How often a disk had no room.
    pub(super) disk_refusals: u64,
    pub(super) damage: Damages,
    pub(super) logins: u64,
    pub(super) user_changes: u64,
    /// How often it was known what a user may do.
    pub(super) permissions_judged: u64,
    pub(super) alarm_refusals: u64,
    pub(super) elections_won: u64,
    pub(super) leaders_told: u64,
    pub(super) digest: u32,
}

/// What became of disks with flipped bits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Damages {
    /// A member ended, or did not start, with the name of the file.
    pub(super) refused: u64,
    /// redb could not parse a page; production ends with the name of the file.
    pub(super) stopped_redb: u64,
    /// A member that ran found the damage, and raised the alarm.
    pub(super) alarms: u64,
    /// Nobody noticed until the disk was replaced.
    pub(super) unnoticed: u64,
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
        let Damages { refused, stopped_redb, alarms, unnoticed } = self.damage;
        let further = [
            ("writes without room on the disk", self.disk_refusals),
            ("damage refused", refused),
            ("damage that stopped redb", stopped_redb),
            ("damage with an alarm", alarms),
            ("damage without an effect", unnoticed),
            ("logins", self.logins),
            ("changes of users", self.user_changes),
            ("permissions judged", self.permissions_judged),
            ("writes refused by an alarm", self.alarm_refusals),
            ("elections won", self.elections_won),
            ("leaders told", self.leaders_told),
        ];
        for (what, count) in further.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, " [{what} {count}]")?;
        }
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
    Room(usize),
}

/// A member whose disk has flipped bits. There is one at a time.
struct Damaged {
    host: usize,
    id: u64,
    replacement: Option<JoinHandle<Vec<usize>>>,
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
    /// The hosts of members that have taken the place of others, and have not served yet: they ask the others at their
    /// start, who may not answer.
    joining: BTreeSet<usize>,
    /// The hosts whose disks are full.
    full: BTreeSet<usize>,
    damaged: Option<Damaged>,
    damages: Damages,
    /// The errand that raises the alarm for a full database, and disarms it.
    alarm: Option<JoinHandle<()>>,
}

/// The host where a member is added and removed.
enum Spare {
    Free,
    Adding(JoinHandle<Vec<usize>>),
    Member,
    Removing(JoinHandle<bool>),
}

impl<'a> Run<'a> {
    fn begin(plan: &'a Plan) -> Run<'a> {
        plan.knobs.iter().for_each(|(knob, bound)| knob.set(*bound));
        planted::plant(plan.planted);
        let world = World::new(&plan.setting);
        let members = plan.setting.members;
        let shared = Shared::new(
            world.network.clone(),
            world.clients_host(),
            members,
            plan.has_users,
            world.clients_clock(),
        );
        let may_lack_space = plan.faults.iter().any(|planned| matches!(planned.fault, Fault::Alarm { .. }));
        Run {
            plan,
            shared,
            dice: Dice::new(plan.setting.seed, 20),
            world,
            later: BTreeMap::new(),
            serial: 0,
            may_fail: BTreeSet::new(),
            leaders: Leaders::default(),
            replicas: Replicas::new(may_lack_space),
            restarts: Vec::new(),
            faults: BTreeMap::new(),
            disk_operations: 0,
            spare: Spare::Free,
            is_spare_removed: false,
            errands: Vec::new(),
            joining: BTreeSet::new(),
            full: BTreeSet::new(),
            damaged: None,
            damages: Damages::default(),
            alarm: None,
        }
    }

    fn all(&mut self) -> Verdict<Report> {
        for host in 0..self.plan.setting.members {
            let now = self.world.now;
            self.world.hosts[host].start(now);
        }
        self.until(START_PATIENCE, Run::all_serve, "liveness: the members of a new cluster serve")?;
        let seed = self.plan.setting.seed;
        let mut load: Vec<JoinHandle<()>> = Vec::new();
        if self.plan.has_users {
            self.begin_users()?;
            let operator = Operator::new(Dice::new(seed, 300), self.shared.clone());
            load.push(self.world.spawn(operator.run()));
            for number in 301..303 {
                let dice = Dice::new(seed, number as u64);
                load.push(self.world.spawn(Guest { number, dice, shared: self.shared.clone() }.run()));
            }
        }
        let shared = &self.shared;
        for number in 0..self.plan.clients {
            let client = Client::new(number, Dice::new(seed, 100 + number as u64), shared.clone());
            load.push(self.world.spawn(client.run(self.plan.pause * self.plan.clients as u32)));
        }
        for number in 0..6 {
            let dice = Dice::new(seed, 200 + number as u64);
            load.push(self.world.spawn(Tenant { number, dice, shared: shared.clone() }.run()));
        }
        for number in 200..203 {
            let dice = Dice::new(seed, 100 + number as u64);
            load.push(self.world.spawn(Locker { number, dice, shared: shared.clone() }.run()));
        }
        for number in 400..403 {
            let dice = Dice::new(seed, number as u64);
            load.push(self.world.spawn(Candidate { number, dice, shared: shared.clone() }.run()));
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

    /// From here on every call is of a user.
    fn begin_users(&mut self) -> Verdict {
        let enabling = self.world.spawn(users::enable(self.shared.clone()));
        self.until(START_PATIENCE, |_| enabling.is_finished(), "liveness: users are added")?;
        let enabled = self.world.result(enabling);
        enabled.map_err(|status| ("liveness", format!("authentication cannot be enabled: {status}")))?;
        self.world.spawn(users::log_in(self.shared.clone()));
        Ok(())
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
            host.disks.limit_room(None);
        }
        self.full.clear();
        // Nobody may have noticed anything.
        let is_running = |damaged: &Damaged| damaged.replacement.is_none();
        if let Some(host) =
            self.damaged.as_ref().filter(|damaged| is_running(damaged)).map(|damaged| damaged.host)
        {
            self.damages.unnoticed += 1;
            self.replace(host);
        }
        for host in 0..self.world.hosts.len() {
            // A failure that was to come does not come any more.
            if self.may_fail.contains(&host) && self.world.hosts[host].is_up() {
                self.power_loss(host);
            }
            if !self.world.hosts[host].is_up() && self.is_member(host) && !self.is_damaged(host) {
                self.start(host);
            }
        }
        self.may_fail.clear();
        self.until(HEAL_PATIENCE, Run::all_serve, "liveness: after the healing all members serve")?;
        let raised = self.alarm.take();
        let is_over = |_: &mut Run<'_>| raised.as_ref().is_none_or(JoinHandle::is_finished);
        self.until(HEAL_PATIENCE, is_over, "liveness: an alarm is raised and disarmed")?;
        let disarming = self.world.spawn(errands::disarm(self.shared.clone(), None));
        self.until(HEAL_PATIENCE, |_| disarming.is_finished(), "liveness: alarms are disarmed")
    }

    /// Whether all members have a vote and run, or will soon: only then one of them can be lost for good.
    fn is_settled(&self) -> bool {
        let leader = self.host_of(Target::Leader).and_then(|host| self.world.hosts[host].node());
        let members = self.plan.setting.members + usize::from(matches!(self.spare, Spare::Member));
        !matches!(self.spare, Spare::Adding(_) | Spare::Removing(_))
            && leader.is_some_and(|leader| leader.has_voters(members))
    }

    /// A member with a damaged disk, or in place of one, has not served yet. It is started with a list of all members,
    /// which must not change until then.
    fn is_replacing(&self) -> bool {
        self.damaged.is_some() || !self.joining.is_empty()
    }

    fn is_damaged(&self, host: usize) -> bool {
        self.damaged.as_ref().is_some_and(|damaged| damaged.host == host)
    }

    fn is_member(&self, host: usize) -> bool {
        host < self.plan.setting.members || matches!(self.spare, Spare::Member | Spare::Removing(_))
    }

    fn all_serve(&mut self) -> bool {
        self.damaged.is_none()
            && (0..self.plan.setting.members).all(|host| {
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
                Later::Room(host) => {
                    self.world.hosts[host].disks.limit_room(None);
                    self.full.remove(&host);
                }
            }
        }
        self.watch_over_hosts()?;
        self.watch_over_spare();
        let members = self.world.hosts.iter().filter_map(|host| Some((host.number, host.node()?)));
        let members: Vec<_> = members.collect();
        self.joining.retain(|host| !members.iter().any(|(number, _)| number == host));
        self.leaders.see(members.iter().cloned()).map_err(|what| ("one leader a term", what))?;
        self.replicas.see(members.into_iter()).map_err(|what| ("replicas are equal", what))?;
        self.watch_over_damage();
        if let Some(panic) = super::panics::take() {
            self.end_of_panic(panic)?;
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
                Ended::Refused(reason) => {
                    self.may_fail.contains(&host)
                        || host >= self.plan.setting.members
                        || self.joining.contains(&host)
                        || self.full.contains(&host) && reason.contains("no space")
                        || self.is_of_damage(host, reason)
                }
                Ended::Failed(reason) => self.may_fail.contains(&host) || self.is_of_damage(host, reason),
            };
            if !is_expected {
                return Err(("no member ends by itself", format!("m{host}: {ended:?}")));
            }
            self.world.trace.line(self.world.now, format_args!("m{host} has ended: {ended:?}"));
            if let Ended::Refused(reason) | Ended::Failed(reason) = &ended
                && self.is_of_damage(host, reason)
            {
                self.damages.refused += 1;
                self.replace(host);
                continue;
            }
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

    /// A member with a damaged disk says which file it is.
    fn is_of_damage(&self, host: usize, reason: &str) -> bool {
        self.is_damaged(host) && reason.contains(&directory(host, ""))
    }

    /// redb cannot parse a page of a damaged file. In production the process ends there.
    fn end_of_panic(&mut self, panic: Panic) -> Verdict {
        let host = self.damaged.as_ref().map(|damaged| damaged.host);
        match (host, panic.file) {
            (Some(host), Some(file)) if file.starts_with(directory(host, "snap")) => {
                self.world.trace.line(self.world.now, format_args!("redb stops m{host}"));
                self.damages.stopped_redb += 1;
                self.replace(host);
                Ok(())
            }
            _ => Err(("no panic", panic.what)),
        }
    }

    /// Ends the member at a host with a damaged disk, and has another one take its place.
    fn replace(&mut self, host: usize) {
        if self.world.hosts[host].is_up() {
            self.disk_operations += self.world.hosts[host].disks.operations();
            self.world.hosts[host].kill();
        }
        // What redb does when it closes such a file does not matter.
        super::panics::take();
        self.may_fail.remove(&host);
        let (shared, hosts) = (self.shared.clone(), self.world.hosts.len());
        if let Some(damaged) = self.damaged.as_mut().filter(|damaged| damaged.replacement.is_none()) {
            self.world.trace.line(self.world.now, format_args!("m{host} is replaced"));
            let replacement = errands::replace_member(shared, host, hosts, damaged.id);
            damaged.replacement = Some(self.world.spawn(replacement));
        }
    }

    /// Replaces a member whose alarm says that its disk is damaged, and starts the member that takes its place.
    fn watch_over_damage(&mut self) {
        let Some(mut damaged) = self.damaged.take() else { return };
        let host = damaged.host;
        match damaged.replacement.take() {
            Some(replacement) if replacement.is_finished() => {
                let founders = self.world.result(replacement);
                self.world.hosts[host].config =
                    world::config(host, founders, "existing", &self.plan.setting.flags);
                self.world.hosts[host].disks = Default::default();
                self.later.retain(|_, later| !matches!(later, Later::Start(other) if *other == host));
                self.joining.insert(host);
                self.start(host);
                let disarming = errands::disarm(self.shared.clone(), Some(AlarmType::Corrupt));
                self.errands.push(self.world.spawn(disarming));
                return;
            }
            replacement => damaged.replacement = replacement,
        }
        let is_found = damaged.replacement.is_none() && self.replicas.has_found_damage;
        self.damaged = Some(damaged);
        if is_found {
            self.damages.alarms += 1;
            self.replace(host);
        }
    }

    fn starts_later(&self, host: usize) -> bool {
        self.later.values().any(|later| matches!(later, Later::Start(other) if *other == host))
    }

    fn later(&mut self, after: Duration, what: Later) {
        self.serial += 1;
        self.later.insert((self.world.now + after, self.serial), what);
    }

    fn start(&mut self, host: usize) {
        let is_replaced = self.is_damaged(host)
            && self.damaged.as_ref().is_some_and(|damaged| damaged.replacement.is_some());
        if !self.world.hosts[host].is_up() && !is_replaced {
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
                self.part(&[host], *time);
            }
            Fault::Part { target, with, time } => {
                let Some(host) = self.host_of(*target).filter(|host| host != with) else { return false };
                self.part(&[host, *with], *time);
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
                let task = self.world.spawn(async move { errands::move_leader(&shared, host, &dice).await });
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
                    let mut client = MaintenanceClient::new(shared.admin_wire(host));
                    let _ = within(client.defragment(DefragmentRequest {})).await;
                });
                self.errands.push(task);
            }
            Fault::AddMember => {
                // With a damaged member, a new one may be one too many that does not run.
                if !matches!(self.spare, Spare::Free) || self.is_replacing() {
                    return false;
                }
                let (host, hosts) = (self.plan.setting.members, self.world.hosts.len());
                self.is_spare_removed = false;
                let adding = errands::add_member(self.shared.clone(), host, hosts);
                self.spare = Spare::Adding(self.world.spawn(adding));
            }
            Fault::RemoveMember => {
                if !matches!(self.spare, Spare::Member) || self.is_replacing() {
                    return false;
                }
                let host = self.plan.setting.members;
                let (shared, member) = (self.shared.clone(), self.dice.below(host as u64) as usize);
                self.spare = Spare::Removing(self.world.spawn(errands::remove_member(shared, member, host)));
            }
            Fault::FullDisk { target, room, time } => {
                let Some(host) = of(target) else { return false };
                self.world.hosts[host].disks.limit_room(Some(*room));
                self.full.insert(host);
                self.later(*time, Later::Room(host));
            }
            Fault::Flip { target, is_log, down } => {
                let is_free = self.damaged.is_none() && self.is_settled();
                let host = of(target).filter(|host| is_free && *host < self.plan.setting.members);
                let Some(host) = host else { return false };
                let Some(node) = self.world.hosts[host].node() else { return false };
                let id = node.ids().1.0;
                drop(node);
                self.disk_operations += self.world.hosts[host].disks.operations();
                self.world.hosts[host].kill();
                self.may_fail.remove(&host);
                self.later(*down, Later::Start(host));
                let directory = directory(host, if *is_log { "wal" } else { "snap" });
                if !flips::flip(&self.world.hosts[host].disks, &directory, *is_log, &self.dice) {
                    return false;
                }
                self.replicas.damaged.insert(id);
                self.replicas.has_found_damage = false;
                self.damaged = Some(Damaged { host, id, replacement: None });
            }
            Fault::Alarm { time } => {
                if self.alarm.as_ref().is_some_and(|alarm| !alarm.is_finished()) {
                    return false;
                }
                let member = self.dice.below(self.plan.setting.members as u64) as usize;
                let alarm = errands::alarm(self.shared.clone(), member, *time);
                self.alarm = Some(self.world.spawn(alarm));
            }
            Fault::LeaseStorm => {
                let storm = errands::lease_storm(self.shared.clone(), self.dice.clone());
                self.errands.push(self.world.spawn(storm));
            }
        }
        true
    }

    /// Nothing gets from these hosts to the others, or back.
    fn part(&mut self, side: &[usize], time: Duration) {
        let others: Vec<usize> = (0..self.world.hosts.len()).filter(|host| !side.contains(host)).collect();
        for (&host, &other) in side.iter().flat_map(|host| others.iter().map(move |other| (host, other))) {
            self.cut(host, other, time);
            self.cut(other, host, time);
        }
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
                let founders = self.world.result(task);
                self.world.hosts[host].config =
                    world::config(host, founders, "existing", &self.plan.setting.flags);
                self.world.hosts[host].disks = Default::default();
                self.spare = Spare::Member;
                self.start(host);
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
            let states: Vec<_> = (0..members)
                .map(|member| self.world.spawn(errands::state_of(self.shared.clone(), member)))
                .collect();
            let is_over = |_: &mut Run<'_>| states.iter().all(JoinHandle::is_finished);
            self.until(HEAL_PATIENCE, is_over, "liveness: every member answers a read")?;
            let mut states: Vec<_> = states.into_iter().map(|state| self.world.result(state)).collect();
            let are_equal = states.windows(2).all(|pair| pair[0] == pair[1]);
            let first = states.swap_remove(0);
            if let Some(State { kvs, revision, peer_urls, leases, .. }) = first.clone().filter(|_| are_equal)
                && leases.is_empty()
                && !kvs.iter().any(|stored| stored.key.starts_with("lease/"))
                && before == Some(first.clone())
            {
                if self.is_spare_removed && peer_urls.contains(&peer_url(members)) {
                    return Err(("members", format!("the member that was removed is listed: {peer_urls:?}")));
                }
                return Ok((kvs, revision));
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

    /// Compacts everything, with a deletion as the newest revision. Watchers can begin there, and after a start all
    /// members have the same as before.
    fn outlast_compaction(&mut self, kept: &[Stored]) -> Verdict {
        let members = self.plan.setting.members;
        let member = self.dice.below(members as u64) as usize;
        let key = "last/key".to_owned();
        let compacting =
            self.world.spawn(clients::compact_deletion(self.shared.clone(), member, key.clone()));
        self.until(HEAL_PATIENCE, |_| compacting.is_finished(), "liveness: a compaction ends")?;
        let revision = self.world.result(compacting);
        let revision =
            revision.map_err(|status| ("liveness", format!("a compaction fails in peace: {status}")))?;
        // The other members remove records a little later.
        let pause = self.world.now + Duration::from_millis(1200);
        while self.world.now < pause {
            self.step()?;
        }
        self.watch_deletion(revision, &key)?;
        for host in 0..self.world.hosts.len() {
            if self.world.hosts[host].is_up() {
                self.power_loss(host);
                self.start(host);
            }
        }
        self.until(HEAL_PATIENCE, Run::all_serve, "liveness: after a start of all members they serve")?;
        let (found, found_revision) = self.settle()?;
        if found != kept || found_revision != revision {
            return Err((
                "past revisions",
                format!(
                    "after a compaction up to revision {revision} and a start, revision {found_revision} has \
                     {found:?}; it was {kept:?}"
                ),
            ));
        }
        // What members know of deletions is read from their disks now.
        self.watch_deletion(revision, &key)
    }

    fn watch_deletion(&mut self, revision: i64, key: &str) -> Verdict {
        for member in 0..self.plan.setting.members {
            let watching = past::watch_deletion(self.shared.clone(), member, revision, key.to_owned());
            let watching = self.world.spawn(watching);
            self.until(HEAL_PATIENCE, |_| watching.is_finished(), "liveness: a watcher gets an answer")?;
            self.world.result(watching).map_err(|what| ("past revisions", what))?;
        }
        Ok(())
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
        let told = self.shared.leaders_told.lock().clone();
        let leaders_told = told.len() as u64;
        candidates::check(&replayed.changes, told).map_err(|what| ("elections", what))?;
        let past_reads = self.read_the_past(replayed.changes, final_revision)?;
        self.outlast_compaction(&history.final_state)?;
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
            disk_refusals: self.world.hosts.iter().map(|host| host.disks.refusals()).sum(),
            damage: self.damages,
            logins: self.shared.logins.load(Relaxed),
            user_changes: self.shared.user_changes.load(Relaxed),
            permissions_judged: self.shared.permissions_judged.load(Relaxed),
            alarm_refusals: self.shared.alarm_refusals.load(Relaxed),
            elections_won: self.shared.elections_won.load(Relaxed),
            leaders_told,
            digest: self.world.trace.digest(),
        })
    }
}

/// A directory of the member at a host.
fn directory(host: usize, name: &str) -> String {
    format!("/m{host}/member/{name}")
}
