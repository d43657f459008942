//! Bookkeeping of the cache for keys and values: a fixed number of pages, shared by content.
//!
//! A page holds [`PAGE`] tokens. It is named by what it holds: its own tokens, those of every page before it, and a salt. A
//! request that starts with the same tokens uses the same pages, whoever computed them: a system prompt, a group's first
//! observation, a rollout's earlier turns. Pages that nobody uses stay until their room is needed, the longest unused first.
//! The cache is made once and never grows: that is the bound. What lies in it is [`crate::cache`]'s.

use crate::picture::Digest;
use std::collections::BTreeMap;

/// Tokens of a page.
pub(crate) const PAGE: usize = crate::lanes::LANES;

/// Names what a page holds.
pub(crate) type Name = [u8; 16];

/// The name of the page after `before` that holds `tokens`. The first page of a sequence comes after its salt.
pub(crate) fn name(before: &Name, tokens: &[u32]) -> Name {
    name_seen(before, tokens, std::iter::empty())
}

/// The same for a page on which tokens of pictures lie: all of a picture's tokens are alike, so its digest is part of the name.
pub(crate) fn name_seen<'a>(before: &Name, tokens: &[u32], pictures: impl Iterator<Item = &'a Digest>) -> Name {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    tokens.iter().for_each(|token| {
        hasher.update(&token.to_le_bytes());
    });
    pictures.for_each(|digest| {
        hasher.update(digest);
    });
    let mut name = [0; 16];
    name.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    name
}

#[derive(Clone, Debug, Default)]
struct Page {
    users: u32,
    name: Option<Name>,
    /// Its place among the pages that nobody uses.
    idle: (bool, u64),
}

#[derive(Debug)]
pub(crate) struct Pages {
    pages: Vec<Page>,
    by_name: BTreeMap<Name, u32>,
    /// Pages that nobody uses: nameless ones first, then the longest unused.
    idle: BTreeMap<(bool, u64), u32>,
    clock: u64,
}

impl Pages {
    pub(crate) fn new(count: usize) -> Pages {
        let pages: Vec<Page> = (0..count as u64).map(|i| Page { idle: (false, i), ..Page::default() }).collect();
        let idle = (0..count).map(|i| ((false, i as u64), i as u32)).collect();
        Pages { pages, by_name: BTreeMap::new(), idle, clock: count as u64 }
    }

    pub(crate) fn count(&self) -> usize {
        self.pages.len()
    }

    /// Pages that nobody uses, whether or not they still hold something.
    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Takes the page of this name into use, if there is one.
    pub(crate) fn share(&mut self, name: &Name) -> Option<u32> {
        let page = *self.by_name.get(name)?;
        let entry = &mut self.pages[page as usize];
        if entry.users == 0 {
            self.idle.remove(&entry.idle);
        }
        entry.users += 1;
        Some(page)
    }

    /// Whether a page of this name is there.
    #[cfg(test)]
    pub(crate) fn holds(&self, name: &Name) -> bool {
        self.by_name.contains_key(name)
    }

    /// Takes an unused page; what it held is forgotten.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let (_, page) = self.idle.pop_first()?;
        let entry = &mut self.pages[page as usize];
        if let Some(name) = entry.name.take() {
            self.by_name.remove(&name);
        }
        entry.users = 1;
        Some(page)
    }

    /// Names a page whose tokens are all there. Another page of the same name stays the one that is found.
    pub(crate) fn name(&mut self, page: u32, name: Name) {
        let entry = &mut self.pages[page as usize];
        if entry.name.is_none() && !self.by_name.contains_key(&name) {
            entry.name = Some(name);
            self.by_name.insert(name, page);
        }
    }

    /// Forgets what a page holds.
    pub(crate) fn unname(&mut self, page: u32) {
        if let Some(name) = self.pages[page as usize].name.take() {
            self.by_name.remove(&name);
        }
    }

    /// Gives up one use of each page. Of pages given up together, the last of a sequence goes first.
    pub(crate) fn release(&mut self, pages: &[u32]) {
        for page in pages.iter().rev() {
            let entry = &mut self.pages[*page as usize];
            entry.users -= 1;
            if entry.users == 0 {
                self.clock += 1;
                entry.idle = (entry.name.is_some(), self.clock);
                self.idle.insert(entry.idle, *page);
            }
        }
    }

    /// Forgets what unused pages hold.
    pub(crate) fn clear(&mut self) {
        for page in std::mem::take(&mut self.idle).into_values() {
            self.unname(page);
            self.clock += 1;
            self.pages[page as usize].idle = (false, self.clock);
            self.idle.insert((false, self.clock), page);
        }
        // Pages in use keep what their users need, but nobody else finds it.
        for page in std::mem::take(&mut self.by_name).into_values() {
            self.pages[page as usize].name = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is taken, shared, named and given back: a page in use is never handed out again, none is lost, and a
        /// name always leads to the page that was given it.
        #[test]
        fn pages_in_use_are_never_handed_out(steps in proptest::collection::vec((0usize..5, 0u32..12, any::<prop::sample::Index>()), 1..200)) {
            let mut pages = Pages::new(8);
            let mut used: Vec<u32> = vec![];
            let mut content: BTreeMap<u32, Name> = BTreeMap::new();
            for (kind, word, pick) in steps {
                let wanted = name(&[0; 16], &[word]);
                match kind {
                    0 => if let Some(page) = pages.take() {
                        prop_assert!(!used.contains(&page));
                        content.remove(&page);
                        used.push(page);
                    }
                    1 => if let Some(page) = pages.share(&wanted) {
                        prop_assert_eq!(content.get(&page), Some(&wanted));
                        used.push(page);
                    }
                    2 if !used.is_empty() => {
                        let page = used.swap_remove(pick.index(used.len()));
                        pages.release(&[page]);
                    }
                    3 if !used.is_empty() => {
                        let page = used[pick.index(used.len())];
                        if !content.contains_key(&page) && !pages.holds(&wanted) {
                            content.insert(page, wanted);
                        }
                        pages.name(page, wanted);
                    }
                    4 if word == 0 => { pages.clear(); content.clear(); }
                    _ => {}
                }
                let mut distinct = used.clone();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(distinct.len() + pages.idle(), 8);
            }
        }
    }

    #[test]
    fn the_longest_unused_is_forgotten_first_and_the_end_of_a_sequence_before_its_start() {
        let mut pages = Pages::new(4);
        let names: Vec<Name> = (0..4).map(|i| name(&[1; 16], &[i])).collect();
        let taken: Vec<u32> = (0..4).map(|_| pages.take().unwrap()).collect();
        assert_eq!(pages.take(), None);
        taken.iter().zip(&names).for_each(|(page, name)| pages.name(*page, *name));
        pages.release(&taken[2..]);
        pages.release(&taken[..2]);
        for gone in [3, 2, 1, 0] {
            assert!(names.iter().enumerate().all(|(i, name)| pages.holds(name) == (i <= gone)));
            pages.take().unwrap();
        }
    }
}
