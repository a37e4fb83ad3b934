//! The one source of chance.
//!
//! Everything random in a member, such as ids and the time before an election, comes from one generator with
//! one seed. The process takes the seed from the operating system in one place; a test sets its own seed, and
//! can repeat a run with it.

use std::{ops::Range, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A handle to the generator, which all clones share.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Arc<Mutex<StdRng>>);

impl Chance {
    /// Seeded by the operating system, so that the numbers cannot be predicted.
    pub(crate) fn from_system() -> Chance {
        Chance::seeded(rand::random())
    }

    pub(crate) fn seeded(seed: u64) -> Chance {
        Chance(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.lock().random()
    }

    /// A text of ASCII letters, for a secret: nobody can tell it from the texts before it, if the seed is
    /// not known.
    pub(crate) fn letters(&self, count: usize) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut generator = self.0.lock();
        (0..count).map(|_| char::from(LETTERS[generator.random_range(0..LETTERS.len())])).collect()
    }

    /// A part of `whole`, from `parts.start` times it up to `parts.end` times it.
    pub(crate) fn part_of(&self, whole: Duration, parts: Range<f64>) -> Duration {
        assert!(parts.start < parts.end, "there is something to choose from");
        whole.mul_f64(self.0.lock().random_range(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_what_comes_and_all_clones_share_it() {
        let (one, other) = (Chance::seeded(7), Chance::seeded(7));
        let clone = one.clone();
        let drawn = [one.number(), clone.number(), one.number()];
        assert_eq!(drawn, [other.number(), other.number(), other.number()]);
        assert_ne!(drawn[0], drawn[1], "a clone goes on where the other is");
        assert_ne!(Chance::seeded(8).number(), drawn[0]);
    }

    #[test]
    fn letters_are_as_many_as_asked_for_and_others_each_time() {
        let chance = Chance::seeded(1);
        let (one, other) = (chance.letters(16), chance.letters(16));
        assert!(one.len() == 16 && one.chars().all(|letter| letter.is_ascii_alphabetic()), "{one}");
        assert_ne!(one, other);
    }

    #[test]
    fn a_part_is_within_its_bounds() {
        let (chance, second) = (Chance::seeded(1), Duration::from_secs(1));
        for _ in 0..1000 {
            let part = chance.part_of(second, 0.5..2.0);
            assert!(part >= second / 2 && part <= second * 2, "{part:?}");
        }
    }
}
