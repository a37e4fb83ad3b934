//! The key-value store, with the history of every key.
//!
//! The history is a tape of changes, addressed by [`Revision`](crate::types::Revision). The index says
//! which changes a key has had; the changes themselves are records, the newest of them in memory
//! (the tape's head, `recent`), the rest in the database (its body). The seam between the two is
//! `rev_checkpointed`: every record above it is in memory, every record up to it is on disk.
//!
//! [`Store`] owns the index and both parts of the tape. One [`Write`] at a time changes the store, in
//! memory only; the store touches the disk only to read a record that is no longer in memory. Long
//! operations have two halves: the first borrows the store for short strides and captures what the
//! operation needs, and the second works on the captured data without the store ([`RangeWalk`],
//! [`HistoryStride`](history::HistoryStride), [`PrevLookup`](history::PrevLookup), [`HashWalk`],
//! [`CompactionStep`], [`StoreCheckpoint`]).

mod cells;
mod checkpoint;
mod compaction;
mod compaction_work;
mod hash;
mod history;
mod hold;
mod index;
mod key_index;
pub(crate) mod kv_hash;
mod range;
mod ranked;
mod recent;
mod rest;
mod size;
mod store;
mod walk;
mod write;

#[cfg(test)]
mod tests;

pub(crate) use checkpoint::StoreCheckpoint;
pub(crate) use compaction::CompactionStep;
pub(crate) use hash::HashWalk;
pub(crate) use history::{History, LongHistory};
pub(crate) use hold::Hold;
pub(crate) use kv_hash::{KvHash, etcd_key};
pub(crate) use range::{Range, RangeResult, RevBounds, Sort, SortOrder, SortTarget};
pub(crate) use rest::{Rest, Weight};
pub(crate) use size::Size;
pub(crate) use store::{KeyAt, Located, Place, RevError, Step, Store};
pub(crate) use walk::RangeWalk;
pub(crate) use write::{Committed, Deletion, Write};
