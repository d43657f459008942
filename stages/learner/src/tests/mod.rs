//! The whole learner on a small broker and a small world, with an optimiser that only counts.

mod journeys;
mod rig;
