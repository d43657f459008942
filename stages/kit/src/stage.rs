//! One way in for logic, one for the world outside.
//!
//! A stage is a state machine: it is handed one [`Input`] at a time and answers with [`Output`]s. No NATS, clock, file or
//! thread inside. [`crate::run`] drives it against a real server, `sim` drives it against a seeded simulated broker.

use schemas::subjects::Stream;
use std::collections::BTreeMap;

/// A time that the driver hands in. Logic never asks a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Unix time in microseconds, for people and for `trail`s.
    pub unix_us: u64,
    /// Milliseconds since the stage started, for deadlines; never goes back.
    pub mono_ms: u64,
}

/// Names one delivery of one durable message until it is acked. Given by the driver, unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Delivery(pub u64);

/// Names an order to the driver whose result the stage wants back. Given by the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A durable consumer that the stage binds; made by `errand init`, never by a stage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Durable {
    pub stream: Stream,
    pub name: String,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The first input of all.
    Started,
    /// A message on a core subject that the stage subscribed to, or (with `delivery`) from a durable.
    Message { subject: String, headers: BTreeMap<String, String>, payload: Vec<u8>, delivery: Option<Delivered> },
    /// The result of a [`Output::PublishDurable`]: the stream's sequence number, or why not.
    Published { ticket: Ticket, result: Result<u64, PublishError> },
    /// A fetch came to its end with fewer messages than asked for; `missing` of them did not come.
    FetchEnded { durable: Durable, missing: u32 },
    /// The result of [`Output::GetObject`]. `None`: there is no such object.
    Object { ticket: Ticket, name: String, bytes: Option<Vec<u8>> },
    /// The result of [`Output::PutObject`].
    ObjectPut { ticket: Ticket, result: Result<(), String> },
    /// The result of [`Output::Work`], a stage's own slow work done off the loop.
    Worked { ticket: Ticket, result: Box<dyn Work> },
    /// The key-value entry that was asked for with [`Output::GetState`].
    State { ticket: Ticket, bytes: Option<Vec<u8>> },
    /// The result of [`Output::PutState`]; an error means that the lease is lost or the bucket is full.
    StatePut { ticket: Ticket, result: Result<(), String> },
    /// Presence of another stage.
    Presence(Box<schemas::Presence>),
    /// A stage of that id has been silent for three seconds, or said farewell.
    Gone { stage: String, id: String },
    /// About ten times a second.
    Tick,
    /// Nothing else waits: a stage that asked for it with [`Stage::wants_idle`] may do a slice of work.
    Idle,
    /// Finish: hand back what is not done, then answer [`Output::Exit`].
    Drain,
}

/// How a durable message came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub delivery: Delivery,
    /// 1 at first; a nak and a crash each add one.
    pub count: u64,
    /// The message's place in its stream.
    pub sequence: u64,
    pub durable: Durable,
}

/// Why the broker did not store a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// The subject has its one message already (`max_msgs_per_subject`): the episode has ended before.
    AlreadyThere,
    /// The stream's last sequence is another than expected: someone else published.
    WrongSequence,
    /// The stream is full: wait and try again.
    Full,
    /// No answer in time, or the connection was lost: it may or may not be stored; try again.
    Unknown(String),
}

/// A stage's own work done off the loop (a training step, a file), and what comes back of it.
pub trait Work: std::any::Any + Send {
    /// Does the work; the result is handed back as [`Input::Worked`].
    fn run(self: Box<Self>) -> Box<dyn Work>;
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any>;
}

impl std::fmt::Debug for Box<dyn Work> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Work")
    }
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Core NATS: at most once.
    Publish {
        subject: String,
        payload: Vec<u8>,
    },
    /// JetStream: stored before [`Input::Published`] says so.
    PublishDurable {
        ticket: Ticket,
        subject: String,
        headers: BTreeMap<String, String>,
        payload: Vec<u8>,
        /// The stream's last sequence must be this.
        expected_last_sequence: Option<u64>,
    },
    /// Ask for up to `count` messages of a durable.
    Fetch {
        durable: Durable,
        count: u32,
    },
    /// The message is done with.
    Ack(Delivery),
    /// The same, and the broker's confirmation is waited for by the driver, which tries again until it has it.
    DoubleAck(Delivery),
    /// Deliver it again, after a while.
    Nak {
        delivery: Delivery,
        delay_ms: u64,
    },
    /// Still at work on it.
    Progress(Delivery),
    /// Deliver it never again.
    Term(Delivery),
    /// Objects of the run's artifacts bucket.
    GetObject {
        ticket: Ticket,
        name: String,
    },
    PutObject {
        ticket: Ticket,
        name: String,
        bytes: Vec<u8>,
    },
    DeleteObject {
        name: String,
    },
    /// The stage's own small state in the run's key-value bucket, under `state.<stage>`. Written only while the lease is held.
    GetState {
        ticket: Ticket,
    },
    PutState {
        ticket: Ticket,
        bytes: Vec<u8>,
    },
    /// Do this off the loop. At most one at a time.
    Work {
        ticket: Ticket,
        work: Box<dyn Work>,
    },
    /// A message that could not be handled, for `errand rejected`.
    Reject {
        subject: String,
        reason: String,
        payload: Vec<u8>,
    },
    /// End the process with this code, after everything before it is flushed. `message` is the one line that people see.
    Exit {
        code: i32,
        message: String,
    },
}

/// What a stage needs from the driver before it starts.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// The stage's kind, as `env-stepper`.
    pub stage: &'static str,
    /// Core subjects: `(subject, queue group)`.
    pub subscribe: Vec<(String, Option<String>)>,
    /// Streams that are read from their start (or last value) by a consumer of the process's own, without acks.
    pub follow: Vec<(Stream, Follow)>,
    /// Whether it runs under the lease of its kind, one in the run.
    pub lease: bool,
    /// Whether it wants [`Input::Presence`] and [`Input::Gone`] of others.
    pub presence: bool,
}

/// From where a stream is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    All,
    Last,
}

/// What a stage says of itself each second.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub done: u64,
    pub waiting: u64,
    pub free: u64,
    pub versions: Vec<u64>,
    /// By metric name, `snake_case` with the unit last.
    pub gauges: BTreeMap<&'static str, f64>,
    pub line: String,
}

/// The logic of a stage.
pub trait Stage: Send {
    fn needs(&self) -> Needs;
    /// Handles one input. Pure: the same inputs give the same outputs.
    fn step(&mut self, input: Input, now: Now) -> Vec<Output>;
    /// Whether [`Input::Idle`] would be of use now.
    fn wants_idle(&self) -> bool {
        false
    }
    fn report(&self) -> Report;
}

/// What a stage is told of itself when it is made.
#[derive(Clone, Debug)]
pub struct Identity {
    pub run: String,
    /// Unique in the run, letters, digits and dashes, as `env-stepper-7f3a`.
    pub id: String,
    pub host: String,
    pub pid: u32,
    /// The lease's epoch; 0 without a lease.
    pub epoch: u64,
    /// When the broker's record of the run was made, Unix microseconds: another value than before says that the record was lost.
    pub since_us: u64,
    /// Where the run's own files lie, as `runs/<run>`.
    pub folder: std::path::PathBuf,
    pub pipeline: schemas::pipeline::Pipeline,
}
