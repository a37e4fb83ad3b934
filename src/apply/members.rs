//! The members of the cluster, as clients see them.
//!
//! Consensus has its own list of members. Each membership change that it commits is copied into this
//! list when it is applied; names and client URLs are published by the members themselves. The ids of
//! removed members are kept permanently, so that no member is added again under a removed id.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::MemberId;

#[derive(Debug, Default)]
pub(crate) struct Members {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Empty until the member has started and published it.
    pub(crate) name: String,
    pub(crate) peer_urls: Vec<String>,
    /// Empty until the member has published them.
    pub(crate) client_urls: Vec<String>,
    pub(crate) is_learner: bool,
}

impl Members {
    pub(crate) fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// All members, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        self.members.iter().map(|(&id, member)| (id, member))
    }

    pub(crate) fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// Adds a member, or changes its peer URLs and whether it is a learner.
    pub(super) fn admit(&mut self, id: MemberId, peer_urls: Vec<String>, is_learner: bool) {
        let member = self.members.entry(id).or_default();
        member.peer_urls = peer_urls;
        member.is_learner = is_learner;
    }

    pub(super) fn remove(&mut self, id: MemberId) {
        self.members.remove(&id);
        self.removed.insert(id);
    }

    /// Does nothing if the member has been removed meanwhile.
    pub(super) fn publish(&mut self, id: MemberId, name: &str, client_urls: &[String]) {
        if self.removed.contains(&id) && !self.members.contains_key(&id) {
            return;
        }
        let member = self.members.entry(id).or_default();
        member.name = name.to_owned();
        member.client_urls = client_urls.to_vec();
    }
}

/// The stored form: the key is the id in eight bytes, big-endian; the cell is the member as JSON, which
/// people can read. A removed member is an empty cell in a table of its own.
impl Members {
    pub(super) fn cell_key(id: MemberId) -> Bytes {
        Bytes::copy_from_slice(&id.0.to_be_bytes())
    }

    pub(super) fn cell(&self, id: MemberId) -> Option<Bytes> {
        let member = self.members.get(&id)?;
        Some(serde_json::to_vec(member).expect("strings and a bool are JSON").into())
    }

    pub(super) fn cell_removed(&self, id: MemberId) -> Option<Bytes> {
        self.removed.contains(&id).then(Bytes::new)
    }

    /// `None` if this is not what [`Members::cell`] writes.
    pub(super) fn restore(&mut self, key: &[u8], cell: &[u8]) -> Option<()> {
        self.members.insert(id_of(key)?, serde_json::from_slice(cell).ok()?);
        Some(())
    }

    /// `None` if this is not what [`Members::cell_key`] writes.
    pub(super) fn restore_removed(&mut self, key: &[u8]) -> Option<()> {
        self.removed.insert(id_of(key)?);
        Some(())
    }
}

fn id_of(key: &[u8]) -> Option<MemberId> {
    Some(MemberId(u64::from_be_bytes(key.try_into().ok()?)))
}
