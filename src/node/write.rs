//! Writes: admitted, queued for the log, answered once applied here.

use std::time::{Duration, Instant};

use tokio::{
    sync::{mpsc::error::TrySendError, oneshot},
    time,
};

use super::{
    Node, ProposeError, ReadError,
    answer_memory::Memory,
    core::Proposal,
    mailbox::{Answer, Ticket},
};
use crate::{
    apply::{Alarm, AlarmKind, ApplyError, Command, Outcome, Request, admission, codec},
    clock, limits,
    raft::{self, NotProposed},
    telemetry::{HumanBytes, Metrics, RequestKind},
    types::Caller,
};

/// A request on its way through the log, for the metrics. Dropped without an answer it has failed: it was refused,
/// it timed out, or its client gave it up.
struct Timed<'a> {
    metrics: &'a Metrics,
    kind: RequestKind,
    start: Instant,
    is_proposed: bool,
    has_answer: bool,
}

impl Timed<'_> {
    fn begin(metrics: &Metrics, kind: RequestKind) -> Timed<'_> {
        Timed { metrics, kind, start: clock::now(), is_proposed: false, has_answer: false }
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.metrics.observe_request(self.kind, self.has_answer, clock::since(self.start));
        if self.is_proposed && !self.has_answer {
            self.metrics.proposals_failed.inc();
        }
    }
}

impl Node {
    /// Puts a command into the log. The answer is what all replicas agree on; an error says that
    /// it was not accepted, or that nobody knows.
    pub(super) async fn propose(&self, request: Request) -> Result<Outcome, ProposeError> {
        self.write(request).await.map(|(outcome, _)| outcome)
    }

    /// As [`Node::propose`], with the memory that the answer takes.
    pub(super) async fn write(&self, request: Request) -> Result<(Outcome, Memory), ProposeError> {
        let timed = Timed::begin(self.metrics(), raft::request_kind(&request.command));
        if request.command.size() > self.shared.config.max_request_bytes {
            return Err(ProposeError::RequestTooLarge);
        }
        self.propose_timed(request, timed).await
    }

    /// As [`Node::propose`], for what the member has to say by itself: what clients may send does not
    /// bound it.
    pub(super) async fn propose_own(&self, command: Command) -> Result<Outcome, ProposeError> {
        let timed = Timed::begin(self.metrics(), raft::request_kind(&command));
        self.propose_timed(command.by(Caller::Internal), timed).await.map(|(outcome, _)| outcome)
    }

    async fn propose_timed(
        &self,
        request: Request,
        mut timed: Timed<'_>,
    ) -> Result<(Outcome, Memory), ProposeError> {
        // Whoever says it: what no peer would take must not get into the log.
        let bytes = codec::encoded_len(&request);
        if bytes > limits::COMMAND_BYTES_MAX {
            return Err(ProposeError::RequestTooLarge);
        }
        assert!(bytes > 0, "an encoded command has a length");
        let read = request.command.reads().then(|| request.command.clone());
        let (slot, answer) = oneshot::channel();
        let queue = &self.shared.queue;
        // Those behind it in the queue wait no longer than the first.
        let queued = (queue.capacity() == queue.max_capacity()).then(clock::now);
        let ticket = Ticket { mailbox: self.mailbox.clone(), slot };
        let share = u32::try_from(bytes).unwrap_or(u32::MAX);
        let held = self.shared.queue_bytes.clone().try_acquire_many_owned(share);
        let held = held.map_err(|_| ProposeError::TooManyRequests)?;
        let proposal = Proposal { request, bytes, ticket, _held: held, queued };
        match queue.try_send(proposal) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(ProposeError::TooManyRequests),
            Err(TrySendError::Closed(_)) => return Err(ProposeError::Stopped),
        }
        timed.is_proposed = true;
        let outcome = match (self.outcome(answer).await, read) {
            (Ok(outcome), Some(command)) => self.complete(&command, outcome).await,
            (outcome, _) => outcome.map(|outcome| (outcome, Memory::default())),
        };
        assert!(
            outcome.as_ref().map_or(true, |(outcome, _)| outcome.unread.is_none()),
            "an answer is whole when it is given"
        );
        timed.has_answer = outcome.is_ok();
        if let (Some(tracer), Ok((outcome, _))) = (&self.metrics().tracer, &outcome) {
            tracer.wrote(outcome.rev.0, timed.start);
        }
        outcome
    }

    /// What became of a command in the log.
    async fn outcome(&self, answer: oneshot::Receiver<Answer<Outcome>>) -> Result<Outcome, ProposeError> {
        let answer = async { answer.await.unwrap_or(Err(ProposeError::Stopped)) };
        if self.is_sole_leader() {
            return answer.await;
        }
        let start = clock::now();
        match time::timeout(self.request_timeout(), answer).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.shared.patience.timeout(start)),
        }
    }

    /// Reads what the answer lacks. The command was executed, so no error says that it was not.
    async fn complete(
        &self,
        command: &Command,
        mut outcome: Outcome,
    ) -> Result<(Outcome, Memory), ProposeError> {
        let filled = self.fill(outcome.missing(command));
        match time::timeout(limits::ANSWER_READ_MAX, filled).await {
            Ok(Ok(memory)) => Ok((outcome, memory)),
            // The state that the command was executed on has gone, and a snapshot is in its place.
            Ok(Err(ReadError::Rev(_))) => Err(ProposeError::LeaderChanged),
            Ok(Err(ReadError::AnswerTooLarge)) => Err(ProposeError::AnswerTooLarge),
            Ok(Err(error)) => {
                tracing::error!(%error, "a request was executed, but its answer cannot be read");
                Err(ProposeError::Unreadable)
            }
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    /// Puts commands of this member's own into its log as the leader of `term`, or nowhere.
    pub(super) async fn propose_in_term(
        &self,
        term: u64,
        commands: Vec<Command>,
    ) -> Result<(), ProposeError> {
        assert!(!commands.is_empty(), "an entry of the log holds a command");
        let (_, own) = self.ids();
        let requests = commands.into_iter().map(|command| command.by(Caller::Internal)).collect();
        // Nobody waits for this serial: that it was applied is all there is to know.
        let proposed = self.shared.consensus.propose_tagged(term, requests, (own.0, 0), None);
        match time::timeout(self.request_timeout(), proposed).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NotProposed::NotLeader)) => Err(ProposeError::NoLeader),
            Ok(Err(NotProposed::Unknown)) => Err(ProposeError::LeaderChanged),
            Ok(Err(NotProposed::Stopped)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    /// As [`Node::propose`], for commands that take space: refused while the disk is full, and refused,
    /// with the alarm raised, when the quota is used up.
    pub(super) async fn propose_with_quota(&self, request: Request) -> Result<Outcome, ProposeError> {
        self.write_with_quota(request).await.map(|(outcome, _)| outcome)
    }

    /// As [`Node::propose_with_quota`], with the memory that the answer takes.
    pub(super) async fn write_with_quota(&self, request: Request) -> Result<(Outcome, Memory), ProposeError> {
        if self.shared.space.is_full() && admission::quota_cost(&request.command) > 0 {
            return Err(ProposeError::NoSpace);
        }
        if let Some(quota) = self.shared.config.quota_backend_bytes {
            let size = self.shared.replica.read().state.mvcc.size().total;
            let cost = admission::quota_cost(&request.command);
            assert!(cost >= 0, "a command takes space or none");
            if size + cost >= quota && cost > 0 {
                self.raise_no_space(size, quota).await?;
                return Err(ProposeError::NoSpace);
            }
        }
        self.write(request).await
    }

    async fn raise_no_space(&self, size: i64, quota: i64) -> Result<(), ProposeError> {
        let alarm = Alarm { member: self.shared.identity.member, kind: AlarmKind::NoSpace };
        if !self.alarms().contains(&alarm) {
            tracing::warn!(
                "current-db-size-bytes" = size,
                "current-db-size" = %HumanBytes(size),
                "quota-size-bytes" = quota,
                "quota-size" = %HumanBytes(quota),
                "database space exceeded: writes are refused. To free space: `etcdctl compact <revision>`, \
                 `etcdctl defrag`, then `etcdctl alarm disarm`; or raise --quota-backend-bytes"
            );
            self.propose_own(Command::AlarmActivate(alarm)).await?;
        }
        Ok(())
    }

    /// Removes history, as a request for a compaction says. With `physical` the answer waits until the space is free.
    pub(super) async fn compact(&self, request: Request, physical: bool) -> Result<Outcome, ProposeError> {
        let outcome = self.propose(request).await?;
        if let Err(ApplyError::Auth(_)) = outcome.result {
            return Ok(outcome);
        }
        if physical {
            // Also of compactions before this one, where this one is refused.
            let compacted = self.shared.replica.read().state.mvcc.rev_compacted();
            self.shared.orders.compact_physically();
            let freed = self.shared.compacted.clone().wait_for(|freed| *freed >= compacted).await.is_ok();
            return if freed { Ok(outcome) } else { Err(ProposeError::Stopped) };
        }
        if outcome.result.is_ok() {
            self.shared.orders.compact();
        }
        Ok(outcome)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.shared.patience.limit
    }
}
