//! Notes every few seconds how this member is, for the console.

use tokio::time;

use super::Node;
use crate::{
    clock,
    telemetry::{Reading, SAMPLE_INTERVAL},
};

pub(crate) async fn run(node: Node) {
    let mut ticks = time::interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { biased;
            () = node.stopping() => return,
            _ = ticks.tick() => node.sample(),
        }
    }
}

impl Node {
    fn sample(&self) {
        let watchers = self.watch_hub().census().watchers;
        let (rev, size) = {
            let replica = self.shared.replica.read();
            (replica.state.mvcc.rev_current().0, replica.state.mvcc.size())
        };
        let counts = self.metrics().counts();
        let reading = Reading { rev, watchers, db_bytes: size.total, db_in_use_bytes: size.in_use, counts };
        self.metrics().history.take(clock::wall(), reading);
    }
}
