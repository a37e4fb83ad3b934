//! How many handshakes run at the same time.
//!
//! Each costs memory and computing time before it is known who is asking. Beyond a number of them the next ones wait, and
//! a handshake that has had a second then gives way to one that waits. So clients that begin handshakes and do not
//! finish them keep others waiting for a second at most.

use std::{future::Future, pin::pin, time::Duration};

use tokio::{
    sync::{Notify, Semaphore},
    time,
};

use crate::limits;

#[derive(Debug)]
pub(super) struct Places {
    free: Semaphore,
    undisturbed: Duration,
    /// Told while somebody waits for a place.
    crowded: Notify,
}

/// Others waited for the place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GaveWay;

impl Places {
    pub(super) fn new(places: usize) -> Places {
        Places {
            free: Semaphore::new(places),
            undisturbed: limits::HANDSHAKE_UNDISTURBED,
            crowded: Notify::new(),
        }
    }

    /// Does the work once there is a place.
    pub(super) async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, GaveWay> {
        let mut place = pin!(self.free.acquire());
        let _place = loop {
            tokio::select! { biased;
                place = &mut place => break place.expect("the semaphore is never closed"),
                () = time::sleep(limits::HANDSHAKE_CROWD_INTERVAL) => self.crowded.notify_waiters(),
            }
        };
        let gives_way = async {
            time::sleep(self.undisturbed).await;
            self.crowded.notified().await;
        };
        tokio::select! { biased;
            done = work => Ok(done),
            () = gives_way => Err(GaveWay),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn whoever_does_not_finish_gives_way_to_one_that_waits() {
        let places = Places { undisturbed: Duration::ZERO, ..Places::new(1) };
        let mut stuck = pin!(places.run(future::pending::<()>()));
        assert!((&mut stuck).now_or_never().is_none());
        let (stuck, next) = tokio::join!(stuck, places.run(async { 2 }));
        assert_eq!((stuck, next), (Err(GaveWay), Ok(2)));
    }

    #[tokio::test]
    async fn nobody_is_disturbed_early() {
        let places = Places::new(1);
        let quick = places.run(time::sleep(2 * limits::HANDSHAKE_CROWD_INTERVAL));
        let (first, second) = tokio::join!(quick, places.run(async {}));
        assert_eq!((first, second), (Ok(()), Ok(())));
    }
}
