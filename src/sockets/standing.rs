//! Whether a connection to a peer port was made by a member.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Shared by a connection and the calls on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing(Arc<AtomicBool>);

impl Standing {
    /// A call on the connection came from a member of this cluster, as far as that can be checked.
    pub(crate) fn show_member(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_member(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
