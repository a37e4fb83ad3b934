//! One run: a plan is carried out, first breaking things and then healing them, and the judges judge.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::task::JoinHandle;

mod aftermath;
mod damage;
mod faults;

use damage::Damaged;

use super::{
    candidates::{self, Candidate},
    clients::{Client, Shared},
    dice::Dice,
    errands,
    host::Ended,
    judges::{
        history::{History, Restart, Stored, Watched},
        linearize, replay, watches,
    },
    leaders::Leaders,
    plan::{Fault, Plan, Planned, Target},
    replicas::Replicas,
    report::{Damages, Failure, Report},
    tenants::{Locker, Tenant},
    users::{self, Guest, Operator},
    watchers,
    world::{self, World},
};
use crate::planted;

/// How long the members may take until they serve, at first and after the healing.
const START_PATIENCE: Duration = Duration::from_secs(30);
const HEAL_PATIENCE: Duration = Duration::from_secs(30);

/// How long the load goes on after the healing.
const AFTERMATH: Duration = Duration::from_secs(2);

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
            plan.has(|fault| matches!(fault, Fault::Drift { .. })),
            world.clients_clock(),
        );
        let may_lack_space = plan.has(|fault| matches!(fault, Fault::Alarm { .. }));
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
            self.world.network.awake(host.number);
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
        match self.shared.violations.lock().pop() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
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
