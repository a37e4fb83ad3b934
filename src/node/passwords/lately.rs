//! What is remembered for a while, of a bounded number.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

pub(super) struct Lately<K, V> {
    known: BTreeMap<K, (V, Instant)>,
    count_max: usize,
    age_max: Duration,
}

impl<K: Ord + Clone, V> Lately<K, V> {
    pub(super) fn new(count_max: usize, age_max: Duration) -> Lately<K, V> {
        Lately { known: BTreeMap::new(), count_max, age_max }
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q, now: Instant) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        let (value, at) = self.known.get(key)?;
        (now.saturating_duration_since(*at) < self.age_max).then_some(value)
    }

    /// When there are too many, the one that was remembered first is forgotten.
    pub(super) fn remember(&mut self, key: K, value: V, now: Instant) {
        if self.known.len() >= self.count_max && !self.known.contains_key(&key) {
            self.known.retain(|_, (_, at)| now.saturating_duration_since(*at) < self.age_max);
            if self.known.len() >= self.count_max
                && let Some((first, _)) = self.known.iter().min_by_key(|(_, (_, at))| *at)
            {
                let first = first.clone();
                self.known.remove(&first);
            }
        }
        self.known.insert(key, (value, now));
    }

    pub(super) fn forget(&mut self, key: &K) {
        self.known.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE_MAX: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_remembered_is_forgotten_after_a_while_or_when_told_so() {
        let mut lately = Lately::new(4, AGE_MAX);
        let now = Instant::now();
        lately.remember("a", 1, now);
        assert_eq!((lately.get("a", now), lately.get("b", now)), (Some(&1), None));
        assert_eq!(lately.get("a", now + AGE_MAX), None);
        lately.remember("a", 2, now);
        assert_eq!(lately.get("a", now), Some(&2));
        lately.forget(&"a");
        assert_eq!(lately.get("a", now), None);
    }

    #[test]
    fn the_first_is_forgotten_when_there_are_too_many() {
        let mut lately = Lately::new(4, AGE_MAX);
        let now = Instant::now();
        for number in 0..=4 {
            lately.remember(number, (), now + Duration::from_micros(number));
        }
        let later = now + Duration::from_micros(4);
        let known: Vec<bool> = (0..=4_u64).map(|number| lately.get(&number, later).is_some()).collect();
        assert_eq!(known, [false, true, true, true, true]);
    }
}
