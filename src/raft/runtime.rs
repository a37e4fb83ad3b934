//! tokio as openraft's runtime, with our source of chance.
//!
//! openraft asks its runtime for a generator of the current thread, from which it draws how long this
//! member waits before it stands for election. Here that is a handle to the member's own generator:
//! [`draw_from`] gives it to the thread that openraft is going to run on.

use std::{cell::RefCell, convert::Infallible, future::Future, time::Duration};

use openraft::{OptionalSend, impls::TokioRuntime, rt::AsyncRuntime};
use rand::TryRng;

use crate::chance::Chance;

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

/// See the module.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Drawn;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
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

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
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
