//! Which branches a transaction takes.
//!
//! Every comparison is made with the state before the transaction, also those of the transactions nested in
//! the chosen branch. The result is a [`Plan`]: the operations of the chosen branches, in order.

use std::slice;

use super::compare::CompareWalk;
use crate::{
    apply::{Compare, Op, Txn},
    mvcc::{Step, Store},
    storage::StorageError,
    types::Revision,
};

/// The operations of the chosen branches, in order.
pub(super) type Plan<'t> = Vec<Planned<'t>>;

pub(super) enum Planned<'t> {
    /// A transaction begins: whether its comparisons hold, and the number of operations in the chosen branch.
    /// A nested transaction counts as one operation.
    Enter { succeeded: bool, ops: usize },
    /// An operation that is not a transaction.
    Op(&'t Op),
}

/// The comparisons of a transaction. They do not borrow the store: the caller may release the store between
/// two steps, as long as the state that is compared stays readable.
pub(super) struct Decision<'t> {
    plan: Plan<'t>,
    /// The operations of the chosen branches that were not looked at yet, the innermost branch last.
    branches: Vec<slice::Iter<'t, Op>>,
    comparing: Option<Comparing<'t>>,
}

struct Comparing<'t> {
    txn: &'t Txn,
    rest: slice::Iter<'t, Compare>,
    walk: Option<CompareWalk<'t>>,
}

impl<'t> Decision<'t> {
    pub(super) fn new(txn: &'t Txn) -> Decision<'t> {
        Decision { plan: Plan::new(), branches: Vec::new(), comparing: Some(Comparing::new(txn)) }
    }

    /// Makes the next comparisons, with the state just before a revision. `keys_left` is the number of keys
    /// that may be visited, and is reduced by those that were. After [`Step::More`], [`Decision::digest`] is
    /// to be called before the next step.
    pub(super) fn step(&mut self, store: &Store, before: Revision, keys_left: &mut usize) -> Step {
        loop {
            if let Some(comparing) = &mut self.comparing {
                let Some(succeeded) = comparing.step(store, before, keys_left) else { return Step::More };
                let txn = comparing.txn;
                let ops = if succeeded { &txn.success } else { &txn.failure };
                self.plan.reserve(1 + ops.len());
                self.plan.push(Planned::Enter { succeeded, ops: ops.len() });
                self.branches.push(ops.iter());
                self.comparing = None;
            }
            let Some(branch) = self.branches.last_mut() else { return Step::Done };
            match branch.next() {
                None => drop(self.branches.pop()),
                Some(Op::Txn(inner)) => self.comparing = Some(Comparing::new(inner)),
                Some(op) => self.plan.push(Planned::Op(op)),
            }
        }
    }

    /// Reads records that a comparison needs from the database, a bounded number of them. To be called
    /// without the store, until it returns [`Step::Done`].
    pub(super) fn digest(&mut self) -> Result<Step, StorageError> {
        match &mut self.comparing {
            Some(Comparing { walk: Some(walk), .. }) => walk.digest(),
            _ => Ok(Step::Done),
        }
    }

    /// The plan, after the last step.
    pub(super) fn into_plan(self) -> Plan<'t> {
        assert!(self.comparing.is_none() && self.branches.is_empty(), "every branch was decided");
        self.plan
    }
}

impl<'t> Comparing<'t> {
    fn new(txn: &'t Txn) -> Comparing<'t> {
        Comparing { txn, rest: txn.compares.iter(), walk: None }
    }

    /// Whether all comparisons hold; `None` if that is not known yet.
    fn step(&mut self, store: &Store, before: Revision, keys_left: &mut usize) -> Option<bool> {
        loop {
            if self.walk.is_none() {
                let Some(compare) = self.rest.next() else { return Some(true) };
                self.walk = Some(CompareWalk::new(compare));
            }
            let walk = self.walk.as_mut()?;
            if walk.verdict().is_none() {
                if *keys_left == 0 {
                    return None;
                }
                walk.step(store, before, keys_left);
            }
            match walk.verdict()? {
                true => self.walk = None,
                false => return Some(false),
            }
        }
    }
}
