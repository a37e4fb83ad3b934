//! What the faults of a plan do to the hosts and to the network.

use std::time::Duration;

use super::{
    Later, Run, Spare,
    damage::{Damaged, directory},
};
use crate::sim::{
    clients::{self, within},
    errands, flips,
    host::Host,
    network::Road,
    pb::etcdserverpb::{DefragmentRequest, maintenance_client::MaintenanceClient},
    plan::{Fault, Target},
};

impl Run<'_> {
    pub(super) fn power_loss(&mut self, host: usize) {
        self.world.trace.line(self.world.now, format_args!("m{host} loses power"));
        self.disk_operations += self.world.hosts[host].disks.operations();
        let dice = self.world.dice.clone();
        self.world.hosts[host].lose_power(&dice);
        self.may_fail.remove(&host);
    }

    pub(super) fn each_road(&self, change: impl Fn(&mut Road)) {
        let hosts = self.world.hosts.len() + 1;
        for from in 0..hosts {
            for to in (0..hosts).filter(|to| *to != from) {
                self.world.network.change_road(from, to, &change);
            }
        }
    }

    pub(super) fn each_road_of(&self, host: usize, change: impl Fn(&mut Road)) {
        for other in (0..=self.world.hosts.len()).filter(|other| *other != host) {
            self.world.network.change_road(host, other, &change);
            self.world.network.change_road(other, host, &change);
        }
    }

    pub(super) fn host_of(&self, target: Target) -> Option<usize> {
        match target {
            Target::Host(host) => Some(host),
            Target::Leader => {
                let leads = |host: &&Host| host.node().is_some_and(|node| node.leadership().is_leader);
                self.world.hosts.iter().find(leads).map(|host| host.number)
            }
        }
    }

    /// False if there was nothing to do it to.
    pub(super) fn begin_fault(&mut self, fault: &Fault) -> bool {
        let of = |target: &Target| self.host_of(*target).filter(|host| self.world.hosts[*host].is_up());
        match fault {
            Fault::Kill { target, down } => {
                let Some(host) = of(target) else { return false };
                self.disk_operations += self.world.hosts[host].disks.operations();
                self.world.hosts[host].kill();
                self.may_fail.remove(&host);
                self.later(*down, Later::Start(host));
            }
            Fault::PowerLoss { target, down } => {
                let Some(host) = of(target) else { return false };
                self.power_loss(host);
                self.later(*down, Later::Start(host));
            }
            Fault::PowerLossAtOperation { target, operations, down } => {
                let Some(host) = of(target) else { return false };
                self.world.hosts[host].disks.fail_after(*operations);
                self.may_fail.insert(host);
                self.later(*down, Later::Start(host));
            }
            Fault::SyncError { target, syncs, down } => {
                let Some(host) = of(target) else { return false };
                self.world.hosts[host].disks.fail_sync_after(*syncs);
                self.may_fail.insert(host);
                self.later(*down, Later::Start(host));
            }
            Fault::Stop { target, down } => {
                let Some(host) = of(target) else { return false };
                self.world.hosts[host].stop();
                self.later(*down, Later::Start(host));
            }
            Fault::Pause { target, time } => {
                let Some(host) = of(target) else { return false };
                let until = self.world.now + *time;
                self.world.hosts[host].paused_until = until;
                self.world.network.pause(host, until);
            }
            Fault::Isolate { target, time } => {
                let Some(host) = self.host_of(*target) else { return false };
                self.part(&[host], *time);
            }
            Fault::Part { target, with, time } => {
                let Some(host) = self.host_of(*target).filter(|host| host != with) else { return false };
                self.part(&[host, *with], *time);
            }
            Fault::CutOneWay { from, to, time } => {
                let Some(from) = self.host_of(*from).filter(|from| from != to) else { return false };
                self.cut(from, *to, *time);
            }
            Fault::Delay { target, delay, time } => {
                let Some(host) = self.host_of(*target) else { return false };
                self.each_road_of(host, |road| road.delay = *delay);
                self.later(*time, Later::Undelay(host));
            }
            Fault::Lossy { lost, broken, time } => {
                self.each_road(|road| (road.lost, road.broken) = (*lost, *broken));
                self.later(*time, Later::Unlossy);
            }
            Fault::Drift { target, rate } => {
                let Some(host) = self.host_of(*target) else { return false };
                self.world.hosts[host].clock_rate = *rate;
            }
            Fault::WallJump { target, secs } => {
                let Some(host) = self.host_of(*target) else { return false };
                self.world.hosts[host].wall_offset_secs += secs;
            }
            Fault::MoveLeader => {
                let Some(host) = self.host_of(Target::Leader) else { return false };
                let (shared, dice) = (self.shared.clone(), self.dice.clone());
                let task = self.world.spawn(async move { errands::move_leader(&shared, host, &dice).await });
                self.errands.push(task);
            }
            Fault::Compact => {
                let member = self.dice.below(self.plan.setting.members as u64) as usize;
                let kept = *self.dice.one_of(&[30, 100, 300]);
                let task = self.world.spawn(clients::compact(self.shared.clone(), member, kept));
                self.errands.push(task);
            }
            Fault::Defragment { target } => {
                let Some(host) = of(target) else { return false };
                let shared = self.shared.clone();
                let task = self.world.spawn(async move {
                    let mut client = MaintenanceClient::new(shared.admin_wire(host));
                    let _ = within(client.defragment(DefragmentRequest {})).await;
                });
                self.errands.push(task);
            }
            Fault::AddMember => {
                // With a damaged member, a new one may be one too many that does not run.
                if !matches!(self.spare, Spare::Free) || self.is_replacing() {
                    return false;
                }
                let (host, hosts) = (self.plan.setting.members, self.world.hosts.len());
                self.is_spare_removed = false;
                let adding = errands::add_member(self.shared.clone(), host, hosts);
                self.spare = Spare::Adding(self.world.spawn(adding));
            }
            Fault::RemoveMember => {
                if !matches!(self.spare, Spare::Member) || self.is_replacing() {
                    return false;
                }
                let host = self.plan.setting.members;
                let (shared, member) = (self.shared.clone(), self.dice.below(host as u64) as usize);
                self.spare = Spare::Removing(self.world.spawn(errands::remove_member(shared, member, host)));
            }
            Fault::FullDisk { target, room, time } => {
                let Some(host) = of(target) else { return false };
                self.world.hosts[host].disks.limit_room(Some(*room));
                self.full.insert(host);
                self.later(*time, Later::Room(host));
            }
            Fault::Flip { target, is_log, down } => {
                let is_free = self.damaged.is_none() && self.is_settled();
                let host = of(target).filter(|host| is_free && *host < self.plan.setting.members);
                let Some(host) = host else { return false };
                let Some(node) = self.world.hosts[host].node() else { return false };
                let id = node.ids().1.0;
                drop(node);
                self.disk_operations += self.world.hosts[host].disks.operations();
                self.world.hosts[host].kill();
                self.may_fail.remove(&host);
                self.later(*down, Later::Start(host));
                let directory = directory(host, if *is_log { "wal" } else { "snap" });
                if !flips::flip(&self.world.hosts[host].disks, &directory, *is_log, &self.dice) {
                    return false;
                }
                self.replicas.damaged.insert(id);
                self.replicas.has_found_damage = false;
                self.damaged = Some(Damaged { host, id, replacement: None });
            }
            Fault::Alarm { time } => {
                if self.alarm.as_ref().is_some_and(|alarm| !alarm.is_finished()) {
                    return false;
                }
                let member = self.dice.below(self.plan.setting.members as u64) as usize;
                let alarm = errands::alarm(self.shared.clone(), member, *time);
                self.alarm = Some(self.world.spawn(alarm));
            }
            Fault::LeaseStorm => {
                let storm = errands::lease_storm(self.shared.clone(), self.dice.clone());
                self.errands.push(self.world.spawn(storm));
            }
        }
        true
    }

    /// Nothing gets from these hosts to the others, or back.
    pub(super) fn part(&mut self, side: &[usize], time: Duration) {
        let others: Vec<usize> = (0..self.world.hosts.len()).filter(|host| !side.contains(host)).collect();
        for (&host, &other) in side.iter().flat_map(|host| others.iter().map(move |other| (host, other))) {
            self.cut(host, other, time);
            self.cut(other, host, time);
        }
    }

    pub(super) fn cut(&mut self, from: usize, to: usize, time: Duration) {
        self.world.network.change_road(from, to, |road| road.is_cut = true);
        self.later(time, Later::Uncut(from, to));
    }
}
