//! Who a member and a cluster are: ids computed as etcd computes them, so that the same command
//! line makes the same ids.
//!
//! A member is the first eight bytes of a SHA-1 over its peer URLs and the cluster's token; a
//! cluster, of one over its first members. Both are fixed from then on.

use sha1::{Digest, Sha1};

use crate::types::{ClusterId, MemberId};

/// The id of a first member of a cluster.
pub(crate) fn member_id(peer_urls: &[String], token: &str) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    MemberId(first_eight(hash))
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
    fn the_token_tells_members_apart() {
        let url = urls(&["http://a:1"]);
        assert_ne!(member_id(&url, "a"), member_id(&url, "b"));
    }
}
