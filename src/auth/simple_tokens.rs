//! Simple tokens: random texts that were given out for a password.
//!
//! As in etcd, a token is valid on every member that has applied the login, until it was not used there for
//! the time of `--auth-token-ttl`, and each member counts that time by itself. No token is stored: a member
//! that starts knows none of before.
//!
//! The text is 16 letters, a dot, and the index of the login in the log, which tells a member how far it has
//! to be to know the token. Only the hash of the letters is in the log and in memory, so that neither a log
//! nor a backup of one has a token that can be used. Looking up a hash also takes the same time whatever a
//! wrong token has in common with a right one.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use crate::{
    limits::{TOKENS_MAX, TOKENS_PER_USER_MAX},
    types::Secret,
};

/// Letters of a token.
pub(crate) const TOKEN_LETTERS: usize = 16;

/// The hash of the letters of a token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn of(letters: &str) -> TokenHash {
        TokenHash(Sha256::digest(letters.as_bytes()).into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `None` if that is not as long as a hash.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<TokenHash> {
        bytes.try_into().ok().map(TokenHash)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(***)")
    }
}

/// The tokens that one member knows.
#[derive(Debug)]
pub(crate) struct SimpleTokens {
    ttl: Duration,
    /// Times of use are counted from here.
    begin: Instant,
    tokens: BTreeMap<TokenHash, Token>,
    /// How many tokens each user has.
    per_user: BTreeMap<Arc<str>, usize>,
    next_sweep: Instant,
}

#[derive(Debug)]
struct Token {
    user: Arc<str>,
    index: u64,
    /// The last use, in milliseconds since the beginning. Readers write it, who share the table.
    used_millis: AtomicU64,
}

impl SimpleTokens {
    pub(crate) fn new(ttl: Duration, now: Instant) -> SimpleTokens {
        SimpleTokens { ttl, begin: now, tokens: BTreeMap::new(), per_user: BTreeMap::new(), next_sweep: now }
    }

    /// The hash of a token, and the index of its login. `None` if it is not the text of a simple token.
    pub(crate) fn parse(token: &Secret) -> Option<(TokenHash, u64)> {
        let index = SimpleTokens::index_in(token)?;
        let (letters, _) = token.reveal().split_once('.')?;
        Some((TokenHash::of(letters), index))
    }

    /// The index of the login that a token says it is of.
    pub(crate) fn index_in(token: &Secret) -> Option<u64> {
        token.reveal().split_once('.')?.1.parse().ok()
    }

    /// The text of a token.
    pub(crate) fn text(letters: &str, index: u64) -> Secret {
        Secret::new(format!("{letters}.{index}"))
    }

    /// The user of a token, which from here on is valid for another TTL.
    pub(crate) fn used(&self, hash: &TokenHash, index: u64, now: Instant) -> Option<Arc<str>> {
        let token = self.tokens.get(hash)?;
        if token.index != index || self.is_expired(token, now) {
            return None;
        }
        token.used_millis.fetch_max(self.millis(now), Ordering::Relaxed);
        Some(Arc::clone(&token.user))
    }

    /// The index of the login that a token is of, if the token is known.
    pub(crate) fn index(&self, hash: &TokenHash) -> Option<u64> {
        Some(self.tokens.get(hash)?.index)
    }

    /// A login was applied.
    pub(crate) fn add(&mut self, hash: TokenHash, user: &str, index: u64, now: Instant) {
        self.make_room(user, now);
        let user = match self.per_user.get_key_value(user) {
            Some((user, _)) => Arc::clone(user),
            None => Arc::from(user),
        };
        let token = Token { user: Arc::clone(&user), index, used_millis: AtomicU64::new(self.millis(now)) };
        // The letters are chosen at random, so nobody else has the same. A login that is applied again
        // after a restart is the same login.
        if self.tokens.insert(hash, token).is_none() {
            *self.per_user.entry(user).or_default() += 1;
        }
    }

    pub(crate) fn forget_user(&mut self, user: &str) {
        self.retain(|token| *token.user != *user);
    }

    pub(crate) fn forget_all(&mut self) {
        self.tokens.clear();
        self.per_user.clear();
    }

    fn make_room(&mut self, user: &str, now: Instant) {
        let is_full = |tokens: &SimpleTokens| {
            let of_user = tokens.per_user.get(user).copied().unwrap_or(0);
            (tokens.tokens.len() >= TOKENS_MAX, of_user >= TOKENS_PER_USER_MAX)
        };
        let (all, of_user) = is_full(self);
        if now >= self.next_sweep || all || of_user {
            self.next_sweep = now + self.ttl / 8;
            let (ttl_millis, now_millis) = (self.ttl_millis(), self.millis(now));
            self.retain(|token| !is_expired(token, ttl_millis, now_millis));
        }
        let (all, of_user) = is_full(self);
        if of_user {
            self.forget_oldest(|token| *token.user == *user);
        } else if all {
            self.forget_oldest(|_| true);
        }
    }

    /// Forgets a sixteenth of the tokens of some kind, so that this pass over all of them is seldom needed.
    fn forget_oldest(&mut self, is_kind: impl Fn(&Token) -> bool) {
        let used = |token: &Token| token.used_millis.load(Ordering::Relaxed);
        let mut times: Vec<(u64, TokenHash)> = self
            .tokens
            .iter()
            .filter(|(_, token)| is_kind(token))
            .map(|(hash, token)| (used(token), *hash))
            .collect();
        let oldest = (times.len() / 16).max(1);
        times.sort_unstable();
        for (_, hash) in times.into_iter().take(oldest) {
            if let Some(token) = self.tokens.remove(&hash) {
                self.forgotten(&token.user);
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&Token) -> bool) {
        let mut gone = Vec::new();
        self.tokens.retain(|_, token| {
            let keeps = keep(token);
            if !keeps {
                gone.push(Arc::clone(&token.user));
            }
            keeps
        });
        for user in gone {
            self.forgotten(&user);
        }
    }

    fn forgotten(&mut self, user: &Arc<str>) {
        let count = self.per_user.get_mut(user).expect("a user is counted as long as it has a token");
        *count -= 1;
        if *count == 0 {
            self.per_user.remove(user);
        }
    }

    fn is_expired(&self, token: &Token, now: Instant) -> bool {
        is_expired(token, self.ttl_millis(), self.millis(now))
    }

    fn ttl_millis(&self) -> u64 {
        u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX)
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begin).as_millis()).unwrap_or(u64::MAX)
    }
}

fn is_expired(token: &Token, ttl_millis: u64, now_millis: u64) -> bool {
    now_millis.saturating_sub(token.used_millis.load(Ordering::Relaxed)) > ttl_millis
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn hash(number: u32) -> TokenHash {
        TokenHash::of(&format!("letters {number}"))
    }

    fn user(tokens: &SimpleTokens, number: u32, now: Instant) -> Option<String> {
        tokens.used(&hash(number), u64::from(number), now).map(|user| user.to_string())
    }

    #[test]
    fn a_text_has_letters_and_an_index() {
        let parsed = |text: &str| SimpleTokens::parse(&Secret::new(text.to_owned()));
        assert_eq!(parsed("abc.7"), Some((TokenHash::of("abc"), 7)));
        for wrong in ["", "abc", "abc.", "abc.x", "abc.7.8", "abc.-1", "abc.99999999999999999999"] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
        assert_eq!(format!("{:?}", TokenHash::of("abc")), "TokenHash(***)");
    }

    #[test]
    fn each_use_gives_a_token_another_ttl() {
        let begin = Instant::now();
        let mut tokens = SimpleTokens::new(TTL, begin);
        tokens.add(hash(1), "one", 1, begin);
        for uses in 1..=5 {
            assert_eq!(user(&tokens, 1, begin + uses * TTL).as_deref(), Some("one"));
        }
        let late = begin + 6 * TTL + Duration::from_millis(1);
        assert_eq!(user(&tokens, 1, late), None);
        // Its entry is gone with the next login.
        tokens.add(hash(2), "two", 2, late);
        assert_eq!((tokens.tokens.len(), tokens.per_user.len()), (1, 1));
    }

    #[test]
    fn a_token_with_another_index_is_another_token() {
        let begin = Instant::now();
        let mut tokens = SimpleTokens::new(TTL, begin);
        tokens.add(hash(1), "one", 1, begin);
        assert_eq!(tokens.used(&hash(1), 2, begin), None);
        assert_eq!(tokens.index(&hash(1)), Some(1));
    }

    #[test]
    fn tokens_of_a_user_are_forgotten_together() {
        let begin = Instant::now();
        let mut tokens = SimpleTokens::new(TTL, begin);
        for (number, name) in [(1, "one"), (2, "two"), (3, "one")] {
            tokens.add(hash(number), name, u64::from(number), begin);
        }
        tokens.forget_user("one");
        assert_eq!([1, 2, 3].map(|number| user(&tokens, number, begin).is_some()), [false, true, false]);
        tokens.forget_all();
        assert_eq!((user(&tokens, 2, begin), tokens.per_user.len()), (None, 0));
    }

    #[test]
    fn a_user_with_many_tokens_loses_its_own_oldest_and_then_all_do() {
        let begin = Instant::now();
        let mut tokens = SimpleTokens::new(TTL, begin);
        let at = |number: u32| begin + Duration::from_millis(u64::from(number));
        for (number, name) in [(1, "one"), (2, "two"), (3, "one"), (4, "one"), (5, "one")] {
            tokens.add(hash(number), name, u64::from(number), at(number));
        }
        let known =
            |tokens: &SimpleTokens| (1..=7).filter(|number| user(tokens, *number, at(9)).is_some()).count();
        assert!(tokens.index(&hash(1)).is_none() && tokens.index(&hash(2)).is_some());
        assert_eq!(known(&tokens), 4);
        for (number, name) in [(6, "six"), (7, "seven")] {
            tokens.add(hash(number), name, u64::from(number), at(10));
        }
        assert_eq!(known(&tokens), TOKENS_MAX);
        assert_eq!(tokens.per_user.values().sum::<usize>(), TOKENS_MAX);
    }
}
