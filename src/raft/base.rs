//! What a log begins behind.
//!
//! The log says how the state changes, and not what it was before the first entry. If it was the empty
//! state, the log from its first entry on is all that a new member needs. A member that was restored from
//! a backup begins with the state of the backup, its *base*, and a new member that got only the log would
//! lack that state. So the base counts as a snapshot: the database says that entry [`BASE_INDEX`] is
//! applied, with the founders as the members, and the log begins behind that entry. Consensus then sends
//! the state to every member that does not have it.
//!
//! Each founder was restored by itself, and nothing in the log tells whether their bases are the same. So
//! each member keeps a digest of its base and tells it to the others, and members with different digests
//! refuse each other's requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use openraft::EntryPayload;
use sha2::{Digest, Sha256};

use super::{
    codec,
    log_store::LogStore,
    marks::{self, BASE_CELL, Cell, applied_cells},
    replica::Replica,
    typ::{Entry, Membership},
};
use crate::{
    auth::AuthStore,
    link::Peer,
    storage::{Checkpoint, Database, Reader, StorageError, Table, meta},
    types::{Base, Revision},
    wal::LogPosition,
};

/// The entry that a base stands in the place of. It is not 0, which is the first entry of a cluster
/// that was founded on the empty state; the founders' first election begins term 1.
const BASE_INDEX: u64 = 1;

/// The base of this member's log. `None` if the database was made by a version that did not record it.
pub(crate) fn stored(reader: &Reader) -> Result<Option<Base>, StorageError> {
    let Some(bytes) = reader.cell(Table::Meta, BASE_CELL)? else { return Ok(None) };
    let digest = bytes.as_ref().try_into().map(u64::from_be_bytes);
    let digest = digest.map_err(|_| reader.corrupted("the base cell is not 8 bytes".to_owned()))?;
    Ok(Some(Base(digest)))
}

/// The last entry of the log whose effects the database holds.
pub(crate) fn applied(reader: &Reader) -> Result<Option<LogPosition>, StorageError> {
    Ok(marks::log_id(reader, marks::APPLIED_CELL)?.as_ref().map(codec::position))
}

/// A digest of everything in the database except the identity of its member. It is equal for all databases
/// that were restored from the same backup.
pub(crate) fn of_contents(reader: &Reader) -> Result<Base, StorageError> {
    let mut contents = Contents::default();
    for item in reader.records(Revision::default())? {
        let (revision, record) = item?;
        contents.add(&[&revision.main.0.to_be_bytes(), &revision.sub.to_be_bytes()]);
        contents.add(&[&[u8::from(record.is_tombstone())], record.bytes()]);
    }
    // Without the members, which are those of the cluster that the backup was taken of, and without
    // what differs between members that agree.
    let is_state = |table: &Table| !matches!(table, Table::Meta | Table::Member | Table::MemberRemoved);
    for table in Table::ALL.into_iter().filter(is_state) {
        for item in reader.cells(table)? {
            let (key, cell) = item?;
            contents.add(&[table.name().as_bytes(), &key, &cell]);
        }
    }
    // The values of these numbers in a database that nothing was ever written to.
    let numbers = [(meta::REV_CURRENT, 1_i64), (meta::REV_COMPACT_SCHEDULED, -1), (AuthStore::REV_CELL, 1)];
    for (key, at_first) in numbers {
        if let Some(cell) = reader.cell(Table::Meta, key)?
            && *cell != at_first.to_be_bytes()
        {
            contents.add(&[key, &cell]);
        }
    }
    if let Some(cell) = reader.cell(Table::Meta, AuthStore::ENABLED_CELL)?
        && *cell != AuthStore::default().enabled_cell()
    {
        contents.add(&[AuthStore::ENABLED_CELL, &cell]);
    }
    Ok(contents.digest())
}

#[derive(Default)]
struct Contents {
    hash: Sha256,
    is_anything: bool,
}

impl Contents {
    /// Each part with its length, so that no two contents are the same bytes.
    fn add(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.hash.update((part.len() as u64).to_be_bytes());
            self.hash.update(part);
        }
        self.is_anything = true;
    }

    fn digest(self) -> Base {
        if !self.is_anything {
            return Base::EMPTY;
        }
        let digest = self.hash.finalize();
        let (first, _) = digest.split_first_chunk().expect("a SHA-256 has 32 bytes");
        // Zero stands for the empty base.
        Base(u64::from_be_bytes(*first).max(1))
    }
}

/// Makes the database that of a founder that begins with `base`, which is all that the database
/// holds. Every founder with the same base gets the same cells.
pub(crate) fn founding_cells(
    reader: &Reader,
    base: Base,
    founders: &BTreeMap<u64, Peer>,
) -> Result<Vec<Cell>, StorageError> {
    if base == Base::EMPTY {
        // The log begins with the founders.
        return joining_cells(reader, Some(base));
    }
    restored_cells(reader, base, founders)
}

/// The same for a base that may be the empty state, when the founders are known before the first start: the log begins
/// behind it in any case, so that the database says who they are.
pub(crate) fn restored_cells(
    reader: &Reader,
    base: Base,
    founders: &BTreeMap<u64, Peer>,
) -> Result<Vec<Cell>, StorageError> {
    let mut cells = joining_cells(reader, Some(base))?;
    let voters: BTreeSet<u64> =
        founders.iter().filter(|(_, peer)| !peer.is_learner).map(|(id, _)| *id).collect();
    let membership = Membership::new(vec![voters], founders.clone()).expect("every voter is a node");
    cells.extend(applied_cells(LogPosition { term: 0, index: BASE_INDEX }, membership));
    Ok(cells)
}

/// Makes the database that of a member whose cluster began with `base`, if that is known.
pub(crate) fn joining_cells(reader: &Reader, base: Option<Base>) -> Result<Vec<Cell>, StorageError> {
    let mut cells = Vec::new();
    // Members of another cluster, if the database was made of a backup.
    for table in [Table::Member, Table::MemberRemoved] {
        for item in reader.cells(table)? {
            cells.push((table, item?.0, None));
        }
    }
    let digest = base.map(|base| Bytes::copy_from_slice(&base.0.to_be_bytes()));
    cells.push((Table::Meta, Bytes::from_static(BASE_CELL), digest));
    Ok(cells)
}

/// Repairs the log of a member of a version that did not record a base. With that version, the log of a
/// restored member began with the first entry, although the member did not begin with the empty state. Such
/// a log looks like one that did. So every log of such a version begins behind what the database holds from
/// now on, and a member that has less gets a snapshot. The log holds all entries that the database has
/// applied. After a crash in the middle of this, the next start repeats it.
pub(crate) fn mend(
    database: &Arc<Database>,
    mut replica: Replica,
    log: &LogStore,
) -> Result<Replica, StorageError> {
    if !log.is_whole() {
        return Ok(replica);
    }
    if replica.applied().is_none()
        && let Some(Entry { log_id, payload: EntryPayload::Membership(founders) }) = log.first_entry()
    {
        // The first entry only names the founders, and is the same for all of them. So the database's
        // state, whatever it is, is the state at this entry too.
        let cells = applied_cells(codec::position(&log_id), founders).into();
        database.commit(&Checkpoint { cells, ..Checkpoint::default() })?;
        replica = Replica::open(database.clone())?;
    }
    if let Some(applied) = replica.applied() {
        tracing::info!(
            index = applied.index,
            "recorded the state that the log begins after, which an older version of retcd did not record"
        );
        log.begin_behind(applied).map_err(|source| StorageError::Io {
            action: "write the log of",
            path: database.dir().to_owned(),
            source,
        })?;
    }
    Ok(replica)
}

#[cfg(test)]
mod tests {
    use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
    use tempfile::TempDir;

    use super::*;
    use crate::{
        apply::{Command, Put, Request},
        config::{Config, Invocation},
        disk::Directory,
        raft::{
            marks::APPLIED_CELL,
            typ::{Batch, Entry},
        },
        storage::Record,
        telemetry::Metrics,
        types::{Caller, KeyValue, LeaseId, Rev},
    };

    fn database(home: &TempDir) -> Arc<Database> {
        Arc::new(Database::at(&home.path().join("db"), 1 << 20).expect("a database"))
    }

    fn home() -> TempDir {
        tempfile::tempdir().expect("a directory")
    }

    fn number(key: &'static [u8], number: i64) -> Cell {
        (Table::Meta, key.into(), Some(Bytes::copy_from_slice(&number.to_be_bytes())))
    }

    fn commit(database: &Database, cells: Vec<Cell>) {
        database.commit(&Checkpoint { cells, ..Checkpoint::default() }).expect("a commit");
    }

    /// A database that holds one key, as a restore leaves it.
    fn restored(home: &TempDir, value: &'static str) -> Arc<Database> {
        let database = database(home);
        let kv = KeyValue {
            key: "k".into(),
            value: value.into(),
            create_rev: Rev(2),
            mod_rev: Rev(2),
            version: 1,
            ..KeyValue::default()
        };
        let checkpoint = Checkpoint {
            records: vec![(Revision::new(2, 0), Record::put(&kv))],
            cells: vec![number(meta::REV_CURRENT, 2), number(meta::SIZE_TOTAL, 100)],
            ..Checkpoint::default()
        };
        database.commit(&checkpoint).expect("a commit");
        database
    }

    fn contents(database: &Database) -> Base {
        of_contents(&database.reader().expect("a reader")).expect("it can be read")
    }

    fn founders() -> BTreeMap<u64, Peer> {
        let peer = |url: &str| Peer { peer_urls: vec![url.to_owned()], is_learner: false };
        BTreeMap::from([(3, peer("http://c")), (1, peer("http://a"))])
    }

    fn open_log(home: &TempDir, has_begun: bool, replica: &Replica) -> LogStore {
        let Ok(Invocation::Serve(config)) = Config::load(&[], &[]) else {
            panic!("etcd starts without flags")
        };
        let wal = home.path().join("wal");
        std::fs::create_dir_all(&wal).expect("a directory");
        let metrics = Arc::new(Metrics::new(&config));
        LogStore::open(
            Arc::new(Directory::open(&wal).expect("a directory")),
            has_begun,
            replica.applied(),
            replica.installed(),
            2,
            None,
            metrics,
        )
        .expect("a log that fits the database")
    }

    #[test]
    fn a_base_is_what_the_state_is_and_not_whose() {
        let homes = [home(), home(), home(), home()];
        let [nothing, one, same, other] = [
            database(&homes[0]),
            restored(&homes[1], "v"),
            restored(&homes[2], "v"),
            restored(&homes[3], "w"),
        ];
        assert_eq!(contents(&nothing), Base::EMPTY);
        commit(&nothing, vec![number(meta::REV_CURRENT, 1), number(meta::REV_COMPACT_SCHEDULED, -1)]);
        commit(
            &nothing,
            vec![(Table::Member, "m".into(), Some("{}".into())), number(AuthStore::REV_CELL, 1)],
        );
        assert_eq!(contents(&nothing), Base::EMPTY, "nothing was ever written");
        let base = contents(&one);
        assert_ne!(base, Base::EMPTY);
        commit(&same, vec![number(b"identity", 7), number(APPLIED_CELL, 7), number(meta::SIZE_TOTAL, 5000)]);
        commit(&same, vec![(Table::Member, "m".into(), Some("{}".into()))]);
        assert_eq!(contents(&same), base);
        assert_ne!(contents(&other), base);
        for cell in [
            number(meta::REV_CURRENT, 3),
            number(meta::REV_COMPACT_SCHEDULED, 2),
            number(AuthStore::REV_CELL, 2),
            (Table::Lease, "l".into(), Some("1".into())),
            (Table::Alarm, "a".into(), Some(Bytes::new())),
            (Table::AuthUser, "u".into(), Some("1".into())),
            (Table::AuthRole, "r".into(), Some("1".into())),
        ] {
            let before = contents(&one);
            commit(&one, vec![cell.clone()]);
            assert_ne!(contents(&one), before, "{cell:?}");
        }
    }

    /// At each moment between the transaction and the log's first sync.
    #[tokio::test]
    async fn a_founder_with_a_base_has_a_log_that_begins_behind_it() {
        let home = home();
        let database = restored(&home, "v");
        commit(
            &database,
            vec![
                (Table::Member, vec![0; 8].into(), Some("{}".into())),
                (Table::MemberRemoved, vec![1; 8].into(), Some(Bytes::new())),
            ],
        );
        let base = contents(&database);
        let reader = database.reader().expect("a reader");
        commit(&database, founding_cells(&reader, base, &founders()).expect("it can be read"));
        let reader = database.reader().expect("a reader");
        assert_eq!(stored(&reader).expect("it can be read"), Some(base));
        for table in [Table::Member, Table::MemberRemoved] {
            assert_eq!(reader.cells(table).expect("it can be read").count(), 0, "members of another cluster");
        }
        for has_begun in [false, false, true] {
            let replica = Replica::open(database.clone()).expect("a replica");
            assert_eq!(replica.applied_index(), BASE_INDEX);
            assert!(replica.membership().voter_ids().eq([1, 3]));
            let mut log = open_log(&home, has_begun, &replica);
            let state = log.get_log_state().await.expect("it says how it is");
            assert_eq!(state.last_purged_log_id.as_ref(), replica.applied());
            assert_eq!(state.last_log_id.as_ref(), replica.applied());
            assert!(!log.is_whole());
        }
    }

    #[test]
    fn a_founder_without_a_base_begins_with_the_log() {
        let home = home();
        let database = database(&home);
        let reader = database.reader().expect("a reader");
        commit(&database, founding_cells(&reader, Base::EMPTY, &founders()).expect("it can be read"));
        let replica = Replica::open(database.clone()).expect("a replica");
        assert_eq!(replica.applied(), None);
        let reader = database.reader().expect("a reader");
        assert_eq!(stored(&reader).expect("it can be read"), Some(Base::EMPTY));
    }

    /// As versions left it that did not note a base, with and without a checkpoint before the end.
    #[tokio::test]
    async fn a_whole_log_over_an_unknown_base_is_mended() {
        for has_applied in [false, true] {
            let home = home();
            let database = restored(&home, "v");
            let replica = Replica::open(database.clone()).expect("a replica");
            let mut log = open_log(&home, false, &replica);
            let voters = founders().into_keys().collect();
            let membership = Membership::new(vec![voters], founders()).expect("every voter is a node");
            let entry = |index: u64, payload| {
                let log_id = codec::log_id(LogPosition { term: index.min(1), index });
                Entry { log_id, payload }
            };
            let put = Put::new("later".into(), Some("v".into()), Some(LeaseId::NONE), false);
            let commands: Arc<[Request]> = vec![Command::Put(put).by(Caller::Nobody)].into();
            let entries = [
                entry(0, EntryPayload::Membership(membership.clone())),
                entry(1, EntryPayload::Blank),
                entry(2, EntryPayload::Normal(Batch { commands, tag: None, began: None })),
            ];
            log.append(entries, IOFlushed::noop()).await.expect("an append");
            log.wait_for_disk(2);
            assert!(log.is_whole());
            if has_applied {
                commit(&database, applied_cells(LogPosition { term: 1, index: 1 }, membership).into());
            }
            drop(log);
            let applied = u64::from(has_applied);
            for _ in 0..2 {
                let replica = Replica::open(database.clone()).expect("a replica");
                let log = open_log(&home, true, &replica);
                let replica = mend(&database, replica, &log).expect("it can be mended");
                assert_eq!(replica.applied_index(), applied);
                assert!(replica.membership().voter_ids().eq([1, 3]));
                assert!(!log.is_whole());
                let mut reader = log.clone();
                let left = reader.try_get_log_entries(applied + 1..).await.expect("what is left can be read");
                let left: Vec<u64> = left.iter().map(|entry| entry.log_id.index).collect();
                assert_eq!(left, (applied + 1..=2).collect::<Vec<_>>());
            }
        }
    }
}
