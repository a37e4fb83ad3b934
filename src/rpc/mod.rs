//! The gRPC services of etcd, over [`Node`].
//!
//! A service parses a request, calls the node with the result, and renders the outcome. The services make
//! no decisions of their own. The API's messages are known here and not below. `parse` decides which
//! requests are valid, and `status` has the answers to those that are refused.

mod auth;
mod cluster;
mod credentials;
mod deadline;
mod election;
mod health;
mod in_parts;
mod interceptor;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod parse;
mod peer;
mod recipe;
mod render;
mod rope;
mod slow;
mod status;
mod watch;

use std::{fmt::Debug, sync::Arc};

use tonic::{Status, codec::CompressionEncoding, service::Routes};

pub(crate) use peer::{PEER_CLIENT_STREAMS, PEER_SERVICES, peer_routes};

pub(crate) use credentials::session;

use self::interceptor::{Intercepted, Interceptor};
use crate::{
    node::Node,
    pb::{
        etcdserverpb::{
            auth_server::{self, AuthServer},
            cluster_server::{self, ClusterServer},
            kv_server::{self, KvServer},
            lease_server::{self, LeaseServer},
            maintenance_server::{self, MaintenanceServer},
            watch_server::{self, WatchServer},
        },
        grpc::health::health_server::{self, HealthServer},
        v3electionpb::election_server::{self, ElectionServer},
        v3lockpb::lock_server::{self, LockServer},
    },
};

/// The names of the services in [`routes`].
pub(crate) const SERVICES: &[&str] = &[
    kv_server::SERVICE_NAME,
    watch_server::SERVICE_NAME,
    lease_server::SERVICE_NAME,
    cluster_server::SERVICE_NAME,
    maintenance_server::SERVICE_NAME,
    auth_server::SERVICE_NAME,
    lock_server::SERVICE_NAME,
    election_server::SERVICE_NAME,
    health_server::SERVICE_NAME,
];

/// The paths of their methods whose clients send a stream of messages.
pub(crate) const CLIENT_STREAMS: &[&str] =
    &["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"];

/// Every gRPC service, for one reactor.
pub(crate) fn routes(node: &Node) -> Routes {
    let interceptor = Arc::new(Interceptor::new(node.clone()));
    // Requests that are too large were refused by `http`. Answers have no limit.
    macro_rules! service {
        ($server:ident, $service:expr) => {{
            let server = $server::new($service).max_decoding_message_size(usize::MAX);
            let server = server.max_encoding_message_size(usize::MAX);
            Intercepted::new(server.send_compressed(CompressionEncoding::Gzip), Arc::clone(&interceptor))
        }};
    }
    Routes::new(service!(KvServer, kv::Kv::new(node.clone())))
        .add_service(service!(WatchServer, watch::Watch::new(node.clone())))
        .add_service(service!(LeaseServer, lease::Lease::new(node.clone())))
        .add_service(service!(ClusterServer, cluster::Cluster::new(node.clone())))
        .add_service(service!(MaintenanceServer, maintenance::Maintenance::new(node.clone())))
        .add_service(service!(AuthServer, auth::Auth::new(node.clone())))
        .add_service(service!(LockServer, lock::Lock::new(node.clone())))
        .add_service(service!(ElectionServer, election::Election::new(node.clone())))
        .add_service(service!(HealthServer, health::Health))
        .prepare()
}

/// The state machine answered a command with the wrong type of response. This is a bug in retcd; the error
/// affects only the client that sent the command.
fn wrong_kind(answer: &impl Debug) -> Status {
    tracing::error!(?answer, "the result of the command has an unexpected type");
    Status::internal("the result of the command has an unexpected type")
}

#[cfg(test)]
mod tests;
