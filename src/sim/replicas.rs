//! Judge: members that have applied the same entries have the same state.
//!
//! "State Machine Safety: if a server has applied a log entry at a given index to its state machine, no other server will
//! ever apply a different log entry for the same index" (Ongaro and Ousterhout, In Search of an Understandable Consensus
//! Algorithm, section 5.2, figure 3). Members compare their histories themselves, and that must not be a false alarm.

use std::collections::BTreeMap;

use crate::node::{Glance, Node};

/// For how many entries it is remembered what a member had after them.
const ENTRIES_KEPT: u64 = 5000;

#[derive(Default)]
pub(super) struct Replicas {
    /// What somebody had after so many entries, and who.
    seen: BTreeMap<u64, (usize, String)>,
    /// The entries of each member at the last look.
    last: BTreeMap<usize, u64>,
}

impl Replicas {
    /// Looks at all members. An error is a violation.
    pub(super) fn see(&mut self, members: impl Iterator<Item = (usize, Node)>) -> Result<(), String> {
        for (member, node) in members {
            let Some(Glance { applied: index, state, has_alarm, has_strangers }) = node.glance() else {
                continue;
            };
            if self.last.insert(member, index) == Some(index) {
                continue;
            }
            // Nothing of what happens in a world damages data, and the quota is out of reach.
            if has_alarm {
                return Err(format!("after entry {index}, m{member} has an alarm: {state}"));
            }
            if has_strangers {
                return Err(format!("after entry {index}, m{member} has members that were removed: {state}"));
            }
            let (other, others) = self.seen.entry(index).or_insert_with(|| (member, state.clone()));
            if *others != state {
                return Err(format!("after entry {index}, m{other} has {others}; m{member} has {state}"));
            }
            self.seen = self.seen.split_off(&index.saturating_sub(ENTRIES_KEPT));
        }
        Ok(())
    }

    /// A member has begun anew, and its state comes from its disk.
    pub(super) fn restarted(&mut self, member: usize) {
        self.last.remove(&member);
    }
}
