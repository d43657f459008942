//! The policy: language models of the Qwen2, Qwen3 and Llama families, with or without eyes, the engine that serves it and the trainer that moves it.
//!
//! In: token ids. Out: sampled ids with their log-probabilities ([`Engine`]), and weights in Hugging Face layout ([`Trainer`]).
//! The only crate that links libtorch; it knows no message, no broker, no tokenizer and no clock.
//!
//! One forward pass, [`model`], serves both: what the engine samples from and what the trainer computes are the same numbers
//! but for rounding. Both mask the same banned ids and divide by the same temperature.

mod adapter;
mod attention;
mod batch;
mod cache;
mod check;
mod checkpoint;
mod config;
mod cuda;
mod decode;
mod device;
mod drawing;
mod encoded;
mod encoder;
mod engine;
mod error;
mod eyes;
mod host;
mod init;
mod kv;
mod lanes;
mod layout;
mod loader;
mod lora;
mod model;
mod objective;
mod optimizer;
mod params;
mod pass;
mod picture;
mod plan;
mod sample;
mod scheduler;
mod sequence;
mod train;
mod vision;
mod weights;

#[cfg(test)]
mod tests;

pub use adapter::adapter_config;
pub use check::{Compared, Memory, RawPicture, check_folder};
pub use config::{Activation, Biases, Encoder, EncoderKind, Family, ModelConfig, Rope, RopeScaling, VisionConfig};
pub use device::{place, register_cuda, set_threads};
pub use engine::{Engine, EngineOptions, Generated, Request};
pub use error::{Error, Result};
pub use loader::{Base, Loader, Prepared};
pub use lora::LoraOptions;
pub use objective::{Reinforce, Stats};
pub use params::{LogprobsMode, SamplingParams};
pub use picture::{Digest, Levels, Picture, Shown};
pub use sample::TokenLogprob;
pub use scheduler::CacheStats;
pub use sequence::{Branch, Sequence, Span};
pub use tch::Device;
pub use train::{Precision, Trainer, TrainerOptions};
