//! A database of etcd becomes one of ours.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use thiserror::Error;

use super::schema;
use crate::{
    auth::{AuthError, AuthStore},
    bbolt::{BboltError, BboltFile, Bucket},
    lease::Lessor,
    limits,
    storage::{Checkpoint, Draft, Record, StorageError, Table, is_of_a_change, meta},
    types::{MemberId, Rev, Revision},
};

/// Why a database of etcd cannot be taken over.
#[derive(Debug, Error)]
pub(crate) enum IntakeError {
    #[error(transparent)]
    Bbolt(#[from] BboltError),
    #[error("it has no bucket \"key\", so it is not a database of etcd")]
    NotOfEtcd,
    #[error("bucket \"{bucket}\" cannot be read at key \"{}\"", key.escape_ascii())]
    Unreadable { bucket: &'static str, key: Bytes },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// How much has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// About as many bytes there are.
    pub(crate) bytes_total: u64,
}

/// What a database of etcd says that is not in ours.
#[derive(Debug, Default)]
pub(crate) struct TakenIn {
    /// The last entry of its log that is in it.
    pub(crate) consistent_index: u64,
    pub(crate) term: u64,
    pub(crate) cluster_version: Option<String>,
    pub(crate) members: Vec<TakenMember>,
    /// Records that only raise the revision, which a restore with `--bump-revision` leaves.
    pub(crate) bumps: u64,
}

/// A member of the cluster that a database of etcd is from.
#[derive(Clone, Debug)]
pub(crate) struct TakenMember {
    pub(crate) id: MemberId,
    pub(crate) name: String,
    pub(crate) peer_urls: Vec<String>,
    pub(crate) is_learner: bool,
}

/// Adds all that a database of etcd holds to `draft`. Members are not taken over: they belong to another cluster.
pub(crate) fn take_in(
    file: &BboltFile,
    draft: &mut Draft,
    report: &mut dyn FnMut(Progress),
) -> Result<TakenIn, IntakeError> {
    let mut taken = TakenIn::default();
    let keys = file.bucket(schema::KEY.as_bytes())?.ok_or(IntakeError::NotOfEtcd)?;
    let progress = Progress { records: 0, bytes: 0, bytes_total: file.state_bytes() };
    let Records { last, records, bumps } = add_records(&keys, draft, progress, report)?;
    taken.bumps = bumps;
    draft.add_numbers(records)?;
    add_leases(bucket(file, schema::LEASE)?, draft)?;
    for table in Table::ALL {
        if let Some(name) = schema::own_bucket(table) {
            add_own(table, bucket(file, name)?, draft)?;
        }
    }
    let mut cells = numbers(&entries(file, schema::META)?, last, &mut taken)?;
    cells.extend(alarms(&entries(file, schema::ALARM)?)?);
    cells.extend(users_and_roles(file)?);
    draft.add(&Checkpoint { cells, ..Checkpoint::default() })?;
    let cluster = entries(file, schema::CLUSTER)?;
    let version = cluster.get(schema::CLUSTER_VERSION);
    taken.cluster_version = version.map(|version| String::from_utf8_lossy(version).into_owned());
    for (key, value) in entries(file, schema::MEMBERS)? {
        let value: Option<schema::MemberValue> = serde_json::from_slice(&value).ok();
        let member = schema::member_of(&key).zip(value);
        let (id, value) = member.ok_or_else(|| unreadable(schema::MEMBERS, &key))?;
        let schema::MemberValue { peer_urls, is_learner, name, .. } = value;
        taken.members.push(TakenMember { id, name, peer_urls: peer_urls.unwrap_or_default(), is_learner });
    }
    Ok(taken)
}

/// The last entry of etcd's log that is in a database.
pub(crate) fn consistent_index(file: &BboltFile) -> Result<u64, IntakeError> {
    match entries(file, schema::META)?.get(schema::CONSISTENT_INDEX) {
        Some(index) => {
            schema::number_of(index).ok_or_else(|| unreadable(schema::META, schema::CONSISTENT_INDEX))
        }
        None => Ok(0),
    }
}

struct Records {
    last: Rev,
    records: u64,
    bumps: u64,
}

fn add_records(
    keys: &Bucket,
    draft: &mut Draft,
    mut progress: Progress,
    report: &mut dyn FnMut(Progress),
) -> Result<Records, IntakeError> {
    let mut found = Records { last: Rev::INITIAL, records: 0, bumps: 0 };
    let mut last = Revision::default();
    let mut stretch = Checkpoint::default();
    let mut bytes = 0;
    for entry in keys.entries()? {
        let entry = entry?;
        let unreadable = || unreadable(schema::KEY, &entry.key);
        let (revision, is_tombstone) = schema::revision_of(&entry.key).ok_or_else(unreadable)?;
        // The order of keys is that of revisions, unless there are a put and a tombstone of one revision.
        if !is_of_a_change(revision) || revision <= last {
            return Err(unreadable());
        }
        last = revision;
        found.last = revision.main;
        if entry.value.is_empty() && !is_tombstone {
            found.bumps += 1;
            continue;
        }
        bytes += entry.value.len();
        let record = Record::decode(is_tombstone, entry.value.clone()).ok_or_else(unreadable)?;
        stretch.records.push((revision, record));
        found.records += 1;
        progress.records += 1;
        progress.bytes += (entry.key.len() + entry.value.len()) as u64;
        if bytes >= limits::INTAKE_STRETCH_BYTES {
            draft.add(&std::mem::take(&mut stretch))?;
            bytes = 0;
            report(progress);
        }
    }
    draft.add(&stretch)?;
    report(progress);
    Ok(found)
}

fn add_leases(leases: Option<Bucket>, draft: &mut Draft) -> Result<(), IntakeError> {
    let Some(leases) = leases else { return Ok(()) };
    let mut cells = Vec::new();
    for entry in leases.entries()? {
        let entry = entry?;
        let mut lessor = Lessor::default();
        let id = schema::take_lease(&entry.key, &entry.value, &mut lessor);
        let id = id.ok_or_else(|| unreadable(schema::LEASE, &entry.key))?;
        cells.push((Table::Lease, Lessor::cell_key(id), lessor.cell(id)));
        if cells.len() == limits::CAPTURE_STRIDE_RECORDS {
            draft.add(&Checkpoint { cells: std::mem::take(&mut cells), ..Checkpoint::default() })?;
        }
    }
    Ok(draft.add(&Checkpoint { cells, ..Checkpoint::default() })?)
}

/// Adds the cells of a table that only retcd has.
fn add_own(table: Table, cells: Option<Bucket>, draft: &mut Draft) -> Result<(), IntakeError> {
    let Some(bucket) = cells else { return Ok(()) };
    let mut cells = Vec::new();
    let mut bytes = 0;
    for entry in bucket.entries()? {
        let entry = entry?;
        bytes += entry.key.len() + entry.value.len();
        cells.push((table, entry.key, Some(entry.value)));
        if bytes >= limits::INTAKE_STRETCH_BYTES {
            draft.add(&Checkpoint { cells: std::mem::take(&mut cells), ..Checkpoint::default() })?;
            bytes = 0;
        }
    }
    Ok(draft.add(&Checkpoint { cells, ..Checkpoint::default() })?)
}

type Cell = (Table, Bytes, Option<Bytes>);

/// The revisions, of which etcd stores those of compactions only.
fn numbers(
    stored: &BTreeMap<Bytes, Bytes>,
    last: Rev,
    taken: &mut TakenIn,
) -> Result<Vec<Cell>, IntakeError> {
    let unreadable = |key: &'static [u8]| move || unreadable(schema::META, key);
    let compaction = |key: &'static [u8]| match stored.get(key) {
        Some(value) => schema::compaction_of(value).filter(|rev| rev.0 > 0).ok_or_else(unreadable(key)),
        None => Ok(Rev::NEVER_COMPACTED),
    };
    let number = |key: &'static [u8]| match stored.get(key) {
        Some(value) => schema::number_of(value).ok_or_else(unreadable(key)),
        None => Ok(0),
    };
    taken.consistent_index = number(schema::CONSISTENT_INDEX)?;
    taken.term = number(schema::TERM)?;
    let finished = compaction(schema::COMPACT_FINISHED)?;
    let scheduled = compaction(schema::COMPACT_SCHEDULED)?.max(finished);
    // The last revision before a compaction may have been one that the compaction removed.
    let current = last.max(scheduled);
    let cell = |key: &'static [u8], rev: Rev| {
        (Table::Meta, Bytes::from_static(key), Some(Bytes::copy_from_slice(&rev.0.to_be_bytes())))
    };
    Ok(vec![
        cell(meta::REV_CURRENT, current),
        cell(meta::REV_COMPACT_SCHEDULED, scheduled),
        cell(meta::REV_COMPACT_FINISHED, finished),
    ])
}

fn alarms(stored: &BTreeMap<Bytes, Bytes>) -> Result<Vec<Cell>, IntakeError> {
    let mut cells = Vec::new();
    for key in stored.keys() {
        let alarm = schema::alarm_of(key).filter(|(_, kind)| matches!(kind, 1 | 2));
        let (member, kind) = alarm.ok_or_else(|| unreadable(schema::ALARM, key))?;
        let key = [&member.to_be_bytes()[..], &[kind]].concat();
        cells.push((Table::Alarm, key.into(), Some(Bytes::new())));
    }
    Ok(cells)
}

fn users_and_roles(file: &BboltFile) -> Result<Vec<Cell>, IntakeError> {
    let mut auth = AuthStore::default();
    let (mut users, mut roles) = (BTreeSet::new(), BTreeSet::new());
    for (key, value) in entries(file, schema::AUTH_ROLES)? {
        let unreadable = |_: AuthError| unreadable(schema::AUTH_ROLES, &key);
        let role = schema::role_of(&value).filter(|(name, _)| *name.as_bytes() == key);
        let (name, permissions) = role.ok_or(AuthError::RoleNotFound).map_err(unreadable)?;
        auth.role_add(&name).map_err(unreadable)?;
        for permission in &permissions {
            match auth.role_grant_permission(&name, permission) {
                // On an empty range, which old versions grant and which permits nothing.
                Ok(()) | Err(AuthError::InvalidAuthManagement) => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        roles.insert(name);
    }
    for (key, value) in entries(file, schema::AUTH_USERS)? {
        let unreadable = |_: AuthError| unreadable(schema::AUTH_USERS, &key);
        let user = schema::user_of(&value).filter(|user| *user.name.as_bytes() == key);
        let user = user.ok_or(AuthError::UserNotFound).map_err(unreadable)?;
        auth.user_add(&user.name, &user.password_hash, user.no_password).map_err(unreadable)?;
        for role in &user.roles {
            match auth.user_grant_role(&user.name, role) {
                // A role that was deleted permits nothing.
                Ok(()) | Err(AuthError::RoleNotFound) => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        users.insert(user.name);
    }
    let stored = entries(file, schema::AUTH)?;
    if let Some(rev) = stored.get(schema::AUTH_REVISION) {
        // 0 in a database of an etcd that has not written it yet.
        let rev = schema::number_of(rev).ok_or_else(|| unreadable(schema::AUTH, schema::AUTH_REVISION))?;
        let restored = auth.restore_rev(&rev.max(1).to_be_bytes());
        restored.ok_or_else(|| unreadable(schema::AUTH, schema::AUTH_REVISION))?;
    }
    if let Some(enabled) = stored.get(schema::AUTH_ENABLED) {
        let restored = auth.restore_enabled(enabled);
        restored.ok_or_else(|| unreadable(schema::AUTH, schema::AUTH_ENABLED))?;
    }
    let mut cells = vec![
        (Table::Meta, Bytes::from_static(AuthStore::REV_CELL), Some(auth.rev_cell())),
        (Table::Meta, Bytes::from_static(AuthStore::ENABLED_CELL), Some(auth.enabled_cell())),
    ];
    cells.extend(users.iter().map(|name| (Table::AuthUser, AuthStore::cell_key(name), auth.user_cell(name))));
    cells.extend(roles.iter().map(|name| (Table::AuthRole, AuthStore::cell_key(name), auth.role_cell(name))));
    Ok(cells)
}

fn bucket(file: &BboltFile, name: &'static str) -> Result<Option<Bucket>, IntakeError> {
    Ok(file.bucket(name.as_bytes())?)
}

/// All of a bucket that is small; nothing of one that is not there, as in files of old versions.
pub(super) fn entries(file: &BboltFile, name: &'static str) -> Result<BTreeMap<Bytes, Bytes>, IntakeError> {
    let Some(bucket) = bucket(file, name)? else { return Ok(BTreeMap::new()) };
    let entries = bucket.entries()?.map(|entry| entry.map(|entry| (entry.key, entry.value)));
    Ok(entries.collect::<Result<_, _>>()?)
}

pub(super) fn unreadable(bucket: &'static str, key: &[u8]) -> IntakeError {
    IntakeError::Unreadable { bucket, key: Bytes::copy_from_slice(key) }
}
