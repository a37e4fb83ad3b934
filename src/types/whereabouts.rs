//! Where a large value lies outside of the database.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

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
pub(crate) struct Whereabouts(Option<Arc<Latest>>);

/// The place where the value was written last: a put that was cut off with its entry can be proposed again, and the segment
/// with its first entry may go before the state that comes of the second is stored.
#[derive(Debug)]
struct Latest {
    /// File and offset, or [`UNKNOWN`].
    file_and_offset: AtomicU64,
    /// The same each time.
    len: AtomicU32,
}

/// No file is so long.
const UNKNOWN: u64 = u64::MAX;

impl Whereabouts {
    /// For a value whose place is going to be known.
    pub(crate) fn expected() -> Whereabouts {
        let latest = Latest { file_and_offset: AtomicU64::new(UNKNOWN), len: AtomicU32::new(0) };
        Whereabouts(Some(Arc::new(latest)))
    }

    /// The log has the value there, durably.
    pub(crate) fn found(&self, place: ValuePlace) {
        if let Some(latest) = &self.0 {
            latest.len.store(place.len, Ordering::Relaxed);
            let file_and_offset = u64::from(place.file) << 32 | u64::from(place.offset);
            latest.file_and_offset.store(file_and_offset, Ordering::Release);
        }
    }

    /// `None` if the value is small, or not on the disk yet.
    pub(crate) fn place(&self) -> Option<ValuePlace> {
        let latest = self.0.as_ref()?;
        let file_and_offset = latest.file_and_offset.load(Ordering::Acquire);
        let len = latest.len.load(Ordering::Relaxed);
        (file_and_offset != UNKNOWN).then_some(ValuePlace {
            file: (file_and_offset >> 32) as u32,
            offset: file_and_offset as u32,
            len,
        })
    }
}

impl PartialEq for Whereabouts {
    fn eq(&self, _: &Whereabouts) -> bool {
        true
    }
}

impl Eq for Whereabouts {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_that_was_found_last_counts() {
        let whereabouts = Whereabouts::expected();
        assert_eq!(whereabouts.place(), None);
        let clone = whereabouts.clone();
        for place in [
            ValuePlace { file: 1, offset: 24, len: 3000 },
            ValuePlace { file: u32::MAX, offset: 7, len: 3000 },
        ] {
            clone.found(place);
            assert_eq!(whereabouts.place(), Some(place));
        }
        let nobody_asks = Whereabouts::default();
        nobody_asks.found(ValuePlace { file: 1, offset: 24, len: 1 });
        assert_eq!(nobody_asks.place(), None);
    }
}
