//! Hashing and checking passwords, which takes tens of milliseconds of a core each.
//!
//! A few threads do it, with a lower priority than all others, so that logins do not slow down those who are
//! logged in. Few passwords may wait for them, in an order that keeps a flood of wrong ones from holding up the
//! others (`queue`), and a password whose call has ended is not hashed.
//!
//! A password that was right a moment ago is recognised without hashing it again, by a digest with a key that
//! this process has drawn at its start ([0041](../../../docs/decisions/0041-passwords.md)).

mod lately;
mod origin;
mod queue;

use std::{
    sync::{Arc, Once},
    thread,
    time::Instant,
};

use parking_lot::{Condvar, Mutex};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use self::{
    lately::Lately,
    origin::Connection,
    queue::{Queue, Rank},
};
use super::ProposeError;
use crate::{
    chance::Chance,
    clock,
    limits::{
        PASSWORD_BYTES_MAX, PASSWORD_MISTAKE_REMEMBERED, PASSWORD_MISTAKES, PASSWORD_REMEMBERED,
        PASSWORD_THREADS_MAX, PASSWORDS_REMEMBERED,
    },
    threads,
    types::Secret,
};

pub(crate) use self::origin::Origin;

/// By how much the niceness of the threads is above the process's.
const NICENESS: i32 = 15;

pub(super) struct Passwords {
    cost: u32,
    /// For salts.
    chance: Chance,
    /// The key of the digests.
    key: Key,
    verified: Mutex<Lately<String, Fingerprint>>,
    /// Many clusters never have a password.
    threads_are_started: Once,
    desk: Arc<Desk>,
}

type Key = [u64; 4];

/// A digest with the key, so that nobody can compute one, and how long a comparison takes tells nothing.
type Fingerprint = [u8; 32];

/// What the threads and those who wait for them share.
struct Desk {
    state: Mutex<State>,
    /// Somebody waits, or all is over.
    news: Condvar,
}

struct State {
    queue: Queue<Job>,
    mistakes: Mistakes,
    is_over: bool,
}

struct Job {
    password: Secret,
    work: Work,
}

enum Work {
    Hash { salt: [u64; 2], answer: oneshot::Sender<Result<String, PasswordError>> },
    Check { hash: String, source: Source, answer: oneshot::Sender<Result<bool, ProposeError>> },
}

/// Whose mistake it is if the password is wrong.
#[derive(Clone, Copy)]
struct Source {
    origin: Origin,
    /// The user and the network: nobody else has to wait because somebody elsewhere guesses a user's password.
    user: Fingerprint,
}

impl Passwords {
    pub(super) fn new(cost: u32, chance: &Chance) -> Passwords {
        let state = State { queue: Queue::new(), mistakes: Mistakes::new(), is_over: false };
        Passwords {
            cost,
            chance: chance.clone(),
            key: std::array::from_fn(|_| chance.number()),
            verified: Mutex::new(Lately::new(PASSWORDS_REMEMBERED, PASSWORD_REMEMBERED)),
            threads_are_started: Once::new(),
            desk: Arc::new(Desk { state: Mutex::new(state), news: Condvar::new() }),
        }
    }

    /// The bcrypt hash of a password, under the prefix that etcd writes.
    pub(super) async fn hash(&self, password: Secret) -> Result<String, PasswordError> {
        if password.reveal().len() > PASSWORD_BYTES_MAX {
            return Err(PasswordError::TooLong);
        }
        let (answer, hashed) = oneshot::channel();
        let salt = [self.chance.number(), self.chance.number()];
        self.queue(Job { password, work: Work::Hash { salt, answer } });
        hashed.await.unwrap_or(Err(ProposeError::Stopped.into()))
    }

    /// Whether the user's password is this one, by its bcrypt hash. `None` stands for a user that does not
    /// exist; it takes as long as one that does.
    pub(super) async fn check(
        &self,
        origin: Origin,
        user: &str,
        password: Secret,
        hash: Option<&str>,
    ) -> Result<bool, ProposeError> {
        // A longer one was never accepted. bcrypt would look at its beginning only.
        let is_possible = password.reveal().len() <= PASSWORD_BYTES_MAX;
        // With another hash the fingerprint is another one, so a password that was changed is not recognised any more.
        let parts = [user, password.reveal(), hash.unwrap_or_default()];
        let fingerprint = is_possible.then(|| fingerprint(&self.key, parts.map(str::as_bytes)));
        if fingerprint.is_some() && self.verified.lock().get(user, clock::now()) == fingerprint.as_ref() {
            return Ok(true);
        }
        let hash = match hash {
            Some(hash) if is_bcrypt(hash) => hash.to_owned(),
            Some(_) | None => no_hash(self.cost),
        };
        let source = Source { origin, user: user_in_network(&self.key, origin, user) };
        let (answer, checked) = oneshot::channel();
        self.queue(Job { password, work: Work::Check { hash, source, answer } });
        let is_right = checked.await.unwrap_or(Err(ProposeError::Stopped))?;
        let Some(fingerprint) = fingerprint.filter(|_| is_right) else { return Ok(false) };
        self.verified.lock().remember(user.to_owned(), fingerprint, clock::now());
        Ok(true)
    }

    fn queue(&self, job: Job) {
        if !threads::is_simulated() {
            self.threads_are_started.call_once(|| start(&self.desk, self.cost));
        }
        let now = clock::now();
        let mut state = self.desk.state.lock();
        let (network, rank) = (job.origin().network, state.mistakes.rank(&job, now));
        if let Some(refused) = state.queue.push(job, network, rank) {
            refused.refuse(ProposeError::TooManyRequests);
        }
        drop(state);
        self.desk.news.notify_one();
        // A simulated member has no threads.
        while threads::is_simulated()
            && let Some(job) = self.desk.try_next()
        {
            self.desk.work(job, self.cost);
        }
    }
}

impl Drop for Passwords {
    fn drop(&mut self) {
        self.desk.state.lock().is_over = true;
        self.desk.news.notify_all();
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

/// Starts the threads, which end with the passwords.
fn start(desk: &Arc<Desk>, cost: u32) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for number in 0..cores.min(PASSWORD_THREADS_MAX) {
        let desk = Arc::clone(desk);
        threads::spawn(&format!("retcd-password-{number}"), move || {
            if let Err(error) = threads::give_way(NICENESS) {
                tracing::debug!(%error, "cannot lower the priority of a thread that hashes passwords");
            }
            while let Some(job) = desk.next() {
                desk.work(job, cost);
            }
        });
    }
}

impl Desk {
    /// Waits for a job. `None` once there will be none any more.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        while !state.is_over {
            if let Some(job) = state.next() {
                return Some(job);
            }
            self.news.wait(&mut state);
        }
        None
    }

    /// A job that waits.
    fn try_next(&self) -> Option<Job> {
        self.state.lock().next()
    }

    fn work(&self, Job { password, work }: Job, cost: u32) {
        match work {
            Work::Hash { salt: [high, low], answer } => {
                let salt = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
                let hash = bcrypt::hash_with_salt(password.reveal(), cost, salt);
                let hash = hash.map(|hash| hash.format_for_version(bcrypt::Version::TwoA));
                let _ = answer.send(hash.map_err(|error| PasswordError::Failed(error.to_string())));
            }
            Work::Check { hash, source, answer } => {
                let is_right = bcrypt::verify(password.reveal(), &hash).unwrap_or(false);
                self.state.lock().mistakes.judged(&source, is_right, clock::now());
                let _ = answer.send(Ok(is_right));
            }
        }
    }
}

impl State {
    /// The next job that somebody still waits for.
    fn next(&mut self) -> Option<Job> {
        let State { queue, mistakes, .. } = self;
        let now = clock::now();
        loop {
            let job = queue.pop(|job| mistakes.rank(job, now))?;
            if !job.is_over() {
                return Some(job);
            }
        }
    }
}

impl Job {
    fn origin(&self) -> Origin {
        match &self.work {
            // Its caller was permitted to change users.
            Work::Hash { .. } => Origin::LOCAL,
            Work::Check { source, .. } => source.origin,
        }
    }

    fn is_over(&self) -> bool {
        match &self.work {
            Work::Hash { answer, .. } => answer.is_closed(),
            Work::Check { answer, .. } => answer.is_closed(),
        }
    }

    fn refuse(self, error: ProposeError) {
        match self.work {
            Work::Hash { answer, .. } => drop(answer.send(Err(error.into()))),
            Work::Check { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

/// Who was wrong lately.
struct Mistakes {
    connections: Lately<Connection, ()>,
    users: Lately<Fingerprint, ()>,
}

impl Mistakes {
    fn new() -> Mistakes {
        Mistakes {
            connections: Lately::new(PASSWORD_MISTAKES, PASSWORD_MISTAKE_REMEMBERED),
            users: Lately::new(PASSWORD_MISTAKES, PASSWORD_MISTAKE_REMEMBERED),
        }
    }

    /// It does not depend on whether there is such a user, so that nobody learns that from how long a login takes.
    fn rank(&self, job: &Job, now: Instant) -> Rank {
        let Work::Check { source, .. } = &job.work else { return Rank::default() };
        let connection = source.origin.connection;
        let is_connection_wrong = connection.is_some_and(|at| self.connections.get(&at, now).is_some());
        Rank::of(is_connection_wrong, self.users.get(&source.user, now).is_some())
    }

    fn judged(&mut self, source: &Source, is_right: bool, now: Instant) {
        let Source { origin, user } = *source;
        if is_right {
            self.users.forget(&user);
        } else {
            self.users.remember(user, (), now);
        }
        let Some(connection) = origin.connection else { return };
        if is_right {
            self.connections.forget(&connection);
        } else {
            self.connections.remember(connection, (), now);
        }
    }
}

fn user_in_network(key: &Key, origin: Origin, user: &str) -> Fingerprint {
    fingerprint(key, [format!("{:?}", origin.network).as_bytes(), user.as_bytes()])
}

/// Each part with its length, so that no two lists of parts are the same bytes.
fn fingerprint<const PARTS: usize>(key: &Key, parts: [&[u8]; PARTS]) -> Fingerprint {
    let mut digest = Sha256::new();
    for part in key {
        digest.update(part.to_be_bytes());
    }
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
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

    fn origin(address: &str) -> Origin {
        Origin::of(Some(address.parse().expect("an address")))
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
                let checked = passwords.check(Origin::LOCAL, "user", secret(password), hash).await;
                assert_eq!(checked, Ok(expected), "{password:?} {hash:?}");
            }
            let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
            assert!(matches!(passwords.hash(secret(&long)).await, Err(PasswordError::TooLong)));
            let prefix = passwords.hash(secret(&long[1..])).await.expect("just short enough");
            let checked = passwords.check(Origin::LOCAL, "user", secret(&long), Some(&prefix)).await;
            assert_eq!(checked, Ok(false));
        });
    }

    #[test]
    fn a_hash_that_no_password_has_can_be_compared_with() {
        for cost in [4, 5] {
            assert!(!bcrypt::verify("", &no_hash(cost)).expect("it has the form of a hash"));
        }
    }

    #[test]
    fn a_right_password_is_recognised_by_user_password_and_hash() {
        let key = passwords().key;
        let of = |parts: [&str; 3]| fingerprint(&key, parts.map(str::as_bytes));
        let right = of(["user", "right", "hash"]);
        assert_eq!(right, of(["user", "right", "hash"]));
        for other in
            [["user", "wrong", "hash"], ["user", "right", "other"], ["use", "rright", "hash"], ["u", "", ""]]
        {
            assert_ne!(right, of(other), "{other:?}");
        }
    }

    /// A password that nobody takes out of the queue.
    fn job(key: &Key, from: &str, user: &str) -> (Job, oneshot::Receiver<Result<bool, ProposeError>>) {
        let (answer, checked) = oneshot::channel();
        let origin = origin(from);
        let source = Source { origin, user: user_in_network(key, origin, user) };
        (Job { password: secret("x"), work: Work::Check { hash: String::new(), source, answer } }, checked)
    }

    #[test]
    fn who_was_wrong_lately_is_known_by_its_connection_and_by_the_user_in_its_network() {
        let key = passwords().key;
        let (guess, _) = job(&key, "10.0.0.1:1", "root");
        let Work::Check { source, .. } = guess.work else { panic!("it is a check") };
        let mut mistakes = Mistakes::new();
        let now = Instant::now();
        let rank = |mistakes: &Mistakes, from: &str, user: &str, now| {
            let (job, _checked) = job(&key, from, user);
            mistakes.rank(&job, now)
        };
        let (none, one, both) = (Rank::of(false, false), Rank::of(false, true), Rank::of(true, true));
        assert_eq!(rank(&mistakes, "10.0.0.1:1", "root", now), none);
        mistakes.judged(&source, false, now);
        assert_eq!(rank(&mistakes, "10.0.0.1:1", "root", now), both);
        assert_eq!(rank(&mistakes, "10.0.0.1:1", "ann", now), one);
        assert_eq!(rank(&mistakes, "10.0.0.1:2", "root", now), one);
        assert_eq!(rank(&mistakes, "10.0.0.1:2", "ann", now), none);
        assert_eq!(rank(&mistakes, "10.0.0.2:1", "root", now), none, "nobody is locked out from elsewhere");
        assert_eq!(rank(&mistakes, "10.0.0.1:1", "root", now + PASSWORD_MISTAKE_REMEMBERED), none);
        mistakes.judged(&source, true, now);
        assert_eq!(rank(&mistakes, "10.0.0.1:1", "root", now), none);
    }

    #[test]
    fn passwords_beyond_the_queue_are_refused() {
        let passwords = passwords();
        // No thread takes anything out of the queue.
        passwords.threads_are_started.call_once(|| {});
        let mut waiting = Vec::new();
        for _ in 0..crate::limits::PASSWORDS_WAITING {
            let (job, checked) = job(&passwords.key, "10.0.0.1:1", "root");
            passwords.queue(job);
            waiting.push(checked);
        }
        let (other, mut of_other) = job(&passwords.key, "10.0.0.2:1", "root");
        passwords.queue(other);
        let refused: Vec<_> = waiting.iter_mut().filter_map(|checked| checked.try_recv().ok()).collect();
        assert_eq!(refused, [Err(ProposeError::TooManyRequests)]);
        assert!(of_other.try_recv().is_err(), "it waits");
        drop(passwords);
        assert!(run(of_other).is_err(), "who still waits when the member ends is told so");
    }
}
