//! What happens to a world: everything follows from the seed.
//!
//! A plan is made before the run. Its faults are a list, so that a run can be repeated with fewer of them, to see
//! which of them a failure needs.

use std::{fmt, time::Duration};

use super::{dice::Dice, world::Setting};
use crate::{limits::Knob, planted::Bug};

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) setting: Setting,
    pub(super) chaos: Duration,
    pub(super) clients: usize,
    /// Of all clients together.
    pub(super) pause: Duration,
    pub(super) faults: Vec<Planned>,
    /// Every call has to be of a user.
    pub(super) has_users: bool,
    /// Bounds of the members that are made small.
    pub(super) knobs: Vec<(Knob, usize)>,
    pub(super) planted: Option<Bug>,
}

#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) at: Duration,
    pub(super) fault: Fault,
}

/// Hosts are numbers; `Leader` is whoever leads when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Host(usize),
    Leader,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process ends; its files keep all that was written.
    Kill {
        target: Target,
        down: Duration,
    },
    /// The machine loses its power: what was not synced may be lost.
    PowerLoss {
        target: Target,
        down: Duration,
    },
    /// The power fails in so many operations of the disk.
    PowerLossAtOperation {
        target: Target,
        operations: u64,
        down: Duration,
    },
    /// A sync fails, and every later one.
    SyncError {
        target: Target,
        syncs: u64,
        down: Duration,
    },
    /// SIGTERM, and a start some time later.
    Stop {
        target: Target,
        down: Duration,
    },
    /// The process does not run for a while, and then goes on.
    Pause {
        target: Target,
        time: Duration,
    },
    /// Nothing gets from or to a host.
    Isolate {
        target: Target,
        time: Duration,
    },
    /// Nothing gets from two hosts to the others, or from these to the two. Of five members, the two are a minority that may
    /// have the old leader.
    Part {
        target: Target,
        with: usize,
        time: Duration,
    },
    /// Nothing gets from one host to the other.
    CutOneWay {
        from: Target,
        to: usize,
        time: Duration,
    },
    /// Packets of a host are late.
    Delay {
        target: Target,
        delay: Duration,
        time: Duration,
    },
    /// Some packets of all hosts are lost and sent again, or break their connection.
    Lossy {
        lost: u32,
        broken: u32,
        time: Duration,
    },
    /// A clock goes faster or slower from here on.
    Drift {
        target: Target,
        rate: u64,
    },
    /// The time of day of a host jumps ahead.
    WallJump {
        target: Target,
        secs: u64,
    },
    MoveLeader,
    Compact,
    Defragment {
        target: Target,
    },
    AddMember,
    RemoveMember,
    /// A disk has only so many bytes left.
    FullDisk {
        target: Target,
        room: u64,
        time: Duration,
    },
    /// A process ends, and a few bits of its log or its database are not what was written when it starts again. One
    /// member has such a disk at a time, until it was replaced.
    Flip {
        target: Target,
        is_log: bool,
        down: Duration,
    },
    /// The alarm for a full database is raised by hand, and disarmed later.
    Alarm {
        time: Duration,
    },
    /// Many leases, which all end at once.
    LeaseStorm,
}

impl Fault {
    pub(super) const KINDS: [&str; 22] = [
        "kill",
        "power loss",
        "power loss at an operation",
        "sync error",
        "stop",
        "pause",
        "isolation",
        "partition",
        "one-way cut",
        "delay",
        "loss",
        "clock drift",
        "clock jump",
        "leadership transfer",
        "compaction",
        "defragmentation",
        "member added",
        "member removed",
        "full disk",
        "flipped bits",
        "alarm",
        "lease storm",
    ];

    /// The name of its kind, for the summary.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Fault::Kill { .. } => "kill",
            Fault::PowerLoss { .. } => "power loss",
            Fault::PowerLossAtOperation { .. } => "power loss at an operation",
            Fault::SyncError { .. } => "sync error",
            Fault::Stop { .. } => "stop",
            Fault::Pause { .. } => "pause",
            Fault::Isolate { .. } => "isolation",
            Fault::Part { .. } => "partition",
            Fault::CutOneWay { .. } => "one-way cut",
            Fault::Delay { .. } => "delay",
            Fault::Lossy { .. } => "loss",
            Fault::Drift { .. } => "clock drift",
            Fault::WallJump { .. } => "clock jump",
            Fault::MoveLeader => "leadership transfer",
            Fault::Compact => "compaction",
            Fault::Defragment { .. } => "defragmentation",
            Fault::AddMember => "member added",
            Fault::RemoveMember => "member removed",
            Fault::FullDisk { .. } => "full disk",
            Fault::Flip { .. } => "flipped bits",
            Fault::Alarm { .. } => "alarm",
            Fault::LeaseStorm => "lease storm",
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s: {:?}", self.at.as_secs_f64(), self.fault)
    }
}

fn millis(dice: &Dice, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(dice.within(range))
}

impl Plan {
    pub(super) fn of_seed(seed: u64) -> Plan {
        let dice = Dice::new(seed, 10);
        let members = *dice.one_of(&[3, 3, 3, 5]);
        let spares = 1;
        let flags = flags(&dice);
        let latency = match dice.below(3) {
            0 => (Duration::from_micros(50), Duration::from_micros(500)),
            1 => (Duration::from_micros(200), Duration::from_millis(4)),
            _ => (Duration::from_millis(1), Duration::from_millis(25)),
        };
        let sync = match dice.below(4) {
            0 => (Duration::ZERO, Duration::ZERO),
            1 | 2 => (Duration::from_micros(100), Duration::from_millis(3)),
            _ => (Duration::from_millis(1), Duration::from_millis(60)),
        };
        let chaos = millis(&dice, 8_000..18_000);
        let setting = Setting { seed, members, spares, latency, sync, flags, keeps_trace: false };
        let faults = faults(&dice, members, chaos);
        let clients = dice.within(3..9) as usize;
        let pause = millis(&dice, 2..20);
        let knobs = knobs(&dice);
        let has_users = dice.below(3) == 0;
        Plan { setting, chaos, clients, pause, faults, has_users, knobs, planted: None }
    }

    pub(super) fn has(&self, is_sought: impl Fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(|planned| is_sought(&planned.fault))
    }
}

/// Settings of the members that make rare things frequent.
fn flags(dice: &Dice) -> Vec<String> {
    let mut flags = Vec::new();
    if dice.flip() {
        flags.push("--snapshot-catchup-entries=5".to_owned());
    }
    if dice.flip() {
        flags.push(format!("--compaction-batch-limit={}", dice.one_of(&[1, 3, 1000])));
        flags.push("--compaction-sleep-interval=1ms".to_owned());
    }
    if dice.below(4) == 0 {
        flags.push("--pre-vote=false".to_owned());
    }
    if dice.flip() {
        flags.push(format!("--compact-hash-check-time={}ms", dice.one_of(&[100, 500])));
        flags.push(format!("--corrupt-check-time={}ms", dice.one_of(&[200, 700])));
    }
    flags.push(format!("--watch-progress-notify-interval={}ms", dice.one_of(&[200, 1000, 3000])));
    flags
}

fn knobs(dice: &Dice) -> Vec<(Knob, usize)> {
    let choices = [
        (Knob::BatchCommands, [1, 2]),
        (Knob::WatchQueue, [1, 3]),
        (Knob::SegmentBytes, [8 * 1024, 32 * 1024]),
        (Knob::ApplyStrideKeys, [1, 3]),
        (Knob::RangeStrideKeys, [1, 2]),
        (Knob::ValueApartBytes, [1, 8]),
        (Knob::StretchBytes, [1024, 4096]),
        (Knob::DefragmentationStretches, [1, 2]),
    ];
    let is_small = |knob: Knob| if knob == Knob::SegmentBytes { dice.below(4) > 0 } else { dice.flip() };
    choices
        .into_iter()
        .filter(|(knob, _)| is_small(*knob))
        .map(|(knob, of)| (knob, *dice.one_of(&of)))
        .collect()
}

fn faults(dice: &Dice, members: usize, chaos: Duration) -> Vec<Planned> {
    let count = dice.within(4..16);
    let mut faults: Vec<Planned> = (0..count)
        .map(|_| Planned { at: millis(dice, 1_500..chaos.as_millis() as u64), fault: fault(dice, members) })
        .collect();
    if dice.below(3) == 0 {
        faults.extend(contested(dice, members, chaos));
    }
    if dice.below(3) == 0 {
        // Long enough for another one to lead, and for its leases to be older than a renewal that this one answers.
        let at = millis(dice, 1_500..chaos.as_millis() as u64 - 4_000);
        let time = millis(dice, 2_600..5_500);
        if dice.flip() {
            // Whatever else happened would hide what such a renewal does.
            faults.clear();
        }
        faults.push(Planned { at, fault: Fault::Pause { target: Target::Leader, time } });
    }
    if dice.below(3) == 0 {
        let at = millis(dice, 1_500..chaos.as_millis() as u64 - 4_000);
        faults.push(Planned { at, fault: Fault::AddMember });
        faults.push(Planned { at: at + millis(dice, 1_500..4_000), fault: Fault::RemoveMember });
    }
    if dice.below(3) == 0 {
        faults.extend(defragmented(dice, members, chaos));
    }
    faults.sort_by_key(|planned| planned.at);
    faults
}

/// Faults around an election: the leader is gone for a moment, comes back before it has heard of its successor, and
/// a voter forgets what it has not synced.
fn contested(dice: &Dice, members: usize, chaos: Duration) -> [Planned; 3] {
    let at = millis(dice, 1_500..chaos.as_millis() as u64 - 3_000);
    let elected = at + millis(dice, 900..2_200);
    let voter = Target::Host(dice.below(members as u64) as usize);
    let planned = |at, fault| Planned { at, fault };
    [
        planned(at, Fault::Isolate { target: Target::Leader, time: millis(dice, 1_000..4_000) }),
        planned(elected, Fault::PowerLoss { target: voter, down: millis(dice, 50..300) }),
        planned(elected, Fault::Isolate { target: Target::Leader, time: millis(dice, 1_000..4_000) }),
    ]
}

/// Leases are granted while a member defragments its database, which then has to show what it has.
fn defragmented(dice: &Dice, members: usize, chaos: Duration) -> [Planned; 3] {
    let at = millis(dice, 2_500..chaos.as_millis() as u64 - 3_000);
    let target = Target::Host(dice.below(members as u64) as usize);
    let planned = |after, fault| Planned { at: at + after, fault };
    [
        planned(Duration::ZERO, Fault::LeaseStorm),
        planned(millis(dice, 1..200), Fault::Defragment { target }),
        planned(millis(dice, 700..2_500), Fault::Kill { target, down: millis(dice, 50..400) }),
    ]
}

fn target(dice: &Dice, members: usize) -> Target {
    match dice.below(3) {
        0 => Target::Leader,
        _ => Target::Host(dice.below(members as u64) as usize),
    }
}

fn fault(dice: &Dice, members: usize) -> Fault {
    let target = target(dice, members);
    let down = millis(dice, 100..4_000);
    let time = millis(dice, 300..5_000);
    match dice.below(30) {
        0 | 1 => Fault::Kill { target, down },
        2 | 3 => Fault::PowerLoss { target, down },
        4..=7 => Fault::PowerLossAtOperation { target, operations: dice.below(60), down },
        8 => Fault::SyncError { target, syncs: dice.below(20), down },
        9 => Fault::Stop { target, down },
        10 => Fault::Pause { target, time: millis(dice, 300..9_000) },
        11 => Fault::Pause { target: Target::Leader, time: millis(dice, 1_500..4_500) },
        12 => Fault::Isolate { target, time },
        13 => Fault::Part { target, with: dice.below(members as u64) as usize, time },
        14 => {
            let to = dice.below(members as u64) as usize;
            Fault::CutOneWay { from: target, to, time }
        }
        15 => Fault::Delay { target, delay: millis(dice, 20..400), time },
        16 => Fault::Lossy { lost: dice.within(5..100) as u32, broken: dice.below(20) as u32, time },
        17 => Fault::Drift { target, rate: dice.within(950_000..1_050_001) },
        18 => Fault::WallJump { target, secs: dice.within(1..100_000) },
        19 => Fault::MoveLeader,
        20 | 21 => Fault::Compact,
        22 => Fault::Defragment { target },
        23 | 24 => {
            let room = *dice.one_of(&[0, 30_000, 300_000]);
            Fault::FullDisk { target, room, time: millis(dice, 1_000..8_000) }
        }
        25 | 26 => Fault::Flip { target, is_log: dice.flip(), down },
        27 => Fault::Alarm { time: millis(dice, 200..2_000) },
        28 => Fault::LeaseStorm,
        _ => {
            if dice.flip() {
                Fault::AddMember
            } else {
                Fault::RemoveMember
            }
        }
    }
}
