//! Which watcher waits for which events.
//!
//! The history is a tape, and writes extend its head. A *synced* watcher is at the head: it is sent each
//! revision when it is published. An *unsynced* watcher is further back: its stream reads history for it,
//! in strides, until it has reached the head. If the queue of a stream is full, the watchers that miss a
//! revision become unsynced. There is no third state.
//!
//! A watcher gets whole revisions, in order, each once, or is told that they are compacted.
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

pub(crate) use batch::{Batch, Delivery, Share};
pub(crate) use hub::{Matched, WatchHub};
pub(crate) use queue::Feed;
pub(crate) use watcher::{CreateError, Lagging, State, StreamId, WatchId, WatcherSpec};

#[cfg(test)]
mod tests;
