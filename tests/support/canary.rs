//! Secrets that no log may contain. Every server of the suites is checked when it ends.
//!
//! Passwords and values of keys that a test wants to be looked for contain [`MARK`]. Secrets that a server makes, such as
//! tokens, are planted when the test gets them.

use std::sync::{Mutex, PoisonError};

/// A word that is in planted secrets and in nothing else.
pub(crate) const MARK: &str = "canary";

/// How bcrypt's hashes begin, of which a log has no use either.
const HASHES: [&str; 3] = ["$2a$", "$2b$", "$2y$"];

/// How keys of TLS and of tokens begin.
const KEYS: [&str; 1] = ["PRIVATE KEY"];

static PLANTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From now on no server of this process may log this.
pub(crate) fn plant(secret: &str) {
    assert!(secret.len() >= 8, "a short secret would be found everywhere");
    PLANTED.lock().unwrap_or_else(PoisonError::into_inner).push(secret.to_owned());
}

/// The lines of a log that have a secret, each with what was found.
pub(crate) fn found_in<'l>(log: impl IntoIterator<Item = &'l str>) -> Vec<String> {
    let planted = PLANTED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let fixed = [MARK].into_iter().chain(HASHES).chain(KEYS);
    let secrets: Vec<&str> = fixed.chain(planted.iter().map(String::as_str)).collect();
    let found_in_line = |line: &'l str| {
        let secret = secrets.iter().find(|secret| line.contains(**secret))?;
        Some(format!("{secret:?} in: {line}"))
    };
    log.into_iter().filter_map(found_in_line).collect()
}

#[test]
fn secrets_in_a_log_are_found() {
    plant("abcdefghijklmnop.7");
    let log = [
        "all is well",
        "the password canary-7 is wrong",
        "token abcdefghijklmnop.71 has expired",
        "the hash $2a$10$abc",
        "-----BEGIN EC PRIVATE KEY-----",
    ];
    assert_eq!(found_in(log).len(), 4, "{:?}", found_in(log));
}
