//! Users and roles in the log.
//!
//! No alarm stands against them: whoever has to mend a cluster may first have to be let in.

use super::StateMachine;
use crate::{
    apply::{ApplyError, AuthCommand, Response},
    auth::AuthStore,
    storage::Table,
};

pub(super) fn run(state: &mut StateMachine, command: &AuthCommand) -> Result<Response, ApplyError> {
    let auth = &mut state.auth;
    match command {
        AuthCommand::UserAdd { name, password_hash, no_password } => {
            auth.user_add(name, password_hash, *no_password)?;
            record_user(state, name);
        }
        AuthCommand::UserDelete { name } => {
            auth.user_delete(name)?;
            record_user(state, name);
        }
        AuthCommand::UserChangePassword { name, password_hash } => {
            auth.user_change_password(name, password_hash)?;
            record_user(state, name);
        }
        AuthCommand::UserGrantRole { name, role } => {
            auth.user_grant_role(name, role)?;
            record_user(state, name);
        }
        AuthCommand::UserRevokeRole { name, role } => {
            auth.user_revoke_role(name, role)?;
            record_user(state, name);
        }
        AuthCommand::RoleAdd { name } => {
            auth.role_add(name)?;
            record_role(state, name);
        }
        AuthCommand::RoleDelete { name } => {
            let had = auth.role_delete(name)?;
            record_role(state, name);
            had.iter().for_each(|user| record_user(state, user));
        }
        AuthCommand::RoleGrantPermission { role, permission } => {
            auth.role_grant_permission(role, permission)?;
            record_role(state, role);
        }
        AuthCommand::RoleRevokePermission { role, range } => {
            auth.role_revoke_permission(role, range)?;
            record_role(state, role);
        }
    }
    let rev = state.auth.rev_cell();
    state.record(Table::Meta, AuthStore::REV_CELL.into(), Some(rev));
    Ok(Response::Auth)
}

fn record_user(state: &mut StateMachine, name: &str) {
    let cell = state.auth.user_cell(name);
    state.record(Table::AuthUser, AuthStore::cell_key(name), cell);
}

fn record_role(state: &mut StateMachine, name: &str) {
    let cell = state.auth.role_cell(name);
    state.record(Table::AuthRole, AuthStore::cell_key(name), cell);
}
