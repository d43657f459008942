//! Bookkeeping of the arena for keys and values: a fixed number of tokens, handed out as runs of tokens.
//!
//! A sequence's keys lie in one run, so attention reads them in place. The arena is made once and never grows: that is the
//! bound. What lies in it is [`crate::cache`]'s.

use std::collections::BTreeMap;

/// Runs start and end at multiples of this many tokens.
pub(crate) const BLOCK: usize = crate::lanes::LANES;

/// A run of tokens in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// Which parts of the arena are free.
#[derive(Debug)]
pub(crate) struct Extents {
    capacity: usize,
    /// Length of each free run by its start. No two touch.
    free: BTreeMap<usize, usize>,
}

impl Extents {
    /// `capacity` tokens, all free; a multiple of [`BLOCK`].
    pub(crate) fn new(capacity: usize) -> Extents {
        Extents { capacity, free: [(0, capacity)].into() }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn free_tokens(&self) -> usize {
        self.free.values().sum()
    }

    /// The first free run that holds `tokens`.
    pub(crate) fn alloc(&mut self, tokens: usize) -> Option<Extent> {
        let len = tokens.next_multiple_of(BLOCK);
        let (start, room) = self.free.iter().find(|(_, room)| **room >= len).map(|(s, r)| (*s, *r))?;
        self.free.remove(&start);
        if room > len {
            self.free.insert(start + len, room - len);
        }
        Some(Extent { start, len })
    }

    /// Makes a run longer in place, where what follows it is free.
    pub(crate) fn extend(&mut self, extent: &mut Extent, tokens: usize) -> bool {
        let len = tokens.next_multiple_of(BLOCK);
        if len <= extent.len {
            return true;
        }
        let (next, more) = (extent.start + extent.len, len - extent.len);
        match self.free.get(&next).copied() {
            Some(room) if room >= more => {
                self.free.remove(&next);
                if room > more {
                    self.free.insert(next + more, room - more);
                }
                extent.len = len;
                true
            }
            _ => false,
        }
    }

    /// Gives a run back.
    pub(crate) fn free(&mut self, extent: Extent) {
        let Extent { mut start, mut len } = extent;
        if let Some(room) = self.free.remove(&(start + len)) {
            len += room;
        }
        if let Some((&before, &room)) = self.free.range(..start).next_back()
            && before + room == start
        {
            self.free.remove(&before);
            (start, len) = (before, room + len);
        }
        self.free.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is taken and given back: runs in use never overlap, nothing is lost, and the free parts join again.
        #[test]
        fn runs_never_overlap(steps in proptest::collection::vec((0usize..3, 1usize..200, any::<prop::sample::Index>()), 1..80)) {
            let mut extents = Extents::new(1024);
            let mut used: Vec<Extent> = vec![];
            for (kind, size, pick) in steps {
                match kind {
                    0 => used.extend(extents.alloc(size)),
                    1 if !used.is_empty() => extents.free(used.swap_remove(pick.index(used.len()))),
                    2 if !used.is_empty() => {
                        let at = pick.index(used.len());
                        let tokens = used[at].len + size;
                        let mut grown = used[at];
                        if extents.extend(&mut grown, tokens) {
                            prop_assert!(grown.len >= tokens && grown.start == used[at].start);
                            used[at] = grown;
                        }
                    }
                    _ => {}
                }
                let mut sorted = used.clone();
                sorted.sort_by_key(|e| e.start);
                prop_assert!(sorted.windows(2).all(|w| w[0].start + w[0].len <= w[1].start));
                prop_assert!(sorted.last().is_none_or(|e| e.start + e.len <= 1024));
                prop_assert_eq!(used.iter().map(|e| e.len).sum::<usize>() + extents.free_tokens(), 1024);
            }
            for extent in used.drain(..) {
                extents.free(extent);
            }
            prop_assert_eq!(extents.alloc(1024), Some(Extent { start: 0, len: 1024 }));
        }
    }
}
