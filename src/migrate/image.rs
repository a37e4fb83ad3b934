//! A snapshot for clients: our database as the bbolt file that etcd would send.
//!
//! The file begins with the meta pages, which say where the root and the end of the file are, and its length is
//! announced before it is sent. So the database is read twice: once to lay the file out, which needs the lengths
//! alone, and once for each client while the file is sent. Both times the snapshot of the database is the same
//! pinned one, whose checksums are checked. Nothing is written to the disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    schema,
    status::{FileStatus, LiveKeys},
};
use crate::{
    apply::Member,
    auth::AuthStore,
    bbolt::{Builder, Counted, Layout, Output, PAGE_BYTES, Written},
    lease::Lessor,
    limits,
    storage::{Cells, Reader, Record, StorageError, Stretches, Table, meta},
    types::{MemberId, Rev, Revision},
};

/// How far into the log the database goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPlace {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// A file that is laid out, and what it will be read from.
pub(crate) struct Image {
    contents: Contents,
    layout: Layout,
}

/// A pinned database.
#[derive(Clone)]
struct Contents {
    reader: Arc<Reader>,
    place: Option<LogPlace>,
}

/// The pages of an image, in order.
pub(crate) struct ImagePages {
    head: Bytes,
    stage: PagesStage,
    remaining_bytes: u64,
}

enum PagesStage {
    Filling(Box<Filling<Builder<Written>>>),
    Rest(Written),
}

impl Image {
    /// Reads all of the database. `None` if the caller no longer wants the image.
    pub(crate) fn lay_out(
        reader: Reader,
        place: Option<LogPlace>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Option<Image>, StorageError> {
        let contents = Contents { reader: Arc::new(reader), place };
        let mut filling = Filling::begin(Builder::new(Counted, PAGE_BYTES), contents.clone())?;
        while filling.advance()? {
            if !is_wanted() {
                return Ok(None);
            }
        }
        let (layout, Counted) = filling.sink.finish();
        Ok(Some(Image { contents, layout }))
    }

    /// What `snapshot status` shows of the file.
    pub(crate) fn status(&self) -> Result<FileStatus, StorageError> {
        let mut filling = Filling::begin(Hashing::default(), self.contents.clone())?;
        while filling.advance()? {}
        let (revision, Hashing { buckets, live, .. }) = (filling.last.main, filling.sink);
        let hash = buckets.values().fold(0, |hash, bucket| {
            crc32c::crc32c_combine(hash, bucket.hash, usize::try_from(bucket.bytes).unwrap_or(usize::MAX))
        });
        Ok(FileStatus {
            hash,
            revision,
            keys: live.count(),
            bytes: self.file_bytes(),
            version: schema::STORAGE_VERSION_WRITTEN.to_owned(),
        })
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.layout.file_bytes()
    }

    pub(crate) fn pages(&self) -> Result<ImagePages, StorageError> {
        let filling = Filling::begin(Builder::new(Written::default(), PAGE_BYTES), self.contents.clone())?;
        Ok(ImagePages {
            head: self.layout.head().into(),
            stage: PagesStage::Filling(Box::new(filling)),
            remaining_bytes: self.layout.file_bytes(),
        })
    }
}

impl ImagePages {
    /// The next bytes of the file, about `bytes` of them; `None` at the end.
    pub(crate) fn next(&mut self, bytes: usize) -> Result<Option<Bytes>, StorageError> {
        if !self.head.is_empty() {
            return Ok(Some(self.counted(|pages| std::mem::take(&mut pages.head))));
        }
        while let PagesStage::Filling(filling) = &mut self.stage {
            if filling.sink.output().len() >= bytes {
                break;
            }
            if !filling.advance()? {
                let rest = PagesStage::Rest(Written::default());
                if let PagesStage::Filling(filling) = std::mem::replace(&mut self.stage, rest) {
                    self.stage = PagesStage::Rest(filling.sink.finish().1);
                }
            }
        }
        let piece = self.counted(|pages| match &mut pages.stage {
            PagesStage::Filling(filling) => filling.sink.output().take(bytes),
            PagesStage::Rest(rest) => rest.take(bytes),
        });
        Ok((!piece.is_empty()).then_some(piece))
    }

    fn counted(&mut self, take: impl FnOnce(&mut ImagePages) -> Bytes) -> Bytes {
        let piece = take(self);
        let remaining = self.remaining_bytes.checked_sub(piece.len() as u64);
        self.remaining_bytes = remaining.expect("a pinned database is laid out in the same way twice");
        piece
    }
}

/// What the contents of a database are put into: buckets, each with its keys in order.
trait Sink {
    type Part;

    fn part(bytes: Bytes) -> Self::Part;

    fn begin(&mut self, bucket: &'static str);

    fn put(&mut self, key: Self::Part, value: Self::Part);

    fn end(&mut self);
}

impl<O: Output> Sink for Builder<O> {
    type Part = O::Part;

    fn part(bytes: Bytes) -> O::Part {
        O::part(bytes)
    }

    fn begin(&mut self, bucket: &'static str) {
        Builder::begin(self, bucket);
    }

    fn put(&mut self, key: O::Part, value: O::Part) {
        Builder::put(self, key, value);
    }

    fn end(&mut self) {
        Builder::end(self);
    }
}

/// The hash of `snapshot status`, bucket by bucket: the file has them in the order of their names, and here they come
/// in another one.
#[derive(Default)]
struct Hashing {
    buckets: BTreeMap<&'static str, HashedBucket>,
    open: Option<(&'static str, HashedBucket)>,
    live: LiveKeys,
}

/// Its name, keys and values.
#[derive(Clone, Copy, Default)]
struct HashedBucket {
    hash: u32,
    bytes: u64,
}

impl HashedBucket {
    fn add(&mut self, bytes: &[u8]) {
        self.hash = crc32c::crc32c_append(self.hash, bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl Sink for Hashing {
    type Part = Bytes;

    fn part(bytes: Bytes) -> Bytes {
        bytes
    }

    fn begin(&mut self, name: &'static str) {
        let mut bucket = HashedBucket::default();
        bucket.add(name.as_bytes());
        self.open = Some((name, bucket));
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        let (name, bucket) = self.open.as_mut().expect("a key is put into a bucket");
        bucket.add(&key);
        bucket.add(&value);
        if *name == schema::KEY {
            let found = schema::revision_of(&key).expect("it was encoded just now");
            let record = Record::decode(found.1, value).expect("a database has records that decode");
            self.live.add(found.0, &record);
        }
    }

    fn end(&mut self) {
        self.buckets.extend(self.open.take());
    }
}

/// Puts the contents of a database into a file.
struct Filling<S: Sink> {
    sink: S,
    contents: Contents,
    stage: Stage,
    last: Revision,
    small: Small,
}

enum Stage {
    Records(Box<Stretches>),
    Cells { tables: std::array::IntoIter<Table, { Table::ALL.len() }>, cells: Option<(Table, Box<Cells>)> },
    Done,
}

impl<S: Sink> Filling<S> {
    fn begin(mut sink: S, contents: Contents) -> Result<Filling<S>, StorageError> {
        sink.begin(schema::KEY);
        let stage = Stage::Records(Box::new(contents.reader.stretches_of_records()?));
        Ok(Filling { sink, contents, stage, last: Revision::default(), small: Small::default() })
    }

    /// Puts the next part of the contents into the file. False at the end.
    fn advance(&mut self) -> Result<bool, StorageError> {
        match &mut self.stage {
            Stage::Records(stretches) => {
                let Some(stretch) = stretches.next() else {
                    self.sink.end();
                    self.stage = Stage::Cells { tables: Table::ALL.into_iter(), cells: None };
                    return Ok(true);
                };
                for (revision, record) in stretch?.records {
                    // redb's own pages may be damaged, and then the order is not certain.
                    if revision <= self.last {
                        let detail = format!("revision {revision} is stored after revision {}", self.last);
                        return Err(self.contents.reader.corrupted(detail));
                    }
                    self.last = revision;
                    let key = schema::record_key(revision, record.is_tombstone());
                    self.sink.put(S::part(key), S::part(record.bytes().clone()));
                }
            }
            Stage::Cells { tables, cells: cells @ None } => match tables.next() {
                Some(table) => {
                    *cells = Some((table, Box::new(self.contents.reader.cells(table)?)));
                    if let Some(bucket) = streamed(table) {
                        self.sink.begin(bucket);
                    }
                }
                None => {
                    let small = std::mem::take(&mut self.small);
                    small.put_into(&mut self.sink, &self.contents)?;
                    self.stage = Stage::Done;
                }
            },
            Stage::Cells { cells: current @ Some(_), .. } => {
                let Some((table, cells)) = current else { return Ok(true) };
                let table = *table;
                let mut count = 0;
                for cell in cells.by_ref().take(limits::CAPTURE_STRIDE_RECORDS) {
                    let (key, cell) = cell?;
                    if table == Table::Lease {
                        let value =
                            lease(&key, &cell).ok_or_else(|| self.contents.unreadable(table, &key))?;
                        self.sink.put(S::part(key), S::part(value));
                    } else if streamed(table).is_some() {
                        self.sink.put(S::part(key), S::part(cell));
                    } else {
                        let kept = self.small.keep(table, key.clone(), cell);
                        kept.ok_or_else(|| self.contents.unreadable(table, &key))?;
                    }
                    count += 1;
                }
                if count < limits::CAPTURE_STRIDE_RECORDS {
                    if streamed(table).is_some() {
                        self.sink.end();
                    }
                    *current = None;
                }
            }
            Stage::Done => return Ok(false),
        }
        Ok(true)
    }
}

impl Contents {
    fn unreadable(&self, table: Table, key: &[u8]) -> StorageError {
        self.reader.corrupted(format!("{} \"{}\" cannot be read", table.name(), key.escape_ascii()))
    }
}

/// The bucket of a table that may be long, and whose cells are in the order of the bucket's keys.
fn streamed(table: Table) -> Option<&'static str> {
    if table == Table::Lease { Some(schema::LEASE) } else { schema::own_bucket(table) }
}

fn lease(key: &[u8], cell: &[u8]) -> Option<Bytes> {
    let mut lessor = Lessor::default();
    let id = lessor.restore(key, cell)?;
    lessor.get(id).map(|lease| schema::lease(id, lease))
}

/// What is not much, and is put into the file last, because it is sorted otherwise there.
#[derive(Default)]
struct Small {
    meta: BTreeMap<Bytes, Bytes>,
    alarms: BTreeSet<Bytes>,
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<Bytes>,
    auth: AuthStore,
}

impl Small {
    /// `None` for a cell that cannot be read.
    fn keep(&mut self, table: Table, key: Bytes, cell: Bytes) -> Option<()> {
        let id = || Some(MemberId(u64::from_be_bytes(key.as_ref().try_into().ok()?)));
        match table {
            Table::Meta => drop(self.meta.insert(key, cell)),
            Table::Lease | Table::V2Node | Table::V2Event | Table::V2Account => {
                unreachable!("these are put into the file as they are read")
            }
            Table::Alarm => {
                let (member, kind) = key.split_first_chunk::<8>()?;
                let [kind] = kind else { return None };
                self.alarms.insert(schema::alarm(u64::from_be_bytes(*member), *kind));
            }
            Table::Member => drop(self.members.insert(id()?, serde_json::from_slice(&cell).ok()?)),
            Table::MemberRemoved => drop(self.removed.insert(schema::member_key(id()?))),
            Table::AuthUser => self.auth.restore_user(&key, &cell)?,
            Table::AuthRole => self.auth.restore_role(&key, &cell)?,
        }
        Some(())
    }

    fn put_into<S: Sink>(mut self, sink: &mut S, contents: &Contents) -> Result<(), StorageError> {
        let removed = self.removed.iter().map(|key| (key.clone(), Bytes::from_static(schema::REMOVED)));
        let removed: Sorted = removed.collect();
        let alarms: Sorted = self.alarms.iter().map(|key| (key.clone(), Bytes::new())).collect();
        let members = self.members.iter();
        let members: Sorted =
            members.map(|(id, member)| (schema::member_key(*id), schema::member(*id, member))).collect();
        let meta = self.meta(contents)?;
        if let Some(cell) = self.meta.get(AuthStore::REV_CELL) {
            let restored = self.auth.restore_rev(cell);
            restored.ok_or_else(|| contents.unreadable(Table::Meta, AuthStore::REV_CELL))?;
        }
        if let Some(cell) = self.meta.get(AuthStore::ENABLED_CELL) {
            let restored = self.auth.restore_enabled(cell);
            restored.ok_or_else(|| contents.unreadable(Table::Meta, AuthStore::ENABLED_CELL))?;
        }
        let (auth, users, roles) = self.auth();
        for (name, bucket) in [
            (schema::ALARM, alarms),
            (schema::AUTH, auth),
            (schema::AUTH_ROLES, roles),
            (schema::AUTH_USERS, users),
            (schema::CLUSTER, Sorted::new()),
            (schema::MEMBERS, members),
            (schema::MEMBERS_REMOVED, removed),
            (schema::META, meta),
        ] {
            sink.begin(name);
            for (key, value) in bucket {
                sink.put(S::part(key), S::part(value));
            }
            sink.end();
        }
        Ok(())
    }

    fn meta(&self, contents: &Contents) -> Result<Sorted, StorageError> {
        let mut bucket = Sorted::new();
        for (ours, theirs) in [
            (meta::REV_COMPACT_SCHEDULED, schema::COMPACT_SCHEDULED),
            (meta::REV_COMPACT_FINISHED, schema::COMPACT_FINISHED),
        ] {
            let Some(cell) = self.meta.get(ours) else { continue };
            let rev = cell.as_ref().try_into().map(i64::from_be_bytes).map(Rev);
            let rev = rev.map_err(|_| contents.unreadable(Table::Meta, ours))?;
            if rev > Rev::NEVER_COMPACTED {
                bucket.insert(theirs.into(), schema::compaction(rev));
            }
        }
        if let Some(LogPlace { term, index }) = contents.place.filter(|place| place.index > 0) {
            bucket.insert(schema::CONSISTENT_INDEX.into(), Bytes::copy_from_slice(&index.to_be_bytes()));
            // A log that begins behind a restored state begins in term 0, which etcd does not know.
            bucket.insert(schema::TERM.into(), Bytes::copy_from_slice(&term.max(1).to_be_bytes()));
        }
        let ids = |is_learner: bool| {
            self.members.iter().filter(move |(_, member)| member.is_learner == is_learner).map(|(id, _)| id.0)
        };
        let conf_state = schema::ConfState {
            voters: ids(false).collect(),
            learners: ids(true).collect(),
            auto_leave: false,
        };
        let conf_state = serde_json::to_vec(&conf_state).expect("numbers are JSON");
        if !self.members.is_empty() {
            bucket.insert(schema::CONF_STATE.into(), conf_state.into());
        }
        bucket.insert(schema::STORAGE_VERSION.into(), schema::STORAGE_VERSION_WRITTEN.into());
        Ok(bucket)
    }

    /// The buckets `auth`, `authUsers` and `authRoles`.
    fn auth(&self) -> (Sorted, Sorted, Sorted) {
        let auth = Sorted::from([
            (schema::AUTH_ENABLED.into(), self.auth.enabled_cell()),
            (schema::AUTH_REVISION.into(), Bytes::copy_from_slice(&self.auth.rev().to_be_bytes())),
        ]);
        let users = self.auth.users().map(|(name, user)| {
            let roles = user.roles.iter().cloned().collect();
            (name.to_owned().into(), schema::user(name, &user.password_hash, user.no_password, roles))
        });
        let roles = self.auth.roles().map(|name| {
            let permissions = self.auth.granted_permissions(name);
            (name.to_owned().into(), schema::role(name, permissions))
        });
        (auth, users.collect(), roles.collect())
    }
}

/// The keys and values of a bucket.
type Sorted = BTreeMap<Bytes, Bytes>;
