//! Running a stage: what goes in is a [`stage::Stage`], pure logic; what comes out is a program on NATS.
//!
//! [`main`] is the whole `main` of a stage. [`setup`] makes and removes what a run needs on the broker. [`sim`] runs the
//! same stages on a seeded simulated broker in virtual time, [`testing`] on a private real server.

pub mod connect;
mod driver;
pub mod error;
mod follow;
mod lease;
mod lifeline;
mod metrics;
mod program;
pub mod setup;
pub mod sim;
pub mod stage;
pub mod store;
mod sweep;
pub mod testing;
#[cfg(test)]
mod tests;

pub use connect::connect;
pub use error::Error;
pub use program::{Options, Outcome, Program, main, run};
pub use setup::{exists, init, init_above, pipeline_text, remove};
pub use stage::{Delivered, Delivery, Durable, Follow, Identity, Input, Needs, Now, Output, PublishError, Report, Stage, Ticket, Work};

/// For [`Program::arg`].
pub use clap;
