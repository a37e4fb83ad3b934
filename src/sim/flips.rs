//! Bits of a disk that are not what was written.
//!
//! A flip in the last frame of a log looks like a write that was interrupted: a start cuts it off, as it has to after a
//! power failure, and the member has lost what it had promised to keep. No log of its kind can tell the two apart, and the
//! cluster is safe as long as a quorum keeps its promise. So such flips are not made here.

use std::path::{Path, PathBuf};

use super::dice::Dice;
use crate::{
    disk::{Disks, memory::MemoryDisks},
    wal::{self, SegmentFindings},
};

/// How many bits of a database are flipped: much of its file is of no use any more.
const DATABASE_BITS: u64 = 3;

/// How many bits of a log are tried until one is not in the last frame.
const LOG_TRIES: u64 = 20;

/// Flips bits of the files in a directory. False if there was none to flip.
pub(super) fn flip(disks: &MemoryDisks, directory: &str, is_log: bool, dice: &Dice) -> bool {
    let files: Vec<_> = disks.files().into_iter().filter(|path| path.starts_with(directory)).collect();
    if files.is_empty() {
        return false;
    }
    let flip_one = |path: &PathBuf| disks.flip_bit(path, |bits| dice.below(bits as u64) as usize);
    if !is_log {
        let flipped = (0..DATABASE_BITS).filter_map(|_| flip_one(dice.one_of(&files)));
        return flipped.count() > 0;
    }
    let Some(before) = findings(disks, directory) else { return false };
    for _ in 0..LOG_TRIES {
        let file = dice.one_of(&files);
        let Some(bit) = flip_one(file) else { continue };
        if findings(disks, directory).is_some_and(|after| is_told(&before, &after)) {
            return true;
        }
        disks.invert_bit(file, bit);
    }
    false
}

fn findings(disks: &MemoryDisks, directory: &str) -> Option<Vec<SegmentFindings>> {
    let disk = disks.open(Path::new(directory)).ok()?;
    wal::inspect(&*disk, &mut |_, _| {}).ok()
}

/// Whether what is there now is damaged, or what was there before.
fn is_told(before: &[SegmentFindings], after: &[SegmentFindings]) -> bool {
    after.iter().any(|segment| !segment.damaged.is_empty()) || before == after
}
