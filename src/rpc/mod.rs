//! The gRPC services of etcd, over [`Node`].
//!
//! A request is parsed into a meaning, handed to the node, and the outcome is rendered back.
//! The services decide nothing themselves. What the wire looks like is known here and nowhere
//! below; what may be asked is settled in `parse`, what is answered when it may not in
//! `status`.

mod auth;
mod cluster;
mod deadline;
mod election;
mod interceptor;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod parse;
mod peer;
mod recipe;
mod render;
mod slow;
mod status;
mod watch;

use std::{fmt::Debug, sync::Arc};

use tonic::{Status, service::Routes};

pub(crate) use peer::serve as serve_peers;

use self::interceptor::{Intercepted, Interceptor};
use crate::{
    limits::REQUEST_OVERHEAD_BYTES,
    node::Node,
    pb::{
        etcdserverpb::{
            auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer,
            lease_server::LeaseServer, maintenance_server::MaintenanceServer, watch_server::WatchServer,
        },
        v3electionpb::election_server::ElectionServer,
        v3lockpb::lock_server::LockServer,
    },
};

/// Every gRPC service, for one reactor.
pub(crate) fn routes(node: &Node) -> Routes {
    let interceptor = Arc::new(Interceptor::new(node.clone()));
    // Messages come in up to what a request may be and a little more, so that the refusal of
    // one that is too large is ours to word. Answers have no limit.
    let decode_max = node.config().max_request_bytes + REQUEST_OVERHEAD_BYTES;
    macro_rules! service {
        ($server:ident, $service:expr) => {{
            let server = $server::new($service).max_decoding_message_size(decode_max);
            Intercepted::new(server.max_encoding_message_size(usize::MAX), Arc::clone(&interceptor))
        }};
    }
    // Serving from the start, under the empty name, and never anything else.
    let (_, health) = tonic_health::server::health_reporter();
    Routes::new(service!(KvServer, kv::Kv::new(node.clone())))
        .add_service(service!(WatchServer, watch::Watch::new(node.clone())))
        .add_service(service!(LeaseServer, lease::Lease::new(node.clone())))
        .add_service(service!(ClusterServer, cluster::Cluster::new(node.clone())))
        .add_service(service!(MaintenanceServer, maintenance::Maintenance::new(node.clone())))
        .add_service(service!(AuthServer, auth::Auth::new(node.clone())))
        .add_service(service!(LockServer, lock::Lock::new(node.clone())))
        .add_service(service!(ElectionServer, election::Election::new(node.clone())))
        .add_service(Intercepted::new(health, interceptor))
        .prepare()
}

/// The state machine answered a command with something else than it was asked: a mistake of
/// ours, which one client should notice and not all of them.
fn wrong_kind(answer: &impl Debug) -> Status {
    tracing::error!(?answer, "the answer is not to the question");
    Status::internal("the answer is not to the question")
}

#[cfg(test)]
mod tests;
