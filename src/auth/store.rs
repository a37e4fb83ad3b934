//! Users and roles, by name.
//!
//! A user only has roles that exist, except for `root`: that role may be granted before it exists, and
//! permits everything, whatever permissions were granted to it. While authentication is enabled, the user
//! `root` and its role can not be removed, so that somebody can disable it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::OnceLock,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    grants::Grants,
    permission::{self, Permission},
};
use crate::types::KeyRange;

const ROOT: &str = "root";

#[derive(Clone)]
pub(crate) struct AuthStore {
    is_enabled: bool,
    users: BTreeMap<String, User>,
    /// The permissions of each role, ordered by key; those with the same key in the order of granting.
    roles: BTreeMap<String, Vec<Permission>>,
    rev: u64,
    /// What each user is granted, computed when it is first needed. They follow from users and roles, and
    /// are dropped when those change. A user without roles has none.
    grants: BTreeMap<String, OnceLock<Grants>>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    #[error("authentication is not enabled")]
    NotEnabled,
    /// Also for a user that does not exist: a client is not told which users there are.
    #[error("authentication failed, invalid user ID or password")]
    LoginFailed,
    #[error("authentication failed, password was given for no password user")]
    NoPasswordUser,
    /// There is no private key to sign tokens with.
    #[error("token signing attempted with verify-only key")]
    VerifyOnly,
    #[error("the token could not be signed")]
    TokenNotSigned,
    #[error("invalid auth token")]
    InvalidToken,
    /// Users or roles have changed since the caller was identified.
    #[error("revision of auth store is old")]
    OldRevision,
}

impl Default for AuthStore {
    fn default() -> AuthStore {
        AuthStore {
            is_enabled: false,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            rev: 1,
            grants: BTreeMap::new(),
        }
    }
}

/// Without what was computed from the rest.
impl PartialEq for AuthStore {
    fn eq(&self, other: &AuthStore) -> bool {
        let all = |store: &AuthStore| (store.is_enabled, store.rev);
        all(self) == all(other) && self.users == other.users && self.roles == other.roles
    }
}

impl fmt::Debug for AuthStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AuthStore { is_enabled, users, roles, rev, grants: _ } = self;
        let mut fields = f.debug_struct("AuthStore");
        fields.field("is_enabled", is_enabled).field("users", users).field("roles", roles).field("rev", rev);
        fields.finish()
    }
}

/// Without the hash of the password, which may be guessed from the hash.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let User { password_hash: _, no_password, roles } = self;
        f.debug_struct("User").field("no_password", no_password).field("roles", roles).finish_non_exhaustive()
    }
}

impl AuthStore {
    pub(crate) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// 1 at first; every change raises it by one. Enabling authentication does not.
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

    /// The permissions that were granted to a role that exists, also to `root`, which needs none.
    pub(crate) fn granted_permissions(&self, role: &str) -> &[Permission] {
        self.roles.get(role).map_or(&[], Vec::as_slice)
    }

    /// Requires that there is a user that can disable authentication again.
    pub(crate) fn enable(&mut self) -> Result<(), AuthError> {
        if self.is_enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(AuthError::RootUserNotExist)?;
        if !root.is_root() {
            return Err(AuthError::RootRoleNotExist);
        }
        self.is_enabled = true;
        Ok(())
    }

    pub(crate) fn disable(&mut self) {
        if std::mem::replace(&mut self.is_enabled, false) {
            self.rev += 1;
        }
    }

    /// A client has proved that it is this user, against the password of a revision.
    pub(crate) fn login(&self, name: &str, rev: u64) -> Result<(), AuthError> {
        if !self.is_enabled {
            return Err(AuthError::NotEnabled);
        }
        if rev != self.rev {
            return Err(AuthError::OldRevision);
        }
        let user = self.users.get(name).ok_or(AuthError::LoginFailed)?;
        if user.no_password { Err(AuthError::LoginFailed) } else { Ok(()) }
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
        self.rev += 1;
        Ok(())
    }

    pub(crate) fn user_delete(&mut self, name: &str) -> Result<(), AuthError> {
        if self.is_enabled && name == ROOT {
            return Err(AuthError::InvalidAuthManagement);
        }
        self.users.remove(name).ok_or(AuthError::UserNotFound)?;
        self.grants.remove(name);
        self.rev += 1;
        Ok(())
    }

    /// A user without a password stays without one.
    pub(crate) fn user_change_password(&mut self, name: &str, password_hash: &str) -> Result<(), AuthError> {
        let user = self.user_mut(name)?;
        if !user.no_password {
            user.password_hash = password_hash.to_owned();
        }
        self.rev += 1;
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
            self.regrant(name);
            self.rev += 1;
        }
        Ok(())
    }

    pub(crate) fn user_revoke_role(&mut self, name: &str, role: &str) -> Result<(), AuthError> {
        if self.is_enabled && name == ROOT && role == ROOT {
            return Err(AuthError::InvalidAuthManagement);
        }
        if !self.user_mut(name)?.roles.remove(role) {
            return Err(AuthError::RoleNotGranted);
        }
        self.regrant(name);
        self.rev += 1;
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
        self.rev += 1;
        Ok(())
    }

    /// The role is also removed from all users that have it.
    pub(crate) fn role_delete(&mut self, name: &str) -> Result<(), AuthError> {
        if self.is_enabled && name == ROOT {
            return Err(AuthError::InvalidAuthManagement);
        }
        self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
        self.regrant_all_with(name);
        for user in self.users.values_mut() {
            user.roles.remove(name);
        }
        self.rev += 1;
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
        self.regrant_all_with(role);
        self.rev += 1;
        Ok(())
    }

    pub(crate) fn role_revoke_permission(&mut self, role: &str, range: &KeyRange) -> Result<(), AuthError> {
        let permissions = self.permissions_mut(role)?;
        let at = permissions.iter().position(|had| had.range == *range);
        permissions.remove(at.ok_or(AuthError::PermissionNotGranted)?);
        self.regrant_all_with(role);
        self.rev += 1;
        Ok(())
    }

    fn user_mut(&mut self, name: &str) -> Result<&mut User, AuthError> {
        self.users.get_mut(name).ok_or(AuthError::UserNotFound)
    }

    fn permissions_mut(&mut self, role: &str) -> Result<&mut Vec<Permission>, AuthError> {
        self.roles.get_mut(role).ok_or(AuthError::RoleNotFound)
    }

    /// The roles of a user have changed.
    fn regrant(&mut self, name: &str) {
        self.grants.insert(name.to_owned(), OnceLock::new());
    }

    /// The permissions of a role have changed.
    fn regrant_all_with(&mut self, role: &str) {
        #[cfg(test)]
        if crate::planted::is(crate::planted::Bug::PermissionsKept) {
            return;
        }
        for (name, _) in self.users.iter().filter(|(_, user)| user.roles.contains(role)) {
            self.grants.insert(name.clone(), OnceLock::new());
        }
    }
}

impl User {
    pub(crate) fn is_root(&self) -> bool {
        self.roles.contains(ROOT)
    }
}

/// What users may do.
impl AuthStore {
    /// What the roles of a user permit together. `None` for a user that never had a role.
    pub(super) fn grants(&self, name: &str) -> Option<&Grants> {
        let union = || {
            let user = self.users.get(name);
            let roles = user.into_iter().flat_map(|user| &user.roles);
            let permissions = roles.filter_map(|role| self.roles.get(role)).flatten();
            Grants::union(user.is_some_and(User::is_root), permissions)
        };
        Some(self.grants.get(name)?.get_or_init(union))
    }
}

/// The stored form, by name: a user is JSON, which people can read; a role is the encoding of its
/// permissions ([`permission::encode`]). The revision has a cell of its own.
impl AuthStore {
    /// The key of the revision in the table `meta`.
    pub(crate) const REV_CELL: &'static [u8] = b"auth_revision";
    /// The key in the table `meta` of whether authentication is enabled.
    pub(crate) const ENABLED_CELL: &'static [u8] = b"auth_enabled";

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

    pub(crate) fn enabled_cell(&self) -> Bytes {
        Bytes::copy_from_slice(&[u8::from(self.is_enabled)])
    }

    /// `None` if this is not what [`AuthStore::user_cell`] writes.
    pub(crate) fn restore_user(&mut self, key: &[u8], cell: &[u8]) -> Option<()> {
        let name = name_of(key)?;
        self.regrant(&name);
        self.users.insert(name, serde_json::from_slice(cell).ok()?);
        Some(())
    }

    /// `None` if this is not what [`AuthStore::role_cell`] writes.
    pub(crate) fn restore_role(&mut self, key: &[u8], cell: &[u8]) -> Option<()> {
        self.roles.insert(name_of(key)?, permission::decode(cell)?);
        Some(())
    }

    /// `None` if this is not what [`AuthStore::enabled_cell`] writes.
    pub(crate) fn restore_enabled(&mut self, cell: &[u8]) -> Option<()> {
        self.is_enabled = match cell {
            [0] => false,
            [1] => true,
            _ => return None,
        };
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
