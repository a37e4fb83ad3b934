//! The generated wire types. Only `rpc`, the log encoding and the peer transport look in here.

// Generated code is not ours to lint.
#![allow(clippy::all, unreachable_pub, unused_qualifications, missing_docs)]

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
pub(crate) mod retcd {
    /// The log encoding.
    pub(crate) mod log {
        include!(concat!(env!("OUT_DIR"), "/retcd.log.rs"));
    }
    /// What the Raft layer keeps on the disk.
    pub(crate) mod raft {
        include!(concat!(env!("OUT_DIR"), "/retcd.raft.rs"));
    }
}
