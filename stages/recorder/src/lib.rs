//! The recorder: keeps every end in the trajectory store, for good.
//!
//! In: [`schemas::End`]s from its durable, fetched widely. Does: collects them, undecoded, until enough wait or the oldest
//! has waited long enough, and hands them to a [`Sink`] off the loop, one commit at a time. Out: Parquet files and a
//! manifest entry; an end is acked after the entry that holds it. On failure: an end that cannot be read is rejected whole;
//! a store that cannot be written ends the stage with one line and code 1, and what was not committed is delivered again.
//!
//! What was committed before (by this recorder before a crash, or by another one) is known from the manifest: such an end
//! is acked at once and dropped. Ends that are held longer than a third of the broker's ack wait are reported as in progress.

mod commit;
mod held;
mod sink;

#[cfg(test)]
mod sim_tests;
#[cfg(test)]
mod tests;

use commit::{Commit, Done};
use held::Held;
use kit::stage::{Delivered, Durable, Identity, Input, Needs, Now, Output, Report, Stage, Ticket};
use schemas::EpisodeId;
use schemas::subjects::{ENDS_RECORDER, Stream};
pub use sink::{Item, Receipt, Sink, StoreSink};
use std::collections::BTreeMap;
use store::Committed;

/// The stage's kind.
pub const NAME: &str = "recorder";

/// Messages that are asked for at once.
const FETCH: u32 = 512;
/// Payload bytes in hand at most, but for what was asked for before they grew.
const BYTES_MAX: usize = 64 << 20;
/// Payload bytes that make a commit by themselves.
const COMMIT_BYTES: usize = BYTES_MAX / 4;
/// What an end is taken to weigh before one has come.
const FIRST_GUESS_BYTES: usize = 64 << 10;

const TICKET: Ticket = Ticket(1);

/// Where the sink is.
enum Place {
    /// Here, and its manifest is known.
    Here(Box<dyn Sink>),
    /// Not opened yet.
    Closed(Box<dyn Sink>),
    /// In the work that is under way.
    AtWork,
}

/// See the module's text.
pub struct Recorder {
    durable: Durable,
    commit_ms: u64,
    commit_episodes: usize,
    /// A delivery that was not touched for this long is reported as in progress.
    touch_ms: u64,
    place: Place,
    committed: Committed,
    held: Held,
    /// Messages asked for that have neither come nor been given up.
    asked: u32,
    draining: bool,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    ends: u64,
    commits: u64,
    bytes: u64,
    seconds: f64,
    repeated: u64,
    refused: u64,
}

impl Recorder {
    pub fn new(identity: &Identity, sink: Box<dyn Sink>) -> Recorder {
        let pipeline = &identity.pipeline;
        Recorder {
            durable: Durable { stream: Stream::Ends, name: ENDS_RECORDER.into() },
            commit_ms: (pipeline.record.commit_s.max(0.0) * 1000.0) as u64,
            commit_episodes: pipeline.record.commit_episodes.max(1) as usize,
            touch_ms: (pipeline.broker.ack_wait_s * 1000.0 / 3.0) as u64,
            place: Place::Closed(sink),
            committed: Committed::default(),
            held: Held::default(),
            asked: 0,
            draining: false,
            counts: Counts::default(),
        }
    }

    /// Asks for more while there is room: by number, and by bytes at the mean size of what came.
    fn ask(&mut self) -> Vec<Output> {
        if self.draining {
            return Vec::new();
        }
        let by_number = (2 * self.commit_episodes).max(FETCH as usize).saturating_sub(self.held.len());
        let by_bytes = BYTES_MAX.saturating_sub(self.held.bytes()) / self.held.mean_bytes().unwrap_or(FIRST_GUESS_BYTES).max(1);
        let target = by_number.min(by_bytes).min(FETCH as usize) as u32;
        // Half a fetch at a time, so that requests stay few; whatever there is room for once nothing is under way.
        if target <= self.asked || (self.asked > 0 && target - self.asked < FETCH / 2) {
            return Vec::new();
        }
        let count = target - self.asked;
        self.asked = target;
        vec![Output::Fetch { durable: self.durable.clone(), count }]
    }

    fn on_end(&mut self, subject: String, payload: Vec<u8>, delivered: &Delivered, now: Now) -> Vec<Output> {
        self.asked = self.asked.saturating_sub(1);
        let delivery = delivered.delivery;
        let Some(id) = id_of(&subject) else {
            self.counts.refused += 1;
            let reason = "its subject names no episode; it ends in SPLIT.NUMBER".to_string();
            return vec![Output::Reject { subject, reason, payload }, Output::Term(delivery)];
        };
        if self.committed.contains(id) {
            self.counts.repeated += 1;
            return vec![Output::Ack(delivery)];
        }
        if self.draining {
            return vec![Output::Nak { delivery, delay_ms: 0 }];
        }
        if !self.held.take(Item { id, subject, payload }, delivery, now.mono_ms) {
            self.counts.repeated += 1;
        }
        Vec::new()
    }

    fn is_due(&self, now: Now) -> bool {
        let waited = self.held.waiting_since().is_some_and(|since| now.mono_ms.saturating_sub(since) >= self.commit_ms);
        self.held.waiting() > 0
            && (self.draining || waited || self.held.waiting() >= self.commit_episodes || self.held.waiting_bytes() >= COMMIT_BYTES)
    }

    /// Opens the sink, or starts a commit where one is due, or ends where there is nothing left to do.
    fn move_on(&mut self, now: Now) -> Vec<Output> {
        match std::mem::replace(&mut self.place, Place::AtWork) {
            Place::Closed(_) if self.draining => self.exit(),
            Place::Closed(sink) => vec![Output::Work { ticket: TICKET, work: Box::new(Commit::Open(sink)) }],
            Place::Here(sink) if self.is_due(now) => {
                let batch = self.held.start_commit();
                let commit = Commit::Write { sink, batch, now_us: now.unix_us };
                vec![Output::Work { ticket: TICKET, work: Box::new(commit) }]
            }
            Place::Here(_) if self.draining => self.exit(),
            other => {
                self.place = other;
                Vec::new()
            }
        }
    }

    fn exit(&self) -> Vec<Output> {
        vec![Output::Exit { code: 0, message: self.line() }]
    }

    fn on_done(&mut self, done: Done, now: Now) -> Vec<Output> {
        match done {
            Done::Failed(message) => vec![Output::Exit { code: 1, message }],
            Done::Opened { sink, committed } => {
                self.place = Place::Here(sink);
                self.committed = committed;
                // Ends that came meanwhile may be committed already.
                let known = self.held.drop_waiting(|id| self.committed.contains(id));
                self.counts.repeated += known.len() as u64;
                let mut outputs: Vec<Output> = known.into_iter().map(Output::Ack).collect();
                outputs.extend(self.move_on(now));
                outputs
            }
            Done::Written { sink, batch, receipt } => {
                self.place = Place::Here(sink);
                let mut outputs = self.settle(batch, receipt);
                outputs.extend(self.move_on(now));
                outputs
            }
        }
    }

    /// Acks what is committed now, and rejects what could not be read.
    fn settle(&mut self, batch: Vec<Item>, receipt: Receipt) -> Vec<Output> {
        self.counts.ends += receipt.episodes;
        self.counts.commits += 1;
        self.counts.bytes += receipt.bytes;
        self.counts.seconds += receipt.seconds;
        let mut refused = receipt.refused;
        let mut outputs = Vec::with_capacity(batch.len());
        for (at, item) in batch.into_iter().enumerate() {
            let deliveries = self.held.release(item.id, item.payload.len());
            match refused.remove(&at) {
                None => {
                    self.committed.insert(item.id);
                    outputs.extend(deliveries.into_iter().map(Output::Ack));
                }
                Some(reason) => {
                    self.counts.refused += 1;
                    outputs.push(Output::Reject { subject: item.subject, reason, payload: item.payload });
                    outputs.extend(deliveries.into_iter().map(Output::Term));
                }
            }
        }
        outputs
    }

    fn line(&self) -> String {
        format!("{} ends in {} commits, {:.1} MiB", self.counts.ends, self.counts.commits, self.counts.bytes as f64 / (1 << 20) as f64)
    }
}

/// The episode that an end's subject names: `errand.<run>.ends.<split>.<number>`.
fn id_of(subject: &str) -> Option<EpisodeId> {
    let (rest, number) = subject.rsplit_once('.')?;
    let (_, split) = rest.rsplit_once('.')?;
    Some(EpisodeId { split: split.parse().ok()?, number: number.parse().ok()? })
}

impl Stage for Recorder {
    fn needs(&self) -> Needs {
        Needs { stage: NAME, ..Needs::default() }
    }

    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        let mut outputs = match input {
            Input::Message { subject, payload, delivery: Some(delivered), .. } => self.on_end(subject, payload, &delivered, now),
            Input::FetchEnded { missing, .. } => {
                self.asked = self.asked.saturating_sub(missing);
                Vec::new()
            }
            Input::Worked { result, .. } => match result.into_any().downcast::<Done>() {
                Ok(done) => self.on_done(*done, now),
                Err(_) => Vec::new(),
            },
            Input::Tick => self.held.overdue(now.mono_ms, self.touch_ms).into_iter().map(Output::Progress).collect(),
            Input::Drain => {
                self.draining = true;
                Vec::new()
            }
            _ => Vec::new(),
        };
        if outputs.iter().any(|output| matches!(output, Output::Exit { .. })) {
            return outputs;
        }
        outputs.extend(self.move_on(now));
        outputs.extend(self.ask());
        outputs
    }

    fn report(&self) -> Report {
        let room = (2 * self.commit_episodes).saturating_sub(self.held.len());
        let gauges = BTreeMap::from([
            ("ends_committed", self.counts.ends as f64),
            ("bytes_written", self.counts.bytes as f64),
            ("commit_seconds", self.counts.seconds),
            ("commits", self.counts.commits as f64),
            ("bytes_held", self.held.bytes() as f64),
            ("ends_repeated", self.counts.repeated as f64),
            ("ends_refused", self.counts.refused as f64),
        ]);
        let line = if self.counts.commits == 0 { String::new() } else { self.line() };
        Report { done: self.counts.ends, waiting: self.held.len() as u64, free: room as u64, versions: Vec::new(), gauges, line }
    }
}
