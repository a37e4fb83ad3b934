//! What happened in a run, as text: the same seed gives the same text.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

/// How many of the last lines are kept of a run whose whole trace is not wanted.
const LINES_KEPT: usize = 400;

#[derive(Clone)]
pub(super) struct Trace(Arc<Mutex<Lines>>);

struct Lines {
    keeps_all: bool,
    kept: VecDeque<String>,
    /// What was done to the hosts: all of it.
    story: Vec<String>,
    digest: u32,
    /// Lines go to the standard error too, among the log lines of the members.
    echoes: bool,
}

impl Trace {
    pub(super) fn new(keeps_all: bool) -> Trace {
        Trace(Arc::new(Mutex::new(Lines {
            keeps_all,
            kept: VecDeque::new(),
            story: Vec::new(),
            digest: 0,
            echoes: std::env::var("RETCD_SIM_LOG").is_ok(),
        })))
    }

    pub(super) fn parcel(
        &self,
        now: Duration,
        call: u64,
        (from, to): (usize, usize),
        content: &impl fmt::Display,
    ) {
        self.note(now, format_args!("call {call} of {from} to {to}: {content}"), false);
    }

    /// A line of a whole trace only.
    pub(super) fn detail(&self, now: Duration, what: impl fmt::Display) {
        let keeps_all = self.0.lock().keeps_all;
        if keeps_all {
            self.note(now, what, false);
        }
    }

    pub(super) fn line(&self, now: Duration, what: impl fmt::Display) {
        self.note(now, what, true);
    }

    fn note(&self, now: Duration, what: impl fmt::Display, is_story: bool) {
        let mut lines = self.0.lock();
        let line = format!("{:.6} {what}", now.as_secs_f64());
        if lines.echoes {
            let _ = writeln!(io::stderr(), "{line}");
        }
        lines.digest = crc32c::crc32c_append(lines.digest, line.as_bytes());
        if is_story {
            lines.story.push(line.clone());
        }
        lines.kept.push_back(line);
        if !lines.keeps_all && lines.kept.len() > LINES_KEPT {
            lines.kept.pop_front();
        }
    }

    /// A checksum of all lines.
    pub(super) fn digest(&self) -> u32 {
        self.0.lock().digest
    }

    pub(super) fn text(&self) -> String {
        let lines = self.0.lock();
        lines.kept.iter().map(|line| format!("{line}\n")).collect()
    }

    pub(super) fn story(&self) -> String {
        self.0.lock().story.iter().map(|line| format!("{line}\n")).collect()
    }
}
