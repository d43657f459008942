//! The broker, the network and the clock, simulated: stages run in one thread, in virtual time, from one seed.
//!
//! What goes in: stages, each with a closure that makes it anew after a crash, and the [`Faults`] of the run. What comes
//! out: every message that was stored, and how the stages ended. The same seed gives the same run, to the last message.
//! The rules of streams are in `streams`; this file has links, nodes and time.

mod broker;
mod faults;
mod nodes;
mod streams;
#[cfg(test)]
mod tests;

pub use faults::{Crash, Faults, FullStream, Partition};
pub use streams::{Retention, Stored};

use crate::program::Outcome;
use crate::stage::{Identity, Input, Output, Report, Stage};
use nodes::Node;
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use schemas::pipeline::Pipeline;
use schemas::subjects::Stream;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use streams::{Puller, StreamState};

/// Virtual time starts here, as Unix microseconds.
const EPOCH_US: u64 = 1_700_000_000_000_000;
/// The run's name in every simulation.
pub const RUN: &str = "sim";

/// Makes a stage; called at the start and after each crash.
pub type Factory = Box<dyn FnMut(Identity) -> Box<dyn Stage>>;

/// Something that is due at some time.
enum Event {
    /// An input reaches a node in one of its lives.
    Deliver {
        to: Puller,
        input: Input,
    },
    /// An output reaches the broker.
    Arrive {
        from: Puller,
        output: Output,
    },
    Tick {
        to: Puller,
    },
    Idle {
        to: Puller,
    },
    PullOver {
        stream: Stream,
        durable: String,
        pull: u64,
    },
    AckDue {
        stream: Stream,
        durable: String,
    },
    /// Something may be deliverable now.
    Pump {
        stream: Stream,
    },
    Start {
        node: usize,
    },
    Crash {
        node: usize,
        restart_after_us: Option<u64>,
    },
}

struct Due {
    at_us: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at_us, self.order).cmp(&(other.at_us, other.order))
    }
}

/// A delivery that was handed out: where its ack belongs.
struct Out {
    stream: Stream,
    durable: String,
    sequence: u64,
}

/// One simulated run.
pub struct Sim {
    now_us: u64,
    order: u64,
    due: BinaryHeap<Reverse<Due>>,
    rng: ChaCha8Rng,
    faults: Faults,
    pipeline: Pipeline,
    nodes: Vec<Node>,
    streams: BTreeMap<u8, StreamState>,
    objects: BTreeMap<String, Vec<u8>>,
    /// By stage: the epoch that last touched it, and the bytes.
    states: BTreeMap<String, (u64, Vec<u8>)>,
    /// By kind of stage: how often one was started.
    epochs: BTreeMap<String, u64>,
    deliveries: BTreeMap<u64, Out>,
    next_delivery: u64,
    next_pull: u64,
    core_messages: u64,
}

/// The streams in a fixed order, for a map that is walked the same way each time.
fn place(stream: Stream) -> u8 {
    match stream {
        Stream::Episodes => 0,
        Stream::Ends => 1,
        Stream::Policies => 2,
        Stream::Grants => 3,
        Stream::Cancel => 4,
        Stream::Rejected => 5,
    }
}

impl Sim {
    /// A run of the smallest pipeline, FrozenLake with default settings.
    pub fn new(seed: u64, faults: Faults) -> Sim {
        let text = "name = \"sim\"\nschedule = []\n[world]\nname = \"frozenlake\"\n";
        Sim::with_pipeline(seed, faults, Pipeline::parse(text).expect("the smallest pipeline is one"))
    }

    /// A run of this pipeline; its durables are made as [`crate::init`] makes them.
    pub fn with_pipeline(seed: u64, faults: Faults, pipeline: Pipeline) -> Sim {
        let streams = broker::streams_of(&pipeline);
        Sim {
            now_us: 0,
            order: 0,
            due: BinaryHeap::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            faults,
            pipeline,
            nodes: vec![],
            streams,
            objects: BTreeMap::new(),
            states: BTreeMap::new(),
            epochs: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            next_delivery: 0,
            next_pull: 0,
            core_messages: 0,
        }
    }

    /// Adds a stage that starts at once. `name` is its id; what stands before its last dash and digits is its kind, as
    /// in `env-stepper-2`. [`Identity::epoch`] counts the starts of that kind, lease or not.
    pub fn add<F>(&mut self, name: &str, factory: F)
    where
        F: FnMut(Identity) -> Box<dyn Stage> + 'static,
    {
        let node = self.nodes.len();
        self.nodes.push(Node::new(name, Box::new(factory)));
        self.at(self.now_us, Event::Start { node });
        let crashes: Vec<_> = self.faults.crashes.iter().filter(|c| c.name == name).cloned().collect();
        for crash in crashes {
            let restart_after_us = crash.restart_after_ms.map(|ms| ms * 1000);
            self.at(crash.at_ms * 1000, Event::Crash { node, restart_after_us });
        }
    }

    /// Runs until `done`, or until `max_virtual_ms` have passed since the start. Returns whether it was `done`.
    pub fn run_until(&mut self, mut done: impl FnMut(&Sim) -> bool, max_virtual_ms: u64) -> bool {
        loop {
            if done(self) {
                return true;
            }
            match self.due.peek() {
                Some(Reverse(due)) if due.at_us <= max_virtual_ms * 1000 => {}
                _ => return false,
            }
            let Some(Reverse(due)) = self.due.pop() else { return false };
            self.now_us = self.now_us.max(due.at_us);
            self.happen(due.event);
        }
    }

    pub fn now_ms(&self) -> u64 {
        self.now_us / 1000
    }

    /// Kills a stage now.
    pub fn kill(&mut self, name: &str) {
        if let Some(node) = self.find(name) {
            self.crash(node, None);
        }
    }

    /// Starts a stage that was killed or has ended.
    pub fn start(&mut self, name: &str) {
        if let Some(node) = self.find(name) {
            self.at(self.now_us, Event::Start { node });
        }
    }

    /// Tells a stage to finish.
    pub fn drain(&mut self, name: &str) {
        if let Some(node) = self.find(name) {
            let to = self.puller(node);
            self.at(self.now_us, Event::Deliver { to, input: Input::Drain });
        }
    }

    /// How a stage ended by its own will; `None` while it runs or if it was killed.
    pub fn outcome(&self, name: &str) -> Option<&Outcome> {
        self.nodes[self.find(name)?].outcome.as_ref()
    }

    /// What a running stage says of itself.
    pub fn report(&self, name: &str) -> Option<Report> {
        Some(self.nodes[self.find(name)?].stage.as_ref()?.report())
    }

    /// How often a stage was started.
    pub fn lives(&self, name: &str) -> u64 {
        self.find(name).map_or(0, |node| self.nodes[node].life)
    }

    /// The messages that a stream holds.
    pub fn stream(&self, stream: Stream) -> Vec<&Stored> {
        self.streams[&place(stream)].stored.values().collect()
    }

    /// Every message that a stream has ever stored, in order.
    pub fn history(&self, stream: Stream) -> &[Stored] {
        &self.streams[&place(stream)].history
    }

    /// Messages that a durable has handed out and that are not acked, or are to be delivered again.
    pub fn unacked(&self, stream: Stream, durable: &str) -> usize {
        self.streams[&place(stream)].durables.get(durable).map_or(0, |d| d.pending.len() + d.again.len())
    }

    pub fn object(&self, name: &str) -> Option<&[u8]> {
        self.objects.get(name).map(Vec::as_slice)
    }

    pub fn object_names(&self) -> Vec<&str> {
        self.objects.keys().map(String::as_str).collect()
    }

    /// Puts an object there, as `errand init` would.
    pub fn put_object(&mut self, name: &str, bytes: Vec<u8>) {
        self.objects.insert(name.to_string(), bytes);
    }

    /// A stage's state as it was last written.
    pub fn state(&self, stage: &str) -> Option<&[u8]> {
        self.states.get(stage).map(|(_, bytes)| bytes.as_slice())
    }

    /// Core messages that were published so far.
    pub fn core_messages(&self) -> u64 {
        self.core_messages
    }

    /// Publishes a core message from outside.
    pub fn publish(&mut self, subject: &str, payload: Vec<u8>) {
        self.route(subject, &payload);
    }

    /// Stores a message from outside.
    ///
    /// # Errors
    /// As the broker refuses it.
    pub fn publish_durable(
        &mut self,
        subject: &str,
        headers: BTreeMap<String, String>,
        payload: Vec<u8>,
    ) -> Result<u64, crate::stage::PublishError> {
        self.store(subject, headers, payload, None)
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    fn at(&mut self, at_us: u64, event: Event) {
        self.order += 1;
        self.due.push(Reverse(Due { at_us, order: self.order, event }));
    }

    fn delay_us(&mut self) -> u64 {
        let (low, high) = (*self.faults.delay_ms.start(), *self.faults.delay_ms.end());
        let ms = if low < high { self.rng.random_range(low..=high) } else { low };
        (ms * 1000.0) as u64
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.random::<f64>() < share
    }

    /// Until when a node is cut off, if it is at that time.
    fn cut_off_until(&self, node: usize, at_us: u64) -> Option<u64> {
        let name = &self.nodes[node].name;
        let holds = |p: &&Partition| p.name == *name && (p.from_ms * 1000..p.to_ms * 1000).contains(&at_us);
        self.faults.partitions.iter().filter(holds).map(|p| p.to_ms * 1000).max()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { to, input } => self.deliver(to, input),
            Event::Arrive { from, output } => self.arrive(from, output),
            Event::Tick { to } => self.tick(to),
            Event::Idle { to } => {
                if self.lives_as(to) {
                    self.nodes[to.node].idle_due = false;
                    self.step(to, Input::Idle);
                }
            }
            Event::PullOver { stream, durable, pull } => self.pull_over(stream, &durable, pull),
            Event::AckDue { stream, durable } => {
                let now_us = self.now_us;
                if let Some(state) = self.streams.get_mut(&place(stream)) {
                    state.expire(&durable, now_us);
                }
                self.pump(stream);
            }
            Event::Pump { stream } => self.pump(stream),
            Event::Start { node } => self.begin(node),
            Event::Crash { node, restart_after_us } => self.crash(node, restart_after_us),
        }
    }
}
