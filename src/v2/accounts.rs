//! The users and roles of version 2: who may read and write which keys.
//!
//! They are not those of version 3. While authentication is disabled everything is permitted. While it is
//! enabled, a caller without a name has the role `guest`, and the role `root` is permitted everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Key;
use crate::storage::cell_footprint;

const ROOT: &str = "root";
const GUEST: &str = "guest";

/// Keys of the table of users and roles.
const ENABLED: &str = "enabled";
const USER_PREFIX: &str = "user/";
const ROLE_PREFIX: &str = "role/";

/// Who asks. A user was authenticated by the member that received the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Guest,
    User(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AccountChange {
    /// Creates a user, or changes one that exists.
    PutUser {
        name: String,
        password_hash: Option<String>,
        roles: Names,
        grant: Vec<String>,
        revoke: Vec<String>,
    },
    DeleteUser {
        name: String,
    },
    CreateRole {
        name: String,
        permits: Patterns,
    },
    UpdateRole {
        name: String,
        grant: Patterns,
        revoke: Patterns,
    },
    DeleteRole {
        name: String,
    },
    Enable,
    Disable,
}

/// What was never named is `None`, which etcd stores and shows as `null` until a first grant or revoke.
pub(crate) type Names = Option<Vec<String>>;

/// Patterns of keys: one that ends with `*` is for all keys that begin with what is before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Patterns {
    pub(crate) read: Names,
    pub(crate) write: Names,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserRecord {
    /// A bcrypt hash, as text.
    pub(crate) password_hash: String,
    pub(crate) roles: Names,
}

/// A role by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleRecord {
    pub(crate) name: String,
    pub(crate) permits: Patterns,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    User { roles: Names, is_new: bool },
    Role { permits: Patterns, is_new: bool },
    Nothing,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum AccountRefusal {
    /// Not a refusal of `auth`: it has etcd's text of all requests without permission.
    #[error("Insufficient credentials")]
    Unauthorized,
    #[error("auth: Cannot create user {0} with an empty password")]
    EmptyPassword(String),
    #[error("auth: User {0} already exists.")]
    UserExists(String),
    /// etcd has three texts for this, by what was asked.
    #[error("auth: User {0} does not exist")]
    NoSuchUserToDelete(String),
    #[error("auth: User {0} does not exist.")]
    NoSuchUser(String),
    #[error("auth: Cannot delete root user while auth is enabled.")]
    RootUserNeeded,
    #[error("auth: User not updated. Use grant/revoke/password to update the user.")]
    UserNotUpdated,
    #[error("auth: Granting duplicate role {role} for user {user}")]
    DuplicateRole { role: String, user: String },
    #[error("auth: Revoking ungranted role {role} for user {user}")]
    UngrantedRole { role: String, user: String },
    #[error("auth: Cannot modify role {0}: is root role.")]
    RootRole(String),
    #[error("auth: Role {0} already exists.")]
    RoleExists(String),
    #[error("auth: Role {0} doesn't exist.")]
    NoSuchRoleToDelete(String),
    #[error("auth: Role {0} does not exist.")]
    NoSuchRole(String),
    #[error("auth: Role not updated. Use grant/revoke to update the role.")]
    RoleNotUpdated,
    #[error("auth: Granting duplicate read permission {0}")]
    DuplicateRead(String),
    #[error("auth: Granting duplicate write permission {0}")]
    DuplicateWrite(String),
    #[error("auth: already enabled")]
    AlreadyEnabled,
    #[error("auth: already disabled")]
    AlreadyDisabled,
    #[error("auth: No root user available, please create one")]
    NoRootUser,
}

impl AccountRefusal {
    pub(crate) fn http_status(&self) -> u16 {
        use AccountRefusal::*;
        match self {
            Unauthorized => 401,
            EmptyPassword(_) | UserNotUpdated | RoleNotUpdated => 400,
            RootUserNeeded | RootRole(_) => 403,
            NoSuchUserToDelete(_) | NoSuchUser(_) | NoSuchRoleToDelete(_) | NoSuchRole(_) => 404,
            UserExists(_)
            | DuplicateRole { .. }
            | UngrantedRole { .. }
            | RoleExists(_)
            | DuplicateRead(_)
            | DuplicateWrite(_)
            | AlreadyEnabled
            | AlreadyDisabled
            | NoRootUser => 409,
        }
    }
}

impl AccountChange {
    pub(super) fn size(&self) -> usize {
        let all = |names: &[String]| names.iter().map(String::len).sum::<usize>();
        let patterns = |patterns: &Patterns| all(listed(&patterns.read)) + all(listed(&patterns.write));
        match self {
            AccountChange::PutUser { name, password_hash, roles, grant, revoke } => {
                let hash = password_hash.as_ref().map_or(0, String::len);
                name.len() + hash + all(listed(roles)) + all(grant) + all(revoke)
            }
            AccountChange::CreateRole { name, permits } => name.len() + patterns(permits),
            AccountChange::UpdateRole { name, grant, revoke } => {
                name.len() + patterns(grant) + patterns(revoke)
            }
            AccountChange::DeleteUser { name } | AccountChange::DeleteRole { name } => name.len(),
            AccountChange::Enable | AccountChange::Disable => 0,
        }
    }
}

impl AccountChange {
    /// The bytes that the change may add to the store.
    pub(super) fn growth(&self) -> usize {
        match self {
            AccountChange::PutUser { .. }
            | AccountChange::CreateRole { .. }
            | AccountChange::UpdateRole { .. } => self.size(),
            AccountChange::DeleteUser { .. }
            | AccountChange::DeleteRole { .. }
            | AccountChange::Enable
            | AccountChange::Disable => 0,
        }
    }
}

/// What a change has touched, for the stored form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Touched {
    User(String),
    Role(String),
    Enabled,
}

#[derive(Debug, Default)]
pub(super) struct Accounts {
    pub(super) users: BTreeMap<String, UserRecord>,
    pub(super) roles: BTreeMap<String, Patterns>,
    /// `None` until the first change of users and roles, which takes more indexes than those after it.
    pub(super) enabled: Option<bool>,
}

impl Accounts {
    pub(super) fn is_enabled(&self) -> bool {
        self.enabled == Some(true)
    }

    pub(super) fn role(&self, name: &str) -> Option<RoleRecord> {
        let permits = if name == ROOT { everything() } else { self.roles.get(name)?.clone() };
        Some(RoleRecord { name: name.to_owned(), permits })
    }

    /// All roles, with `root`, by name.
    pub(super) fn role_names(&self) -> BTreeSet<&str> {
        self.roles.keys().map(String::as_str).chain([ROOT]).collect()
    }

    /// `root` has the role `root`, whatever was granted to it.
    pub(super) fn user(&self, name: &str) -> Option<UserRecord> {
        let mut user = self.users.get(name)?.clone();
        if name == ROOT {
            attach_root(&mut user.roles);
        }
        Some(user)
    }

    pub(super) fn may_use(&self, who: &Who, key: &Key, writes: bool, recursive: bool) -> bool {
        if !self.is_enabled() {
            return true;
        }
        let permits = |role: &str, recursive: bool| {
            let Some(patterns) = self.roles.get(role) else { return role == ROOT };
            let patterns = if writes { &patterns.write } else { &patterns.read };
            role == ROOT || listed(patterns).iter().any(|pattern| matches(pattern, key.as_str(), recursive))
        };
        match who {
            Who::Guest => permits(GUEST, false),
            Who::User(name) => {
                let user = self.user(name).unwrap_or_default();
                listed(&user.roles).iter().any(|role| permits(role, recursive))
            }
        }
    }

    pub(super) fn is_root(&self, who: &Who) -> bool {
        match who {
            _ if !self.is_enabled() => true,
            Who::Guest => false,
            Who::User(name) => {
                listed(&self.user(name).unwrap_or_default().roles).iter().any(|role| role == ROOT)
            }
        }
    }

    /// What stands under the names that a change may touch.
    pub(super) fn stored(&self, change: &AccountChange) -> u64 {
        let named = |name: &str| {
            let user = Touched::User(name.to_owned());
            [user, Touched::Role(name.to_owned())]
        };
        let of_name = match change {
            AccountChange::PutUser { name, .. }
            | AccountChange::DeleteUser { name }
            | AccountChange::CreateRole { name, .. }
            | AccountChange::UpdateRole { name, .. }
            | AccountChange::DeleteRole { name } => Some(named(name)),
            AccountChange::Enable | AccountChange::Disable => None,
        };
        let guest = Touched::Role(GUEST.to_owned());
        let mut touched: Vec<Touched> = of_name.into_iter().flatten().collect();
        if !touched.contains(&guest) {
            touched.push(guest);
        }
        touched.push(Touched::Enabled);
        let cells = touched.iter().map(|touched| self.cell(touched));
        cells.map(|(key, cell)| cell.map_or(0, |cell| cell_footprint(key.as_bytes(), &cell))).sum()
    }

    /// The stored form: the key, and the cell if there is one.
    pub(super) fn cell(&self, touched: &Touched) -> (String, Option<Bytes>) {
        fn json(value: &impl Serialize) -> Bytes {
            serde_json::to_vec(value).expect("texts and lists are JSON").into()
        }
        match touched {
            Touched::User(name) => (format!("{USER_PREFIX}{name}"), self.users.get(name).map(json)),
            Touched::Role(name) => (format!("{ROLE_PREFIX}{name}"), self.roles.get(name).map(json)),
            Touched::Enabled => (ENABLED.to_owned(), self.enabled.as_ref().map(json)),
        }
    }

    /// `None` if this is not what [`Accounts::cell`] writes.
    pub(super) fn restore(&mut self, key: &str, cell: &[u8]) -> Option<()> {
        if key == ENABLED {
            self.enabled = Some(serde_json::from_slice(cell).ok()?);
        } else if let Some(name) = key.strip_prefix(USER_PREFIX) {
            self.users.insert(name.to_owned(), serde_json::from_slice(cell).ok()?);
        } else {
            let name = key.strip_prefix(ROLE_PREFIX)?;
            self.roles.insert(name.to_owned(), serde_json::from_slice(cell).ok()?);
        }
        Some(())
    }

    /// Makes a change. Each thing that is touched takes an index, as in etcd, which keeps users and roles in its
    /// tree.
    pub(super) fn change(
        &mut self,
        who: &Who,
        change: &AccountChange,
        touched: &mut Vec<Touched>,
    ) -> Result<Done, AccountRefusal> {
        if !self.is_root(who) {
            return Err(AccountRefusal::Unauthorized);
        }
        match change {
            AccountChange::PutUser { name, password_hash, roles, grant, revoke } => {
                let is_update = !grant.is_empty() || !revoke.is_empty();
                if is_update || (listed(roles).is_empty() && self.users.contains_key(name)) {
                    self.update_user(name, password_hash.as_ref(), grant, revoke, touched)
                } else {
                    self.create_user(name, password_hash.as_ref(), roles, touched)
                }
            }
            AccountChange::DeleteUser { name } => {
                if self.is_enabled() && name == ROOT {
                    return Err(AccountRefusal::RootUserNeeded);
                }
                self.lay_out(touched);
                self.users.remove(name).ok_or_else(|| AccountRefusal::NoSuchUserToDelete(name.clone()))?;
                touched.push(Touched::User(name.clone()));
                Ok(Done::Nothing)
            }
            AccountChange::CreateRole { name, permits } => {
                if name == ROOT {
                    return Err(AccountRefusal::RootRole(name.clone()));
                }
                self.lay_out(touched);
                if self.roles.contains_key(name) {
                    return Err(AccountRefusal::RoleExists(name.clone()));
                }
                self.roles.insert(name.clone(), permits.clone());
                touched.push(Touched::Role(name.clone()));
                Ok(Done::Role { permits: permits.clone(), is_new: true })
            }
            AccountChange::UpdateRole { name, grant, revoke } => {
                if name == ROOT {
                    return Err(AccountRefusal::RootRole(name.clone()));
                }
                let old = self.roles.get(name).ok_or_else(|| AccountRefusal::NoSuchRole(name.clone()))?;
                let new = merge_patterns(old, grant, revoke)?;
                if new == *old {
                    return Err(AccountRefusal::RoleNotUpdated);
                }
                self.lay_out(touched);
                self.roles.insert(name.clone(), new.clone());
                touched.push(Touched::Role(name.clone()));
                Ok(Done::Role { permits: new, is_new: false })
            }
            AccountChange::DeleteRole { name } => {
                if name == ROOT {
                    return Err(AccountRefusal::RootRole(name.clone()));
                }
                self.lay_out(touched);
                self.roles.remove(name).ok_or_else(|| AccountRefusal::NoSuchRoleToDelete(name.clone()))?;
                touched.push(Touched::Role(name.clone()));
                Ok(Done::Nothing)
            }
            AccountChange::Enable => {
                if self.is_enabled() {
                    return Err(AccountRefusal::AlreadyEnabled);
                }
                if !self.users.contains_key(ROOT) {
                    return Err(AccountRefusal::NoRootUser);
                }
                self.lay_out(touched);
                if !self.roles.contains_key(GUEST) {
                    self.roles.insert(GUEST.to_owned(), everything());
                    touched.push(Touched::Role(GUEST.to_owned()));
                }
                self.enabled = Some(true);
                touched.push(Touched::Enabled);
                Ok(Done::Nothing)
            }
            AccountChange::Disable => {
                if !self.is_enabled() {
                    return Err(AccountRefusal::AlreadyDisabled);
                }
                self.enabled = Some(false);
                touched.push(Touched::Enabled);
                Ok(Done::Nothing)
            }
        }
    }

    fn create_user(
        &mut self,
        name: &str,
        password_hash: Option<&String>,
        roles: &Names,
        touched: &mut Vec<Touched>,
    ) -> Result<Done, AccountRefusal> {
        let Some(password_hash) = password_hash else {
            return Err(AccountRefusal::EmptyPassword(name.to_owned()));
        };
        self.lay_out(touched);
        if self.users.contains_key(name) {
            return Err(AccountRefusal::UserExists(name.to_owned()));
        }
        let mut granted = roles.clone();
        if name == ROOT {
            attach_root(&mut granted);
        }
        let user = UserRecord { password_hash: password_hash.clone(), roles: granted.clone() };
        self.users.insert(name.to_owned(), user);
        touched.push(Touched::User(name.to_owned()));
        // etcd answers 200 to a request that names roles, also if the user is new.
        Ok(Done::User { roles: granted, is_new: listed(roles).is_empty() })
    }

    fn update_user(
        &mut self,
        name: &str,
        password_hash: Option<&String>,
        grant: &[String],
        revoke: &[String],
        touched: &mut Vec<Touched>,
    ) -> Result<Done, AccountRefusal> {
        let old = self.user(name).ok_or_else(|| AccountRefusal::NoSuchUser(name.to_owned()))?;
        let mut roles: BTreeSet<&String> = listed(&old.roles).iter().collect();
        for role in grant {
            if !roles.insert(role) {
                return Err(AccountRefusal::DuplicateRole { role: role.clone(), user: name.to_owned() });
            }
        }
        for role in revoke {
            if !roles.remove(role) {
                return Err(AccountRefusal::UngrantedRole { role: role.clone(), user: name.to_owned() });
            }
        }
        let new = UserRecord {
            password_hash: password_hash.unwrap_or(&old.password_hash).clone(),
            roles: Some(roles.into_iter().cloned().collect()),
        };
        if new == old {
            return Err(AccountRefusal::UserNotUpdated);
        }
        self.lay_out(touched);
        let roles = new.roles.clone();
        self.users.insert(name.to_owned(), new);
        touched.push(Touched::User(name.to_owned()));
        Ok(Done::User { roles, is_new: false })
    }

    /// Where etcd makes the directories in which it keeps users and roles, with the flag that authentication
    /// is disabled.
    fn lay_out(&mut self, touched: &mut Vec<Touched>) {
        const NODES: usize = 4;
        if self.enabled.is_none() {
            self.enabled = Some(false);
            touched.extend(std::iter::repeat_n(Touched::Enabled, NODES));
        }
    }
}

fn everything() -> Patterns {
    let all = || Some(vec!["/*".to_owned()]);
    Patterns { read: all(), write: all() }
}

fn listed(names: &Names) -> &[String] {
    names.as_deref().unwrap_or_default()
}

fn attach_root(roles: &mut Names) {
    if !listed(roles).iter().any(|role| role == ROOT) {
        roles.get_or_insert_default().push(ROOT.to_owned());
    }
}

/// As in etcd, a recursive request needs a pattern that ends with `*`.
fn matches(pattern: &str, key: &str, recursive: bool) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => key.starts_with(prefix),
        None => !recursive && pattern == key,
    }
}

/// Revoking what was not granted is no error, as in etcd.
fn merge_patterns(old: &Patterns, grant: &Patterns, revoke: &Patterns) -> Result<Patterns, AccountRefusal> {
    fn merge(
        old: &Names,
        grant: &Names,
        revoke: &Names,
        duplicate: fn(String) -> AccountRefusal,
    ) -> Result<Names, AccountRefusal> {
        let mut patterns: BTreeSet<&String> = listed(old).iter().collect();
        for pattern in listed(grant) {
            if !patterns.insert(pattern) {
                return Err(duplicate(pattern.clone()));
            }
        }
        for pattern in listed(revoke) {
            patterns.remove(pattern);
        }
        Ok(Some(patterns.into_iter().cloned().collect()))
    }
    Ok(Patterns {
        read: merge(&old.read, &grant.read, &revoke.read, AccountRefusal::DuplicateRead)?,
        write: merge(&old.write, &grant.write, &revoke.write, AccountRefusal::DuplicateWrite)?,
    })
}
