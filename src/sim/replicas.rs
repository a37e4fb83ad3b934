//! Judge: members that have applied the same entries have the same state.
//!
//! "State Machine Safety: if a server has applied a log entry at a given index to its state machine, no other server will
//! ever apply a different log entry for the same index" (Ongaro and Ousterhout, In Search of an Understandable Consensus
//! Algorithm, section 5.2, figure 3). Members compare their histories themselves, and that must not be a false alarm.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::{Glance, Node};

/// For how many entries it is remembered what a member had after them.
const ENTRIES_KEPT: u64 = 5000;

#[derive(Default)]
pub(super) struct Replicas {
    /// What somebody had after so many entries, and who.
    seen: BTreeMap<u64, (usize, String)>,
    /// The entries of each member at the last look.
    last: BTreeMap<usize, u64>,
    /// The members whose disks were damaged. Of no other may an alarm say so.
    pub(super) damaged: BTreeSet<u64>,
    /// Somebody has asked for an alarm that says that a database is full: the quota is out of reach.
    may_lack_space: bool,
    /// The last look at a member has shown an alarm of a damaged one.
    pub(super) has_found_damage: bool,
}

impl Replicas {
    pub(super) fn new(may_lack_space: bool) -> Replicas {
        Replicas { may_lack_space, ..Replicas::default() }
    }

    /// Looks at all members. An error is a violation.
    pub(super) fn see(&mut self, members: impl Iterator<Item = (usize, Node)>) -> Result<(), String> {
        for (member, node) in members {
            let last = self.last.get(&member).copied();
            let Some(glance) = node.glance(last) else { continue };
            let Glance { applied: index, state, corrupt, lacks_space, has_strangers } = glance;
            self.last.insert(member, index);
            let is_false = corrupt.iter().any(|id| !self.damaged.contains(&id.0));
            if is_false || lacks_space && !self.may_lack_space {
                return Err(format!("after entry {index}, m{member} has an alarm: {state}"));
            }
            self.has_found_damage = !corrupt.is_empty();
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
