//! The write-ahead log: the only thing a write waits for.
//!
//! The log is a chain of segment files. Each write is one *frame*: everything that was waiting,
//! in one `pwrite` and one `fdatasync`. A frame is synced before the next one is written, and
//! that is what makes damage legible: a bad frame with a good one behind it was once on the disk,
//! so it was damaged; a bad frame at the very end with sectors that never arrived was being
//! written when the power went, and nobody has been promised anything about it.
//!
//! The files know nothing of Raft beyond terms and indexes; `log_store` gives them meaning.

mod frame;
mod log;
mod places;
mod reader;
mod segment;

pub(crate) use frame::{EntryKind, FrameBuffer, HardState, LogPosition, Record};
pub(crate) use log::{Recovered, Wal};
pub(crate) use reader::WalReader;
