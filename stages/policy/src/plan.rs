//! The flat batch of one forward pass of the engine.
//!
//! In: slices of running sequences. Out: token ids and positions end to end, where each slice's keys and values go, and
//! the rows after which a token is sampled.

use crate::kv::PAGE;
use crate::scheduler::{Running, Slice};
use std::ops::Range;

/// Where one slice lies in the flat batch and in the cache. All in tokens.
#[derive(Clone, Debug)]
pub(crate) struct SliceSpan {
    /// Its sequence among the running ones.
    pub(crate) index: usize,
    /// First row of the flat batch.
    pub(crate) offset: usize,
    pub(crate) count: usize,
    /// Pages of the sequence's tokens, up to the end of this slice.
    pub(crate) pages: Vec<u32>,
    /// Tokens of the sequence before this slice.
    pub(crate) past: usize,
    /// Whether the slice reaches the sequence's end, so that a token is sampled after it.
    pub(crate) ends: bool,
    /// Its rows whose outputs are wanted, counted from its first one: the last, all, or none.
    pub(crate) wanted: Range<usize>,
}

impl SliceSpan {
    /// Rows of the cache of tokens `range` of the sequence.
    pub(crate) fn places(&self, range: Range<usize>) -> impl Iterator<Item = usize> + '_ {
        range.map(|token| self.pages[token / PAGE] as usize * PAGE + token % PAGE)
    }
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) tokens: Vec<u32>,
    /// By axis: time, height, width; all the same for text.
    pub(crate) positions: Vec<[u32; 3]>,
    /// Rows whose embeddings are a picture's features, none twice.
    pub(crate) seen: Vec<(usize, Vec<f32>)>,
    /// Rows of the batch whose outputs are wanted.
    pub(crate) keep: Vec<usize>,
    pub(crate) spans: Vec<SliceSpan>,
}

impl Plan {
    pub(crate) fn new(running: &[Running], slices: &[Slice]) -> Plan {
        let mut plan = Plan { tokens: vec![], positions: vec![], seen: vec![], keep: vec![], spans: vec![] };
        for slice in slices {
            let sequence = &running[slice.index];
            let (past, count) = (sequence.computed, slice.count);
            let ends = past + count == sequence.tokens.len();
            let offset = plan.tokens.len();
            let wanted = match (sequence.scores_prompt(), ends) {
                (true, _) => 0..count,
                (false, true) => count - 1..count,
                (false, false) => 0..0,
            };
            plan.tokens.extend(&sequence.tokens[past..past + count]);
            plan.positions.extend((past..past + count).map(|token| sequence.position(token)));
            plan.keep.extend(wanted.clone().map(|row| offset + row));
            let pages = sequence.pages[..(past + count).div_ceil(PAGE)].to_vec();
            plan.spans.push(SliceSpan { index: slice.index, offset, count, pages, past, ends, wanted });
        }
        plan
    }
}
