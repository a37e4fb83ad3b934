//! `auth`, `user` and `role`: who may do what.

use std::io::{self, BufRead};

use futures_util::{FutureExt, future::LocalBoxFuture};

use crate::{
    cli::{Command, Exit, Failure, Flag, Group, Invocation, Values, output},
    ctl::{
        client::{
            AUTH_DISABLE, AUTH_ENABLE, AUTH_STATUS, ROLE_ADD, ROLE_DELETE, ROLE_GET, ROLE_GRANT_PERMISSION,
            ROLE_LIST, ROLE_REVOKE_PERMISSION, USER_ADD, USER_CHANGE_PASSWORD, USER_DELETE, USER_GET,
            USER_GRANT_ROLE, USER_LIST, USER_REVOKE_ROLE,
        },
        printer::Shown,
        ranges::{OPEN_END, prefix_end},
        settings::ask_password,
    },
    pb::{
        authpb::{Permission, UserAddOptions, permission::Type},
        etcdserverpb as pb,
    },
};

pub(in crate::ctl) const AUTH: Command =
    Command::new("auth", "<enable or disable>", "Commands that switch users and roles on and off")
        .of(Group::Authentication)
        .below(&[
            Command::new("disable", "", "Lets everybody do everything").runs(disable),
            Command::new("enable", "", "Demands logins and permissions").runs(enable),
            Command::new("status", "", "Shows whether logins are demanded").runs(status),
        ]);

pub(in crate::ctl) const USER: Command =
    Command::new("user", "<subcommand>", "Commands about users").of(Group::Authentication).below(&[
        Command::new("add", "<user name or user:password> [options]", "Adds a user")
            .flags(&[
                Flag::switch("interactive", "ask for the password; if false, read it from stdin").or("true"),
                Flag::text("new-user-password", "the password"),
                Flag::switch("no-password", "a user without a password, who logs in with a certificate"),
            ])
            .runs(user_add),
        Command::new("delete", "<user name>", "Removes a user").runs(user_delete),
        Command::new("get", "<user name> [options]", "Shows the roles of a user")
            .flags(&[Flag::switch("detail", "show the permissions of the roles")])
            .runs(user_get),
        Command::new("grant-role", "<user name> <role name>", "Gives a role to a user").runs(user_grant_role),
        Command::new("list", "", "Lists all users").runs(user_list),
        Command::new("passwd", "<user name> [options]", "Changes the password of a user")
            .flags(&[
                Flag::switch("interactive", "ask for the password; if false, read it from stdin").or("true")
            ])
            .runs(user_passwd),
        Command::new("revoke-role", "<user name> <role name>", "Takes a role from a user")
            .runs(user_revoke_role),
    ]);

const RANGE_FLAGS: &[Flag] = &[
    Flag::switch("prefix", "all keys with this prefix"),
    Flag::switch("from-key", "all keys from this one on, in the order of their bytes"),
];

pub(in crate::ctl) const ROLE: Command =
    Command::new("role", "<subcommand>", "Commands about roles").of(Group::Authentication).below(&[
        Command::new("add", "<role name>", "Adds a role").runs(role_add),
        Command::new("delete", "<role name>", "Removes a role").runs(role_delete),
        Command::new("get", "<role name>", "Shows what a role may do").runs(role_get),
        Command::new(
            "grant-permission",
            "[options] <role name> <permission type> <key> [endkey]",
            "Lets a role read or write keys",
        )
        .flags(RANGE_FLAGS)
        .runs(role_grant_permission),
        Command::new("list", "", "Lists all roles").runs(role_list),
        Command::new("revoke-permission", "<role name> <key> [endkey]", "Takes a permission from a role")
            .flags(RANGE_FLAGS)
            .runs(role_revoke_permission),
    ]);

fn enable<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        const NO_ROOT_ROLE: &str = "etcdserver: root user does not have root role";
        const ROOT: &str = "root";
        no_arguments(call, "auth enable command does not accept any arguments")?;
        let (session, client) = call.connect().await?;
        let deadline = session.deadline();
        match client.call(&AUTH_ENABLE, &pb::AuthEnableRequest {}, deadline).await {
            Err(error) if error.says(NO_ROOT_ROLE) => {
                let role = pb::AuthRoleAddRequest { name: ROOT.to_owned() };
                client.call(&ROLE_ADD, &role, deadline).await?;
                let grant = pb::AuthUserGrantRoleRequest { user: ROOT.to_owned(), role: ROOT.to_owned() };
                client.call(&USER_GRANT_ROLE, &grant, deadline).await?;
                client.call(&AUTH_ENABLE, &pb::AuthEnableRequest {}, deadline).await?;
            }
            enabled => drop(enabled?),
        }
        output::line(format_args!("Authentication Enabled"))
    }
    .boxed_local()
}

fn disable<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        no_arguments(call, "auth disable command does not accept any arguments")?;
        let (session, client) = call.connect().await?;
        client.call(&AUTH_DISABLE, &pb::AuthDisableRequest {}, session.deadline()).await?;
        output::line(format_args!("Authentication Disabled"))
    }
    .boxed_local()
}

fn status<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        no_arguments(call, "auth status command does not accept any arguments")?;
        let (session, client) = call.connect().await?;
        let answer = client.call(&AUTH_STATUS, &pb::AuthStatusRequest {}, session.deadline()).await?;
        session.print(&Shown::AuthStatus(&answer))
    }
    .boxed_local()
}

fn no_arguments(call: &Invocation<'_>, refusal: &str) -> Result<(), Failure> {
    if call.args.is_empty() { Ok(()) } else { Err(Failure::bad_args(refusal)) }
}

fn one_argument(call: &Invocation<'_>, refusal: &str) -> Result<String, Failure> {
    if call.args.len() == 1 { Ok(call.text(0)) } else { Err(Failure::bad_args(refusal)) }
}

fn user_add<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let given = one_argument(call, "user add command requires user name as its argument")?;
        let no_password = call.values.switch("no-password");
        let from_flag = call.values.text("new-user-password");
        let (name, password) = match given.split_once(':') {
            _ if no_password => (given, String::new()),
            _ if !from_flag.is_empty() => (given, from_flag.to_owned()),
            Some(("", _)) => return Err(Failure::bad_args("empty user name is not allowed")),
            Some((name, password)) => (name.to_owned(), password.to_owned()),
            None => {
                let password = new_password(&given, &call.values)?;
                (given, password)
            }
        };
        let (session, client) = call.connect().await?;
        let options = Some(UserAddOptions { no_password });
        let request = pb::AuthUserAddRequest { name, password, options, ..pb::AuthUserAddRequest::default() };
        let answer = client.call(&USER_ADD, &request, session.deadline()).await?;
        session.print(&Shown::UserAdd(&request.name, &answer))
    }
    .boxed_local()
}

fn user_delete<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let name = one_argument(call, "user delete command requires user name as its argument")?;
        let (session, client) = call.connect().await?;
        let request = pb::AuthUserDeleteRequest { name };
        let answer = client.call(&USER_DELETE, &request, session.deadline()).await?;
        session.print(&Shown::UserDelete(&request.name, &answer))
    }
    .boxed_local()
}

fn user_get<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let name = one_argument(call, "user get command requires user name as its argument")?;
        let (session, client) = call.connect().await?;
        let deadline = session.deadline();
        let request = pb::AuthUserGetRequest { name };
        let answer = client.call(&USER_GET, &request, deadline).await?;
        if !call.values.switch("detail") {
            return session.print(&Shown::UserGet(&request.name, &answer));
        }
        output::line(format_args!("User: {}", request.name))?;
        for role in answer.roles {
            output::line(format_args!(""))?;
            let request = pb::AuthRoleGetRequest { role };
            let answer = client.call(&ROLE_GET, &request, deadline).await?;
            session.print(&Shown::RoleGet(&request.role, &answer))?;
        }
        Ok(())
    }
    .boxed_local()
}

fn user_list<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        no_arguments(call, "user list command requires no arguments")?;
        let (session, client) = call.connect().await?;
        let answer = client.call(&USER_LIST, &pb::AuthUserListRequest {}, session.deadline()).await?;
        session.print(&Shown::UserList(&answer))
    }
    .boxed_local()
}

fn user_passwd<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let name = one_argument(call, "user passwd command requires user name as its argument")?;
        let password = new_password(&name, &call.values)?;
        let (session, client) = call.connect().await?;
        let request = pb::AuthUserChangePasswordRequest {
            name,
            password,
            ..pb::AuthUserChangePasswordRequest::default()
        };
        let answer = client.call(&USER_CHANGE_PASSWORD, &request, session.deadline()).await?;
        session.print(&Shown::UserChangePassword(&answer))
    }
    .boxed_local()
}

fn user_grant_role<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() != 2 {
            return Err(Failure::bad_args(
                "user grant command requires user name and role name as its argument",
            ));
        }
        let (session, client) = call.connect().await?;
        let request = pb::AuthUserGrantRoleRequest { user: call.text(0), role: call.text(1) };
        let answer = client.call(&USER_GRANT_ROLE, &request, session.deadline()).await?;
        session.print(&Shown::UserGrantRole(&request.user, &request.role, &answer))
    }
    .boxed_local()
}

fn user_revoke_role<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() != 2 {
            return Err(Failure::bad_args(
                "user revoke-role requires user name and role name as its argument",
            ));
        }
        let (session, client) = call.connect().await?;
        let request = pb::AuthUserRevokeRoleRequest { name: call.text(0), role: call.text(1) };
        let answer = client.call(&USER_REVOKE_ROLE, &request, session.deadline()).await?;
        session.print(&Shown::UserRevokeRole(&request.name, &request.role, &answer))
    }
    .boxed_local()
}

/// Asked for twice, or a word from stdin.
fn new_password(user: &str, values: &Values) -> Result<String, Failure> {
    if !values.switch("interactive") {
        let mut line = String::new();
        // Without a word there is no password, which the server then refuses.
        let _ = io::stdin().lock().read_line(&mut line);
        return Ok(line.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let password = ask_password(&format!("Password of {user}: "), Exit::BadArgs)?;
    if password.is_empty() {
        return Err(Failure::bad_args("empty password"));
    }
    let again = ask_password(&format!("Type password of {user} again for confirmation: "), Exit::BadArgs)?;
    if password != again {
        return Err(Failure::bad_args("given passwords are different"));
    }
    Ok(password)
}

fn role_add<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let name = one_argument(call, "role add command requires role name as its argument")?;
        let (session, client) = call.connect().await?;
        let request = pb::AuthRoleAddRequest { name };
        let answer = client.call(&ROLE_ADD, &request, session.deadline()).await?;
        session.print(&Shown::RoleAdd(&request.name, &answer))
    }
    .boxed_local()
}

fn role_delete<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let role = one_argument(call, "role delete command requires role name as its argument")?;
        let (session, client) = call.connect().await?;
        let request = pb::AuthRoleDeleteRequest { role };
        let answer = client.call(&ROLE_DELETE, &request, session.deadline()).await?;
        session.print(&Shown::RoleDelete(&request.role, &answer))
    }
    .boxed_local()
}

fn role_get<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        let role = one_argument(call, "role get command requires role name as its argument")?;
        let (session, client) = call.connect().await?;
        let request = pb::AuthRoleGetRequest { role };
        let answer = client.call(&ROLE_GET, &request, session.deadline()).await?;
        session.print(&Shown::RoleGet(&request.role, &answer))
    }
    .boxed_local()
}

fn role_list<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        no_arguments(call, "role list command requires no arguments")?;
        let (session, client) = call.connect().await?;
        let answer = client.call(&ROLE_LIST, &pb::AuthRoleListRequest {}, session.deadline()).await?;
        session.print(&Shown::RoleList(&answer))
    }
    .boxed_local()
}

fn role_grant_permission<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() < 3 {
            return Err(Failure::bad_args(
                "role grant command requires role name, permission type, and key [endkey] as its argument",
            ));
        }
        let kind = match &*call.text(1).to_uppercase() {
            "READ" => Type::Read,
            "WRITE" => Type::Write,
            "READWRITE" => Type::Readwrite,
            _ => return Err(Failure::bad_args(format!("invalid permission type: {}", call.text(1)))),
        };
        let (key, range_end) = permission_range(&call.args[2..], &call.values)?;
        let (session, client) = call.connect().await?;
        let perm = Permission { perm_type: kind.into(), key: key.into(), range_end: range_end.into() };
        let request = pb::AuthRoleGrantPermissionRequest { name: call.text(0), perm: Some(perm) };
        let answer = client.call(&ROLE_GRANT_PERMISSION, &request, session.deadline()).await?;
        session.print(&Shown::RoleGrantPermission(&request.name, &answer))
    }
    .boxed_local()
}

fn role_revoke_permission<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        if call.args.len() < 2 {
            return Err(Failure::bad_args(
                "role revoke-permission command requires role name and key [endkey] as its argument",
            ));
        }
        let (key, range_end) = permission_range(&call.args[1..], &call.values)?;
        let (session, client) = call.connect().await?;
        let role = call.text(0);
        let request =
            pb::AuthRoleRevokePermissionRequest { role, key: key.into(), range_end: range_end.into() };
        let response = client.call(&ROLE_REVOKE_PERMISSION, &request, session.deadline()).await?;
        session.print(&Shown::RoleRevokePermission {
            role: &request.role,
            key: &call.args[1],
            end: &request.range_end,
            response: &response,
        })
    }
    .boxed_local()
}

/// The keys that a permission is about. `args` is not empty.
fn permission_range(args: &[Vec<u8>], values: &Values) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    const EXCLUSIVE: &str = "--from-key and --prefix flags are mutually exclusive";
    let (prefix, from_key) = (values.switch("prefix"), values.switch("from-key"));
    let (key, end) = (&args[0], args.get(1));
    if prefix && from_key && (key.is_empty() || end.is_none()) {
        return Err(Failure::bad_args(EXCLUSIVE));
    }
    // All keys begin with the empty prefix. An interval of no key at all cannot be stored.
    if key.is_empty() {
        let end = if prefix || from_key { OPEN_END } else { b"" };
        return Ok((b"\0".to_vec(), end.to_vec()));
    }
    let end = match end {
        Some(_) if prefix => return Err(Failure::bad_args("unexpected endkey argument with --prefix flag")),
        Some(_) if from_key => {
            return Err(Failure::bad_args("unexpected endkey argument with --from-key flag"));
        }
        Some(end) => end.clone(),
        None if prefix => prefix_end(key),
        None if from_key => OPEN_END.to_vec(),
        None => Vec::new(),
    };
    Ok((key.clone(), end))
}
