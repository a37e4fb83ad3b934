//! Hashes of the whole database and of the key-value history.
//!
//! A hash reads all of the database and occupies a thread for that long. So one hash is made at a time,
//! and callers that ask for the same hash share it.

use std::sync::Arc;

use super::{
    Node, ReadError,
    lane::{Begun, LaneFull, Run},
};
use crate::{
    mvcc::{HashWalk, KvHash, RevError, Step, Store},
    storage::StorageError,
    types::Rev,
};

/// What is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HashOf {
    /// Every record and every cell.
    Database,
    /// The history up to the newest revision.
    NewestHistory,
    /// The history up to a revision, in a store that is compacted up to another. It does not matter
    /// when that is asked.
    History { rev: i64, compacted: Rev },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Hash {
    Database(Rev, u32),
    History(KvHash),
    Refused(RevError),
}

type Hashed = Result<Hash, Arc<StorageError>>;

/// The hash of all history in a store that nobody else uses.
pub(super) fn newest_history(store: &Store) -> Result<KvHash, StorageError> {
    Ok(history(store, 0)?.expect("the newest revision can be hashed"))
}

/// The hash of the history up to a revision, 0 for the newest, in a store that nobody else uses.
pub(super) fn history(store: &Store, rev: i64) -> Result<Result<KvHash, RevError>, StorageError> {
    let mut walk = HashWalk::new(rev);
    loop {
        match walk.step(store) {
            Ok(Step::More) => walk.settle(),
            Ok(Step::Done) => return Ok(Ok(walk.finish_if(&|| true)?.expect("it is wanted"))),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
}

impl Node {
    /// The hash of the key-value history up to `rev`; 0 is the newest.
    pub(super) async fn hash_kv(&self, rev: i64) -> Result<KvHash, ReadError> {
        let _timer = self.metrics().hash_rev_duration.start_timer();
        let (current, of) = {
            let store = &self.shared.replica.read().state.mvcc;
            if let Some(remembered) = store.remembered_hash(Rev(rev)) {
                return Ok(remembered);
            }
            let history = HashOf::History { rev, compacted: store.rev_compacted() };
            (store.rev_current(), if rev == 0 { HashOf::NewestHistory } else { history })
        };
        match self.hash_of(of).await? {
            // The hash may have begun for an earlier caller, and this one may have seen a later revision.
            Hash::History(hash) => Ok(KvHash { rev_current: hash.rev_current.max(current), ..hash }),
            Hash::Refused(refusal) => Err(refusal.into()),
            Hash::Database(..) => unreachable!("the history was asked for"),
        }
    }

    /// A hash of the whole database, and the revision that it was taken at.
    pub(super) async fn hash(&self) -> Result<(Rev, u32), ReadError> {
        let _timer = self.metrics().hash_duration.start_timer();
        match self.hash_of(HashOf::Database).await? {
            Hash::Database(rev, hash) => Ok((rev, hash)),
            Hash::Refused(refusal) => Err(refusal.into()),
            Hash::History(_) => unreachable!("the database was asked for"),
        }
    }

    async fn hash_of(&self, of: HashOf) -> Result<Hash, ReadError> {
        let begun = match of {
            HashOf::History { .. } => Begun::Joins,
            // A caller expects what was written before its call, which a hash that began earlier lacks.
            HashOf::Database | HashOf::NewestHistory => Begun::IsTooOld,
        };
        let hashes = &self.shared.hashes;
        let ticket = hashes.join(of, begun).map_err(|LaneFull| ReadError::TooManyRequests)?;
        if hashes.is_mine_to_drive() {
            tokio::spawn(self.clone().make_hashes());
        }
        let hashed = ticket.result().await.ok_or(ReadError::Stopped)?;
        hashed.map_err(ReadError::Shared)
    }

    async fn make_hashes(self) {
        while let Some(run) = self.shared.hashes.take() {
            if run.key == HashOf::Database {
                self.checkpoint().await;
            }
            let node = self.clone();
            self.blocking(move || match node.make_hash(&run) {
                Some(hashed) => run.finish(hashed),
                None => run.abandon(),
            })
            .await;
        }
    }

    /// `None` once nobody waits for it any more.
    fn make_hash(&self, run: &Run<HashOf, Hashed>) -> Option<Hashed> {
        let is_wanted = || run.is_wanted();
        let hashed = match run.key {
            HashOf::Database => {
                let rev = self.rev();
                let hash = self.shared.database.hash(&is_wanted);
                hash.map(|hash| hash.map(|hash| Hash::Database(rev, hash)))
            }
            HashOf::NewestHistory => self.hash_history(0, &is_wanted),
            HashOf::History { rev, .. } => self.hash_history(rev, &is_wanted),
        };
        hashed.map_err(Arc::new).transpose()
    }

    fn hash_history(&self, rev: i64, is_wanted: &dyn Fn() -> bool) -> Result<Option<Hash>, StorageError> {
        let mut walk = HashWalk::new(rev);
        loop {
            let step = walk.step(&self.shared.replica.read().state.mvcc);
            match step {
                Ok(Step::More) if is_wanted() => walk.settle(),
                Ok(Step::More) => return Ok(None),
                Ok(Step::Done) => break,
                Err(refusal) => return Ok(Some(Hash::Refused(refusal))),
            }
        }
        Ok(walk.finish_if(is_wanted)?.map(Hash::History))
    }
}
