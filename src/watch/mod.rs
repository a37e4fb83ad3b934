//! Who is waiting for what.
//!
//! Think of history as a tape with a writing head. A *synced* watcher stands at the head and is
//! handed each revision as it is written. An *unsynced* one is further back: its stream reads
//! history for it, in strides, until it reaches the head. A stream that does not take what it is
//! handed has its watchers sent back to history. There is no third place.
//!
//! A watcher sees whole revisions, in order, each once, or is told that they are compacted.
//!
//! Nothing in this module waits, reads a clock or touches the store: the task that owns a stream reads
//! the history that the stream's watchers missed.

mod batch;
mod group;
mod hub;
mod intervals;
mod queue;
mod seats;
mod watcher;

pub(crate) use batch::{Batch, Delivery};
pub(crate) use hub::WatchHub;
pub(crate) use queue::Feed;
pub(crate) use watcher::{CreateError, Lagging, State, StreamId, WatchId, WatcherSpec};

#[cfg(test)]
mod tests;
