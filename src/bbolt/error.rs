//! Why a file cannot be read.

use std::io;

use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum BboltError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("page {page} is damaged at byte {offset} of the file: {flaw}")]
    Damaged { page: u64, offset: u64, flaw: Flaw },
}

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Flaw {
    #[error("neither of the two meta pages is valid, so this is no bbolt file, or its beginning is damaged")]
    NoMeta,
    #[error("the file ends within the page, or before it: it was cut short")]
    CutShort,
    #[error("the page belongs to no state of the file")]
    OutOfBounds,
    #[error("the page calls itself page {0}")]
    OtherPage(u64),
    #[error("the kind of the page is {0:#x}, which is none that belongs there")]
    Kind(u16),
    #[error("a page of {0} bytes is larger than any that retcd reads")]
    TooLarge(u64),
    #[error("an element lies outside of its page")]
    Element,
    #[error("the keys are not in order")]
    Order,
    #[error("the page has no element")]
    Empty,
    #[error("the tree is deeper than any that retcd reads")]
    TooDeep,
    #[error("the tree has more pages than the file")]
    TooManyPages,
    #[error("the bucket is shorter than its header")]
    Bucket,
}
