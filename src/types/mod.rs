//! The types that all layers share: revisions, keys, values, events, ids.
//!
//! Nothing here does I/O, and no other module defines a type for the same purpose.

mod caller;
pub(crate) mod chunked;
mod ids;
mod key;
mod key_value;
mod revision;
mod secret;
mod sign_method;
mod whereabouts;

pub(crate) use caller::{Caller, CommonName};
pub(crate) use chunked::Chunked;
pub(crate) use ids::{Base, ClusterId, LeaseId, MemberId};
pub(crate) use key::KeyRange;
pub(crate) use key_value::{Event, EventKind, KeyValue};
pub(crate) use revision::{Rev, Revision};
pub(crate) use secret::Secret;
pub(crate) use sign_method::SignMethod;
pub(crate) use whereabouts::{ValuePlace, Whereabouts};
