//! Hashing and checking passwords, which takes tens of milliseconds of a core each.
//!
//! A few threads do it, with a lower priority than all others, so that logins do not slow down those who are
//! logged in. Few passwords may wait for them, and a password whose call has ended is not hashed.
//!
//! A password that was right a moment ago is recognised without hashing it again, by a digest with a key that
//! this process has drawn at its start ([0041](../../docs/decisions/0041-passwords.md)).

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    thread,
    time::Instant,
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::ProposeError;
use crate::{
    chance::Chance,
    clock,
    limits::{
        PASSWORD_BYTES_MAX, PASSWORD_REMEMBERED, PASSWORD_THREADS_MAX, PASSWORDS_REMEMBERED,
        PASSWORDS_WAITING,
    },
    threads,
    types::Secret,
};

/// By how much the niceness of the threads is above the process's.
const NICENESS: i32 = 15;

pub(super) struct Passwords {
    cost: u32,
    /// `None` until a password is to be hashed: many clusters never have one.
    queue: OnceLock<mpsc::Sender<Job>>,
    /// The key of the digests in `recent`.
    key: Key,
    recent: Mutex<Recent>,
}

type Key = [u64; 4];

struct Job {
    password: Secret,
    work: Work,
}

enum Work {
    Hash(oneshot::Sender<Result<String, bcrypt::BcryptError>>),
    Check { hash: String, answer: oneshot::Sender<bool> },
}

impl Passwords {
    pub(super) fn new(cost: u32, chance: &Chance) -> Passwords {
        let key = std::array::from_fn(|_| chance.number());
        Passwords { cost, queue: OnceLock::new(), key, recent: Mutex::default() }
    }

    /// The bcrypt hash of a password, under the prefix that etcd writes.
    pub(super) async fn hash(&self, password: Secret) -> Result<String, PasswordError> {
        if password.reveal().len() > PASSWORD_BYTES_MAX {
            return Err(PasswordError::TooLong);
        }
        let (answer, hashed) = oneshot::channel();
        self.queue(Job { password, work: Work::Hash(answer) })?;
        match hashed.await {
            Ok(Ok(hash)) => Ok(hash),
            Ok(Err(error)) => Err(PasswordError::Failed(error.to_string())),
            Err(_) => Err(ProposeError::Stopped.into()),
        }
    }

    /// Whether the user's password is this one, by its bcrypt hash. `None` stands for a user that does not
    /// exist; it takes as long as one that does.
    pub(super) async fn check(
        &self,
        user: &str,
        password: Secret,
        hash: Option<&str>,
    ) -> Result<bool, ProposeError> {
        // A longer one was never accepted. bcrypt would look at its beginning only.
        let is_possible = password.reveal().len() <= PASSWORD_BYTES_MAX;
        let digest = is_possible.then(|| digest(&self.key, user, &password, hash.unwrap_or_default()));
        let now = clock::now();
        if digest.is_some_and(|digest| self.recent.lock().is_known(user, &digest, now)) {
            return Ok(true);
        }
        let (answer, checked) = oneshot::channel();
        let hash = match hash {
            Some(hash) if is_bcrypt(hash) => hash.to_owned(),
            Some(_) | None => no_hash(self.cost),
        };
        self.queue(Job { password, work: Work::Check { hash, answer } })?;
        let is_right = checked.await.map_err(|_| ProposeError::Stopped)?;
        let Some(digest) = digest.filter(|_| is_right) else { return Ok(false) };
        self.recent.lock().remember(user, digest, clock::now());
        Ok(true)
    }

    fn queue(&self, job: Job) -> Result<(), ProposeError> {
        let queue = self.queue.get_or_init(|| start(self.cost));
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => ProposeError::TooManyRequests,
            TrySendError::Closed(_) => ProposeError::Stopped,
        })
    }
}

/// A password cannot be hashed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    #[error("bcrypt: password length exceeds 72 bytes")]
    TooLong,
    #[error("failed to hash the password: {0}")]
    Failed(String),
    #[error(transparent)]
    Refused(#[from] ProposeError),
}

/// Whether a hash can be compared with: that of a user without a password is empty.
fn is_bcrypt(hash: &str) -> bool {
    hash.starts_with("$2")
}

/// A hash of this cost that no known password has.
fn no_hash(cost: u32) -> String {
    format!("$2a${cost:02}$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyz01232")
}

/// Starts the threads, which end with the sender.
fn start(cost: u32) -> mpsc::Sender<Job> {
    let (queue, jobs) = mpsc::channel(PASSWORDS_WAITING);
    let jobs = Arc::new(Mutex::new(jobs));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for number in 0..cores.min(PASSWORD_THREADS_MAX) {
        let jobs = Arc::clone(&jobs);
        threads::spawn(&format!("retcd-password-{number}"), move || {
            if let Err(error) = rustix::process::nice(NICENESS) {
                tracing::debug!(%error, "cannot lower the priority of a thread that hashes passwords");
            }
            work(&jobs, cost);
        });
    }
    queue
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>, cost: u32) {
    loop {
        // The others wait for the lock as they would for a job.
        let Some(Job { password, work }) = jobs.lock().blocking_recv() else { return };
        match work {
            Work::Hash(answer) => {
                if !answer.is_closed() {
                    let hash = bcrypt::hash_with_result(password.reveal(), cost);
                    let _ = answer.send(hash.map(|hash| hash.format_for_version(bcrypt::Version::TwoA)));
                }
            }
            Work::Check { hash, answer } => {
                if !answer.is_closed() {
                    let is_right = bcrypt::verify(password.reveal(), &hash).unwrap_or(false);
                    let _ = answer.send(is_right);
                }
            }
        }
    }
}

/// The digest of a user, a password and the hash that it was compared with.
type Verified = [u8; 32];

/// Each part with its length, so that no two users with passwords are the same bytes. With another hash the
/// digest is another one, so a password that was changed is not recognised any more.
fn digest(key: &Key, user: &str, password: &Secret, hash: &str) -> Verified {
    let mut digest = Sha256::new();
    for part in key {
        digest.update(part.to_be_bytes());
    }
    for part in [user, password.reveal(), hash] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}

/// Passwords that were right a moment ago.
#[derive(Default)]
struct Recent {
    /// By user, with the time of the check.
    verified: BTreeMap<String, (Verified, Instant)>,
}

impl Recent {
    /// Nobody can compute digests without the key, so how long their comparison takes tells nothing.
    fn is_known(&self, user: &str, digest: &Verified, now: Instant) -> bool {
        self.verified.get(user).is_some_and(|(verified, at)| {
            now.saturating_duration_since(*at) < PASSWORD_REMEMBERED && verified == digest
        })
    }

    fn remember(&mut self, user: &str, digest: Verified, now: Instant) {
        if self.verified.len() >= PASSWORDS_REMEMBERED && !self.verified.contains_key(user) {
            self.verified.retain(|_, (_, at)| now.saturating_duration_since(*at) < PASSWORD_REMEMBERED);
            if self.verified.len() >= PASSWORDS_REMEMBERED
                && let Some(first) = self.verified.iter().min_by_key(|(_, (_, at))| *at)
            {
                let first = first.0.clone();
                self.verified.remove(&first);
            }
        }
        self.verified.insert(user.to_owned(), (digest, now));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a plain runtime").block_on(work)
    }

    fn passwords() -> Passwords {
        Passwords::new(4, &Chance::seeded(1))
    }

    #[test]
    fn right_and_wrong_passwords() {
        let passwords = passwords();
        run(async {
            let hash = passwords.hash(secret("right")).await.expect("short enough");
            assert!(hash.starts_with("$2a$04$"), "{hash}");
            for (password, hash, expected) in [
                ("right", Some(hash.as_str()), true),
                ("right", Some(hash.as_str()), true),
                ("wrong", Some(hash.as_str()), false),
                ("", Some(hash.as_str()), false),
                ("right", None, false),
                ("", Some(""), false),
            ] {
                let checked = passwords.check("user", secret(password), hash).await;
                assert_eq!(checked, Ok(expected), "{password:?} {hash:?}");
            }
            let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
            assert!(matches!(passwords.hash(secret(&long)).await, Err(PasswordError::TooLong)));
            let prefix = passwords.hash(secret(&long[1..])).await.expect("just short enough");
            assert_eq!(passwords.check("user", secret(&long), Some(&prefix)).await, Ok(false));
        });
    }

    #[test]
    fn a_hash_that_no_password_has_can_be_compared_with() {
        for cost in [4, 5] {
            assert!(!bcrypt::verify("", &no_hash(cost)).expect("it has the form of a hash"));
        }
    }

    #[test]
    fn a_right_password_is_recognised_for_a_while_and_under_the_same_hash() {
        let passwords = passwords();
        let mut recent = passwords.recent.lock();
        let now = Instant::now();
        let key = &passwords.key;
        let right = digest(key, "user", &secret("right"), "hash");
        assert!(!recent.is_known("user", &right, now));
        recent.remember("user", right, now);
        assert!(recent.is_known("user", &right, now));
        assert!(!recent.is_known("user", &right, now + PASSWORD_REMEMBERED));
        for (user, password, hash) in
            [("user", "wrong", "hash"), ("user", "right", "other"), ("use", "rright", "hash")]
        {
            let other = digest(key, user, &secret(password), hash);
            assert!(!recent.is_known("user", &other, now), "{user} {password} {hash}");
        }
    }

    #[test]
    fn the_first_is_forgotten_when_there_are_too_many() {
        let passwords = passwords();
        let mut recent = passwords.recent.lock();
        let now = Instant::now();
        for number in 0..=PASSWORDS_REMEMBERED {
            let at = now + Duration::from_micros(number as u64);
            recent.remember(&number.to_string(), [0; 32], at);
        }
        assert_eq!(recent.verified.len(), PASSWORDS_REMEMBERED);
        assert!(!recent.verified.contains_key("0") && recent.verified.contains_key("1"));
    }

    #[test]
    fn passwords_beyond_the_queue_are_refused() {
        let passwords = passwords();
        // Nobody takes anything out of this queue.
        let (queue, _jobs) = mpsc::channel(1);
        assert!(passwords.queue.set(queue).is_ok());
        let job = || Job { password: secret("x"), work: Work::Hash(oneshot::channel().0) };
        assert_eq!(passwords.queue(job()), Ok(()));
        assert_eq!(passwords.queue(job()), Err(ProposeError::TooManyRequests));
    }
}
