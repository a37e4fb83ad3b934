//! tokio as openraft's runtime, with our clock and our source of chance.
//!
//! openraft asks its runtime for the random generator of the current thread, and draws from it how long
//! this member waits before it stands for election. Here that generator is a handle to the member's own:
//! [`draw_from`] gives the handle to the thread that openraft is going to run on.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    ops::{Add, AddAssign, Sub, SubAssign},
    time::{Duration, Instant},
};

use openraft::{OptionalSend, impls::TokioRuntime, rt::AsyncRuntime};
use rand::TryRng;
use tokio::time;

use super::watched::Watched;
use crate::{chance::Chance, clock};

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Chance>> = const { RefCell::new(None) };
}

/// Has openraft draw from `chance` on this thread.
pub(super) fn draw_from(chance: Chance) {
    OF_THIS_THREAD.set(Some(chance));
}

/// What openraft draws from.
pub(crate) struct Drawn(Chance);

impl TryRng for Drawn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.number() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.number())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(size_of::<u64>()) {
            part.copy_from_slice(&self.0.number().to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
}

/// A time as openraft knows it, by our clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Instant);

impl Moment {
    /// How long ago it was.
    pub(super) fn age(self) -> Duration {
        clock::since(self.0)
    }
}

impl openraft::Instant for Moment {
    fn now() -> Moment {
        Moment(clock::now())
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, duration: Duration) -> Moment {
        Moment(self.0 + duration)
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, duration: Duration) {
        self.0 += duration;
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, duration: Duration) -> Moment {
        Moment(self.0 - duration)
    }
}

impl SubAssign<Duration> for Moment {
    fn sub_assign(&mut self, duration: Duration) {
        self.0 -= duration;
    }
}

impl Sub<Moment> for Moment {
    type Output = Duration;

    fn sub(self, earlier: Moment) -> Duration {
        self.0 - earlier.0
    }
}

/// tokio's runtime, except for the times, `thread_rng`, and the order in which a watched value wakes who waits for it.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = Moment;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Drawn;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = Watched;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn thread_rng() -> Drawn {
        Drawn(OF_THIS_THREAD.with_borrow(Clone::clone).expect("openraft runs where `draw_from` was called"))
    }

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Moment) -> Self::Sleep {
        time::sleep_until(deadline.0.into())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Moment,
        future: F,
    ) -> Self::Timeout<R, F> {
        time::timeout_at(deadline.0.into(), future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn new(threads: usize) -> Self {
        Runtime(TokioRuntime::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn openraft_draws_what_the_seed_says() {
        draw_from(Chance::seeded(7));
        let same = Chance::seeded(7);
        assert_eq!(Runtime::thread_rng().next_u64(), same.number());
        let mut bytes = [0; 11];
        Runtime::thread_rng().fill_bytes(&mut bytes);
        let expected = [same.number().to_le_bytes(), same.number().to_le_bytes()].concat();
        assert_eq!(bytes[..], expected[..bytes.len()]);
    }
}
