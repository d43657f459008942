//! One more token of each of many sequences on an NVIDIA GPU, at the speed of its memory.
//!
//! In: the last token of each sequence, where its keys and values lie, and how it is sampled. Out: the next token of each with its
//! log-probability. libtorch computes prompts; a token at a time its launches (some 11 µs each) and its gathering of pages would
//! take longer than the arithmetic. Here a whole step is one CUDA graph of our own kernels (`kernels.cu`, compiled when the engine
//! starts) and, for more than 16 sequences, cuBLAS; attention reads pages where they lie, scores are sampled where they are made, and the
//! host waits once a step.
//!
//! For bfloat16 and heads of 64 or 128; for everything else the engine goes on with libtorch.

mod adamw;
mod decoder;
mod forward;
mod gpu;

pub(crate) use adamw::{Adamw, Moved, Step, for_device};
pub(crate) use decoder::{Decoder, Drawn, Row, Sampling};
pub(crate) use forward::supports;

#[cfg(test)]
mod tests;
