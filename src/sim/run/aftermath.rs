//! After the healing: all members come to the same state, and history is compacted and read.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::{HEAL_PATIENCE, Run, Verdict};
use crate::sim::{
    clients,
    errands::{self, State},
    judges::history::{Change, Stored},
    past,
    wires::peer_url,
};

impl Run<'_> {
    /// The final keys and their revision, once they are the same on all members and do not change any more: a write
    /// whose client has given up may still be executed, and leases still end.
    pub(super) fn settle(&mut self) -> Verdict<(Vec<Stored>, i64)> {
        let end = self.world.now + HEAL_PATIENCE;
        let mut before = None;
        loop {
            let members = self.plan.setting.members;
            let states: Vec<_> = (0..members)
                .map(|member| self.world.spawn(errands::state_of(self.shared.clone(), member)))
                .collect();
            let is_over = |_: &mut Run<'_>| states.iter().all(JoinHandle::is_finished);
            self.until(HEAL_PATIENCE, is_over, "liveness: every member answers a read")?;
            let mut states: Vec<_> = states.into_iter().map(|state| self.world.result(state)).collect();
            let are_equal = states.windows(2).all(|pair| pair[0] == pair[1]);
            let first = states.swap_remove(0);
            if let Some(State { kvs, revision, peer_urls, leases, .. }) = first.clone().filter(|_| are_equal)
                && leases.is_empty()
                && !kvs.iter().any(|stored| stored.key.starts_with("lease/"))
                && before == Some(first.clone())
            {
                if self.is_spare_removed && peer_urls.contains(&peer_url(members)) {
                    return Err(("members", format!("the member that was removed is listed: {peer_urls:?}")));
                }
                return Ok((kvs, revision));
            }
            if self.world.now > end {
                states.insert(0, first);
                return Err(("replicas are equal", format!("they differ, or leases do not end: {states:?}")));
            }
            before = Some(first);
            let pause = self.world.now + Duration::from_millis(500);
            while self.world.now < pause {
                self.step()?;
            }
        }
    }

    /// Compacts, and reads keys at the revisions that are left.
    pub(super) fn read_the_past(&mut self, changes: Vec<Change>, last: i64) -> Verdict<usize> {
        let member = self.dice.below(self.plan.setting.members as u64) as usize;
        let kept = *self.dice.one_of(&[30, 100]);
        let task = self.world.spawn(clients::compact(self.shared.clone(), member, kept));
        self.until(HEAL_PATIENCE, |_| task.is_finished(), "liveness: a compaction ends")?;
        // Records are removed some time later, on each member.
        let pause = self.world.now + Duration::from_secs(1);
        while self.world.now < pause {
            self.step()?;
        }
        let compacted = self.shared.compactions.lock().iter().map(|compaction| compaction.revision).max();
        let from = compacted.unwrap_or(1).max(1);
        if changes.is_empty() {
            return Ok(0);
        }
        let reading = past::check(self.shared.clone(), self.dice.clone(), changes, (from, last));
        let reading = self.world.spawn(reading);
        self.until(HEAL_PATIENCE, |_| reading.is_finished(), "liveness: reads of the past are answered")?;
        self.world.result(reading).map_err(|what| ("past revisions", what))
    }

    /// Compacts everything, with a deletion as the newest revision. Watchers can begin there, and after a start all
    /// members have the same as before.
    pub(super) fn outlast_compaction(&mut self, kept: &[Stored]) -> Verdict {
        let members = self.plan.setting.members;
        let member = self.dice.below(members as u64) as usize;
        let key = "last/key".to_owned();
        let compacting =
            self.world.spawn(clients::compact_deletion(self.shared.clone(), member, key.clone()));
        self.until(HEAL_PATIENCE, |_| compacting.is_finished(), "liveness: a compaction ends")?;
        let revision = self.world.result(compacting);
        let revision =
            revision.map_err(|status| ("liveness", format!("a compaction fails in peace: {status}")))?;
        // The other members remove records a little later.
        let pause = self.world.now + Duration::from_millis(1200);
        while self.world.now < pause {
            self.step()?;
        }
        self.watch_deletion(revision, &key)?;
        for host in 0..self.world.hosts.len() {
            if self.world.hosts[host].is_up() {
                self.power_loss(host);
                self.start(host);
            }
        }
        self.until(HEAL_PATIENCE, Run::all_serve, "liveness: after a start of all members they serve")?;
        let (found, found_revision) = self.settle()?;
        if found != kept || found_revision != revision {
            return Err((
                "past revisions",
                format!(
                    "after a compaction up to revision {revision} and a start, revision {found_revision} has \
                     {found:?}; it was {kept:?}"
                ),
            ));
        }
        // What members know of deletions is read from their disks now.
        self.watch_deletion(revision, &key)
    }

    pub(super) fn watch_deletion(&mut self, revision: i64, key: &str) -> Verdict {
        for member in 0..self.plan.setting.members {
            let watching = past::watch_deletion(self.shared.clone(), member, revision, key.to_owned());
            let watching = self.world.spawn(watching);
            self.until(HEAL_PATIENCE, |_| watching.is_finished(), "liveness: a watcher gets an answer")?;
            self.world.result(watching).map_err(|what| ("past revisions", what))?;
        }
        Ok(())
    }
}
