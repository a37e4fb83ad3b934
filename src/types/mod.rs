//! The vocabulary: what every layer means by a revision, a key, a value, an id.
//!
//! Nothing here does I/O, and nothing above defines these things again.

mod caller;
mod ids;
mod key;
mod key_value;
mod revision;

pub(crate) use caller::Caller;
pub(crate) use ids::{Base, ClusterId, LeaseId, MemberId};
pub(crate) use key::KeyRange;
pub(crate) use key_value::{Event, EventKind, KeyValue};
pub(crate) use revision::{Rev, Revision};
