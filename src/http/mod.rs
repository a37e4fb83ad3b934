//! Everything on the ports that is not gRPC, and the sharing of a port with gRPC.
//!
//! `probe` says what is asked of the node, `health` judges the answers, `router` puts them under
//! etcd's paths, and `connection` serves a socket: on a plaintext client port HTTP/2 is gRPC and
//! HTTP/1 is the rest.

mod authority;
mod connection;
mod health;
mod node;
mod probe;
mod router;
#[cfg(test)]
mod tests;

pub(crate) use connection::{Protocols, Services};
pub(crate) use probe::{Probe, Versions};
