//! Whether the disks of this member have room, for everybody who must know.
//!
//! The disk thread reserves the space of the next segment of the log and of a checkpoint ahead, and
//! notes here where it could not. Until it could, this member refuses what grows, as a member whose
//! quota is used up does. Everything else goes on, in the space that is left.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

#[derive(Debug, Default)]
pub(crate) struct Space {
    is_full: AtomicBool,
    /// The directories for which no space could be reserved.
    full: Mutex<Vec<PathBuf>>,
    /// The other members whose disk is full, as far as they say it.
    full_peers: Mutex<BTreeSet<u64>>,
}

impl Space {
    /// Whether what grows is refused.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// The directories whose disk is full.
    pub(super) fn full(&self) -> Vec<String> {
        self.full.lock().iter().map(|path| path.display().to_string()).collect()
    }

    pub(super) fn note_peers(&self, full: BTreeSet<u64>) {
        *self.full_peers.lock() = full;
    }

    pub(super) fn is_peer_full(&self, id: u64) -> bool {
        self.full_peers.lock().contains(&id)
    }

    /// Takes note of the directories for which no space could be reserved, and logs a change.
    pub(super) fn note(&self, full: Vec<PathBuf>) {
        let mut known = self.full.lock();
        if *known == full {
            return;
        }
        self.is_full.store(!full.is_empty(), Ordering::Relaxed);
        for path in full.iter().filter(|path| !known.contains(path)) {
            tracing::error!(
                path = %path.display(),
                "the disk is full: writes that add data are refused until it has free space. Reads, deletes and \
                 compactions still work. Free some space on that disk; this member then accepts all writes again \
                 by itself"
            );
        }
        if full.is_empty() {
            tracing::info!("the disk has free space again: all writes are accepted");
        }
        *known = full;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_full_while_any_of_its_disks_is() {
        let space = Space::default();
        assert!(!space.is_full());
        space.note(vec!["wal".into(), "snap".into()]);
        space.note(vec!["snap".into()]);
        assert!(space.is_full());
        assert_eq!(space.full(), ["snap"]);
        space.note(Vec::new());
        assert!(!space.is_full() && space.full().is_empty());
    }
}
