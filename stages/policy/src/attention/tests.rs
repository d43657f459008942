//! Attention against its definition.

use super::*;
use proptest::prelude::*;

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// One query's attention, written as its definition.
fn plain(heads: Heads, q: &[f32], keys: &[f32], values: &[f32], seen: usize, head: usize) -> Vec<f64> {
    let (dim, width) = (heads.dim, heads.kv_heads * heads.dim);
    let at = head / (heads.heads / heads.kv_heads) * dim;
    let score = |j: usize| (0..dim).map(|d| f64::from(q[head * dim + d] * keys[j * width + at + d])).sum::<f64>() / (dim as f64).sqrt();
    let weights: Vec<f64> = (0..seen).map(|j| score(j).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..dim).map(|d| (0..seen).map(|j| weights[j] * f64::from(values[j * width + at + d])).sum::<f64>() / total).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Any shape, any split into slices, any thread count: what the definition gives.
    #[test]
    fn is_what_the_definition_gives(
        seed in any::<u64>(), kv_heads in 1usize..3, group in 1usize..4, dim in prop::sample::select(vec![2usize, 8, 24, 32, 48]),
        lens in proptest::collection::vec((0usize..70, 1usize..40), 1..4), threads in 1usize..3,
    ) {
        let heads = Heads { heads: kv_heads * group, kv_heads, dim };
        let (row, width) = (heads.heads * dim, kv_heads * dim);
        let mut layer = HostLayer::new(heads, 1024);
        // The same sequences once more, in pages that lie anyhow.
        let mut paged = HostLayer::new(heads, 1024);
        let tables: Vec<Vec<u32>> = (0..lens.len()).map(|i| (0..8).map(|page| (page * 37 + 11 + 8 * i as u32 * 37) % 64).collect()).collect();
        let (mut jobs, mut start) = (vec![], 32);
        let mut sides = vec![];
        for (i, (past, queries)) in lens.iter().enumerate() {
            let (keys, values) = (noise(seed ^ i as u64, (past + queries) * width), noise(!seed ^ i as u64, (past + queries) * width));
            layer.write(start, &keys[..past * width], &values[..past * width]);
            layer.write(start + past, &keys[past * width..], &values[past * width..]);
            for token in 0..past + queries {
                let place = tables[i][token / LANES] as usize * LANES + token % LANES;
                paged.write(place, &keys[token * width..][..width], &values[token * width..][..width]);
            }
            jobs.push(Job { start, past: *past, queries: *queries, tree: None, pages: None });
            sides.push((keys, values));
            start += (past + queries).next_multiple_of(LANES) + LANES;
        }
        let count: usize = jobs.iter().map(|j| j.queries).sum();
        let q: Vec<f32> = noise(seed.rotate_left(9), count * row).iter().map(|x| 4.0 * x).collect();
        let mut out = vec![f32::NAN; count * row];
        layer.attend(heads, &jobs, &q, &mut out, threads);
        let mut from_pages = vec![f32::NAN; count * row];
        let in_pages: Vec<Job<'_>> = jobs.iter().zip(&tables).map(|(job, pages)| Job { pages: Some(pages), ..*job }).collect();
        dispatch(&paged, heads, &in_pages, &q, &mut from_pages);
        prop_assert_eq!(&out, &from_pages);
        let mut at = 0;
        for (job, (keys, values)) in jobs.iter().zip(&sides) {
            for query in 0..job.queries {
                for head in 0..heads.heads {
                    let expected = plain(heads, &q[at * row..][..row], keys, values, job.past + query + 1, head);
                    for (found, expected) in out[at * row + head * dim..][..dim].iter().zip(expected) {
                        prop_assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} against {expected}");
                    }
                }
                at += 1;
            }
        }
    }
}

#[test]
fn exponentials_are_close() {
    for i in 0..9000 {
        let x = -(i as f32) * 0.01;
        let (found, expected) = (f64::from(exponential(x)), f64::from(x).exp());
        assert!((found - expected).abs() <= 3e-7 * expected + 2e-38, "{x}: {found} against {expected}");
    }
}
