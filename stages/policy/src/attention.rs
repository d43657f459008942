//! Attention on the CPU over keys and values that lie in an arena: no copy, no padding, any number of sequences a call.
//!
//! Keys lie in blocks of [`LANES`] tokens with the tokens side by side, `[blocks, kv heads, dim, LANES]`, so that one vector
//! instruction scores that many tokens; values lie token by token. Queries of heads that share keys
//! are scored together, a tile at a time, so that what is read once is used by all of them. A sequence's result depends on
//! nothing but its own queries, keys and values.

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{LANES, Lanes, Plain};
use std::ops::Range;

pub(crate) mod gradient;

/// Widths that every layer shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim: usize,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(crate) struct HostLayer {
    /// `[blocks, kv heads, dim]` of [`LANES`] tokens.
    keys: Vec<[f32; LANES]>,
    /// `[tokens, kv heads, dim / LANES]` of [`LANES`] columns; the last of a head may be part empty.
    values: Vec<[f32; LANES]>,
    heads: Heads,
    /// Vectors of values that a token takes.
    rows: usize,
}

/// What one token sees: the first `prefix` tokens, and those from `from` up to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) prefix: usize,
    pub(crate) from: usize,
}

/// Queries of one sequence, in a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job<'a> {
    /// First token of the sequence's run in the arena, a multiple of [`LANES`].
    pub(crate) start: usize,
    /// Tokens before the first query's own.
    pub(crate) past: usize,
    pub(crate) queries: usize,
    /// What each query sees, where that is not all up to itself.
    pub(crate) tree: Option<&'a [Sight]>,
    /// The blocks of the arena that hold the sequence, in its order; without it they follow each other from `start` on.
    pub(crate) pages: Option<&'a [u32]>,
}

impl Job<'_> {
    /// Where the sequence's block `index` lies in the arena.
    #[inline(always)]
    fn block(&self, index: usize) -> usize {
        match self.pages {
            Some(pages) => pages[index] as usize,
            None => self.start / LANES + index,
        }
    }
}

impl HostLayer {
    /// Room for `capacity` tokens, a multiple of [`LANES`]; its pages are the operating system's until they are written.
    pub(crate) fn new(heads: Heads, capacity: usize) -> HostLayer {
        let rows = heads.kv_heads * heads.dim.div_ceil(LANES);
        let keys = vec![[0.0; LANES]; capacity / LANES * heads.kv_heads * heads.dim];
        HostLayer { keys, values: vec![[0.0; LANES]; capacity * rows], heads, rows }
    }

    /// Writes keys and values, `[tokens, kv heads, dim]`, from token `place` on.
    pub(crate) fn write(&mut self, place: usize, keys: &[f32], values: &[f32]) {
        let Heads { kv_heads, dim, .. } = self.heads;
        let width = kv_heads * dim;
        for (token, key) in keys.chunks_exact(width).enumerate() {
            let (block, lane) = ((place + token) / LANES, (place + token) % LANES);
            for (lanes, value) in self.keys[block * width..][..width].iter_mut().zip(key) {
                lanes[lane] = *value;
            }
        }
        for (token, value) in values.chunks_exact(width).enumerate() {
            let rows = &mut self.values[(place + token) * self.rows..][..self.rows];
            for (rows, value) in rows.chunks_exact_mut(self.rows / kv_heads).zip(value.chunks_exact(dim)) {
                for (lanes, value) in rows.iter_mut().zip(value.chunks(LANES)) {
                    lanes[..value.len()].copy_from_slice(value);
                }
            }
        }
    }

    /// Fills `len` tokens from `place` on with zeros; both multiples of [`LANES`].
    pub(crate) fn clear(&mut self, place: usize, len: usize) {
        let width = self.heads.kv_heads * self.heads.dim;
        self.keys[place / LANES * width..(place + len) / LANES * width].fill([0.0; LANES]);
        self.values[place * self.rows..(place + len) * self.rows].fill([0.0; LANES]);
    }

    /// Causal attention. `q` and `out` are `[queries of all jobs, heads, dim]`, in the order of `jobs`.
    pub(crate) fn attend(&self, heads: Heads, jobs: &[Job<'_>], q: &[f32], out: &mut [f32], threads: usize) {
        let cost = |job: &Job<'_>| job.queries * (job.past + job.queries) * heads.heads * heads.dim;
        let total: usize = jobs.iter().map(cost).sum();
        if threads < 2 || jobs.len() < 2 || total < WORTH_A_THREAD {
            return dispatch(self, heads, jobs, q, out);
        }
        let row = heads.heads * heads.dim;
        std::thread::scope(|scope| {
            let (mut jobs, mut q, mut out) = (jobs, q, out);
            for left in (1..=threads).rev() {
                let share = jobs.iter().map(cost).sum::<usize>() / left;
                let mut sum = 0;
                let mut count = jobs
                    .iter()
                    .take_while(|job| {
                        sum += cost(job);
                        sum <= share
                    })
                    .count();
                count = if left == 1 { jobs.len() } else { count.max(1).min(jobs.len()) };
                let rows: usize = jobs[..count].iter().map(|job| job.queries).sum();
                let (mine, rest) = jobs.split_at(count);
                let (my_q, rest_q) = q.split_at(rows * row);
                let (my_out, rest_out) = std::mem::take(&mut out).split_at_mut(rows * row);
                (jobs, q, out) = (rest, rest_q, rest_out);
                if left == 1 {
                    dispatch(self, heads, mine, my_q, my_out);
                } else {
                    scope.spawn(move || dispatch(self, heads, mine, my_q, my_out));
                }
            }
        });
    }
}

/// Multiplications below which starting a thread costs more than it saves.
const WORTH_A_THREAD: usize = 4_000_000;

/// Runs the jobs with the widest vectors that this CPU has.
pub(crate) fn dispatch(layer: &HostLayer, heads: Heads, jobs: &[Job<'_>], q: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
            #[expect(unsafe_code, reason = "the CPU was just found to have what the function is compiled for")]
            return unsafe { run_avx512(layer, heads, jobs, q, out) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            #[expect(unsafe_code, reason = "the CPU was just found to have what the function is compiled for")]
            return unsafe { run_avx2(layer, heads, jobs, q, out) };
        }
    }
    run::<Plain>(layer, heads, jobs, q, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn run_avx512(layer: &HostLayer, heads: Heads, jobs: &[Job<'_>], q: &[f32], out: &mut [f32]) {
    run::<Avx512>(layer, heads, jobs, q, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(layer: &HostLayer, heads: Heads, jobs: &[Job<'_>], q: &[f32], out: &mut [f32]) {
    run::<Avx2>(layer, heads, jobs, q, out);
}

#[inline(always)]
fn run<V: Lanes>(layer: &HostLayer, heads: Heads, jobs: &[Job<'_>], q: &[f32], out: &mut [f32]) {
    let row = heads.heads * heads.dim;
    let mut scratch = Scratch::default();
    let mut at = 0;
    for job in jobs {
        let rows = at * row..(at + job.queries) * row;
        at += job.queries;
        for kv_head in 0..heads.kv_heads {
            let mut from = 0;
            let all = job.queries * (heads.heads / heads.kv_heads);
            while from < all {
                let group = Group { layer, heads, job: *job, kv_head, rows: from..(from + 8).min(all) };
                let (q, out) = (&q[rows.clone()], &mut out[rows.clone()]);
                from += match all - from {
                    8.. => group.tile::<V, 8>(q, out, &mut scratch),
                    4.. => group.tile::<V, 4>(q, out, &mut scratch),
                    3 => group.tile::<V, 3>(q, out, &mut scratch),
                    2.. => group.tile::<V, 2>(q, out, &mut scratch),
                    _ => group.tile::<V, 1>(q, out, &mut scratch),
                };
            }
        }
    }
}

#[derive(Default)]
struct Scratch {
    /// `[tile's rows, dim]`, scaled, in vectors as the values' rows.
    queries: Vec<[f32; LANES]>,
    /// `[blocks of tokens, tile's rows]`: scores, then their exponentials.
    scores: Vec<[f32; LANES]>,
}

/// Some queries of one key head. Row `r` of a job is query `r / group` of head `kv_head * group + r % group`.
struct Group<'a> {
    layer: &'a HostLayer,
    heads: Heads,
    job: Job<'a>,
    kv_head: usize,
    rows: Range<usize>,
}

impl Group<'_> {
    /// Where row `r` of a tile lies in `q` and `out`.
    #[inline(always)]
    fn place(&self, r: usize) -> usize {
        let group = self.heads.heads / self.heads.kv_heads;
        let row = self.rows.start + r;
        (row / group * self.heads.heads + self.kv_head * group + row % group) * self.heads.dim
    }

    /// Tokens that row `r` of a tile sees.
    #[inline(always)]
    fn seen(&self, r: usize) -> usize {
        self.job.past + (self.rows.start + r) / (self.heads.heads / self.heads.kv_heads) + 1
    }

    /// What row `r` of a tile sees.
    #[inline(always)]
    fn sight(&self, r: usize) -> Sight {
        let seen = self.seen(r);
        self.job.tree.map_or(Sight { prefix: seen, from: seen }, |tree| tree[seen - self.job.past - 1])
    }

    /// Copies the tile's rows of `[queries, heads, dim]` into vectors, times `scale`.
    #[inline(always)]
    fn gather<const ROWS: usize>(&self, from: &[f32], scale: f32, into: &mut Vec<[f32; LANES]>) {
        let dim = self.heads.dim;
        let vectors = dim.div_ceil(LANES);
        into.resize(ROWS * vectors, [0.0; LANES]);
        for (r, row) in into.chunks_exact_mut(vectors).enumerate().take(ROWS) {
            for (to, value) in row.as_flattened_mut().iter_mut().zip(&from[self.place(r)..][..dim]) {
                *to = value * scale;
            }
        }
    }

    /// Computes `ROWS` rows, and says how many that were.
    #[inline(always)]
    fn tile<V: Lanes, const ROWS: usize>(&self, q: &[f32], out: &mut [f32], scratch: &mut Scratch) -> usize {
        let blocks = self.seen(ROWS - 1).div_ceil(LANES);
        self.gather::<ROWS>(q, 1.0 / (self.heads.dim as f32).sqrt(), &mut scratch.queries);
        if scratch.scores.len() < ROWS * blocks {
            scratch.scores.resize(ROWS * blocks, [0.0; LANES]);
        }
        let scores = &mut scratch.scores[..ROWS * blocks];
        self.score::<V, ROWS>(&scratch.queries, scores);
        let mut shares = [0.0; ROWS];
        for (r, share) in shares.iter_mut().enumerate() {
            *share = 1.0 / exponentials::<ROWS>(scores, r, self.sight(r), self.seen(r));
        }
        for column in (0..self.heads.dim).step_by(LANES) {
            self.mix::<V, ROWS>(scores, &shares, column, out);
        }
        ROWS
    }

    /// Products of the tile's queries, `[ROWS, dim]`, with all keys: `[blocks, ROWS]` of [`LANES`] tokens.
    #[inline(always)]
    fn score<V: Lanes, const ROWS: usize>(&self, queries: &[[f32; LANES]], scores: &mut [[f32; LANES]]) {
        let Heads { kv_heads, dim, .. } = self.heads;
        let queries: [&[f32]; ROWS] = std::array::from_fn(|r| &queries.as_flattened()[r * dim.next_multiple_of(LANES)..][..dim]);
        for (index, scores) in scores.chunks_exact_mut(ROWS).enumerate() {
            let block = self.job.block(index) * kv_heads + self.kv_head;
            let keys = &self.layer.keys[block * dim..][..dim];
            let mut sums = [V::splat(0.0); ROWS];
            for d in 0..dim {
                let key = V::load(&keys[d]);
                for r in 0..ROWS {
                    sums[r] = sums[r].plus_product(V::splat(queries[r][d]), key);
                }
            }
            for r in 0..ROWS {
                sums[r].store(&mut scores[r]);
            }
        }
    }

    /// Sums of the values, weighted by `scores` and times `shares`, in [`LANES`] columns of the head from `column` on.
    #[inline(always)]
    fn mix<V: Lanes, const ROWS: usize>(&self, scores: &[[f32; LANES]], shares: &[f32; ROWS], column: usize, out: &mut [f32]) {
        let rows = self.layer.rows;
        let at = self.kv_head * self.heads.dim.div_ceil(LANES) + column / LANES;
        let mut mixed = [V::splat(0.0); ROWS];
        for (index, weights) in scores.chunks_exact(ROWS).enumerate() {
            let values = &self.layer.values[self.job.block(index) * LANES * rows..][..LANES * rows];
            for lane in 0..LANES {
                let value = V::load(&values[lane * rows + at]);
                for r in 0..ROWS {
                    mixed[r] = mixed[r].plus_product(V::splat(weights[r][lane]), value);
                }
            }
        }
        let count = LANES.min(self.heads.dim - column);
        for r in 0..ROWS {
            let mut lanes = [0.0; LANES];
            mixed[r].store(&mut lanes);
            for (to, value) in out[self.place(r) + column..][..count].iter_mut().zip(lanes) {
                *to = value * shares[r];
            }
        }
    }
}

/// Turns the scores of what a row sees into exponentials over the largest, the rest into 0; gives their sum.
#[inline(always)]
fn exponentials<const ROWS: usize>(scores: &mut [[f32; LANES]], row: usize, sight: Sight, seen: usize) -> f32 {
    let mut largest = [f32::MIN; LANES];
    for (block, rows) in scores.chunks_exact_mut(ROWS).enumerate() {
        let lanes = &mut rows[row];
        let (start, end) = (block * LANES, (block + 1) * LANES);
        if end > sight.prefix && (end > seen || start < sight.from) {
            for (lane, score) in lanes.iter_mut().enumerate() {
                let token = start + lane;
                if token >= sight.prefix && (token < sight.from || token >= seen) {
                    *score = f32::MIN;
                }
            }
        }
        for lane in 0..LANES {
            largest[lane] = if lanes[lane] > largest[lane] { lanes[lane] } else { largest[lane] };
        }
    }
    let largest = largest.iter().fold(f32::MIN, |a, b| a.max(*b));
    let mut sums = [0.0f32; LANES];
    for rows in scores.chunks_exact_mut(ROWS) {
        let lanes = &mut rows[row];
        for lane in 0..LANES {
            lanes[lane] = exponential(lanes[lane] - largest);
            sums[lane] += lanes[lane];
        }
    }
    sums.iter().sum()
}

/// `e^x` for `x <= 0` to about 1 part in 10 million; 0 below -87. The usual way: `2^n * e^r` with `|r| <= ln 2 / 2` and a
/// polynomial for `e^r`, with nothing in it that keeps a compiler from computing many at once.
#[inline(always)]
pub(crate) fn exponential(x: f32) -> f32 {
    /// Adding and taking it away rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let bounded = if x < -87.0 { -87.0 } else { x };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first of which times n is exact.
    let r = n * -0.693_359_4 + bounded;
    let r = n * 2.121_944_4e-4 + r;
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { p * power }
}

#[cfg(test)]
mod tests;
