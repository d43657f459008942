//! One token from one row of scores.
//!
//! In: a row of the model's scores and what has been said. Out: a token id with its log-probability. The order of the steps
//! is vLLM's: allowed ids, bans, bad words, stop ids before `min_tokens`, bias, penalties, temperature, min-p, top-k, top-p.
//! The draw is the inverse of the cumulative distribution at a number that comes from the request's own seed, so it depends
//! on nothing else.

use crate::SamplingParams;
use crate::attention::exponential;
use crate::init::unit;
use crate::params::LogprobsMode;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

const NEVER: f32 = f32::NEG_INFINITY;

/// What a row of scores is sampled by.
pub(crate) struct Draw<'a> {
    pub(crate) params: &'a SamplingParams,
    pub(crate) stop_ids: &'a [u32],
    /// The engine's ids that are never sampled.
    pub(crate) banned: &'a [u32],
    pub(crate) prompt: &'a [u32],
    pub(crate) reply: &'a [u32],
}

/// A sampled token, or a token of the prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLogprob {
    pub id: u32,
    pub logprob: f32,
    /// 1 for the most probable id. 0 where nobody asked.
    pub rank: u32,
    /// The most probable ids, best first; empty where nobody asked.
    pub top: Vec<(u32, f32)>,
}

/// The scores are not numbers; the weights are at fault.
#[derive(Debug)]
pub(crate) struct NotFinite;

/// Samples one token. `row` is used up.
pub(crate) fn sample(row: &mut [f32], draw: &Draw<'_>, rng: &mut ChaCha8Rng) -> Result<TokenLogprob, NotFinite> {
    let params = draw.params;
    let raw = (params.logprobs_mode == LogprobsMode::Raw).then(|| row.to_vec());
    draw.constrain(row);
    if params.temperature > 0.0 && params.temperature != 1.0 {
        row.iter_mut().for_each(|score| *score /= params.temperature);
    }
    let mut weights = vec![0.0; row.len()];
    let scale = Scale::of(row, &mut weights)?;
    let best = best(row);
    let kept = (params.temperature > 0.0 && params.filters()).then(|| candidates(row, &weights, best, params));
    let id = match &kept {
        _ if params.temperature <= 0.0 => best,
        Some(kept) => inverse(kept.iter().copied(), unit(rng)).unwrap_or(best),
        None => {
            let target = unit(rng) * scale.sum;
            inverse(weights.iter().map(|w| f64::from(*w)).enumerate(), target).unwrap_or(best)
        }
    };
    Ok(match (params.logprobs_mode, &kept) {
        (LogprobsMode::Raw, _) => {
            let raw = raw.expect("kept for this mode");
            let scale = Scale::of(&raw, &mut weights)?;
            describe(id, &raw, scale.log_sum(), params.top_logprobs)
        }
        (LogprobsMode::Processed, Some(kept)) => {
            row.fill(NEVER);
            kept.iter().for_each(|(id, share)| row[*id] = libm::log(*share) as f32);
            describe(id, row, 0.0, params.top_logprobs)
        }
        _ => describe(id, row, scale.log_sum(), params.top_logprobs),
    })
}

/// The log-probability of a token that was not drawn but given.
pub(crate) fn given(row: &[f32], id: u32, top: u32) -> Result<TokenLogprob, NotFinite> {
    let mut weights = vec![0.0; row.len()];
    let scale = Scale::of(row, &mut weights)?;
    Ok(describe(id as usize, row, scale.log_sum(), Some(top)))
}

/// A log-probability with what was asked for beside it.
fn describe(id: usize, row: &[f32], log_sum: f64, top: Option<u32>) -> TokenLogprob {
    let logprob = |id: usize| (f64::from(row[id]) - log_sum) as f32;
    let mut token = TokenLogprob { id: id as u32, logprob: logprob(id), rank: 0, top: vec![] };
    if let Some(count) = top {
        token.rank = 1 + row.iter().filter(|score| **score > row[id]).count() as u32;
        let count = (count as usize).min(row.len());
        let mut order: Vec<usize> = (0..row.len()).collect();
        let by_score = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]).then(a.cmp(b));
        if count > 0 && count < order.len() {
            order.select_nth_unstable_by(count - 1, by_score);
        }
        order.truncate(count);
        order.sort_by(by_score);
        token.top = order.into_iter().map(|id| (id as u32, logprob(id))).collect();
    }
    token
}

/// The sum of `e^(score - largest)`.
struct Scale {
    largest: f32,
    sum: f64,
}

impl Scale {
    /// Fills `weights` with each score's exponential over the largest.
    fn of(row: &[f32], weights: &mut [f32]) -> Result<Scale, NotFinite> {
        let mut largest = [NEVER; 16];
        let mut finite = 0.0f32;
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            for (lane, score) in chunk.iter().enumerate() {
                largest[lane] = if *score > largest[lane] { *score } else { largest[lane] };
                finite += if score.is_nan() || *score == f32::INFINITY { 1.0 } else { 0.0 };
            }
        }
        let largest = rest.iter().chain(&largest).fold(NEVER, |a, b| a.max(*b));
        if finite > 0.0 || rest.iter().any(|s| s.is_nan()) || !largest.is_finite() {
            return Err(NotFinite);
        }
        for (weight, score) in weights.iter_mut().zip(row) {
            *weight = exponential(*score - largest);
        }
        let sum = weights.chunks(256).map(|part| part.iter().map(|w| f64::from(*w)).sum::<f64>()).sum();
        Ok(Scale { largest, sum })
    }

    fn log_sum(&self) -> f64 {
        f64::from(self.largest) + libm::log(self.sum)
    }
}

impl Draw<'_> {
    fn constrain(&self, row: &mut [f32]) {
        let params = self.params;
        let ban = |row: &mut [f32], id: u32| {
            if let Some(score) = row.get_mut(id as usize) {
                *score = NEVER;
            }
        };
        if !params.allowed.is_empty() {
            let kept: Vec<(usize, f32)> =
                params.allowed.iter().filter_map(|id| row.get(*id as usize).map(|score| (*id as usize, *score))).collect();
            row.fill(NEVER);
            kept.into_iter().for_each(|(id, score)| row[id] = score);
        }
        if params.ban {
            self.banned.iter().for_each(|id| ban(row, *id));
        }
        for word in &params.bad_words {
            if let Some((last, start)) = word.split_last()
                && self.reply.ends_with(start)
            {
                ban(row, *last);
            }
        }
        if self.reply.len() < params.min_tokens as usize {
            self.stop_ids.iter().for_each(|id| ban(row, *id));
        }
        for (id, bias) in &params.logit_bias {
            if let Some(score) = row.get_mut(*id as usize) {
                *score += bias;
            }
        }
        if params.has_penalties() {
            self.penalise(row);
        }
    }

    fn penalise(&self, row: &mut [f32]) {
        let mut counts: BTreeMap<u32, f32> = self.prompt.iter().map(|id| (*id, 0.0)).collect();
        self.reply.iter().for_each(|id| *counts.entry(*id).or_default() += 1.0);
        for (id, count) in counts {
            let Some(score) = row.get_mut(id as usize) else { continue };
            let penalty = self.params.repetition_penalty;
            *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
            if count > 0.0 {
                *score -= count * self.params.frequency_penalty + self.params.presence_penalty;
            }
        }
    }
}

/// The best id, of equals the lowest.
fn best(row: &[f32]) -> usize {
    let mut at = 0;
    for (id, value) in row.iter().enumerate() {
        if *value > row[at] {
            at = id;
        }
    }
    at
}

/// The first id at which the running sum passes `target`; rounding may leave the sum short of it, then the last one with
/// any probability.
fn inverse(weights: impl Iterator<Item = (usize, f64)>, target: f64) -> Option<usize> {
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

/// What min-p, top-k and top-p leave, in this order, with probabilities that sum to 1, the best first. `weights` are
/// probabilities over the best one's.
fn candidates(row: &[f32], weights: &[f32], best: usize, params: &SamplingParams) -> Vec<(usize, f64)> {
    let floor = params.min_p.min(1.0);
    let mut order: Vec<usize> = (0..row.len()).filter(|id| weights[*id] >= floor && weights[*id] > 0.0).collect();
    let by_score = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]).then(a.cmp(b));
    let k = params.top_k as usize;
    if k > 0 && k < order.len() {
        let last = row[*order.select_nth_unstable_by(k - 1, by_score).1];
        order.retain(|id| row[*id] >= last);
    }
    let total: f64 = order.iter().map(|id| f64::from(weights[*id])).sum();
    let top_p = f64::from(params.top_p);
    if top_p < 1.0 {
        // What all ids below this come to together is not worth `1 - top_p`, so none of them is needed to reach `top_p`.
        let least = (1.0 - top_p) * total / order.len() as f64;
        order.retain(|id| f64::from(weights[*id]) >= least);
    }
    order.sort_by(by_score);
    if top_p < 1.0 {
        let mut sum = 0.0;
        let enough = order.iter().position(|id| {
            sum += f64::from(weights[*id]);
            sum >= top_p * total
        });
        order.truncate(enough.unwrap_or(order.len()) + 1);
    }
    if order.is_empty() {
        order.push(best);
    }
    let total: f64 = order.iter().map(|id| f64::from(weights[*id])).sum();
    order.into_iter().map(|id| (id, f64::from(weights[id]) / total)).collect()
}

#[cfg(test)]
#[path = "tests/sample.rs"]
mod tests;
