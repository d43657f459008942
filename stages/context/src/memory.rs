//! A bounded memory of tokenised lines.
//!
//! Two halves: what is used moves to the young one; when that is full it becomes the old one, and what nobody asked for
//! since then is forgotten. Which lines are remembered never changes what is answered.

use std::collections::HashMap;

/// Lines a half holds; with [`TOKENS`] this bounds the whole to about 4 MiB.
const LINES: usize = 4096;
/// Token ids a half holds.
const TOKENS: usize = 128 << 10;

#[derive(Debug, Default)]
pub(crate) struct Memory {
    young: HashMap<Box<str>, Box<[u32]>>,
    old: HashMap<Box<str>, Box<[u32]>>,
    /// Token ids in the young half.
    tokens: usize,
}

impl Memory {
    pub(crate) fn get(&mut self, line: &str) -> Option<&[u32]> {
        if let Some((line, ids)) = self.old.remove_entry(line) {
            self.put(line, ids);
        }
        self.young.get(line).map(|ids| &ids[..])
    }

    pub(crate) fn insert(&mut self, line: &str, ids: Vec<u32>) {
        self.put(line.into(), ids.into_boxed_slice());
    }

    fn put(&mut self, line: Box<str>, ids: Box<[u32]>) {
        if self.young.len() >= LINES || self.tokens + ids.len() > TOKENS {
            self.old = std::mem::take(&mut self.young);
            self.tokens = 0;
        }
        self.tokens += ids.len();
        self.young.insert(line, ids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_bounded_and_keeps_what_is_used() {
        let mut memory = Memory::default();
        memory.insert("kept", vec![7]);
        for n in 0..10 * LINES as u32 {
            memory.insert(&n.to_string(), vec![n; 3]);
            assert_eq!(memory.get("kept"), Some(&[7][..]));
        }
        assert!(memory.young.len() <= LINES && memory.old.len() <= LINES);
        assert_eq!(memory.get("0"), None);
    }

    #[test]
    fn long_lines_fill_it_as_well() {
        let mut memory = Memory::default();
        for n in 0..1000 {
            memory.insert(&n.to_string(), vec![n; 512]);
        }
        let held: usize = memory.young.values().chain(memory.old.values()).map(|ids| ids.len()).sum();
        assert!(held <= 2 * TOKENS);
    }
}
