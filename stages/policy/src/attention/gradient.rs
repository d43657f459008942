//! Attention over whole sequences, and its gradient.
//!
//! Nothing is kept from the forward pass but its output: the weights are worked out again, tile by tile, from queries and keys
//! (Dao et al. 2022, without the blocks of queries and keys that a GPU needs).

use super::{Group, Heads, HostLayer, Job, Sight, exponentials};
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{LANES, Lanes, Plain};

/// One sequence of a flat batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Whole {
    /// Its first row in the batch.
    pub(crate) offset: usize,
    pub(crate) len: usize,
    /// What each token sees; empty where that is all up to itself.
    pub(crate) tree: Vec<Sight>,
}

impl Whole {
    fn job(&self) -> Job<'_> {
        Job { start: 0, past: 0, queries: self.len, tree: if self.tree.is_empty() { None } else { Some(&self.tree) }, pages: None }
    }
}

/// Queries, keys and values of a flat batch, `[rows, heads, dim]` and `[rows, kv heads, dim]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) heads: Heads,
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
}

/// Gradients of the same shapes.
#[derive(Clone, Debug)]
pub(crate) struct Gradients {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

/// The outputs, `[rows, heads, dim]`; rows of no sequence are 0.
pub(crate) fn forward(inputs: Inputs<'_>, sequences: &[Whole]) -> Vec<f32> {
    let Inputs { heads, q, k, v } = inputs;
    let (row, width) = (heads.heads * heads.dim, heads.kv_heads * heads.dim);
    let mut out = vec![0.0; q.len()];
    for sequence in sequences {
        let (rows, side) = (sequence.rows(row), sequence.rows(width));
        let mut layer = HostLayer::new(heads, sequence.len.next_multiple_of(LANES));
        layer.write(0, &k[side.clone()], &v[side]);
        layer.attend(heads, &[sequence.job()], &q[rows.clone()], &mut out[rows], 1);
    }
    out
}

/// The gradients of the inputs, from the outputs and their gradient.
pub(crate) fn backward(inputs: Inputs<'_>, sequences: &[Whole], out: &[f32], out_gradient: &[f32]) -> Gradients {
    let mut gradients = Gradients { q: vec![0.0; inputs.q.len()], k: vec![0.0; inputs.k.len()], v: vec![0.0; inputs.v.len()] };
    for sequence in sequences {
        let pass = Pass::new(inputs, sequence);
        pass.dispatch(inputs, out, out_gradient, &mut gradients);
    }
    gradients
}

impl Whole {
    /// The sequence's part of a flat array with `width` numbers a row.
    fn rows(&self, width: usize) -> std::ops::Range<usize> {
        self.offset * width..(self.offset + self.len) * width
    }
}

/// One sequence's keys and values, each laid out both ways.
struct Pass<'a> {
    sequence: &'a Whole,
    /// Keys to be scored, values to be summed.
    straight: HostLayer,
    /// Values to be scored, keys to be summed.
    crossed: HostLayer,
}

#[derive(Default)]
struct Scratch {
    queries: Vec<[f32; LANES]>,
    gradients: Vec<[f32; LANES]>,
    weights: Vec<[f32; LANES]>,
    changes: Vec<[f32; LANES]>,
}

/// Gradients of keys and values, laid out as [`HostLayer`]'s values.
struct Sides {
    keys: Vec<[f32; LANES]>,
    values: Vec<[f32; LANES]>,
}

impl<'a> Pass<'a> {
    fn new(inputs: Inputs<'_>, sequence: &'a Whole) -> Pass<'a> {
        let Inputs { heads, k, v, .. } = inputs;
        let side = sequence.rows(heads.kv_heads * heads.dim);
        let layer = |keys: &[f32], values: &[f32]| {
            let mut layer = HostLayer::new(heads, sequence.len.next_multiple_of(LANES));
            layer.write(0, &keys[side.clone()], &values[side.clone()]);
            layer
        };
        Pass { sequence, straight: layer(k, v), crossed: layer(v, k) }
    }

    fn dispatch(&self, inputs: Inputs<'_>, out: &[f32], out_gradient: &[f32], gradients: &mut Gradients) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
                #[expect(unsafe_code, reason = "the CPU was just found to have what the function is compiled for")]
                return unsafe { self.run_avx512(inputs, out, out_gradient, gradients) };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                #[expect(unsafe_code, reason = "the CPU was just found to have what the function is compiled for")]
                return unsafe { self.run_avx2(inputs, out, out_gradient, gradients) };
            }
        }
        self.run::<Plain>(inputs, out, out_gradient, gradients);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    fn run_avx512(&self, inputs: Inputs<'_>, out: &[f32], out_gradient: &[f32], gradients: &mut Gradients) {
        self.run::<Avx512>(inputs, out, out_gradient, gradients);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2(&self, inputs: Inputs<'_>, out: &[f32], out_gradient: &[f32], gradients: &mut Gradients) {
        self.run::<Avx2>(inputs, out, out_gradient, gradients);
    }

    #[inline(always)]
    fn run<V: Lanes>(&self, inputs: Inputs<'_>, out: &[f32], out_gradient: &[f32], gradients: &mut Gradients) {
        let heads = inputs.heads;
        let rows = self.sequence.rows(heads.heads * heads.dim);
        let (q, out, out_gradient) = (&inputs.q[rows.clone()], &out[rows.clone()], &out_gradient[rows.clone()]);
        let vectors = self.sequence.len.next_multiple_of(LANES) * self.straight.rows;
        let mut sides = Sides { keys: vec![[0.0; LANES]; vectors], values: vec![[0.0; LANES]; vectors] };
        let mut scratch = Scratch::default();
        let all = self.sequence.len * (heads.heads / heads.kv_heads);
        for kv_head in 0..heads.kv_heads {
            let mut from = 0;
            while from < all {
                let group = Group { layer: &self.straight, heads, job: self.sequence.job(), kv_head, rows: from..(from + 8).min(all) };
                let tile = Tile { group, crossed: &self.crossed };
                let into = &mut gradients.q[rows.clone()];
                from += match all - from {
                    8.. => tile.run::<V, 8>(q, out, out_gradient, into, &mut sides, &mut scratch),
                    4.. => tile.run::<V, 4>(q, out, out_gradient, into, &mut sides, &mut scratch),
                    2.. => tile.run::<V, 2>(q, out, out_gradient, into, &mut sides, &mut scratch),
                    _ => tile.run::<V, 1>(q, out, out_gradient, into, &mut sides, &mut scratch),
                };
            }
        }
        let side = self.sequence.rows(heads.kv_heads * heads.dim);
        unpack(heads, &sides.keys, &mut gradients.k[side.clone()]);
        unpack(heads, &sides.values, &mut gradients.v[side]);
    }
}

/// Some queries of one key head, as in the forward pass.
struct Tile<'a> {
    group: Group<'a>,
    crossed: &'a HostLayer,
}

impl Tile<'_> {
    /// With weights `P`, output `O` and its gradient `G`: the scores' gradient is `P * (G Vᵀ - G·O)`; from it follow those of
    /// queries and keys, and `Pᵀ G` is that of the values. Gives `ROWS`.
    #[inline(always)]
    fn run<V: Lanes, const ROWS: usize>(
        &self,
        q: &[f32],
        out: &[f32],
        out_gradient: &[f32],
        q_gradient: &mut [f32],
        sides: &mut Sides,
        scratch: &mut Scratch,
    ) -> usize {
        let Tile { group, crossed } = self;
        let dim = group.heads.dim;
        let scale = 1.0 / (dim as f32).sqrt();
        let count = ROWS * group.seen(ROWS - 1).div_ceil(LANES);
        if scratch.weights.len() < count {
            scratch.weights.resize(count, [0.0; LANES]);
            scratch.changes.resize(count, [0.0; LANES]);
        }
        let (weights, changes) = (&mut scratch.weights[..count], &mut scratch.changes[..count]);
        group.gather::<ROWS>(q, scale, &mut scratch.queries);
        group.gather::<ROWS>(out_gradient, 1.0, &mut scratch.gradients);
        let across = Group { layer: crossed, heads: group.heads, job: group.job, kv_head: group.kv_head, rows: group.rows.clone() };
        group.score::<V, ROWS>(&scratch.queries, weights);
        across.score::<V, ROWS>(&scratch.gradients, changes);
        for r in 0..ROWS {
            let share = 1.0 / exponentials::<ROWS>(weights, r, group.sight(r), group.seen(r));
            let at = group.place(r);
            let mean: f32 = out[at..at + dim].iter().zip(&out_gradient[at..at + dim]).map(|(a, b)| a * b).sum();
            for (weights, changes) in weights.chunks_exact_mut(ROWS).zip(changes.chunks_exact_mut(ROWS)) {
                for (weight, change) in weights[r].iter_mut().zip(&mut changes[r]) {
                    *weight *= share;
                    *change = *weight * (*change - mean);
                }
            }
        }
        for column in 0..dim.div_ceil(LANES) {
            across.mix::<V, ROWS>(changes, &[scale; ROWS], column * LANES, q_gradient);
            group.spread::<V, ROWS>(weights, &scratch.gradients, column, &mut sides.values);
            group.spread::<V, ROWS>(changes, &scratch.queries, column, &mut sides.keys);
        }
        ROWS
    }
}

impl Group<'_> {
    /// Adds each row of `source`, weighted, to every token's vector `column` of this head.
    #[inline(always)]
    fn spread<V: Lanes, const ROWS: usize>(
        &self,
        weights: &[[f32; LANES]],
        source: &[[f32; LANES]],
        column: usize,
        into: &mut [[f32; LANES]],
    ) {
        let (rows, vectors) = (self.layer.rows, self.heads.dim.div_ceil(LANES));
        let at = self.kv_head * vectors + column;
        let source: [V; ROWS] = std::array::from_fn(|r| V::load(&source[r * vectors + column]));
        for (weights, tokens) in weights.chunks_exact(ROWS).zip(into.chunks_exact_mut(LANES * rows)) {
            for lane in 0..LANES {
                let mut sum = V::load(&tokens[lane * rows + at]);
                for r in 0..ROWS {
                    sum = sum.plus_product(V::splat(weights[r][lane]), source[r]);
                }
                sum.store(&mut tokens[lane * rows + at]);
            }
        }
    }
}

/// From [`HostLayer`]'s rows of vectors to `[tokens, kv heads, dim]`.
fn unpack(heads: Heads, from: &[[f32; LANES]], into: &mut [f32]) {
    let vectors = heads.dim.div_ceil(LANES);
    for (to, from) in into.chunks_exact_mut(heads.dim).zip(from.chunks_exact(vectors)) {
        to.copy_from_slice(&from.as_flattened()[..heads.dim]);
    }
}
