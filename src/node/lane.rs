//! One run for all who want the same thing.
//!
//! Work that takes a thread, the disk or memory, and that any client may ask for, goes through a
//! lane. One *run* is under way at a time, and a caller that asks for the same as a waiting run shares
//! that run, so the cost does not grow with the number of callers. A waiting run does not begin once all
//! its callers have gone, and a run under way can see that and end early.

use crate::sync::watch;
use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

/// See the module. `K` is what a caller asks for, `T` is the result.
pub(super) struct Lane<K, T> {
    state: Arc<Mutex<State<K, T>>>,
    /// Runs that may wait for the one that is under way.
    waiting_max: usize,
}

struct State<K, T> {
    running: Option<Wanted<K, T>>,
    waiting: VecDeque<Wanted<K, T>>,
    /// A task or thread takes runs until there are none.
    is_driven: bool,
}

/// A run and those who wait for it: they hold receivers.
struct Wanted<K, T> {
    key: K,
    done: Arc<watch::Sender<Option<T>>>,
}

/// A place among those who wait for a run. Dropping it gives the place up.
pub(super) struct Ticket<T>(watch::Receiver<Option<T>>);

/// The maximum number of runs is waiting already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneFull;

/// Whether a run that has begun already is as good as one that begins now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    Joins,
    IsTooOld,
}

/// A run that has begun. If it is dropped unfinished, its callers learn that there will be no result.
pub(super) struct Run<K, T> {
    pub(super) key: K,
    done: Arc<watch::Sender<Option<T>>>,
    state: Arc<Mutex<State<K, T>>>,
    is_over: bool,
}

impl<K: Clone + PartialEq, T: Clone> Lane<K, T> {
    pub(super) fn new(waiting_max: usize) -> Lane<K, T> {
        assert!(waiting_max > 0);
        let state = State { running: None, waiting: VecDeque::new(), is_driven: false };
        Lane { state: Arc::new(Mutex::new(state)), waiting_max }
    }

    /// Joins a run for `key`: a waiting one, or the one under way if `begun` says that this is as good, or
    /// else a new one.
    pub(super) fn join(&self, key: K, begun: Begun) -> Result<Ticket<T>, LaneFull> {
        let mut state = self.state.lock();
        state.waiting.retain(|run| !run.done.is_closed());
        let running = state.running.iter().filter(|_| begun == Begun::Joins);
        if let Some(run) = running.chain(&state.waiting).find(|run| run.key == key) {
            return Ok(Ticket(run.done.subscribe()));
        }
        if state.waiting.len() >= self.waiting_max {
            return Err(LaneFull);
        }
        let (done, ticket) = watch::channel(None);
        state.waiting.push_back(Wanted { key, done: Arc::new(done) });
        assert!(state.waiting.len() <= self.waiting_max, "no more runs wait than may");
        Ok(Ticket(ticket))
    }

    /// The next run that still has callers. The run before it has to be over.
    pub(super) fn take(&self) -> Option<Run<K, T>> {
        let mut state = self.state.lock();
        assert!(state.running.is_none(), "one run is under way at a time");
        while let Some(Wanted { key, done }) = state.waiting.pop_front() {
            if !done.is_closed() {
                state.running = Some(Wanted { key: key.clone(), done: Arc::clone(&done) });
                return Some(Run { key, done, state: Arc::clone(&self.state), is_over: false });
            }
        }
        assert!(state.waiting.is_empty(), "a driver stops when no run waits");
        state.is_driven = false;
        None
    }

    /// True for one caller, which has to take runs until there are none.
    pub(super) fn is_mine_to_drive(&self) -> bool {
        let mut state = self.state.lock();
        !std::mem::replace(&mut state.is_driven, true)
    }
}

impl<T: Clone> Ticket<T> {
    /// `None` if the server stops before anything came of it.
    pub(super) async fn result(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl<K, T> Run<K, T> {
    /// Whether anybody waits for it still.
    pub(super) fn is_wanted(&self) -> bool {
        !self.done.is_closed()
    }

    pub(super) fn finish(mut self, result: T) {
        self.is_over = true;
        let earlier = self.done.send_replace(Some(result));
        assert!(earlier.is_none(), "a run has one result");
    }

    /// Ends a run whose callers had gone. If a caller has joined it since, the run begins again.
    pub(super) fn abandon(mut self) {
        self.is_over = true;
        let mut state = self.state.lock();
        assert!(state.running.is_some(), "a run is under way until it is over");
        let running = state.running.take();
        if self.is_wanted()
            && let Some(again) = running
        {
            state.waiting.push_front(again);
        }
    }
}

impl<K, T> Drop for Run<K, T> {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.running = None;
        // An unfinished run was dropped by its driver, so the next caller becomes the driver.
        state.is_driven &= self.is_over;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn lane() -> Lane<&'static str, u32> {
        Lane::new(2)
    }

    fn join(lane: &Lane<&'static str, u32>, key: &'static str) -> Ticket<u32> {
        lane.join(key, Begun::IsTooOld).expect("there is room")
    }

    fn result(ticket: Ticket<u32>) -> Option<Option<u32>> {
        ticket.result().now_or_never()
    }

    #[test]
    fn all_who_want_the_same_share_a_run() {
        let lane = lane();
        let tickets: Vec<_> = (0..1000).map(|_| join(&lane, "a")).collect();
        lane.take().expect("a run").finish(7);
        assert!(tickets.into_iter().all(|ticket| result(ticket) == Some(Some(7))));
        assert!(lane.take().is_none(), "one run was enough");
    }

    #[test]
    fn a_run_that_has_begun_is_joined_only_if_it_is_as_good() {
        let lane = lane();
        let first = join(&lane, "a");
        let run = lane.take().expect("a run");
        let joined = lane.join("a", Begun::Joins).expect("there is room");
        let next = join(&lane, "a");
        run.finish(1);
        assert_eq!((result(first), result(joined)), (Some(Some(1)), Some(Some(1))));
        lane.take().expect("the next run").finish(2);
        assert_eq!(result(next), Some(Some(2)));
    }

    #[test]
    fn as_many_different_runs_wait_as_may() {
        let lane = lane();
        let _running = join(&lane, "a");
        let run = lane.take().expect("a run");
        let (_b, c) = (join(&lane, "b"), join(&lane, "c"));
        assert_eq!(lane.join("d", Begun::IsTooOld).err(), Some(LaneFull));
        let _along = join(&lane, "b");
        // Who goes makes room.
        drop(c);
        let _d = join(&lane, "d");
        run.finish(0);
    }

    #[test]
    fn what_nobody_waits_for_does_not_begin() {
        let lane = lane();
        drop(join(&lane, "a"));
        let b = join(&lane, "b");
        let run = lane.take().expect("a run");
        assert_eq!(run.key, "b");
        assert!(run.is_wanted());
        drop(b);
        assert!(!run.is_wanted());
        run.abandon();
        assert!(lane.take().is_none());
    }

    #[test]
    fn an_abandoned_run_begins_anew_for_whoever_came_meanwhile() {
        let lane = lane();
        drop((join(&lane, "a"), lane.take().map(Run::abandon)));
        let first = join(&lane, "a");
        let run = lane.take().expect("a run");
        drop(first);
        let late = lane.join("a", Begun::Joins).expect("there is room");
        run.abandon();
        lane.take().expect("it begins anew").finish(3);
        assert_eq!(result(late), Some(Some(3)));
    }

    #[test]
    fn a_run_that_is_dropped_lets_go_of_those_who_wait() {
        let lane = lane();
        let ticket = join(&lane, "a");
        assert!(lane.is_mine_to_drive() && !lane.is_mine_to_drive());
        drop(lane.take());
        assert_eq!(result(ticket), Some(None));
        assert!(lane.is_mine_to_drive(), "somebody else takes the next");
    }
}
