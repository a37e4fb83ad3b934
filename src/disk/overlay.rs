//! A directory that is only read: what is written to it stays in memory.
//!
//! Code that opens a log or a database repairs what a crash has left, and so writes to its files. On this disk it does so
//! without a change of a file, so a directory can be looked at with the very code that a start runs.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Disk, DiskFile, FileIdentity};

/// Bytes that are kept together once one of them was written.
const BLOCK_BYTES: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Overlay {
    below: Box<dyn Disk>,
    /// Names that were changed; `None` for one that was removed.
    changed: Mutex<BTreeMap<PathBuf, Option<OverlayFile>>>,
}

impl Overlay {
    pub(crate) fn of(below: Box<dyn Disk>) -> Overlay {
        Overlay { below, changed: Mutex::default() }
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for Overlay {
    fn path(&self) -> &Path {
        self.below.path()
    }

    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let changed = self.changed.lock();
        let mut names = self.below.list()?;
        names.retain(|name| !changed.contains_key(name));
        names.extend(changed.iter().filter(|(_, file)| file.is_some()).map(|(name, _)| name.clone()));
        Ok(names)
    }

    fn create(&self, name: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OverlayFile::empty();
        self.changed.lock().insert(name.to_owned(), Some(file.clone()));
        Ok(Box::new(file))
    }

    fn open(&self, name: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut changed = self.changed.lock();
        if let Some(file) = changed.get(name) {
            return Ok(Box::new(file.clone().ok_or_else(not_found)?));
        }
        let file = OverlayFile::over(self.below.open_to_read(name)?)?;
        changed.insert(name.to_owned(), Some(file.clone()));
        Ok(Box::new(file))
    }

    fn open_to_read(&self, name: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(name)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.open(from)?;
        let mut changed = self.changed.lock();
        let file = changed.insert(from.to_owned(), None).flatten().ok_or_else(not_found)?;
        changed.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, name: &Path) -> io::Result<()> {
        self.open(name)?;
        self.changed.lock().insert(name.to_owned(), None);
        Ok(())
    }

    fn identity(&self, name: &Path) -> io::Result<FileIdentity> {
        self.open(name)?.identity()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct OverlayFile(Arc<Contents>);

#[derive(Debug)]
struct Contents {
    below: Option<Box<dyn DiskFile>>,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// Up to where the file below still counts: it was never shorter than this since.
    below_len: u64,
    /// By number.
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl OverlayFile {
    fn empty() -> OverlayFile {
        let written = Written { len: 0, below_len: 0, blocks: BTreeMap::new() };
        OverlayFile(Arc::new(Contents { below: None, written: Mutex::new(written) }))
    }

    fn over(below: Box<dyn DiskFile>) -> io::Result<OverlayFile> {
        let len = below.len()?;
        let written = Written { len, below_len: len, blocks: BTreeMap::new() };
        Ok(OverlayFile(Arc::new(Contents { below: Some(below), written: Mutex::new(written) })))
    }
}

impl Contents {
    /// What the file below has at a place that was not written to; zeros behind its end.
    fn read_below(&self, bytes: &mut [u8], offset: u64, below_len: u64) -> io::Result<()> {
        let there = below_len.saturating_sub(offset).min(bytes.len() as u64) as usize;
        let (there, behind) = bytes.split_at_mut(there);
        behind.fill(0);
        match &self.below {
            Some(below) if !there.is_empty() => below.read_at(there, offset),
            Some(_) | None => Ok(()),
        }
    }
}

/// The number of a block, and what of a span lies in it: the place in the span, and that in the block.
fn blocks(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let end = offset + len as u64;
    let numbers = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
    numbers.filter(move |_| len > 0).map(move |number| {
        let from = offset.max(number * BLOCK_BYTES);
        let until = end.min((number + 1) * BLOCK_BYTES);
        let of = |start: u64| (from - start) as usize..(until - start) as usize;
        (number, of(offset), of(number * BLOCK_BYTES))
    })
}

impl DiskFile for OverlayFile {
    fn identity(&self) -> io::Result<FileIdentity> {
        match &self.0.below {
            Some(below) => below.identity(),
            // No other file has this place in memory.
            None => Ok(FileIdentity { device: 0, number: Arc::as_ptr(&self.0) as u64 }),
        }
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.0.below.as_ref().map_or(Ok(true), |below| below.try_lock())
    }

    fn unlock(&self) -> io::Result<()> {
        self.0.below.as_ref().map_or(Ok(()), |below| below.unlock())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.written.lock().len)
    }

    fn data_len(&self) -> io::Result<u64> {
        let written = self.0.written.lock();
        let below = self.0.below.as_ref().map_or(Ok(0), |below| below.data_len())?.min(written.below_len);
        let above = written.blocks.last_key_value().map_or(0, |(number, _)| (number + 1) * BLOCK_BYTES);
        Ok(below.max(above).min(written.len))
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let written = self.0.written.lock();
        if offset + bytes.len() as u64 > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, in_span, in_block) in blocks(offset, bytes.len()) {
            let place = offset + in_span.start as u64;
            let part = &mut bytes[in_span];
            match written.blocks.get(&number) {
                Some(block) => part.copy_from_slice(&block[in_block]),
                None => self.0.read_below(part, place, written.below_len)?,
            }
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut written = self.0.written.lock();
        let below_len = written.below_len;
        for (number, in_span, in_block) in blocks(offset, bytes.len()) {
            let block = match written.blocks.entry(number) {
                Entry::Occupied(block) => block.into_mut(),
                Entry::Vacant(place) => {
                    let mut block = vec![0; BLOCK_BYTES as usize].into_boxed_slice();
                    self.0.read_below(&mut block, number * BLOCK_BYTES, below_len)?;
                    place.insert(block)
                }
            };
            block[in_block].copy_from_slice(&bytes[in_span]);
        }
        written.len = written.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.0.written.lock();
        if len < written.len {
            written.below_len = written.below_len.min(len);
            written.blocks.split_off(&len.div_ceil(BLOCK_BYTES));
            let within = (len % BLOCK_BYTES) as usize;
            if within > 0
                && let Some(block) = written.blocks.get_mut(&(len / BLOCK_BYTES))
            {
                block[within..].fill(0);
            }
        }
        written.len = len;
        Ok(())
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let mut written = self.0.written.lock();
        written.len = written.len.max(len);
        Ok(())
    }

    fn prefetch(&self, span: Range<u64>) {
        if let Some(below) = &self.0.below {
            below.prefetch(span);
        }
    }

    fn start_writing(&self, _span: Range<u64>) {}

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::disk::Directory;

    #[derive(Clone, Debug)]
    enum Step {
        Write { offset: u64, bytes: Vec<u8> },
        SetLen(u64),
        Reserve(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20_000_u64, prop::collection::vec(any::<u8>(), 0..9000))
                .prop_map(|(offset, bytes)| Step::Write { offset, bytes }),
            (0..25_000_u64).prop_map(Step::SetLen),
            (0..25_000_u64).prop_map(Step::Reserve),
        ]
    }

    fn take(file: &dyn DiskFile, step: &Step) {
        let taken = match step {
            Step::Write { offset, bytes } => file.write_at(bytes, *offset),
            Step::SetLen(len) => file.set_len(*len),
            Step::Reserve(len) => file.reserve(*len),
        };
        taken.expect("the disk works");
    }

    fn read(file: &dyn DiskFile) -> Vec<u8> {
        let mut bytes = vec![9; file.len().expect("a length") as usize];
        file.read_at(&mut bytes, 0).expect("it can be read");
        bytes
    }

    proptest! {
        #[test]
        fn it_reads_as_a_directory_would_that_is_written_to(
            before in prop::collection::vec(any::<u8>(), 0..20_000),
            steps in prop::collection::vec(step(), 0..12),
        ) {
            let (real, below) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
            for dir in [&real, &below] {
                fs::write(dir.path().join("file"), &before).expect("written");
            }
            let name = Path::new("file");
            let real = Directory::open(real.path()).expect("a directory").open(name).expect("a file");
            let overlay = Overlay::of(Box::new(Directory::open(below.path()).expect("a directory")));
            let file = overlay.open(name).expect("a file");
            for step in &steps {
                take(&*real, step);
                take(&*file, step);
                prop_assert_eq!(read(&*file), read(&*real));
                prop_assert!(file.data_len().expect("a length") <= file.len().expect("a length"));
            }
            prop_assert_eq!(read(&*overlay.open_to_read(name).expect("a file")), read(&*real));
            prop_assert_eq!(fs::read(below.path().join("file")).expect("it is there"), before);
        }
    }

    #[test]
    fn names_change_in_memory_alone() {
        let below = tempfile::tempdir().expect("tempdir");
        for name in ["a", "b"] {
            fs::write(below.path().join(name), name).expect("written");
        }
        let overlay = Overlay::of(Box::new(Directory::open(below.path()).expect("a directory")));
        let names = |disk: &Overlay| {
            let mut names = disk.list().expect("listed");
            names.sort();
            names.iter().map(|name| name.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        overlay.create(Path::new("c")).expect("made").write_at(b"c", 0).expect("written");
        overlay.remove(Path::new("a")).expect("removed");
        overlay.rename(Path::new("b"), Path::new("d")).expect("renamed");
        assert_eq!(names(&overlay), "c d");
        assert_eq!(read(&*overlay.open(Path::new("d")).expect("there")), b"b");
        assert_eq!(overlay.open(Path::new("a")).expect_err("gone").kind(), io::ErrorKind::NotFound);
        assert_eq!(overlay.remove(Path::new("x")).expect_err("never there").kind(), io::ErrorKind::NotFound);
        let mut left: Vec<_> = fs::read_dir(below.path()).expect("listed").flatten().collect();
        left.sort_by_key(|entry| entry.file_name());
        assert_eq!(left.len(), 2, "nothing changed below");
    }
}
