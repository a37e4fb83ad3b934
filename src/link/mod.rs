//! The way to the other members: connections, dialling, envelopes, deadlines, and what a member can
//! be asked.
//!
//! Consensus is a user of this room like any other: its messages are bytes here, and nothing of
//! openraft is known. What comes in from peers is served by `rpc`, on the same protocol.

mod message_kind;
mod peer;
mod peers;
mod reach;
mod reason;

pub(crate) use message_kind::MessageKind;
pub(crate) use peer::Peer;
pub(crate) use peers::{
    BaseMismatch, Change, ChangeRefusal, Forwarded, KnownCluster, KnownMember, LeaseAnswer, LeaseQuery,
    PROTOCOL_VERSION, Peers, REMOVED,
};
