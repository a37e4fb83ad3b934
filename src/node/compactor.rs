//! Auto-compaction, as etcd does it: after a time, or beyond a number of revisions.

use std::{collections::VecDeque, time::Duration};

use tokio::time;

use super::Node;
use crate::{apply::ApplyError, config::AutoCompaction, limits, types::Rev};

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
    let interval = period.min(HOUR);
    let sample_interval = (interval / SAMPLES).max(Duration::from_millis(1));
    let samples_per_period = (period.as_nanos() / sample_interval.as_nanos()).max(1) as usize;
    // Not made as large as it is going to be: a period may be longer than anything lives.
    let mut samples = VecDeque::new();
    let mut compacted = Rev(0);
    let mut until_next = 0;
    loop {
        samples.push_back(node.rev());
        time::sleep(sample_interval).await;
        until_next = u32::saturating_sub(until_next, 1);
        if samples.len() < samples_per_period {
            continue;
        }
        while samples.len() > samples_per_period {
            samples.pop_front();
        }
        let target = samples[0];
        if until_next == 0 && target > compacted && compact(node, target).await {
            compacted = target;
            until_next = SAMPLES;
        }
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

/// True if history up to `target` is gone, by our hand or another's.
async fn compact(node: &Node, target: Rev) -> bool {
    if !node.leadership().is_leader {
        return false;
    }
    match node.compact(target, false).await {
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
