//! Buckets, and all keys of one, in order.

use bytes::Bytes;

use super::{
    error::{BboltError, Flaw},
    format::{BUCKET_HEADER_BYTES, LEAF, u64_at},
    reader::{BboltFile, Page},
};
use crate::limits;

/// A tree of keys.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    file: BboltFile,
    root: Root,
}

#[derive(Clone, Debug)]
enum Root {
    Page(u64),
    /// The only page of the tree, which is the value of another one.
    Inline(Page),
}

impl BboltFile {
    /// The bucket that has all others, by name.
    pub(crate) fn root(&self) -> Bucket {
        Bucket { file: self.clone(), root: Root::Page(self.root_page()) }
    }

    /// The bucket of this name, if there is one.
    pub(crate) fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, BboltError> {
        for entry in self.root().entries()? {
            let entry = entry?;
            if entry.key == name {
                return Ok(entry.bucket);
            }
        }
        Ok(None)
    }
}

impl Bucket {
    /// All keys, in order.
    pub(crate) fn entries(&self) -> Result<Cursor, BboltError> {
        let page = match &self.root {
            Root::Page(id) => self.file.page(*id)?,
            Root::Inline(page) => page.clone(),
        };
        Ok(Cursor::over(self.file.clone(), page))
    }

    /// The bucket that is the value of a leaf's element.
    fn of_value(file: &BboltFile, page: &Page, value: Bytes, offset: u64) -> Result<Bucket, BboltError> {
        let flawed = |flaw| page.flawed_at(offset, flaw);
        let root = u64_at(&value, 0).filter(|_| value.len() >= BUCKET_HEADER_BYTES);
        let root = match root.ok_or_else(|| flawed(Flaw::Bucket))? {
            0 => {
                let offset = offset + BUCKET_HEADER_BYTES as u64;
                let leaf = Page::inline(page, value.slice(BUCKET_HEADER_BYTES..), offset);
                let leaf = leaf.ok_or_else(|| flawed(Flaw::Bucket))?;
                if leaf.kind() != LEAF {
                    return Err(flawed(Flaw::Kind(leaf.kind())));
                }
                Root::Inline(leaf)
            }
            page if file.has_page(page) => Root::Page(page),
            _ => return Err(flawed(Flaw::OutOfBounds)),
        };
        Ok(Bucket { file: file.clone(), root })
    }
}

/// One key of a bucket.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Bytes,
    /// Shares memory with the other keys of its page.
    pub(crate) value: Bytes,
    /// Instead of a value.
    pub(crate) bucket: Option<Bucket>,
}

/// Reads the pages of a tree one after the other. It has the pages from the root to one leaf in memory. After an
/// error it ends. On a damaged file it ends too: keys that do not ascend are an error, and so is a page more than the
/// file has.
pub(crate) struct Cursor {
    file: BboltFile,
    /// From the root down, each with its next element.
    path: Vec<(Page, usize)>,
    pages_seen: u64,
    last_key: Option<Bytes>,
}

impl Cursor {
    pub(super) fn over(file: BboltFile, root: Page) -> Cursor {
        Cursor { file, path: vec![(root, 0)], pages_seen: 1, last_key: None }
    }

    fn step(&mut self) -> Result<Option<Entry>, BboltError> {
        while let Some((page, next)) = self.path.last_mut() {
            let at = *next;
            if at == page.count() {
                self.path.pop();
                continue;
            }
            *next += 1;
            if !page.is_branch() {
                return self.entry(at).map(Some);
            }
            let (key, child) = page.branch_element(at)?;
            if at > 0 && page.branch_element(at - 1)?.0 >= key {
                return Err(page.flawed(at, Flaw::Order));
            }
            if !self.file.has_page(child) {
                return Err(page.flawed(at, Flaw::OutOfBounds));
            }
            self.descend(child)?;
        }
        Ok(None)
    }

    fn descend(&mut self, child: u64) -> Result<(), BboltError> {
        let page = self.file.page(child)?;
        self.pages_seen += 1;
        if page.count() == 0 {
            return Err(page.flawed(0, Flaw::Empty));
        }
        if self.path.len() == limits::BBOLT_DEPTH_MAX {
            return Err(page.flawed(0, Flaw::TooDeep));
        }
        if self.pages_seen > self.file.pages() {
            return Err(page.flawed(0, Flaw::TooManyPages));
        }
        self.path.push((page, 0));
        Ok(())
    }

    /// The element of the leaf that the path ends with.
    fn entry(&mut self, at: usize) -> Result<Entry, BboltError> {
        let (page, _) = self.path.last().expect("a path with a leaf");
        let element = page.leaf_element(at)?;
        if self.last_key.as_ref().is_some_and(|last| *last >= element.key) {
            return Err(page.flawed(at, Flaw::Order));
        }
        let bucket = match element.is_bucket {
            true => Some(Bucket::of_value(&self.file, page, element.value.clone(), element.value_offset)?),
            false => None,
        };
        self.last_key = Some(element.key.clone());
        Ok(Entry { key: element.key, value: element.value, bucket })
    }
}

impl Iterator for Cursor {
    type Item = Result<Entry, BboltError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.path.clear();
        }
        step.transpose()
    }
}
