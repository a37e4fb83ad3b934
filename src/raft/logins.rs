//! What a member knows of users beside the replicated state: the tokens that were given out, and, for those
//! who do not want to take the replica's lock, whether authentication is enabled and at which revision.
//!
//! Both follow from the log and are set where it is applied, before anybody is answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;

use super::signed_tokens::{SignedTokens, TokenKeyError};
use crate::{
    apply::{AuthCommand, Outcome},
    auth::{AuthStore, SimpleTokens, TokenHash, jwt::IssueError},
    clock,
    config::AuthToken,
    sync::watch,
    types::Secret,
};

/// The revision of users and roles, while authentication is enabled.
pub(crate) type GuardedAt = Option<u64>;

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Logins {
    /// The revision of users and roles, while authentication is enabled; else 0, which no revision is.
    guarded_at: AtomicU64,
    changed: watch::Sender<GuardedAt>,
    tokens: Tokens,
}

/// The kinds of tokens. Whatever the kind, a password was checked before.
#[derive(Debug)]
pub(crate) enum Tokens {
    Off,
    Simple(RwLock<SimpleTokens>),
    Signed(SignedTokens),
}

impl Tokens {
    /// Reads the keys, if this kind has any.
    pub(crate) fn open(kind: &AuthToken, ttl: Duration) -> Result<Tokens, TokenKeyError> {
        Ok(match kind {
            AuthToken::Off => Tokens::Off,
            AuthToken::Simple => Tokens::Simple(RwLock::new(SimpleTokens::new(ttl, clock::now()))),
            AuthToken::Jwt(options) => Tokens::Signed(SignedTokens::open(options)?),
        })
    }
}

/// Who a token is of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) name: Arc<str>,
    /// The revision of users and roles that the token itself is of. `None` if it is of the current one.
    pub(crate) auth_rev: Option<u64>,
}

/// Of a member without users.
#[cfg(test)]
impl Default for Logins {
    fn default() -> Logins {
        let tokens = Tokens::open(&AuthToken::Simple, Duration::from_secs(300));
        Logins::new(&AuthStore::default(), tokens.expect("simple tokens have no keys"))
    }
}

impl Logins {
    pub(crate) fn new(auth: &AuthStore, tokens: Tokens) -> Logins {
        let at = guarded_at(auth);
        Logins { guarded_at: AtomicU64::new(at.unwrap_or(0)), changed: watch::Sender::new(at), tokens }
    }

    pub(crate) fn guarded_at(&self) -> GuardedAt {
        Some(self.guarded_at.load(Ordering::Acquire)).filter(|at| *at != 0)
    }

    /// Changes when what users may do has changed, or may have.
    pub(crate) fn changes(&self) -> watch::Receiver<GuardedAt> {
        self.changed.subscribe()
    }
}

/// Tokens.
impl Logins {
    /// Whether a login gives the client a token at all.
    pub(crate) fn gives_tokens(&self) -> bool {
        !matches!(self.tokens, Tokens::Off)
    }

    /// The index in the log that has to be applied before the token is known here. `None` if it makes no
    /// difference.
    pub(crate) fn known_from(&self, token: &Secret) -> Option<u64> {
        match &self.tokens {
            Tokens::Off | Tokens::Signed(_) => None,
            Tokens::Simple(_) => SimpleTokens::index_in(token),
        }
    }

    /// Who the token is of, if it is valid.
    pub(crate) fn bearer(&self, token: &Secret) -> Option<Bearer> {
        match &self.tokens {
            Tokens::Off => None,
            Tokens::Simple(tokens) => {
                let (hash, index) = SimpleTokens::parse(token)?;
                let name = tokens.read().used(&hash, index, clock::now())?;
                Some(Bearer { name, auth_rev: None })
            }
            Tokens::Signed(tokens) => {
                let (name, auth_rev) = tokens.bearer(token)?;
                Some(Bearer { name, auth_rev: Some(auth_rev) })
            }
        }
    }

    /// The index of the login whose token has this hash, if the token is still known.
    pub(crate) fn login_index(&self, token: &TokenHash) -> Option<u64> {
        match &self.tokens {
            Tokens::Off | Tokens::Signed(_) => None,
            Tokens::Simple(tokens) => tokens.read().index(token),
        }
    }

    /// A token that this member alone can give out. `None` if a login has to go through the log.
    pub(crate) fn signed(&self, name: &str, auth_rev: u64) -> Option<Result<Secret, IssueError>> {
        match &self.tokens {
            Tokens::Off | Tokens::Simple(_) => None,
            Tokens::Signed(tokens) => Some(tokens.issue(name, auth_rev)),
        }
    }
}

/// What is applied.
impl Logins {
    /// To be called while nobody else has the replica's lock, so that whoever gets the lock next sees both.
    pub(super) fn applied(&self, command: &AuthCommand, outcome: &Outcome, index: u64, auth: &AuthStore) {
        if outcome.result.is_err() {
            return;
        }
        if let Tokens::Simple(tokens) = &self.tokens {
            match command {
                AuthCommand::Login { name, token, .. } => {
                    tokens.write().add(*token, name, index, clock::now());
                }
                AuthCommand::UserDelete { name } | AuthCommand::UserChangePassword { name, .. } => {
                    tokens.write().forget_user(name);
                }
                AuthCommand::Disable => tokens.write().forget_all(),
                AuthCommand::UserAdd { .. }
                | AuthCommand::UserGrantRole { .. }
                | AuthCommand::UserRevokeRole { .. }
                | AuthCommand::RoleAdd { .. }
                | AuthCommand::RoleDelete { .. }
                | AuthCommand::RoleGrantPermission { .. }
                | AuthCommand::RoleRevokePermission { .. }
                | AuthCommand::Enable => {}
            }
        }
        self.publish(guarded_at(auth));
    }

    /// A snapshot has taken the place of the state. Its users may have been deleted meanwhile, or have
    /// other passwords.
    pub(super) fn replaced(&self, auth: &AuthStore) {
        let at = guarded_at(auth);
        if at != self.guarded_at()
            && let Tokens::Simple(tokens) = &self.tokens
        {
            tokens.write().forget_all();
        }
        self.publish(at);
    }

    fn publish(&self, at: GuardedAt) {
        match (self.guarded_at(), at) {
            (None, Some(_)) => tracing::info!("enabled authentication"),
            (Some(_), None) => tracing::info!("disabled authentication"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.guarded_at.store(at.unwrap_or(0), Ordering::Release);
        self.changed.send_if_modified(|was| std::mem::replace(was, at) != at);
    }
}

fn guarded_at(auth: &AuthStore) -> GuardedAt {
    auth.is_enabled().then(|| auth.rev())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{apply::Response, types::Rev};

    /// Users and roles of which authentication is enabled, at revision 3 and later.
    fn guarded(users: u64) -> AuthStore {
        let mut auth = AuthStore::default();
        auth.user_add("root", "h", false).expect("a new user");
        auth.user_grant_role("root", "root").expect("a role");
        for number in 0..users {
            auth.user_add(&number.to_string(), "h", false).expect("a new user");
        }
        auth.enable().expect("there is a root");
        auth
    }

    fn apply(logins: &Logins, command: &AuthCommand, index: u64, auth: &AuthStore) {
        let outcome = Outcome { rev: Rev(1), result: Ok(Response::Auth), unread: None };
        logins.applied(command, &outcome, index, auth);
    }

    fn log_in(logins: &Logins, name: &str, letters: &str, index: u64, auth: &AuthStore) -> Secret {
        let name = name.to_owned();
        let login = AuthCommand::Login { name, auth_rev: auth.rev(), token: TokenHash::of(letters) };
        apply(logins, &login, index, auth);
        SimpleTokens::text(letters, index)
    }

    #[test]
    fn a_token_is_of_its_user_until_that_is_gone_or_changes_its_password() {
        let (logins, auth) = (Logins::default(), guarded(0));
        let one = log_in(&logins, "one", "abc", 7, &auth);
        let two = log_in(&logins, "two", "def", 8, &auth);
        let name = |token| logins.bearer(token).map(|bearer| bearer.name.to_string());
        assert_eq!((logins.known_from(&one), name(&one).as_deref()), (Some(7), Some("one")));
        assert_eq!(logins.login_index(&TokenHash::of("def")), Some(8));
        apply(&logins, &AuthCommand::UserDelete { name: "one".to_owned() }, 9, &auth);
        assert_eq!((name(&one), name(&two).as_deref()), (None, Some("two")));
        let change =
            AuthCommand::UserChangePassword { name: "two".to_owned(), password_hash: "h".to_owned() };
        apply(&logins, &change, 10, &auth);
        assert_eq!(name(&two), None);
    }

    #[test]
    fn no_token_outlives_authentication() {
        let (logins, mut auth) = (Logins::default(), guarded(0));
        let token = log_in(&logins, "root", "abc", 7, &auth);
        assert_eq!(logins.guarded_at(), Some(3));
        auth.disable();
        apply(&logins, &AuthCommand::Disable, 8, &auth);
        assert_eq!((logins.guarded_at(), logins.bearer(&token)), (None, None));
    }

    #[test]
    fn a_refused_login_gives_no_token() {
        let (logins, auth) = (Logins::default(), guarded(0));
        let refused =
            Outcome { rev: Rev(1), result: Err(crate::auth::AuthError::OldRevision.into()), unread: None };
        let login = AuthCommand::Login { name: "one".to_owned(), auth_rev: 1, token: TokenHash::of("abc") };
        logins.applied(&login, &refused, 7, &auth);
        assert_eq!(logins.bearer(&SimpleTokens::text("abc", 7)), None);
    }

    #[test]
    fn a_snapshot_with_other_users_ends_all_tokens_and_one_with_the_same_none() {
        let (logins, auth) = (Logins::default(), guarded(0));
        let token = log_in(&logins, "root", "abc", 7, &auth);
        logins.replaced(&guarded(0));
        assert!(logins.bearer(&token).is_some());
        logins.replaced(&guarded(1));
        assert_eq!((logins.bearer(&token), logins.guarded_at()), (None, Some(4)));
    }

    #[test]
    fn who_waits_for_changes_learns_of_those_that_matter() {
        let (logins, auth) = (Logins::default(), guarded(0));
        let mut changes = logins.changes();
        apply(&logins, &AuthCommand::Enable, 1, &auth);
        assert!(changes.has_changed().expect("the sender is there"));
        changes.mark_unchanged();
        log_in(&logins, "root", "abc", 7, &auth);
        assert!(!changes.has_changed().expect("the sender is there"), "a login changes nobody's permissions");
        apply(&logins, &AuthCommand::RoleAdd { name: "r".to_owned() }, 8, &guarded(1));
        assert!(changes.has_changed().expect("the sender is there"));
    }
}
