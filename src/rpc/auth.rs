//! Users, roles and logins.
//!
//! A password is hashed or checked on this member, and only its hash is proposed.

use tonic::{Request, Response, Status};

use super::{render, session, status::Refusal, wrong_kind};
use crate::{
    apply::{self, AuthCommand, Command, admission::Call},
    auth::{AuthStore, Permission, PermissionKind},
    node::{Node, Origin, Session},
    pb::authpb,
    pb::etcdserverpb::{
        AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest,
        AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse, AuthRoleGetRequest,
        AuthRoleGetResponse, AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse,
        AuthRoleListRequest, AuthRoleListResponse, AuthRoleRevokePermissionRequest,
        AuthRoleRevokePermissionResponse, AuthStatusRequest, AuthStatusResponse, AuthUserAddRequest,
        AuthUserAddResponse, AuthUserChangePasswordRequest, AuthUserChangePasswordResponse,
        AuthUserDeleteRequest, AuthUserDeleteResponse, AuthUserGetRequest, AuthUserGetResponse,
        AuthUserGrantRoleRequest, AuthUserGrantRoleResponse, AuthUserListRequest, AuthUserListResponse,
        AuthUserRevokeRoleRequest, AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse,
        ResponseHeader, auth_server,
    },
    types::{KeyRange, Secret},
};

#[derive(Clone)]
pub(crate) struct Auth {
    node: Node,
}

impl Auth {
    pub(crate) fn new(node: Node) -> Auth {
        Auth { node }
    }

    async fn change(
        &self,
        session: &Session,
        command: AuthCommand,
    ) -> Result<Option<ResponseHeader>, Status> {
        let outcome = session.propose(Command::Auth(command)).await?;
        match outcome.result? {
            apply::Response::Auth => Ok(Some(render::header(&self.node, outcome.rev))),
            other => Err(wrong_kind(&other)),
        }
    }

    async fn ask<T>(
        &self,
        session: &Session,
        call: Call<'_>,
        ask: impl FnOnce(&AuthStore) -> T,
    ) -> Result<(Option<ResponseHeader>, T), Status> {
        let (rev, answer) = session.ask_auth(call, ask).await?;
        Ok((Some(render::header(&self.node, rev)), answer))
    }
}

#[tonic::async_trait]
impl auth_server::Auth for Auth {
    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        let session = session(&self.node, &request).await;
        let header = self.change(&session, AuthCommand::Enable).await?;
        Ok(Response::new(AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let session = session(&self.node, &request).await;
        let header = self.change(&session, AuthCommand::Disable).await?;
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        let session = session(&self.node, &request).await;
        let status = |auth: &AuthStore| (auth.is_enabled(), auth.rev());
        let (header, (enabled, auth_revision)) = self.ask(&session, Call::AuthStatus, status).await?;
        Ok(Response::new(AuthStatusResponse { header, enabled, auth_revision }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let session = session(&self.node, &request).await;
        let origin = Origin::of(request.remote_addr());
        let AuthenticateRequest { name, password } = request.into_inner();
        let (rev, token) = session.login(origin, &name, Secret::new(password)).await?;
        let header = Some(render::header(&self.node, rev));
        Ok(Response::new(AuthenticateResponse { header, token: token.reveal().to_owned() }))
    }

    /// An empty password is valid. As in etcd, a hash in the request is ignored.
    async fn user_add(
        &self,
        request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        let session = session(&self.node, &request).await;
        let AuthUserAddRequest { name, password, options, .. } = request.into_inner();
        let no_password = options.is_some_and(|options| options.no_password);
        let password_hash = match no_password {
            true => String::new(),
            false => session.hash_password(Secret::new(password)).await?,
        };
        let header = self.change(&session, AuthCommand::UserAdd { name, password_hash, no_password }).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let session = session(&self.node, &request).await;
        let name = request.into_inner().name;
        let roles = |auth: &AuthStore| auth.user(&name).map(|user| user.roles.iter().cloned().collect());
        let (header, roles) = self.ask(&session, Call::UserGet(&name), roles).await?;
        Ok(Response::new(AuthUserGetResponse { header, roles: roles? }))
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        let session = session(&self.node, &request).await;
        let names = |auth: &AuthStore| auth.users().map(|(name, _)| name.to_owned()).collect();
        let (header, users) = self.ask(&session, Call::UserList, names).await?;
        Ok(Response::new(AuthUserListResponse { header, users }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let session = session(&self.node, &request).await;
        let header =
            self.change(&session, AuthCommand::UserDelete { name: request.into_inner().name }).await?;
        Ok(Response::new(AuthUserDeleteResponse { header }))
    }

    /// With an empty password the user gets an empty hash, which no password matches.
    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let session = session(&self.node, &request).await;
        let AuthUserChangePasswordRequest { name, password, .. } = request.into_inner();
        let password_hash = match password.is_empty() {
            true => String::new(),
            false => session.hash_password(Secret::new(password)).await?,
        };
        let header = self.change(&session, AuthCommand::UserChangePassword { name, password_hash }).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let session = session(&self.node, &request).await;
        let AuthUserGrantRoleRequest { user: name, role } = request.into_inner();
        let header = self.change(&session, AuthCommand::UserGrantRole { name, role }).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let session = session(&self.node, &request).await;
        let AuthUserRevokeRoleRequest { name, role } = request.into_inner();
        let header = self.change(&session, AuthCommand::UserRevokeRole { name, role }).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        let session = session(&self.node, &request).await;
        let header = self.change(&session, AuthCommand::RoleAdd { name: request.into_inner().name }).await?;
        Ok(Response::new(AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let session = session(&self.node, &request).await;
        let role = request.into_inner().role;
        let (header, permissions) =
            self.ask(&session, Call::RoleGet(&role), |auth| auth.permissions(&role)).await?;
        let perm = permissions?.into_iter().map(render_permission).collect();
        Ok(Response::new(AuthRoleGetResponse { header, perm }))
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        let session = session(&self.node, &request).await;
        let names = |auth: &AuthStore| auth.roles().map(str::to_owned).collect();
        let (header, roles) = self.ask(&session, Call::RoleList, names).await?;
        Ok(Response::new(AuthRoleListResponse { header, roles }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let session = session(&self.node, &request).await;
        let header =
            self.change(&session, AuthCommand::RoleDelete { name: request.into_inner().role }).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let session = session(&self.node, &request).await;
        let AuthRoleGrantPermissionRequest { name: role, perm } = request.into_inner();
        let Some(permission) = perm.map(parse_permission) else {
            session.grant_nothing().await?;
            return Err(Refusal::PermissionNotGiven.into());
        };
        let header = self.change(&session, AuthCommand::RoleGrantPermission { role, permission }).await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let session = session(&self.node, &request).await;
        let AuthRoleRevokePermissionRequest { role, key, range_end } = request.into_inner();
        let range = KeyRange::parse(key, range_end);
        let header = self.change(&session, AuthCommand::RoleRevokePermission { role, range }).await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header }))
    }
}

fn parse_permission(permission: authpb::Permission) -> Permission {
    let authpb::Permission { perm_type, key, range_end } = permission;
    Permission { kind: PermissionKind::of(perm_type), range: KeyRange::parse(key, range_end) }
}

fn render_permission(permission: Permission) -> authpb::Permission {
    let (key, range_end) = permission.range.to_wire();
    authpb::Permission { perm_type: permission.kind.number(), key, range_end }
}
