//! The layout of pages, to the byte. All numbers are little-endian.
//!
//! ```text
//! page     id u64, kind u16, elements u16, overflow u32 | elements | keys and values
//! leaf     flags u32, position u32, key length u32, value length u32
//! branch   position u32, key length u32, page u64
//! meta     magic u32, version u32, page size u32, flags u32, root (page u64, sequence u64), free list u64,
//!          pages u64, transaction u64, checksum u64
//! bucket   page u64 (0: the leaf follows), sequence u64
//! ```
//!
//! The position of a key is counted from the beginning of its element, and the value follows the key.

pub(super) const PAGE_HEADER_BYTES: usize = 16;
pub(super) const ELEMENT_BYTES: usize = 16;
pub(super) const BUCKET_HEADER_BYTES: usize = 16;
pub(super) const META_BYTES: usize = 64;

/// The size of the pages that are written, which is etcd's on nearly every machine.
pub(crate) const PAGE_BYTES: usize = 4096;

pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const META: u16 = 0x04;
pub(super) const FREELIST: u16 = 0x10;

/// The flag of a leaf element whose value is a bucket.
pub(super) const IS_BUCKET: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// The page sizes that a file may have.
pub(super) const PAGE_SIZES: [usize; 16] = {
    let mut sizes = [0; 16];
    let mut at = 0;
    while at < sizes.len() {
        sizes[at] = 512 << at;
        at += 1;
    }
    sizes
};

/// Whether a file that begins with `head` looks like a bbolt file.
pub(crate) fn is_bbolt(head: &[u8]) -> bool {
    head.get(PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + 4) == Some(&MAGIC.to_le_bytes())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) id: u64,
    pub(super) kind: u16,
    pub(super) count: u16,
    /// The number of pages behind this one that belong to it.
    pub(super) overflow: u32,
}

impl PageHeader {
    pub(super) fn decode(bytes: &[u8]) -> Option<PageHeader> {
        Some(PageHeader {
            id: u64_at(bytes, 0)?,
            kind: u16_at(bytes, 8)?,
            count: u16_at(bytes, 10)?,
            overflow: u32_at(bytes, 12)?,
        })
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.overflow.to_le_bytes());
    }
}

/// A state of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) page_bytes: u32,
    pub(super) root: u64,
    pub(super) freelist: u64,
    /// The number of pages that the state may use.
    pub(super) pages: u64,
    pub(super) transaction: u64,
}

impl Meta {
    /// `None` unless this is a meta page, as it was written.
    pub(super) fn decode(page: &[u8]) -> Option<Meta> {
        let bytes = page.get(PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + META_BYTES)?;
        let (covered, checksum) = bytes.split_at(META_BYTES - 8);
        let is_meta = u32_at(bytes, 0)? == MAGIC
            && u32_at(bytes, 4)? == VERSION
            && u64_at(checksum, 0)? == fnv1a(covered)
            && PAGE_SIZES.contains(&usize::try_from(u32_at(bytes, 8)?).ok()?);
        is_meta.then_some(Meta {
            page_bytes: u32_at(bytes, 8)?,
            root: u64_at(bytes, 16)?,
            freelist: u64_at(bytes, 32)?,
            pages: u64_at(bytes, 40)?,
            transaction: u64_at(bytes, 48)?,
        })
    }

    /// The page, at the place that follows from the transaction.
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let end = out.len() + self.page_bytes as usize;
        let id = self.transaction % 2;
        PageHeader { id, kind: META, count: 0, overflow: 0 }.encode(out);
        let begin = out.len();
        for number in [MAGIC, VERSION, self.page_bytes, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.root, 0, self.freelist, self.pages, self.transaction] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = fnv1a(&out[begin..]);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.resize(end, 0);
    }
}

/// FNV-1a of 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}
