//! The last minutes of this member in figures, and which revision was current when during the last day.
//!
//! Prometheus has more, where it is set up. This is for whoever opens the console at night and has to see what has
//! just happened. It is kept in memory: about 40 KB, and empty after a restart.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;

/// The time between two samples, and how many are kept: 15 minutes.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
const SAMPLES_KEPT: usize = 180;

/// The time between two revisions that are noted, and how many are kept: a day.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);
const NOTES_KEPT: usize = 24 * 60;

/// The counts since the start that rates are made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) puts: u64,
    pub(crate) ranges: u64,
    /// The upper bound of each bucket of the histogram of syncs in milliseconds, and how many took at most that long.
    pub(crate) fsyncs_ms: Vec<(f64, u64)>,
}

/// What is known at the moment of a sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) rev: i64,
    pub(crate) watchers: u64,
    pub(crate) db_bytes: i64,
    pub(crate) db_in_use_bytes: i64,
    pub(crate) counts: Counts,
}

/// One moment, and the rates since the sample before it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// The time since 1970.
    pub(crate) at: Duration,
    pub(crate) rev: i64,
    pub(crate) watchers: u64,
    pub(crate) db_bytes: i64,
    pub(crate) db_in_use_bytes: i64,
    pub(crate) puts_per_s: f64,
    pub(crate) ranges_per_s: f64,
    /// `None` if nothing was synced.
    pub(crate) fsync_p99_ms: Option<f64>,
}

/// A revision that was current at a time, which is the time since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) at: Duration,
    pub(crate) rev: i64,
}

#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    before: Option<(Duration, Counts)>,
    samples: VecDeque<Sample>,
    notes: VecDeque<Note>,
}

impl History {
    /// To be called every [`SAMPLE_INTERVAL`]. `now` is the time since 1970; it may jump.
    pub(crate) fn take(&self, now: Duration, reading: Reading) {
        self.0.lock().take(now, reading);
    }

    /// The samples and the notes, oldest first.
    pub(crate) fn read(&self) -> (Vec<Sample>, Vec<Note>) {
        let kept = self.0.lock();
        (kept.samples.iter().cloned().collect(), kept.notes.iter().copied().collect())
    }
}

impl Kept {
    fn take(&mut self, now: Duration, reading: Reading) {
        let Reading { rev, watchers, db_bytes, db_in_use_bytes, counts } = reading;
        // A clock that was set back makes what was noted of the future useless.
        self.samples.retain(|sample| sample.at < now);
        self.notes.retain(|note| note.at < now);
        if self.notes.back().is_none_or(|note| now >= note.at + NOTE_INTERVAL) {
            push(&mut self.notes, NOTES_KEPT, Note { at: now, rev });
        }
        if let Some((at, before)) = self.before.replace((now, counts.clone()))
            && now > at
        {
            let secs = (now - at).as_secs_f64();
            let sample = Sample {
                at: now,
                rev,
                watchers,
                db_bytes,
                db_in_use_bytes,
                puts_per_s: counts.puts.saturating_sub(before.puts) as f64 / secs,
                ranges_per_s: counts.ranges.saturating_sub(before.ranges) as f64 / secs,
                fsync_p99_ms: p99(&before.fsyncs_ms, &counts.fsyncs_ms),
            };
            push(&mut self.samples, SAMPLES_KEPT, sample);
        }
    }
}

fn push<T>(queue: &mut VecDeque<T>, kept: usize, item: T) {
    if queue.len() == kept {
        queue.pop_front();
    }
    queue.push_back(item);
}

/// The 99th percentile of what was added to a histogram between two readings of it, as Prometheus estimates it: evenly
/// distributed within a bucket.
fn p99(before: &[(f64, u64)], after: &[(f64, u64)]) -> Option<f64> {
    let added = |index: usize| {
        let known = before.get(index).map_or(0, |(_, count)| *count);
        after[index].1.saturating_sub(known)
    };
    let total = added(after.len().checked_sub(1)?);
    if total == 0 {
        return None;
    }
    let rank = total as f64 * 0.99;
    let index = (0..after.len()).find(|&index| added(index) as f64 >= rank)?;
    let (below, from) = match index.checked_sub(1) {
        Some(index) => (added(index), after[index].0),
        None => (0, 0.0),
    };
    let upper = after[index].0;
    // The last bucket has no upper bound.
    if upper.is_infinite() {
        return Some(from);
    }
    Some(from + (upper - from) * (rank - below as f64) / (added(index) - below) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn reading(rev: i64, puts: u64) -> Reading {
        Reading { rev, counts: Counts { puts, ..Counts::default() }, ..Reading::default() }
    }

    #[test]
    fn rates_are_those_since_the_sample_before() {
        let history = History::default();
        for (at, puts) in [(100, 0), (105, 50), (110, 50), (120, 150)] {
            history.take(secs(at), reading(1, puts));
        }
        let (samples, _) = history.read();
        let rates: Vec<(u64, f64)> =
            samples.iter().map(|sample| (sample.at.as_secs(), sample.puts_per_s)).collect();
        assert_eq!(rates, [(105, 10.0), (110, 0.0), (120, 10.0)]);
    }

    #[test]
    fn a_quarter_of_an_hour_is_kept_and_a_day_of_revisions() {
        let history = History::default();
        for sample in 0..20_000 {
            history.take(secs(1_000_000) + SAMPLE_INTERVAL * sample, reading(i64::from(sample), 0));
        }
        let (samples, notes) = history.read();
        assert_eq!((samples.len(), notes.len()), (SAMPLES_KEPT, NOTES_KEPT));
        assert_eq!(samples.last().map(|sample| sample.rev), Some(19_999));
        let noted = notes.windows(2).all(|pair| pair[1].at - pair[0].at == NOTE_INTERVAL);
        assert!(noted, "a revision a minute");
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_mess() {
        let history = History::default();
        for at in [100, 105, 110, 50, 55] {
            history.take(secs(at), reading(1, at));
        }
        let (samples, notes) = history.read();
        let times: Vec<u64> = samples.iter().map(|sample| sample.at.as_secs()).collect();
        assert_eq!(times, [55], "what was noted of the future is gone");
        assert_eq!(notes, [Note { at: secs(50), rev: 1 }]);
    }

    #[test]
    fn the_percentile_is_of_what_was_added() {
        let before = [(1.0, 1000), (2.0, 1000), (f64::INFINITY, 1000)];
        let after = [(1.0, 1000), (2.0, 1100), (f64::INFINITY, 1100)];
        assert_eq!(p99(&before, &after), Some(1.99));
        assert_eq!(p99(&after, &after), None, "nothing was added");
        let slow = [(1.0, 1000), (2.0, 1100), (f64::INFINITY, 1200)];
        assert_eq!(p99(&after, &slow), Some(2.0), "beyond the last bound nothing is known");
        assert_eq!(p99(&[], &after), Some(1.0 + (1089.0 - 1000.0) / 100.0), "since the start");
    }
}
