//! JSON web tokens of this member: the keys, which are read again when their files have changed, and the tokens that
//! were found to be right.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Mutex, MutexGuard};
use ring::rand::SystemRandom;
use thiserror::Error;

use crate::{
    auth::{
        TokenHash,
        jwt::{Claims, IssueError, Jwt, KeyError, Verified},
    },
    clock,
    config::JwtOptions,
    limits::{TOKEN_KEYS_LOOKED_AT_INTERVAL, VERIFIED_TOKENS_MAX},
    types::Secret,
};

/// Why a member cannot start with these keys, or goes on with the old ones.
#[derive(Debug, Error)]
pub(crate) enum TokenKeyError {
    #[error("cannot read {}, a key of --auth-token: {error}", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("the keys of --auth-token cannot be used: {0}")]
    Unfit(#[from] KeyError),
}

pub(crate) struct SignedTokens {
    options: JwtOptions,
    random: SystemRandom,
    keys: Mutex<Keys>,
}

/// The keys in use, and the tokens that they have verified.
struct Keys {
    jwt: Arc<Jwt>,
    /// The files as they were when they were read last, whether they could be used or not.
    files: Stamp,
    looked_at: Instant,
    verified: BTreeMap<TokenHash, Right>,
}

/// What changes when a file is written or replaced: the time, the length, the inode. `None` for a file that is not
/// there.
type Stamp = [Option<(SystemTime, u64, u64)>; 2];

/// A token that was verified with the keys in use.
struct Right {
    name: Arc<str>,
    auth_rev: u64,
    end: Option<Duration>,
}

impl fmt::Debug for SignedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedTokens").field("options", &self.options).finish_non_exhaustive()
    }
}

impl SignedTokens {
    pub(crate) fn open(options: &JwtOptions) -> Result<SignedTokens, TokenKeyError> {
        let random = SystemRandom::new();
        let files = stamp(options);
        let jwt = Arc::new(read(options, &random)?);
        Ok(SignedTokens {
            options: options.clone(),
            random,
            keys: Mutex::new(Keys { jwt, files, looked_at: clock::now(), verified: BTreeMap::new() }),
        })
    }

    pub(super) fn issue(&self, name: &str, auth_rev: u64) -> Result<Secret, IssueError> {
        let claims = Claims { user: name.to_owned(), auth_rev };
        let jwt = Arc::clone(&self.keys().jwt);
        jwt.issue(&claims, clock::wall(), &self.random).map(Secret::new)
    }

    /// Who the token is of, and the revision of users and roles at which it was issued, if it is right.
    ///
    /// A signature takes up to a millisecond to check, and a client sends the same token with each call, so a right
    /// token is remembered by its hash. A wrong one is not.
    pub(super) fn bearer(&self, token: &Secret) -> Option<(Arc<str>, u64)> {
        let (hash, now) = (TokenHash::of(token.reveal()), clock::wall());
        let jwt = {
            let keys = self.keys();
            if let Some(right) = keys.verified.get(&hash)
                && right.end.is_none_or(|end| now < end)
            {
                return Some(right.bearer());
            }
            Arc::clone(&keys.jwt)
        };
        match jwt.verify(token.reveal(), now) {
            Ok(Verified { claims, end }) => {
                let right = Right { name: claims.user.into(), auth_rev: claims.auth_rev, end };
                let bearer = right.bearer();
                let mut keys = self.keys.lock();
                if keys.verified.len() >= VERIFIED_TOKENS_MAX {
                    keys.verified.clear();
                }
                // The keys may have changed since the token was verified.
                if Arc::ptr_eq(&keys.jwt, &jwt) {
                    keys.verified.insert(hash, right);
                }
                Some(bearer)
            }
            Err(reason) => {
                tracing::debug!(%reason, "refused a JSON web token");
                None
            }
        }
    }

    /// The keys, read again if their files have changed. Files that cannot be used change nothing.
    fn keys(&self) -> MutexGuard<'_, Keys> {
        let mut keys = self.keys.lock();
        if clock::since(keys.looked_at) < TOKEN_KEYS_LOOKED_AT_INTERVAL {
            return keys;
        }
        keys.looked_at = clock::now();
        let files = stamp(&self.options);
        if files != keys.files {
            keys.files = files;
            match read(&self.options, &self.random) {
                Ok(jwt) => {
                    keys.jwt = Arc::new(jwt);
                    keys.verified.clear();
                    tracing::info!("the keys of --auth-token have changed; tokens of the old ones end");
                }
                Err(error) => {
                    let error = error.to_string();
                    tracing::error!(
                        error,
                        "the keys of --auth-token have changed; going on with the old ones"
                    );
                }
            }
        }
        keys
    }
}

impl Right {
    fn bearer(&self) -> (Arc<str>, u64) {
        (Arc::clone(&self.name), self.auth_rev)
    }
}

fn read(options: &JwtOptions, random: &SystemRandom) -> Result<Jwt, TokenKeyError> {
    let content = |path: &Option<PathBuf>| match path {
        Some(path) => {
            fs::read(path).map(Some).map_err(|error| TokenKeyError::Unreadable { path: path.clone(), error })
        }
        None => Ok(None),
    };
    let (public, private) = (content(&options.public_key)?, content(&options.private_key)?);
    Ok(Jwt::new(options.sign_method, options.ttl, public.as_deref(), private.as_deref(), random)?)
}

fn stamp(options: &JwtOptions) -> Stamp {
    let of = |path: &Option<PathBuf>| {
        let file = fs::metadata(path.as_deref().unwrap_or(Path::new(""))).ok()?;
        Some((file.modified().ok()?, file.len(), file.ino()))
    };
    [of(&options.public_key), of(&options.private_key)]
}
