//! What goes wrong in a simulated run, and when. Times are virtual milliseconds.

use schemas::subjects::Stream;
use std::ops::RangeInclusive;

/// The faults of one simulated run. The default is a slow, faultless network.
#[derive(Clone, Debug)]
pub struct Faults {
    /// How long a message takes each way. Messages of one link stay in order; links overtake each other.
    pub delay_ms: RangeInclusive<f64>,
    /// Share of core messages that come twice.
    pub duplicate: f64,
    /// Share of core messages that are lost.
    pub drop: f64,
    pub crashes: Vec<Crash>,
    pub partitions: Vec<Partition>,
    pub full: Vec<FullStream>,
    /// How long a stage's own work takes.
    pub work_ms: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Faults { delay_ms: 0.1..=2.0, duplicate: 0.0, drop: 0.0, crashes: vec![], partitions: vec![], full: vec![], work_ms: 5.0 }
    }
}

/// A stage is killed; its state is lost, and what it had sent arrives up to a random point.
#[derive(Clone, Debug)]
pub struct Crash {
    pub at_ms: u64,
    /// The name it was added under.
    pub name: String,
    /// `None`: for good.
    pub restart_after_ms: Option<u64>,
}

/// A stage that cannot reach the broker for a while. Core messages to it are lost, deliveries to it come again, what it
/// sends waits.
#[derive(Clone, Debug)]
pub struct Partition {
    pub name: String,
    pub from_ms: u64,
    pub to_ms: u64,
}

/// A stream that takes nothing for a while.
#[derive(Clone, Debug)]
pub struct FullStream {
    pub stream: Stream,
    pub from_ms: u64,
    pub to_ms: u64,
}
