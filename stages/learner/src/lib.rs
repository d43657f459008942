//! The learner: turns ends into better weights.
//!
//! In: [`schemas::End`]s. Does: gives each trajectory exactly one use, judges held-out episodes, imitates, reinforces, and
//! writes a checkpoint that holds weights and uses together. Out: [`schemas::PolicyPublished`] with the weights,
//! [`schemas::Grant`]s, checkpoints, `validation.json`, `learner.jsonl`, `result.json`. On failure: an end is acked only
//! after the checkpoint that holds its use, so that a crash at any point loses none and uses none twice; tokens that do not
//! add up, or a disk that is full, end the process with one line.
//!
//! Reading order: [`grants`] and [`phases`] say what may start and for how long, [`groups`] and [`tokens`] what is trained,
//! [`work`] trains it, [`checkpoint`] keeps it, and the stage itself only moves messages between them.

mod advance;
pub mod checkpoint;
pub mod grants;
pub mod groups;
pub mod inbox;
pub mod optimiser;
pub mod phases;
mod publishing;
mod receive;
mod report;
pub mod signal;
mod stage;
pub mod state;
pub mod tokens;
pub mod validation;
pub mod window;
pub mod work;

#[cfg(test)]
mod tests;

pub use optimiser::{Files, Maker, Optimiser};
pub use stage::Learner;
