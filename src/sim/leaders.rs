//! Judge: at most one member leads in a term.
//!
//! "Election Safety: at most one leader can be elected in a given term" (Ongaro and Ousterhout, In Search of an
//! Understandable Consensus Algorithm, section 5.2). And the terms of a member do not fall while it runs.

use std::collections::BTreeMap;

use crate::node::Node;

#[derive(Default)]
pub(super) struct Leaders {
    /// Who has led in each term.
    of_term: BTreeMap<u64, usize>,
    /// The last term of each member.
    terms: BTreeMap<usize, u64>,
}

impl Leaders {
    /// Looks at all members. An error is a violation.
    pub(super) fn see(&mut self, members: impl Iterator<Item = (usize, Node)>) -> Result<(), String> {
        for (member, node) in members {
            let now = node.leadership();
            let before = self.terms.insert(member, now.term).unwrap_or(0);
            if now.term < before {
                return Err(format!("m{member} went from term {before} back to {}", now.term));
            }
            if now.is_leader {
                let leader = *self.of_term.entry(now.term).or_insert(member);
                if leader != member {
                    return Err(format!("m{leader} and m{member} both lead in term {}", now.term));
                }
            }
        }
        Ok(())
    }

    /// A member has begun anew, and may not know its term yet.
    pub(super) fn restarted(&mut self, member: usize) {
        self.terms.remove(&member);
    }
}
