//! The simulator's own tests, and the runs that `scripts/sim` asks for.

use std::{
    collections::BTreeMap,
    env,
    io::{self, Write as _},
    thread,
    time::{Duration, Instant},
};

use super::{
    plan::{Fault, Plan},
    report::{Failure, Report},
    run::run,
};
use crate::planted::Bug;

/// A line for whoever runs the test with `--nocapture`.
macro_rules! tell {
    ($($what:tt)*) => {
        // Nobody is harmed if it cannot be written.
        let _ = writeln!(io::stdout(), $($what)*);
    };
}

/// Runs on a thread of its own, which then has simulated members.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Writes the log lines of all members from a level on, to see what they did.
fn log_lines() -> Option<tracing::subscriber::DefaultGuard> {
    let level: tracing::Level = env::var("RETCD_SIM_LOG").ok()?.parse().expect("a level");
    let lines = tracing_subscriber::fmt().with_ansi(false).without_time().with_max_level(level);
    Some(tracing::subscriber::set_default(lines.with_writer(io::stderr).finish()))
}

/// The run of a plan, on a thread of its own. A panic is a failure.
fn played(plan: &Plan) -> Result<Report, Failure> {
    apart(|| {
        let _lines = log_lines();
        super::panics::note();
        std::panic::catch_unwind(|| run(plan)).unwrap_or_else(|_| {
            let what = super::panics::take().map_or_else(String::new, |panic| panic.what);
            Err(Failure { judge: "no panic", what, trace: String::new() })
        })
    })
}

/// The whole trace of a plan, and how it ended.
fn traced(plan: &Plan) -> String {
    let mut plan = plan.clone();
    plan.setting.keeps_trace = true;
    apart(|| {
        let _lines = log_lines();
        super::panics::note();
        super::run::traced(&plan)
    })
}

/// Where two runs of a plan differ.
fn difference(plan: &Plan) -> Option<String> {
    let (first, again) = (traced(plan), traced(plan));
    if first == again {
        return None;
    }
    let mut pairs = first.lines().zip(again.lines());
    let end = first.lines().count().min(again.lines().count());
    let at = pairs.position(|(one, other)| one != other).unwrap_or(end);
    let around =
        |text: &str| text.lines().skip(at.saturating_sub(12)).take(16).collect::<Vec<_>>().join("\n");
    Some(format!("different from line {at} on:\n{}\n---\n{}", around(&first), around(&again)))
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    for seed in [7, 12] {
        let mut plan = Plan::of_seed(seed);
        plan.chaos = Duration::from_secs(6);
        plan.faults.truncate(5);
        if let Some(difference) = difference(&plan) {
            panic!("seed {seed}: {difference}");
        }
    }
}

/// A few seeds; `scripts/sim` runs as many as one likes.
#[test]
fn a_few_seeds_are_clean() {
    for seed in [1, 2] {
        if let Err(failure) = played(&Plan::of_seed(seed)) {
            panic!("seed {seed}: {failure}\n{}", failure.trace);
        }
    }
}

/// The planted bug that the environment names.
fn planted_bug() -> Option<Bug> {
    let name = env::var("RETCD_SIM_BUG").ok()?;
    let bug = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    Some(bug.unwrap_or_else(|| panic!("there is no bug {name}")))
}

/// Runs the seeds that the environment names, for `scripts/sim`: one line for each, and for each that fails the
/// faults that it needs.
#[test]
#[ignore = "is run by scripts/sim"]
fn the_seeds_of_the_environment() {
    let number = |name: &str, default: u64| {
        env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
    };
    let (from, until, step) =
        (number("RETCD_SIM_FROM", 0), number("RETCD_SIM_UNTIL", 10), number("RETCD_SIM_STEP", 1));
    let is_repeated = env::var("RETCD_SIM_TWICE").is_ok();
    let shows_trace = env::var("RETCD_SIM_TRACE").is_ok();
    let mut total = Report::default();
    let mut failed = Vec::new();
    let mut seed = from;
    let seconds = number("RETCD_SIM_SECONDS", u64::MAX);
    let began = Instant::now();
    while seed < until && began.elapsed().as_secs() < seconds {
        let plan = Plan { planted: planted_bug(), ..Plan::of_seed(seed) };
        if is_repeated {
            match difference(&plan) {
                None => {
                    tell!("sim ok seed {seed}: the same twice");
                }
                Some(difference) => {
                    tell!("sim FAILED seed {seed}: {difference}");
                    failed.push(seed);
                }
            }
            seed += step;
            continue;
        }
        match played(&plan) {
            Ok(report) => {
                tell!("sim ok {report}");
                total.add(&report);
            }
            Err(failure) => {
                tell!("sim FAILED seed {seed}: {failure}");
                if shows_trace {
                    tell!("{}", failure.trace);
                }
                if env::var("RETCD_SIM_SHRINK").is_ok() {
                    for planned in shrunk(plan, &failure).faults {
                        tell!("sim needs seed {seed}: {planned}");
                    }
                }
                failed.push(seed);
            }
        }
        seed += step;
    }
    tell!("sim total {total}");
    let lacks = total.lacks();
    if let Some(lacks) = &lacks {
        tell!("sim LACKS {lacks}");
    }
    assert_eq!(lacks, None, "the runs show less than they should");
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
}

/// Each of them makes some run fail. Prints the table of `docs/simulation.md`.
#[test]
#[ignore = "is run by scripts/sim --bugs"]
fn every_planted_bug_is_found() {
    let seeds_max = env::var("RETCD_SIM_BUG_SEEDS").map_or(200, |text| text.parse().expect("a number"));
    let mut missed = Vec::new();
    let only = planted_bug();
    for bug in Bug::ALL.into_iter().filter(|bug| only.is_none_or(|only| only == *bug)) {
        let found = (0..seeds_max).find_map(|seed| {
            let plan = Plan { planted: Some(bug), ..Plan::of_seed(seed) };
            let failure = played(&plan).err()?;
            // What fails without the bug shows nothing of it.
            played(&Plan::of_seed(seed)).ok().map(|_| (seed, failure))
        });
        match found {
            Some((seed, failure)) => {
                let what: String =
                    failure.what.lines().next().unwrap_or_default().chars().take(160).collect();
                tell!("sim bug | {bug:?} | {} | {} | {what} |", seed + 1, failure.judge);
            }
            None => {
                tell!("sim bug | {bug:?} | not within {seeds_max} | | |");
                missed.push(bug);
            }
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// The plan with only those faults that it needs to fail in the same way.
fn shrunk(mut plan: Plan, failure: &Failure) -> Plan {
    let mut at = 0;
    while at < plan.faults.len() {
        let mut smaller = plan.clone();
        smaller.faults.remove(at);
        match played(&smaller) {
            Err(other) if other.judge == failure.judge => plan = smaller,
            _ => at += 1,
        }
    }
    plan
}

/// So many seeds have every kind of fault among them.
const SEEDS_WITH_ALL: u64 = 60;

/// How many requests are answered in a virtual second at least, on an average over all seeds.
const LOAD_MIN: f64 = 20.0;

impl Report {
    /// What many runs should have had and had not: then they show less than they seem to.
    fn lacks(&self) -> Option<String> {
        if self.seeds < SEEDS_WITH_ALL {
            return None;
        }
        let missing: Vec<&str> =
            Fault::KINDS.into_iter().filter(|kind| !self.faults.contains_key(kind)).collect();
        let load = self.answered as f64 / self.virtual_time.as_secs_f64();
        let seen = [
            ("snapshots", self.network.snapshots),
            ("writes without room on the disk", self.disk_refusals),
            ("damage that was refused", self.damage.refused),
            ("logins", self.logins),
            ("changes of users", self.user_changes),
            ("permissions judged", self.permissions_judged),
            ("writes refused by an alarm", self.alarm_refusals),
            ("elections won", self.elections_won),
            ("leaders told", self.leaders_told),
        ];
        let unseen: Vec<&str> =
            seen.into_iter().filter(|(_, count)| *count == 0).map(|(what, _)| what).collect();
        let is_enough = missing.is_empty() && unseen.is_empty() && load >= LOAD_MIN;
        (!is_enough)
            .then(|| format!("never happened: faults {missing:?}, {unseen:?}; {load:.1} requests a second"))
    }

    fn add(&mut self, other: &Report) {
        self.seeds += 1;
        self.virtual_time += other.virtual_time;
        self.operations += other.operations;
        self.answered += other.answered;
        self.revisions += other.revisions;
        self.events += other.events;
        self.disk_operations += other.disk_operations;
        self.past_reads += other.past_reads;
        self.disk_refusals += other.disk_refusals;
        self.damage.refused += other.damage.refused;
        self.damage.stopped_redb += other.damage.stopped_redb;
        self.damage.alarms += other.damage.alarms;
        self.damage.unnoticed += other.damage.unnoticed;
        self.logins += other.logins;
        self.user_changes += other.user_changes;
        self.permissions_judged += other.permissions_judged;
        self.alarm_refusals += other.alarm_refusals;
        self.elections_won += other.elections_won;
        self.leaders_told += other.leaders_told;
        self.network.parcels += other.network.parcels;
        self.network.snapshots += other.network.snapshots;
        let mut faults: BTreeMap<&'static str, u64> = std::mem::take(&mut self.faults);
        for (kind, count) in &other.faults {
            *faults.entry(kind).or_default() += count;
        }
        self.faults = faults;
    }
}
