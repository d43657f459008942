//! Sets of episode numbers. Numbers are dense, so that a set is a few ranges however many episodes it holds.

use schemas::{EpisodeId, Split};
use std::collections::BTreeMap;

/// A set of numbers, kept as disjoint ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdSet {
    /// First number to last number, both inclusive.
    ranges: BTreeMap<u64, u64>,
}

impl IdSet {
    /// Adds a number; false where it was there.
    pub fn insert(&mut self, number: u64) -> bool {
        let before = self.ranges.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= number) {
            return false;
        }
        let mut range = (number, number);
        if let Some((first, last)) = before
            && last + 1 == number
        {
            range.0 = first;
        }
        if let Some(next) = number.checked_add(1)
            && let Some(last) = self.ranges.remove(&next)
        {
            range.1 = last;
        }
        self.ranges.insert(range.0, range.1);
        true
    }

    pub fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// How many numbers it holds.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The watermark: every number below it is in the set, and it is not.
    pub fn first_missing(&self) -> u64 {
        self.ranges.get(&0).map_or(0, |last| last.saturating_add(1))
    }

    /// The largest number; `None` where the set is empty.
    pub fn last(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, last)| *last)
    }

    /// The ranges in order, both ends inclusive.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    /// Adds all numbers from `first` to `last`, both inclusive; `None` where the range is backwards or meets the set.
    pub fn insert_range(&mut self, first: u64, last: u64) -> Option<()> {
        let meets = self.ranges.range(..=last).next_back().is_some_and(|(_, end)| *end >= first);
        if first > last || meets {
            return None;
        }
        // Joined to its neighbours by the single inserts at its two ends.
        self.insert(first);
        if last > first {
            let start = self.ranges.range(..=first).next_back().map_or(first, |(start, _)| *start);
            self.ranges.insert(start, last - 1);
            self.insert(last);
        }
        Some(())
    }
}

impl FromIterator<u64> for IdSet {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> IdSet {
        let mut set = IdSet::default();
        for number in numbers {
            set.insert(number);
        }
        set
    }
}

/// The episodes that a store holds, by split.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    splits: BTreeMap<Split, IdSet>,
}

impl Committed {
    /// Adds an episode; false where it was there.
    pub fn insert(&mut self, id: EpisodeId) -> bool {
        self.splits.entry(id.split).or_default().insert(id.number)
    }

    pub fn contains(&self, id: EpisodeId) -> bool {
        self.splits.get(&id.split).is_some_and(|set| set.contains(id.number))
    }

    /// How many episodes it holds.
    pub fn len(&self) -> u64 {
        self.splits.values().map(IdSet::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.splits.values().all(IdSet::is_empty)
    }

    /// The numbers of one split.
    pub fn split(&self, split: Split) -> &IdSet {
        static EMPTY: IdSet = IdSet { ranges: BTreeMap::new() };
        self.splits.get(&split).unwrap_or(&EMPTY)
    }

    pub(crate) fn split_mut(&mut self, split: Split) -> &mut IdSet {
        self.splits.entry(split).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn holds_what_a_plain_set_holds(numbers in prop::collection::vec(0u64..60, 0..80)) {
            let set: IdSet = numbers.iter().copied().collect();
            let plain: BTreeSet<u64> = numbers.iter().copied().collect();
            prop_assert_eq!(set.len(), plain.len() as u64);
            for number in 0..62 {
                prop_assert_eq!(set.contains(number), plain.contains(&number));
            }
            let ranges: Vec<_> = set.ranges().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            prop_assert_eq!(set.first_missing(), (0..).find(|n| !plain.contains(n)).unwrap());
            let mut again = IdSet::default();
            for (first, last) in ranges.into_iter().rev() {
                prop_assert!(again.insert_range(first, last).is_some());
            }
            prop_assert_eq!(again, set);
        }

        #[test]
        fn a_range_is_taken_only_where_it_is_free(numbers in prop::collection::vec(0u64..40, 0..20), first in 0u64..40, len in 0u64..10) {
            let mut set: IdSet = numbers.iter().copied().collect();
            let free = (first..=first + len).all(|n| !set.contains(n));
            let mut wanted: BTreeSet<u64> = numbers.into_iter().collect();
            prop_assert_eq!(set.insert_range(first, first + len).is_some(), free);
            if free {
                wanted.extend(first..=first + len);
            }
            prop_assert_eq!(set, wanted.into_iter().collect::<IdSet>());
        }
    }

    #[test]
    fn the_largest_number_is_a_number_too() {
        let mut set = IdSet::default();
        assert!(set.insert(u64::MAX));
        assert!(set.insert(u64::MAX - 1));
        assert!(!set.insert(u64::MAX));
        assert_eq!(set.len(), 2);
        assert!(set.insert_range(3, 2).is_none());
    }
}
