//! Lines on their way to the thread that writes files.

use std::{collections::VecDeque, time::Duration};

use parking_lot::{Condvar, Mutex};
use tracing::Level;

use crate::{clock, limits};

/// A line, and what the journal is told of it beside.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) level: Level,
    pub(super) package: String,
    pub(super) text: Box<[u8]>,
}

/// Its lock is held for a few instructions at a time, so that a thread that logs never waits for a disk.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Something is to be done.
    news: Condvar,
    /// Everything was done.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Of the entries that are queued or being written.
    bytes: usize,
    work: Work,
    is_working: bool,
}

/// What the thread is to do, apart from writing lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Lines that found no room here since the last time.
    pub(super) dropped: u64,
    /// The files are to be opened again by their names.
    pub(super) reopen: bool,
}

impl Queue {
    /// Drops the line if those that wait take as much memory as they may.
    pub(super) fn push(&self, entry: Entry) {
        let mut state = self.state.lock();
        if state.bytes.saturating_add(entry.text.len()) > limits::LOG_QUEUE_BYTES {
            state.work.dropped += 1;
            return;
        }
        state.bytes += entry.text.len();
        state.entries.push_back(entry);
        self.news.notify_one();
    }

    pub(super) fn reopen(&self) {
        self.state.lock().work.reopen = true;
        self.news.notify_one();
    }

    /// Waits for work. [`Queue::done`] says that it was done.
    pub(super) fn take(&self) -> (VecDeque<Entry>, Work) {
        let mut state = self.state.lock();
        while state.entries.is_empty() && !state.work.reopen {
            self.news.wait(&mut state);
        }
        state.is_working = true;
        (std::mem::take(&mut state.entries), std::mem::take(&mut state.work))
    }

    /// `bytes` of lines were written, or given up.
    pub(super) fn done(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes -= bytes;
        state.is_working = false;
        if state.entries.is_empty() && !state.work.reopen {
            self.idle.notify_all();
        }
    }

    /// Waits until nothing is left to do, or until the time is over.
    pub(super) fn flush(&self, patience: Duration) {
        let deadline = clock::now() + patience;
        let mut state = self.state.lock();
        while state.is_working || !state.entries.is_empty() {
            if self.idle.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(len: usize) -> Entry {
        Entry { level: Level::INFO, package: String::new(), text: vec![b'x'; len].into() }
    }

    #[test]
    fn what_waits_takes_bounded_memory_and_what_finds_no_room_is_counted() {
        let queue = Queue::default();
        let piece = limits::LOG_QUEUE_BYTES / 4;
        for _ in 0..6 {
            queue.push(entry(piece));
        }
        let (taken, work) = queue.take();
        assert_eq!((taken.len(), work), (4, Work { dropped: 2, reopen: false }));
        queue.push(entry(1));
        assert_eq!(queue.state.lock().work.dropped, 1, "what is being written counts until it is written");
        queue.done(4 * piece);
        queue.push(entry(1));
        let (taken, work) = queue.take();
        assert_eq!((taken.len(), work.dropped), (1, 1));
    }

    #[test]
    fn whoever_flushes_waits_for_what_is_being_written_and_not_for_ever() {
        let queue = Queue::default();
        queue.flush(Duration::from_secs(3600));
        queue.push(entry(1));
        let (_taken, _) = queue.take();
        queue.flush(Duration::ZERO);
        queue.done(1);
        queue.flush(Duration::from_secs(3600));
    }
}
