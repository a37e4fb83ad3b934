//! Where a member is reached.

use std::fmt;

/// Where a member's peers reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) peer_urls: Vec<String>,
    /// The member was added as a learner. A member that has no vote yet and is no learner will be
    /// given a vote.
    pub(crate) is_learner: bool,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer_urls.join(","))
    }
}
