//! Whole runs with real processes. Each module is one journey.

mod bad_input;
mod deterministic;
mod interrupt;
mod kills;
mod long_episode;
mod offline;
mod resume;
mod served;
mod small_run;
mod vision;
mod visitor;
