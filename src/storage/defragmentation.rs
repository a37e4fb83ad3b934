//! A database, written anew without the holes that removals left in its file.
//!
//! The copy is made in stretches, and checkpoints are committed in between: none of them waits for
//! more than a stretch. What is committed after the copy began is copied after the rest, in passes
//! of which each has less to copy than the one before. Only the last few records and cells are
//! copied while nothing may be committed, and then the new file takes the old one's place.
//!
//! Nothing may be removed from the old file meanwhile, for what has been copied stays in the copy.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use super::{
    Checkpoint, Database, Draft, Reader, StorageError, StoredRecord, Table, reader::Opened,
    stretches::StoredStretches,
};
use crate::{limits, types::Revision};

/// See the module.
pub(crate) struct Defragmentation {
    draft: Draft,
    /// The file that is copied.
    source: Arc<Opened>,
    pass: Pass,
    pass_bytes: usize,
    /// Where the next pass begins: all records before it are in the draft.
    next: Revision,
    /// Cells that were committed after the first pass began.
    changed: BTreeSet<(Table, Bytes)>,
}

/// What is copied in a pass.
pub(crate) type Pass = Box<dyn Iterator<Item = Result<Checkpoint<StoredRecord>, StorageError>> + Send>;

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    More,
    /// The draft holds all that was there when the pass began, and the pass copied that much.
    Pass {
        bytes: usize,
    },
}

impl Database {
    /// The copy without holes takes the file's place. Nothing may be committed between the last that
    /// the copy was told of and this. After an error the file is as it was and goes on being used,
    /// unless the error is [`StorageError::Unsettled`]: then this process has to stop.
    pub(crate) fn finish_defragmentation(&self, copy: Defragmentation) -> Result<(), StorageError> {
        self.replace_by(|reader| {
            assert!(copy.is_of(self), "what was copied is the database's own file");
            copy.complete(reader)?.complete()
        })
    }

    /// The whole way at once, for whoever has the database alone. See [`Defragmentation::begin`].
    pub(crate) fn defragment(&self, ahead: impl FnOnce(StoredStretches) -> Pass) -> Result<(), StorageError> {
        let mut copy = Defragmentation::begin(self, ahead)?;
        while copy.step()? == Copied::More {}
        self.finish_defragmentation(copy)
    }
}

impl Defragmentation {
    /// `ahead` may have another thread read what the first pass copies, while this one writes it.
    pub(crate) fn begin(
        database: &Database,
        ahead: impl FnOnce(StoredStretches) -> Pass,
    ) -> Result<Defragmentation, StorageError> {
        let reader = database.reader()?;
        Ok(Defragmentation {
            draft: database.draft()?,
            source: Arc::clone(reader.opened()),
            pass: ahead(reader.into_stored_stretches()?),
            pass_bytes: 0,
            next: Revision::default(),
            changed: BTreeSet::new(),
        })
    }

    /// Whether this is a copy of the file that the database is in. It is not any more once another
    /// file took that one's place.
    pub(crate) fn is_of(&self, database: &Database) -> bool {
        Arc::ptr_eq(&self.source, &database.opened())
    }

    /// Copies a stretch.
    pub(crate) fn step(&mut self) -> Result<Copied, StorageError> {
        let Some(stretch) = self.pass.next().transpose()? else {
            return Ok(Copied::Pass { bytes: self.pass_bytes });
        };
        self.add(stretch)?;
        Ok(Copied::More)
    }

    /// Goes on with what was committed meanwhile.
    pub(crate) fn next_pass(&mut self, database: &Database) -> Result<(), StorageError> {
        assert!(self.is_of(database), "what is copied is the database's own file");
        self.pass = Box::new(database.reader()?.into_stored_stretches_of_records(self.next)?);
        self.pass_bytes = 0;
        Ok(())
    }

    /// Has to be told of everything that is committed while this goes on.
    pub(crate) fn committed(&mut self, checkpoint: &Checkpoint) {
        assert!(checkpoint.removed.is_empty(), "nothing is removed while a database is copied");
        self.changed.extend(checkpoint.cells.iter().map(|(table, key, _)| (*table, key.clone())));
    }

    /// Waits until what has been copied is on the disk, so that the end is short.
    pub(crate) fn sync(&mut self) -> Result<(), StorageError> {
        self.draft.sync()
    }

    /// Completes the copy, which then holds all that the reader sees.
    fn complete(mut self, reader: Reader) -> Result<Draft, StorageError> {
        // These are written by commits without being part of a checkpoint.
        let meta = reader.cells(Table::Meta)?.map(|cell| cell.map(|(key, _)| (Table::Meta, key)));
        let changed = std::mem::take(&mut self.changed);
        let cells = meta.chain(changed.into_iter().map(Ok));
        let mut stretch = Checkpoint::default();
        let mut bytes = 0;
        for cell in cells {
            let (table, key) = cell?;
            let cell = reader.cell(table, &key)?;
            bytes += key.len() + cell.as_ref().map_or(0, Bytes::len);
            stretch.cells.push((table, key, cell));
            if bytes >= limits::STRETCH_BYTES {
                self.add(std::mem::take(&mut stretch))?;
                bytes = 0;
            }
        }
        self.add(stretch)?;
        for stretch in reader.into_stored_stretches_of_records(self.next)? {
            self.add(stretch?)?;
        }
        Ok(self.draft)
    }

    fn add(&mut self, stretch: Checkpoint<StoredRecord>) -> Result<(), StorageError> {
        if let Some((last, _)) = stretch.records.last() {
            assert!(*last >= self.next, "records are copied in order");
            self.next = Revision { main: last.main, sub: last.sub + 1 };
        }
        self.pass_bytes += stretch.records.iter().map(|(_, record)| record.stored_len()).sum::<usize>();
        self.draft.copy(stretch)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        storage::Record,
        types::{KeyValue, Rev},
    };

    const CACHE_BYTES: usize = 1 << 20;

    fn record(main: i64) -> (Revision, Record) {
        let kv = KeyValue {
            key: "k".into(),
            value: vec![main as u8; 3000].into(),
            mod_rev: Rev(main),
            version: 1,
            ..KeyValue::default()
        };
        (Revision::new(main, 0), Record::put(&kv))
    }

    fn cell(key: u8, bytes: Option<u8>) -> (Table, Bytes, Option<Bytes>) {
        (Table::Lease, vec![key].into(), bytes.map(|byte| vec![byte; 100].into()))
    }

    fn contents(database: &Database) -> Vec<Checkpoint> {
        let stretches = database.reader().and_then(Reader::into_stretches).expect("a reader");
        stretches.collect::<Result<_, _>>().expect("a sound database")
    }

    fn say(contents: &[Checkpoint]) -> String {
        let records = contents.iter().flat_map(|stretch| &stretch.records);
        let cells = contents.iter().flat_map(|stretch| &stretch.cells);
        format!("{:?}\n{:?}", records.collect::<Vec<_>>(), cells.collect::<Vec<_>>())
    }

    fn pass(copy: &mut Defragmentation) -> usize {
        loop {
            if let Copied::Pass { bytes } = copy.step().expect("there is room") {
                return bytes;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Commits come between any two steps; what is in the end is what a database without
        /// defragmentation would hold, in a file without holes.
        #[test]
        fn what_is_committed_meanwhile_is_in_the_copy(
            commits in prop::collection::vec(
                (0..40_i64, prop::collection::vec((0..6_u8, prop::option::of(any::<u8>())), 0..4)), 1..12
            ),
            steps in prop::collection::vec((0..6_usize, any::<bool>()), 12),
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("db");
            let database = Database::at(&path, CACHE_BYTES).expect("a new database");
            let records: Vec<_> = (2..302).map(record).collect();
            let removed = records[..200].iter().map(|(revision, _)| *revision).collect();
            let cells = (0..4).map(|key| cell(key, Some(key))).collect();
            database.commit(&Checkpoint { records, cells, ..Checkpoint::default() }).expect("a commit");
            database.commit(&Checkpoint { removed, ..Checkpoint::default() }).expect("a commit");
            let before = database.file_bytes().expect("a length");

            let mut copy = Defragmentation::begin(&database, |all| Box::new(all)).expect("there is room");
            let mut newest = 301;
            for ((records, cells), (steps, is_pass)) in commits.iter().zip(&steps) {
                for _ in 0..*steps {
                    copy.step().expect("there is room");
                }
                let records: Vec<_> = (newest + 1..=newest + records).map(record).collect();
                newest += records.len() as i64;
                let cells = cells.iter().map(|(key, bytes)| cell(*key, *bytes)).collect();
                let checkpoint = Checkpoint { records, cells, ..Checkpoint::default() };
                database.commit(&checkpoint).expect("a commit");
                copy.committed(&checkpoint);
                if *is_pass {
                    pass(&mut copy);
                    copy.next_pass(&database).expect("there is room");
                }
            }
            pass(&mut copy);
            let expected = say(&contents(&database));
            database.finish_defragmentation(copy).expect("there is room");
            prop_assert_eq!(say(&contents(&database)), expected.clone());
            prop_assert!(newest > 400 || database.file_bytes().expect("a length") < before);
            drop(database);
            let database = Database::at(&path, CACHE_BYTES).expect("the new file");
            prop_assert_eq!(say(&contents(&database)), expected);
        }
    }

    #[test]
    fn every_pass_has_less_to_copy() {
        let directory = tempfile::tempdir().expect("a directory");
        let database = Database::at(&directory.path().join("db"), CACHE_BYTES).expect("a new database");
        let commit = |revisions: std::ops::Range<i64>| {
            let checkpoint = Checkpoint { records: revisions.map(record).collect(), ..Checkpoint::default() };
            database.commit(&checkpoint).expect("a commit");
        };
        commit(2..102);
        let mut copy = Defragmentation::begin(&database, |all| Box::new(all)).expect("there is room");
        let first = pass(&mut copy);
        commit(102..112);
        copy.next_pass(&database).expect("there is room");
        let second = pass(&mut copy);
        copy.next_pass(&database).expect("there is room");
        assert_eq!((first / 100, second / 10, pass(&mut copy)), (second / 10, first / 100, 0));
    }

    #[test]
    fn a_copy_of_a_file_that_was_replaced_is_known() {
        let directory = tempfile::tempdir().expect("a directory");
        let database = Database::at(&directory.path().join("db"), CACHE_BYTES).expect("a new database");
        let copy = Defragmentation::begin(&database, |all| Box::new(all)).expect("there is room");
        assert!(copy.is_of(&database));
        let image = directory.path().join("image");
        database.copy_to(Path::new("image")).expect("there is room");
        database.replace_with(&Database::at(&image, CACHE_BYTES).expect("an image")).expect("a swap");
        assert!(!copy.is_of(&database));
    }
}
