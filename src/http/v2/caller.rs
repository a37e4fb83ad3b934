//! Who asks: basic authentication, if authentication is enabled.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{header, request::Parts};
use tonic::transport::server::TcpConnectInfo;

use super::Front;
use crate::{
    node::{Origin, ProposeError},
    types::CommonName,
    v2::Who,
};

#[derive(Debug)]
pub(super) enum NotKnown {
    /// The name or the password is wrong, or the header is malformed.
    Denied,
    Failed(ProposeError),
}

impl Front {
    /// Who asks. Without the header this is the user that the certificate names, if there is one, or else a
    /// guest; while authentication is disabled everybody is a guest.
    pub(super) async fn who(&self, request: &Parts) -> Result<Who, NotKnown> {
        if !self.session.v2_ask(|store| store.auth_enabled()).map_err(NotKnown::Failed)? {
            return Ok(Who::Guest);
        }
        let given = request.headers.get(header::AUTHORIZATION).filter(|value| !value.is_empty());
        let Some(given) = given else {
            let Some(CommonName(name)) = request.extensions.get() else { return Ok(Who::Guest) };
            let is_user = self.session.v2_ask(|store| store.user(name).is_some());
            let is_user = is_user.map_err(NotKnown::Failed)?;
            return Ok(if is_user { Who::User(name.clone()) } else { Who::Guest });
        };
        let (name, password) = credentials(given.as_bytes()).ok_or(NotKnown::Denied)?;
        let user = self.session.v2_ask(|store| store.user(&name)).map_err(NotKnown::Failed)?;
        let hash = user.as_ref().map(|user| user.password_hash.as_str());
        let remote = request.extensions.get::<TcpConnectInfo>().and_then(|info| info.remote_addr);
        match self.session.v2_check_password(Origin::of(remote), &name, password, hash).await {
            Err(error) => Err(NotKnown::Failed(error)),
            Ok(true) => Ok(Who::User(name.into())),
            Ok(false) => {
                tracing::warn!(user = name, "wrong user name or password of the version 2 API");
                Err(NotKnown::Denied)
            }
        }
    }
}

fn credentials(header: &[u8]) -> Option<(String, String)> {
    let header = str::from_utf8(header).ok()?;
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_a_name_and_a_password() {
        let of = |header: &str| credentials(header.as_bytes());
        assert_eq!(of("Basic cm9vdDphOmI="), Some(("root".to_owned(), "a:b".to_owned())));
        for malformed in ["Basic", "Basic cm9vdA==", "Bearer cm9vdDphOmI=", "Basic ==", ""] {
            assert_eq!(of(malformed), None, "{malformed}");
        }
    }
}
