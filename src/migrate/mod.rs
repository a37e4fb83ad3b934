//! Between etcd's files and our database: what one is in terms of the other.
//!
//! ```text
//! Image     our database, pinned   -> a bbolt file, page by page     snapshots of a running member, `retcd export`
//! intake    a bbolt file of etcd   -> a database of ours             `retcd snapshot restore`, `retcd import`
//! EtcdWal   the log of an etcd     -> its entries                    `retcd import`
//! replay    entries of that log    -> commands, applied to the state
//! survey    a bbolt file of etcd   -> whether it is whole, and its hash    backups
//! status    a bbolt file of etcd   -> what etcdutl shows of it             `retcd utl`
//! ```
//!
//! [`schema`] has the names of etcd's buckets and the encoding of each of their keys and values. Records need no
//! translation: the stored value of a revision is the same `mvccpb.KeyValue` in both. Nothing here knows a running
//! member.

mod etcd_wal;
mod image;
mod intake;
mod internal;
mod replay;
mod schema;
mod status;
mod survey;

#[cfg(test)]
mod tests;

pub(crate) use etcd_wal::{EtcdWal, Tail, WalError};
pub(crate) use image::{Image, ImagePages, LogPlace};
pub(crate) use intake::{IntakeError, Progress, TakenIn, TakenMember, consistent_index, take_in};
pub(crate) use replay::{ReplayError, replay};
pub(crate) use status::{FileStatus, hash_kv, status};
pub(crate) use survey::survey;
