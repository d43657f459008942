//! The errand *fetch* by its first names: see [`crate::tasks`].

pub use crate::tasks::{Episode, Milestone, Remembered, Spec as FetchTask, TARGETS};
