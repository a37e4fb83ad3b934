//! Reading all of a log to say what is in it and what is wrong with it, place by place.
//!
//! [`super::Wal::open`] refuses a log at the first place that is damaged. Here the reader goes on behind it, at the next
//! frame that is whole. Nothing is changed.

use std::path::PathBuf;

use bytes::Bytes;

use super::{
    frame::{self, ALIGN, Found, Record},
    log::sequences,
    segment::{file_name, read_written},
};
use crate::{disk::Disk, storage::StorageError};

/// What one segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFindings {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) frames: u64,
    /// The lowest and the highest index of an entry.
    pub(crate) entries: Option<(u64, u64)>,
    /// Where bytes are not what was written.
    pub(crate) damaged: Vec<u32>,
    /// Where a frame begins that was not written completely, at the end of the log: that is what a crash leaves, and
    /// a start cuts it off.
    pub(crate) torn: Option<u32>,
}

/// Reads the segments of the log one after the other. `report` is told how many are read of how many.
pub(crate) fn inspect(
    disk: &dyn Disk,
    report: &mut dyn FnMut(usize, usize),
) -> Result<Vec<SegmentFindings>, StorageError> {
    let sequences = sequences(disk)?;
    let mut findings = Vec::new();
    for (place, &sequence) in sequences.iter().enumerate() {
        report(place, sequences.len());
        let is_last = place + 1 == sequences.len();
        findings.push(inspect_segment(disk, sequence, is_last)?);
    }
    Ok(findings)
}

fn inspect_segment(disk: &dyn Disk, sequence: u32, is_last: bool) -> Result<SegmentFindings, StorageError> {
    let file = Bytes::from(read_written(disk, sequence)?);
    let mut findings = SegmentFindings {
        path: disk.path().join(file_name(sequence)),
        bytes: file.len() as u64,
        frames: 0,
        entries: None,
        damaged: Vec::new(),
        torn: None,
    };
    let mut offset = 0;
    while offset < file.len() {
        match frame::look(&file, sequence, offset) {
            Found::Frame { payload, next } => {
                match frame::records(file.slice(payload)) {
                    Some(records) => findings.take(&records),
                    None => findings.damaged.push(offset as u32),
                }
                offset = next;
            }
            Found::End if !frame::frame_follows(&file, sequence, offset + ALIGN) => break,
            Found::Torn if is_last && !frame::frame_follows(&file, sequence, offset + ALIGN) => {
                findings.torn = Some(offset as u32);
                break;
            }
            Found::End | Found::Torn | Found::Damaged => {
                findings.damaged.push(offset as u32);
                match next_frame(&file, sequence, offset + ALIGN) {
                    Some(next) => offset = next,
                    None => break,
                }
            }
        }
    }
    if findings.frames == 0 && findings.damaged.is_empty() {
        // A segment gets its name when its first frame is on the disk.
        findings.damaged.push(0);
    }
    Ok(findings)
}

impl SegmentFindings {
    fn take(&mut self, records: &[Record]) {
        self.frames += 1;
        for record in records {
            if let Record::Entry { at, .. } = record {
                let (low, high) = self.entries.unwrap_or((at.index, at.index));
                self.entries = Some((low.min(at.index), high.max(at.index)));
            }
        }
    }
}

/// Where the next whole frame begins.
fn next_frame(file: &[u8], sequence: u32, from: usize) -> Option<usize> {
    (from.next_multiple_of(ALIGN)..file.len()).step_by(ALIGN).find(|offset| {
        file[*offset] != 0 && matches!(frame::look(file, sequence, *offset), Found::Frame { .. })
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt, path::Path, sync::Arc};

    use super::*;
    use crate::{
        disk::Directory,
        wal::{EntryKind, FrameBuffer, LogPosition, Wal},
    };

    /// A log of five entries, each in a frame of its own.
    fn log(dir: &Path) {
        let disk: Arc<dyn Disk> = Arc::new(Directory::open(dir).expect("a directory"));
        let (mut wal, _) = Wal::open(disk, false, None).expect("open");
        for index in 0..5 {
            let mut buffer = FrameBuffer::new();
            let payload = Bytes::from(vec![index as u8 + 1; 3000]);
            let at = LogPosition { term: 1, index };
            buffer.push(&Record::Entry { at, kind: EntryKind::Batch, payload });
            wal.append(&mut buffer, Some(index)).expect("append");
        }
    }

    fn findings(dir: &Path) -> SegmentFindings {
        let disk = Directory::open(dir).expect("a directory");
        let mut findings = inspect(&disk, &mut |_, _| {}).expect("read");
        assert_eq!(findings.len(), 1);
        findings.pop().expect("one segment")
    }

    fn overwrite(dir: &Path, bytes: &[u8], offset: u64) {
        let file = fs::File::options().write(true).open(dir.join(file_name(1))).expect("open");
        file.write_all_at(bytes, offset).expect("written");
    }

    #[test]
    fn a_sound_log_has_no_damage() {
        let dir = tempfile::tempdir().expect("tempdir");
        log(dir.path());
        let findings = findings(dir.path());
        assert_eq!((findings.frames, findings.entries), (6, Some((0, 4))));
        assert_eq!((findings.damaged, findings.torn), (Vec::new(), None));
    }

    #[test]
    fn damage_is_named_and_what_is_behind_it_is_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        log(dir.path());
        let middle = 2 * 3000;
        overwrite(dir.path(), b"not what was written", middle);
        let findings = findings(dir.path());
        assert_eq!(findings.damaged.len(), 1);
        let at = u64::from(findings.damaged[0]);
        assert!(at <= middle && middle < at + 3100, "frame {at} has byte {middle}");
        assert_eq!((findings.frames, findings.entries), (5, Some((0, 4))));
    }

    #[test]
    fn a_frame_without_its_end_is_torn_only_at_the_end_of_the_log() {
        let dir = tempfile::tempdir().expect("tempdir");
        log(dir.path());
        let file = fs::read(dir.path().join(file_name(1))).expect("it can be read");
        let end = file.iter().rposition(|byte| *byte != 0).expect("it was written to") + 1;
        overwrite(dir.path(), &[0; 1024], end as u64 - 1024);
        let findings = findings(dir.path());
        assert_eq!((findings.frames, findings.entries, findings.damaged), (5, Some((0, 3)), Vec::new()));
        assert!(findings.torn.is_some());
    }
}
