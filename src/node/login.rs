//! Logging in: a password for a token.
//!
//! The member that was asked checks the password, against the users of one revision, and proposes the login
//! with that revision. If users or roles have changed meanwhile, applying the login refuses it, and the
//! password is checked again. So no token is given out for a password that is not the user's any more.
//!
//! A JSON web token has that revision in it, and is signed by the member that was asked. It needs no login in the
//! log: if users or roles have changed meanwhile, it is old already.

use std::sync::Arc;

use tokio::time;

use super::{
    Node, ProposeError,
    passwords::{Origin, PasswordError},
};
use crate::{
    apply::{ApplyError, AuthCommand, Command},
    auth::{AuthError, SimpleTokens, TOKEN_LETTERS, TokenHash, jwt::IssueError},
    limits::LOGGED_NAME_CHARS_MAX,
    types::{Rev, Secret},
};

impl Node {
    /// A token for a user's password, and the newest revision at that moment.
    pub(crate) async fn login(
        &self,
        origin: Origin,
        name: &str,
        password: Secret,
    ) -> Result<(Rev, Arc<Secret>), ProposeError> {
        let logged_in = async {
            self.read_barrier().await?;
            loop {
                let auth_rev = self.check_password(origin, name, password.clone()).await?;
                match self.login_as(name, auth_rev).await {
                    Err(ProposeError::Auth(AuthError::OldRevision)) => {}
                    logged_in => return logged_in,
                }
            }
        };
        time::timeout(self.request_timeout(), logged_in).await.unwrap_or(Err(ProposeError::Timeout))
    }

    /// The revision of users and roles at which this was the user's password.
    async fn check_password(
        &self,
        origin: Origin,
        name: &str,
        password: Secret,
    ) -> Result<u64, ProposeError> {
        let (auth_rev, hash) = {
            let auth = &self.shared.replica.read().state.auth;
            if !auth.is_enabled() {
                return Err(AuthError::NotEnabled.into());
            }
            let user = auth.user(name).ok();
            if user.is_some_and(|user| user.no_password) {
                return Err(AuthError::NoPasswordUser.into());
            }
            (auth.rev(), user.map(|user| user.password_hash.clone()))
        };
        if self.shared.passwords.check(origin, name, password, hash.as_deref()).await? {
            return Ok(auth_rev);
        }
        // Whoever knocks chooses the name.
        let shown: String = name.chars().take(LOGGED_NAME_CHARS_MAX).collect();
        tracing::warn!("user-name" = shown, "refused a login: wrong user name or password");
        Err(AuthError::LoginFailed.into())
    }

    async fn login_as(&self, name: &str, auth_rev: u64) -> Result<(Rev, Arc<Secret>), ProposeError> {
        if !self.shared.logins.gives_tokens() {
            return Err(AuthError::LoginFailed.into());
        }
        if let Some(token) = self.shared.logins.signed(name, auth_rev) {
            let token = token.map_err(|error| match error {
                IssueError::VerifyOnly => AuthError::VerifyOnly,
                IssueError::NotSigned => AuthError::TokenNotSigned,
            })?;
            return Ok((self.rev(), Arc::new(token)));
        }
        let letters = self.shared.chance.letters(TOKEN_LETTERS);
        let token = TokenHash::of(&letters);
        let login = AuthCommand::Login { name: name.to_owned(), auth_rev, token };
        let outcome = self.propose_own(Command::Auth(login)).await?;
        match outcome.result {
            Ok(_) => {}
            Err(ApplyError::Auth(error)) => return Err(error.into()),
            Err(_) => return Err(AuthError::LoginFailed.into()),
        }
        // It is gone already if the user was deleted after the login.
        let index = self.shared.logins.login_index(&token).ok_or(AuthError::LoginFailed)?;
        Ok((outcome.rev, Arc::new(SimpleTokens::text(&letters, index))))
    }

    /// The bcrypt hash of a password.
    pub(crate) async fn hash_password(&self, password: Secret) -> Result<String, PasswordError> {
        self.shared.passwords.hash(password).await
    }
}
