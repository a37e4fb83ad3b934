//! Tells the service manager that the core thread is alive, if it asks for that: a core that hangs ends in a restart.

use tokio::time;

use super::Node;
use crate::telemetry;

pub(crate) async fn run(node: Node) {
    let Some(interval) = telemetry::watchdog_interval() else { return };
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { biased;
            () = node.stopping() => return,
            _ = ticks.tick() => telemetry::tell_alive(),
        }
    }
}
