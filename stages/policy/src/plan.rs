//! The flat batch of one forward pass of the engine.
//!
//! In: slices of running sequences. Out: token ids and positions end to end, where each slice's keys and values go, and
//! the rows after which a token is sampled.

use crate::model::ROWS;
use crate::scheduler::{Running, Slice};

/// Where one slice lies in the flat batch and in the arena. All in tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SliceSpan {
    /// First row of the flat batch.
    pub(crate) offset: usize,
    pub(crate) count: usize,
    /// First token of the sequence's run in the arena.
    pub(crate) start: usize,
    /// Tokens of the sequence before this slice.
    pub(crate) past: usize,
    /// Whether the slice reaches the sequence's end, so that a token is sampled after it.
    pub(crate) ends: bool,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) tokens: Vec<i64>,
    pub(crate) positions: Vec<i64>,
    /// Rows of the batch after which a token is sampled.
    pub(crate) keep: Vec<i64>,
    pub(crate) spans: Vec<SliceSpan>,
    /// Rows at the end that belong to no sequence: they make the batch a multiple of [`ROWS`].
    pub(crate) padding: usize,
}

impl Plan {
    pub(crate) fn new(running: &[Running], slices: &[Slice]) -> Plan {
        let mut plan = Plan { tokens: vec![], positions: vec![], keep: vec![], spans: vec![], padding: 0 };
        for slice in slices {
            let sequence = &running[slice.index];
            let past = sequence.computed;
            let ends = past + slice.count == sequence.tokens.len();
            let offset = plan.tokens.len();
            plan.spans.push(SliceSpan { offset, count: slice.count, start: sequence.room.start, past, ends });
            plan.tokens.extend(sequence.tokens[past..past + slice.count].iter().map(|id| i64::from(*id)));
            plan.positions.extend((past..past + slice.count).map(|p| p as i64));
            if ends {
                plan.keep.push((offset + slice.count - 1) as i64);
            }
        }
        let rows = plan.tokens.len().next_multiple_of(ROWS);
        plan.padding = rows - plan.tokens.len();
        plan.tokens.resize(rows, 0);
        plan.positions.resize(rows, 0);
        plan
    }
}
