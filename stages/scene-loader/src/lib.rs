//! `scene-loader`: decides which episodes are run, and compiles their scenes.
//!
//! In: `Grant`s, headers of `End`s, houses. Does: orders validation passes, expert episodes and training groups as far as
//! they are granted, hardest where the policy learns most. Out: `Episode`s, and each compiled scene once, by content.
//!
//! On failure: state is written before anything is published and names what is about to be, so that its next process
//! publishes exactly that again. A full stream is waited for. Ends are acked once the state that counts them is written.

pub mod houses;
pub mod orders;

mod curriculum;
mod outbox;
mod plan;
mod state;

#[cfg(test)]
mod tests;

use kit::{Delivered, Delivery, Durable, Follow, Identity, Input, Needs, Now, Output, Report, Stage, Ticket};
use outbox::Outbox;
use plan::Rules;
use schemas::pipeline::Pipeline;
use schemas::subjects::{self, Stream, end_headers};
use schemas::{EndReason, EpisodeId, Grant, Split, decode};
use state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use worlds::Kind;

/// The stage's kind, as in its presence.
pub const STAGE: &str = "scene-loader";

/// Ends asked for at once.
const FETCH: u32 = 256;
/// Episodes planned and not yet published.
const AHEAD: usize = 512;
/// The longest that a counted end waits for the state to be written, and the pause after a write failed, milliseconds.
const WRITE_MS: u64 = 1000;
/// Failed writes of the state, one after the other, before the stage gives up.
const WRITE_TRIES: u32 = 10;
/// Pause between a fruitless fetch and the next, milliseconds.
const FETCH_PAUSE_MS: u64 = 100;

/// The kind of world of a pipeline, with its houses read from files.
///
/// # Errors
/// A line that names the setting or the file, and what is allowed.
pub fn kind(pipeline: &Pipeline) -> Result<Arc<dyn Kind>, String> {
    kind_and_houses(pipeline).map(|(kind, _)| kind)
}

/// As [`kind`]; also says which houses were left out.
///
/// # Errors
/// As [`kind`].
pub fn kind_and_houses(pipeline: &Pipeline) -> Result<(Arc<dyn Kind>, houses::Found), String> {
    let mut found = houses::read(&pipeline.episodes).map_err(|e| e.to_string())?;
    let world = &pipeline.world;
    let kind = worlds::kind(&world.name, world.pictures, &world.settings, std::mem::take(&mut found.houses))?;
    Ok((kind, found))
}

/// What an awaited answer of the driver belongs to.
enum Awaited {
    ReadState,
    /// The ends that the written state counts.
    WrittenState(Vec<Delivery>),
    Scene(String),
    Episode(EpisodeId),
}

/// How the state's writing stands.
#[derive(Default)]
struct Writing {
    in_flight: bool,
    /// The state differs from what was last sent to be written.
    dirty: bool,
    since_ms: u64,
    failed: u32,
    not_before_ms: u64,
}

/// The stage.
pub struct Loader {
    run: String,
    epoch: u64,
    kind: Arc<dyn Kind>,
    rules: Rules,
    /// `None` until it is read.
    state: Option<State>,
    grant: Option<Grant>,
    outbox: Outbox,
    awaited: BTreeMap<Ticket, Awaited>,
    next_ticket: u64,
    writing: Writing,
    /// Ends counted since the state was last sent to be written.
    counted: Vec<Delivery>,
    fetch_outstanding: u32,
    fetch_given: u32,
    fetch_not_before_ms: u64,
    scenes_put: BTreeSet<String>,
    houses_skipped: u64,
    bucket_gauges: Vec<(String, &'static str)>,
    draining: bool,
}

impl Loader {
    /// A loader of `kind`'s tasks. `houses_skipped`: houses that could not be used, for the report.
    pub fn new(identity: &Identity, kind: Arc<dyn Kind>, houses_skipped: u64) -> Loader {
        let buckets = kind.buckets();
        // Metric names live as long as the process; a world has a handful of buckets.
        let gauge = |bucket: &String| (bucket.clone(), &*Box::leak(gauge_name(bucket).into_boxed_str()));
        Loader {
            run: identity.run.clone(),
            epoch: identity.epoch,
            kind,
            bucket_gauges: buckets.iter().map(gauge).collect(),
            rules: Rules::new(&identity.pipeline, buckets),
            state: None,
            grant: None,
            outbox: Outbox::default(),
            awaited: BTreeMap::new(),
            next_ticket: 0,
            writing: Writing::default(),
            counted: vec![],
            fetch_outstanding: 0,
            fetch_given: 0,
            fetch_not_before_ms: 0,
            scenes_put: BTreeSet::new(),
            houses_skipped,
            draining: false,
        }
    }

    fn ticket(&mut self, awaited: Awaited) -> Ticket {
        self.next_ticket += 1;
        self.awaited.insert(Ticket(self.next_ticket), awaited);
        Ticket(self.next_ticket)
    }

    fn durable() -> Durable {
        Durable { stream: Stream::Ends, name: subjects::ENDS_LOADER.to_string() }
    }

    /// The state is there: what it names as pending is published again.
    fn state_read(&mut self, bytes: Option<Vec<u8>>, out: &mut Vec<Output>) {
        let state = match bytes.as_deref().map(State::decode) {
            None => State::new(),
            Some(Ok(state)) => state,
            Some(Err(error)) => {
                let message = format!("the state in the run's bucket: {error}; hint: was it written by another release?");
                return out.push(Output::Exit { code: 1, message });
            }
        };
        for order in &state.pending {
            match self.rules.episodes(self.kind.as_ref(), order) {
                Ok(planned) => self.outbox.add(order.clone(), planned, true),
                Err(error) => return out.push(Output::Exit { code: 1, message: error }),
            }
        }
        self.state = Some(state);
    }

    /// A slice of planning: one order.
    fn plan(&mut self, out: &mut Vec<Output>) {
        let (Some(state), Some(grant)) = (&mut self.state, &self.grant) else { return };
        if let Some(start) = grant.start.as_ref().filter(|_| *state == State::new()) {
            *state = State::starting(start, self.rules.known_to(start.group));
            self.writing.dirty = true;
        }
        let Some(order) = self.rules.next(state, grant, self.epoch) else { return };
        match self.rules.episodes(self.kind.as_ref(), &order) {
            Ok(planned) => {
                plan::book(state, &order);
                settle(&self.rules, state);
                self.outbox.add(order, planned, false);
                self.writing.dirty = true;
            }
            Err(error) => out.push(Output::Exit { code: 1, message: error }),
        }
    }

    /// An end, by its headers.
    fn end_came(&mut self, subject: &str, headers: &BTreeMap<String, String>, delivered: &Delivered) {
        self.fetch_outstanding = self.fetch_outstanding.saturating_sub(1);
        self.fetch_given += 1;
        self.counted.push(delivered.delivery);
        let Some(state) = &mut self.state else { return };
        let id = subject.rsplit_once(".ends.").and_then(|(_, id)| id.parse::<EpisodeId>().ok());
        let Some(id) = id.filter(|id| state.end_seen(id.split, id.number)) else { return };
        self.writing.dirty = true;
        if id.split != Split::Train {
            return;
        }
        let header = |name: &str| headers.get(name).map_or("", String::as_str);
        let group = header(end_headers::GROUP).parse().ok().and_then(|group: u64| state.open.get_mut(&group));
        if let Some(group) = group {
            let played = EndReason::ALL.iter().any(|r| r.is_played() && r.as_str() == header(end_headers::REASON));
            group.ended += 1;
            group.played += u32::from(played);
            group.won += u32::from(played && header(end_headers::SUCCESS) == "true");
            group.bucket = header(end_headers::BUCKET).to_string();
        }
        settle(&self.rules, state);
    }

    /// Writes the state where something waits for it: new orders at once, counted ends after a while.
    fn write_state(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(state) = &self.state else { return };
        let due = self.outbox.has_unsaved() || now.mono_ms >= self.writing.since_ms + WRITE_MS || self.draining;
        let waits = self.writing.dirty || !self.counted.is_empty();
        if self.writing.in_flight || !waits || !due || now.mono_ms < self.writing.not_before_ms {
            return;
        }
        let bytes = state.encode();
        let counted = std::mem::take(&mut self.counted);
        self.outbox.saving();
        self.writing.in_flight = true;
        self.writing.dirty = false;
        self.writing.since_ms = now.mono_ms;
        let ticket = self.ticket(Awaited::WrittenState(counted));
        out.push(Output::PutState { ticket, bytes });
    }

    fn state_written(&mut self, counted: Vec<Delivery>, result: Result<(), String>, now: Now, out: &mut Vec<Output>) {
        self.writing.in_flight = false;
        match result {
            Ok(()) => {
                self.writing.failed = 0;
                self.outbox.saved();
                out.extend(counted.into_iter().map(Output::Ack));
            }
            Err(error) => {
                self.writing.dirty = true;
                self.writing.failed += 1;
                self.writing.not_before_ms = now.mono_ms + WRITE_MS;
                self.outbox.not_saved();
                self.counted.extend(counted);
                if self.writing.failed >= WRITE_TRIES {
                    let message = format!("the state cannot be written: {error}; hint: is the lease held elsewhere, or the bucket full?");
                    out.push(Output::Exit { code: 1, message });
                }
            }
        }
    }

    /// Puts scenes and publishes episodes whose order is in the written state.
    fn publish(&mut self, now: Now, out: &mut Vec<Output>) {
        for (digest, bytes) in self.outbox.scenes_to_put(&self.scenes_put, now.mono_ms) {
            let name = format!("scene-{digest}");
            let ticket = self.ticket(Awaited::Scene(digest));
            out.push(Output::PutObject { ticket, name, bytes });
        }
        for (id, payload) in self.outbox.episodes_to_send(&self.scenes_put, now.mono_ms) {
            let ticket = self.ticket(Awaited::Episode(id));
            out.push(Output::PublishDurable {
                ticket,
                subject: subjects::episodes(&self.run, &self.rules.pipeline.world.name, id.split),
                headers: BTreeMap::from([("Nats-Msg-Id".to_string(), id.to_string())]),
                payload,
                expected_last_sequence: None,
            });
        }
    }

    fn episode_published(&mut self, id: EpisodeId, result: Result<u64, kit::PublishError>, now: Now) {
        if result.is_err() {
            return self.outbox.episode_failed(id, now.mono_ms);
        }
        if let Some(order) = self.outbox.episode_stored(id)
            && let Some(state) = &mut self.state
        {
            state.pending.retain(|pending| *pending != order);
            self.writing.dirty = true;
        }
    }

    fn fetch_ends(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.state.is_some() && !self.draining && self.fetch_outstanding == 0 && now.mono_ms >= self.fetch_not_before_ms {
            self.fetch_outstanding = FETCH;
            self.fetch_given = 0;
            out.push(Output::Fetch { durable: Loader::durable(), count: FETCH });
        }
    }

    fn take_grant(&mut self, payload: Vec<u8>, subject: String, out: &mut Vec<Output>) {
        match decode::<Grant>(&payload) {
            Ok(grant) if self.grant.as_ref().is_none_or(|known| grant.epoch >= known.epoch) => self.grant = Some(grant),
            Ok(_) => {}
            Err(error) => out.push(Output::Reject { subject, reason: error.to_string(), payload }),
        }
    }

    /// After a drain: leaves when the state holds all that was counted. What is not published yet is pending in it.
    fn leave_if_done(&mut self, out: &mut Vec<Output>) {
        let quiet = !self.writing.in_flight && !self.writing.dirty && self.counted.is_empty();
        if self.draining && (self.state.is_none() || quiet) {
            out.push(Output::Exit { code: 0, message: "state written".into() });
        }
    }
}

/// `short/1-room` becomes `success_short_1_room`.
fn gauge_name(bucket: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    format!("success_{}", bucket.chars().map(plain).collect::<String>())
}

/// Moves whole groups from the open ones into the curriculum: as they come, or in deterministic runs in number order and
/// only as far as the next group may know.
fn settle(rules: &Rules, state: &mut State) {
    if !rules.pipeline.deterministic {
        let whole: Vec<u64> = state.open.iter().filter(|(_, g)| g.ended >= g.size).map(|(group, _)| *group).collect();
        for group in whole {
            if let Some(open) = state.open.remove(&group) {
                state.curriculum.group_ended(&open.bucket, open.played, open.won);
            }
        }
        return;
    }
    let upto = rules.known_to(state.next_group);
    while state.settled < upto && state.open.get(&state.settled).is_some_and(|g| g.ended >= g.size) {
        if let Some(open) = state.open.remove(&state.settled) {
            state.curriculum.group_ended(&open.bucket, open.played, open.won);
        }
        state.settled += 1;
    }
}

impl Stage for Loader {
    fn needs(&self) -> Needs {
        Needs { stage: STAGE, subscribe: vec![], follow: vec![(Stream::Grants, Follow::Last)], lease: true, presence: false }
    }

    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        let mut out = vec![];
        match input {
            Input::Started => {
                let ticket = self.ticket(Awaited::ReadState);
                out.push(Output::GetState { ticket });
            }
            Input::State { ticket, bytes } => {
                if let Some(Awaited::ReadState) = self.awaited.remove(&ticket) {
                    self.state_read(bytes, &mut out);
                }
            }
            Input::StatePut { ticket, result } => {
                if let Some(Awaited::WrittenState(counted)) = self.awaited.remove(&ticket) {
                    self.state_written(counted, result, now, &mut out);
                }
            }
            Input::Message { subject, headers, delivery: Some(delivered), .. } => self.end_came(&subject, &headers, &delivered),
            Input::Message { subject, payload, delivery: None, .. } => self.take_grant(payload, subject, &mut out),
            Input::FetchEnded { missing, .. } => {
                self.fetch_outstanding = self.fetch_outstanding.saturating_sub(missing);
                if self.fetch_given == 0 {
                    self.fetch_not_before_ms = now.mono_ms + FETCH_PAUSE_MS;
                }
            }
            Input::Published { ticket, result } => {
                if let Some(Awaited::Episode(id)) = self.awaited.remove(&ticket) {
                    self.episode_published(id, result, now);
                }
            }
            Input::ObjectPut { ticket, result } => {
                if let Some(Awaited::Scene(digest)) = self.awaited.remove(&ticket) {
                    match result {
                        Ok(()) => {
                            self.outbox.scene_stored(&digest);
                            self.scenes_put.insert(digest);
                        }
                        Err(_) => self.outbox.scene_failed(digest, now.mono_ms),
                    }
                }
            }
            Input::Idle => self.plan(&mut out),
            Input::Drain => self.draining = true,
            Input::Tick | Input::Object { .. } | Input::Worked { .. } | Input::Presence(_) | Input::Gone { .. } => {}
        }
        if !self.draining {
            self.publish(now, &mut out);
        }
        self.write_state(now, &mut out);
        self.fetch_ends(now, &mut out);
        self.leave_if_done(&mut out);
        out
    }

    fn wants_idle(&self) -> bool {
        let (Some(state), Some(grant)) = (&self.state, &self.grant) else { return false };
        !self.draining && self.outbox.len() < AHEAD && self.rules.next(state, grant, self.epoch).is_some()
    }

    fn report(&self) -> Report {
        let empty = State::new();
        let state = self.state.as_ref().unwrap_or(&empty);
        let waiting = self.outbox.waiting_by_split();
        let published = |split: Split| (state.ordered(split) - waiting.get(&split).copied().unwrap_or(0).min(state.ordered(split))) as f64;
        let mut gauges = BTreeMap::from([
            ("published_train", published(Split::Train)),
            ("published_val", published(Split::Val)),
            ("published_expert", published(Split::Expert)),
            ("ended_train", state.ended(Split::Train) as f64),
            ("ended_val", state.ended(Split::Val) as f64),
            ("ended_expert", state.ended(Split::Expert) as f64),
            ("groups", state.next_group as f64),
            ("groups_open", state.open.len() as f64),
            ("passes", state.passes.len() as f64),
            ("scenes_put", self.scenes_put.len() as f64),
            ("houses_skipped", self.houses_skipped as f64),
        ]);
        for (bucket, name) in &self.bucket_gauges {
            if let Some(success) = state.curriculum.success(bucket) {
                gauges.insert(name, success);
            }
        }
        let outstanding: u64 = Split::ALL.iter().map(|split| state.outstanding(*split)).sum();
        let line = match &self.grant {
            None => "waits for a grant".to_string(),
            Some(_) => {
                format!("{} groups, {} expert, {} validation, {outstanding} under way", state.next_group, state.next_expert, state.next_val)
            }
        };
        let done = Split::ALL.iter().map(|split| state.ordered(*split)).sum::<u64>() - self.outbox.len() as u64;
        Report { done, waiting: outstanding, free: 0, versions: vec![], gauges, line }
    }
}
