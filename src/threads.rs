//! Where threads are started.
//!
//! Every thread of the server is started here, so that what runs beside what can be listed. In a
//! simulation (`sim`) no thread is started: whatever would run on one is a task of the simulated member, and
//! work that waits for the disk is done at once, so that the order of everything follows from the seed.

use std::{
    io, panic,
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::{self, Handle},
    sync::oneshot,
    task::JoinError,
};

/// A thread with work that somebody waits for.
pub(crate) struct Thread {
    ended: oneshot::Receiver<()>,
    /// `None` in a simulation.
    system: Option<JoinHandle<()>>,
}

/// Starts a thread that the server cannot do without.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    try_spawn(name, work).expect("the system can start a thread")
}

/// Starts a thread, unless the system has no more of them. No simulated member does: see [`try_host`].
pub(crate) fn try_spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Starts a thread whose end somebody waits for.
pub(crate) fn begin(name: &str, work: impl FnOnce() + Send + 'static) -> Thread {
    let (runs, ended) = oneshot::channel::<()>();
    let work = move || {
        let _runs = runs;
        work();
    };
    Thread { ended, system: Some(spawn(name, work)) }
}

/// Starts a thread with a runtime of its own for this work, unless the system has no more threads.
pub(crate) fn try_host(name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<Thread> {
    let (runs, ended) = oneshot::channel::<()>();
    let work = async move {
        let _runs = runs;
        work.await;
    };
    if is_simulated() {
        tokio::spawn(work);
        return Ok(Thread { ended, system: None });
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let system = try_spawn(name, move || runtime.block_on(work))?;
    Ok(Thread { ended, system: Some(system) })
}

impl Thread {
    /// Waits for the end, and goes on with the panic if the thread ended with one.
    pub(crate) async fn ended(self) {
        // The other end is dropped by the thread and carries nothing.
        let _ = self.ended.await;
        if let Some(system) = self.system {
            join(system);
        }
    }
}

/// Runs work on a thread of its own and waits for it, for a caller that may be on a runtime already.
pub(crate) fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// Blocks until a future has its result.
pub(crate) fn wait<T: Send>(work: impl Future<Output = T> + Send) -> T {
    apart(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime needs nothing but memory and a few descriptors");
        runtime.block_on(work)
    })
}

/// Waits for a thread, and goes on with its panic if that is how it ended.
pub(crate) fn join(thread: JoinHandle<()>) {
    if let Err(panic) = thread.join() {
        panic::resume_unwind(panic);
    }
}

/// Runs work that waits for the disk on a thread of the runtime's pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if is_simulated() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

/// Drops a value on a thread of the runtime's pool, because that takes long and nobody has to wait for it.
pub(crate) fn drop_apart<T: Send + 'static>(value: T) {
    // Without a runtime, while it ends, and in a simulation the value is dropped here.
    if let Ok(runtime) = Handle::try_current()
        && !is_simulated()
    {
        drop(runtime.spawn_blocking(move || drop(value)));
    }
}

/// Lowers the priority of the calling thread.
pub(crate) fn give_way(niceness: i32) -> io::Result<()> {
    if !is_simulated() {
        rustix::process::nice(niceness)?;
    }
    Ok(())
}

/// Whether this thread runs simulated members.
#[cfg(not(test))]
pub(crate) const fn is_simulated() -> bool {
    false
}

#[cfg(test)]
pub(crate) use simulated::{PAUSE as SIMULATED_PAUSE, disk_pause, is_simulated, simulate};

#[cfg(test)]
mod simulated {
    use std::{cell::RefCell, time::Duration};

    use tokio::time;

    /// How often the task of a simulated thread looks for what would have woken the thread.
    pub(crate) const PAUSE: Duration = Duration::from_millis(5);

    type Pace = Box<dyn FnMut() -> Duration>;

    thread_local! {
        static DISK_PACE: RefCell<Option<Pace>> = const { RefCell::new(None) };
    }

    /// From now on this thread runs simulated members. `disk_pace` says how long the disk takes for what is
    /// written to a log next.
    pub(crate) fn simulate(disk_pace: impl FnMut() -> Duration + 'static) {
        DISK_PACE.set(Some(Box::new(disk_pace)));
    }

    pub(crate) fn is_simulated() -> bool {
        DISK_PACE.with_borrow(Option::is_some)
    }

    /// Waits as long as the disk takes.
    pub(crate) async fn disk_pause() {
        let pause = DISK_PACE.with_borrow_mut(|pace| pace.as_mut().map(|pace| pace()));
        if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
            time::sleep(pause).await;
        }
    }
}
