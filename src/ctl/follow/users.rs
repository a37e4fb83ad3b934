//! Roles and users of the source, at the destination (decision 0066).
//!
//! etcd tells nobody the hash of a password. So users get a password that nobody knows, and the commands that set another
//! one are listed at the end. What only the destination has is left alone.

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
};

use prost::Message;

use crate::{
    chance::Chance,
    ctl::{
        client::{
            AUTH_STATUS, Client, ClientError, Deadline, Method, ROLE_ADD, ROLE_GET, ROLE_GRANT_PERMISSION,
            ROLE_LIST, ROLE_REVOKE_PERMISSION, USER_ADD, USER_GET, USER_GRANT_ROLE, USER_LIST,
            USER_REVOKE_ROLE,
        },
        follow::patience::patiently,
    },
    pb::{
        authpb::Permission,
        etcdserverpb::{
            AuthRoleAddRequest, AuthRoleGetRequest, AuthRoleGrantPermissionRequest, AuthRoleListRequest,
            AuthRoleRevokePermissionRequest, AuthStatusRequest, AuthUserAddRequest, AuthUserGetRequest,
            AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest,
        },
    },
};

const ROLE_EXISTS: &str = "etcdserver: role name already exists";
const USER_EXISTS: &str = "etcdserver: user name already exists";
/// May do everything; what it was granted besides is of no effect, and not stored.
const ROOT: &str = "root";
/// Far more than can be guessed.
const PASSWORD_LETTERS: usize = 40;

/// The names of what there is, and whether it is in force.
pub(super) struct Accounts {
    pub(super) roles: Vec<String>,
    pub(super) users: Vec<String>,
    /// Clients have to log in. `None` where etcd is too old to say so.
    pub(super) is_enabled: Option<bool>,
}

impl Accounts {
    pub(super) async fn of(cluster: &Client) -> Result<Accounts, ClientError> {
        let roles = ask(cluster, &ROLE_LIST, &AuthRoleListRequest {}).await?.roles;
        let users = ask(cluster, &USER_LIST, &AuthUserListRequest {}).await?.users;
        let is_enabled = match ask(cluster, &AUTH_STATUS, &AuthStatusRequest {}).await {
            Err(error) if error.is_unimplemented() => None,
            answer => Some(answer?.enabled),
        };
        Ok(Accounts { roles, users, is_enabled })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.roles.is_empty() && self.users.is_empty()
    }

    /// Makes the roles and users of the destination those of the source. May be done again.
    pub(super) async fn copy(&self, source: &Client, destination: &Client) -> Result<(), ClientError> {
        for role in &self.roles {
            copy_role(source, destination, role).await?;
        }
        let chance = Chance::from_system();
        for user in &self.users {
            copy_user(source, destination, user, chance.letters(PASSWORD_LETTERS)).await?;
        }
        Ok(())
    }
}

async fn copy_role(source: &Client, destination: &Client, role: &str) -> Result<(), ClientError> {
    let name = role.to_owned();
    unless(ROLE_EXISTS, ask(destination, &ROLE_ADD, &AuthRoleAddRequest { name }).await)?;
    if role == ROOT {
        return Ok(());
    }
    let of = AuthRoleGetRequest { role: role.to_owned() };
    let wanted = ask(source, &ROLE_GET, &of).await?.perm;
    let found = ask(destination, &ROLE_GET, &of).await?.perm;
    let is_for = |range: &Permission, other: &Permission| {
        (&range.key, &range.range_end) == (&other.key, &other.range_end)
    };
    for extra in found.iter().filter(|found| !wanted.iter().any(|wanted| is_for(wanted, found))) {
        let (key, range_end) = (extra.key.clone(), extra.range_end.clone());
        let revoke = AuthRoleRevokePermissionRequest { role: role.to_owned(), key, range_end };
        ask(destination, &ROLE_REVOKE_PERMISSION, &revoke).await?;
    }
    // A permission for the same range is replaced.
    for missing in wanted.iter().filter(|wanted| !found.contains(wanted)) {
        let grant = AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(missing.clone()) };
        ask(destination, &ROLE_GRANT_PERMISSION, &grant).await?;
    }
    Ok(())
}

/// A user that is there already keeps its password.
async fn copy_user(
    source: &Client,
    destination: &Client,
    user: &str,
    password: String,
) -> Result<(), ClientError> {
    let add = AuthUserAddRequest { name: user.to_owned(), password, ..AuthUserAddRequest::default() };
    unless(USER_EXISTS, ask(destination, &USER_ADD, &add).await)?;
    let roles = async |cluster| {
        let answer = ask(cluster, &USER_GET, &AuthUserGetRequest { name: user.to_owned() }).await?;
        Ok::<BTreeSet<String>, ClientError>(answer.roles.into_iter().collect())
    };
    let (wanted, found) = (roles(source).await?, roles(destination).await?);
    for role in found.difference(&wanted).cloned() {
        let revoke = AuthUserRevokeRoleRequest { name: user.to_owned(), role };
        ask(destination, &USER_REVOKE_ROLE, &revoke).await?;
    }
    for role in wanted.difference(&found).cloned() {
        let grant = AuthUserGrantRoleRequest { user: user.to_owned(), role };
        ask(destination, &USER_GRANT_ROLE, &grant).await?;
    }
    Ok(())
}

async fn ask<Q, A>(cluster: &Client, method: &Method<Q, A>, request: &Q) -> Result<A, ClientError>
where
    Q: Message + Clone + 'static,
    A: Message + Default + 'static,
{
    patiently(async || cluster.call(method, request, Deadline::never()).await).await
}

/// An earlier run, or a call whose answer was lost, has made it.
fn unless<T>(exists: &str, answer: Result<T, ClientError>) -> Result<(), ClientError> {
    match answer {
        Err(error) if error.says(exists) => Ok(()),
        answer => answer.map(drop),
    }
}

/// What is left to do by hand: the commands, one a line.
pub(super) struct Remaining<'a> {
    pub(super) accounts: &'a Accounts,
    pub(super) endpoints: &'a [String],
    pub(super) are_copied: bool,
}

impl Display for Remaining<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Remaining { accounts, endpoints, are_copied } = self;
        let (roles, users) = (accounts.roles.len(), accounts.users.len());
        if !are_copied {
            return write!(
                f,
                "not copied: {roles} roles and {users} users. Start this command again with --reconcile and --users, which copies \
                 all but the passwords; or make them by hand"
            );
        }
        let ctl = format!("  retcd ctl --endpoints {}", quoted(&endpoints.join(",")));
        write!(f, "{roles} roles and {users} users are copied.")?;
        if users > 0 {
            write!(
                f,
                " etcd tells nobody their passwords, so each has one that nobody knows. To set others:"
            )?;
        }
        for user in &accounts.users {
            write!(f, "\n{ctl} user passwd {}", quoted(user))?;
        }
        match accounts.is_enabled {
            Some(false) => Ok(()),
            Some(true) => write!(f, "\nand then, as the old cluster demands logins:\n{ctl} auth enable"),
            None => write!(f, "\nand then, if the old cluster demands logins:\n{ctl} auth enable"),
        }
    }
}

/// As a word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:,@".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_as_commands_that_a_shell_takes() {
        let accounts = |is_enabled| Accounts {
            roles: vec!["readers".to_owned()],
            users: vec!["root".to_owned(), "it's me".to_owned()],
            is_enabled,
        };
        let endpoints = ["http://10.0.0.1:2379".to_owned(), "http://10.0.0.2:2379".to_owned()];
        let text = |is_enabled, are_copied| {
            let accounts = accounts(is_enabled);
            Remaining { accounts: &accounts, endpoints: &endpoints, are_copied }.to_string()
        };
        let said = text(Some(true), true);
        let ctl = "  retcd ctl --endpoints http://10.0.0.1:2379,http://10.0.0.2:2379";
        assert!(
            said.contains(&format!("\n{ctl} user passwd root\n{ctl} user passwd 'it'\\''s me'\n")),
            "{said}"
        );
        assert!(said.ends_with(&format!("demands logins:\n{ctl} auth enable")), "{said}");
        assert!(!text(Some(false), true).contains("auth enable"));
        assert!(text(None, true).contains("if the old cluster demands logins"));
        assert!(text(Some(true), false).starts_with("not copied: 1 roles and 2 users."));
    }
}
