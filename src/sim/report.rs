//! What a run has seen, or what is wrong with it.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::network::Counts;

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
