//! The generated types of the wire format. Only `rpc`, `link`, `ctl`, and the encodings in `apply` and `raft` use
//! them.

// Generated code is not linted, and the API has messages that a server never creates.
#![allow(clippy::all, unreachable_pub, unused_qualifications, missing_docs, dead_code)]

pub(crate) mod codec;
pub(crate) mod nested;

pub(crate) mod mvccpb {
    tonic::include_proto!("mvccpb");
}
pub(crate) mod authpb {
    tonic::include_proto!("authpb");
}
pub(crate) mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
pub(crate) mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}
pub(crate) mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}
pub(crate) mod grpc {
    pub(crate) mod health {
        tonic::include_proto!("grpc.health.v1");
    }
}
/// What collectors of traces take.
pub(crate) mod otlp {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}
/// What `go tool pprof` reads.
pub(crate) mod profile {
    include!(concat!(env!("OUT_DIR"), "/perftools.profiles.rs"));
}
pub(crate) mod retcd {
    /// The log encoding.
    pub(crate) mod log {
        include!(concat!(env!("OUT_DIR"), "/retcd.log.rs"));
    }
    /// The messages between members.
    pub(crate) mod peer {
        tonic::include_proto!("retcd.peer");
    }
    /// What the Raft layer stores on the disk, and sends to its peers.
    pub(crate) mod raft {
        include!(concat!(env!("OUT_DIR"), "/retcd.raft.rs"));
    }
}
