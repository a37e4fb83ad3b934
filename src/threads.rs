//! Where threads are started.
//!
//! Every thread of the server is started here, so that what runs beside what can be listed. In a
//! simulation (`sim`) no thread is started: whatever would run on one is a task of the simulated member, and
//! work that waits for the disk is done at once, so that the order of everything follows from the seed.

use std::{
    io, mem, panic,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    vec,
};

use parking_lot::Mutex;
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

/// Items that another thread takes from an iterator, ahead of whoever takes them here.
pub(crate) enum Ahead<I: Iterator> {
    /// In a simulation, or if the system has no more threads.
    Here(I),
    Apart(Apart<I::Item>),
}

pub(crate) struct Apart<T> {
    batch: vec::IntoIter<T>,
    /// `None` once the thread has ended, or this is dropped.
    batches: Option<mpsc::Receiver<Vec<T>>>,
    thread: Option<JoinHandle<()>>,
}

/// How much is handed over at once: it ends when either is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// Has a thread take the items of an iterator. Two batches wait at most; then the thread does. `bytes` says how large an
/// item is.
pub(crate) fn ahead<I>(
    name: &str,
    items: I,
    limit: Batch,
    bytes: impl Fn(&I::Item) -> usize + Send + 'static,
) -> Ahead<I>
where
    I: Iterator<Item: Send> + Send + 'static,
{
    if is_simulated() {
        return Ahead::Here(items);
    }
    let (send, batches) = mpsc::sync_channel(2);
    // They come back if no thread can be started.
    let items = Arc::new(Mutex::new(Some(items)));
    let taken = Arc::clone(&items);
    let work = move || {
        let items = taken.lock().take().expect("they are taken once");
        let (mut batch, mut filled) = (Vec::with_capacity(limit.items), 0);
        for item in items {
            filled += bytes(&item);
            batch.push(item);
            if batch.len() >= limit.items || filled >= limit.bytes {
                let full = mem::replace(&mut batch, Vec::with_capacity(limit.items));
                if send.send(full).is_err() {
                    // Nobody wants the rest.
                    return;
                }
                filled = 0;
            }
        }
        let _ = send.send(batch);
    };
    match try_spawn(name, work) {
        Ok(thread) => Ahead::Apart(Apart {
            batch: Vec::new().into_iter(),
            batches: Some(batches),
            thread: Some(thread),
        }),
        Err(_) => Ahead::Here(items.lock().take().expect("no thread has taken them")),
    }
}

impl<I: Iterator> Iterator for Ahead<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        match self {
            Ahead::Here(items) => items.next(),
            Ahead::Apart(apart) => apart.next(),
        }
    }
}

impl<T> Iterator for Apart<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        loop {
            if let Some(item) = self.batch.next() {
                return Some(item);
            }
            match self.batches.as_ref()?.recv() {
                Ok(batch) => self.batch = batch.into_iter(),
                Err(mpsc::RecvError) => {
                    self.batches = None;
                    if let Some(thread) = self.thread.take() {
                        join(thread);
                    }
                }
            }
        }
    }
}

impl<T> Drop for Apart<T> {
    /// The iterator is dropped before this returns: what it reads may be closed then.
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic of a thread that nobody waits for any more is lost, for this may be dropped by a panic.
            let _ = thread.join();
        }
    }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LIMIT: Batch = Batch { items: 10, bytes: 1000 };

    #[test]
    fn items_are_taken_ahead_in_their_order_and_all_of_them() {
        for count in [0, 1, 9, 10, 11, 1000] {
            let items = ahead("test", 0..count, LIMIT, |_| 0);
            assert!(matches!(items, Ahead::Apart(_)));
            assert!(items.eq(0..count));
        }
    }

    #[test]
    fn a_batch_of_large_items_ends_earlier() {
        let Ahead::Apart(mut items) = ahead("test", 0..10, LIMIT, |_| 400) else { panic!("a thread") };
        assert_eq!(items.next(), Some(0));
        assert_eq!(items.batch.len(), 2);
    }

    #[test]
    fn the_thread_waits_for_whoever_takes_the_items_and_ends_with_them() {
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = {
            let taken = taken.clone();
            (0..1_000_000).inspect(move |_| _ = taken.fetch_add(1, Ordering::Relaxed))
        };
        let mut items = ahead("test", counted, LIMIT, |_| 0);
        assert_eq!(items.next(), Some(0));
        drop(items);
        // One batch was taken here, two waited, and one was being sent.
        assert!(taken.load(Ordering::Relaxed) <= 40);
        assert_eq!(Arc::strong_count(&taken), 1, "the iterator is gone");
    }

    #[test]
    #[should_panic(expected = "of the thread")]
    fn a_panic_of_the_thread_is_that_of_whoever_takes_the_items() {
        let broken = (0..100).inspect(|item| assert!(*item < 50, "of the thread"));
        ahead("test", broken, LIMIT, |_| 0).for_each(drop);
    }
}
