//! One simulated machine with one member: its disk, its clock, and the process that runs there now.
//!
//! The process is a tokio runtime of its own with a paused clock. Ending the process is dropping the runtime, and with
//! it every task of the member; pausing it is not running it. The disk stays.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::{self, Instant},
};

use super::{
    dice::Dice,
    network::{Network, Port},
    panics,
    wires::Wires,
};
use crate::{
    chance::Chance,
    config::Config,
    disk::memory::MemoryDisks,
    node::{self, End, Node, Outside},
    rpc,
    telemetry::Metrics,
};

/// A process that was not run for longer than this was paused.
const JUMP: Duration = Duration::from_millis(50);

pub(super) struct Host {
    pub(super) number: usize,
    network: Network,
    chance: Chance,
    pub(super) config: Config,
    pub(super) disks: MemoryDisks,
    process: Option<Process>,
    /// The host takes no part in anything until then.
    pub(super) paused_until: Duration,
    /// How fast its clock is, in millionths of the world's.
    pub(super) clock_rate: u64,
    /// What its time of day differs from the world's.
    pub(super) wall_offset_secs: u64,
}

struct Process {
    runtime: Runtime,
    /// When it began by its own clock, and for how long it has lived by that.
    origin: Instant,
    lived: Duration,
    /// The world's time that this is.
    seen: Duration,
    status: Arc<Mutex<Status>>,
    stop: Option<oneshot::Sender<()>>,
}

/// What the process says of itself.
#[derive(Default)]
pub(super) struct Status {
    pub(super) node: Option<Node>,
    pub(super) ended: Option<Ended>,
}

/// Why a member does not run any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Refused(String),
    Failed(String),
    Removed,
    Stopped,
}

impl Host {
    pub(super) fn new(number: usize, network: Network, chance: Chance, config: Config) -> Host {
        Host {
            number,
            network,
            chance,
            config,
            disks: MemoryDisks::default(),
            process: None,
            paused_until: Duration::ZERO,
            clock_rate: 1_000_000,
            wall_offset_secs: 0,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn is_paused(&self, now: Duration) -> bool {
        now < self.paused_until
    }

    /// The member, once it serves.
    pub(super) fn node(&self) -> Option<Node> {
        self.process.as_ref().and_then(|process| process.status.lock().node.clone())
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        self.process.as_ref().and_then(|process| process.status.lock().ended.clone())
    }

    /// Starts a process on what is on the disk.
    pub(super) fn start(&mut self, now: Duration) {
        assert!(self.process.is_none(), "one process at a time uses the disk");
        let runtime = runtime();
        let origin = runtime.block_on(async { Instant::now() });
        let status: Arc<Mutex<Status>> = Arc::default();
        let (stop, stopped) = oneshot::channel();
        self.network.process_began(self.number, runtime.handle().clone());
        let outside = Outside {
            disks: Arc::new(self.disks.clone()),
            connector: Arc::new(Wires::new(self.network.clone(), self.number)),
            chance: self.chance.clone(),
            find: |config| Ok(config.clone()),
        };
        let life =
            live(self.number, self.config.clone(), outside, self.network.clone(), status.clone(), stopped);
        runtime.spawn(life);
        self.process =
            Some(Process { runtime, origin, lived: Duration::ZERO, seen: now, status, stop: Some(stop) });
    }

    /// Lets the process run up to `now`.
    pub(super) fn run(&mut self, now: Duration) {
        if self.is_paused(now) {
            return;
        }
        let Some(process) = &mut self.process else { return };
        let passed = now.saturating_sub(process.seen);
        process.seen = now;
        let own = passed.as_nanos() * u128::from(self.clock_rate) / 1_000_000;
        process.lived += Duration::from_nanos(own as u64);
        let until = process.origin + process.lived;
        // A process that was paused finds that its clock has jumped; one that runs sees one timer after the other.
        let was_paused = passed > JUMP;
        process.runtime.block_on(async move {
            if was_paused {
                time::advance(until.saturating_duration_since(Instant::now())).await;
            }
            time::sleep_until(until).await;
        });
    }

    /// Asks the member to stop, as SIGTERM does.
    pub(super) fn stop(&mut self) {
        if let Some(process) = &mut self.process
            && let Some(stop) = process.stop.take()
        {
            let _ = stop.send(());
        }
    }

    /// Ends the process as SIGKILL does: everything that was written is still there.
    pub(super) fn kill(&mut self) {
        self.end(true, || true);
    }

    /// Takes the power away: of what was not synced, some is lost.
    pub(super) fn lose_power(&mut self, dice: &Dice) {
        match dice.below(4) {
            0 => self.end(false, || false),
            1 => self.end(false, || true),
            _ => self.end(false, || dice.flip()),
        }
    }

    fn end(&mut self, has_power: bool, is_kept: impl FnMut() -> bool) {
        let Some(process) = self.process.take() else { return };
        // What is done from here on, while the tasks of the process are dropped, does not reach the disk.
        let found = self.disks.after_power_loss(is_kept);
        self.disks.fail_after(0);
        let end = || {
            self.network.process_ended(self.number, has_power);
            drop(process);
        };
        // redb may panic when it closes a file with flipped bits. A process that ends like this closes no file.
        let _ = panic::catch_unwind(AssertUnwindSafe(end));
        panics::forget_those_of_redb();
        self.disks = found;
    }

    /// Removes a process that has ended by itself.
    pub(super) fn bury(&mut self) {
        self.end(true, || true);
    }
}

/// A runtime with a clock that only moves when it is told to.
pub(super) fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime needs nothing but memory")
}

/// The life of a process, as `main` has it.
async fn live(
    number: usize,
    config: Config,
    outside: Outside,
    network: Network,
    status: Arc<Mutex<Status>>,
    stop: oneshot::Receiver<()>,
) {
    let ended = |ended| status.lock().ended = Some(ended);
    let metrics = Arc::new(Metrics::new(&config));
    let opened = match node::open(config, metrics, outside).await {
        Ok(opened) => opened,
        Err(error) => return ended(Ended::Refused(error.to_string())),
    };
    let peers = network.clone();
    let mut running = opened.run(move |node| async move {
        peers.serve(number, Port::Peer, rpc::peer_routes(&node));
    });
    let node = match running.ready().await {
        Ok(node) => node,
        Err(error) => return ended(Ended::Refused(error.to_string())),
    };
    let (node, hand_out) = node.for_reactor();
    tokio::spawn(hand_out);
    network.serve(number, Port::Client, rpc::routes(&node));
    status.lock().node = Some(node);
    tokio::select! { biased;
        _ = stop => {
            // The handle keeps queues open that the member waits for.
            status.lock().node = None;
            running.stopped().await;
            ended(Ended::Stopped);
        }
        end = running.ended() => ended(match end {
            End::Removed => Ended::Removed,
            End::Failed(reason) => Ended::Failed(reason),
        }),
    }
}
