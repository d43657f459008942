//! The replay window of the imitation phases: episodes that were trained and may be trained again.
//!
//! Kept in memory, and on disk in chunks that are written once and never changed, so that a learner that is restored goes
//! on with the same window.

use crate::checkpoint::{self, Error};
use crate::tokens::Trajectory;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

/// Episodes that are kept.
pub const EPISODES: usize = 2048;
/// Bytes of their pictures that are kept.
pub const PICTURES: usize = 768 << 20;
/// Held-out episodes that the loss is measured on.
pub const HELD_OUT: usize = 32;

/// A chunk on disk: `window/<number>.msgpack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub number: u64,
    pub episodes: u64,
    pub held_out: u64,
}

#[derive(Serialize)]
struct ChunkOut<'a> {
    episodes: Vec<&'a Trajectory>,
    held_out: Vec<&'a Trajectory>,
}

#[derive(Deserialize)]
struct ChunkIn {
    episodes: Vec<Trajectory>,
    held_out: Vec<Trajectory>,
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Window {
    episodes: VecDeque<Arc<Trajectory>>,
    /// Of their pictures.
    bytes: usize,
    held_out: Vec<Arc<Trajectory>>,
}

impl Window {
    pub fn len(&self) -> usize {
        self.episodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.episodes.is_empty()
    }

    pub fn held_out(&self) -> &[Arc<Trajectory>] {
        &self.held_out
    }

    /// Adds episodes; the oldest leave. Held-out ones over [`HELD_OUT`] are not needed.
    pub fn push(&mut self, episodes: &[Arc<Trajectory>], held_out: &[Arc<Trajectory>]) {
        self.episodes.extend(episodes.iter().cloned());
        self.bytes += episodes.iter().map(|t| t.picture_bytes()).sum::<usize>();
        while self.episodes.len() > EPISODES || (self.bytes > PICTURES && self.episodes.len() > 1) {
            let Some(oldest) = self.episodes.pop_front() else { break };
            self.bytes -= oldest.picture_bytes();
        }
        let room = HELD_OUT.saturating_sub(self.held_out.len());
        self.held_out.extend(held_out.iter().take(room).cloned());
    }

    /// Draws with replacement.
    pub fn draw(&self, count: usize, rng: &mut ChaCha8Rng) -> Vec<Arc<Trajectory>> {
        if self.episodes.is_empty() {
            return vec![];
        }
        let len = self.episodes.len() as u64;
        (0..count).map(|_| self.episodes[(rng.next_u64() % len) as usize].clone()).collect()
    }
}

/// Puts what an imitation batch trains in order: the new episodes and others drawn from the window, shuffled by the seed,
/// cut into optimiser steps of `batch` episodes. `epochs` times `batch` episodes in all, or the new ones where those are more.
pub fn mix(new: &[Arc<Trajectory>], window: &Window, batch: usize, epochs: usize, seed: u64) -> Vec<Vec<Arc<Trajectory>>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut all: Vec<Arc<Trajectory>> = new.to_vec();
    all.extend(window.draw((batch * epochs.max(1)).saturating_sub(new.len()), &mut rng));
    for last in (1..all.len()).rev() {
        all.swap(last, (rng.next_u64() % (last as u64 + 1)) as usize);
    }
    all.chunks(batch.max(1)).map(<[_]>::to_vec).collect()
}

fn path(root: &Path, number: u64) -> std::path::PathBuf {
    root.join(format!("{number}.msgpack"))
}

/// Writes a chunk, if there is something to write.
///
/// # Errors
/// The disk's.
pub fn write_chunk(root: &Path, number: u64, episodes: &[Arc<Trajectory>], held_out: &[Arc<Trajectory>]) -> Result<Option<Chunk>, Error> {
    if episodes.is_empty() && held_out.is_empty() {
        return Ok(None);
    }
    let file = ChunkOut { episodes: episodes.iter().map(Arc::as_ref).collect(), held_out: held_out.iter().map(Arc::as_ref).collect() };
    let bytes = rmp_serde::to_vec_named(&file).expect("trajectories serialise to memory");
    checkpoint::write(&path(root, number), &bytes)?;
    Ok(Some(Chunk { number, episodes: episodes.len() as u64, held_out: held_out.len() as u64 }))
}

/// Chunks that still matter, oldest first: those that hold one of the newest [`EPISODES`], or a held-out one that is used.
pub fn needed(chunks: &[Chunk]) -> Vec<Chunk> {
    let mut newer = 0;
    let mut kept: Vec<Chunk> = vec![];
    let mut held_before: u64 = chunks.iter().map(|c| c.held_out).sum();
    for chunk in chunks.iter().rev() {
        held_before -= chunk.held_out;
        let holds_measured = chunk.held_out > 0 && held_before < HELD_OUT as u64;
        if newer < EPISODES as u64 || holds_measured {
            kept.push(*chunk);
        }
        newer += chunk.episodes;
    }
    kept.reverse();
    kept
}

/// Reads the window that these chunks make.
///
/// # Errors
/// A chunk that is gone or torn.
pub fn restore(root: &Path, chunks: &[Chunk]) -> Result<Window, Error> {
    let mut window = Window::default();
    for chunk in chunks {
        let path = path(root, chunk.number);
        let file: ChunkIn = rmp_serde::from_slice(&checkpoint::read(&path)?).map_err(|e| Error::Read { path, reason: e.to_string() })?;
        let shared = |list: Vec<Trajectory>| list.into_iter().map(Arc::new).collect::<Vec<_>>();
        window.push(&shared(file.episodes), &shared(file.held_out));
    }
    Ok(window)
}

/// Removes chunks that no kept checkpoint names.
pub fn prune(root: &Path, kept: &BTreeSet<u64>) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let number = entry.path().file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<u64>().ok());
        if number.is_some_and(|n| !kept.contains(&n)) {
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{Counts, Lesson};
    use schemas::{EpisodeId, Split};

    fn episodes(numbers: std::ops::Range<u64>) -> Vec<Arc<Trajectory>> {
        let id = |number| EpisodeId { split: Split::Expert, number };
        numbers
            .map(|n| {
                Arc::new(Trajectory { id: id(n), lesson: Lesson::Replies, segments: vec![], counts: Counts::default(), frames: vec![] })
            })
            .collect()
    }

    fn numbers(all: &[Arc<Trajectory>]) -> Vec<u64> {
        all.iter().map(|t| t.id.number).collect()
    }

    #[test]
    fn a_batch_is_the_new_ones_and_as_many_others_as_the_epochs_ask_for() {
        let mut window = Window::default();
        window.push(&episodes(0..10), &[]);
        let steps = mix(&episodes(100..104), &window, 4, 3, 7);
        assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4]);
        let all: Vec<u64> = steps.iter().flat_map(|s| numbers(s)).collect();
        assert_eq!(all.iter().filter(|n| **n >= 100).count(), 4, "each new one once: {all:?}");
        assert_eq!(mix(&episodes(100..104), &window, 4, 3, 7), steps, "the same seed, the same batch");
        assert_ne!(mix(&episodes(100..104), &window, 4, 3, 8), steps);
        assert_eq!(mix(&episodes(100..104), &window, 4, 1, 7).len(), 1);
        assert_eq!(mix(&[], &window, 4, 1, 7)[0].len(), 4, "only others, where there are no new ones");
        assert!(mix(&[], &Window::default(), 4, 2, 7).is_empty());
    }

    #[test]
    fn it_is_bounded_and_comes_back_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let (mut window, mut chunks) = (Window::default(), vec![]);
        for number in 0..30u64 {
            let (new, held) = (episodes(number * 100..number * 100 + 100), episodes(9000 + number * 2..9002 + number * 2));
            chunks.extend(write_chunk(root.path(), number, &new, &held).unwrap());
            window.push(&new, &held);
            chunks = needed(&chunks);
        }
        assert_eq!((window.len(), window.held_out().len()), (EPISODES, HELD_OUT));
        prune(root.path(), &chunks.iter().map(|c| c.number).collect());
        let back = restore(root.path(), &chunks).unwrap();
        assert_eq!(back.episodes, window.episodes);
        assert_eq!(back.held_out, window.held_out);
        assert_eq!(write_chunk(root.path(), 99, &[], &[]).unwrap(), None);
    }
}
