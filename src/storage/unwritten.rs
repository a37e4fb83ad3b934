//! Pages on their way to a file, which gets them in its order and many at once.
//!
//! redb writes page after page, in no order. Here they wait until redb syncs the file. One thread writes a database;
//! others read it meanwhile, and see a page from the moment that redb has written it.

use std::{
    collections::BTreeMap,
    io,
    ops::{Bound, Range},
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use crate::limits;

#[derive(Debug, Default)]
pub(super) struct Unwritten {
    is_any: AtomicBool,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    /// No two of them overlap.
    by_offset: BTreeMap<u64, Box<[u8]>>,
    bytes: usize,
}

impl Unwritten {
    /// Adds a page, which replaces one at the same place. False if something here overlaps it in another way: that has
    /// to be written first.
    pub(super) fn add(&self, offset: u64, page: &[u8]) -> bool {
        let mut pages = self.pages.lock();
        let replaces = pages.by_offset.get(&offset).is_some_and(|before| before.len() == page.len());
        if !replaces && pages.overlap(&(offset..offset + page.len() as u64)) {
            return false;
        }
        pages.bytes += if replaces { 0 } else { page.len() };
        pages.by_offset.insert(offset, page.into());
        self.is_any.store(true, Ordering::Release);
        true
    }

    pub(super) fn bytes(&self) -> usize {
        self.pages.lock().bytes
    }

    /// Reads the file, whose contents `read` gives, and what is here over it.
    pub(super) fn read(
        &self,
        offset: u64,
        out: &mut [u8],
        read: impl FnOnce(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if !self.is_any.load(Ordering::Acquire) {
            return read(offset, out);
        }
        let pages = self.pages.lock();
        let span = offset..offset + out.len() as u64;
        if !pages.overlap(&span) {
            drop(pages);
            return read(offset, out);
        }
        // The lock is kept: otherwise the page could be written and dropped between the two.
        read(offset, out)?;
        let first = pages.by_offset.range(..=offset).next_back().map_or(offset, |(at, _)| *at);
        for (at, page) in pages.by_offset.range(first..span.end) {
            let (from, until) = (offset.max(*at), span.end.min(at + page.len() as u64));
            if from < until {
                let page = &page[(from - at) as usize..(until - at) as usize];
                out[(from - offset) as usize..(until - offset) as usize].copy_from_slice(page);
            }
        }
        Ok(())
    }

    /// Hands everything to `write`, neighbouring pages at once. Readers do not wait for that.
    pub(super) fn write_out(&self, mut write: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut run = Vec::new();
        let mut next = 0;
        while let Some(start) = self.pages.lock().take_run(next, &mut run) {
            write(start, &run)?;
            next = start + run.len() as u64;
        }
        let mut pages = self.pages.lock();
        *pages = Pages::default();
        self.is_any.store(false, Ordering::Release);
        Ok(())
    }
}

impl Pages {
    /// Whether a part of the span is here.
    fn overlap(&self, span: &Range<u64>) -> bool {
        let before_end = self.by_offset.range(..span.end).next_back();
        before_end.is_some_and(|(offset, page)| offset + page.len() as u64 > span.start)
    }

    /// Copies the first neighbours from `from` on. Returns where they begin.
    fn take_run(&self, from: u64, run: &mut Vec<u8>) -> Option<u64> {
        run.clear();
        let mut pages = self.by_offset.range((Bound::Included(from), Bound::Unbounded)).peekable();
        let start = *pages.peek()?.0;
        while let Some((_, page)) = pages.next_if(|(offset, page)| {
            let is_next = **offset == start + run.len() as u64;
            is_next && (run.is_empty() || run.len() + page.len() <= limits::PAGE_RUN_BYTES)
        }) {
            run.extend_from_slice(page);
        }
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN: usize = 96;

    proptest! {
        /// Whatever is written in whatever pieces is read back, before and after it is written out, and each byte is
        /// written once.
        #[test]
        fn what_was_added_is_read(
            steps in prop::collection::vec((0..64_u64, 1..12_usize, any::<u8>(), any::<bool>()), 1..60)
        ) {
            let unwritten = Unwritten::default();
            let mut file = vec![0; LEN];
            let mut expected = vec![0; LEN];
            let write_out = |file: &mut Vec<u8>| {
                let mut end = 0;
                unwritten.write_out(|offset, run| {
                    assert!(offset >= end && !run.is_empty(), "in the order of the file");
                    end = offset + run.len() as u64;
                    file[offset as usize..end as usize].copy_from_slice(run);
                    Ok(())
                }).expect("nothing fails");
            };
            for (offset, len, byte, is_synced) in steps {
                let data = vec![byte; len];
                while !unwritten.add(offset, &data) {
                    write_out(&mut file);
                }
                expected[offset as usize..][..len].copy_from_slice(&data);
                if is_synced {
                    write_out(&mut file);
                    prop_assert_eq!(&file, &expected);
                    prop_assert_eq!(unwritten.bytes(), 0);
                }
                let from = offset.saturating_sub(3) as usize;
                let mut read = vec![0; len + 6];
                unwritten.read(from as u64, &mut read, |offset, out| {
                    out.copy_from_slice(&file[offset as usize..][..out.len()]);
                    Ok(())
                }).expect("nothing fails");
                prop_assert_eq!(&read[..], &expected[from..][..len + 6]);
            }
        }
    }
}
