//! The members of an imported cluster, where they are to be those of the new one too.

use std::collections::BTreeMap;

use crate::{
    link::Peer,
    migrate::TakenMember,
    types::{ClusterId, MemberId},
};

/// A cluster of etcd, and which of its members the imported directory is of.
#[derive(Clone, Debug)]
pub(in crate::node) struct Kept {
    pub(in crate::node) cluster: ClusterId,
    pub(in crate::node) member: MemberId,
    pub(in crate::node) peers: BTreeMap<u64, Peer>,
}

impl Kept {
    /// `None` if the member is not one of them: it was removed, or had not heard of itself yet.
    pub(super) fn of(cluster: ClusterId, member: MemberId, members: &[TakenMember]) -> Option<Kept> {
        let peer = |member: &TakenMember| {
            let TakenMember { id, peer_urls, is_learner, .. } = member;
            (id.0, Peer { peer_urls: peer_urls.clone(), is_learner: *is_learner })
        };
        let peers: BTreeMap<u64, Peer> = members.iter().map(peer).collect();
        peers.contains_key(&member.0).then_some(Kept { cluster, member, peers })
    }
}
