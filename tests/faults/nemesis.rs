//! The faults, one test for each.
//!
//! A test checks that its fault happened: the process was paused, bytes were held back, syncs waited, another
//! member leads. If a quorum is left, writes must succeed during the fault.

use std::{
    fs,
    io::{self, Write},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    task::block_in_place,
    time::{self, Instant},
};

use crate::{
    cluster::PATIENCE,
    run::{FLAGS, Run, under_load},
    tools::etcdctl,
};

/// How long a fault lasts: several election timeouts, and more than a client waits for an answer.
const FAULT: Duration = Duration::from_secs(4);

/// How long a leader is paused: longer than every timeout of peers, clients and connections.
const LONG_PAUSE: Duration = Duration::from_secs(10);

/// Less than an election timeout, so that the slow member stays a part of the quorum.
const SYNC_DELAY: Duration = Duration::from_millis(300);
const SYNCS_DELAYED: u64 = 5;

#[test]
fn every_member_is_killed_in_turn() {
    under_load("members killed in turn", async |run| {
        for number in 0..3 {
            run.cluster.members[number].kill();
            run.go_on().await;
            time::sleep(FAULT / 4).await;
            run.start(&[number]);
            run.cluster.leader().await;
            run.load.reach_everybody().await;
        }
        assert!(run.elections() > 0, "one of them led");
    });
}

#[test]
fn all_members_are_killed_at_once() {
    under_load("all members killed", async |run| {
        // All members get the signal before the end of the first is awaited.
        for member in &run.cluster.members {
            member.signal(Signal::KILL);
        }
        for member in &mut run.cluster.members {
            member.kill();
        }
        time::sleep(FAULT / 4).await;
        run.start(&[0, 1, 2]);
        run.cluster.leader().await;
        assert!(run.elections() > 0);
    });
}

/// When the old leader continues, it finds requests and answers that are older than its successor's
/// leadership.
#[test]
fn the_leader_stands_still() {
    under_load("leader stopped", async |run| {
        let leader = run.cluster.leader().await;
        let since = Instant::now();
        run.pause(leader, async |run| {
            run.leader_other_than(leader, &run.others(leader)).await;
            run.go_on().await;
            time::sleep_until(since + LONG_PAUSE).await;
        })
        .await;
    });
}

/// Short pauses, after which a member finds requests whose clients still wait.
#[test]
fn leaders_stand_still_again_and_again() {
    under_load("leaders stopped for a short while", async |run| {
        for _ in 0..4 {
            let leader = run.cluster.leader().await;
            run.pause(leader, async |run| {
                run.leader_other_than(leader, &run.others(leader)).await;
                run.go_on().await;
            })
            .await;
            run.go_on().await;
        }
    });
}

#[test]
fn a_follower_stands_still() {
    under_load("follower stopped", async |run| {
        let follower = run.others(run.cluster.leader().await)[0];
        run.pause(follower, async |run| {
            run.go_on().await;
            time::sleep(FAULT).await;
        })
        .await;
    });
}

#[test]
fn the_leader_is_cut_off() {
    under_load("leader cut off", async |run| {
        let leader = run.cluster.leader().await;
        let [a, b] = run.others(leader);
        run.cut(&[(leader, a), (leader, b), (a, leader), (b, leader)]).await;
        run.leader_other_than(leader, &[a, b]).await;
        run.go_on().await;
        time::sleep(FAULT).await;
    });
}

#[test]
fn the_leader_is_heard_and_hears_nobody() {
    under_load("leader deaf", async |run| {
        let leader = run.cluster.leader().await;
        let [a, b] = run.others(leader);
        run.cut(&[(a, leader), (b, leader)]).await;
        run.leader_other_than(leader, &[a, b]).await;
        run.go_on().await;
        time::sleep(FAULT).await;
    });
}

#[test]
fn the_leader_hears_and_is_not_heard() {
    under_load("leader mute", async |run| {
        let leader = run.cluster.leader().await;
        let [a, b] = run.others(leader);
        run.cut(&[(leader, a), (leader, b)]).await;
        run.leader_other_than(leader, &[a, b]).await;
        run.go_on().await;
        time::sleep(FAULT).await;
    });
}

#[test]
fn a_follower_is_heard_and_hears_nobody() {
    under_load("follower deaf", async |run| {
        let leader = run.cluster.leader().await;
        let [follower, other] = run.others(leader);
        // The other member sends it nothing for which the test could wait.
        run.network.cut([(other, follower)]);
        run.cut(&[(leader, follower)]).await;
        run.go_on().await;
        time::sleep(FAULT).await;
    });
}

#[test]
fn a_follower_hears_and_is_not_heard() {
    under_load("follower mute", async |run| {
        let leader = run.cluster.leader().await;
        let [follower, other] = run.others(leader);
        run.network.cut([(follower, other)]);
        run.cut(&[(follower, leader)]).await;
        run.go_on().await;
        time::sleep(FAULT).await;
    });
}

/// Cuts ports, and expects that every member takes writes all the same.
async fn write_without_ports(run: &mut Run, wires: &[(usize, usize)]) {
    let since = Instant::now();
    run.cut_ports(wires).await;
    for number in 0..3 {
        run.reach_log_through(number).await;
        let took = since.elapsed();
        let _ =
            writeln!(io::stderr(), "  a write through member {number} was answered {took:?} after the cut");
    }
    run.load.reach_everybody().await;
    time::sleep(FAULT).await;
    for number in 0..3 {
        run.reach_log_through(number).await;
    }
}

#[test]
fn nothing_reaches_the_leaders_port() {
    under_load("leader's port cut", async |run| {
        let leader = run.cluster.leader().await;
        let [a, b] = run.others(leader);
        write_without_ports(run, &[(a, leader), (b, leader)]).await;
    });
}

#[test]
fn nothing_reaches_a_followers_port() {
    under_load("follower's port cut", async |run| {
        let leader = run.cluster.leader().await;
        let [follower, other] = run.others(leader);
        write_without_ports(run, &[(leader, follower), (other, follower)]).await;
    });
}

#[test]
fn one_member_cannot_dial_the_leader() {
    under_load("leader's port cut from one member", async |run| {
        let leader = run.cluster.leader().await;
        let follower = run.others(leader)[0];
        write_without_ports(run, &[(follower, leader)]).await;
    });
}

#[test]
fn the_leader_cannot_dial_one_member() {
    under_load("follower's port cut from the leader", async |run| {
        let leader = run.cluster.leader().await;
        let follower = run.others(leader)[0];
        write_without_ports(run, &[(leader, follower)]).await;
    });
}

/// Cuts wires between the leader and one other member, and expects that the third one leads and that every member
/// takes writes.
async fn write_past_the_cut(run: &mut Run, cut: impl Fn(usize, usize) -> Vec<(usize, usize)>) {
    let leader = run.cluster.leader().await;
    let [cut_off, third] = run.others(leader);
    let since = Instant::now();
    run.cut(&cut(leader, cut_off)).await;
    for number in 0..3 {
        run.reach_log_through(number).await;
        let took = since.elapsed();
        let _ =
            writeln!(io::stderr(), "  a write through member {number} was answered {took:?} after the cut");
    }
    let elections = run.elections();
    run.load.reach_everybody().await;
    time::sleep(FAULT).await;
    for number in 0..3 {
        run.reach_log_through(number).await;
    }
    assert_eq!(run.leader_other_than(leader, &[0, 1, 2]).await, third);
    assert_eq!(run.elections(), elections, "the lead stays where it went");
}

#[test]
fn the_leader_and_one_member_do_not_hear_each_other() {
    under_load("leader and follower cut from each other", async |run| {
        write_past_the_cut(run, |leader, other| vec![(leader, other), (other, leader)]).await;
    });
}

#[test]
fn the_leader_does_not_hear_one_member() {
    under_load("follower not heard by the leader", async |run| {
        write_past_the_cut(run, |leader, other| vec![(other, leader)]).await;
    });
}

#[test]
fn one_member_does_not_hear_the_leader() {
    under_load("leader not heard by a follower", async |run| {
        write_past_the_cut(run, |leader, other| vec![(leader, other)]).await;
    });
}

async fn slow_down(run: &Run, number: usize) {
    let before = run.shims.delayed(number);
    run.shims.slow_down(number, SYNC_DELAY);
    run.go_on().await;
    time::sleep(FAULT).await;
    run.wait_until("syncs have waited", || run.shims.delayed(number) >= before + SYNCS_DELAYED).await;
    run.shims.slow_down(number, Duration::ZERO);
}

#[test]
fn the_leaders_disk_is_slow() {
    under_load("leader's disk slow", async |run| {
        slow_down(run, run.cluster.leader().await).await;
    });
}

#[test]
fn a_followers_disk_is_slow() {
    under_load("follower's disk slow", async |run| {
        slow_down(run, run.others(run.cluster.leader().await)[0]).await;
    });
}

/// The new member shows that it has all data by being part of a majority.
#[test]
fn a_wiped_member_is_replaced() {
    under_load("wiped member replaced", async |run| {
        let leader = run.cluster.leader().await;
        let [number, other] = run.others(leader);
        let old = format!("{:x}", run.cluster.members[number].id().await);
        run.cluster.members[number].kill();
        fs::remove_dir_all(run.cluster.members[number].data_dir()).expect("it was there");
        drop(run.cluster.members.remove(number));
        let endpoint = run.cluster.endpoints();
        block_in_place(|| etcdctl(&endpoint, &["member", "remove", &old]))
            .expect("a dead member can be removed");
        let new = run.cluster.prepare("m3");
        new.flags = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        let url = format!("--peer-urls={}", new.peer_url());
        block_in_place(|| etcdctl(&endpoint, &["member", "add", "m3", &url])).expect("a member can be added");
        let new = run.cluster.members.pop().expect("it was just prepared");
        run.load.redirect(number, new.endpoint());
        run.cluster.members.insert(number, new);
        run.shims.put_under(number, &mut run.cluster.members[number]);
        run.start(&[number]);
        run.load.reach_everybody().await;

        wait_for_vote(run, number).await;
        run.pause(other, async |run| {
            run.cluster.leader_among(&[leader, number]).await;
            run.go_on().await;
        })
        .await;
    });
}

/// Only the leader's log says that a member votes.
async fn wait_for_vote(run: &Run, number: usize) {
    let id = format!("{:x}", run.cluster.members[number].id().await);
    let has_vote = || {
        let logs = run.cluster.members.iter().map(|member| member.log());
        logs.flat_map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>())
            .any(|line| line.contains("is a voting member now") && line.contains(&id))
    };
    time::timeout(PATIENCE, run.wait_until("it votes", has_vote)).await.expect("it waits no longer itself");
}
