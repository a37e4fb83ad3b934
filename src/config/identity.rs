//! The ids of members and clusters, computed as in etcd, so that the same command line gives the same
//! ids.
//!
//! A member id is the first eight bytes of a SHA-1 over the member's peer URLs and the cluster's token. A
//! cluster id is the first eight bytes of a SHA-1 over the ids of its first members. Neither changes later.

use sha1::{Digest, Sha1};

use crate::types::{ClusterId, MemberId};

/// The id of a member that a new cluster is started with.
pub(crate) fn member_id(peer_urls: &[String], token: &str) -> MemberId {
    MemberId(member_hash(peer_urls, token.as_bytes()))
}

/// The id of a member that is added to a running cluster at `unix_secs`.
pub(crate) fn added_member_id(peer_urls: &[String], unix_secs: u64) -> MemberId {
    MemberId(member_hash(peer_urls, unix_secs.to_string().as_bytes()))
}

pub(crate) fn cluster_id(members: &[MemberId]) -> ClusterId {
    let mut members = members.to_vec();
    members.sort_unstable();
    let mut hash = Sha1::new();
    for member in members {
        hash.update(member.0.to_be_bytes());
    }
    ClusterId(first_eight(hash))
}

fn member_hash(peer_urls: &[String], salt: &[u8]) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(salt);
    first_eight(hash)
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 has twenty bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &[&str]) -> Vec<String> {
        list.iter().map(|url| (*url).to_owned()).collect()
    }

    /// The ids that every etcd started without arguments has.
    #[test]
    fn the_well_known_ids() {
        let member = member_id(&urls(&["http://localhost:2380"]), "etcd-cluster");
        assert_eq!(member.to_string(), "8e9e05c52164694d");
        assert_eq!(cluster_id(&[member]).to_string(), "cdf818194e3a8c32");
    }

    #[test]
    fn order_does_not_matter() {
        let (a, b) = (urls(&["http://a:1", "http://b:1"]), urls(&["http://b:1", "http://a:1"]));
        assert_eq!(member_id(&a, "t"), member_id(&b, "t"));
        assert_eq!(cluster_id(&[MemberId(1), MemberId(2)]), cluster_id(&[MemberId(2), MemberId(1)]));
    }

    #[test]
    fn token_and_time_tell_members_apart() {
        let url = urls(&["http://a:1"]);
        assert_ne!(member_id(&url, "a"), member_id(&url, "b"));
        assert_ne!(added_member_id(&url, 1), added_member_id(&url, 2));
    }
}
