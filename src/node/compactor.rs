//! Auto-compaction, as etcd does it: after a time, or beyond a number of revisions.

use std::{collections::VecDeque, time::Duration};

use tokio::time;

use super::Node;
use crate::{
    apply::{ApplyError, Command},
    config::AutoCompaction,
    limits,
    types::{Caller, Rev},
};

const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Samples of the current revision taken per interval.
const SAMPLES: u32 = 10;

pub(crate) async fn run(node: Node) {
    let work = async {
        match node.config().auto_compaction {
            AutoCompaction::Off => std::future::pending().await,
            AutoCompaction::Periodic(period) => periodic(&node, period).await,
            AutoCompaction::Revision(keep) => by_revision(&node, keep).await,
        }
    };
    tokio::select! { biased;
        () = node.stopping() => {}
        () = work => {}
    }
}

/// Waits one whole period, then goes on compacting to where the store was one period ago.
async fn periodic(node: &Node, period: Duration) {
    let mut samples = Samples::new(period);
    loop {
        samples.take(node.rev());
        time::sleep(samples.interval).await;
        if let Some(target) = samples.target()
            && compact(node, target).await
        {
            samples.compacted(target);
        }
    }
}

/// Revisions at equal distances of time, over one period.
struct Samples {
    interval: Duration,
    per_period: usize,
    revs: VecDeque<Rev>,
    compacted: Rev,
    /// Samples until the next compaction.
    until_next: u32,
}

impl Samples {
    fn new(period: Duration) -> Samples {
        let interval = (period.min(HOUR) / SAMPLES).max(Duration::from_millis(1));
        let per_period = (period.as_nanos() / interval.as_nanos()).max(1) as usize;
        // The queue is not made as large as it is going to be: a period may be longer than any process
        // lives.
        Samples { interval, per_period, revs: VecDeque::new(), compacted: Rev(0), until_next: 0 }
    }

    fn take(&mut self, rev: Rev) {
        self.revs.push_back(rev);
    }

    /// Called once an interval after each sample: what to compact to, if it is time.
    fn target(&mut self) -> Option<Rev> {
        self.until_next = self.until_next.saturating_sub(1);
        while self.revs.len() > self.per_period {
            self.revs.pop_front();
        }
        if self.revs.len() < self.per_period {
            return None;
        }
        let target = *self.revs.front()?;
        (self.until_next == 0 && target > self.compacted).then_some(target)
    }

    fn compacted(&mut self, target: Rev) {
        assert!(target > self.compacted, "an automatic compaction goes forward");
        self.compacted = target;
        self.until_next = SAMPLES;
    }
}

async fn by_revision(node: &Node, keep: i64) {
    let mut compacted = Rev(0);
    loop {
        time::sleep(REVISION_INTERVAL).await;
        let target = Rev(node.rev().0 - keep);
        if target > Rev(0) && target != compacted && compact(node, target).await {
            compacted = target;
        }
    }
}

/// True if history up to `target` is compacted, by this call or an earlier one.
async fn compact(node: &Node, target: Rev) -> bool {
    if !node.leadership().is_leader {
        return false;
    }
    match node.compact(Command::Compact { rev: target }.by(Caller::Internal), false).await {
        Ok(outcome) => match outcome.result {
            Ok(_) | Err(ApplyError::Compacted { .. }) => {
                tracing::info!(revision = target.0, "completed auto compaction");
                true
            }
            Err(error) => {
                tracing::warn!(revision = target.0, %error, "auto compaction was refused");
                time::sleep(limits::COMPACTION_RETRY_PAUSE).await;
                false
            }
        },
        Err(error) => {
            tracing::warn!(revision = target.0, %error, "failed auto compaction; will retry");
            time::sleep(limits::COMPACTION_RETRY_PAUSE).await;
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_passes_before_the_first_compaction_and_an_interval_between_the_next() {
        let mut samples = Samples::new(Duration::from_secs(600));
        assert_eq!((samples.interval, samples.per_period), (Duration::from_secs(60), 10));
        let mut targets = Vec::new();
        for rev in 1..=35 {
            samples.take(Rev(rev));
            if let Some(target) = samples.target() {
                samples.compacted(target);
                targets.push((rev, target.0));
            }
        }
        assert_eq!(targets, [(10, 1), (20, 11), (30, 21)]);
    }

    #[test]
    fn a_compaction_that_failed_is_due_again_at_the_next_sample() {
        let mut samples = Samples::new(Duration::from_secs(600));
        (1..=10).for_each(|rev| samples.take(Rev(rev)));
        assert_eq!(samples.target(), Some(Rev(1)));
        samples.take(Rev(11));
        assert_eq!(samples.target(), Some(Rev(2)));
    }

    #[test]
    fn a_long_period_is_sampled_every_six_minutes() {
        let samples = Samples::new(Duration::from_secs(24 * 3600));
        assert_eq!((samples.interval, samples.per_period), (Duration::from_secs(360), 240));
    }
}
