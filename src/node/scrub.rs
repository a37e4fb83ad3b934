//! Looking for damage in the database before a client reads a damaged record, and reporting it to the
//! cluster.
//!
//! The scrubber reads on a little at a time, round after round. What it finds damaged it looks at
//! again now and then, until that is gone, as when the whole state comes anew from a peer. Each time
//! damage is found, the CORRUPT alarm is raised unless it is active, for as long as it takes. So an
//! alarm is not lost in a moment without a leader, and one that was disarmed comes back while its
//! reason is still there.

use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, Instant},
};

use tokio::time;

use super::{Node, ProposeError};
use crate::{
    apply::{Alarm, AlarmKind, Command},
    limits,
    storage::{Database, StorageError},
    sync::watch,
    types::Revision,
};

/// Pause before an alarm that was not raised is raised again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Where the scrubber is, and what it knows of.
#[derive(Debug)]
pub(super) struct Scrubber {
    from: Revision,
    /// Where there was damage when it was last looked for: how many records from there on have to
    /// be read to see it.
    known: BTreeMap<Revision, usize>,
    look_again_at: Instant,
}

impl Scrubber {
    pub(super) fn new(now: Instant) -> Scrubber {
        Scrubber {
            from: Revision::default(),
            known: BTreeMap::new(),
            look_again_at: now + limits::DAMAGE_INTERVAL,
        }
    }

    /// Reads some records for no other reason than to see that they are what was written. True if
    /// there is damage among them, or what was found damaged before still is.
    pub(super) fn turn(&mut self, database: &Database, now: Instant) -> bool {
        let was_found = self.read_on(database);
        if now < self.look_again_at {
            return was_found;
        }
        self.look_again_at = now + limits::DAMAGE_INTERVAL;
        self.known.retain(|from, records| is_damaged(database, *from, *records));
        was_found || !self.known.is_empty()
    }

    fn read_on(&mut self, database: &Database) -> bool {
        let records = limits::SCRUB_RECORDS;
        let verified = match database.verify_stride(self.from, records, limits::READ_STRIDE_BYTES) {
            Ok(verified) => verified,
            Err(error) if error.is_damage() => {
                // What is behind it in this stride cannot be reached.
                let from = self.from;
                self.from = Revision { main: from.main.next(), sub: 0 };
                return self.note(from, records, &error);
            }
            Err(error) => {
                tracing::warn!(%error, "could not read the database to check it for damage; will retry");
                return false;
            }
        };
        self.from = verified.next.unwrap_or_default();
        let damaged = verified.damaged.iter();
        damaged.fold(false, |_, (revision, error)| self.note(*revision, 1, error))
    }

    /// Always true.
    fn note(&mut self, from: Revision, records: usize, error: &StorageError) -> bool {
        if !self.known.contains_key(&from) {
            tell(error);
        }
        if self.known.len() < limits::DAMAGE_KNOWN {
            self.known.insert(from, records);
        }
        assert!(self.known.len() <= limits::DAMAGE_KNOWN, "what is remembered of damage is bounded");
        true
    }
}

fn is_damaged(database: &Database, from: Revision, records: usize) -> bool {
    match database.verify_stride(from, records, usize::MAX) {
        Ok(verified) => !verified.damaged.is_empty(),
        // A record that cannot be read now may still be damaged.
        Err(_) => true,
    }
}

/// Logs damage, with what the operator has to do.
pub(super) fn tell(error: &StorageError) {
    tracing::error!(
        %error,
        "found damage in the database; what is damaged is not served. Replace the disk, and restore this member \
         from a backup or from its peers"
    );
}

/// Tells the cluster that this member's disk is not what it was, whenever damage was found.
pub(super) async fn report(node: Node, found: watch::Receiver<u64>) {
    let alarm = Alarm { member: node.ids().1, kind: AlarmKind::Corrupt };
    let is_known = || node.alarms().contains(&alarm);
    let raise = || async { node.propose_own(Command::AlarmActivate(alarm)).await.map(drop) };
    report_until_known(found, is_known, raise).await;
}

async fn report_until_known<F: Future<Output = Result<(), ProposeError>>>(
    mut found: watch::Receiver<u64>,
    is_known: impl Fn() -> bool,
    raise: impl Fn() -> F,
) {
    while found.changed().await.is_ok() {
        while !is_known() {
            match raise().await {
                Ok(()) => break,
                Err(ProposeError::Stopped) => return,
                Err(error) => tracing::error!(%error, "could not raise the CORRUPT alarm; will retry"),
            }
            time::sleep(RETRY_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs, os::unix::fs::FileExt, path::Path};

    use bytes::Bytes;

    use super::*;
    use crate::{
        storage::{Checkpoint, Record},
        types::{KeyValue, Rev},
    };

    const CACHE_BYTES: usize = 1 << 20;

    fn record(main: i64) -> (Revision, Record) {
        let (key, value) = (Bytes::from(format!("key-{main:06}")), Bytes::from("value"));
        let kv = KeyValue { key, value, mod_rev: Rev(main), version: 1, ..KeyValue::default() };
        (Revision::new(main, 0), Record::put(&kv))
    }

    fn database(path: &Path, records: i64) -> Database {
        let database = Database::at(path, CACHE_BYTES).expect("a new database");
        let records = (2..2 + records).map(record).collect();
        database.commit(&Checkpoint { records, ..Checkpoint::default() }).expect("a commit");
        database
    }

    /// Damages the records of these revisions.
    fn damage(path: &Path, mains: &[i64]) {
        let bytes = fs::read(path).expect("the file");
        let file = fs::File::options().write(true).open(path).expect("the file");
        for main in mains {
            let key = format!("key-{main:06}");
            for at in (0..bytes.len()).filter(|at| bytes[*at..].starts_with(key.as_bytes())) {
                file.write_all_at(b"K", at as u64).expect("the file");
            }
        }
    }

    #[test]
    fn damage_is_found_once_a_round_and_looked_at_until_it_is_gone() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let records = limits::SCRUB_RECORDS as i64 * 2 + 10;
        drop(database(&path, records));
        damage(&path, &[7, 9]);
        let damaged = Database::at(&path, CACHE_BYTES).expect("the file");
        let start = Instant::now();
        let mut scrubber = Scrubber::new(start);
        assert!(scrubber.turn(&damaged, start), "two records of the first stride are damaged");
        assert_eq!(scrubber.known.keys().copied().collect::<Vec<_>>(), [7, 9].map(|at| Revision::new(at, 0)));
        assert!(!scrubber.turn(&damaged, start), "the second stride is sound");
        assert!(!scrubber.turn(&damaged, start), "the third stride is sound");
        assert_eq!(scrubber.from, Revision::default(), "the round is over");

        scrubber.from = Revision::new(limits::SCRUB_RECORDS as i64 + 2, 0);
        let later = start + limits::DAMAGE_INTERVAL;
        assert!(scrubber.turn(&damaged, later), "it is still there");
        assert!(!scrubber.turn(&damaged, later), "it was looked at a moment ago");

        // The state comes anew from a peer.
        let image = database(&home.path().join("image"), records);
        drop(damaged.replace_with(&image).expect("a swap"));
        scrubber.from = Revision::default();
        assert!(!scrubber.turn(&damaged, later + limits::DAMAGE_INTERVAL));
        assert!(scrubber.known.is_empty());
    }

    #[tokio::test]
    async fn an_alarm_is_raised_until_the_cluster_knows_and_again_after_a_disarm() {
        let (findings, found) = watch::channel(0);
        let (active, tries) = (Cell::new(false), Cell::new(0));
        let (raised, mut seen) = watch::channel(0);
        let raise = || async {
            tries.set(tries.get() + 1);
            if tries.get() == 1 {
                return Err(ProposeError::NoLeader);
            }
            active.set(true);
            raised.send_modify(|count| *count += 1);
            Ok(())
        };
        let operator = async {
            findings.send_modify(|count| *count += 1);
            seen.wait_for(|count| *count == 1).await.expect("it is raised");
            assert_eq!(tries.get(), 2, "the first time there was no leader");
            // It is active: nothing is to be said.
            findings.send_modify(|count| *count += 1);
            tokio::task::yield_now().await;
            active.set(false);
            findings.send_modify(|count| *count += 1);
            seen.wait_for(|count| *count == 2).await.expect("it is raised again");
            drop(findings);
        };
        let both = async { tokio::join!(report_until_known(found, || active.get(), raise), operator) };
        time::timeout(Duration::from_secs(60), both).await.expect("it ends with the findings");
        assert_eq!(tries.get(), 3);
    }
}
