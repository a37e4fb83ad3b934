//! The gRPC services of etcd, over [`Node`].
//!
//! A request is parsed into a meaning, handed to the node, and the outcome is rendered back.
//! The services decide nothing themselves. What the wire looks like is known here and nowhere
//! below; what may be asked is settled in `parse`, what is answered when it may not in
//! `status`.

mod parse;
mod render;
mod status;
mod slow;
mod interceptor;
mod kv;
mod lease;
mod cluster;
mod maintenance;
mod auth;
mod recipe;
mod lock;
mod election;

use std::{sync::Arc, time::Duration};

use tonic::service::Routes;

use self::interceptor::{Intercepted, Interceptor};
use crate::{
    limits::REQUEST_OVERHEAD_BYTES,
    node::Node,
    pb::{
        etcdserverpb::{
            auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer,
            lease_server::LeaseServer, maintenance_server::MaintenanceServer,
        },
        v3electionpb::election_server::ElectionServer,
        v3lockpb::lock_server::LockServer,
    },
};

/// What the operator can set about the services.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// `--max-request-bytes`
    pub(crate) request_bytes_max: usize,
    /// `--max-txn-ops`
    pub(crate) txn_ops_max: usize,
    /// `--warning-unary-request-duration`
    pub(crate) slow_after: Duration,
}

/// Every gRPC service, ready to be served.
pub(crate) fn routes(node: Node, options: Options) -> Routes {
    let interceptor = Arc::new(Interceptor::new(node.clone(), options.slow_after));
    // Messages come in up to what a request may be and a little more, so that the refusal of
    // one that is too large is ours to word. Answers have no limit.
    let decode_max = options.request_bytes_max + REQUEST_OVERHEAD_BYTES;

    macro_rules! service {
        ($server:ident, $methods:expr, $service:expr) => {
            Intercepted::new(
                $server::new($service)
                    .max_decoding_message_size(decode_max)
                    .max_encoding_message_size(usize::MAX),
                Arc::clone(&interceptor),
                $methods,
            )
        };
    }

    let (health, health_service) = tonic_health::server::health_reporter();
    Routes::new(service!(KvServer, interceptor::KV, kv::Kv::new(node.clone(), options)))
        .add_service(service!(LeaseServer, interceptor::LEASE, lease::Lease::new(node.clone())))
        .add_service(service!(ClusterServer, interceptor::CLUSTER, cluster::Cluster::new(node.clone())))
        .add_service(service!(
            MaintenanceServer,
            interceptor::MAINTENANCE,
            maintenance::Maintenance::new(node.clone())
        ))
        .add_service(service!(AuthServer, interceptor::AUTH, auth::Auth::new(node.clone())))
        .add_service(service!(LockServer, interceptor::LOCK, lock::Lock::new(node.clone())))
        .add_service(service!(ElectionServer, interceptor::ELECTION, election::Election::new(node.clone())))
        .add_service(health_service)
        .prepare()
}
