//! How a member comes to its end by itself.

/// Why a member ends without having been asked to stop.
#[derive(Debug)]
pub(crate) enum End {
    /// The member was removed from the cluster.
    Removed,
    /// The member stopped because of an error. The text is for an operator.
    Failed(String),
}
