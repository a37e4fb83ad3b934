//! The backups in a directory: their names, when the next is due, and which are not kept.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    config::Retain,
    types::{ClusterId, Rev},
};

/// The cluster, the time and the revision of a backup, which its name says:
/// `retcd-<cluster>-<20261129T161500Z>-r<revision>.db`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Backup {
    /// Since 1970.
    pub(super) taken_at: Duration,
    pub(super) revision: Rev,
}

/// The names of one cluster's backups. Other files in the directory are none of ours.
pub(super) struct Names {
    cluster: ClusterId,
}

impl Names {
    pub(super) fn of(cluster: ClusterId) -> Names {
        Names { cluster }
    }

    pub(super) fn name(&self, backup: Backup) -> PathBuf {
        let Backup { taken_at, revision } = backup;
        let time = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + taken_at).to_string();
        let time = time.replace(['-', ':'], "");
        format!("retcd-{}-{time}-r{revision}.db", self.cluster).into()
    }

    /// Of a file that a member has not finished.
    pub(super) fn part(&self, member: &str) -> PathBuf {
        format!("retcd-{}-{member}.part", self.cluster).into()
    }

    /// `None` for a file that is none of these backups.
    pub(super) fn read(&self, name: &Path) -> Option<Backup> {
        let text = name.to_str()?;
        let rest = text.strip_prefix(&format!("retcd-{}-", self.cluster))?.strip_suffix(".db")?;
        let (time, revision) = rest.split_once("-r")?;
        let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
        let part = |text: &str, from: usize, len: usize| text.get(from..from + len).map(str::to_owned);
        let time = format!(
            "{}-{}-{}T{}:{}:{}Z",
            part(date, 0, 4)?,
            part(date, 4, 2)?,
            part(date, 6, 2)?,
            part(clock, 0, 2)?,
            part(clock, 2, 2)?,
            part(clock, 4, 2)?
        );
        let time = humantime::parse_rfc3339(&time).ok()?;
        let taken_at = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let revision = revision.parse().ok().filter(|revision| *revision > 0)?;
        let backup = Backup { taken_at, revision: Rev(revision) };
        // Whatever else can be read in this way is none of our names.
        (self.name(backup) == name).then_some(backup)
    }

    /// The backups among the files of a directory, oldest first.
    pub(super) fn read_all(&self, files: &[PathBuf]) -> Vec<Backup> {
        let mut backups: Vec<Backup> = files.iter().filter_map(|name| self.read(name)).collect();
        backups.sort_unstable();
        backups
    }
}

/// How long to wait for the next backup. A clock that was set back delays it by an interval at most.
pub(super) fn due_in(newest: Option<Backup>, interval: Duration, now: Duration) -> Duration {
    let Some(newest) = newest else { return Duration::ZERO };
    (newest.taken_at + interval).saturating_sub(now).min(interval)
}

/// The backups that are not kept, of some in order. The newest is always kept.
pub(super) fn surplus(backups: &[Backup], retain: Retain, now: Duration) -> Vec<Backup> {
    let Some((_newest, older)) = backups.split_last() else { return Vec::new() };
    let kept_by_count = retain.count.map_or(older.len(), |count| count.saturating_sub(1));
    let is_surplus = |(age_rank, backup): (usize, &Backup)| {
        let age = now.saturating_sub(backup.taken_at);
        let is_too_old = retain.age.is_some_and(|age_max| age > age_max);
        (age_rank >= kept_by_count || is_too_old).then_some(*backup)
    };
    older.iter().rev().enumerate().filter_map(is_surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    /// 2026-11-29, 16:15.
    const NOW: Duration = Duration::from_secs(1_795_968_900);

    fn names() -> Names {
        Names::of(ClusterId(0x1234))
    }

    /// Taken some hours ago, oldest first.
    fn taken(hours_ago: &[u32]) -> Vec<Backup> {
        let backup = |hours: &u32| Backup { taken_at: NOW - HOUR * *hours, revision: Rev(7) };
        hours_ago.iter().map(backup).collect()
    }

    #[test]
    fn a_name_says_what_it_is_of() {
        let backup = Backup { taken_at: NOW, revision: Rev(42) };
        let name = names().name(backup);
        assert_eq!(name.to_str(), Some("retcd-1234-20261129T161500Z-r42.db"));
        assert_eq!(names().read(&name), Some(backup));
        assert_eq!(Names::of(ClusterId(0x1235)).read(&name), None, "of another cluster");
    }

    #[test]
    fn other_files_are_none_of_ours() {
        for name in [
            "",
            "backup.db",
            "retcd-1234-20261129T161500Z-r42.db.part",
            "retcd-1234-20261129T161500Z-r-42.db",
            "retcd-1234-20261129T161500Z-r042.db",
            "retcd-1234-20261329T161500Z-r42.db",
            "retcd-1234-2026112T161500Z-r42.db",
            "retcd-1234-20261129T1615001Z-r42.db",
            "retcd-1234-\u{e9}0261129T161500Z-r42.db",
            "retcd-1234-m1.part",
        ] {
            assert_eq!(names().read(Path::new(name)), None, "{name}");
        }
    }

    #[test]
    fn a_backup_is_due_an_interval_after_the_last() {
        assert_eq!(due_in(None, HOUR, NOW), Duration::ZERO);
        let newest = |hours_ago| taken(&[hours_ago]).pop();
        assert_eq!(due_in(newest(0), HOUR, NOW), HOUR);
        assert_eq!(due_in(newest(1), HOUR * 3, NOW), HOUR * 2);
        assert_eq!(due_in(newest(9), HOUR, NOW), Duration::ZERO);
        let from_the_future = Backup { taken_at: NOW + HOUR * 100, revision: Rev(1) };
        assert_eq!(due_in(Some(from_the_future), HOUR, NOW), HOUR);
    }

    #[test]
    fn the_newest_are_kept_and_the_young() {
        let backups = taken(&[9, 5, 3, 1]);
        let of = |count, age: Option<Duration>| {
            let surplus = surplus(&backups, Retain { count, age }, NOW);
            let hours_ago = surplus.iter().map(|backup| ((NOW - backup.taken_at).as_secs() / 3600) as u32);
            hours_ago.collect::<Vec<_>>()
        };
        let none: [u32; 0] = [];
        assert_eq!(of(None, None), none);
        assert_eq!(of(Some(4), None), none);
        assert_eq!(of(Some(2), None), [5, 9]);
        assert_eq!(of(Some(1), None), [3, 5, 9]);
        assert_eq!(of(None, Some(HOUR * 4)), [5, 9]);
        assert_eq!(of(Some(3), Some(HOUR * 4)), [5, 9]);
        assert_eq!(of(Some(2), Some(HOUR / 2)), [3, 5, 9], "the newest is kept though it is old");
        assert!(surplus(&[], Retain { count: Some(1), age: None }, NOW).is_empty());
    }
}
