//! The write-ahead log: the only thing a write waits for.
//!
//! The log is a chain of segment files. Each write is one *frame*: everything that was waiting,
//! in one `pwrite` and one `fdatasync`. A frame is synced before the next one is written, and
//! so the reader can tell damage from a write that was interrupted. A bad frame with a good one
//! behind it was durable once, so it was damaged. A bad frame at the very end, some of whose sectors
//! never reached the disk, was being written when the power failed, and no write in it was answered.
//!
//! This module knows entries by term and index; what they mean is known in `raft::log_store`.

mod frame;
mod inspection;
mod log;
mod places;
mod reader;
mod segment;

pub(crate) use frame::{EntryKind, FoundEntry, FrameBuffer, HardState, LogPosition, Record};
pub(crate) use inspection::{SegmentFindings, inspect};
pub(crate) use log::{Recovered, Wal};
pub(crate) use reader::WalReader;
