//! The way to the other members: connections, dialling, envelopes, deadlines, and what a member can
//! be asked.
//!
//! Consensus is a user of this room like any other: its messages are bytes here, and nothing of
//! openraft is known. What comes in from peers is served by `rpc`, on the same protocol.

mod appends;
mod calls;
mod connection;
mod dedicated;
mod exchange;
mod grpc;
mod peer;
mod peers;
mod piece;
mod reach;
mod read_indexes;
mod reason;
#[cfg(test)]
pub(crate) mod tests;
mod tunnels;
mod way;

pub(crate) use appends::Appends;
pub(crate) use calls::{
    BaseMismatch, Change, ChangeRefusal, Contacts, Forwarded, HistoryAnswer, HistoryHash, KnownCluster,
    KnownMember, LeaseAnswer, LeaseQuery, MemberStatus, MessageKind, PROTOCOL_VERSION, PeerError, REMOVED,
};
pub(crate) use connection::Connector;
pub(crate) use dedicated::DedicatedLink;
pub(crate) use grpc::GrpcConnector;
pub(crate) use peer::Peer;
pub(crate) use peers::Peers;
pub(crate) use piece::Piece;
// For a network that is simulated.
#[cfg(test)]
pub(crate) use connection::{CallError, Link};
#[cfg(test)]
pub(crate) use grpc::link;
pub(crate) use reach::members_at;
pub(crate) use read_indexes::ReadIndexes;
#[cfg(test)]
pub(crate) use way::Way;
