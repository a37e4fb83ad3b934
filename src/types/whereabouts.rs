//! Where a large value lies outside of the database.

use std::sync::{Arc, OnceLock};

/// A stretch of a file of values. The file is known by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValuePlace {
    pub(crate) file: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// Where the log of this member has the value of a put. That is known once the entry with the put is on the disk, and the
/// state that comes of the put need not store the value again. Clones share what they know.
///
/// It says nothing of what the put does, so two puts are equal whatever is known of their places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whereabouts(Option<Arc<OnceLock<ValuePlace>>>);

impl Whereabouts {
    /// For a value whose place is going to be known.
    pub(crate) fn expected() -> Whereabouts {
        Whereabouts(Some(Arc::default()))
    }

    /// The log has the value there, durably.
    pub(crate) fn found(&self, place: ValuePlace) {
        if let Some(cell) = &self.0 {
            // An entry that was cut off and comes again is another entry, with commands of its own.
            let known = cell.get_or_init(|| place);
            assert_eq!(*known, place, "the log has a value once");
        }
    }

    /// `None` if the value is small, or not on the disk yet.
    pub(crate) fn place(&self) -> Option<ValuePlace> {
        self.0.as_ref()?.get().copied()
    }
}

impl PartialEq for Whereabouts {
    fn eq(&self, _: &Whereabouts) -> bool {
        true
    }
}

impl Eq for Whereabouts {}
