//! AdamW (Loshchilov and Hutter 2019) with its moments in f32, so that they can be saved and go on bit for bit.
//!
//! On a GPU a bfloat16 weight keeps beside it what it leaves of an f32: steps of common size would otherwise be rounded away.

use crate::Result;
use crate::cuda::{self, Adamw, Moved, Step};
use crate::model::Model;
use tch::{Device, Kind, Tensor};

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// What is kept of each of [`Model::parameters`].
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Both moments, f32.
    pub(crate) first: Vec<Tensor>,
    pub(crate) second: Vec<Tensor>,
    /// What each weight's f32 is beside the bfloat16, in its last 16 bits (int16); empty for weights in f32.
    pub(crate) rest: Vec<Tensor>,
}

#[derive(Debug)]
pub(crate) struct AdamW {
    state: State,
    /// Steps taken.
    pub(crate) step: u64,
    /// Kernels of our own, for bfloat16 on a GPU.
    fused: Option<Adamw>,
}

impl AdamW {
    /// # Errors
    /// [`crate::Error::Cuda`] where a GPU's kernels cannot be made.
    pub(crate) fn new(model: &Model) -> Result<AdamW> {
        let halves = model.place.kind == Kind::BFloat16 && model.place.device != Device::Cpu;
        let fused = if halves { cuda::for_device(model.place.device)? } else { None };
        Ok(AdamW { state: State::default(), step: 0, fused })
    }

    /// Starts anew, over whatever parameters come. The state takes its memory with the first step: a model that is given an adapter
    /// never has any of its own.
    pub(crate) fn restart(&mut self) {
        (self.state, self.step) = (State::default(), 0);
    }

    /// Takes up a state that was saved. Without `rest` weights begin at their bfloat16.
    pub(crate) fn resume(&mut self, model: &Model, state: State, step: u64) {
        let rest = match (&self.fused, state.rest.is_empty()) {
            (None, _) => vec![],
            (Some(_), true) => rests(model),
            (Some(_), false) => state.rest.iter().map(|rest| rest.to_kind(Kind::Int16)).collect(),
        };
        (self.state, self.step) = (State { rest, ..state }, step);
    }

    /// What is to be saved, `rest` in f32.
    pub(crate) fn saved(&self, model: &Model) -> State {
        let fresh = self.state.first.is_empty().then(|| self.fresh(model));
        let state = fresh.as_ref().unwrap_or(&self.state);
        let share = |all: &[Tensor]| all.iter().map(Tensor::shallow_clone).collect();
        let rest = state.rest.iter().map(|rest| rest.to_kind(Kind::Float)).collect();
        State { first: share(&state.first), second: share(&state.second), rest }
    }

    fn fresh(&self, model: &Model) -> State {
        let zeros = || model.parameters().iter().map(|(p, _)| p.detach().to_kind(Kind::Float).zeros_like()).collect();
        State { first: zeros(), second: zeros(), rest: if self.fused.is_some() { rests(model) } else { vec![] } }
    }

    /// Takes one step along `gradients`, each scaled by `scale`. Weight decay falls on matrices alone.
    ///
    /// # Errors
    /// [`crate::Error::Cuda`] where a launch fails.
    pub(crate) fn step(&mut self, model: &Model, gradients: &[Tensor], scale: f64, learning_rate: f64, weight_decay: f64) -> Result<()> {
        self.step += 1;
        if self.state.first.is_empty() {
            self.state = self.fresh(model);
        }
        let correction_1 = 1.0 - libm::pow(BETA_1, self.step as f64);
        let correction_2 = libm::sqrt(1.0 - libm::pow(BETA_2, self.step as f64));
        for (number, ((parameter, decays), gradient)) in model.parameters().into_iter().zip(gradients).enumerate() {
            let step = Step {
                scale,
                keep: if decays { 1.0 - learning_rate * weight_decay } else { 1.0 },
                // The correction of the second moment is multiplied out of the denominator.
                rate: learning_rate * correction_2 / correction_1,
                epsilon: EPSILON * correction_2,
                shares: [1.0 - BETA_1, 1.0 - BETA_2],
            };
            let (first, second) = (&mut self.state.first[number], &mut self.state.second[number]);
            match &self.fused {
                Some(fused) if Adamw::takes(parameter) && Adamw::takes(gradient) => {
                    fused.step(&Moved { weight: parameter, rest: &self.state.rest[number], gradient, first, second }, &step)?;
                }
                _ => with_libtorch(&mut parameter.detach(), gradient, first, second, &step),
            }
        }
        Ok(())
    }

    /// The norm of all gradients together.
    ///
    /// # Errors
    /// As [`AdamW::step`].
    pub(crate) fn norm(&self, gradients: &[Tensor]) -> Result<f64> {
        let (fused, rest): (Vec<&Tensor>, Vec<&Tensor>) = gradients.iter().partition(|g| self.fused.is_some() && Adamw::takes(g));
        let fused = self.fused.as_ref().map_or(Ok(0.0), |kernels| kernels.squares(&fused))?;
        let squares: Vec<Tensor> = rest.iter().map(|g| g.to_kind(Kind::Float).square().sum(Kind::Float)).collect();
        let plain = if squares.is_empty() { 0.0 } else { Tensor::stack(&squares, 0).sum(Kind::Double).double_value(&[]) };
        Ok((fused + plain).sqrt())
    }
}

fn rests(model: &Model) -> Vec<Tensor> {
    model.parameters().iter().map(|(p, _)| p.detach().zeros_like().to_kind(Kind::Int16)).collect()
}

/// In few passes over memory, each in place: moments move by interpolation.
pub(crate) fn with_libtorch(parameter: &mut Tensor, gradient: &Tensor, first: &mut Tensor, second: &mut Tensor, step: &Step) {
    let mut gradient = gradient.to_kind(Kind::Float) * step.scale;
    let _ = first.lerp_(&gradient, step.shares[0]);
    let _ = second.lerp_(&gradient.square_(), step.shares[1]);
    if step.keep < 1.0 {
        let _ = parameter.g_mul_scalar_(step.keep);
    }
    let mut change = second.sqrt();
    let _ = change.g_add_scalar_(step.epsilon).reciprocal_().g_mul_(first);
    let _ = change.g_mul_scalar_(step.rate);
    let _ = parameter.g_sub_(&change);
}
