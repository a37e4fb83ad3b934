//! One token: three parts in base64 with dots between them, the header, the claims and the signature over both.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::key::{Key, KeyError, Random};
use crate::types::SignMethod;

/// Issues tokens and checks them, with one key.
pub(crate) struct Jwt {
    key: Key,
    ttl: Duration,
}

/// What a token says whose signature and time are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) user: String,
    /// The revision of users and roles when the token was issued.
    pub(crate) auth_rev: u64,
}

/// A token that was found to be right, until it ends, as the time since 1970. Some never do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) claims: Claims,
    pub(crate) end: Option<Duration>,
}

/// Why a token is not accepted. The client is not told; the text is for the log, and has nothing of the token.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Unfit {
    #[error("it is not a JSON web token")]
    Malformed,
    #[error("it is signed by another method than that of --auth-token")]
    OtherMethod,
    #[error("its signature is not by our key")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYet,
    #[error("it has no user name")]
    NoUser,
    #[error("it has no revision of users and roles")]
    NoRevision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IssueError {
    /// There is no private key.
    VerifyOnly,
    /// The system gave no random numbers.
    NotSigned,
}

#[derive(Serialize)]
struct Header {
    alg: &'static str,
    typ: &'static str,
}

/// In the order in which etcd writes them.
#[derive(Serialize)]
struct Issued<'c> {
    exp: u64,
    revision: u64,
    username: &'c str,
}

impl Jwt {
    /// From the content of the files of the keys. Without a private key it only checks tokens.
    pub(crate) fn new(
        method: SignMethod,
        ttl: Duration,
        public: Option<&[u8]>,
        private: Option<&[u8]>,
        random: Random<'_>,
    ) -> Result<Jwt, KeyError> {
        Ok(Jwt { key: Key::parse(method, public, private, random)?, ttl })
    }

    /// `now` is the time since 1970.
    pub(crate) fn issue(
        &self,
        claims: &Claims,
        now: Duration,
        random: Random<'_>,
    ) -> Result<String, IssueError> {
        if !self.key.signs() {
            return Err(IssueError::VerifyOnly);
        }
        let header = Header { alg: self.key.method().name(), typ: "JWT" };
        let issued = Issued {
            exp: now.saturating_add(self.ttl).as_secs(),
            revision: claims.auth_rev,
            username: &claims.user,
        };
        let mut token = format!("{}.{}", encode_json(&header), encode_json(&issued));
        let signature = self.key.sign(token.as_bytes(), random).ok_or(IssueError::NotSigned)?;
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// What the token says. `now` is the time since 1970.
    pub(crate) fn verify(&self, token: &str, now: Duration) -> Result<Verified, Unfit> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Unfit::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Unfit::Malformed)?;
        let header = decode_json(header)?;
        // Extensions that a reader has to understand (RFC 7515): this one understands none.
        if header.contains_key("crit") {
            return Err(Unfit::Malformed);
        }
        // The method is what we say and not what the token says: no token chooses how it is checked.
        if header.get("alg").and_then(Value::as_str) != Some(self.key.method().name()) {
            return Err(Unfit::OtherMethod);
        }
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| Unfit::Malformed)?;
        if !self.key.verifies(signed.as_bytes(), &signature) {
            return Err(Unfit::Signature);
        }
        let claims = decode_json(claims)?;
        let end = check_time(&claims, now)?;
        let user = claims.get("username").and_then(Value::as_str).ok_or(Unfit::NoUser)?.to_owned();
        let auth_rev = claims.get("revision").and_then(Value::as_f64).ok_or(Unfit::NoRevision)?;
        if auth_rev < 0.0 {
            return Err(Unfit::NoRevision);
        }
        // As in etcd, a number of JSON counts without its fraction; one out of range is the greatest.
        Ok(Verified { claims: Claims { user, auth_rev: auth_rev as u64 }, end })
    }
}

/// The end of the token, if it has not come yet. As in etcd, a token without an end is valid for ever, and 0 is no
/// time.
fn check_time(claims: &Map<String, Value>, now: Duration) -> Result<Option<Duration>, Unfit> {
    let time = |name| match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(secs) => Ok(Some(secs).filter(|secs| *secs != 0.0)),
            None => Err(Unfit::Malformed),
        },
    };
    let now = now.as_secs_f64();
    let end = time("exp")?;
    if end.is_some_and(|end| now >= end) {
        return Err(Unfit::Expired);
    }
    if time("nbf")?.is_some_and(|begin| now < begin) {
        return Err(Unfit::NotYet);
    }
    Ok(end.and_then(|end| Duration::try_from_secs_f64(end).ok()))
}

fn encode_json(value: &impl Serialize) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).expect("strings and numbers are JSON"))
}

fn decode_json(part: &str) -> Result<Map<String, Value>, Unfit> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Unfit::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| Unfit::Malformed)
}
