//! Chance for the world, apart from that of the members.

use std::{ops::Range, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A handle to a generator with a seed of its own, so that what one part of the world draws does not change
/// what another part draws.
#[derive(Clone)]
pub(super) struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    /// The generator of one purpose in the run of a seed.
    pub(super) fn new(seed: u64, purpose: u64) -> Dice {
        Dice(Arc::new(Mutex::new(StdRng::seed_from_u64(seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15)))))
    }

    pub(super) fn below(&self, end: u64) -> u64 {
        self.0.lock().random_range(0..end)
    }

    pub(super) fn within(&self, range: Range<u64>) -> u64 {
        self.0.lock().random_range(range)
    }

    pub(super) fn of_thousand(&self, share: u32) -> bool {
        share > 0 && self.below(1000) < u64::from(share)
    }

    pub(super) fn between(&self, least: Duration, most: Duration) -> Duration {
        Duration::from_nanos(self.within(least.as_nanos() as u64..most.as_nanos() as u64 + 1))
    }

    pub(super) fn one_of<'a, T>(&self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    pub(super) fn flip(&self) -> bool {
        self.below(2) == 0
    }
}
