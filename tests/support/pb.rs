//! The wire types as a client sees them, generated beside the server's own.

#![allow(
    clippy::all,
    unreachable_pub,
    dead_code,
    missing_docs,
    unused_qualifications,
    elided_lifetimes_in_paths
)]

/// What generated code of calls between members and of collectors asks for by this name.
pub(crate) mod codec {
    pub(crate) type Codec<T, U> = tonic_prost::ProstCodec<T, U>;
}

pub(crate) mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/client/mvccpb.rs"));
}
pub(crate) mod authpb {
    include!(concat!(env!("OUT_DIR"), "/client/authpb.rs"));
}
pub(crate) mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/client/etcdserverpb.rs"));
}
pub(crate) mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/client/v3lockpb.rs"));
}
pub(crate) mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/client/v3electionpb.rs"));
}
/// What collectors of traces take.
pub(crate) mod otlp {
    include!(concat!(env!("OUT_DIR"), "/opentelemetry.proto.collector.trace.v1.rs"));
}
/// What members say to each other.
pub(crate) mod retcd {
    pub(crate) mod peer {
        include!(concat!(env!("OUT_DIR"), "/retcd.peer.rs"));
    }
    pub(crate) mod raft {
        include!(concat!(env!("OUT_DIR"), "/retcd.raft.rs"));
    }
}
