//! Who calls, with which token, and what is known of what a user may do.

use std::{collections::BTreeMap, time::Duration};

use http::HeaderValue;
use parking_lot::Mutex;

/// For how long a change without an answer may still be carried out: a member may be paused with it.
pub(super) const DOUBT: Duration = Duration::from_secs(20);

/// Who calls. `Guest` is the one whose permissions change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    Root,
    Load,
    Guest,
}

impl User {
    pub(super) const ALL: [User; 3] = [User::Root, User::Load, User::Guest];

    /// The name of the user, of its role, and its password.
    pub(super) fn name(self) -> &'static str {
        match self {
            User::Root => "root",
            User::Load => "load",
            User::Guest => "guest",
        }
    }
}

/// The tokens of all users, in a world where calls need one.
#[derive(Default)]
pub(super) struct Tokens(Mutex<BTreeMap<User, HeaderValue>>);

impl Tokens {
    pub(super) fn of(&self, user: User) -> Option<HeaderValue> {
        self.0.lock().get(&user).cloned()
    }

    pub(super) fn keep(&self, user: User, token: HeaderValue) {
        self.0.lock().insert(user, token);
    }

    /// A member does not accept the token: the user has to log in again.
    pub(super) fn forget(&self, user: User, refused: &HeaderValue) {
        let mut tokens = self.0.lock();
        if tokens.get(&user) == Some(refused) {
            tokens.remove(&user);
        }
    }
}

/// What the guest may do, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Permitted {
    /// How often it was changed or about to be changed.
    pub(super) change: u64,
    /// `None` while a change is under way, and after one whose outcome is unknown.
    pub(super) is_granted: Option<bool>,
}
