//! What a path on the command line names: a file of etcd's format, or the data directory of a member.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    bbolt::{BboltFile, is_bbolt},
    cli::{go::reason, output},
    clock,
    config::{CheckCommand, ConfigError},
    disk::{Directory, Disk, DiskFile},
    migrate::{self, FileStatus, IntakeError},
    mvcc::{KvHash, RevError},
    node::{Contents, ContentsError},
};

/// How long to wait for a file that another process uses.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    Within(Duration),
    Endless,
}

/// Something whose keys can be read. Nobody else can use it while this lives.
pub(super) enum Source {
    File { path: PathBuf, file: Arc<dyn DiskFile> },
    Member(Box<Contents>),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("stat {}: {}", path.display(), reason(error))]
    NotThere { path: PathBuf, error: io::Error },
    #[error("cannot read {}: {}", path.display(), reason(error))]
    Read { path: PathBuf, error: io::Error },
    #[error("{} is in use by another process: stop it, or wait longer with --timeout", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{} is neither a snapshot, nor the database of an etcd, nor a data directory",
        path.display()
    )]
    Unknown { path: PathBuf },
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: IntakeError },
    #[error("{0}")]
    Directory(#[from] DirectoryError),
}

/// A data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirectoryError {
    #[error("stat {}: {}", path.display(), reason(error))]
    NotThere { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Config(ConfigError),
    #[error("{0}")]
    Contents(#[from] ContentsError),
    #[error(
        "it is a data directory of etcd, which retcd does not change: use the etcdutl of etcd, or `retcd import`"
    )]
    OfEtcd,
}

/// Bytes with which the format of a file is recognized.
const HEAD_BYTES: usize = 64;
const REDB_MAGIC: &[u8] = b"redb";
/// How often it is tried whether a file is still in use.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

impl Source {
    pub(super) fn verify_there(path: &Path) -> Result<(), SourceError> {
        let found = fs::metadata(path).map(drop);
        found.map_err(|error| SourceError::NotThere { path: path.to_owned(), error })
    }

    pub(super) fn open(path: &Path, patience: Patience) -> Result<Source, SourceError> {
        Source::verify_there(path)?;
        if path.is_dir() {
            let database = database(path);
            return match begins_with(&database, is_bbolt) {
                true => {
                    output::notice(format_args!(
                        "{} is a data directory of etcd: only its database is read, and not what its log has beyond that",
                        path.display()
                    ));
                    Source::of_file(&database, patience)
                }
                false => Ok(Source::Member(Box::new(open_member(path, patience)?))),
            };
        }
        // The database of a member of retcd is nothing without the log beside it.
        let member = path.parent().and_then(Path::parent).and_then(Path::parent);
        let is_member =
            path.ends_with("member/snap/db") && begins_with(path, |head| head.starts_with(REDB_MAGIC));
        match member.filter(|_| is_member) {
            Some(data_dir) => {
                let data_dir = if data_dir == Path::new("") { Path::new(".") } else { data_dir };
                Ok(Source::Member(Box::new(open_member(data_dir, patience)?)))
            }
            None => Source::of_file(path, patience),
        }
    }

    fn of_file(path: &Path, patience: Patience) -> Result<Source, SourceError> {
        let owned = || path.to_owned();
        let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        let name = path.file_name().ok_or_else(|| SourceError::Unknown { path: owned() })?;
        let opened = Directory::open(parent).and_then(|directory| directory.open_to_read(Path::new(name)));
        let file = opened.map_err(|error| SourceError::Read { path: owned(), error })?;
        // A file system without locks has nobody who holds one.
        patience
            .wait(|| if file.try_lock().unwrap_or(true) { Attempt::Done(()) } else { Attempt::InUse(()) })
            .map_err(|()| SourceError::InUse { path: owned() })?;
        match begins_with(path, is_bbolt) {
            true => Ok(Source::File { path: owned(), file: file.into() }),
            false => Err(SourceError::Unknown { path: owned() }),
        }
    }

    pub(super) fn status(&self) -> Result<FileStatus, SourceError> {
        match self {
            Source::File { path, file } => read(path, file, migrate::status),
            Source::Member(contents) => Ok(contents.status().map_err(DirectoryError::from)?),
        }
    }

    /// The hash of the history up to a revision; 0 is the newest.
    pub(super) fn hash_kv(&self, rev: i64) -> Result<Result<KvHash, RevError>, SourceError> {
        match self {
            Source::File { path, file } => read(path, file, |file| migrate::hash_kv(file, rev)),
            Source::Member(contents) => Ok(contents.hash_kv(rev).map_err(DirectoryError::from)?),
        }
    }

    /// Whether the directory has a database, as that of every member has.
    pub(super) fn verify_member(data_dir: &Path) -> Result<(), DirectoryError> {
        let path = database(data_dir);
        let found = fs::metadata(&path).map(drop);
        found.map_err(|error| DirectoryError::NotThere { path, error })
    }

    pub(super) fn is_of_etcd(data_dir: &Path) -> bool {
        begins_with(&database(data_dir), is_bbolt)
    }

    /// The lengths of the database, before and after.
    pub(super) fn defragment(data_dir: &Path, patience: Patience) -> Result<(u64, u64), DirectoryError> {
        if Source::is_of_etcd(data_dir) {
            return Err(DirectoryError::OfEtcd);
        }
        Ok(open_member(data_dir, patience)?.defragment()?)
    }
}

fn database(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("snap").join("db")
}

fn begins_with(path: &Path, is_so: impl Fn(&[u8]) -> bool) -> bool {
    let mut head = Vec::new();
    let read = fs::File::open(path)
        .and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, HEAD_BYTES as u64), &mut head));
    read.is_ok() && is_so(&head)
}

fn read<T>(
    path: &Path,
    file: &Arc<dyn DiskFile>,
    read: impl FnOnce(&BboltFile) -> Result<T, IntakeError>,
) -> Result<T, SourceError> {
    let len = file.len().map_err(|error| SourceError::Read { path: path.to_owned(), error })?;
    let opened = BboltFile::open(file.clone(), len).map_err(IntakeError::from);
    opened.and_then(|file| read(&file)).map_err(|error| SourceError::File { path: path.to_owned(), error })
}

fn open_member(data_dir: &Path, patience: Patience) -> Result<Contents, DirectoryError> {
    let config = CheckCommand::of(data_dir).map_err(DirectoryError::Config)?.config;
    let opened = patience.wait(|| match Contents::open(&config) {
        Err(error) if error.is_in_use() => Attempt::InUse(error),
        opened => Attempt::Done(opened),
    });
    Ok(opened??)
}

/// What came of trying to use something that another process may use.
enum Attempt<T, E> {
    Done(T),
    InUse(E),
}

impl Patience {
    /// Tries until it is done. The error is that of the last attempt.
    fn wait<T, E>(self, attempt: impl Fn() -> Attempt<T, E>) -> Result<T, E> {
        let begin = clock::now();
        loop {
            match (attempt(), self) {
                (Attempt::Done(done), _) => return Ok(done),
                (Attempt::InUse(error), Patience::Within(time)) if clock::since(begin) >= time => {
                    return Err(error);
                }
                (Attempt::InUse(_), _) => clock::pause(RETRY_PAUSE),
            }
        }
    }
}
