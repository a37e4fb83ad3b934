//! Users and roles, by name.
//!
//! A user only has roles that exist, except for `root`: that role may be granted before it exists, and
//! permits everything, whatever permissions were granted to it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::permission::{self, Permission};
use crate::types::KeyRange;

const ROOT: &str = "root";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuthStore {
    users: BTreeMap<String, User>,
    /// The permissions of each role, ordered by key; those with the same key in the order of granting.
    roles: BTreeMap<String, Vec<Permission>>,
    rev: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    /// A bcrypt hash, as text. No password matches an empty one.
    pub(crate) password_hash: String,
    /// The user was created without a password and never gets one.
    pub(crate) no_password: bool,
    pub(crate) roles: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum AuthError {
    #[error("user name is empty")]
    UserEmpty,
    #[error("user name already exists")]
    UserAlreadyExists,
    #[error("user name not found")]
    UserNotFound,
    #[error("role name is empty")]
    RoleEmpty,
    #[error("role name already exists")]
    RoleAlreadyExists,
    #[error("role name not found")]
    RoleNotFound,
    #[error("role is not granted to the user")]
    RoleNotGranted,
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// A permission on a range on which none can be granted.
    #[error("invalid auth management")]
    InvalidAuthManagement,
    #[error("root user does not exist")]
    RootUserNotExist,
    #[error("root user does not have root role")]
    RootRoleNotExist,
    #[error("permission denied")]
    PermissionDenied,
}

impl Default for AuthStore {
    fn default() -> AuthStore {
        AuthStore { users: BTreeMap::new(), roles: BTreeMap::new(), rev: 1 }
    }
}

impl AuthStore {
    /// 1 at first; every change raises it by one.
    pub(crate) fn rev(&self) -> u64 {
        self.rev
    }

    pub(crate) fn user(&self, name: &str) -> Result<&User, AuthError> {
        self.users.get(name).ok_or(AuthError::UserNotFound)
    }

    /// All users, by name.
    pub(crate) fn users(&self) -> impl Iterator<Item = (&str, &User)> {
        self.users.iter().map(|(name, user)| (name.as_str(), user))
    }

    /// The names of all roles, sorted.
    pub(crate) fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The permissions of a role.
    pub(crate) fn permissions(&self, role: &str) -> Result<Vec<Permission>, AuthError> {
        let permissions = self.roles.get(role).ok_or(AuthError::RoleNotFound)?;
        Ok(if role == ROOT { vec![Permission::everything()] } else { permissions.clone() })
    }

    /// Whether there is a user that can disable authentication again once it is enabled.
    pub(crate) fn check_root(&self) -> Result<(), AuthError> {
        let root = self.users.get(ROOT).ok_or(AuthError::RootUserNotExist)?;
        if root.roles.contains(ROOT) { Ok(()) } else { Err(AuthError::RootRoleNotExist) }
    }

    pub(crate) fn user_add(
        &mut self,
        name: &str,
        password_hash: &str,
        no_password: bool,
    ) -> Result<(), AuthError> {
        if name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.users.contains_key(name) {
            return Err(AuthError::UserAlreadyExists);
        }
        let password_hash = if no_password { "" } else { password_hash }.to_owned();
        self.users.insert(name.to_owned(), User { password_hash, no_password, roles: BTreeSet::new() });
        self.changed();
        Ok(())
    }

    pub(crate) fn user_delete(&mut self, name: &str) -> Result<(), AuthError> {
        self.users.remove(name).ok_or(AuthError::UserNotFound)?;
        self.changed();
        Ok(())
    }

    /// A user without a password stays without one.
    pub(crate) fn user_change_password(&mut self, name: &str, password_hash: &str) -> Result<(), AuthError> {
        let user = self.user_mut(name)?;
        if !user.no_password {
            user.password_hash = password_hash.to_owned();
        }
        self.changed();
        Ok(())
    }

    /// Granting a role that the user has already does not raise the revision.
    pub(crate) fn user_grant_role(&mut self, name: &str, role: &str) -> Result<(), AuthError> {
        let is_role = role == ROOT || self.roles.contains_key(role);
        let user = self.user_mut(name)?;
        if !is_role {
            return Err(AuthError::RoleNotFound);
        }
        if user.roles.insert(role.to_owned()) {
            self.changed();
        }
        Ok(())
    }

    pub(crate) fn user_revoke_role(&mut self, name: &str, role: &str) -> Result<(), AuthError> {
        if !self.user_mut(name)?.roles.remove(role) {
            return Err(AuthError::RoleNotGranted);
        }
        self.changed();
        Ok(())
    }

    pub(crate) fn role_add(&mut self, name: &str) -> Result<(), AuthError> {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(AuthError::RoleAlreadyExists);
        }
        self.roles.insert(name.to_owned(), Vec::new());
        self.changed();
        Ok(())
    }

    /// The role is also removed from all users that have it.
    pub(crate) fn role_delete(&mut self, name: &str) -> Result<(), AuthError> {
        self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
        for user in self.users.values_mut() {
            user.roles.remove(name);
        }
        self.changed();
        Ok(())
    }

    /// Replaces the permission that the role has on exactly this range, if it has one.
    pub(crate) fn role_grant_permission(
        &mut self,
        role: &str,
        permission: &Permission,
    ) -> Result<(), AuthError> {
        if !permission::is_grantable(&permission.range) {
            return Err(AuthError::InvalidAuthManagement);
        }
        let permissions = self.permissions_mut(role)?;
        match permissions.iter_mut().find(|had| had.range == permission.range) {
            Some(had) => had.kind = permission.kind,
            None => {
                let key = permission.range.start();
                let at = permissions.partition_point(|had| had.range.start() <= key);
                permissions.insert(at, permission.clone());
            }
        }
        self.changed();
        Ok(())
    }

    pub(crate) fn role_revoke_permission(&mut self, role: &str, range: &KeyRange) -> Result<(), AuthError> {
        let permissions = self.permissions_mut(role)?;
        let at = permissions.iter().position(|had| had.range == *range);
        permissions.remove(at.ok_or(AuthError::PermissionNotGranted)?);
        self.changed();
        Ok(())
    }

    fn user_mut(&mut self, name: &str) -> Result<&mut User, AuthError> {
        self.users.get_mut(name).ok_or(AuthError::UserNotFound)
    }

    fn permissions_mut(&mut self, role: &str) -> Result<&mut Vec<Permission>, AuthError> {
        self.roles.get_mut(role).ok_or(AuthError::RoleNotFound)
    }

    fn changed(&mut self) {
        self.rev += 1;
    }
}

/// The stored form, by name: a user is JSON, which people can read; a role is the encoding of its
/// permissions ([`permission::encode`]). The revision has a cell of its own.
impl AuthStore {
    /// The key of the revision in the table `meta`.
    pub(crate) const REV_CELL: &'static [u8] = b"auth_revision";

    pub(crate) fn cell_key(name: &str) -> Bytes {
        Bytes::copy_from_slice(name.as_bytes())
    }

    /// `None` for a user that does not exist: its cell is to be removed.
    pub(crate) fn user_cell(&self, name: &str) -> Option<Bytes> {
        let user = self.users.get(name)?;
        Some(serde_json::to_vec(user).expect("strings and a bool are JSON").into())
    }

    pub(crate) fn role_cell(&self, name: &str) -> Option<Bytes> {
        Some(permission::encode(self.roles.get(name)?))
    }

    pub(crate) fn rev_cell(&self) -> Bytes {
        Bytes::copy_from_slice(&self.rev.to_be_bytes())
    }

    /// `None` if this is not what [`AuthStore::user_cell`] writes.
    pub(crate) fn restore_user(&mut self, key: &[u8], cell: &[u8]) -> Option<()> {
        self.users.insert(name_of(key)?, serde_json::from_slice(cell).ok()?);
        Some(())
    }

    /// `None` if this is not what [`AuthStore::role_cell`] writes.
    pub(crate) fn restore_role(&mut self, key: &[u8], cell: &[u8]) -> Option<()> {
        self.roles.insert(name_of(key)?, permission::decode(cell)?);
        Some(())
    }

    /// `None` if this is not what [`AuthStore::rev_cell`] writes.
    pub(crate) fn restore_rev(&mut self, cell: &[u8]) -> Option<()> {
        self.rev = u64::from_be_bytes(cell.try_into().ok()?);
        Some(())
    }
}

fn name_of(key: &[u8]) -> Option<String> {
    Some(str::from_utf8(key).ok()?.to_owned())
}
