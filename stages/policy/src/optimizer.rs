//! AdamW (Loshchilov and Hutter 2019) with its moments in f32, so that they can be saved and go on bit for bit.

use crate::model::Model;
use tch::{Kind, Tensor};

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

#[derive(Debug)]
pub(crate) struct AdamW {
    /// First and second moment of each of [`Model::parameters`].
    pub(crate) first: Vec<Tensor>,
    pub(crate) second: Vec<Tensor>,
    /// Steps taken.
    pub(crate) step: u64,
}

impl AdamW {
    pub(crate) fn new(model: &Model) -> AdamW {
        let zeros = || model.parameters().iter().map(|(p, _)| p.detach().to_kind(Kind::Float).zeros_like()).collect();
        AdamW { first: zeros(), second: zeros(), step: 0 }
    }

    /// Takes one step along `gradients`, each scaled by `scale`. Weight decay falls on matrices alone.
    pub(crate) fn step(&mut self, model: &Model, gradients: &[Tensor], scale: f64, learning_rate: f64, weight_decay: f64) {
        self.step += 1;
        let correction_1 = 1.0 - libm::pow(BETA_1, self.step as f64);
        let correction_2 = libm::sqrt(1.0 - libm::pow(BETA_2, self.step as f64));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for (((parameter, decays), gradient), (first, second)) in model.parameters().into_iter().zip(gradients).zip(moments) {
            // In few passes over memory, each in place: moments move by interpolation, and the correction of the second one is
            // multiplied out of the denominator.
            let mut gradient = gradient.to_kind(Kind::Float) * scale;
            let _ = first.lerp_(&gradient, 1.0 - BETA_1);
            let _ = second.lerp_(&gradient.square_(), 1.0 - BETA_2);
            let mut parameter = parameter.detach();
            if decays && weight_decay > 0.0 {
                let _ = parameter.g_mul_scalar_(1.0 - learning_rate * weight_decay);
            }
            let mut change = second.sqrt();
            let _ = change.g_add_scalar_(EPSILON * correction_2).reciprocal_().g_mul_(first);
            let _ = change.g_mul_scalar_(learning_rate * correction_2 / correction_1);
            let _ = parameter.g_sub_(&change);
        }
    }
}

/// The norm of all gradients together.
pub(crate) fn norm(gradients: &[Tensor]) -> f64 {
    let squares: Vec<Tensor> = gradients.iter().map(|g| g.to_kind(Kind::Float).square().sum(Kind::Float)).collect();
    Tensor::stack(&squares, 0).sum(Kind::Double).sqrt().double_value(&[])
}
