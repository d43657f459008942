//! AdamW on a GPU for bfloat16 weights: every weight, moment and gradient is read and written once.

use super::gpu::{Argument, Grid, Kernels};
use crate::Result;
use Argument::{At, Float};
use tch::{Device, Kind, Tensor};

const BLOCKS: usize = 1056;
const THREADS: usize = 256;
/// Numbers that a thread takes at once; tensors of other sizes are the caller's.
const AT_ONCE: usize = 4;

pub(crate) struct Adamw {
    kernels: Kernels,
}

impl std::fmt::Debug for Adamw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Adamw")
    }
}

/// One tensor of weights with all that moves it.
pub(crate) struct Moved<'a> {
    /// bfloat16.
    pub(crate) weight: &'a Tensor,
    /// What the weight's f32 is beside it, int16.
    pub(crate) rest: &'a Tensor,
    pub(crate) gradient: &'a Tensor,
    /// f32.
    pub(crate) first: &'a Tensor,
    pub(crate) second: &'a Tensor,
}

/// Numbers of a step that are the same for all of a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Of the gradient.
    pub(crate) scale: f64,
    /// What weight decay leaves.
    pub(crate) keep: f64,
    /// Learning rate, both corrections in it.
    pub(crate) rate: f64,
    pub(crate) epsilon: f64,
    /// What a gradient adds to each moment.
    pub(crate) shares: [f64; 2],
}

fn at(tensor: &Tensor) -> Argument {
    At(tensor.data_ptr() as u64)
}

fn quads(tensor: &Tensor) -> Argument {
    At((tensor.numel() / AT_ONCE) as u64)
}

impl Adamw {
    /// Whether the kernels are for a tensor: bfloat16 (adapters are f32), of a size that threads share evenly.
    pub(crate) fn takes(tensor: &Tensor) -> bool {
        tensor.kind() == Kind::BFloat16 && tensor.numel().is_multiple_of(AT_ONCE) && tensor.is_contiguous()
    }

    /// # Errors
    /// [`crate::Error::Cuda`].
    pub(crate) fn new(ordinal: usize) -> Result<Adamw> {
        Ok(Adamw { kernels: Kernels::beside_torch(ordinal, include_str!("adamw.cu"))? })
    }

    fn grid(tensor: &Tensor) -> Grid {
        let blocks = (tensor.numel() / AT_ONCE).div_ceil(THREADS).clamp(1, BLOCKS);
        Grid { blocks: [blocks, 1, 1], threads: THREADS, shared: 0 }
    }

    /// # Errors
    /// [`crate::Error::Cuda`] where the launch fails.
    pub(crate) fn step(&self, moved: &Moved<'_>, step: &Step) -> Result<()> {
        let tensors = [at(moved.weight), at(moved.rest), at(moved.gradient), at(moved.first), at(moved.second), quads(moved.weight)];
        let numbers = [step.scale, step.keep, step.rate, step.epsilon, step.shares[0], step.shares[1]].map(|n| Float(n as f32));
        self.kernels.launch("adamw", Self::grid(moved.weight), &[tensors, numbers].concat())
    }

    /// The sum of squares of each tensor, f64.
    ///
    /// # Errors
    /// As [`Adamw::step`].
    pub(crate) fn squares(&self, gradients: &[&Tensor]) -> Result<f64> {
        let Some(first) = gradients.first() else { return Ok(0.0) };
        let sums = Tensor::f_zeros([gradients.len() as i64, BLOCKS as i64], (Kind::Float, first.device()))?;
        for (number, gradient) in gradients.iter().enumerate() {
            let row = At(sums.data_ptr() as u64 + (4 * BLOCKS * number) as u64);
            self.kernels.launch("squares", Self::grid(gradient), &[at(gradient), row, quads(gradient)])?;
        }
        Ok(sums.sum(Kind::Double).double_value(&[]))
    }
}

/// The kernels for a device, where it is one.
///
/// # Errors
/// As [`Adamw::new`].
pub(crate) fn for_device(device: Device) -> Result<Option<Adamw>> {
    match device {
        Device::Cuda(ordinal) => Adamw::new(ordinal).map(Some),
        _ => Ok(None),
    }
}
