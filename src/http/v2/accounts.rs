//! `/v2/auth`: users, roles, and whether authentication is enabled.

use axum::response::Response;
use http::Method;
use serde::Deserialize;

use super::{
    Asked, Front,
    gate::Received,
    json::{self, Fields},
    members::not_received,
    reply::{self, allow, message},
};
use crate::{
    node::{PasswordError, ProposeError, V2Error},
    v2::{AccountChange, AccountRefusal, Done, Names, Patterns, RoleRecord, Store},
};

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct UserRequest {
    user: String,
    password: String,
    roles: Names,
    grant: Names,
    revoke: Names,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RoleRequest {
    role: String,
    permissions: Permissions,
    grant: Option<Permissions>,
    revoke: Option<Permissions>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Permissions {
    kv: KvPatterns,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct KvPatterns {
    read: Names,
    write: Names,
}

impl Permissions {
    fn is_empty(&self) -> bool {
        let is_empty = |names: &Names| names.as_ref().is_none_or(Vec::is_empty);
        is_empty(&self.kv.read) && is_empty(&self.kv.write)
    }

    fn into_patterns(self) -> Patterns {
        Patterns { read: self.kv.read, write: self.kv.write }
    }
}

pub(super) async fn enable(front: &Front, asked: Asked) -> Response {
    if let Err(response) = allow(&asked.method, "GET,PUT,DELETE") {
        return response;
    }
    let change = match asked.method {
        Method::PUT => AccountChange::Enable,
        Method::DELETE => AccountChange::Disable,
        _ => {
            return match front.session.v2_ask(Store::auth_enabled) {
                Ok(enabled) => with_cluster(front, reply::json(200, format!("{{\"enabled\":{enabled}}}\n"))),
                Err(error) => reply::internal(&error.into()),
            };
        }
    };
    match front.require_root(&asked.parts).await {
        Ok(who) => {
            let changed = front.session.v2_change_account(who, change).await;
            with_cluster(front, changed_to(changed, |_| reply::json(200, "")))
        }
        Err(response) => response,
    }
}

/// What a path is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Users,
    Roles,
}

/// What becomes of a request.
enum Answered {
    Now(Response),
    Change(AccountChange),
}

/// `/v2/auth/users` and `/v2/auth/roles`: all of them, and one by its name.
pub(super) async fn serve(front: &Front, asked: Asked, about: About, rest: &str) -> Response {
    let name = rest.trim_matches('/').to_owned();
    if name.contains('/') {
        return message(400, "Invalid path");
    }
    let allowed = if name.is_empty() { "GET" } else { "GET,PUT,DELETE" };
    if let Err(response) = allow(&asked.method, allowed) {
        return response;
    }
    let who = match front.require_root(&asked.parts).await {
        Ok(who) => who,
        Err(response) => return response,
    };
    let response = match answer(front, asked, about, &name).await {
        Ok(Answered::Now(response)) | Err(response) => response,
        Ok(Answered::Change(change)) => {
            let changed = front.session.v2_change_account(who, change).await;
            changed_to(changed, |done| done_with(&name, done))
        }
    };
    with_cluster(front, response)
}

async fn answer(front: &Front, asked: Asked, about: About, name: &str) -> Result<Answered, Response> {
    match (about, asked.method.clone()) {
        (About::Users, Method::GET) => user(front, name),
        (About::Roles, Method::GET) => role(front, name),
        (About::Users, Method::PUT) => put_user(front, asked, name).await,
        (About::Roles, Method::PUT) => put_role(asked, name),
        (About::Users, _) => Ok(Answered::Change(AccountChange::DeleteUser { name: name.to_owned() })),
        (About::Roles, _) => Ok(Answered::Change(AccountChange::DeleteRole { name: name.to_owned() })),
    }
}

fn with_cluster(front: &Front, response: Response) -> Response {
    let (cluster, _) = front.node.ids();
    reply::with_cluster(response, cluster)
}

fn changed_to(
    changed: Result<Result<Done, AccountRefusal>, V2Error>,
    answer: impl FnOnce(Done) -> Response,
) -> Response {
    match changed {
        Ok(Ok(done)) => answer(done),
        Ok(Err(refusal)) => message(refusal.http_status(), &refusal.to_string()),
        Err(error) => reply::internal(&error),
    }
}

fn done_with(name: &str, done: Done) -> Response {
    let mut out = String::new();
    match done {
        Done::Nothing => reply::json(200, ""),
        Done::User { roles, is_new } => {
            let mut fields = Fields::begin(&mut out);
            fields.text("user", name);
            fields.names("roles", &roles);
            fields.end();
            out.push('\n');
            reply::json(if is_new { 201 } else { 200 }, out)
        }
        Done::Role { permits, is_new } => {
            write_role(&mut out, &RoleRecord { name: name.to_owned(), permits });
            out.push('\n');
            reply::json(if is_new { 201 } else { 200 }, out)
        }
    }
}

fn user(front: &Front, name: &str) -> Result<Answered, Response> {
    let mut out = String::new();
    let found = front.session.v2_ask(|store| {
        if name.is_empty() {
            let names: Vec<&str> = store.user_names().collect();
            let mut fields = Fields::begin(&mut out);
            if names.is_empty() {
                fields.name("users").push_str("null");
            } else {
                json::list(fields.name("users"), names, |out, name| {
                    let roles = store.user(name).and_then(|user| user.roles);
                    // A role that is gone is left out here, and refused below.
                    let roles = roles.unwrap_or_default();
                    write_user(out, name, roles.iter().filter_map(|role| store.role(role)).collect());
                });
            }
            fields.end();
            return Ok(());
        }
        let user = store.user(name).ok_or_else(|| AccountRefusal::NoSuchUser(name.to_owned()))?;
        let roles = user.roles.unwrap_or_default().into_iter();
        let roles = roles.map(|role| store.role(&role).ok_or(AccountRefusal::NoSuchRole(role)));
        write_user(&mut out, name, roles.collect::<Result<_, _>>()?);
        Ok(())
    });
    found_or_refused(found)?;
    out.push('\n');
    Ok(Answered::Now(reply::json(200, out)))
}

fn role(front: &Front, name: &str) -> Result<Answered, Response> {
    let mut out = String::new();
    let found = front.session.v2_ask(|store| {
        if name.is_empty() {
            let mut fields = Fields::begin(&mut out);
            let roles = store.role_names().filter_map(|name| store.role(name));
            json::list(fields.name("roles"), roles, |out, role| write_role(out, &role));
            fields.end();
            return Ok(());
        }
        let role = store.role(name).ok_or_else(|| AccountRefusal::NoSuchRole(name.to_owned()))?;
        write_role(&mut out, &role);
        Ok(())
    });
    found_or_refused(found)?;
    out.push('\n');
    Ok(Answered::Now(reply::json(200, out)))
}

fn found_or_refused(found: Result<Result<(), AccountRefusal>, ProposeError>) -> Result<(), Response> {
    match found {
        Ok(Ok(())) => Ok(()),
        Ok(Err(refusal)) => Err(message(refusal.http_status(), &refusal.to_string())),
        Err(error) => Err(reply::internal(&error.into())),
    }
}

async fn put_user(front: &Front, asked: Asked, name: &str) -> Result<Answered, Response> {
    let request: UserRequest = body(asked)?;
    let UserRequest { user, password, roles, grant, revoke } = request;
    if user != name {
        return Err(message(400, "User JSON name does not match the name in the URL"));
    }
    let (grant, revoke) = (grant.unwrap_or_default(), revoke.unwrap_or_default());
    let is_update = !grant.is_empty() || !revoke.is_empty();
    if is_update && roles.as_ref().is_some_and(|roles| !roles.is_empty()) {
        return Err(message(400, "User JSON contains both roles and grant/revoke"));
    }
    let password_hash = if password.is_empty() {
        None
    } else {
        match front.session.v2_hash_password(password).await {
            Ok(hash) => Some(hash),
            Err(PasswordError::Refused(error)) => return Err(reply::internal(&error.into())),
            Err(error @ (PasswordError::TooLong | PasswordError::Failed(_))) => {
                return Err(message(400, &error.to_string()));
            }
        }
    };
    Ok(Answered::Change(AccountChange::PutUser { name: user, password_hash, roles, grant, revoke }))
}

fn put_role(asked: Asked, name: &str) -> Result<Answered, Response> {
    let RoleRequest { role, permissions, grant, revoke } = body(asked)?;
    if role != name {
        return Err(message(400, "Role JSON name does not match the name in the URL"));
    }
    let (grant, revoke) = (grant.unwrap_or_default(), revoke.unwrap_or_default());
    if grant.is_empty() && revoke.is_empty() {
        let permits = permissions.into_patterns();
        return Ok(Answered::Change(AccountChange::CreateRole { name: role, permits }));
    }
    if !permissions.is_empty() {
        return Err(message(400, "Role JSON contains both permissions and grant/revoke"));
    }
    let (grant, revoke) = (grant.into_patterns(), revoke.into_patterns());
    Ok(Answered::Change(AccountChange::UpdateRole { name: role, grant, revoke }))
}

fn body<T: for<'de> Deserialize<'de>>(asked: Asked) -> Result<T, Response> {
    let Received { bytes, .. } = &asked.body.map_err(not_received)?;
    // As Go's decoder, this reads one value and not what is behind it.
    let value = serde_json::Deserializer::from_slice(bytes).into_iter::<T>().next();
    match value {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) | None => Err(message(400, "Invalid JSON in request body.")),
    }
}

fn write_user(out: &mut String, name: &str, roles: Vec<RoleRecord>) {
    let mut fields = Fields::begin(out);
    fields.text("user", name);
    if !roles.is_empty() {
        json::list(fields.name("roles"), &roles, write_role);
    }
    fields.end();
}

fn write_role(out: &mut String, role: &RoleRecord) {
    let mut fields = Fields::begin(out);
    fields.text("role", &role.name);
    let mut permissions = Fields::begin(fields.name("permissions"));
    let mut kv = Fields::begin(permissions.name("kv"));
    kv.names("read", &role.permits.read);
    kv.names("write", &role.permits.write);
    kv.end();
    permissions.end();
    fields.end();
}
