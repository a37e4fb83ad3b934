//! Where a write spent its time.
//!
//! ```text
//! queued ---- queue ----> taken ---- fsync ----> on the disk ---- quorum ----> committed ---- apply ----> done
//! ```
//!
//! A batch carries the first two times with it, the state machine knows the last two, and the log
//! remembers only the syncs that were slow. So a fast batch costs nothing more; for a slow batch the four
//! durations are computed, and the longest is named.
//!
//! The member that put a batch into its log knows all four durations. The others only apply the batch, and
//! know nothing of its time in the queue and of its wait for a quorum.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// When a batch came in. Known to the member that proposed it, as long as it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began {
    /// The oldest of its commands was queued, or a little before.
    pub(crate) queued: Instant,
    /// It was handed to the log.
    pub(crate) taken: Instant,
}

/// A batch, from the queue until it was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stages {
    pub(super) queue: Duration,
    pub(super) fsync: Duration,
    pub(super) quorum: Duration,
    pub(super) apply: Duration,
}

impl Stages {
    /// `synced` is when the entry got to this member's disk, if that took long. Where a quorum was
    /// faster than this disk, nobody waited for it.
    pub(super) fn of(
        began: Option<Began>,
        synced: Option<Instant>,
        committed: Instant,
        done: Instant,
    ) -> Stages {
        let apply = done.saturating_duration_since(committed);
        let Some(Began { queued, taken }) = began else {
            return Stages { queue: Duration::ZERO, fsync: Duration::ZERO, quorum: Duration::ZERO, apply };
        };
        let waited = committed.saturating_duration_since(taken);
        let fsync =
            synced.map_or(Duration::ZERO, |synced| synced.saturating_duration_since(taken).min(waited));
        Stages { queue: taken.saturating_duration_since(queued), fsync, quorum: waited - fsync, apply }
    }

    pub(super) fn total(&self) -> Duration {
        self.queue + self.fsync + self.quorum + self.apply
    }

    /// The name of the longest.
    pub(super) fn slowest(&self) -> &'static str {
        let Stages { queue, fsync, quorum, apply } = *self;
        let stages = [(queue, "queue"), (fsync, "fsync"), (quorum, "quorum"), (apply, "apply")];
        stages.into_iter().max_by_key(|(took, _)| *took).map_or("", |(_, name)| name)
    }
}

/// At most one warning a second. Each says how many were suppressed since the one before.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    last: Option<Instant>,
    held_back: u64,
}

impl Warnings {
    /// How many were suppressed, if a warning may be logged now.
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < Duration::from_secs(1)) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

/// The last syncs that were slow, or all of the last ones if spans are recorded: up to which entry, and when each was through.
#[derive(Debug, Default)]
pub(crate) struct SlowSyncs(Mutex<VecDeque<(u64, Instant)>>);

impl SlowSyncs {
    /// Few batches are in flight at a time, so few syncs can be one that a batch waited for.
    const KEPT: usize = 64;
    /// Shorter ones do not make a slow write.
    pub(super) const SLOW: Duration = Duration::from_millis(5);

    pub(super) fn note(&self, last_index: u64, synced: Instant) {
        let mut syncs = self.0.lock();
        if syncs.len() == Self::KEPT {
            syncs.pop_front();
        }
        syncs.push_back((last_index, synced));
    }

    /// When entry `index` got to the disk, if it was with a slow sync and after `taken`.
    pub(super) fn of(&self, index: u64, taken: Instant) -> Option<Instant> {
        let syncs = self.0.lock();
        let position =
            syncs.iter().position(|(last_index, synced)| *last_index >= index && *synced >= taken)?;
        // Before the oldest sync that is known there may have been another one, which was dropped.
        let is_certain = position > 0 || syncs.len() < Self::KEPT;
        is_certain.then(|| syncs[position].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The stages of a batch that was queued at 0, by the moments at which each ended.
    fn stages(taken: u64, synced: Option<u64>, committed: u64, done: u64) -> ([u64; 4], &'static str) {
        let queued = Instant::now();
        let at = |moment| queued + millis(moment);
        let began = Some(Began { queued, taken: at(taken) });
        let stages = Stages::of(began, synced.map(at), at(committed), at(done));
        assert_eq!(stages.total(), millis(done));
        let Stages { queue, fsync, quorum, apply } = stages;
        ([queue, fsync, quorum, apply].map(|took| took.as_millis() as u64), stages.slowest())
    }

    #[test]
    fn the_slowest_stage_is_named() {
        assert_eq!(stages(400, None, 410, 415), ([400, 0, 10, 5], "queue"));
        assert_eq!(stages(10, Some(700), 750, 760), ([10, 690, 50, 10], "fsync"));
        assert_eq!(stages(10, Some(40), 750, 760), ([10, 30, 710, 10], "quorum"));
        assert_eq!(stages(10, None, 20, 760), ([10, 0, 10, 740], "apply"));
        assert_eq!(stages(10, Some(900), 30, 40), ([10, 20, 0, 10], "fsync"), "no more than was waited");
    }

    #[test]
    fn what_was_proposed_elsewhere_was_only_applied_here() {
        let now = Instant::now();
        let stages = Stages::of(None, Some(now), now, now + millis(300));
        assert_eq!((stages.total(), stages.slowest()), (millis(300), "apply"));
    }

    #[test]
    fn a_slow_disk_does_not_fill_the_log() {
        let now = Instant::now();
        let mut warnings = Warnings::default();
        assert_eq!(warnings.next(now), Some(0));
        assert_eq!(warnings.next(now + millis(300)), None);
        assert_eq!(warnings.next(now + millis(999)), None);
        assert_eq!(warnings.next(now + millis(1000)), Some(2));
        assert_eq!(warnings.next(now + millis(2500)), Some(0));
    }

    #[test]
    fn a_slow_sync_is_found_by_the_entries_that_it_took_along() {
        let (now, syncs) = (Instant::now(), SlowSyncs::default());
        for number in 0..80u64 {
            syncs.note(number * 10, now + millis(number));
        }
        assert_eq!(syncs.of(395, now), Some(now + millis(40)));
        assert_eq!(syncs.of(790, now), Some(now + millis(79)));
        assert_eq!(syncs.of(791, now), None, "it was not slow");
        assert_eq!(syncs.of(395, now + millis(50)), Some(now + millis(50)), "never before it was proposed");
        assert_eq!(syncs.of(95, now), None, "it was too long ago");
        assert_eq!(syncs.0.lock().len(), SlowSyncs::KEPT);
    }
}
