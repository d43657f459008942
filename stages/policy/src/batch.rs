//! Sequences to train on, and their packing into microbatches.
//!
//! In: [`Sequence`]s. Out: flat batches of rows. A row is a sequence up to the last token that matters, then its branches.
//! Rows of like length are padded to one length and form a block, so that attention runs on whole blocks.

use crate::model::ROWS;
use crate::{Error, ModelConfig, Result};
use std::ops::Range;

/// A run of trained tokens: `tokens[start..end]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
    /// Of each of its tokens. Imitation does not read it.
    pub advantage: f32,
}

/// A label that is trained after `tokens[..after]` and that no other token sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    pub after: u32,
    pub tokens: Vec<u32>,
    /// Weight of each of its tokens in the loss.
    pub weight: f32,
}

/// One segment of an episode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    /// In rising order, not overlapping.
    pub trained: Vec<Span>,
    /// Log-probabilities under which the trained tokens were sampled, in order. Only [`crate::Trainer::reinforce`] reads them.
    pub old_logprobs: Vec<f32>,
    /// Only imitation reads them.
    pub branches: Vec<Branch>,
}

impl Sequence {
    /// Tokens in `trained`.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().map(|s| s.end.saturating_sub(s.start) as usize).sum()
    }

    /// Says what is wrong with the sequence, where something is.
    pub(crate) fn check(&self, index: usize, config: &ModelConfig, banned: &[bool]) -> Result<()> {
        let refuse = |reason: String| Err(Error::Sequence { index, reason });
        let mut free_from = 1;
        for Span { start, end, .. } in &self.trained {
            if *start < free_from || end < start || *end as usize > self.tokens.len() {
                let len = self.tokens.len();
                return refuse(format!("trained span {start}..{end} must lie in {free_from}..{len} (token 0 follows nothing, spans rise)"));
            }
            free_from = *end;
        }
        for branch in &self.branches {
            if branch.after == 0 || branch.after as usize > self.tokens.len() {
                return refuse(format!("a branch after {} tokens; allowed: 1 to {}", branch.after, self.tokens.len()));
            }
            if self.tokens.len() + branch.tokens.len() > config.max_position_embeddings {
                return refuse("a branch passes the positions that the model knows".into());
            }
        }
        if self.tokens.len() > config.max_position_embeddings {
            return refuse(format!("{} tokens; the model knows {} positions", self.tokens.len(), config.max_position_embeddings));
        }
        let branches = self.branches.iter().flat_map(|b| &b.tokens);
        if let Some(id) = self.tokens.iter().chain(branches.clone()).find(|id| **id as usize >= config.vocab_size) {
            return refuse(format!("token {id} lies outside the vocabulary of {}", config.vocab_size));
        }
        let spans = self.trained.iter().flat_map(|s| &self.tokens[s.start as usize..s.end as usize]);
        match spans.chain(branches).find(|id| banned[**id as usize]) {
            Some(id) => refuse(format!("token {id} is trained but banned: it can never be sampled")),
            None => Ok(()),
        }
    }
}

/// One token to be predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Target {
    /// Row of the flat batch whose output predicts it.
    pub(crate) row: i64,
    pub(crate) id: i64,
    /// In imitation: of its loss.
    pub(crate) weight: f32,
    pub(crate) advantage: f32,
    pub(crate) old_logprob: f32,
}

/// Rows of one length.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    /// First row in the flat batch.
    pub(crate) offset: i64,
    pub(crate) rows: i64,
    /// Tokens of each row, padding included: a multiple of [`ROWS`].
    pub(crate) len: i64,
    /// Who sees whom, `[rows, len, len]`, 0 or minus infinity; empty where each token sees all before it.
    pub(crate) mask: Vec<f32>,
}

/// What one forward pass takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Microbatch {
    pub(crate) tokens: Vec<i64>,
    pub(crate) positions: Vec<i64>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) targets: Vec<Target>,
}

/// One sequence with its branches, laid out.
struct Row<'a> {
    sequence: &'a Sequence,
    with_branches: bool,
    /// Tokens of the sequence itself that are computed: up to the last that predicts something.
    main: usize,
    len: usize,
    targets: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing {
    pub(crate) microbatch_tokens: usize,
    /// Bounds the scores, `[targets, vocabulary]`.
    pub(crate) microbatch_targets: usize,
    /// Keep the order given, one row a block.
    pub(crate) in_order: bool,
    pub(crate) with_branches: bool,
}

/// Rows whose length is at least this share of the longest of a block are padded into it.
const FILL: f64 = 0.9;

/// Packs sequences. Those with nothing to train on are left out.
pub(crate) fn pack(sequences: &[Sequence], packing: &Packing) -> Vec<Microbatch> {
    let mut rows: Vec<Row<'_>> = sequences.iter().map(|s| Row::new(s, packing.with_branches)).filter(|r| r.targets > 0).collect();
    if !packing.in_order {
        rows.sort_by_key(|row| std::cmp::Reverse(row.len));
    }
    let mut batches = vec![];
    let mut from = 0;
    while from < rows.len() {
        let mut to = from;
        let (mut tokens, mut targets) = (0, 0);
        while to < rows.len()
            && (to == from
                || (tokens + rows[to].len <= packing.microbatch_tokens && targets + rows[to].targets <= packing.microbatch_targets))
        {
            tokens += rows[to].len;
            targets += rows[to].targets;
            to += 1;
        }
        batches.push(lay_out(&rows[from..to], packing.in_order));
        from = to;
    }
    batches
}

fn lay_out(rows: &[Row<'_>], in_order: bool) -> Microbatch {
    let mut batch = Microbatch::default();
    let mut from = 0;
    while from < rows.len() {
        let (len, branched) = (rows[from].len.next_multiple_of(ROWS), rows[from].has_branches());
        let fits = |row: &&Row<'_>| !in_order && row.has_branches() == branched && row.len as f64 >= FILL * len as f64;
        let count = rows[from..].iter().take_while(fits).count().max(1);
        let mut block = Block { offset: batch.tokens.len() as i64, rows: count as i64, len: len as i64, mask: vec![] };
        for row in &rows[from..from + count] {
            row.write(len, &mut batch);
            if branched {
                row.write_mask(len, &mut block.mask);
            }
        }
        batch.blocks.push(block);
        from += count;
    }
    batch
}

impl<'a> Row<'a> {
    fn new(sequence: &'a Sequence, with_branches: bool) -> Row<'a> {
        let branches = if with_branches { &sequence.branches[..] } else { &[] };
        let spans = sequence.trained.iter().filter(|s| s.end > s.start).map(|s| s.end as usize - 1);
        let labels = branches.iter().filter(|b| !b.tokens.is_empty());
        let main = spans.chain(labels.clone().map(|b| b.after as usize)).max().unwrap_or(0);
        let targets = sequence.trained_tokens() + labels.clone().map(|b| b.tokens.len()).sum::<usize>();
        let len = main + labels.map(|b| b.tokens.len() - 1).sum::<usize>();
        Row { sequence, with_branches, main, len, targets }
    }

    fn branches(&self) -> impl Iterator<Item = &'a Branch> {
        let branches = if self.with_branches { &self.sequence.branches[..] } else { &[] };
        branches.iter().filter(|b| !b.tokens.is_empty())
    }

    /// Whether any branch has tokens in the row. A label's last token predicts nothing and is left out.
    fn has_branches(&self) -> bool {
        self.len > self.main
    }

    /// Each branch's first token's place in the row, with the branch.
    fn placed(&self) -> impl Iterator<Item = (usize, &'a Branch)> {
        self.branches().scan(self.main, |at, branch| {
            let from = *at;
            *at += branch.tokens.len() - 1;
            Some((from, branch))
        })
    }

    fn write(&self, padded: usize, batch: &mut Microbatch) {
        let offset = batch.tokens.len() as i64;
        let ids = |ids: &'a [u32]| ids.iter().map(|id| i64::from(*id));
        batch.tokens.extend(ids(&self.sequence.tokens[..self.main]));
        batch.positions.extend(0..self.main as i64);
        let mut old_logprobs = self.sequence.old_logprobs.iter();
        for span in &self.sequence.trained {
            for at in span.start..span.end {
                let old_logprob = old_logprobs.next().copied().unwrap_or(0.0);
                let id = i64::from(self.sequence.tokens[at as usize]);
                batch.targets.push(Target { row: offset + i64::from(at) - 1, id, weight: 1.0, advantage: span.advantage, old_logprob });
            }
        }
        for (from, branch) in self.placed() {
            let seen = &branch.tokens[..branch.tokens.len() - 1];
            batch.tokens.extend(ids(seen));
            batch.positions.extend((0..seen.len()).map(|i| i64::from(branch.after) + i as i64));
            for (i, id) in branch.tokens.iter().enumerate() {
                let row = if i == 0 { i64::from(branch.after) - 1 } else { (from + i - 1) as i64 };
                batch.targets.push(Target {
                    row: offset + row,
                    id: i64::from(*id),
                    weight: branch.weight,
                    advantage: 0.0,
                    old_logprob: 0.0,
                });
            }
        }
        batch.tokens.resize(offset as usize + padded, 0);
        batch.positions.resize(offset as usize + padded, 0);
    }

    /// The tree: a branch's token sees the tokens that the branch follows, and those of its branch up to itself.
    fn write_mask(&self, padded: usize, mask: &mut Vec<f32>) {
        let offset = mask.len();
        mask.resize(offset + padded * padded, f32::MIN);
        let mut see = |row: usize, columns: Range<usize>| {
            let start = offset + row * padded;
            mask[start + columns.start..start + columns.end].fill(0.0);
        };
        for row in 0..self.main {
            see(row, 0..row + 1);
        }
        for (from, branch) in self.placed() {
            for row in from..from + branch.tokens.len() - 1 {
                see(row, 0..branch.after as usize);
                see(row, from..row + 1);
            }
        }
        for row in self.len..padded {
            see(row, row..row + 1);
        }
    }
}
