//! An open file: its newest state, and single pages.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    error::{BboltError, Flaw},
    format::{
        BRANCH, ELEMENT_BYTES, IS_BUCKET, LEAF, META_BYTES, Meta, PAGE_HEADER_BYTES, PAGE_SIZES, PageHeader,
        u32_at, u64_at,
    },
};
use crate::{disk::DiskFile, limits};

/// Clones share the file.
#[derive(Clone, Debug)]
pub(crate) struct BboltFile {
    file: Arc<dyn DiskFile>,
    /// What follows the first so many bytes is not part of the bbolt file.
    len: u64,
    meta: Meta,
}

impl BboltFile {
    /// Reads the newest state of the first `len` bytes of a file.
    pub(crate) fn open(file: Arc<dyn DiskFile>, len: u64) -> Result<BboltFile, BboltError> {
        let meta_at = |offset: u64| -> io::Result<Option<Meta>> {
            let mut page = [0; PAGE_HEADER_BYTES + META_BYTES];
            if offset + page.len() as u64 > len {
                return Ok(None);
            }
            file.read_at(&mut page, offset)?;
            Ok(Meta::decode(&page))
        };
        let first = meta_at(0)?;
        // Where the second one is follows from the first. If that one is damaged, all places are tried.
        let second = match &first {
            Some(first) => {
                meta_at(u64::from(first.page_bytes))?.filter(|meta| meta.page_bytes == first.page_bytes)
            }
            None => {
                let mut found = None;
                for page_bytes in PAGE_SIZES {
                    let meta =
                        meta_at(page_bytes as u64)?.filter(|meta| meta.page_bytes as usize == page_bytes);
                    found = found.or(meta);
                }
                found
            }
        };
        let newest = [first, second].into_iter().flatten().max_by_key(|meta| meta.transaction);
        let flawed = |flaw| BboltError::Damaged { page: 0, offset: 0, flaw };
        let meta = newest.ok_or_else(|| flawed(Flaw::NoMeta))?;
        let end = meta.pages.checked_mul(u64::from(meta.page_bytes)).filter(|end| *end <= len);
        end.ok_or_else(|| flawed(Flaw::CutShort))?;
        let file = BboltFile { file, len, meta };
        if file.has_page(meta.root) { Ok(file) } else { Err(flawed(Flaw::OutOfBounds)) }
    }

    /// The length of the newest state.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_bytes)
    }

    /// The page with which the root tree begins.
    pub(super) fn root_page(&self) -> u64 {
        self.meta.root
    }

    /// How many pages there are.
    pub(super) fn pages(&self) -> u64 {
        self.meta.pages
    }

    /// Whether there may be a branch or a leaf of this number.
    pub(super) fn has_page(&self, id: u64) -> bool {
        (2..self.meta.pages).contains(&id)
    }

    /// A branch or a leaf, with what it has in the pages behind it.
    pub(super) fn page(&self, id: u64) -> Result<Page, BboltError> {
        let page_bytes = u64::from(self.meta.page_bytes);
        let offset = id.saturating_mul(page_bytes);
        let flawed = |flaw| BboltError::Damaged { page: id, offset, flaw };
        assert!(self.has_page(id), "who refers to a page has seen that the file has it");
        let mut head = [0; PAGE_HEADER_BYTES];
        self.read(&mut head, id, offset)?;
        let header = PageHeader::decode(&head).ok_or_else(|| flawed(Flaw::CutShort))?;
        if header.id != id {
            return Err(flawed(Flaw::OtherPage(header.id)));
        }
        if !matches!(header.kind, BRANCH | LEAF) {
            return Err(flawed(Flaw::Kind(header.kind)));
        }
        if u64::from(header.overflow) >= self.meta.pages - id {
            return Err(flawed(Flaw::OutOfBounds));
        }
        let bytes = (u64::from(header.overflow) + 1) * page_bytes;
        let length = usize::try_from(bytes).ok().filter(|bytes| *bytes <= limits::BBOLT_PAGE_BYTES_MAX);
        let mut page = vec![0; length.ok_or_else(|| flawed(Flaw::TooLarge(bytes)))?];
        self.read(&mut page, id, offset)?;
        Ok(Page { header, offset, bytes: page.into() })
    }

    fn read(&self, bytes: &mut [u8], page: u64, offset: u64) -> Result<(), BboltError> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.len) {
            return Err(BboltError::Damaged { page, offset, flaw: Flaw::CutShort });
        }
        Ok(self.file.read_at(bytes, offset)?)
    }
}

/// A branch or a leaf.
#[derive(Clone, Debug)]
pub(super) struct Page {
    header: PageHeader,
    /// Where it begins in the file.
    offset: u64,
    /// With its header.
    bytes: Bytes,
}

/// An element of a leaf.
pub(super) struct LeafElement {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) is_bucket: bool,
    /// Where the value is in the file.
    pub(super) value_offset: u64,
}

impl Page {
    /// The leaf of a small bucket, which is in another page. `None` if it has no header.
    pub(super) fn inline(around: &Page, bytes: Bytes, offset: u64) -> Option<Page> {
        // Its number has no meaning; errors name the page that it is in.
        let header = PageHeader { id: around.header.id, ..PageHeader::decode(&bytes)? };
        Some(Page { header, offset, bytes })
    }

    pub(super) fn kind(&self) -> u16 {
        self.header.kind
    }

    /// An error that names this page, and a byte of the file.
    pub(super) fn flawed_at(&self, offset: u64, flaw: Flaw) -> BboltError {
        BboltError::Damaged { page: self.header.id, offset, flaw }
    }

    pub(super) fn is_branch(&self) -> bool {
        self.header.kind == BRANCH
    }

    pub(super) fn count(&self) -> usize {
        usize::from(self.header.count)
    }

    /// An error that names this page, and where its element `at` is.
    pub(super) fn flawed(&self, at: usize, flaw: Flaw) -> BboltError {
        let offset = self.offset + (PAGE_HEADER_BYTES + at * ELEMENT_BYTES) as u64;
        self.flawed_at(offset, flaw)
    }

    pub(super) fn leaf_element(&self, at: usize) -> Result<LeafElement, BboltError> {
        let element = self.element(at)?;
        let number = |place| u32_at(element, place).expect("an element has sixteen bytes");
        let key_at = place(at, number(4));
        let value_at = key_at.and_then(|key_at| key_at.checked_add(number(8) as usize));
        let key = self.slice(at, key_at, number(8))?;
        let value = self.slice(at, value_at, number(12))?;
        let value_offset = self.offset + value_at.unwrap_or_default() as u64;
        Ok(LeafElement { key, value, is_bucket: number(0) & IS_BUCKET != 0, value_offset })
    }

    /// The first key below, and the page.
    pub(super) fn branch_element(&self, at: usize) -> Result<(Bytes, u64), BboltError> {
        let element = self.element(at)?;
        let number = |place| u32_at(element, place).expect("an element has sixteen bytes");
        let page = u64_at(element, 8).expect("an element has sixteen bytes");
        Ok((self.slice(at, place(at, number(0)), number(4))?, page))
    }

    fn element(&self, at: usize) -> Result<&[u8], BboltError> {
        let begin = PAGE_HEADER_BYTES + at * ELEMENT_BYTES;
        self.bytes.get(begin..begin + ELEMENT_BYTES).ok_or_else(|| self.flawed(at, Flaw::Element))
    }

    fn slice(&self, at: usize, begin: Option<usize>, length: u32) -> Result<Bytes, BboltError> {
        let end = begin.and_then(|begin| begin.checked_add(length as usize));
        match begin.zip(end).filter(|(_, end)| *end <= self.bytes.len()) {
            Some((begin, end)) => Ok(self.bytes.slice(begin..end)),
            None => Err(self.flawed(at, Flaw::Element)),
        }
    }
}

/// Where in its page the key of element `at` begins.
fn place(at: usize, position: u32) -> Option<usize> {
    (PAGE_HEADER_BYTES + at * ELEMENT_BYTES).checked_add(position as usize)
}
