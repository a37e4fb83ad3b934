//! What a member logs while there is no leader.
//!
//! Without a leader a member serves only serializable reads, and a member that has just started serves
//! nothing. An operator who reads the log then needs to know which members are waited for, and why. So
//! this member asks the others whether they answer, and logs a warning: at once if too few of them answer,
//! or after the time that an election takes if enough do. The warning is repeated every ten seconds, and the
//! end of the wait is logged too.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time;

use super::{Node, members::quorum};
use crate::{
    clock,
    link::Peer,
    raft::Leadership,
    sync::watch,
    telemetry::{self, GoDuration, list},
    types::{ClusterId, MemberId},
};

/// How often the same is said again.
const REPEAT: Duration = Duration::from_secs(10);
/// How long a member may take to say that it is there.
const GREET_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a member that has just started may take to read from its log who belongs to the cluster.
const RECALL_TIMEOUT: Duration = Duration::from_millis(250);
/// How many election timeouts an election, or the leader's first contact with a new member, may take
/// before a warning is logged.
const ELECTION_TIMEOUTS: u32 = 2;

const SEE: &str = "docs/operations.md, \"A member waits\"";

/// Consensus has stopped, and no leader will be known any more.
struct Ended;

/// What a look at the cluster has shown.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// The members are known, and there are so many that vote.
    Known {
        voters: usize,
        answering: usize,
        /// Each that does not answer, with the reason.
        missing: Vec<String>,
        /// What speaks against being reached by a leader, if that is worth asking.
        obstacles: Vec<String>,
    },
    /// This member does not know who belongs to the cluster: it joins, and waits for the leader.
    Joining { asked: usize, answering: usize, missing: Vec<String>, obstacles: Vec<String> },
}

impl Finding {
    /// Whether there may soon be a leader without anybody's help.
    fn may_be_over_soon(&self) -> bool {
        match self {
            Finding::Known { voters, answering, .. } => *answering >= quorum(*voters),
            Finding::Joining { answering, obstacles, .. } => *answering > 0 && obstacles.is_empty(),
        }
    }

    /// In a few words.
    fn status(&self) -> String {
        match self {
            Finding::Known { voters, answering, .. } if self.may_be_over_soon() => {
                format!("waiting for a leader: {answering} of {voters} members answer")
            }
            Finding::Known { voters, answering, .. } => format!(
                "waiting for other members: {answering} of {voters} answer, {} are needed",
                quorum(*voters)
            ),
            Finding::Joining { asked, answering, .. } => {
                format!("waiting to be contacted by the leader: {answering} of {asked} members answer")
            }
        }
    }
}

/// Logs each wait for a leader, until the member stops.
pub(super) async fn report(node: Node) {
    let mut leadership = node.shared.leadership.clone();
    let has_leader = |now: &Leadership| now.leader.is_some();
    loop {
        tokio::select! { biased;
            () = node.stopping() => return,
            without = leadership.wait_for(|now| !has_leader(now)) => if without.is_err() { return },
        }
        let since = clock::now();
        let told = tokio::select! { biased;
            () = node.stopping() => return,
            told = node.wait_for_leader(since) => told,
        };
        let Ok(told) = told else { return };
        let now = *leadership.borrow_and_update();
        let (true, Some(leader)) = (told, now.leader) else { continue };
        telemetry::tell_status("there is a leader");
        tracing::info!(
            leader = %MemberId(leader),
            term = now.term,
            waited = %GoDuration(clock::since(since)),
            "the wait is over: there is a leader"
        );
    }
}

impl Node {
    /// Returns once there is a leader, with whether anything was said.
    async fn wait_for_leader(&self, since: Instant) -> Result<bool, Ended> {
        let mut leadership = self.shared.leadership.clone();
        let election = self.config().election_timeout * ELECTION_TIMEOUTS;
        let mut told = false;
        loop {
            let looked_at = clock::now();
            let is_late = clock::since(since) >= election;
            let finding = tokio::select! { biased;
                led = led(&mut leadership) => return led.map(|()| told),
                finding = self.look_around(is_late) => finding,
            };
            if is_late || !finding.may_be_over_soon() {
                tell(&finding, since);
                told = true;
            }
            let next = if told { looked_at + REPEAT } else { since + election };
            let next = next.max(looked_at + GREET_TIMEOUT);
            tokio::select! { biased;
                led = led(&mut leadership) => return led.map(|()| told),
                () = time::sleep_until(next.into()) => {}
            }
        }
    }

    /// Asks all others whether they are there; where it is late, also what else may be wrong.
    async fn look_around(&self, is_late: bool) -> Finding {
        let (_, own) = self.ids();
        let consensus = &self.shared.consensus;
        // A member that joins finds nobody in its log.
        let _ = time::timeout(RECALL_TIMEOUT, consensus.knows_members()).await;
        let (voters, nodes) = consensus.membership();
        match nodes.get(&own.0) {
            Some(peer) => {
                let (answering, missing) = self.look_at(own, &voters, &nodes).await;
                let is_strange = is_late && answering >= quorum(voters.len());
                let obstacles =
                    if is_strange { self.way_to_this_member(&peer.peer_urls).await } else { Vec::new() };
                Finding::Known { voters: voters.len(), answering, missing, obstacles }
            }
            None => self.look_for_leader().await,
        }
    }

    /// How many voters answer, and of all members who does not.
    async fn look_at(
        &self,
        own: MemberId,
        voters: &BTreeSet<u64>,
        nodes: &BTreeMap<u64, Peer>,
    ) -> (usize, Vec<String>) {
        let others = nodes.iter().filter(|(id, _)| **id != own.0);
        let greeted = others
            .map(async |(&id, peer)| (id, peer, self.shared.peers.greet(id, peer, GREET_TIMEOUT).await));
        let mut answering = usize::from(voters.contains(&own.0));
        let mut missing = Vec::new();
        for (id, peer, greeted) in join_all(greeted).await {
            match greeted {
                Ok(()) => answering += usize::from(voters.contains(&id)),
                Err(error) => missing.push(format!("{}: {}", self.title(id, peer), error.reason())),
            }
        }
        assert!(answering <= voters.len(), "only voters count as answering");
        (answering, missing)
    }

    /// As one that joins: whom `--initial-cluster` names knows who belongs to the cluster.
    async fn look_for_leader(&self) -> Finding {
        let config = self.config();
        let others = config.initial_cluster.iter().filter(|(name, _)| *name != config.name);
        let asked = others
            .map(async |(name, urls)| (name, urls, self.shared.peers.ask_members(urls, GREET_TIMEOUT).await));
        let (cluster, own) = self.ids();
        let (mut answering, mut missing, mut obstacles) = (0, Vec::new(), Vec::new());
        let asked = join_all(asked).await;
        let mut own_urls = None;
        let mut others = BTreeMap::new();
        for (name, urls, told) in &asked {
            let title = format!("{name} at {}", urls.join(","));
            match told {
                Ok(told) if told.id != cluster.0 => missing.push(format!(
                    "{title}: cluster ID mismatch: it is of cluster {}, and this member of cluster {cluster}",
                    ClusterId(told.id)
                )),
                Ok(told) => {
                    answering += 1;
                    for member in &told.members {
                        if member.id == own.0 {
                            own_urls = own_urls.or(Some(&member.peer_urls));
                        } else {
                            others.insert(member.id, member.peer_urls.clone());
                        }
                    }
                }
                Err(reason) => missing.push(format!("{title}: {reason}")),
            }
        }
        match own_urls {
            Some(urls) => {
                // The leader may not reach the peer port of this member, but this member's tunnels.
                let others = others.into_iter();
                let others = others.map(|(id, peer_urls)| (id, Peer { peer_urls, is_learner: false }));
                self.shared.peers.introduced_to(others.collect());
                obstacles.extend(self.way_to_this_member(urls).await);
            }
            None if answering > 0 => {
                // One that was removed before the leader spoke to it knows nobody to hear it from. Those
                // who know it say so when they are spoken to, and then this member ends.
                self.greet_all(others).await;
                obstacles.push(format!(
                    "the cluster has no member {own}: it was removed, or its data directory is of another attempt \
                     to join"
                ));
            }
            None => {}
        }
        Finding::Joining { asked: asked.len(), answering, missing, obstacles }
    }

    async fn greet_all(&self, others: BTreeMap<u64, Vec<String>>) {
        let peers = &self.shared.peers;
        let greeted = others.into_iter().map(async |(id, peer_urls)| {
            let peer = Peer { peer_urls, is_learner: false };
            peers.greet(id, &peer, GREET_TIMEOUT).await
        });
        drop(join_all(greeted).await);
    }

    /// What keeps the others from reaching this member at `urls`, where the cluster has it.
    async fn way_to_this_member(&self, urls: &[String]) -> Vec<String> {
        let (_, own) = self.ids();
        let advertised = &self.config().initial_advertise_peer_urls;
        // What counts is whether it is found there, not how the place is written.
        let Err(reason) = self.shared.peers.greet_own(urls, GREET_TIMEOUT).await else { return Vec::new() };
        let mut obstacles = vec![format!(
            "this member cannot reach itself at {}, where the leader connects to it: {reason}; check --listen-peer-urls",
            urls.join(",")
        )];
        let known: BTreeSet<&String> = urls.iter().collect();
        if known != advertised.iter().collect() {
            obstacles.push(format!(
                "the cluster has this member at {}, and --initial-advertise-peer-urls is {}: start it with the former, \
                 or tell the cluster the latter with `etcdctl member update {own} --peer-urls={}`",
                urls.join(","),
                advertised.join(","),
                advertised.join(",")
            ));
        }
        obstacles
    }

    /// Name, if it has one, id and place.
    fn title(&self, id: u64, peer: &Peer) -> String {
        let id = MemberId(id);
        let published = self.shared.replica.read().state.members.get(id).map(|member| member.name.clone());
        let published = published.filter(|name| !name.is_empty());
        let named = self.config().initial_cluster.iter().find(|(_, urls)| *urls == peer.peer_urls);
        match published.or(named.map(|(name, _)| name.clone())) {
            Some(name) => format!("{name} ({id}) at {peer}"),
            None => format!("{id} at {peer}"),
        }
    }
}

/// Resolves once there is a leader.
async fn led(leadership: &mut watch::Receiver<Leadership>) -> Result<(), Ended> {
    leadership.wait_for(|now| now.leader.is_some()).await.map(drop).map_err(|_| Ended)
}

fn tell(finding: &Finding, since: Instant) {
    telemetry::tell_status(&finding.status());
    let waited = GoDuration(clock::since(since));
    match finding {
        Finding::Known { voters, answering, missing, .. } if !finding.may_be_over_soon() => tracing::warn!(
            members = voters,
            answering,
            needed = quorum(*voters),
            "waiting-for" = ?list(missing),
            %waited,
            see = SEE,
            "waiting for other members: without a quorum there is no leader, and nothing can be written"
        ),
        Finding::Known { voters, answering, missing, obstacles } => tracing::warn!(
            members = voters,
            answering,
            needed = quorum(*voters),
            "waiting-for" = ?list(missing),
            obstacles = ?list(obstacles),
            %waited,
            see = SEE,
            "waiting for a leader: enough members answer, but none of them is known to be the leader"
        ),
        Finding::Joining { asked, answering, missing, obstacles } => tracing::warn!(
            members = asked,
            answering,
            "waiting-for" = ?list(missing),
            obstacles = ?list(obstacles),
            %waited,
            see = SEE,
            "waiting to be contacted by the leader of the cluster that this member joins"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_members_are_told_of_at_once() {
        let known = |voters, answering| Finding::Known {
            voters,
            answering,
            missing: Vec::new(),
            obstacles: Vec::new(),
        };
        for (finding, may_be, status) in [
            (known(1, 1), true, "waiting for a leader: 1 of 1 members answer"),
            (known(3, 1), false, "waiting for other members: 1 of 3 answer, 2 are needed"),
            (known(3, 2), true, "waiting for a leader: 2 of 3 members answer"),
            (known(4, 2), false, "waiting for other members: 2 of 4 answer, 3 are needed"),
            (
                Finding::Joining { asked: 3, answering: 2, missing: Vec::new(), obstacles: Vec::new() },
                true,
                "waiting to be contacted by the leader: 2 of 3 members answer",
            ),
        ] {
            assert_eq!(finding.may_be_over_soon(), may_be, "{finding:?}");
            assert_eq!(finding.status(), status);
        }
    }
}
