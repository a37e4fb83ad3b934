//! Whether a caller is somebody, and may do something, with etcd's refusals.
//!
//! While authentication is disabled, everybody may do everything, and so may a member of the cluster always.

use std::ops::Bound;

use bytes::Bytes;

use super::{
    AuthError, AuthStore,
    grants::{Access, Grants, Intervals},
};
use crate::types::{Caller, KeyRange};

/// Keys that are asked for together.
pub(crate) enum Asked<'k> {
    Key(&'k Bytes),
    Range(&'k KeyRange),
    /// A sorted set, of which this finds the first key from a bound on.
    Set(&'k mut dyn FnMut(Bound<&[u8]>) -> Option<&'k Bytes>),
}

impl AuthStore {
    /// The name of the caller. `None` if there is nothing to check.
    fn name<'c>(&self, caller: &'c Caller) -> Result<Option<&'c str>, AuthError> {
        match caller {
            _ if !self.is_enabled() => Ok(None),
            Caller::Internal => Ok(None),
            Caller::Nobody => Err(AuthError::UserEmpty),
            Caller::User { name, .. } => Ok(Some(name)),
        }
    }

    /// As in etcd, the name of a certificate is an identity also if there is no such user.
    pub(crate) fn check_identity(&self, caller: &Caller) -> Result<(), AuthError> {
        self.name(caller).map(drop)
    }

    /// As in etcd, a caller that was identified before users and roles changed is refused by
    /// [`AuthStore::check_keys`], and not here.
    pub(crate) fn check_root(&self, caller: &Caller) -> Result<(), AuthError> {
        let Some(name) = self.name(caller)? else { return Ok(()) };
        if self.user(name)?.is_root() { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    pub(crate) fn check_user(&self, caller: &Caller, user: &str) -> Result<(), AuthError> {
        let is_user = matches!(caller, Caller::User { name, .. } if **name == *user);
        if is_user { Ok(()) } else { self.check_root(caller) }
    }

    pub(crate) fn check_role(&self, caller: &Caller, role: &str) -> Result<(), AuthError> {
        let has_role = match caller {
            Caller::User { name, .. } => self.user(name).is_ok_and(|user| user.roles.contains(role)),
            Caller::Nobody | Caller::Internal => false,
        };
        if has_role { Ok(()) } else { self.check_root(caller) }
    }

    /// Whether the caller may read or write all these keys.
    pub(crate) fn check_keys(
        &self,
        caller: &Caller,
        access: Access,
        asked: Asked<'_>,
    ) -> Result<(), AuthError> {
        let Some(name) = self.name(caller)? else { return Ok(()) };
        if let Caller::User { auth_rev, .. } = caller {
            match *auth_rev {
                // A signed token can say so. As in etcd, it is of nobody where keys are concerned.
                0 => return Err(AuthError::UserEmpty),
                old if old < self.rev() => return Err(AuthError::OldRevision),
                _ => {}
            }
        }
        // Unlike an operator, a client of keys is not told that there is no such user.
        self.user(name).map_err(|_| AuthError::PermissionDenied)?;
        let grants = self.grants(name);
        if grants.is_some_and(Grants::is_root) {
            return Ok(());
        }
        let nothing = Intervals::default();
        let granted = grants.map_or(&nothing, |grants| grants.of(access));
        let permits = match asked {
            Asked::Key(key) => granted.contains(key),
            Asked::Range(range) => granted.covers(range),
            Asked::Set(next) => granted.cover_all(next),
        };
        if permits { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_root_counts_from_when_it_is_granted_until_it_is_revoked() {
        let mut auth = AuthStore::default();
        for name in ["root", "admin"] {
            auth.user_add(name, "h", false).expect("a new user");
        }
        auth.user_grant_role("root", "root").expect("a role");
        auth.enable().expect("there is a root");
        let key = Bytes::from_static(b"k");
        let may = |auth: &AuthStore| {
            let caller = Caller::User { name: "admin".into(), auth_rev: auth.rev() };
            auth.check_keys(&caller, Access::Write, Asked::Key(&key))
        };
        assert_eq!(may(&auth), Err(AuthError::PermissionDenied));
        auth.user_grant_role("admin", "root").expect("a role");
        assert_eq!(may(&auth), Ok(()));
        auth.role_add("other").expect("a new role");
        auth.user_grant_role("admin", "other").expect("a role");
        assert_eq!(may(&auth), Ok(()));
        auth.user_revoke_role("admin", "root").expect("it was granted");
        assert_eq!(may(&auth), Err(AuthError::PermissionDenied));
        auth.user_delete("admin").expect("it is there");
        assert_eq!(may(&auth), Err(AuthError::PermissionDenied));
    }
}
