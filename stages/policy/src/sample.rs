//! One token from one row of log-probabilities.
//!
//! In: log-probabilities after temperature and ban. Out: a token id. The draw is the inverse of the cumulative distribution at
//! a number that comes from the request's own seed, so it depends on nothing else.

use crate::init::unit;
use rand_chacha::ChaCha8Rng;
use schemas::Sampling;

/// Picks a token. Greedy (temperature 0) takes the best, of equals the lowest id; else one number is drawn.
pub(crate) fn pick(logprobs: &[f32], sampling: &Sampling, rng: &mut ChaCha8Rng) -> usize {
    if sampling.temperature <= 0.0 {
        return best(logprobs);
    }
    let target = unit(rng);
    let filtered = sampling.top_p < 1.0 || sampling.top_k > 0 || sampling.min_p > 0.0;
    if filtered {
        return draw(candidates(logprobs, sampling).into_iter(), target).unwrap_or_else(|| best(logprobs));
    }
    let all = logprobs.iter().enumerate().map(|(id, l)| (id, f64::from(l.exp())));
    draw(all, target).unwrap_or_else(|| best(logprobs))
}

fn best(logprobs: &[f32]) -> usize {
    let mut at = 0;
    for (id, value) in logprobs.iter().enumerate() {
        if *value > logprobs[at] {
            at = id;
        }
    }
    at
}

/// The first token at which the running sum passes `target`; rounding may leave the sum short of it, then the last one with
/// any probability.
fn draw(weights: impl Iterator<Item = (usize, f64)>, target: f64) -> Option<usize> {
    let mut sum = 0.0;
    let mut last = None;
    for (id, weight) in weights {
        if weight > 0.0 {
            sum += weight;
            last = Some(id);
            if sum > target {
                break;
            }
        }
    }
    last
}

/// What top-k, min-p and top-p leave, in this order, with probabilities that sum to 1, the best first.
fn candidates(logprobs: &[f32], sampling: &Sampling) -> Vec<(usize, f64)> {
    let mut order: Vec<usize> = (0..logprobs.len()).collect();
    order.sort_by(|a, b| logprobs[*b].total_cmp(&logprobs[*a]).then(a.cmp(b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    let mut kept: Vec<(usize, f64)> = order.into_iter().map(|id| (id, f64::from(logprobs[id].exp()))).collect();
    let floor = kept[0].1 * f64::from(sampling.min_p);
    kept.retain(|(_, p)| *p >= floor);
    let mut sum = 0.0;
    let enough = kept.iter().position(|(_, p)| {
        sum += p;
        sum >= f64::from(sampling.top_p)
    });
    if let Some(last) = enough {
        kept.truncate(last + 1);
    }
    let total: f64 = kept.iter().map(|(_, p)| p).sum();
    kept.iter_mut().for_each(|(_, p)| *p /= total);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    fn log(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    fn ids(sampling: &Sampling, row: &[f32]) -> Vec<usize> {
        candidates(row, sampling).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn filters_keep_what_they_say() {
        let row = log(&[0.1, 0.4, 0.3, 0.2]);
        assert_eq!(ids(&Sampling { top_k: 2, ..Sampling::default() }, &row), [1, 2]);
        assert_eq!(ids(&Sampling { top_p: 0.65, ..Sampling::default() }, &row), [1, 2]);
        assert_eq!(ids(&Sampling { min_p: 0.6, ..Sampling::default() }, &row), [1, 2]);
        assert_eq!(ids(&Sampling { top_p: 0.0, ..Sampling::default() }, &row), [1]);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let row = log(&[0.5, 0.0, 0.25, 0.25]);
        let sampling = Sampling::default();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0; 4];
        for _ in 0..8000 {
            counts[pick(&row, &sampling, &mut rng)] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((counts[0] as f64 / 8000.0 - 0.5).abs() < 0.03, "{counts:?}");
        let again = |seed| pick(&row, &sampling, &mut ChaCha8Rng::seed_from_u64(seed));
        assert!((0..50).all(|seed| again(seed) == again(seed)));
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        let row = log(&[0.2, 0.3, 0.3, 0.2]);
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        assert_eq!(pick(&row, &greedy, &mut ChaCha8Rng::seed_from_u64(0)), 1);
    }
}
