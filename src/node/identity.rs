//! Who a client is: from what it sends with a call to a caller.
//!
//! As in etcd, a token is looked up whenever something is asked with it, so that a stream which has been open
//! for long is judged by the token as it is now; and a token that is not valid is refused when the call needs
//! its caller, after the request itself was found to be valid.

use std::sync::Arc;

use tokio::time;

use super::Node;
use crate::{
    auth::AuthError,
    raft::Bearer,
    types::{Caller, CommonName, Secret},
};

/// What a client sends with a call to say who it is.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    Nothing,
    /// A token wins over a certificate.
    Token(Arc<Secret>),
    Certificate(CommonName),
    /// The caller is known without any.
    Known(Caller),
}

impl Node {
    /// Who is calling, by the tokens, users and roles of now. While authentication is disabled, credentials
    /// are not looked at.
    pub(super) fn identify(&self, credentials: &Credentials) -> Result<Caller, AuthError> {
        let Some(guarded_at) = self.guarded_at() else {
            return Ok(match credentials {
                Credentials::Known(caller) => caller.clone(),
                Credentials::Nothing | Credentials::Token(_) | Credentials::Certificate(_) => Caller::Nobody,
            });
        };
        match credentials {
            Credentials::Known(caller) => Ok(caller.clone()),
            Credentials::Nothing => Ok(Caller::Nobody),
            Credentials::Certificate(CommonName(name)) if name.is_empty() => Ok(Caller::Nobody),
            Credentials::Certificate(CommonName(name)) => {
                Ok(Caller::User { name: Arc::clone(name), auth_rev: guarded_at })
            }
            Credentials::Token(token) => match self.shared.logins.bearer(token) {
                Some(Bearer { name, .. }) if name.is_empty() => Err(AuthError::InvalidToken),
                Some(Bearer { name, auth_rev }) => {
                    Ok(Caller::User { name, auth_rev: auth_rev.unwrap_or(guarded_at) })
                }
                None => Err(AuthError::InvalidToken),
            },
        }
    }

    /// A caller that was identified before, as if it had been now: whatever has changed since, it may go on
    /// with what it is still permitted.
    pub(super) fn as_of_now(&self, caller: Caller) -> Caller {
        match (caller, self.guarded_at()) {
            (Caller::User { name, .. }, Some(auth_rev)) => Caller::User { name, auth_rev },
            (caller, _) => caller,
        }
    }

    /// A token that another member has just given out may be of a login that is not applied here yet. Waits
    /// for that, though no longer than a request may take.
    pub(super) async fn await_login(&self, credentials: &Credentials) {
        let Credentials::Token(token) = credentials else { return };
        if self.guarded_at().is_none() {
            return;
        }
        let Some(index) = self.shared.logins.known_from(token) else { return };
        if *self.shared.applied.borrow() >= index {
            return;
        }
        let mut applied = self.shared.applied.clone();
        let applied = applied.wait_for(|applied| *applied >= index);
        // What the token is worth is looked up afterwards.
        let _ = time::timeout(self.request_timeout(), applied).await;
    }
}
