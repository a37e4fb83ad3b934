//! Applying the commands that change users and roles, and logins.
//!
//! No alarm forbids these commands: an operator may need another role before repairing the cluster.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::StateMachine;
use crate::{
    apply::{ApplyError, AuthCommand, Response},
    auth::{AuthError, AuthStore},
    storage::{Table, cell_footprint},
};

pub(super) fn run(state: &mut StateMachine, command: &AuthCommand) -> Result<Response, ApplyError> {
    let touched = touched_by(&state.auth, command);
    let before = footprint(&state.auth, &touched);
    execute(&mut state.auth, command)?;
    // Users and roles count towards the quota like keys, but commands that add them are never refused
    // because of the quota.
    state.mvcc.cells_changed(before, footprint(&state.auth, &touched));
    for Touched { table, name } in &touched {
        let cell = cell(&state.auth, *table, name);
        state.record(*table, AuthStore::cell_key(name), cell);
    }
    if let AuthCommand::Login { .. } = command {
        return Ok(Response::Auth);
    }
    let (rev, enabled) = (state.auth.rev_cell(), state.auth.enabled_cell());
    state.record(Table::Meta, AuthStore::REV_CELL.into(), Some(rev));
    state.record(Table::Meta, AuthStore::ENABLED_CELL.into(), Some(enabled));
    Ok(Response::Auth)
}

fn execute(auth: &mut AuthStore, command: &AuthCommand) -> Result<(), AuthError> {
    match command {
        AuthCommand::UserAdd { name, password_hash, no_password } => {
            auth.user_add(name, password_hash, *no_password)
        }
        AuthCommand::UserDelete { name } => auth.user_delete(name),
        AuthCommand::UserChangePassword { name, password_hash } => {
            auth.user_change_password(name, password_hash)
        }
        AuthCommand::UserGrantRole { name, role } => auth.user_grant_role(name, role),
        AuthCommand::UserRevokeRole { name, role } => auth.user_revoke_role(name, role),
        AuthCommand::RoleAdd { name } => auth.role_add(name),
        AuthCommand::RoleDelete { name } => auth.role_delete(name),
        AuthCommand::RoleGrantPermission { role, permission } => auth.role_grant_permission(role, permission),
        AuthCommand::RoleRevokePermission { role, range } => auth.role_revoke_permission(role, range),
        AuthCommand::Enable => auth.enable(),
        AuthCommand::Disable => {
            auth.disable();
            Ok(())
        }
        AuthCommand::Login { name, auth_rev, token: _ } => auth.login(name, *auth_rev),
    }
}

/// A user or a role whose cell a command may change.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Touched {
    table: Table,
    name: String,
}

fn touched_by(auth: &AuthStore, command: &AuthCommand) -> BTreeSet<Touched> {
    let user = |name: &str| Touched { table: Table::AuthUser, name: name.to_owned() };
    let role = |name: &str| Touched { table: Table::AuthRole, name: name.to_owned() };
    match command {
        AuthCommand::UserAdd { name, .. }
        | AuthCommand::UserDelete { name }
        | AuthCommand::UserChangePassword { name, .. }
        | AuthCommand::UserGrantRole { name, .. }
        | AuthCommand::UserRevokeRole { name, .. } => [user(name)].into(),
        AuthCommand::RoleAdd { name } => [role(name)].into(),
        AuthCommand::RoleDelete { name } => {
            let had = auth.users().filter(|(_, user)| user.roles.contains(name));
            had.map(|(name, _)| user(name)).chain([role(name)]).collect()
        }
        AuthCommand::RoleGrantPermission { role: name, .. }
        | AuthCommand::RoleRevokePermission { role: name, .. } => [role(name)].into(),
        AuthCommand::Enable | AuthCommand::Disable | AuthCommand::Login { .. } => BTreeSet::new(),
    }
}

fn cell(auth: &AuthStore, table: Table, name: &str) -> Option<Bytes> {
    if table == Table::AuthUser { auth.user_cell(name) } else { auth.role_cell(name) }
}

fn footprint(auth: &AuthStore, touched: &BTreeSet<Touched>) -> u64 {
    let of = |Touched { table, name }: &Touched| {
        cell(auth, *table, name).map_or(0, |cell| cell_footprint(name.as_bytes(), &cell))
    };
    touched.iter().map(of).sum()
}
