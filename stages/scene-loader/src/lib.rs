//! The scene-loader: which episodes come next.
//!
//! In: `Grant`s, the headers of `End`s. Does: plans groups, expert episodes and validation passes below the grant; draws
//! training buckets by recent success; compiles scenes once. Out: `Episode`s and scenes. On failure: what is about to be
//! published is written down first, so that a restart publishes exactly the same; the first end of an episode stands, so that
//! a second copy changes nothing.

pub mod houses;
mod plan;
mod publish;
mod state;
#[cfg(test)]
mod tests;

use kit::stage::{Delivery, Durable, Follow, Identity, Input, Needs, Now, Output, Report, Stage, Ticket};
use publish::Publisher;
use schemas::pipeline::Pipeline;
use schemas::subjects::{self, Stream, end_headers};
use schemas::{Grant, Split};
use state::State;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use worlds::Kind;

/// The stage's kind, as in its presence.
pub const STAGE: &str = "scene-loader";
/// Headers of ends asked for at once.
const ENDS_AT_ONCE: u32 = 512;
/// Ends that were counted are acked with a state that holds them, written at least this often.
const STATE_EVERY_MS: u64 = 500;

/// Makes the pipeline's kind of world, with the houses that its files hold. Logs what was skipped.
///
/// # Errors
/// One line: settings that the world refuses, or files of which nothing is left.
pub fn kind(pipeline: &Pipeline) -> anyhow::Result<Arc<dyn Kind>> {
    let episodes = &pipeline.episodes;
    let mut houses = worlds::Houses { generated: episodes.generated_houses, ..worlds::Houses::default() };
    if !episodes.houses.is_empty() {
        let found = houses::read(Path::new(&episodes.houses))?;
        for line in &found.skipped {
            tracing::warn!(house = %line, "house skipped");
        }
        tracing::info!(houses = found.houses.len(), skipped = found.skipped.len(), "houses read");
        houses.train = found.houses;
    }
    if !episodes.validation_file.is_empty() {
        houses.validation = houses::episodes(Path::new(&episodes.validation_file))?;
    }
    let world = &pipeline.world;
    worlds::kind(&world.name, world.pictures, &world.settings, houses).map_err(anyhow::Error::msg)
}

/// Where the state stands between this process and the key-value bucket.
#[derive(Debug, PartialEq, Eq)]
enum Stored {
    /// Not read yet.
    Asked(Ticket),
    /// The bucket holds what this process holds, as far as what was published goes.
    Same,
    /// A write is under way; pending episodes are published after it.
    Writing(Ticket),
}

/// The stage.
pub struct Loader {
    run: String,
    epoch: u64,
    pipeline: Pipeline,
    kind: Arc<dyn Kind>,
    buckets: Vec<String>,
    state: State,
    stored: Stored,
    /// Counted, or known before: acked once the state that counts them is written.
    to_ack: Vec<Delivery>,
    acked_by_write: Vec<Delivery>,
    written_ms: u64,
    grant: Option<Grant>,
    publisher: Publisher,
    tickets: u64,
    ends_seen: u64,
    failed: Option<String>,
}

impl Loader {
    pub fn new(identity: &Identity, kind: Arc<dyn Kind>) -> Loader {
        Loader {
            run: identity.run.clone(),
            epoch: identity.epoch,
            pipeline: identity.pipeline.clone(),
            buckets: kind.buckets(),
            kind,
            state: State::default(),
            stored: Stored::Asked(Ticket(0)),
            to_ack: Vec::new(),
            acked_by_write: Vec::new(),
            written_ms: 0,
            grant: None,
            publisher: Publisher::default(),
            tickets: 0,
            ends_seen: 0,
            failed: None,
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn ends(&self) -> Durable {
        Durable { stream: Stream::Ends, name: subjects::ENDS_LOADER.into() }
    }

    fn started(&mut self) -> Vec<Output> {
        let ticket = self.ticket();
        self.stored = Stored::Asked(ticket);
        vec![Output::GetState { ticket }, Output::Fetch { durable: self.ends(), count: ENDS_AT_ONCE }]
    }

    fn state_came(&mut self, ticket: Ticket, bytes: Option<Vec<u8>>, out: &mut Vec<Output>) {
        if self.stored != Stored::Asked(ticket) {
            return;
        }
        match bytes.map(|b| serde_json::from_slice(&b)).transpose() {
            Ok(state) => self.state = state.unwrap_or_default(),
            Err(error) => return self.fail(format!("the state in the run's bucket cannot be read: {error}"), out),
        }
        self.stored = Stored::Same;
        // What an earlier process wrote down it may not have published.
        self.publish_pending(out);
    }

    fn fail(&mut self, message: String, out: &mut Vec<Output>) {
        self.failed = Some(message.clone());
        out.push(Output::Exit { code: 1, message });
    }

    /// Plans, and writes the plan down; what is planned is published when the write is confirmed.
    fn advance(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.stored != Stored::Same || self.publisher.is_busy() {
            return;
        }
        self.state.pending.clear();
        let planned = match &self.grant {
            Some(grant) => plan::plan(&mut self.state, grant, &self.pipeline, &self.buckets),
            None => false,
        };
        let counted = !self.to_ack.is_empty() && now.mono_ms >= self.written_ms + STATE_EVERY_MS;
        if !planned && !counted {
            return;
        }
        let ticket = self.ticket();
        self.stored = Stored::Writing(ticket);
        self.written_ms = now.mono_ms;
        self.acked_by_write = std::mem::take(&mut self.to_ack);
        let bytes = serde_json::to_vec(&self.state).expect("the state is plain data");
        out.push(Output::PutState { ticket, bytes });
    }

    fn state_put(&mut self, ticket: Ticket, result: Result<(), String>, out: &mut Vec<Output>) {
        if self.stored != Stored::Writing(ticket) {
            return;
        }
        if let Err(reason) = result {
            return self.fail(format!("the state cannot be written: {reason}; hint: another scene-loader may hold the lease"), out);
        }
        self.stored = Stored::Same;
        out.extend(self.acked_by_write.drain(..).map(Output::Ack));
        self.publish_pending(out);
    }

    fn publish_pending(&mut self, out: &mut Vec<Output>) {
        let pending = self.state.pending.clone();
        for planned in &pending {
            if let Err(message) = self.publisher.add(planned, self.kind.as_ref(), &self.pipeline, self.epoch) {
                return self.fail(message, out);
            }
        }
        self.publisher.work(&self.run, &mut self.tickets, out);
    }

    fn end_came(&mut self, headers: &BTreeMap<String, String>, subject: &str, delivery: Delivery) {
        self.ends_seen += 1;
        self.to_ack.push(delivery);
        let number = subject.rsplit('.').next().and_then(|n| n.parse::<u64>().ok());
        let is_train = subject.rsplit('.').nth(1) == Some(Split::Train.as_str());
        let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
        let (Some(number), Ok(group), true) = (number, header(end_headers::GROUP).parse::<u64>(), is_train) else { return };
        let played = matches!(header(end_headers::REASON), "done" | "out_of_steps" | "length_total");
        self.state.ended(group, number, header(end_headers::SUCCESS) == "true", played);
    }

    fn grant_came(&mut self, payload: &[u8], out: &mut Vec<Output>) {
        match schemas::decode::<Grant>(payload) {
            Ok(grant) if self.grant.as_ref().is_none_or(|held| grant.epoch >= held.epoch) => self.grant = Some(grant),
            Ok(_) => {}
            Err(error) => out.push(Output::Reject { subject: subjects::grants(&self.run), reason: error.to_string(), payload: payload.to_vec() }),
        }
    }
}

impl Stage for Loader {
    fn needs(&self) -> Needs {
        Needs { stage: STAGE, follow: vec![(Stream::Grants, Follow::Last)], lease: true, ..Needs::default() }
    }

    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        if self.failed.is_some() {
            return out;
        }
        match input {
            Input::Started => return self.started(),
            Input::State { ticket, bytes } => self.state_came(ticket, bytes, &mut out),
            Input::StatePut { ticket, result } => self.state_put(ticket, result, &mut out),
            Input::Message { subject, headers, delivery: Some(delivered), .. } => self.end_came(&headers, &subject, delivered.delivery),
            Input::Message { payload, delivery: None, .. } => self.grant_came(&payload, &mut out),
            Input::FetchEnded { durable, .. } => out.push(Output::Fetch { durable, count: ENDS_AT_ONCE }),
            Input::Published { ticket, result } => {
                if let Err(message) = self.publisher.published(ticket, result, now) {
                    self.fail(message, &mut out);
                }
            }
            Input::ObjectPut { ticket, result } => {
                if let Err(message) = self.publisher.scene_stored(ticket, result) {
                    self.fail(message, &mut out);
                }
            }
            Input::Drain => return vec![Output::Exit { code: 0, message: String::new() }],
            _ => {}
        }
        self.publisher.retry(now);
        self.publisher.work(&self.run, &mut self.tickets, &mut out);
        self.advance(now, &mut out);
        out
    }

    fn report(&self) -> Report {
        let state = &self.state;
        let mut gauges = BTreeMap::from([
            ("published_train", state.next_train as f64),
            ("published_val", state.next_val as f64),
            ("published_expert", state.next_expert as f64),
            ("groups_open", state.open.len() as f64),
            ("scenes_total", self.publisher.scenes() as f64),
        ]);
        let rates: Vec<f64> = state.buckets.values().filter_map(state::Bucket::success).collect();
        if !rates.is_empty() {
            gauges.insert("success_recent_mean", rates.iter().sum::<f64>() / rates.len() as f64);
        }
        let shown = state.buckets.iter().filter_map(|(name, b)| b.success().map(|s| format!("{name} {:.0} %", s * 100.0)));
        Report {
            done: state.next_train + state.next_val + state.next_expert,
            waiting: self.publisher.waiting() as u64,
            free: 0,
            versions: vec![],
            gauges,
            line: shown.collect::<Vec<_>>().join(", "),
        }
    }
}
