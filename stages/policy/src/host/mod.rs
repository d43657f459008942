//! The decoder on the CPU: what the engine computes replies with where there is no GPU.
//!
//! In: token ids, positions and slices of sequences. Out: scores of the rows that are wanted, and keys and values in the
//! cache. Each number of the result depends on its own row and sequence alone, and is summed in one order: a reply is the same
//! bits whatever it is computed together with, however its prompt is cut, and whatever of it was in the cache.
//!
//! A row of activations is cut into panels of [`LANES`](crate::lanes::LANES) channels, and a batch holds the same panel of all
//! rows side by side, `[panels, rows]`: a product reads and writes whole runs of memory, and threads share no cache line.

mod decoder;
mod matrix;
mod tile;

pub(crate) use decoder::{Decoder, HostCache};

use crate::lanes::LANES;

/// Channels side by side.
pub(crate) type Panel = [f32; LANES];

/// Runs `work` on pieces of `data` of `size` entries each: with the threads of the pool that the caller runs in, or one after
/// the other where the caller has none.
pub(crate) fn each_piece<T: Send>(data: &mut [T], size: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    use rayon::prelude::*;
    if rayon::current_thread_index().is_none() || data.len() <= size {
        return data.chunks_mut(size.max(1)).enumerate().for_each(|(index, piece)| work(index, piece));
    }
    data.par_chunks_mut(size.max(1)).enumerate().for_each(|(index, piece)| work(index, piece));
}

/// Threads of the pool that the caller runs in.
pub(crate) fn threads() -> usize {
    if rayon::current_thread_index().is_some() { rayon::current_num_threads() } else { 1 }
}
