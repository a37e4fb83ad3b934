//! The log that this member will have when consensus has handled the appends that were judged.
//!
//! Consensus notes the last entry up to which the log agreed with the leader's, and commits up to there as
//! soon as the leader says so. It does not notice if a later message of the same leader cuts the log below
//! that entry, or if a commit index has a lower term and a higher index. Then it commits entries that the
//! log does not hold. A correct leader cannot cause this, because it never contradicts its own log. So an
//! append is compared here with what the same leader has shown before, and its commit index is passed on
//! only if the log will hold that entry.
//!
//! Appends are judged before consensus handles those ahead of them, so the log's store may be behind. This
//! is why the effect of each append is worked out here. It begins with what consensus itself says of its
//! log when a leader sends its first append.

use std::collections::VecDeque;

use openraft::{RaftState, entry::RaftEntry, raft::AppendEntriesRequest};

use super::{
    codec,
    plausible::Implausible,
    typ::{LogId, TypeConfig, Vote},
};
use crate::wal::LogPosition;

#[derive(Debug, Default)]
pub(super) struct ExpectedLog {
    /// The leader whose appends were judged last.
    leader: Option<Vote>,
    /// The last entry up to which the log is that leader's.
    agreed: Option<LogPosition>,
    /// `None` if consensus has to be asked again.
    tail: Option<Tail>,
}

impl ExpectedLog {
    /// Whether the effect of an append of this leader is known. If not, [`ExpectedLog::begin`] comes first.
    pub(super) fn follows(&self, leader: &Vote) -> bool {
        self.tail.is_some() && self.leader == Some(*leader)
    }

    /// Begins with the log as it is. Everything that was judged before was handled, and nothing since.
    pub(super) fn begin(&mut self, leader: &Vote, tail: Tail) {
        if self.leader != Some(*leader) {
            self.leader = Some(*leader);
            // What is committed is in the log of every later leader.
            self.agreed = tail.committed;
        }
        self.tail = Some(tail);
    }

    /// Judges an append of the leader that is followed, and works out its effect. Of the commit index it
    /// leaves what the log will hold.
    pub(super) fn append(
        &mut self,
        committed: Option<LogPosition>,
        request: &mut AppendEntriesRequest<TypeConfig>,
    ) -> Result<(), Implausible> {
        let tail = self.tail.as_mut().expect("the leader is followed");
        tail.commit(committed);
        let previous = request.prev_log_id.as_ref().map(codec::position);
        let commit = request.leader_commit.as_ref().map(codec::position);
        let entries = request.entries.iter().map(|entry| codec::position(&entry.log_id()));
        for at in previous.into_iter().chain(entries.clone()).chain(commit) {
            tail.confirm(self.agreed, at)?;
        }
        if let Some(previous) = previous
            && !tail.holds(previous)
        {
            // Consensus cuts the log there, and answers that the logs differ.
            tail.cut(previous.index);
            request.leader_commit = None;
            return Ok(());
        }
        let mut last = previous;
        for at in entries {
            tail.put(at);
            last = Some(at);
        }
        if self.agreed.map(|agreed| agreed.index) < last.map(|last| last.index) {
            self.agreed = last;
        }
        if commit.is_some_and(|commit| !tail.holds(commit)) {
            request.leader_commit = None;
        }
        Ok(())
    }

    /// Judges the last entry of a snapshot of the leader that is followed, which will replace the log up to
    /// that entry.
    pub(super) fn snapshot(&mut self, last: LogPosition) -> Result<(), Implausible> {
        let tail = self.tail.take().expect("the leader is followed");
        tail.confirm(self.agreed, last)?;
        if self.agreed.is_none_or(|agreed| agreed.index < last.index) {
            self.agreed = Some(last);
        }
        Ok(())
    }
}

/// A log behind what is committed, by the terms of its entries.
#[derive(Debug)]
pub(super) struct Tail {
    committed: Option<LogPosition>,
    /// Entries of one term each, in their order, up to the last entry. Only those behind `committed` are
    /// asked for.
    stretches: VecDeque<Stretch>,
    /// The index behind the last entry.
    next: u64,
}

/// The first entry of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    first: u64,
    term: u64,
}

impl Tail {
    /// The log as consensus knows it.
    pub(super) fn of(state: &RaftState<TypeConfig>) -> Tail {
        let committed = state.local_committed().map(codec::position);
        Tail::new(committed, state.log_ids.last().copied(), |index| state.log_ids.get(index))
    }

    fn new(committed: Option<LogPosition>, last: Option<LogId>, at: impl Fn(u64) -> Option<LogId>) -> Tail {
        let begin = committed.map_or(0, |committed| committed.index + 1);
        let next = last.map_or(0, |last| last.index + 1).max(begin);
        let term_at = |index| at(index).map(|log_id| log_id.leader_id.term);
        let mut stretches = VecDeque::new();
        let mut end = next;
        while end > begin {
            let Some(term) = term_at(end - 1) else { break };
            // Terms do not fall, so the entries of a term are found by halving.
            let (mut before, mut first) = (begin, end - 1);
            while before < first {
                let middle = before + (first - before) / 2;
                if term_at(middle) == Some(term) { first = middle } else { before = middle + 1 }
            }
            stretches.push_front(Stretch { first, term });
            end = first;
        }
        Tail { committed, stretches, next }
    }

    fn committed_next(&self) -> u64 {
        self.committed.map_or(0, |committed| committed.index + 1)
    }

    /// Consensus has come further.
    fn commit(&mut self, committed: Option<LogPosition>) {
        let Some(committed) = committed.filter(|committed| committed.index >= self.committed_next()) else {
            return;
        };
        self.committed = Some(committed);
        self.next = self.next.max(committed.index + 1);
        while self.stretches.get(1).is_some_and(|second| second.first <= committed.index + 1) {
            self.stretches.pop_front();
        }
    }

    /// The term of an entry that is not known to be committed.
    fn term_at(&self, index: u64) -> Option<u64> {
        if index >= self.next {
            return None;
        }
        let behind = self.stretches.partition_point(|stretch| stretch.first <= index);
        Some(self.stretches[behind.checked_sub(1)?].term)
    }

    /// Whether the log holds the entry. Consensus takes that for granted up to the committed one.
    fn holds(&self, at: LogPosition) -> bool {
        at.index < self.committed_next() || self.term_at(at.index) == Some(at.term)
    }

    /// Whether what a leader says of an entry agrees with what is known of its log: up to `agreed` it is
    /// this log, and behind it the terms are not lower.
    fn confirm(&self, agreed: Option<LogPosition>, at: LogPosition) -> Result<(), Implausible> {
        let Some(agreed) = agreed else { return Ok(()) };
        let (agrees, known) = match self.committed {
            Some(committed) if at.index < committed.index => (at.term <= committed.term, committed),
            Some(committed) if at.index == committed.index => (at.term == committed.term, committed),
            _ if at.index > agreed.index => (at.term >= agreed.term, agreed),
            _ => {
                let term = self.term_at(at.index).unwrap_or(agreed.term);
                (at.term == term, LogPosition { term, index: at.index })
            }
        };
        if agrees {
            return Ok(());
        }
        Err(Implausible::Contradiction {
            index: at.index,
            term: at.term,
            known: known.index,
            known_term: known.term,
        })
    }

    /// Removes the entries from `index` on.
    fn cut(&mut self, index: u64) {
        assert!(index >= self.committed_next(), "committed entries are not cut off");
        self.next = self.next.min(index);
        while self.stretches.back().is_some_and(|last| last.first >= index) {
            self.stretches.pop_back();
        }
    }

    /// Puts an entry in its place, as consensus does: if another one is there, it and what follows is
    /// removed first.
    fn put(&mut self, at: LogPosition) {
        if self.holds(at) {
            return;
        }
        self.cut(at.index);
        if self.stretches.back().is_none_or(|last| last.term != at.term) {
            self.stretches.push_back(Stretch { first: at.index, term: at.term });
        }
        self.next = at.index + 1;
    }
}

#[cfg(test)]
mod tests {
    use openraft::{EntryPayload, vote::leader_id_std::LeaderId};

    use super::*;
    use crate::raft::typ::Entry;

    fn at(term: u64, index: u64) -> LogPosition {
        LogPosition { term, index }
    }

    /// Committed up to entry 3 of term 1, and behind it entries 4 and 5 of term 1, and 6 to 8 of term 2.
    fn tail() -> Tail {
        let term = |index| if index > 5 { 2 } else { 1 };
        let log_id = |index| codec::log_id(at(term(index), index));
        Tail::new(Some(at(1, 3)), Some(log_id(8)), |index| (index <= 8).then(|| log_id(index)))
    }

    fn expected() -> ExpectedLog {
        let mut expected = ExpectedLog::default();
        let leader = Vote { leader_id: LeaderId { term: 5, voted_for: 7 }, committed: true };
        assert!(!expected.follows(&leader));
        expected.begin(&leader, tail());
        assert!(expected.follows(&leader));
        expected
    }

    /// The commit index that is left of an append.
    fn judge(
        expected: &mut ExpectedLog,
        previous: LogPosition,
        entries: &[LogPosition],
        commit: Option<LogPosition>,
    ) -> Result<Option<LogPosition>, Implausible> {
        let entries =
            entries.iter().map(|at| Entry { log_id: codec::log_id(*at), payload: EntryPayload::Blank });
        let mut request = AppendEntriesRequest {
            vote: expected.leader.expect("it follows one"),
            prev_log_id: Some(codec::log_id(previous)),
            entries: entries.collect(),
            leader_commit: commit.map(codec::log_id),
        };
        expected.append(None, &mut request)?;
        Ok(request.leader_commit.as_ref().map(codec::position))
    }

    #[test]
    fn the_tail_of_a_log_is_known_by_its_terms() {
        let tail = tail();
        assert_eq!(tail.stretches, [Stretch { first: 4, term: 1 }, Stretch { first: 6, term: 2 }]);
        for (held, term, index) in
            [(true, 1, 3), (true, 1, 5), (false, 2, 5), (true, 2, 6), (true, 2, 8), (false, 2, 9)]
        {
            assert_eq!(tail.holds(at(term, index)), held, "entry {index} of term {term}");
        }
    }

    #[test]
    fn a_leader_goes_back_to_where_the_logs_agree_and_on_from_there() {
        let mut expected = expected();
        let commit = Some(at(1, 4));
        assert_eq!(judge(&mut expected, at(5, 12), &[], Some(at(5, 12))), Ok(None), "not in the log yet");
        assert_eq!(judge(&mut expected, at(3, 7), &[], commit), Ok(None), "the log is cut there");
        assert_eq!(expected.tail.as_ref().map(|tail| tail.next), Some(7));
        assert_eq!(judge(&mut expected, at(1, 4), &[at(3, 5), at(3, 6)], commit), Ok(commit));
        let more = [at(3, 7), at(5, 8)];
        assert_eq!(judge(&mut expected, at(3, 6), &more, Some(at(5, 8))), Ok(Some(at(5, 8))));
        // A message that was late, and one that is repeated.
        assert_eq!(judge(&mut expected, at(1, 4), &[at(3, 5)], None), Ok(None));
        assert_eq!(judge(&mut expected, at(3, 6), &more, Some(at(5, 8))), Ok(Some(at(5, 8))));
        assert_eq!(expected.agreed, Some(at(5, 8)));
    }

    #[test]
    fn a_leader_that_contradicts_its_own_log_is_refused() {
        let lies = [
            (at(2, 7), vec![], Some(at(1, 1 << 40))),
            (at(1, 1 << 40), vec![], Some(at(1, 1 << 40))),
            (at(1, 6), vec![], None),
            (at(2, 5), vec![], None),
            (at(1, 5), vec![at(3, 6)], None),
            (at(1, 9), vec![], None),
            (at(2, 3), vec![], None),
        ];
        for (previous, entries, commit) in lies {
            let mut expected = expected();
            assert_eq!(judge(&mut expected, at(2, 8), &[], None), Ok(None));
            let refused = judge(&mut expected, previous, &entries, commit);
            assert!(matches!(refused, Err(Implausible::Contradiction { .. })), "{previous:?}: {refused:?}");
            assert_eq!(
                judge(&mut expected, at(2, 8), &[at(5, 9)], None),
                Ok(None),
                "and nothing is kept of it"
            );
        }
        let mut expected = expected();
        assert_eq!(judge(&mut expected, at(2, 8), &[], None), Ok(None));
        assert!(expected.snapshot(at(1, 100)).is_err());
    }

    #[test]
    fn what_is_committed_need_not_be_remembered() {
        let mut tail = tail();
        tail.commit(Some(at(2, 6)));
        assert_eq!(tail.stretches, [Stretch { first: 6, term: 2 }]);
        assert!(tail.holds(at(2, 8)) && !tail.holds(at(3, 8)));
        tail.commit(Some(at(2, 20)));
        assert_eq!(tail.next, 21);
        tail.put(at(3, 21));
        assert!(tail.holds(at(3, 21)) && !tail.holds(at(2, 21)));
    }
}
