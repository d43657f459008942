//! Sampling: every filter keeps what it says, and what is drawn follows the distribution that is left.

use super::*;
use proptest::prelude::*;
use rand_chacha::rand_core::SeedableRng;

fn log(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

fn draw_with(params: &SamplingParams) -> Draw<'_> {
    Draw { params, stop_ids: &[], banned: &[], prompt: &[], reply: &[] }
}

fn ids(params: &SamplingParams, row: &[f32]) -> Vec<usize> {
    let mut weights = vec![0.0; row.len()];
    Scale::of(row, &mut weights).unwrap();
    candidates(row, &weights, best(row), params).into_iter().map(|(id, _)| id).collect()
}

fn one(row: &[f32], draw: &Draw<'_>, seed: u64) -> TokenLogprob {
    sample(&mut row.to_vec(), draw, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap()
}

#[test]
fn filters_keep_what_they_say() {
    let row = log(&[0.1, 0.4, 0.3, 0.2]);
    let default = SamplingParams::default();
    assert_eq!(ids(&SamplingParams { top_k: 2, ..default.clone() }, &row), [1, 2]);
    assert_eq!(ids(&SamplingParams { top_p: 0.65, ..default.clone() }, &row), [1, 2]);
    assert_eq!(ids(&SamplingParams { min_p: 0.6, ..default.clone() }, &row), [1, 2]);
    assert_eq!(ids(&SamplingParams { top_p: 1e-6, ..default.clone() }, &row), [1]);
    // top-p counts within what top-k left: 0.4 of 0.7 is more than 0.55.
    assert_eq!(ids(&SamplingParams { top_k: 2, top_p: 0.55, ..default.clone() }, &row), [1]);
    // Ids that equal the last one kept are kept too.
    assert_eq!(ids(&SamplingParams { top_k: 2, ..default }, &log(&[0.4, 0.2, 0.2, 0.2])), [0, 1, 2, 3]);
}

/// The distribution that a set of parameters leaves, worked out from the definitions in f64.
fn expected(probabilities: &[f64], params: &SamplingParams) -> Vec<f64> {
    let mut p: Vec<f64> = probabilities.iter().map(|p| p.powf(1.0 / f64::from(params.temperature))).collect();
    let normalise = |p: &mut Vec<f64>| {
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|x| *x /= sum);
    };
    normalise(&mut p);
    let most = p.iter().copied().fold(0.0, f64::max);
    p.iter_mut().for_each(|x| *x = if *x < f64::from(params.min_p) * most { 0.0 } else { *x });
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    if params.top_k > 0 {
        order.iter().skip(params.top_k as usize).for_each(|id| p[*id] = 0.0);
    }
    normalise(&mut p);
    let mut sum = 0.0;
    for id in order {
        if sum >= f64::from(params.top_p) {
            p[id] = 0.0;
        }
        sum += p[id];
    }
    normalise(&mut p);
    p
}

/// 100,000 draws for each filter; chi-square of 11 degrees of freedom passes 31.3 once in a thousand.
#[test]
fn draws_follow_the_distribution_with_each_filter() {
    let probabilities = [0.02, 0.2, 0.05, 0.01, 0.15, 0.1, 0.03, 0.17, 0.04, 0.08, 0.06, 0.09];
    let row = log(&probabilities.map(|p| p as f32));
    let default = SamplingParams::default();
    let cases = [
        default.clone(),
        SamplingParams { temperature: 0.6, ..default.clone() },
        SamplingParams { temperature: 1.7, ..default.clone() },
        SamplingParams { top_p: 0.8, ..default.clone() },
        SamplingParams { top_k: 5, ..default.clone() },
        SamplingParams { min_p: 0.25, ..default.clone() },
        SamplingParams { temperature: 1.3, top_p: 0.9, top_k: 9, min_p: 0.1, ..default },
    ];
    for (number, params) in cases.iter().enumerate() {
        let expected = expected(&probabilities, params);
        let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
        let mut counts = [0u32; 12];
        for _ in 0..100_000 {
            let mut row = row.clone();
            let token = sample(&mut row, &draw_with(params), &mut rng).unwrap();
            counts[token.id as usize] += 1;
        }
        let mut chi = 0.0;
        for (count, p) in counts.iter().zip(&expected) {
            if *p == 0.0 {
                assert_eq!(*count, 0, "case {number}: {counts:?}");
            } else {
                chi += (f64::from(*count) - 1e5 * p).powi(2) / (1e5 * p);
            }
        }
        assert!(chi < 31.3, "case {number}: chi-square {chi}, {counts:?} against {expected:?}");
    }
}

#[test]
fn logprobs_are_of_what_was_asked_for() {
    let row = log(&[0.1, 0.4, 0.3, 0.2]).iter().map(|l| l + 3.0).collect::<Vec<_>>();
    let greedy = SamplingParams { temperature: 0.0, top_logprobs: Some(2), ..SamplingParams::default() };
    let token = one(&row, &draw_with(&greedy), 0);
    assert_eq!((token.id, token.rank, token.top[1].0), (1, 1, 2));
    assert!((token.logprob - 0.4f32.ln()).abs() < 1e-6);
    let cool = SamplingParams { temperature: 0.5, top_k: 2, top_logprobs: Some(3), ..SamplingParams::default() };
    for seed in 0..20 {
        let of = |mode| one(&row, &draw_with(&SamplingParams { logprobs_mode: mode, ..cool.clone() }), seed);
        let (raw, unfiltered, processed) = (of(LogprobsMode::Raw), of(LogprobsMode::Unfiltered), of(LogprobsMode::Processed));
        assert!(raw.id == unfiltered.id && raw.id == processed.id);
        let p = [0.1f32, 0.4, 0.3, 0.2][raw.id as usize];
        assert!((raw.logprob - p.ln()).abs() < 1e-6);
        assert!((unfiltered.logprob - (p * p / 0.3).ln()).abs() < 1e-6);
        assert!((processed.logprob - (p * p / 0.25).ln()).abs() < 1e-6);
        assert_eq!(processed.top[2].1, f32::NEG_INFINITY, "a filtered id has no probability");
    }
}

#[test]
fn ids_are_banned_allowed_biased_and_penalised() {
    let row = log(&[0.1, 0.4, 0.3, 0.2]);
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let pick = |params: &SamplingParams, prompt: &[u32], reply: &[u32]| {
        one(&row, &Draw { params, stop_ids: &[1], banned: &[2], prompt, reply }, 0).id
    };
    assert_eq!(pick(&greedy, &[], &[]), 1);
    assert_eq!(pick(&SamplingParams { allowed: vec![0, 3], ..greedy.clone() }, &[], &[]), 3);
    assert_eq!(pick(&SamplingParams { min_tokens: 2, ..greedy.clone() }, &[], &[0]), 3, "1 ends the reply, 2 is banned");
    assert_eq!(pick(&SamplingParams { min_tokens: 2, ban: false, ..greedy.clone() }, &[], &[0]), 2);
    assert_eq!(pick(&SamplingParams { min_tokens: 2, ..greedy.clone() }, &[], &[0, 0]), 1);
    assert_eq!(pick(&SamplingParams { logit_bias: vec![(0, 5.0), (77, 9.0)], ..greedy.clone() }, &[], &[]), 0);
    let bad = SamplingParams { bad_words: vec![vec![3, 1], vec![0]], ..greedy.clone() };
    assert_eq!((pick(&bad, &[], &[3]), pick(&bad, &[3], &[])), (3, 1));
    assert_eq!(pick(&SamplingParams { repetition_penalty: 3.0, ..greedy.clone() }, &[1], &[]), 3);
    assert_eq!(pick(&SamplingParams { presence_penalty: 1.0, ..greedy.clone() }, &[1], &[]), 1, "the prompt does not count");
    assert_eq!(pick(&SamplingParams { presence_penalty: 1.0, ..greedy.clone() }, &[], &[1]), 3);
    assert_eq!(pick(&SamplingParams { frequency_penalty: 0.5, ..greedy }, &[], &[1, 1]), 3);
}

#[test]
fn scores_that_are_no_numbers_are_an_error() {
    let params = SamplingParams::default();
    for bad in [f32::NAN, f32::INFINITY] {
        for at in [0, 17, 39] {
            let mut row = vec![0.0; 40];
            row[at] = bad;
            assert!(sample(&mut row, &draw_with(&params), &mut ChaCha8Rng::seed_from_u64(0)).is_err());
        }
    }
}

proptest! {
    /// The shortcut in top-p drops nothing that the definition keeps.
    #[test]
    fn top_p_is_what_the_definition_gives(seed in any::<u64>(), size in 2usize..400, top_p in 0.01f32..1.0, spread in 0.1f64..8.0) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let row: Vec<f32> = (0..size).map(|_| (unit(&mut rng) * spread) as f32).collect();
        let params = SamplingParams { top_p, ..SamplingParams::default() };
        let probabilities: Vec<f64> = row.iter().map(|s| f64::from(*s).exp()).collect();
        let expected = expected(&probabilities, &params);
        let kept = ids(&params, &row);
        let wanted = expected.iter().filter(|p| **p > 0.0).count();
        prop_assert!(kept.len().abs_diff(wanted) <= 1, "{} against {wanted}", kept.len());
    }
}
