//! Where houses come from: files that were read, or the generator; the last ones used are kept compiled.

use super::line;
use crate::Houses;
use household::{
    compile::compile,
    generator::{HouseSplit, generate_compiled},
    parse,
    sim::Home,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Compiled houses that are kept. One takes 50 to 300 kB.
const KEPT: usize = 48;

/// Least recently made goes first.
#[derive(Default)]
struct Kept {
    homes: BTreeMap<String, Arc<Home>>,
    order: VecDeque<String>,
}

/// All houses of a kind, by origin.
pub(super) struct Shelf {
    houses: Houses,
    kept: Mutex<Kept>,
}

impl Shelf {
    pub(super) fn new(houses: Houses) -> Shelf {
        Shelf { houses, kept: Mutex::default() }
    }

    /// How many training houses there are; at least 1.
    pub(super) fn train_count(&self) -> u64 {
        let count = if self.houses.train.is_empty() { self.houses.generated } else { self.houses.train.len() as u64 };
        count.max(1)
    }

    pub(super) fn train_origin(&self, number: u64) -> String {
        match usize::try_from(number).ok().and_then(|index| self.houses.train.get(index)) {
            Some(file) => file.origin.clone(),
            None => format!("{}:{number}", HouseSplit::Train.label()),
        }
    }

    /// The house of a held-out task: a different one each time, and another one where the first gives none.
    pub(super) fn held_out_origin(&self, number: u64, attempt: u32) -> String {
        let files = &self.houses.held_out;
        let number = number.wrapping_add(u64::from(attempt).wrapping_mul(1_000_003));
        if files.is_empty() {
            format!("{}:{number}", HouseSplit::HeldOut.label())
        } else {
            files[(number % files.len() as u64) as usize].origin.clone()
        }
    }

    pub(super) fn validation(&self) -> &[String] {
        &self.houses.validation
    }

    /// A house, compiled.
    pub(super) fn home(&self, origin: &str) -> Result<Arc<Home>, String> {
        self.keep(origin.to_string(), || self.make(origin))
    }

    /// A scene, opened; the same bytes are opened once.
    pub(super) fn opened(&self, bytes: &[u8], open: impl FnOnce() -> Result<Home, String>) -> Result<Arc<Home>, String> {
        self.keep(blake3::hash(bytes).to_hex().to_string(), open)
    }

    fn make(&self, origin: &str) -> Result<Home, String> {
        let mut files = self.houses.train.iter().chain(&self.houses.held_out);
        if let Some(file) = files.find(|file| file.origin == origin) {
            let scene = parse::house(&file.json).and_then(|house| compile(&house)).map_err(|error| format!("house {origin}: {error}"))?;
            return Ok(Home::new(scene));
        }
        for split in [HouseSplit::Train, HouseSplit::HeldOut] {
            let number = origin.strip_prefix(split.label()).and_then(|rest| rest.strip_prefix(':')).and_then(|number| number.parse().ok());
            if let Some(number) = number {
                return Ok(Home::new(generate_compiled(split, number).map_err(line)?.1));
            }
        }
        Err(format!("fetch: house {origin} is not among the houses that were read"))
    }

    fn keep(&self, key: String, make: impl FnOnce() -> Result<Home, String>) -> Result<Arc<Home>, String> {
        if let Some(home) = self.lock().homes.get(&key) {
            return Ok(Arc::clone(home));
        }
        let home = Arc::new(make()?);
        let mut kept = self.lock();
        if kept.homes.insert(key.clone(), Arc::clone(&home)).is_none() {
            kept.order.push_back(key);
        }
        if kept.order.len() > KEPT
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.homes.remove(&oldest);
        }
        Ok(home)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        // What a panicking thread left is still a cache of whole entries.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
