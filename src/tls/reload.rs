//! What was made of files, made again when the files change.
//!
//! Whether a file has changed is asked when it is used, and at most once a second: a certificate that nobody
//! uses is not watched. While one thread reads the files, all others use what was read before. If new files cannot be
//! used, for example because only one of a pair was replaced so far, what was made of the old ones stays in
//! use; this is logged once for each change.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};

use super::{error::TlsError, files::Stamp};
use crate::clock;

/// How often it is asked whether files have changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Reloaded<T> {
    /// What the files are for, as the log names it.
    purpose: &'static str,
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>,
    interval: Duration,
    current: RwLock<Option<T>>,
    looked: Mutex<Looked>,
}

/// The last time that the files were looked at.
struct Looked {
    at: Option<Instant>,
    stamps: Vec<Stamp>,
}

impl<T: Clone> Reloaded<T> {
    /// The files are read when they are used for the first time.
    pub(super) fn new(
        purpose: &'static str,
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Reloaded<T> {
        Reloaded {
            purpose,
            files,
            make: Box::new(make),
            interval: CHECK_INTERVAL,
            current: RwLock::new(None),
            looked: Mutex::new(Looked { at: None, stamps: Vec::new() }),
        }
    }

    /// What the files make now, or made when they could last be used.
    pub(super) fn get(&self) -> Result<T, TlsError> {
        let current = self.current.read().clone();
        match current {
            Some(current) => Ok(self.remade().unwrap_or(current)),
            None => self.make_first(),
        }
    }

    fn make_first(&self) -> Result<T, TlsError> {
        let mut looked = self.looked.lock();
        if let Some(current) = self.current.read().clone() {
            // Another thread was first.
            return Ok(current);
        }
        // The stamps are taken before the files are read: what changes in between is read again.
        let stamps = self.stamps();
        let made = (self.make)()?;
        *looked = Looked { at: Some(clock::now()), stamps };
        *self.current.write() = Some(made.clone());
        Ok(made)
    }

    /// What changed files make. `None` if nothing has changed, or if it is not time to look, or if the new
    /// files cannot be used.
    fn remade(&self) -> Option<T> {
        let mut looked = self.looked.try_lock()?;
        if looked.at.is_some_and(|at| clock::since(at) < self.interval) {
            return None;
        }
        looked.at = Some(clock::now());
        let stamps = self.stamps();
        if stamps == looked.stamps {
            return None;
        }
        looked.stamps = stamps;
        match (self.make)() {
            Ok(made) => {
                *self.current.write() = Some(made.clone());
                tracing::info!(files = ?self.files, "read the changed files of the TLS settings for {}", self.purpose);
                Some(made)
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cannot use the changed files of the TLS settings for {}; those read before stay in use",
                    self.purpose
                );
                None
            }
        }
    }

    fn stamps(&self) -> Vec<Stamp> {
        self.files.iter().map(|file| Stamp::of(file)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// The text of a file, and an error if it is empty. Files are looked at each time.
    fn of_file(dir: &tempfile::TempDir) -> (PathBuf, Reloaded<String>) {
        let path = dir.path().join("file");
        let read = path.clone();
        let make = move || match fs::read_to_string(&read) {
            Ok(text) if !text.is_empty() => Ok(text),
            _ => Err(TlsError::NoTrust),
        };
        let reloaded = Reloaded::new("tests", vec![path.clone()], make);
        (path, Reloaded { interval: Duration::ZERO, ..reloaded })
    }

    #[test]
    fn a_changed_file_is_read_and_a_broken_one_is_not_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, reloaded) = of_file(&dir);
        assert!(reloaded.get().is_err(), "there is no file yet");
        for (text, used) in [("one", "one"), ("two", "two"), ("", "two"), ("three", "three")] {
            fs::write(&path, text).expect("written");
            assert_eq!(reloaded.get().expect("there is something"), used);
        }
        fs::remove_file(&path).expect("removed");
        assert_eq!(reloaded.get().expect("kept"), "three");
        // Written aside and renamed, as tools that renew certificates do.
        fs::write(dir.path().join("new"), "four").expect("written");
        fs::rename(dir.path().join("new"), &path).expect("renamed");
        assert_eq!(reloaded.get().expect("there is something"), "four");
    }

    #[test]
    fn files_are_looked_at_no_more_often_than_the_interval_and_made_only_when_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, "one").expect("written");
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let make = || Ok(MADE.fetch_add(1, Ordering::SeqCst));
        let mut reloaded = Reloaded::new("tests", vec![path.clone()], make);
        assert_eq!(reloaded.get().expect("made"), 0);
        fs::write(&path, "three").expect("written");
        assert_eq!(reloaded.get().expect("not looked at"), 0);
        reloaded.interval = Duration::ZERO;
        assert_eq!(reloaded.get().expect("looked at"), 1);
        assert_eq!(reloaded.get().expect("not changed"), 1);
    }
}
