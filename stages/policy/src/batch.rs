//! The packing of sequences into microbatches.
//!
//! In: [`Sequence`]s. Out: flat batches of rows. A row is a sequence up to the last token that matters, then its branches. For a
//! GPU, rows of like length are padded to one length and form a block, so that attention runs on whole blocks.

use crate::attention::Sight;
use crate::attention::gradient::Whole;
use crate::config::VisionConfig;
use crate::model::ROWS;
use crate::picture::{Picture, positions};
use crate::{Branch, Sequence};

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

/// Rows that a GPU computes as one rectangle.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    /// First row in the flat batch.
    pub(crate) offset: usize,
    /// First of its sequences.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    /// Tokens of each row, padding included: a multiple of [`ROWS`].
    pub(crate) len: usize,
}

/// What one forward pass takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Microbatch {
    pub(crate) tokens: Vec<i64>,
    /// Time, height and width; all three are the same for text.
    pub(crate) positions: Vec<[i64; 3]>,
    /// Pictures with their first row in the flat batch.
    pub(crate) pictures: Vec<(usize, Picture)>,
    pub(crate) sequences: Vec<Whole>,
    /// Empty where each sequence is computed alone.
    pub(crate) blocks: Vec<Block>,
    pub(crate) targets: Vec<Target>,
}

impl Microbatch {
    /// Who sees whom in a block, `[rows, len, len]`, 0 or the smallest number; none where each token sees all before it.
    pub(crate) fn mask(&self, block: &Block) -> Option<Vec<f32>> {
        let sequences = &self.sequences[block.first..block.first + block.rows];
        if sequences.iter().all(|s| s.tree.is_empty()) {
            return None;
        }
        let mut mask = vec![f32::MIN; block.rows * block.len * block.len];
        for (sequence, mask) in sequences.iter().zip(mask.chunks_exact_mut(block.len * block.len)) {
            for (token, row) in mask.chunks_exact_mut(block.len).enumerate() {
                let sight = sequence.tree.get(token).copied().unwrap_or(Sight { prefix: 0, from: token });
                row[..sight.prefix].fill(0.0);
                row[sight.from.min(token)..token + 1].fill(0.0);
            }
        }
        Some(mask)
    }
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
pub(crate) struct Packing<'a> {
    /// Of a model with eyes.
    pub(crate) vision: Option<&'a VisionConfig>,
    pub(crate) microbatch_tokens: usize,
    /// Bounds the scores, `[targets, vocabulary]`.
    pub(crate) microbatch_targets: usize,
    /// Keep the order given, one row a block.
    pub(crate) in_order: bool,
    /// Pad rows of like length into blocks.
    pub(crate) blocks: bool,
    /// Threads that are to share the work.
    pub(crate) threads: usize,
    pub(crate) with_branches: bool,
}

/// Rows whose length is at least this share of the longest of a block are padded into it.
const FILL: f64 = 0.9;

/// Packs sequences. Those with nothing to train on are left out.
pub(crate) fn pack(sequences: &[Sequence], packing: &Packing<'_>) -> Vec<Microbatch> {
    let mut rows: Vec<Row<'_>> = sequences.iter().map(|s| Row::new(s, packing.with_branches)).filter(|r| r.targets > 0).collect();
    if !packing.in_order {
        rows.sort_by_key(|row| std::cmp::Reverse(row.len));
    }
    let all: usize = rows.iter().map(|row| row.len).sum();
    let limit = packing.microbatch_tokens.min(all.div_ceil(packing.threads.max(1)));
    let mut batches = vec![];
    let mut from = 0;
    while from < rows.len() {
        let mut to = from;
        let (mut tokens, mut targets) = (0, 0);
        while to < rows.len()
            && (to == from || (tokens + rows[to].len <= limit && targets + rows[to].targets <= packing.microbatch_targets))
        {
            tokens += rows[to].len;
            targets += rows[to].targets;
            to += 1;
        }
        batches.push(lay_out(&rows[from..to], packing));
        from = to;
    }
    batches
}

fn lay_out(rows: &[Row<'_>], packing: &Packing<'_>) -> Microbatch {
    let mut batch = Microbatch::default();
    if !packing.blocks {
        for row in rows {
            row.write(row.len, packing.vision, &mut batch);
        }
        let padded = batch.tokens.len().next_multiple_of(ROWS);
        batch.tokens.resize(padded, 0);
        batch.positions.resize(padded, [0; 3]);
        return batch;
    }
    let mut from = 0;
    while from < rows.len() {
        let (len, branched) = (rows[from].len.next_multiple_of(ROWS), rows[from].has_branches());
        let fits = |row: &&Row<'_>| !packing.in_order && row.has_branches() == branched && row.len as f64 >= FILL * len as f64;
        let count = rows[from..].iter().take_while(fits).count().max(1);
        batch.blocks.push(Block { offset: batch.tokens.len(), first: from, rows: count, len });
        for row in &rows[from..from + count] {
            row.write(len, packing.vision, &mut batch);
        }
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

    /// Appends the row to a batch, padded to a length.
    fn write(&self, padded: usize, vision: Option<&VisionConfig>, batch: &mut Microbatch) {
        batch.sequences.push(Whole { offset: batch.tokens.len(), len: self.len, tree: self.tree() });
        let offset = batch.tokens.len() as i64;
        let ids = |ids: &'a [u32]| ids.iter().map(|id| i64::from(*id));
        batch.tokens.extend(ids(&self.sequence.tokens[..self.main]));
        let pictures = &self.sequence.pictures[..];
        let shown = pictures.iter().take_while(|p| (p.offset as usize) < self.main).count();
        let (main, _) = positions(self.main, &pictures[..shown], vision);
        batch.positions.extend(&main);
        let place = |p: &Picture| (offset as usize + p.offset as usize, p.clone());
        batch.pictures.extend(pictures[..shown].iter().map(place));
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
            let before = pictures.iter().take_while(|p| p.offset < branch.after).count();
            let (_, next) = positions(branch.after as usize, &pictures[..before], vision);
            batch.positions.extend((0..seen.len()).map(|i| [next + i as i64; 3]));
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
        batch.positions.resize(offset as usize + padded, [0; 3]);
    }

    /// The tree: a branch's token sees the tokens that the branch follows, and those of its branch up to itself.
    fn tree(&self) -> Vec<Sight> {
        if !self.has_branches() {
            return vec![];
        }
        let mut tree: Vec<Sight> = (0..self.main).map(|token| Sight { prefix: token + 1, from: token + 1 }).collect();
        for (from, branch) in self.placed() {
            tree.extend((1..branch.tokens.len()).map(|_| Sight { prefix: branch.after as usize, from }));
        }
        tree
    }
}
