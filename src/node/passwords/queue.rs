//! Which password is next, so that those who were wrong lately do not hold up the others.
//!
//! ```text
//! rank 0   network A: a a     network B: b       in turns: a b a
//! rank 1   network A: a
//! rank 2   network C: c c c c c c c c c
//! ```
//!
//! A password has a rank: whether its connection was wrong lately, and whether its user was wrong lately in that
//! network, are one each. The lowest rank is first, but for every fourth password, so that who has mistyped a password gets
//! in beside a flood of others who have. Within a rank networks take turns, so that a flood from one of them holds up
//! itself.

use std::collections::{BTreeMap, VecDeque};

use super::origin::Network;
use crate::limits::PASSWORDS_WAITING;

/// How often the password, or its client, was wrong lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u8);

impl Rank {
    const COUNT: usize = 3;

    pub(super) fn of(is_connection_wrong: bool, is_user_wrong: bool) -> Rank {
        Rank(u8::from(is_connection_wrong) + u8::from(is_user_wrong))
    }

    fn number(self) -> usize {
        usize::from(self.0)
    }
}

pub(super) struct Queue<J> {
    lanes: [Lane<J>; Rank::COUNT],
    /// In all lanes.
    waiting: usize,
    /// How many were taken, by which every fourth is known.
    taken: usize,
}

/// The passwords of one rank.
struct Lane<J> {
    jobs: BTreeMap<Network, VecDeque<J>>,
    /// Those networks, the next one first.
    turns: VecDeque<Network>,
}

impl<J> Queue<J> {
    pub(super) fn new() -> Queue<J> {
        Queue { lanes: std::array::from_fn(|_| Lane::new()), waiting: 0, taken: 0 }
    }

    /// Returns the one that has to go if there are too many: of the worst rank, of the network with the most, the
    /// last. That may be the new one.
    pub(super) fn push(&mut self, job: J, network: Network, rank: Rank) -> Option<J> {
        self.lanes[rank.number()].push(job, network);
        if self.waiting < PASSWORDS_WAITING {
            self.waiting += 1;
            return None;
        }
        self.lanes.iter_mut().rev().find_map(Lane::drop_one)
    }

    /// `rank` is asked again, because a job may have waited for long.
    pub(super) fn pop(&mut self, rank: impl Fn(&J) -> Rank) -> Option<J> {
        let lowest_first = 0..Rank::COUNT;
        let favoured = match self.taken % 8 {
            3 => 1,
            7 => 2,
            _ => 0,
        };
        loop {
            let mut order = std::iter::once(favoured).chain(lowest_first.clone());
            let at = order.find(|at| !self.lanes[*at].turns.is_empty())?;
            let (job, network) = self.lanes[at].pop()?;
            let now = rank(&job).number();
            if now > at {
                self.lanes[now].push(job, network);
                continue;
            }
            self.waiting -= 1;
            self.taken = self.taken.wrapping_add(1);
            return Some(job);
        }
    }
}

impl<J> Lane<J> {
    fn new() -> Lane<J> {
        Lane { jobs: BTreeMap::new(), turns: VecDeque::new() }
    }

    fn push(&mut self, job: J, network: Network) {
        let jobs = self.jobs.entry(network).or_default();
        if jobs.is_empty() {
            self.turns.push_back(network);
        }
        jobs.push_back(job);
    }

    fn pop(&mut self) -> Option<(J, Network)> {
        let network = self.turns.pop_front()?;
        let jobs = self.jobs.get_mut(&network)?;
        let job = jobs.pop_front()?;
        if jobs.is_empty() {
            self.jobs.remove(&network);
        } else {
            self.turns.push_back(network);
        }
        Some((job, network))
    }

    fn drop_one(&mut self) -> Option<J> {
        let (network, jobs) = self.jobs.iter_mut().max_by_key(|(_, jobs)| jobs.len())?;
        let network = *network;
        let job = jobs.pop_back()?;
        if jobs.is_empty() {
            self.jobs.remove(&network);
            self.turns.retain(|other| *other != network);
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Network = Network::V4([10, 0, 0, 1]);
    const B: Network = Network::V4([10, 0, 0, 2]);
    const CLEAN: Rank = Rank(0);
    const WRONG: Rank = Rank(2);

    /// All that wait, in the order in which they are taken.
    fn drain(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop(|_| CLEAN)).collect()
    }

    #[test]
    fn networks_take_turns() {
        let mut queue = Queue::new();
        for job in ["a1", "a2", "a3"] {
            assert_eq!(queue.push(job, A, CLEAN), None);
        }
        queue.push("b1", B, CLEAN);
        assert_eq!(drain(&mut queue), ["a1", "b1", "a2", "a3"]);
        assert_eq!((queue.waiting, queue.pop(|_| CLEAN)), (0, None));
    }

    #[test]
    fn who_was_wrong_lately_waits_for_those_who_were_not_and_not_for_ever() {
        let mut queue = Queue::new();
        for _ in 0..20 {
            queue.push("wrong", A, WRONG);
            queue.push("once wrong", A, Rank(1));
        }
        for _ in 0..12 {
            queue.push("clean", A, CLEAN);
        }
        let order: Vec<_> = (0..16).filter_map(|_| queue.pop(|job| rank_of(job))).collect();
        let at = |name: &str| -> Vec<usize> { (0..16).filter(|at| order[*at] == name).collect() };
        assert_eq!(at("once wrong"), [3, 11]);
        assert_eq!(at("wrong"), [7, 15]);
        assert_eq!(at("clean").len(), 12);
        assert_eq!(queue.pop(|job| rank_of(job)), Some("once wrong"), "of the rest the better first");
    }

    fn rank_of(job: &str) -> Rank {
        match job {
            "wrong" => WRONG,
            "once wrong" => Rank(1),
            _ => CLEAN,
        }
    }

    #[test]
    fn who_was_wrong_while_it_waited_goes_back() {
        let mut queue = Queue::new();
        for job in ["first", "meanwhile wrong", "last"] {
            queue.push(job, A, CLEAN);
        }
        let rank = |job: &&str| if *job == "meanwhile wrong" { WRONG } else { CLEAN };
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(rank)).collect();
        assert_eq!(order, ["first", "last", "meanwhile wrong"]);
        assert_eq!(queue.waiting, 0);
    }

    #[test]
    fn when_it_is_full_the_worst_go() {
        let mut queue = Queue::new();
        for number in 0..PASSWORDS_WAITING {
            assert_eq!(queue.push("flood", A, if number % 2 == 0 { WRONG } else { CLEAN }), None);
        }
        assert_eq!(queue.push("clean", B, CLEAN), Some("flood"));
        assert_eq!(queue.push("wrong", B, WRONG), Some("flood"), "of the network with the most");
        assert_eq!(queue.push("flood", A, WRONG), Some("flood"));
        assert_eq!(queue.waiting, PASSWORDS_WAITING);
        let all: Vec<_> = std::iter::from_fn(|| queue.pop(|_| CLEAN)).collect();
        assert_eq!(all.len(), PASSWORDS_WAITING);
        assert!(all[..4].contains(&"clean") && all.contains(&"wrong"));
    }

    #[test]
    fn a_full_queue_of_those_who_are_not_wrong_is_shared_among_networks() {
        let mut queue = Queue::new();
        for _ in 0..PASSWORDS_WAITING {
            queue.push("a", A, CLEAN);
        }
        for _ in 0..PASSWORDS_WAITING / 2 {
            assert_eq!(queue.push("b", B, CLEAN), Some("a"));
        }
        assert_eq!(queue.push("b", B, CLEAN), Some("b"), "it has its half");
        assert_eq!(queue.push("wrong", B, WRONG), Some("wrong"));
    }
}
