//! What the vision tower made of pictures, kept for requests that show them again.
//!
//! In: slices that are to be computed, with the pictures whose tokens lie in them. Out: for each such token the row that stands in
//! place of its embedding. A picture is seen once by each version of the weights: members of a group start from the same ones, and
//! a rollout's earlier pictures come back where its keys and values have to be computed again. Kept within a bound; the longest
//! unused goes first, and is made again when it is asked for.

use crate::model::{Model, download};
use crate::picture::{Digest, Picture};
use crate::plan::SliceSpan;
use crate::scheduler::Running;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pictures that are seen in one pass, at most: bounds the memory that the tower takes.
const AT_ONCE: usize = 64;

/// A version's view of a picture.
type Key = (u64, Digest);

#[derive(Debug)]
struct Kept {
    /// `[tokens, hidden]`
    features: Arc<Vec<f32>>,
    used: u64,
}

#[derive(Debug)]
pub(crate) struct Eyes {
    kept: BTreeMap<Key, Kept>,
    by_use: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
    limit: usize,
    /// Each picture is seen alone, so that what it becomes depends on nothing else.
    alone: bool,
    /// Pictures that went through the tower.
    seen: u64,
}

/// A picture that a step needs.
struct Wanted<'a> {
    running: usize,
    number: usize,
    picture: &'a Picture,
}

impl Eyes {
    /// `limit`: bytes of what is kept.
    pub(crate) fn new(limit: usize, alone: bool) -> Eyes {
        Eyes { kept: BTreeMap::new(), by_use: BTreeMap::new(), clock: 0, bytes: 0, limit, alone, seen: 0 }
    }

    /// Pictures that went through the tower so far.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// The rows of the flat batch that pictures stand in, each with its features.
    ///
    /// # Errors
    /// [`crate::Error::Torch`], without memory.
    pub(crate) fn look(&mut self, version: u64, tower: &Model, spans: &[SliceSpan], running: &[Running]) -> Result<Vec<(usize, Vec<f32>)>> {
        let wanted = wanted(spans, running);
        if wanted.is_empty() {
            return Ok(vec![]);
        }
        let features = self.features(version, tower, &wanted, running)?;
        let width = tower.config.hidden_size;
        let mut rows = vec![];
        for span in spans {
            let Some(sights) = &running[span.index].sights else { continue };
            let slice = span.past..span.past + span.count;
            for number in sights.within(slice.clone()) {
                let (tokens, digest) = &sights.spans[number];
                let all = features.get(digest).ok_or_else(|| Error::Options("a picture was asked for and not seen".into()))?;
                for token in tokens.start.max(slice.start)..tokens.end.min(slice.end) {
                    let row = all[(token - tokens.start) * width..][..width].to_vec();
                    rows.push((span.offset + token - span.past, row));
                }
            }
        }
        Ok(rows)
    }

    /// Of each picture that is wanted, once.
    fn features(
        &mut self,
        version: u64,
        tower: &Model,
        wanted: &[Wanted<'_>],
        running: &[Running],
    ) -> Result<BTreeMap<Digest, Arc<Vec<f32>>>> {
        let mut found: BTreeMap<Digest, Arc<Vec<f32>>> = BTreeMap::new();
        let mut missing: BTreeMap<Digest, &Picture> = BTreeMap::new();
        for Wanted { running: at, number, picture } in wanted {
            let Some(sights) = &running[*at].sights else { continue };
            let digest = sights.spans[*number].1;
            match self.get((version, digest)) {
                Some(features) => drop(found.insert(digest, features)),
                None => drop(missing.insert(digest, picture)),
            }
        }
        let missing: Vec<(Digest, &Picture)> = missing.into_iter().collect();
        for some in missing.chunks(if self.alone { 1 } else { AT_ONCE }) {
            let pictures: Vec<&Picture> = some.iter().map(|(_, picture)| *picture).collect();
            let all = tower.see(&pictures)?;
            let vision = tower.config.vision.as_ref().ok_or_else(|| Error::Options("the model has no eyes".into()))?;
            let mut from = 0;
            for (digest, picture) in some {
                let tokens = picture.tokens(vision) as i64;
                let features = Arc::new(download(&all.narrow(0, from, tokens)));
                from += tokens;
                self.seen += 1;
                self.keep((version, *digest), features.clone());
                found.insert(*digest, features);
            }
        }
        Ok(found)
    }

    fn get(&mut self, key: Key) -> Option<Arc<Vec<f32>>> {
        let kept = self.kept.get_mut(&key)?;
        self.by_use.remove(&kept.used);
        self.clock += 1;
        kept.used = self.clock;
        self.by_use.insert(self.clock, key);
        Some(kept.features.clone())
    }

    fn keep(&mut self, key: Key, features: Arc<Vec<f32>>) {
        self.clock += 1;
        self.bytes += size(&features);
        self.by_use.insert(self.clock, key);
        if let Some(before) = self.kept.insert(key, Kept { features, used: self.clock }) {
            self.by_use.remove(&before.used);
            self.bytes -= size(&before.features);
        }
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some(gone) = self.kept.remove(&oldest) {
                self.bytes -= size(&gone.features);
            }
        }
    }

    /// A version's weights are gone, or others.
    pub(crate) fn forget(&mut self, version: u64) {
        let keys: Vec<Key> = self.kept.range((version, [0; 32])..=(version, [255; 32])).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(gone) = self.kept.remove(&key) {
                self.by_use.remove(&gone.used);
                self.bytes -= size(&gone.features);
            }
        }
    }
}

fn size(features: &[f32]) -> usize {
    std::mem::size_of_val(features)
}

/// Pictures with a token in some slice.
fn wanted<'a>(spans: &[SliceSpan], running: &'a [Running]) -> Vec<Wanted<'a>> {
    let mut all = vec![];
    for span in spans {
        let sequence = &running[span.index];
        let Some(sights) = &sequence.sights else { continue };
        for number in sights.within(span.past..span.past + span.count) {
            all.push(Wanted { running: span.index, number, picture: &sequence.request.pictures[number].picture });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stays_within_its_bound_and_the_longest_unused_goes_first() {
        let mut eyes = Eyes::new(3 * 40, false);
        let features = || Arc::new(vec![0.5; 10]);
        for digest in 0..3 {
            eyes.keep((1, [digest; 32]), features());
        }
        assert!(eyes.get((1, [0; 32])).is_some());
        eyes.keep((2, [9; 32]), features());
        assert!(eyes.get((1, [1; 32])).is_none(), "the longest unused");
        assert!([(1, [0; 32]), (1, [2; 32]), (2, [9; 32])].into_iter().all(|key| eyes.get(key).is_some()));
        eyes.keep((2, [9; 32]), features());
        assert_eq!(eyes.bytes, 120);
        eyes.forget(1);
        assert_eq!((eyes.bytes, eyes.kept.len(), eyes.by_use.len()), (40, 1, 1));
        eyes.keep((3, [0; 32]), Arc::new(vec![0.0; 1000]));
        assert_eq!((eyes.bytes, eyes.kept.len()), (0, 0), "what is larger than the bound is not kept");
    }
}
