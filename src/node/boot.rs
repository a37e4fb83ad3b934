//! The data directory: whose it is, what is in it, and whether it can be used.
//!
//! ```text
//! <data-dir>/member/lock          held while a process uses the directory
//! <data-dir>/member/snap/db       the database (redb)
//! <data-dir>/member/wal/*.wal     the log; elsewhere with --wal-dir
//! ```
//!
//! A directory that belongs to real etcd, to a newer retcd or to a running process is refused,
//! and nothing in it is touched.

use std::{
    collections::BTreeMap,
    future::ready,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{StartError, outside::Outside, snapshot, unfit};
use crate::{
    config::{self, ClusterState, Config},
    disk::{DiskFile, Disks},
    limits,
    link::{self, KnownCluster, KnownMember, Peer},
    raft::{self, LogStore, Replica, base},
    sockets::{self, Resolver},
    storage::{Checkpoint, Database, StorageError, Table, Values, io_error},
    telemetry::list,
    types::{Base, ClusterId, MemberId},
};

const IDENTITY_CELL: &[u8] = b"identity";
/// Present where this member joined a cluster and did not found one.
const JOINED_CELL: &[u8] = b"joined";

/// How long another member may take to say who belongs to its cluster.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const LOG_BEGUN_CELL: &[u8] = b"log_begun";

/// The changes that take the member's identity out of a database.
pub(super) fn forget_member() -> [(Table, Bytes, Option<Bytes>); 3] {
    [IDENTITY_CELL, JOINED_CELL, LOG_BEGUN_CELL].map(|cell| (Table::Meta, cell.into(), None))
}

/// Whether this member has ever had a log. If so, the log may be the only place of writes that were
/// answered, and a data directory without it must not be served.
pub(super) fn log_has_begun(database: &Database) -> Result<bool, StorageError> {
    Ok(database.reader()?.cell(Table::Meta, LOG_BEGUN_CELL)?.is_some())
}

/// To be called once there is a log on the disk, before anything is written to it.
pub(super) fn note_log_begun(database: &Database) -> Result<(), StorageError> {
    let cells = vec![(Table::Meta, LOG_BEGUN_CELL.into(), Some(Bytes::new()))];
    database.commit(&Checkpoint { cells, ..Checkpoint::default() })?;
    assert!(log_has_begun(database)?, "the next start knows that there has been a log");
    Ok(())
}

/// Goes on from this member's data alone, with its ids: what `--force-new-cluster` asks for.
pub(super) fn force_new_cluster(
    config: &Config,
    identity: Identity,
    replica: &Replica,
    log: &LogStore,
) -> Result<(), StartError> {
    if log.is_empty() {
        tracing::warn!("--force-new-cluster has no effect: the data directory has no data of a cluster yet");
        return Ok(());
    }
    let Identity { cluster, member, .. } = identity;
    let urls = &config.initial_advertise_peer_urls;
    let forgotten = raft::forget_others(log, replica, member.0, urls);
    let forgotten = forgotten.map_err(|error| {
        StartError::Refused(format!("cannot write to the log to force a new cluster: {error}"))
    })?;
    match forgotten {
        None => tracing::warn!(
            "cluster-id" = %cluster,
            "local-member-id" = %member,
            "--force-new-cluster has no effect: this member is the only one already; remove the flag"
        ),
        Some((removed, uncommitted_entries)) => tracing::warn!(
            "cluster-id" = %cluster,
            "local-member-id" = %member,
            "removed-members" = ?list(&removed.into_iter().map(|id| MemberId(id).to_string()).collect::<Vec<_>>()),
            "uncommitted-entries" = uncommitted_entries,
            "forced a new cluster: this member is the only one from now on, with the data that it has. Remove \
             the flag, and add members with `etcdctl member add`; those removed cannot come back with their data"
        ),
    }
    Ok(())
}

/// An opened data directory.
pub(crate) struct DataDir {
    pub(crate) database: Arc<Database>,
    pub(crate) wal_dir: PathBuf,
    pub(crate) identity: Identity,
    /// Those who found the cluster together; none where this member joins one.
    pub(crate) founders: BTreeMap<u64, Peer>,
    /// Cells of the database that say who this member is, whoever's snapshot it installs; `None`
    /// is not to be there.
    pub(crate) own_cells: Vec<(Bytes, Option<Bytes>)>,
    /// Released when the process ends.
    pub(crate) _lock: Box<dyn DiskFile>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) member: MemberId,
    /// What the cluster's log began behind; `None` where an older version did not note it.
    pub(crate) base: Option<Base>,
}

/// Returns the settings too, with the members that found the cluster, if this is the first start, and what these
/// settings make of the outside.
pub(crate) async fn open(config: Config, outside: Outside) -> Result<(Config, Outside, DataDir), StartError> {
    let disks = outside.disks.clone();
    let disks = &*disks;
    let member_dir = config.data_dir.join("member");
    unfit::refuse_etcd(disks, &config.data_dir)?;
    unfit::refuse_unfinished(disks, &config.data_dir)?;
    let snap_dir = snapshot::snap_dir(&config.data_dir);
    let wal_dir = config.wal_dir.clone().unwrap_or_else(|| member_dir.join("wal"));
    for dir in [&snap_dir, &wal_dir] {
        create_dir(disks, dir)?;
    }
    let lock = lock(disks, &member_dir, &config.data_dir)?;
    let disk = disks.open(&snap_dir).map_err(io_error("open", &snap_dir))?;
    snapshot::remove_leftovers(&*disk);
    let log_disk = disks.open(&wal_dir).map_err(io_error("open", &wal_dir))?;
    let values = Arc::new(Values::open(log_disk)?);
    let database = Database::open_with(disk, Path::new("db"), limits::DATABASE_CACHE_BYTES, Some(values))?;
    let database = Arc::new(database);
    database.reader()?.check_cells()?;
    let stored = stored_identity(&database)?;
    // A member without a log has not told anybody yet who it is.
    let is_first_start = stored.is_none() || !log_has_begun(&database)?;
    let (config, outside) = match is_first_start {
        true => {
            let founded = (outside.find)(&config).map_err(StartError::Refused)?;
            let outside = outside.changed(&config, &founded);
            (founded, outside)
        }
        false => (config, outside),
    };
    let (identity, joined) = match stored {
        Some(stored) => stored,
        None => {
            let joined = config.initial_cluster_state == ClusterState::Existing;
            let reader = database.reader()?;
            let contents = base::of_contents(&reader)?;
            let (identity, mut cells) = if joined {
                let identity = join(&config, contents, &outside).await?;
                (identity, base::joining_cells(&reader, identity.base)?)
            } else {
                let identity = found(&config, contents, &outside).await?;
                (identity, base::founding_cells(&reader, contents, &founders(&config, identity))?)
            };
            if contents != Base::EMPTY {
                tracing::info!(base = %contents, "starting a new cluster from the restored data");
            }
            drop(reader);
            let own = own_cells(identity, joined).into_iter();
            cells.extend(own.map(|(key, cell)| (Table::Meta, key, cell)));
            // One transaction: from here on this member has an identity, and a log that fits, or neither.
            database.commit(&Checkpoint { cells, ..Checkpoint::default() })?;
            let stored = stored_identity(&database)?;
            assert_eq!(
                stored,
                Some((identity, joined)),
                "the next start reads the identity that this one wrote"
            );
            (identity, joined)
        }
    };
    let founders = if joined { BTreeMap::new() } else { founders(&config, identity) };
    let own_cells = own_cells(identity, joined);
    Ok((config, outside, DataDir { database, wal_dir, identity, founders, own_cells, _lock: lock }))
}

fn create_dir(disks: &dyn Disks, dir: &Path) -> Result<(), StartError> {
    disks.make(dir).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::PermissionDenied => {
                "give this user write permission for that directory, or choose another --data-dir"
            }
            ErrorKind::ReadOnlyFilesystem => "the file system is read-only; choose another --data-dir",
            _ => "choose another --data-dir",
        };
        StartError::Refused(format!("cannot create the data directory {}: {error}; {remedy}", dir.display()))
    })
}

pub(super) fn lock(
    disks: &dyn Disks,
    member_dir: &Path,
    data_dir: &Path,
) -> Result<Box<dyn DiskFile>, StartError> {
    let name = Path::new("lock");
    let opened = disks.open(member_dir).and_then(|disk| match disk.open(name) {
        Err(error) if error.kind() == ErrorKind::NotFound => disk.create(name),
        opened => opened,
    });
    let file = opened.map_err(io_error("open", &member_dir.join(name)))?;
    match file.try_lock() {
        Ok(true) => Ok(file),
        Ok(false) | Err(_) => Err(StartError::InUse { data_dir: data_dir.to_owned() }),
    }
}

/// The identity that is stored in the database, and whether the member joined a cluster.
pub(super) fn stored_identity(database: &Database) -> Result<Option<(Identity, bool)>, StorageError> {
    let reader = database.reader()?;
    let Some(bytes) = reader.cell(Table::Meta, IDENTITY_CELL)? else { return Ok(None) };
    let ids: [u8; 16] = bytes
        .as_ref()
        .try_into()
        .map_err(|_| reader.corrupted("the identity cell is not 16 bytes".to_owned()))?;
    let (cluster, member) = ids.split_at(8);
    let id = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("half of 16 bytes"));
    let identity = Identity {
        cluster: ClusterId(id(cluster)),
        member: MemberId(id(member)),
        base: base::stored(&reader)?,
    };
    Ok(Some((identity, reader.cell(Table::Meta, JOINED_CELL)?.is_some())))
}

fn own_cells(identity: Identity, joined: bool) -> Vec<(Bytes, Option<Bytes>)> {
    let ids = [identity.cluster.0.to_be_bytes(), identity.member.0.to_be_bytes()].concat();
    vec![
        (Bytes::from_static(IDENTITY_CELL), Some(Bytes::from(ids))),
        (Bytes::from_static(JOINED_CELL), joined.then(|| Bytes::from_static(b"1"))),
    ]
}

/// The first members of the cluster that the flags describe.
fn first_members(config: &Config) -> impl Iterator<Item = (MemberId, &(String, Vec<String>))> {
    config
        .initial_cluster
        .iter()
        .map(|member| (config::member_id(&member.1, &config.initial_cluster_token), member))
}

fn founders(config: &Config, identity: Identity) -> BTreeMap<u64, Peer> {
    let founders: BTreeMap<u64, Peer> = first_members(config)
        .map(|(id, (_, urls))| (id.0, Peer { peer_urls: urls.clone(), is_learner: false }))
        .collect();
    // The flags differ from those of the first start, and then the membership in the log counts.
    if founders.contains_key(&identity.member.0) { founders } else { BTreeMap::new() }
}

/// Whether the flags describe a cluster with this member.
pub(super) fn verify_founder(config: &Config) -> Result<(), StartError> {
    let same_places = |ours: &[String], theirs: &[String]| Resolver::new().same_places(ours, theirs);
    config.verify_bootstrap(same_places).map_err(|error| StartError::Refused(error.to_string()))
}

/// The ids of the cluster that the flags describe, and of this member of it, as etcd would compute them. The flags
/// are verified.
fn founder_ids(config: &Config) -> (ClusterId, MemberId) {
    let ids: Vec<(MemberId, &str)> =
        first_members(config).map(|(id, (name, _))| (id, name.as_str())).collect();
    let own = ids.iter().find(|(_, name)| *name == config.name);
    let (member, _) = *own.expect("verified: the name is in the initial cluster");
    (config::cluster_id(&ids.iter().map(|(id, _)| *id).collect::<Vec<_>>()), member)
}

/// Makes a restored database that of a founder of the cluster that the flags describe, whatever the flags of its first
/// start will say. Nobody is asked: the other members may not have been restored yet.
pub(super) fn found_restored(
    config: &Config,
    database: &Database,
    base: Base,
) -> Result<Identity, StorageError> {
    let (cluster, member) = founder_ids(config);
    let identity = Identity { cluster, member, base: Some(base) };
    keep_restored((cluster, member), &founders(config, identity), database, base)
}

/// Makes a restored database that of a member of a cluster that is known.
pub(super) fn keep_restored(
    (cluster, member): (ClusterId, MemberId),
    members: &BTreeMap<u64, Peer>,
    database: &Database,
    base: Base,
) -> Result<Identity, StorageError> {
    let identity = Identity { cluster, member, base: Some(base) };
    let reader = database.reader()?;
    let mut cells = base::restored_cells(&reader, base, members)?;
    drop(reader);
    cells.extend(own_cells(identity, false).into_iter().map(|(key, cell)| (Table::Meta, key, cell)));
    database.commit(&Checkpoint { cells, ..Checkpoint::default() })?;
    assert_eq!(stored_identity(database)?, Some((identity, false)), "the first start reads the identity");
    Ok(identity)
}

/// The identity of a first member that begins with `base`.
async fn found(config: &Config, base: Base, outside: &Outside) -> Result<Identity, StartError> {
    verify_founder(config)?;
    let (cluster, member) = founder_ids(config);
    let (ours, others): (Vec<_>, Vec<_>) =
        ask_others(config, outside).await.into_iter().partition(|known| known.id == cluster.0);
    // Their cluster may be about to be replaced by this one, member by member. Until enough of them
    // are this member waits, as the members of two clusters do not speak to each other.
    if let (None, Some(KnownCluster { id: theirs, .. })) = (newest(&ours), newest(&others)) {
        tracing::warn!(
            "cluster ID mismatch: the other members of --initial-cluster belong to cluster {}, but the flags of this \
             member are for cluster {cluster}: this member waits until enough of the others are restarted with the same \
             flags. To join their cluster instead, stop this member, remove its data directory, add it with `etcdctl \
             member add` and start it with --initial-cluster-state=existing; to start a new cluster, give all members the same \
             --initial-cluster and --initial-cluster-token",
            ClusterId(*theirs)
        );
    }
    let Some(known) = newest(&ours) else { return Ok(Identity { cluster, member, base: Some(base) }) };
    // A member that lost its data has lost its votes too: under its old id it could vote twice.
    if known.members.iter().any(|known| known.id == member.0 && known.is_started) {
        return Err(StartError::Refused(format!(
            "member {member} has already been bootstrapped; if its data is lost, remove the member from the \
             cluster, add it again, and start it with --initial-cluster-state=existing"
        )));
    }
    if let Some(theirs) = known.base
        && theirs != base
    {
        return Err(StartError::Refused(format!(
            "restored data mismatch: the other members of --initial-cluster began with {theirs}, but the data \
             directory {} of member {member} holds {base}. All members of a new cluster must begin with the same data: restore \
             the same snapshot for each of them with `retcd snapshot restore`, or start each with an empty data \
             directory. If the other members have the wrong data, stop them and empty their data directories first",
            config.data_dir.display()
        )));
    }
    Ok(Identity { cluster, member, base: Some(base) })
}

/// The identity that the cluster has given to whoever comes with this member's peer URLs. `contents`
/// is what the data directory holds before.
async fn join(config: &Config, contents: Base, outside: &Outside) -> Result<Identity, StartError> {
    config.verify_join().map_err(|error| StartError::Refused(error.to_string()))?;
    if contents != Base::EMPTY {
        return Err(StartError::Refused(format!(
            "the data directory {} holds {contents}, but a member that joins a cluster gets its data from there. \
             To join, start with an empty --data-dir; to start a new cluster from the restored data, use \
             --initial-cluster-state=new",
            config.data_dir.display()
        )));
    }
    match newest(&ask_others(config, outside).await) {
        Some(cluster) => admit(config, cluster),
        None => Err(StartError::Refused(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs; \
             --initial-cluster must name the running members too, and one of them must answer"
                .to_owned(),
        )),
    }
}

/// The identity that `cluster` has for this member.
fn admit(config: &Config, cluster: &KnownCluster) -> Result<Identity, StartError> {
    let KnownCluster { id, base, members, .. } = cluster;
    let unmatched = |detail: String| {
        StartError::Refused(format!(
            "error validating peerURLs {:?}: {detail}; --initial-cluster must name the members as `member list` \
             shows them",
            members.iter().flat_map(|member| &member.peer_urls).collect::<Vec<_>>()
        ))
    };
    if members.len() != config.initial_cluster.len() {
        return Err(unmatched("member count is unequal".to_owned()));
    }
    let own = match_members(config, members).map_err(unmatched)?;
    let member = MemberId(own.id);
    if own.is_started {
        return Err(StartError::Refused(format!(
            "member {member} has already been bootstrapped; if its data is lost, remove the member from the cluster \
             and add it again"
        )));
    }
    Ok(Identity { cluster: ClusterId(*id), member, base: *base })
}

/// The member that `--initial-cluster` has as this one. Each of the running members must be in there
/// once, with URLs that lead where its own do.
fn match_members<'a>(config: &Config, members: &'a [KnownMember]) -> Result<&'a KnownMember, String> {
    let mut left: Vec<&KnownMember> = members.iter().collect();
    let mut own = None;
    let mut take = |left: &mut Vec<&'a KnownMember>, at: usize, name: &String| {
        let member = left.remove(at);
        if *name == config.name {
            own = Some(member);
        }
    };
    // Whoever is written alike need not be looked up; the host of a member that is gone may have no
    // address any more.
    let mut unmatched = Vec::new();
    for (name, urls) in &config.initial_cluster {
        match left.iter().position(|member| sockets::are_written_alike(urls, &member.peer_urls)) {
            Some(at) => take(&mut left, at, name),
            None => unmatched.push((name, urls)),
        }
    }
    let mut resolver = Resolver::new();
    for (name, urls) in unmatched {
        let differences: Vec<Option<String>> =
            left.iter().map(|member| resolver.same_places(urls, &member.peer_urls).err()).collect();
        match differences.iter().position(Option::is_none) {
            Some(at) => take(&mut left, at, name),
            None => {
                let differences = differences.into_iter().flatten().collect::<Vec<_>>().join("; ");
                return Err(format!(
                    "unmatched member while checking PeerURLs ({name}={urls:?}): {differences}"
                ));
            }
        }
    }
    own.ok_or_else(|| format!("none is named {}", config.name))
}

/// What the other members say about their cluster, in the order in which they answer. All of them are heard, because one
/// that is behind may not have applied yet that this member was added, or that it has started.
async fn ask_others(config: &Config, outside: &Outside) -> Vec<KnownCluster> {
    let others = config.initial_cluster.iter().filter(|(name, _)| *name != config.name);
    let connector = &*outside.connector;
    let asked = others.flat_map(|(_, urls)| urls).map(|url| {
        let peer = Peer { peer_urls: vec![url.clone()], is_learner: false };
        async move { link::members_at(connector, &peer, ASK_TIMEOUT).await }
    });
    let asked: FuturesUnordered<_> = asked.collect();
    asked.filter_map(|answer| ready(answer.ok())).collect().await
}

/// The description of a member that has applied more than the others. Among equals, who answered first counts: versions
/// before this one do not say what they have applied.
fn newest(described: &[KnownCluster]) -> Option<&KnownCluster> {
    described.iter().rev().max_by_key(|known| known.applied_index)
}
