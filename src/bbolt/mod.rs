//! bbolt files, in which etcd keeps its data: read, and written from the beginning to the end.
//!
//! ```text
//! page 0     page 1     page 2      3 ...
//! | meta 0 | meta 1 | free list | leaves and branches of the buckets | root tree |
//! ```
//!
//! A file is an array of pages. A tree of pages is a *bucket*: its leaves have keys and values in the order of
//! the keys, its branches the first key of each page below. A page that has more than fits continues in the
//! pages behind it (*overflow*). The values of the root tree are the buckets, by name: the page with which
//! the bucket's own tree begins, or, of a small bucket, its only leaf (*inline*). Each meta page names the root
//! of a whole state of the file; the valid one with the higher transaction id counts.
//!
//! [`BboltFile`] reads a page when it is asked for, and checks every length and page number before it uses
//! it: damage is a value that names the page and the byte. [`Builder`] gets keys in order and gives out pages in order.
//! It keeps no more than one page of each level of a tree.

mod bucket;
mod builder;
mod error;
mod format;
mod reader;

#[cfg(test)]
mod tests;

pub(crate) use bucket::Bucket;
pub(crate) use builder::{Builder, Counted, Layout, Output, Written};
pub(crate) use error::BboltError;
#[cfg(test)]
pub(crate) use error::Flaw;
pub(crate) use format::{PAGE_BYTES, is_bbolt};
pub(crate) use reader::BboltFile;
