//! What is minimised: sums over the trained tokens of a microbatch, already divided by the whole batch's tokens.
//!
//! Imitation: negative log-likelihood. Reinforcement: PPO's clipped objective (Schulman et al. 2017) with two clip ranges
//! (DAPO, Yu et al. 2025), the dual clip of negative advantages (Ye et al. 2020), an entropy bonus, and the KL estimator
//! `exp(r - p) - (r - p) - 1` against a reference policy (Schulman's "k3", as in GRPO).

use crate::batch::Target;
use crate::model::ROWS;
use tch::{Device, Kind, Tensor};

/// Negative advantages: the loss of a token is bounded by this times the advantage.
const DUAL_CLIP: f64 = 3.0;

/// How [`crate::Trainer::reinforce`] takes its step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reinforce {
    /// How far the ratio of new to old probability may fall below 1, and rise above it.
    pub clip: [f32; 2],
    /// Weight of the entropy bonus.
    pub entropy: f32,
    /// Weight of the KL penalty against the reference (see [`crate::Trainer::snapshot_reference`]).
    pub kl: f32,
    pub learning_rate: f64,
}

/// What one optimiser step saw. Means are over the trained tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    pub loss: f64,
    /// Trained tokens, labels included.
    pub tokens: u64,
    /// Of the distribution at each trained token, nats.
    pub entropy: f64,
    /// Mismatch of fresh and sampled log-probabilities, `d`: mean of `exp(d) - d - 1`, at least 0. 0 in imitation.
    pub kl_old: f64,
    /// Share of tokens whose ratio lies outside the clip range on the side where that stops the gradient.
    pub clip_fraction: f64,
    /// Norm of the gradient before it was clipped.
    pub grad_norm: f64,
    /// Whether loss and gradient were finite. If not, no step was taken.
    pub finite: bool,
}

/// Sums over one microbatch, `[loss, entropy, kl_old, clipped]`.
pub(crate) struct Sums {
    /// Carries the gradient.
    pub(crate) loss: Tensor,
    /// Entropy, mismatch, clipped tokens: `[3]`, no gradient.
    pub(crate) meters: Tensor,
}

impl Sums {
    pub(crate) fn plus(self, other: Sums) -> Sums {
        Sums { loss: self.loss + other.loss, meters: self.meters + other.meters }
    }
}

/// Columns of a microbatch's targets, as tensors of `[targets]`.
pub(crate) struct Columns {
    pub(crate) ids: Tensor,
    /// Padded with row 0 to a multiple of [`ROWS`].
    pub(crate) rows: Tensor,
    pub(crate) weights: Tensor,
    pub(crate) advantages: Tensor,
    pub(crate) old_logprobs: Tensor,
    /// Under the reference policy, where the objective asks for it.
    pub(crate) reference: Option<Tensor>,
}

impl Columns {
    pub(crate) fn new(targets: &[Target], device: Device) -> Columns {
        let ints = |of: fn(&Target) -> i64| Tensor::from_slice(&targets.iter().map(of).collect::<Vec<_>>()).to_device(device);
        let floats = |of: fn(&Target) -> f32| Tensor::from_slice(&targets.iter().map(of).collect::<Vec<_>>()).to_device(device);
        let mut rows: Vec<i64> = targets.iter().map(|t| t.row).collect();
        rows.resize(targets.len().next_multiple_of(ROWS), 0);
        Columns {
            ids: ints(|t| t.id),
            rows: Tensor::from_slice(&rows).to_device(device),
            weights: floats(|t| t.weight),
            advantages: floats(|t| t.advantage),
            old_logprobs: floats(|t| t.old_logprob),
            reference: None,
        }
    }

    /// Every row of a batch, with nothing to be predicted.
    pub(crate) fn of_rows(count: usize, device: Device) -> Columns {
        let rows = Tensor::arange(count as i64, (Kind::Int64, device));
        let none = || Tensor::zeros([count as i64], (Kind::Float, device));
        Columns { ids: rows.zeros_like(), rows, weights: none(), advantages: none(), old_logprobs: none(), reference: None }
    }

    /// Runs of at most `size` targets, a multiple of [`ROWS`]: where each starts, its rows with padding, and its columns.
    pub(crate) fn chunks(&self, size: usize) -> Vec<(i64, i64, Columns)> {
        let (count, rows) = (self.ids.size()[0], self.rows.size()[0]);
        let chunk = |from: i64| {
            let (targets, padded) = ((count - from).min(size as i64), (rows - from).min(size as i64));
            let cut = |column: &Tensor| column.narrow(0, from, targets);
            let columns = Columns {
                ids: cut(&self.ids),
                rows: self.rows.narrow(0, from, padded),
                weights: cut(&self.weights),
                advantages: cut(&self.advantages),
                old_logprobs: cut(&self.old_logprobs),
                reference: self.reference.as_ref().map(cut),
            };
            (from, padded, columns)
        };
        (0..count).step_by(size).map(chunk).collect()
    }
}

/// The log-probability of each target, `[targets]`, from all log-probabilities, `[targets, vocabulary]`.
pub(crate) fn chosen(all: &Tensor, ids: &Tensor) -> Tensor {
    all.gather(1, &ids.unsqueeze(1), false).squeeze_dim(1)
}

fn entropies(all: &Tensor) -> Tensor {
    // A banned id's probability is exactly 0 and its log-probability finite, so their product is 0.
    -(all.exp() * all).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)
}

/// Weighted negative log-likelihood, divided by `total` (the whole batch's sum of weights).
pub(crate) fn imitation(all: &Tensor, columns: &Columns, total: f64) -> Sums {
    let loss = -(chosen(all, &columns.ids) * &columns.weights).sum(Kind::Float) / total;
    let zero = Tensor::zeros([1], (Kind::Float, all.device()));
    let entropy = tch::no_grad(|| entropies(all).sum(Kind::Float)).view([1]);
    Sums { loss, meters: Tensor::cat(&[&entropy, &zero, &zero], 0) }
}

/// The clipped objective, divided by `total` (the whole batch's trained tokens).
pub(crate) fn reinforcement(all: &Tensor, columns: &Columns, total: f64, options: &Reinforce) -> Sums {
    let logprobs = chosen(all, &columns.ids);
    let advantages = &columns.advantages;
    let difference = &logprobs - &columns.old_logprobs;
    let ratio = difference.exp();
    let clipped = ratio.clamp(1.0 - f64::from(options.clip[0]), 1.0 + f64::from(options.clip[1]));
    let (plain, bounded) = (-advantages * &ratio, -advantages * &clipped);
    let surrogate = plain.maximum(&bounded);
    let dual = surrogate.minimum(&(-advantages * DUAL_CLIP));
    let mut loss = dual.where_self(&advantages.lt(0.0), &surrogate);
    let entropy = if options.entropy == 0.0 { tch::no_grad(|| entropies(all)) } else { entropies(all) };
    if options.entropy != 0.0 {
        loss = &loss - &entropy * f64::from(options.entropy);
    }
    if let Some(reference) = &columns.reference {
        let away = reference - &logprobs;
        loss = &loss + (away.exp() - &away - 1.0) * f64::from(options.kl);
    }
    let meters = tch::no_grad(|| {
        let mismatch = (&ratio - &difference - 1.0).sum(Kind::Float);
        let stopped = bounded.gt_tensor(&plain).to_kind(Kind::Float).sum(Kind::Float);
        Tensor::stack(&[entropy.sum(Kind::Float), mismatch, stopped], 0)
    });
    Sums { loss: loss.sum(Kind::Float) / total, meters }
}
