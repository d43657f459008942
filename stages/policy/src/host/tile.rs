//! The innermost loop of a product: some rows by one pair of panels, in the widest registers that a CPU has.

use super::Panel;
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{LANES, Lanes, Plain};

/// A weight as it lies in memory.
pub(crate) trait Element: Copy + Send + Sync {
    fn load<V: Lanes>(from: &[Self; LANES]) -> V;
}

impl Element for f32 {
    #[inline(always)]
    fn load<V: Lanes>(from: &[f32; LANES]) -> V {
        V::load(from)
    }
}

/// The upper half of an f32: bfloat16.
impl Element for u16 {
    #[inline(always)]
    fn load<V: Lanes>(from: &[u16; LANES]) -> V {
        V::load_upper(from)
    }
}

/// What becomes of a tile's sums, after a bias was added where there is one.
#[derive(Clone, Copy)]
pub(crate) enum Finish {
    /// They are written.
    Store,
    /// They are added to what is there.
    Add,
    /// The sums of an even panel pass the SiLU function and are multiplied by those of the odd one beside it.
    Gated,
}

/// Rows that a tile may have, best first.
pub(crate) const HEIGHTS: [usize; 7] = [12, 10, 8, 6, 4, 2, 1];

/// A batch of rows as tiles see it.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// `[panels, rows]`
    pub(crate) x: &'a [Panel],
    pub(crate) rows: usize,
    /// Rows of a tile: one of [`HEIGHTS`]; divides `rows`.
    pub(crate) height: usize,
}

/// Rows `from..to` (multiples of the height) times the pairs of panels in `weights`, `[pairs, inputs, 2]`, into `out`:
/// `[2 pairs, rows]`, or `[pairs, rows]` where the product is gated.
pub(crate) fn product<E: Element>(
    rows: Rows<'_>,
    weights: &[[E; LANES]],
    bias: Option<&[Panel]>,
    finish: Finish,
    from: usize,
    to: usize,
    out: &mut [Panel],
) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
            #[expect(unsafe_code, reason = "the CPU was just found to have what the function is compiled for")]
            return unsafe { product_avx512(rows, weights, bias, finish, from, to, out) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            #[expect(unsafe_code, reason = "the CPU was just found to have what the function is compiled for")]
            return unsafe { product_avx2(rows, weights, bias, finish, from, to, out) };
        }
    }
    any_height::<Plain, E>(rows, weights, bias, finish, from, to, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn product_avx512<E: Element>(
    rows: Rows<'_>,
    weights: &[[E; LANES]],
    bias: Option<&[Panel]>,
    finish: Finish,
    from: usize,
    to: usize,
    out: &mut [Panel],
) {
    any_height::<Avx512, E>(rows, weights, bias, finish, from, to, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn product_avx2<E: Element>(
    rows: Rows<'_>,
    weights: &[[E; LANES]],
    bias: Option<&[Panel]>,
    finish: Finish,
    from: usize,
    to: usize,
    out: &mut [Panel],
) {
    any_height::<Avx2, E>(rows, weights, bias, finish, from, to, out);
}

#[inline(always)]
fn any_height<V: Lanes, E: Element>(
    rows: Rows<'_>,
    weights: &[[E; LANES]],
    bias: Option<&[Panel]>,
    finish: Finish,
    from: usize,
    to: usize,
    out: &mut [Panel],
) {
    match rows.height {
        12 => pairs::<V, E, 12>(rows, weights, bias, finish, from, to, out),
        10 => pairs::<V, E, 10>(rows, weights, bias, finish, from, to, out),
        8 => pairs::<V, E, 8>(rows, weights, bias, finish, from, to, out),
        6 => pairs::<V, E, 6>(rows, weights, bias, finish, from, to, out),
        4 => pairs::<V, E, 4>(rows, weights, bias, finish, from, to, out),
        2 => pairs::<V, E, 2>(rows, weights, bias, finish, from, to, out),
        _ => pairs::<V, E, 1>(rows, weights, bias, finish, from, to, out),
    }
}

#[inline(always)]
fn pairs<V: Lanes, E: Element, const R: usize>(
    rows: Rows<'_>,
    weights: &[[E; LANES]],
    bias: Option<&[Panel]>,
    finish: Finish,
    from: usize,
    to: usize,
    out: &mut [Panel],
) {
    let inputs = rows.x.len() / rows.rows * LANES;
    for (pair, weights) in weights.chunks_exact(2 * inputs).enumerate() {
        for first in (from..to).step_by(R) {
            let mut sums = sums::<V, E, R>(rows, weights, first);
            if let Some(bias) = bias {
                for (sums, bias) in sums.iter_mut().zip(&bias[2 * pair..]) {
                    sums.as_flattened_mut().chunks_exact_mut(LANES).for_each(|row| row.iter_mut().zip(bias).for_each(|(x, b)| *x += b));
                }
            }
            put(&sums, finish, pair, rows.rows, first, out);
        }
    }
}

/// Products of rows `first..first + R` with one pair of panels. Each sum runs over the inputs in their order.
#[inline(always)]
fn sums<V: Lanes, E: Element, const R: usize>(rows: Rows<'_>, weights: &[[E; LANES]], first: usize) -> [[Panel; R]; 2] {
    let (mut left, mut right) = ([V::splat(0.0); R], [V::splat(0.0); R]);
    for (x, weights) in rows.x.chunks_exact(rows.rows).zip(weights.chunks_exact(2 * LANES)) {
        let x: &[Panel; R] = x[first..first + R].try_into().expect("a slice of R has R");
        for lane in 0..LANES {
            let (a, b) = (E::load::<V>(&weights[2 * lane]), E::load::<V>(&weights[2 * lane + 1]));
            for r in 0..R {
                let value = V::splat(x[r][lane]);
                left[r] = left[r].plus_product(value, a);
                right[r] = right[r].plus_product(value, b);
            }
        }
    }
    let mut sums = [[[0.0; LANES]; R]; 2];
    for r in 0..R {
        left[r].store(&mut sums[0][r]);
        right[r].store(&mut sums[1][r]);
    }
    sums
}

#[inline(always)]
fn put<const R: usize>(sums: &[[Panel; R]; 2], finish: Finish, pair: usize, rows: usize, first: usize, out: &mut [Panel]) {
    let each = |to: &mut Panel, sum: &Panel, with: fn(f32, f32) -> f32| {
        for lane in 0..LANES {
            to[lane] = with(to[lane], sum[lane]);
        }
    };
    match finish {
        Finish::Gated => {
            for (r, to) in out[pair * rows + first..][..R].iter_mut().enumerate() {
                for lane in 0..LANES {
                    let gate = sums[0][r][lane];
                    to[lane] = gate / (1.0 + exponential_of(-gate)) * sums[1][r][lane];
                }
            }
        }
        Finish::Add | Finish::Store => {
            for (half, sums) in sums.iter().enumerate() {
                for (to, sum) in out[(2 * pair + half) * rows + first..][..R].iter_mut().zip(sums) {
                    match finish {
                        Finish::Add => each(to, sum, |old, new| old + new),
                        _ => *to = *sum,
                    }
                }
            }
        }
    }
}

/// `e^x` for any x that a gate has; 0 and infinity far out.
#[inline(always)]
fn exponential_of(x: f32) -> f32 {
    let small = crate::attention::exponential(-x.abs());
    if x > 0.0 { 1.0 / small } else { small }
}
