//! Houses, the Stretch robot, its errands and its expert: pure and deterministic.
//!
//! In: a house as ProcTHOR JSON, or a seed. [`parse`] or [`generator`] make a [`schema::House`] of it, [`compile`] a small
//! [`scene::Scene`], [`sim::Home`] an indexed one. [`tasks::Episode`] runs the robot in it, [`expert::Expert`] solves it,
//! [`sample`] draws episodes, [`freeze`] writes them to a file. No clock, no file, no network; transcendental functions
//! come from `libm`, so that the same seed gives the same bytes on every machine.

pub mod assets;
pub mod chores;
pub mod compile;
pub mod curriculum;
pub mod expert;
pub mod fetch;
pub mod freeze;
pub mod generator;
pub mod geometry;
pub mod instruct;
pub mod parse;
pub mod reach;
pub mod robot;
pub mod sample;
pub mod scene;
pub mod schema;
pub mod shape;
pub mod sim;
pub mod soundness;
pub mod space;
pub mod statistics;
pub mod tasks;
pub mod trials;
pub mod view;

mod error;
mod field;
mod lattice;
mod motion;
mod push;
mod sight;

#[cfg(test)]
mod tests;

pub use error::Error;
