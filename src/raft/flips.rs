//! Flipped bits of files, met in processes that a panic ends, as it ends a member.
//!
//! redb panics where it cannot parse a page, and sometimes once more while it unwinds, which no test survives. So the
//! test runs itself again, in a process with the hook of the server for panics, and counts what became of that. A
//! process that has ended is followed by another one, which goes on with the next flip.

use std::{
    env,
    io::{self, Write as _},
    ops::Range,
    process::{Command, Output},
};

use crate::storage::name_damaged_files;

/// The flips of a process, set in its environment, as two numbers with `..` between them.
const FLIPS: &str = "RETCD_CONTRACT_FLIPS_APART";

/// What became of a flip that did not end the process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Met {
    /// The start was refused, with the name of the file.
    Refused,
    /// The start found everything as it was.
    Harmless,
}

/// How many bits are flipped in each kind of file.
pub(super) fn wanted(default: u64) -> u64 {
    env::var("RETCD_CONTRACT_FLIPS").map_or(default, |text| text.parse().expect("a number"))
}

/// In a process that `test` has started: the flips that it has to meet, each to be reported with [`tell`]. `None` in
/// the test itself, once all were met. The first `flips` are those of the first of `kinds`, and so on: a kind is what
/// the path of a file begins with. Only redb may end a process, with the name of such a file.
pub(super) fn apart(test: &str, kinds: &[&str], flips: u64) -> Option<Range<u64>> {
    if let Ok(range) = env::var(FLIPS) {
        name_damaged_files(|line| {
            // Without it the test says that the file was not named.
            let _ = writeln!(io::stderr(), "{line}");
        });
        let (from, until) = range.split_once("..").expect("two numbers");
        return Some(from.parse().expect("a number")..until.parse().expect("a number"));
    }
    for (number, kind) in kinds.iter().enumerate() {
        let mut flip = number as u64 * flips;
        let end = flip + flips;
        let (mut refused, mut harmless, mut stopped) = (0, 0, 0);
        while flip < end {
            let process = Ended::of(test, flip, end);
            refused += process.count(Met::Refused);
            harmless += process.count(Met::Harmless);
            stopped += u64::from(process.has_stopped(kind));
            let met = number as u64 * flips + refused + harmless + stopped;
            assert!(met > flip, "{test} meets none of the flips from {flip} on");
            flip = met;
        }
        // Nobody is harmed if it cannot be written.
        let _ = writeln!(
            io::stdout(),
            "contract: {flips} flips in {kind}: {refused} refused, {stopped} stopped redb, {harmless} harmless"
        );
    }
    None
}

/// To be called for each flip in the end, in order.
pub(super) fn tell(met: Met) {
    writeln!(io::stdout(), "flip {met:?}").expect("the test reads it");
}

/// What a process has left.
struct Ended(Output);

impl Ended {
    fn of(test: &str, from: u64, until: u64) -> Ended {
        let program = env::current_exe().expect("a test is a program");
        let mut command = Command::new(program);
        command.args(["--exact", test, "--nocapture"]).env(FLIPS, format!("{from}..{until}"));
        Ended(command.output().expect("a test can be started"))
    }

    fn count(&self, met: Met) -> u64 {
        let line = format!("flip {met:?}");
        // The test runner may have begun the line.
        let told = String::from_utf8_lossy(&self.0.stdout);
        told.lines().filter(|told| told.ends_with(&line)).count() as u64
    }

    /// Whether redb has ended it, which it does with the name of the file.
    fn has_stopped(&self, kind: &str) -> bool {
        let told = String::from_utf8_lossy(&self.0.stderr);
        match self.0.status.code() {
            Some(0) => false,
            Some(1) if told.contains(kind) && told.contains("is damaged: ") => true,
            _ => panic!("{:?} after {}: {told}", self.0.status, String::from_utf8_lossy(&self.0.stdout)),
        }
    }
}
