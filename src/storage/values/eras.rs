//! Who may still read an earlier state of the database.
//!
//! A reader belongs to the era in which it began. A commit after which a file of values is not referred to any more
//! begins a new era: the file is read by nobody once all readers of earlier eras have ended.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

/// Held by the readers that began in it.
#[derive(Debug)]
pub(crate) struct Era(());

#[derive(Debug)]
pub(super) struct Eras {
    current: Arc<Era>,
    number: u64,
    /// Those before it that may have readers, oldest first.
    past: VecDeque<(u64, Weak<Era>)>,
}

impl Default for Eras {
    fn default() -> Eras {
        Eras { current: Arc::new(Era(())), number: 0, past: VecDeque::new() }
    }
}

impl Eras {
    pub(super) fn enter(&self) -> Arc<Era> {
        Arc::clone(&self.current)
    }

    /// Begins the next era, and returns its number.
    pub(super) fn advance(&mut self) -> u64 {
        let ended = std::mem::replace(&mut self.current, Arc::new(Era(())));
        self.past.push_back((self.number, Arc::downgrade(&ended)));
        self.number += 1;
        self.number
    }

    /// The number of the oldest era that has readers, or of the current one.
    pub(super) fn oldest_in_use(&mut self) -> u64 {
        while self.past.pop_front_if(|(_, era)| era.strong_count() == 0).is_some() {}
        self.past.front().map_or(self.number, |(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_era_is_in_use_until_its_last_reader_and_those_of_earlier_ones_end() {
        let mut eras = Eras::default();
        let first = eras.enter();
        let also_first = eras.enter();
        assert_eq!(eras.advance(), 1);
        let second = eras.enter();
        assert_eq!(eras.advance(), 2);
        assert_eq!(eras.oldest_in_use(), 0);
        drop(first);
        assert_eq!(eras.oldest_in_use(), 0);
        drop(second);
        assert_eq!(eras.oldest_in_use(), 0);
        drop(also_first);
        assert_eq!(eras.oldest_in_use(), 2);
    }
}
