//! Members whose disks have flipped bits, and those that take their place.

use tokio::task::JoinHandle;

use super::{Later, Run, Verdict};
use crate::sim::{
    errands,
    panics::{self, Panic},
    pb::etcdserverpb::AlarmType,
    world,
};

/// A member whose disk has flipped bits. There is one at a time.
pub(super) struct Damaged {
    pub(super) host: usize,
    pub(super) id: u64,
    pub(super) replacement: Option<JoinHandle<Vec<usize>>>,
}

impl Run<'_> {
    /// A member with a damaged disk, or in place of one, has not served yet. It is started with a list of all members,
    /// which must not change until then.
    pub(super) fn is_replacing(&self) -> bool {
        self.damaged.is_some() || !self.joining.is_empty()
    }

    pub(super) fn is_damaged(&self, host: usize) -> bool {
        self.damaged.as_ref().is_some_and(|damaged| damaged.host == host)
    }

    /// A member with a damaged disk says which file it is.
    pub(super) fn is_of_damage(&self, host: usize, reason: &str) -> bool {
        self.is_damaged(host) && reason.contains(&directory(host, ""))
    }

    /// redb cannot parse a page of a damaged file. In production the process ends there.
    pub(super) fn end_of_panic(&mut self, panic: Panic) -> Verdict {
        let host = self.damaged.as_ref().map(|damaged| damaged.host);
        match (host, panic.file) {
            (Some(host), Some(file)) if file.starts_with(directory(host, "snap")) => {
                self.world.trace.line(self.world.now, format_args!("redb stops m{host}"));
                self.damages.stopped_redb += 1;
                self.replace(host);
                Ok(())
            }
            _ => Err(("no panic", panic.what)),
        }
    }

    /// Ends the member at a host with a damaged disk, and has another one take its place.
    pub(super) fn replace(&mut self, host: usize) {
        if self.world.hosts[host].is_up() {
            self.disk_operations += self.world.hosts[host].disks.operations();
            self.world.hosts[host].kill();
        }
        // What redb does when it closes such a file does not matter.
        panics::take();
        self.may_fail.remove(&host);
        let (shared, hosts) = (self.shared.clone(), self.world.hosts.len());
        if let Some(damaged) = self.damaged.as_mut().filter(|damaged| damaged.replacement.is_none()) {
            self.world.trace.line(self.world.now, format_args!("m{host} is replaced"));
            let replacement = errands::replace_member(shared, host, hosts, damaged.id);
            damaged.replacement = Some(self.world.spawn(replacement));
        }
    }

    /// Replaces a member whose alarm says that its disk is damaged, and starts the member that takes its place.
    pub(super) fn watch_over_damage(&mut self) {
        let Some(mut damaged) = self.damaged.take() else { return };
        let host = damaged.host;
        match damaged.replacement.take() {
            Some(replacement) if replacement.is_finished() => {
                let founders = self.world.result(replacement);
                self.world.hosts[host].config =
                    world::config(host, founders, "existing", &self.plan.setting.flags);
                self.world.hosts[host].disks = Default::default();
                self.later.retain(|_, later| !matches!(later, Later::Start(other) if *other == host));
                self.joining.insert(host);
                self.start(host);
                let disarming = errands::disarm(self.shared.clone(), Some(AlarmType::Corrupt));
                self.errands.push(self.world.spawn(disarming));
                return;
            }
            replacement => damaged.replacement = replacement,
        }
        let is_found = damaged.replacement.is_none() && self.replicas.has_found_damage;
        self.damaged = Some(damaged);
        if is_found {
            self.damages.alarms += 1;
            self.replace(host);
        }
    }
}

/// A directory of the member at a host.
pub(super) fn directory(host: usize, name: &str) -> String {
    format!("/m{host}/member/{name}")
}
