//! The seam between deciding what is trained and training it.
//!
//! In: sequences of token ids with what is to be learned of them. Out: moved weights. What decides knows no tensor; what
//! trains knows no episode.

use crate::tokens::Sequence;
use std::path::Path;

/// How a step of reinforcement is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reinforce {
    /// How far the ratio of new to old probability may fall below 1, and rise above it.
    pub clip: [f32; 2],
    pub entropy: f32,
    pub kl: f32,
    pub learning_rate: f64,
}

/// What one optimiser step saw; means are over its trained tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    pub loss: f64,
    pub tokens: u64,
    pub entropy: f64,
    /// Mismatch of fresh and sampled log-probabilities.
    pub kl_old: f64,
    pub clip_fraction: f64,
    pub grad_norm: f64,
    /// If not, no step was taken.
    pub finite: bool,
}

/// Weights and their optimiser.
pub trait Optimiser: Send + 'static {
    /// One step towards the trained tokens and the labels.
    ///
    /// # Errors
    /// A line that names the sequence at fault; nothing is changed then.
    fn imitate(&mut self, sequences: &[Sequence], learning_rate: f64) -> Result<Stats, String>;
    /// The loss that [`Optimiser::imitate`] would see, without a step.
    ///
    /// # Errors
    /// As [`Optimiser::imitate`].
    fn imitation_loss(&mut self, sequences: &[Sequence]) -> Result<f64, String>;
    /// One step on the policy's own tokens.
    ///
    /// # Errors
    /// As [`Optimiser::imitate`].
    fn reinforce(&mut self, sequences: &[Sequence], options: &Reinforce) -> Result<Stats, String>;
    /// Takes the present weights as the reference of the KL penalty.
    ///
    /// # Errors
    /// No memory.
    fn anchor(&mut self) -> Result<(), String>;
    /// Writes weights and moments into a folder that is there and empty, in Hugging Face layout.
    ///
    /// # Errors
    /// The file that could not be written.
    fn save(&mut self, folder: &Path) -> std::io::Result<()>;
    /// Bytes of a safetensors file, for generators.
    fn weights(&mut self) -> Vec<u8>;
}

/// What the run's artifacts hold of a policy before it has weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// tokenizer.json
    pub tokenizer: Vec<u8>,
    /// tokenizer_config.json
    pub tokenizer_config: Vec<u8>,
    /// config.json
    pub config: Vec<u8>,
    /// preprocessor_config.json; empty for a policy without eyes.
    pub image_processor: Vec<u8>,
}

/// Which tokenizer and template weights were made with, hex BLAKE3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    pub tokenizer: String,
    pub template: String,
    /// Empty for a policy without eyes.
    pub image_processor: String,
}

/// Makes optimisers: a new policy, or one of a checkpoint.
pub trait Maker: Send + 'static {
    type O: Optimiser;

    /// A new policy, from the pipeline's seed or the folder that it names.
    ///
    /// # Errors
    /// A line that says what is wrong with the files.
    fn create(&mut self, files: &Files) -> Result<(Self::O, Digests), String>;

    /// The policy that [`Optimiser::save`] wrote into `folder`. `reference`: the folder of the KL penalty's reference.
    ///
    /// # Errors
    /// As [`Maker::create`].
    fn restore(&mut self, files: &Files, folder: &Path, reference: Option<&Path>) -> Result<(Self::O, Digests), String>;
}
