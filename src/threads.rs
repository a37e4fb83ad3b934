//! Where threads are started.
//!
//! Every thread of the server is started here, so that what runs beside what can be listed, and so
//! that a simulator that takes the turns itself (see `turn`) has one place to do it.

use std::{
    io, panic,
    thread::{self, JoinHandle},
};

use tokio::{runtime::Handle, task::JoinError};

/// Starts a thread that the server cannot do without.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    try_spawn(name, work).expect("the system can start a thread")
}

/// Starts a thread, unless the system has no more of them.
pub(crate) fn try_spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Runs work on a thread of its own and waits for it, for a caller that may be on a runtime already.
pub(crate) fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| panic::resume_unwind(panic))
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
    tokio::task::spawn_blocking(work).await
}

/// Drops a value on a thread of the runtime's pool, because that takes long and nobody has to wait for it.
pub(crate) fn drop_apart<T: Send + 'static>(value: T) {
    // Without a runtime, or while it ends, the value is dropped here.
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn_blocking(move || drop(value)));
    }
}
