//! Who the members are, as clients see them.
//!
//! Consensus has its own list and decides who belongs to it; it tells this one with
//! each change it applies. The rest, name and client URLs, every member says of itself. Ids that
//! were removed are remembered for ever, so that nobody is asked to take one back.

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
    /// Empty until published, as the name.
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

    /// Adds a member, or changes where it is reached and whether it votes.
    pub(super) fn admit(&mut self, id: MemberId, peer_urls: Vec<String>, is_learner: bool) {
        let member = self.members.entry(id).or_default();
        member.peer_urls = peer_urls;
        member.is_learner = is_learner;
    }

    pub(super) fn remove(&mut self, id: MemberId) {
        self.members.remove(&id);
        self.removed.insert(id);
    }

    /// Word from a member that has been removed meanwhile comes too late, and changes nothing.
    pub(super) fn publish(&mut self, id: MemberId, name: &str, client_urls: &[String]) {
        if self.removed.contains(&id) && !self.members.contains_key(&id) {
            return;
        }
        let member = self.members.entry(id).or_default();
        member.name = name.to_owned();
        member.client_urls = client_urls.to_vec();
    }
}

/// The stored form: eight bytes of id, big-endian; the member as JSON, for whoever has to look.
/// A removed member is an empty cell in a table of its own.
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
