//! Everything on the ports that is not gRPC, and the sharing of a port with gRPC.
//!
//! `probe` says what is asked of the node, `health` judges the answers, `router` puts them under
//! etcd's paths, and `connection` serves a socket: on a plaintext client port HTTP/2 is gRPC and
//! HTTP/1 is the rest.
//!
//! gRPC is refused and understood as etcd's transport does it, on the port of clients and on that of
//! peers. What arrives passes `socket`, where `inbound` follows the frames with `hpack` and rewrites
//! the requests that `request` finds odd; then `grpc`, which looks at the headers of a call, and
//! `body`, which looks at its messages.

mod body;
mod calls;
mod connection;
mod flood;
mod grpc;
mod health;
mod hpack;
mod inbound;
mod lobby;
mod node;
mod outbound;
mod patience;
mod probe;
mod request;
mod router;
mod socket;
#[cfg(test)]
mod tests;
mod v2;

pub(crate) use body::discard;
pub(crate) use calls::{Held, Load};
pub(crate) use connection::{PeerServices, Protocols, Services};
pub(crate) use grpc::Methods;
pub(crate) use patience::Patience;
pub(crate) use probe::{Probe, Versions};
pub(crate) use v2::{Gate as V2Gate, routes as v2_routes};
