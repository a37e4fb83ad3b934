//! Whether all members have the same history: etcd's three checks of it, by the hashes of what they hold.
//!
//! ```text
//! at the start (InitialCorruptCheck)   this member's hash against that of each other member at the same revision
//! --corrupt-check-time                 the leader's newest hash against that of the others at its revision
//! compactions (CompactHashCheck)       the hashes that compactions have left: nothing is read for them
//! ```
//!
//! Hashes can be compared only between histories that are compacted to the same revision. A member whose history differs
//! from that of a majority gets the CORRUPT alarm; without a majority, the alarm names member 0. Conditions and log lines
//! are etcd's, because operators look for them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future;
use tokio::time;

use super::{Node, ProposeError, ReadError, StartError, boot::Identity, hash, outside::Outside};
use crate::{
    apply::{Alarm, AlarmKind, Command, StateMachine},
    config::Config,
    link::{HistoryAnswer, HistoryHash, Peer, Peers},
    mvcc::{KvHash, RevError},
    telemetry::{GoDuration, Metrics},
    types::{MemberId, Rev},
};

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
enum NotChecked {
    #[error(transparent)]
    Hash(#[from] ReadError),
    #[error(transparent)]
    Barrier(#[from] ProposeError),
}

/// What another member has said of its history; `None` if it has said nothing.
type Heard = (MemberId, Option<HistoryAnswer>);

/// Has the leader compare its newest hash with those of the others, at the interval of `--corrupt-check-time`.
pub(super) async fn run_periodic(node: Node) {
    let Some(interval) = node.config().corrupt_check_interval else { return };
    tracing::info!(
        "local-member-id" = %node.ids().1,
        interval = %GoDuration(interval),
        "enabled corruption checking"
    );
    while pause(&node, interval).await {
        if node.leadership().is_leader
            && let Err(error) = node.check_newest().await
        {
            tracing::warn!(%error, "failed to check hash KV");
        }
    }
}

/// Has the leader compare the hashes of compactions with those of the others.
pub(super) async fn run_compactions(node: Node) {
    let Some(interval) = node.config().compact_hash_check_interval else { return };
    let mut checked = Rev::NEVER_COMPACTED;
    while pause(&node, interval).await {
        if node.leadership().is_leader {
            checked = node.check_compactions(checked).await;
        }
    }
}

/// False once the member stops.
async fn pause(node: &Node, interval: Duration) -> bool {
    tokio::select! { biased;
        () = node.stopping() => false,
        () = time::sleep(interval) => true,
    }
}

/// Refuses to start with a history that is not that of the others. Members that do not answer, are behind, or are
/// compacted to another revision, do not count.
pub(super) async fn check_at_start(
    config: &Config,
    identity: Identity,
    state: &StateMachine,
    outside: &Outside,
    metrics: Arc<Metrics>,
) -> Result<(), StartError> {
    let Identity { cluster, member, base } = identity;
    let patience = request_timeout(config);
    tracing::info!(
        "local-member-id" = %member,
        timeout = %GoDuration(patience),
        "starting initial corruption check"
    );
    let own = hash::newest_history(&state.mvcc)?;
    let peers =
        Peers::new(cluster.0, member.0, base, outside.connector.clone(), config.election_timeout, metrics);
    let others = state.members.iter().filter(|(id, _)| *id != member).map(|(id, other)| {
        let peer = Peer { peer_urls: other.peer_urls.clone(), is_learner: other.is_learner };
        let peers = &peers;
        async move { (id, peers.ask_history(id.0, &peer, patience, own.rev_hashed.0).await.ok()) }
    });
    let mut mismatches = 0;
    for (id, answer) in future::join_all(others).await {
        match answer {
            Some(HistoryAnswer::Hash(theirs)) if theirs.hash != own.hash => {
                let is_mismatch = theirs.compacted == own.rev_compacted;
                mismatches += usize::from(is_mismatch);
                let what = if is_mismatch {
                    "found different hash values from remote peer"
                } else {
                    "found different compact revision values from remote peer"
                };
                tracing::warn!(
                    "local-member-id" = %member,
                    "local-member-revision" = own.rev_hashed.0,
                    "local-member-compact-revision" = own.rev_compacted.0,
                    "local-member-hash" = own.hash,
                    "remote-peer-id" = %id,
                    "remote-peer-revision" = theirs.current.0,
                    "remote-peer-compact-revision" = theirs.compacted.0,
                    "remote-peer-hash" = theirs.hash,
                    "{what}"
                );
            }
            Some(HistoryAnswer::Hash(_)) => {}
            Some(HistoryAnswer::IsBehind) => {
                tracing::warn!("remote-peer-id" = %id, "cannot fetch hash from slow remote peer");
            }
            Some(HistoryAnswer::IsCompacted) => {
                tracing::warn!("remote-peer-id" = %id, "cannot fetch hash from remote peer; local member is behind");
            }
            None => tracing::warn!("remote-peer-id" = %id, "failed hash kv request"),
        }
    }
    if mismatches > 0 {
        tracing::error!(error = %format_args!("{member} found data inconsistency with peers"), "checkInitialHashKV failed");
        return Err(StartError::Refused(format!(
            "{member} found data inconsistency with peers: {mismatches} of them have another history up to revision {}; \
             remove this member from the cluster, empty its data directory and add it again, or restore all members from \
             one snapshot",
            own.rev_hashed
        )));
    }
    tracing::info!("local-member-id" = %member, "initial corruption checking passed; no corruption");
    Ok(())
}

/// etcd's time for a request: five seconds, and two elections.
fn request_timeout(config: &Config) -> Duration {
    Duration::from_secs(5) + 2 * config.election_timeout
}

impl Node {
    /// This member's history up to a revision, for another member that compares it.
    pub(crate) async fn peer_history(&self, revision: i64) -> Result<HistoryAnswer, ReadError> {
        match self.hash_kv(revision).await {
            Ok(KvHash { hash, rev_compacted: compacted, rev_current: current, .. }) => {
                Ok(HistoryAnswer::Hash(HistoryHash { hash, compacted, current }))
            }
            Err(ReadError::Rev(RevError::Compacted { .. })) => Ok(HistoryAnswer::IsCompacted),
            Err(ReadError::Rev(RevError::Future { .. })) => Ok(HistoryAnswer::IsBehind),
            Err(error) => Err(error),
        }
    }

    /// Asks all other members at once.
    async fn hear_histories(&self, revision: Rev) -> Vec<Heard> {
        let patience = request_timeout(self.config());
        let (_, own) = self.ids();
        let asked = self.members().into_iter().filter(|member| member.id != own).map(async |member| {
            let Some(peer) = self.shared.consensus.peer(member.id.0) else { return (member.id, None) };
            match self.shared.peers.ask_history(member.id.0, &peer, patience, revision.0).await {
                Ok(answer) => (member.id, Some(answer)),
                Err(error) => {
                    tracing::warn!(
                        "local-member-id" = %own,
                        "requested-revision" = revision.0,
                        %error,
                        "failed hash kv request"
                    );
                    (member.id, None)
                }
            }
        });
        future::join_all(asked).await
    }

    async fn check_newest(&self) -> Result<(), NotChecked> {
        let first = self.hash_kv(0).await?;
        let heard = self.hear_histories(first.rev_hashed).await;
        // What the others have applied, this leader has after this.
        self.barrier().await?;
        let second = self.hash_kv(0).await?;
        let (_, own) = self.ids();
        if let Some(member) = differs_from_leader(own, &first, &second, &heard) {
            self.raise_corrupt(member).await;
        }
        let answers =
            heard.iter().filter(|(_, answer)| matches!(answer, Some(HistoryAnswer::Hash(_)))).count();
        tracing::info!("number-of-peers-checked" = answers, "finished peer corruption check");
        Ok(())
    }

    /// Looks at the newest compactions after `checked`. Returns the last one that all members agree on.
    async fn check_compactions(&self, checked: Rev) -> Rev {
        let hashes = self.shared.replica.read().state.mvcc.compaction_hashes();
        let unchecked = || hashes.iter().rev().filter(|hash| hash.rev_hashed > checked);
        if unchecked().next().is_none() {
            return checked;
        }
        let (_, own) = self.ids();
        tracing::info!("local-member-id" = %own, "starting compact hash check");
        let mut looked_at = 0;
        let mut agreed = checked;
        for hash in unchecked() {
            looked_at += 1;
            let heard = self.hear_histories(hash.rev_hashed).await;
            match of_compaction(own, hash, &heard) {
                OfCompaction::Same => {
                    tracing::info!(
                        "number-of-peers-checked" = heard.len(),
                        revision = hash.rev_hashed.0,
                        compactRevision = hash.rev_compacted.0,
                        "successfully checked hash on whole cluster"
                    );
                    agreed = hash.rev_hashed;
                    break;
                }
                OfCompaction::Unheard { answers } => tracing::warn!(
                    "number-of-peers-checked" = answers,
                    "number-of-peers" = heard.len(),
                    revision = hash.rev_hashed.0,
                    compactRevision = hash.rev_compacted.0,
                    "skipped revision in compaction hash check; was not able to check all peers"
                ),
                OfCompaction::Minority(members) => {
                    for member in members {
                        tracing::error!(
                            "leader-id" = %own,
                            "leader-revision" = hash.rev_hashed.0,
                            "leader-compact-revision" = hash.rev_compacted.0,
                            "leader-hash" = hash.hash,
                            "peer-ids" = %member,
                            "quorum-exist" = true,
                            "Detected compaction hash mismatch"
                        );
                        self.raise_corrupt(member).await;
                    }
                    break;
                }
                OfCompaction::NoMajority => {
                    tracing::error!(
                        "leader-id" = %own,
                        "leader-revision" = hash.rev_hashed.0,
                        "leader-compact-revision" = hash.rev_compacted.0,
                        "leader-hash" = hash.hash,
                        "Detected compaction hash mismatch but cannot identify the corrupted members, so intentionally \
                         set the memberID as 0"
                    );
                    self.raise_corrupt(MemberId(0)).await;
                    break;
                }
            }
        }
        tracing::info!("number-of-hashes-checked" = looked_at, "finished compaction hash check");
        agreed
    }

    /// Raises the alarm, unless it is active. If that fails, the next check raises it.
    async fn raise_corrupt(&self, member: MemberId) {
        let alarm = Alarm { member, kind: AlarmKind::Corrupt };
        if self.alarms().contains(&alarm) {
            return;
        }
        match self.propose_own(Command::AlarmActivate(alarm)).await {
            Ok(_) | Err(ProposeError::Stopped) => {}
            Err(error) => {
                tracing::error!(%error, "alarmed-member-id" = %member, "could not raise the CORRUPT alarm; will retry");
            }
        }
    }
}

/// A member whose history cannot be true if that of the leader is. `first` was taken before the others were asked, and
/// `second` after this leader had applied all that they had.
fn differs_from_leader(
    leader: MemberId,
    first: &KvHash,
    second: &KvHash,
    heard: &[Heard],
) -> Option<MemberId> {
    let is_same_state = second.rev_hashed == first.rev_hashed && second.rev_compacted == first.rev_compacted;
    if is_same_state && second.hash != first.hash {
        tracing::warn!(
            "revision-1" = first.rev_hashed.0,
            "compact-revision-1" = first.rev_compacted.0,
            "hash-1" = first.hash,
            "revision-2" = second.rev_hashed.0,
            "compact-revision-2" = second.rev_compacted.0,
            "hash-2" = second.hash,
            "found hash mismatch"
        );
        return Some(leader);
    }
    heard.iter().find_map(|(member, answer)| {
        let Some(HistoryAnswer::Hash(theirs)) = answer else { return None };
        if theirs.current > second.rev_current {
            tracing::warn!(
                "leader-revision" = second.rev_current.0,
                "follower-revision" = theirs.current.0,
                "follower-peer-id" = %member,
                "revision from follower must be less than or equal to leader's"
            );
            return Some(*member);
        }
        if theirs.compacted > second.rev_compacted {
            tracing::warn!(
                "leader-compact-revision" = second.rev_compacted.0,
                "follower-compact-revision" = theirs.compacted.0,
                "follower-peer-id" = %member,
                "compact revision from follower must be less than or equal to leader's"
            );
            return Some(*member);
        }
        if theirs.compacted == first.rev_compacted && theirs.hash != first.hash {
            tracing::warn!(
                "leader-compact-revision" = second.rev_compacted.0,
                "leader-hash" = first.hash,
                "follower-compact-revision" = theirs.compacted.0,
                "follower-hash" = theirs.hash,
                "follower-peer-id" = %member,
                "same compact revision then hashes must match"
            );
            return Some(*member);
        }
        None
    })
}

/// What the hashes of one compaction say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OfCompaction {
    /// All members have the same.
    Same,
    /// Those that answered have the same.
    Unheard { answers: usize },
    /// These members have another history than a majority.
    Minority(Vec<MemberId>),
    /// The histories differ, and none is that of a majority.
    NoMajority,
}

fn of_compaction(leader: MemberId, own: &KvHash, heard: &[Heard]) -> OfCompaction {
    let mut holders = BTreeMap::from([(own.hash, vec![leader])]);
    let mut answers = 0;
    for (member, answer) in heard {
        let reason = match answer {
            Some(HistoryAnswer::Hash(theirs)) if theirs.compacted == own.rev_compacted => {
                answers += 1;
                holders.entry(theirs.hash).or_default().push(*member);
                continue;
            }
            Some(HistoryAnswer::Hash(theirs)) => format!(
                "the peer's CompactRevision {} doesn't match leader's CompactRevision {}",
                theirs.compacted.0, own.rev_compacted.0
            ),
            Some(HistoryAnswer::IsCompacted | HistoryAnswer::IsBehind) | None => "no response".to_owned(),
        };
        tracing::warn!(
            "number-of-peers" = heard.len(),
            "leader-id" = %leader,
            "peer-id" = %member,
            reason,
            "Skipped peer's hash"
        );
    }
    if holders.len() == 1 {
        return if answers == heard.len() { OfCompaction::Same } else { OfCompaction::Unheard { answers } };
    }
    let quorum = heard.len().div_ceil(2) + 1;
    let Some(majority) = holders.iter().find(|(_, members)| members.len() >= quorum).map(|(hash, _)| *hash)
    else {
        return OfCompaction::NoMajority;
    };
    holders.remove(&majority);
    OfCompaction::Minority(holders.into_values().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(hash: u32) -> KvHash {
        KvHash { hash, rev_compacted: Rev(5), rev_hashed: Rev(9), rev_current: Rev(9) }
    }

    /// A hash, the compacted and the newest revision of a member.
    type Said = (u64, Option<(u32, i64, i64)>);

    fn heard(of: &[Said]) -> Vec<Heard> {
        let answer = |(hash, compacted, current)| {
            HistoryAnswer::Hash(HistoryHash { hash, compacted: Rev(compacted), current: Rev(current) })
        };
        of.iter().map(|(id, of)| (MemberId(*id), of.map(answer))).collect()
    }

    #[test]
    fn the_minority_at_a_compaction_is_named_and_without_a_majority_nobody_is() {
        let judged = |of: &[Said]| of_compaction(MemberId(1), &own(7), &heard(of));
        assert_eq!(judged(&[(2, Some((7, 5, 9))), (3, Some((7, 5, 9)))]), OfCompaction::Same);
        assert_eq!(judged(&[(2, Some((7, 5, 9))), (3, None)]), OfCompaction::Unheard { answers: 1 });
        let compacted_elsewhere = judged(&[(2, Some((7, 5, 9))), (3, Some((8, 4, 9)))]);
        assert_eq!(compacted_elsewhere, OfCompaction::Unheard { answers: 1 });
        assert_eq!(
            judged(&[(2, Some((7, 5, 9))), (3, Some((8, 5, 9)))]),
            OfCompaction::Minority(vec![MemberId(3)])
        );
        assert_eq!(
            judged(&[(2, Some((8, 5, 9))), (3, Some((8, 5, 9)))]),
            OfCompaction::Minority(vec![MemberId(1)])
        );
        assert_eq!(judged(&[(2, Some((8, 5, 9))), (3, Some((9, 5, 9)))]), OfCompaction::NoMajority);
        assert_eq!(judged(&[(2, Some((8, 5, 9)))]), OfCompaction::NoMajority, "one against one");
        assert_eq!(
            judged(&[(2, Some((8, 5, 9))), (3, None)]),
            OfCompaction::NoMajority,
            "one of three is unheard"
        );
        assert_eq!(judged(&[]), OfCompaction::Same, "a sole member agrees with itself");
    }

    #[test]
    fn a_follower_is_neither_ahead_of_its_leader_nor_different() {
        let later = KvHash { rev_current: Rev(11), rev_hashed: Rev(11), hash: 70, ..own(7) };
        let judged =
            |second: &KvHash, of| differs_from_leader(MemberId(1), &own(7), second, &heard(&[(2, of)]));
        assert_eq!(judged(&later, Some((7, 5, 11))), None);
        assert_eq!(judged(&later, Some((8, 5, 11))), Some(MemberId(2)), "another hash");
        assert_eq!(judged(&later, Some((8, 4, 11))), None, "compacted less, so another hash says nothing");
        assert_eq!(judged(&later, Some((7, 5, 12))), Some(MemberId(2)), "ahead");
        assert_eq!(judged(&later, Some((7, 6, 9))), Some(MemberId(2)), "compacted more");
        assert_eq!(judged(&later, None), None);
        assert_eq!(judged(&own(8), Some((7, 5, 9))), Some(MemberId(1)), "the leader differs from itself");
    }
}
