//! The comparisons of a transaction, in strides.
//!
//! Most comparisons need the index alone. A value, or the lease that a key had in the past, may have to be
//! read from the database, which is done without the store.

use std::cmp::Ordering;

use crate::{
    apply::{Compare, CompareOperator, CompareTarget},
    limits::{READ_STRIDE_BYTES, READ_STRIDE_RECORDS},
    mvcc::{KeyAt, Located, Place, Step, Store},
    storage::StorageError,
    types::{KeyRange, KeyValue, Revision},
};

/// Finds out whether every key of a range satisfies a comparison. A range without keys is compared like a
/// key that does not exist.
pub(super) struct CompareWalk<'t> {
    compare: &'t Compare,
    /// The key that was visited last.
    after: Option<Box<[u8]>>,
    is_walked: bool,
    is_empty: bool,
    /// Whether all keys that were compared so far satisfy it.
    holds: bool,
    /// Records that [`CompareWalk::digest`] reads and compares.
    unread: Vec<Place>,
}

impl<'t> CompareWalk<'t> {
    pub(super) fn new(compare: &'t Compare) -> CompareWalk<'t> {
        CompareWalk {
            compare,
            after: None,
            is_walked: false,
            is_empty: true,
            holds: true,
            unread: Vec::new(),
        }
    }

    /// Compares the next keys, as they were just before a revision. `keys_left` is the number of keys that
    /// may be visited, and is reduced by those that were.
    pub(super) fn step(&mut self, store: &Store, before: Revision, keys_left: &mut usize) {
        assert!(self.unread.is_empty() && !self.is_walked, "every stride is digested before the next one");
        let compare = self.compare;
        if let KeyRange::Point(key) = &compare.range {
            *keys_left = keys_left.saturating_sub(1);
            self.is_walked = true;
            return match store.lookup_before(key, before) {
                Some(found) => self.judge(&found),
                None => self.holds = satisfied_by_nothing(compare),
            };
        }
        let after = self.after.take();
        let mut last = after.as_deref();
        for (key, found) in store.lookup_range_before(&compare.range, after.as_deref(), before) {
            if *keys_left == 0 || self.unread.len() == READ_STRIDE_RECORDS {
                self.after = last.map(Box::from);
                return;
            }
            if let Some(found) = found {
                self.is_empty = false;
                self.judge(&found);
                if !self.holds {
                    return;
                }
            }
            last = Some(key);
            *keys_left -= 1;
        }
        if self.is_empty {
            self.holds = satisfied_by_nothing(compare);
        }
        self.is_walked = true;
    }

    /// Reads and compares records of the last stride, a bounded number of them. To be called without the
    /// store, until it returns [`Step::Done`].
    pub(super) fn digest(&mut self) -> Result<Step, StorageError> {
        let mut bytes = 0;
        while bytes < READ_STRIDE_BYTES
            && self.holds
            && let Some(place) = self.unread.pop()
        {
            let kv = place.read()?;
            bytes += kv.key.len() + kv.value.len();
            self.holds = satisfied_by_record(self.compare, &kv);
        }
        let is_digested = self.unread.is_empty() || !self.holds;
        Ok(if is_digested { Step::Done } else { Step::More })
    }

    /// Whether the comparison holds; `None` while that is not known.
    pub(super) fn verdict(&self) -> Option<bool> {
        let is_known = !self.holds || (self.is_walked && self.unread.is_empty());
        is_known.then_some(self.holds)
    }

    fn judge(&mut self, found: &KeyAt<'_>) {
        let compare = self.compare;
        let ordering = match &compare.target {
            CompareTarget::Version(given) => Some(found.version.cmp(given)),
            CompareTarget::CreateRev(given) => Some(found.create_rev.0.cmp(given)),
            CompareTarget::ModRev(given) => Some(found.mod_rev.0.cmp(given)),
            CompareTarget::Lease(given) => found.lease.map(|lease| lease.0.cmp(given)),
            CompareTarget::Value(_) => None,
        };
        match ordering {
            Some(ordering) => self.holds = satisfied(compare.operator, ordering),
            None => match found.locate() {
                Located::Head(record) => self.holds = satisfied_by_record(compare, &record.key_value()),
                Located::Body(place) => self.unread.push(place),
            },
        }
    }
}

fn satisfied_by_record(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match &compare.target {
        CompareTarget::Version(given) => kv.version.cmp(given),
        CompareTarget::CreateRev(given) => kv.create_rev.0.cmp(given),
        CompareTarget::ModRev(given) => kv.mod_rev.0.cmp(given),
        CompareTarget::Lease(given) => kv.lease.0.cmp(given),
        CompareTarget::Value(given) => kv.value.cmp(given),
    };
    satisfied(compare.operator, ordering)
}

/// A comparison with the value of a key that does not exist does not hold. Its version, revisions and
/// lease are compared as 0.
fn satisfied_by_nothing(compare: &Compare) -> bool {
    !matches!(compare.target, CompareTarget::Value(_)) && satisfied_by_record(compare, &KeyValue::default())
}

fn satisfied(operator: CompareOperator, ordering: Ordering) -> bool {
    match operator {
        CompareOperator::Equal => ordering == Ordering::Equal,
        CompareOperator::Greater => ordering == Ordering::Greater,
        CompareOperator::Less => ordering == Ordering::Less,
        CompareOperator::NotEqual => ordering != Ordering::Equal,
        CompareOperator::Unknown => true,
    }
}
