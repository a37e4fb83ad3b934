//! One file of the log, which may be put aside when it is large enough.
//!
//! What is put aside keeps its directory and gets the time into its name: `etcd.log` becomes
//! `etcd-2026-01-02T15-04-05.000.log`, and `.gz` behind that once it is compressed. etcd names them in the same way, so
//! that either finds what the other has left.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::Duration,
};

use chrono::{DateTime, Local, NaiveDateTime, TimeZone, Utc};
use flate2::{Compression, write::GzEncoder};

use crate::{clock, config::LogRotation, threads};

const TIME_FORMAT: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const COMPRESSED: &str = ".gz";
/// What is being compressed.
const DRAFT: &str = ".gz.tmp";

/// How much a file may grow before another attempt, if it could not be put aside.
const RETRY_BYTES: u64 = 1024 * 1024;

/// By how much the niceness of the thread that compresses is above the process's.
const NICENESS: i32 = 10;

#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    file: File,
    size: u64,
    rotation: Option<LogRotation>,
    /// The size at which the file is put aside.
    full_at: u64,
    /// A line was written in part. The next one begins with a line break, so that it stands by itself.
    is_torn: bool,
    /// Removes and compresses what was put aside.
    upkeep: Option<JoinHandle<()>>,
}

impl RotatedFile {
    /// The error names the file.
    pub(super) fn open(path: &Path, rotation: Option<LogRotation>) -> io::Result<RotatedFile> {
        let file = open(path, rotation.is_some())?;
        let size = file.metadata()?.len();
        let full_at = rotation.as_ref().map_or(u64::MAX, |rotation| rotation.size_bytes);
        let mut opened = RotatedFile {
            path: path.to_owned(),
            file,
            size,
            rotation,
            full_at,
            is_torn: false,
            upkeep: None,
        };
        opened.look_after();
        Ok(opened)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what has the file's name now.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let file = open(&self.path, self.rotation.is_some())?;
        self.size = file.metadata()?.len();
        self.file = file;
        self.is_torn = false;
        self.full_at = self.rotation.as_ref().map_or(u64::MAX, |rotation| rotation.size_bytes);
        Ok(())
    }

    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size.saturating_add(line.len() as u64) > self.full_at {
            self.put_aside();
        }
        if self.is_torn {
            self.append(b"\n")?;
            self.is_torn = false;
        }
        let before = self.size;
        let written = self.append(line);
        self.is_torn = written.is_err() && self.size > before;
        written
    }

    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.size += count as u64;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Renames the file and begins a new one. If that fails, the log goes on in the file that is there.
    fn put_aside(&mut self) {
        let Some(rotation) = &self.rotation else { return };
        let aside = free_name(&self.path, rotation.local_time);
        let next = fs::rename(&self.path, &aside).and_then(|()| {
            // A file that could not be made leaves things as they were.
            begin(&self.path, &self.file).inspect_err(|_| drop(fs::rename(&aside, &self.path)))
        });
        match next {
            Ok(file) => {
                (self.file, self.size, self.full_at, self.is_torn) = (file, 0, rotation.size_bytes, false);
                self.look_after();
            }
            Err(error) => {
                self.full_at = self.size.saturating_add(RETRY_BYTES);
                tracing::error!(
                    path = %self.path.display(),
                    %error,
                    "cannot begin a new log file; the log goes on in the old one. Look at the permissions of its \
                     directory and at the free space"
                );
            }
        }
    }

    /// Has a thread remove and compress what was put aside. If the last one still works, this waits for the next time.
    fn look_after(&mut self) {
        let Some(rotation) = self.rotation.clone() else { return };
        if self.upkeep.as_ref().is_some_and(|upkeep| !upkeep.is_finished()) {
            return;
        }
        let path = self.path.clone();
        let upkeep = threads::try_spawn("retcd-log-upkeep", move || {
            // Compressing at full priority is a pity, and nothing worse.
            let _ = rustix::process::nice(NICENESS);
            look_after(&path, &rotation);
        });
        self.upkeep = upkeep
            .inspect_err(
                |error| tracing::warn!(%error, "cannot look after old log files; trying again with the next"),
            )
            .ok();
    }
}

/// Opens a file for appending. Files that are put aside by ourselves are only for the user of this process, unless one
/// is there, and their directory is made, as etcd does it.
fn open(path: &Path, is_rotated: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    if is_rotated {
        options.mode(0o600);
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(dir)
                .map_err(|error| named(path, &error))?;
        }
    }
    options.open(path).map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot open the log file {}: {error}", path.display()))
}

/// A new file with the permissions and the owner of the one before.
fn begin(path: &Path, before: &File) -> io::Result<File> {
    let metadata = before.metadata()?;
    let file = OpenOptions::new().create(true).append(true).mode(metadata.mode() & 0o7777).open(path)?;
    // Only root may give files away; a file of another owner is written to all the same.
    let _ = fchown(&file, Some(metadata.uid()), Some(metadata.gid()));
    let _ = file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777));
    Ok(file)
}

/// A name for what is put aside now, which no other file has.
fn free_name(path: &Path, local_time: bool) -> PathBuf {
    let mut time = clock::wall();
    loop {
        let aside = path.with_file_name(name_at(path, time, local_time));
        let mut compressed = aside.clone().into_os_string();
        compressed.push(COMPRESSED);
        if !aside.exists() && !Path::new(&compressed).exists() {
            return aside;
        }
        time += Duration::from_millis(1);
    }
}

fn name_at(path: &Path, time: Duration, local_time: bool) -> OsString {
    let time = DateTime::<Utc>::from_timestamp_millis(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
        .unwrap_or(DateTime::<Utc>::MAX_UTC);
    let time = if local_time {
        time.with_timezone(&Local).format(TIME_FORMAT).to_string()
    } else {
        time.format(TIME_FORMAT).to_string()
    };
    let (mut name, extension) = parts(path);
    name.push(time);
    name.push(extension);
    name
}

/// What stands before and behind the time in the names of what was put aside.
fn parts(path: &Path) -> (OsString, OsString) {
    let mut stem = path.file_stem().unwrap_or_default().to_owned();
    stem.push("-");
    let mut extension = OsString::new();
    if let Some(text) = path.extension() {
        extension.push(".");
        extension.push(text);
    }
    (stem, extension)
}

/// A file that was put aside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Aside {
    /// When, since 1970. Newer ones are greater.
    time: Duration,
    name: OsString,
    is_compressed: bool,
}

impl Aside {
    /// `None` if the name is not that of a file that was put aside.
    fn parse(name: &OsString, path: &Path, local_time: bool) -> Option<Aside> {
        let (before, behind) = parts(path);
        let text = name.to_str()?;
        let (text, is_compressed) = match text.strip_suffix(COMPRESSED) {
            Some(text) => (text, true),
            None => (text, false),
        };
        let time = text.strip_prefix(before.to_str()?)?.strip_suffix(behind.to_str()?)?;
        let time = NaiveDateTime::parse_from_str(time, TIME_FORMAT).ok()?;
        let millis = match Local.from_local_datetime(&time).earliest().filter(|_| local_time) {
            Some(time) => time.timestamp_millis(),
            None => time.and_utc().timestamp_millis(),
        };
        let time = Duration::from_millis(u64::try_from(millis).ok()?);
        Some(Aside { time, name: name.clone(), is_compressed })
    }
}

/// Removes what is too old or too much, and compresses the rest if that is wanted.
fn look_after(path: &Path, rotation: &LogRotation) {
    if rotation.backups.is_none() && rotation.age.is_none() && !rotation.compress {
        return;
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = match fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect::<Vec<_>>(),
        Err(error) => {
            tracing::warn!(path = %dir.display(), %error, "cannot list old log files");
            return;
        }
    };
    for draft in names.iter().filter(|name| is_draft(name, path, rotation.local_time)) {
        // Of a process that ended meanwhile. Its original may be among those that are removed.
        let file = dir.join(draft);
        if let Err(error) = fs::remove_file(&file) {
            tracing::warn!(path = %file.display(), %error, "cannot remove what is left of compressing a log file");
        }
    }
    let asides = names.iter().filter_map(|name| Aside::parse(name, path, rotation.local_time)).collect();
    let (remove, keep) = split(asides, rotation, clock::wall());
    for aside in remove {
        let file = dir.join(&aside.name);
        if let Err(error) = fs::remove_file(&file) {
            tracing::warn!(path = %file.display(), %error, "cannot remove an old log file");
        }
    }
    for aside in keep.iter().filter(|aside| rotation.compress && !aside.is_compressed) {
        let file = dir.join(&aside.name);
        if let Err(error) = compress(&file) {
            tracing::warn!(path = %file.display(), %error, "cannot compress an old log file; it stays as it is");
        }
    }
}

fn is_draft(name: &OsString, path: &Path, local_time: bool) -> bool {
    let original = name.to_str().and_then(|name| name.strip_suffix(DRAFT));
    original.is_some_and(|original| Aside::parse(&original.into(), path, local_time).is_some())
}

/// What is to be removed, and what is kept. A file and its compressed form count as one.
fn split(mut asides: Vec<Aside>, rotation: &LogRotation, now: Duration) -> (Vec<Aside>, Vec<Aside>) {
    asides.sort();
    let mut times: Vec<Duration> = asides.iter().map(|aside| aside.time).collect();
    times.dedup();
    let too_many = times.len().saturating_sub(rotation.backups.unwrap_or(usize::MAX));
    let oldest = times.get(too_many).copied().unwrap_or(Duration::MAX);
    let oldest = oldest.max(rotation.age.map_or(Duration::ZERO, |age| now.saturating_sub(age)));
    asides.into_iter().partition(|aside| aside.time < oldest)
}

/// The compressed file gets its name when it is complete, and only then the original is removed.
fn compress(path: &Path) -> io::Result<()> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (draft, done) = (with(DRAFT), with(COMPRESSED));
    let write = || {
        let mut original = File::open(path)?;
        let mode = original.metadata()?.mode() & 0o7777;
        let draft = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&draft)?;
        let mut encoder = GzEncoder::new(draft, Compression::default());
        io::copy(&mut original, &mut encoder)?;
        encoder.finish()?.sync_all()
    };
    match write().and_then(|()| fs::rename(&draft, &done)) {
        Ok(()) => fs::remove_file(path),
        Err(error) => {
            // The next attempt writes over what is left of it.
            let _ = fs::remove_file(&draft);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn rotation(size_bytes: u64) -> LogRotation {
        LogRotation { size_bytes, age: None, backups: None, local_time: false, compress: false }
    }

    fn aside(days: u32, is_compressed: bool) -> Aside {
        let name = format!("{days}{}", if is_compressed { ".gz" } else { "" });
        Aside { time: DAY * days, name: name.into(), is_compressed }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a directory");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<String> =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn upkeep_of(file: &mut RotatedFile) {
        threads::join(file.upkeep.take().expect("a thread was started"));
    }

    #[test]
    fn what_an_earlier_process_left_of_compressing_is_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("etcd.log");
        // Its original was removed, because there were too many.
        let draft = name_at(&path, DAY, false).into_string().expect("a name") + DRAFT;
        fs::write(dir.path().join(draft), "a part").expect("written");
        fs::write(dir.path().join("other.gz.tmp"), "of somebody else").expect("written");
        let settings = LogRotation { compress: true, backups: Some(2), ..rotation(8) };
        let mut file = RotatedFile::open(&path, Some(settings)).expect("a file");
        upkeep_of(&mut file);
        assert_eq!(names(dir.path()), ["etcd.log", "other.gz.tmp"]);
    }

    #[test]
    fn the_names_are_those_of_etcd_and_are_read_back() {
        let path = Path::new("/var/log/etcd.log");
        let time = Duration::from_millis(1_767_366_245_067);
        assert_eq!(name_at(path, time, false), "etcd-2026-01-02T15-04-05.067.log");
        assert_eq!(name_at(Path::new("log"), time, false), "log-2026-01-02T15-04-05.067");
        for local_time in [false, true] {
            let name = name_at(path, time, local_time);
            let aside = Aside { time, name: name.clone(), is_compressed: false };
            assert_eq!(Aside::parse(&name, path, local_time), Some(aside));
        }
        let compressed = OsString::from("etcd-2026-01-02T15-04-05.067.log.gz");
        assert!(Aside::parse(&compressed, path, false).expect("one").is_compressed);
        for other in ["etcd.log", "etcd-2026-01-02T15-04-05.067.txt", "etcd-yesterday.log", "x"] {
            assert_eq!(Aside::parse(&other.into(), path, false), None, "{other}");
        }
    }

    #[test]
    fn what_is_too_old_or_too_much_goes() {
        let all = || vec![aside(3, false), aside(1, false), aside(2, true), aside(2, false), aside(4, false)];
        let removed = |backups, age: Option<u32>| {
            let rotation = LogRotation { backups, age: age.map(|days| DAY * days), ..rotation(1) };
            let (remove, keep) = split(all(), &rotation, DAY * 5);
            assert_eq!(remove.len() + keep.len(), 5);
            remove.into_iter().map(|aside| aside.name.into_string().expect("text")).collect::<Vec<_>>()
        };
        assert_eq!(removed(None, None), [""; 0]);
        assert_eq!(removed(Some(3), None), ["1"]);
        assert_eq!(removed(Some(2), None), ["1", "2", "2.gz"], "a file and its compressed form are one");
        assert_eq!(removed(Some(9), None), [""; 0]);
        assert_eq!(removed(None, Some(2)), ["1", "2", "2.gz"]);
        assert_eq!(removed(Some(1), Some(100)), ["1", "2", "2.gz", "3"]);
    }

    #[test]
    fn a_full_file_is_put_aside_and_a_line_is_never_split() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("sub/etcd.log");
        let mut file = RotatedFile::open(&path, Some(rotation(10))).expect("a file");
        for line in ["12345\n", "1234\n", "a line longer than that\n", "x\n"] {
            file.write(line.as_bytes()).expect("written");
        }
        let names = names(&dir.path().join("sub"));
        assert_eq!((names.len(), names.last().map(String::as_str)), (4, Some("etcd.log")), "{names:?}");
        assert_eq!(fs::read_to_string(&path).expect("the newest"), "x\n");
        let old =
            names[..3].iter().map(|name| fs::read_to_string(path.with_file_name(name)).expect("an old one"));
        assert_eq!(old.collect::<String>(), "12345\n1234\na line longer than that\n");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
    }

    #[test]
    fn old_files_are_compressed_and_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("etcd.log");
        let settings = LogRotation { compress: true, backups: Some(2), ..rotation(8) };
        let mut file = RotatedFile::open(&path, Some(settings)).expect("a file");
        upkeep_of(&mut file);
        for number in 0..5 {
            file.write(format!("line-{number}\n").as_bytes()).expect("written");
            if number > 0 {
                upkeep_of(&mut file);
            }
        }
        let names = names(dir.path());
        assert_eq!(names.len(), 3, "{names:?}");
        let mut text = String::new();
        for name in &names[..2] {
            assert!(name.ends_with(".log.gz"), "{name}");
            let mut decoder = GzDecoder::new(File::open(dir.path().join(name)).expect("there"));
            decoder.read_to_string(&mut text).expect("gzip");
        }
        assert_eq!(text, "line-2\nline-3\n");
    }

    #[test]
    fn a_file_that_was_renamed_is_begun_anew_when_that_is_asked_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log");
        let mut file = RotatedFile::open(&path, None).expect("a file");
        file.write(b"1\n").expect("written");
        fs::rename(&path, dir.path().join("log.1")).expect("renamed");
        file.write(b"2\n").expect("written");
        file.reopen().expect("opened");
        file.write(b"3\n").expect("written");
        assert_eq!(fs::read_to_string(dir.path().join("log.1")).expect("the old one"), "1\n2\n");
        assert_eq!(fs::read_to_string(&path).expect("the new one"), "3\n");
    }

    #[test]
    fn a_file_that_cannot_be_put_aside_is_written_to_further() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log");
        let mut file = RotatedFile::open(&path, Some(rotation(2))).expect("a file");
        file.write(b"1\n").expect("written");
        fs::remove_file(&path).expect("it was there");
        file.write(b"2\n").expect("there is nothing to rename, and the line is taken");
        assert_eq!((file.size, file.full_at), (4, 2 + RETRY_BYTES));
    }
}
