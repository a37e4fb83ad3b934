//! Calls that are made until they have an answer that another call would not change: a cluster may be without a leader for
//! a while, or a member may be started again.

use tokio::time;

use crate::{ctl::client::ClientError, limits};

/// Makes a call again for as long as its failure may pass. The call must have the same effect when it is made twice.
pub(super) async fn patiently<T>(
    mut call: impl AsyncFnMut() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    loop {
        match call().await {
            Err(error) if passes(&error) => time::sleep(limits::CTL_FOLLOW_PAUSE).await,
            answer => return answer,
        }
    }
}

pub(super) fn passes(error: &ClientError) -> bool {
    const TOO_MANY: &str = "etcdserver: too many requests";
    error.is_passing() || error.says(TOO_MANY)
}
