//! `replayer`: hands recorded trajectories to a learner, as if they had just been lived.
//!
//! In: `Grant`s, and the headers of ends where no scene-loader reads them. Does: reads a trajectory store, expert episodes as
//! far as the grant allows, and, in a run without steppers, the policy's groups. Out: `End`s, under numbers of their own,
//! dense from 0. A learner that has not granted more is not sent more, so that it sets the speed.
//!
//! On failure: a store that cannot be read, or whose tokens are of another tokenizer, chat template or image processor, ends
//! the stage with one line and code 1. A process that is started again begins at the first episode: what the stream
//! holds already it refuses, and what a learner and a recorder have had before they drop.

pub mod plan;
mod work;

#[cfg(test)]
mod tests;

use kit::stage::{Durable, Identity, Input, Needs, Now, Output, PublishError, Report, Stage, Ticket};
use plan::{Cursor, Plan, as_expert, as_member};
use schemas::pipeline::{OfflineConfig, Phase, Pipeline};
use schemas::subjects::{self, ENDS_LOADER, Stream};
use schemas::{End, EpisodeId, Grant, Mode, decode, encode};
use std::collections::{BTreeMap, VecDeque};
use work::{Digests, Source, Task};

/// The stage's kind.
pub const NAME: &str = "replayer";

/// Episodes that are read at once.
const CHUNK: usize = 64;
/// Publishes that are under way at once.
const IN_FLIGHT: usize = 64;
/// Pause before an end that was not stored is published again.
const RETRY_MS: u64 = 200;
/// Headers of ends that are asked for at once.
const FETCH: u32 = 256;
/// How often files that are not there yet are asked for again.
const FILES_RETRY_MS: u64 = 500;
const FILES: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

/// An end on its way to the stream.
struct Sending {
    id: EpisodeId,
    payload: Vec<u8>,
    retry_ms: Option<u64>,
}

/// What is wanted next of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Experts,
    Group,
}

/// The stage.
pub struct Replayer {
    run: String,
    pipeline: Pipeline,
    url: String,
    source_run: String,
    files: BTreeMap<&'static str, Vec<u8>>,
    files_retry_ms: Option<u64>,
    /// Not here while it is at work.
    source: Option<Box<Source>>,
    at_work: bool,
    wanted: Wanted,
    plan: Option<Plan>,
    grant: Option<Grant>,
    /// What was read last, and waits to be published.
    ready: VecDeque<End>,
    cursor: Cursor,
    sending: BTreeMap<Ticket, Sending>,
    tickets: u64,
    fetching: u32,
    published: BTreeMap<&'static str, u64>,
    draining: bool,
}

/// Where a pipeline's recorded trajectories lie: a path or URL, and the run in it. `folder`: of the run's own files.
pub fn source_of(config: &OfflineConfig, pipeline: &str, folder: &std::path::Path) -> (String, String) {
    let url = if config.url.is_empty() { folder.join("dataset").display().to_string() } else { config.url.clone() };
    (url, if config.run.is_empty() { pipeline.to_string() } else { config.run.clone() })
}

impl Replayer {
    pub fn new(identity: &Identity) -> Replayer {
        let config = identity.pipeline.offline.clone().unwrap_or_default();
        let (url, source_run) = source_of(&config, &identity.pipeline.name, &identity.folder);
        Replayer {
            run: identity.run.clone(),
            pipeline: identity.pipeline.clone(),
            url,
            source_run,
            files: BTreeMap::new(),
            files_retry_ms: None,
            source: None,
            at_work: false,
            wanted: Wanted::Experts,
            plan: None,
            grant: None,
            ready: VecDeque::new(),
            cursor: Cursor::default(),
            sending: BTreeMap::new(),
            tickets: 0,
            fetching: 0,
            published: BTreeMap::from([("published_train", 0), ("published_expert", 0)]),
            draining: false,
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn ask_files(&mut self, out: &mut Vec<Output>) {
        self.files_retry_ms = None;
        for name in FILES.into_iter().filter(|name| !self.files.contains_key(name)).collect::<Vec<_>>() {
            let ticket = self.ticket();
            out.push(Output::GetObject { ticket, name: name.into() });
        }
    }

    fn file_came(&mut self, name: &str, bytes: Option<Vec<u8>>, now: Now, out: &mut Vec<Output>) {
        let (Some(name), Some(bytes)) = (FILES.into_iter().find(|known| *known == name), bytes) else {
            self.files_retry_ms = Some(now.mono_ms + FILES_RETRY_MS);
            return;
        };
        self.files.insert(name, bytes);
        if self.files.len() < FILES.len() {
            return;
        }
        let file = |name: &str| self.files.get(name).map(Vec::as_slice).unwrap_or_default();
        match context::Tokenizer::from_files(file(FILES[0]), file(FILES[1])) {
            Ok(tokenizer) => {
                let digests =
                    Digests { tokenizer: tokenizer.digest(), template: tokenizer.template_digest(), image_processor: String::new() };
                let first = self.pipeline.schedule.first().map(|phase| phase.phase);
                let task = Task::Open {
                    url: self.url.clone(),
                    run: self.source_run.clone(),
                    config: self.pipeline.offline.clone().unwrap_or_default(),
                    mode: if first == Some(Phase::Format) { Mode::Format } else { Mode::Expert },
                    pipeline: Box::new(self.pipeline.clone()),
                    digests,
                };
                self.start(task, out);
            }
            Err(error) => out.push(Output::Exit { code: 1, message: error.to_string() }),
        }
    }

    fn start(&mut self, task: Task, out: &mut Vec<Output>) {
        self.at_work = true;
        let ticket = self.ticket();
        out.push(Output::Work { ticket, work: Box::new(task) });
    }

    fn worked(&mut self, task: Task, out: &mut Vec<Output>) {
        self.at_work = false;
        match task {
            Task::Opened { source, plan } => {
                if plan.experts.is_empty() && plan.groups.is_empty() {
                    let message = format!("run `{}` in `{}` holds nothing that this pipeline learns from", self.source_run, self.url);
                    return out.push(Output::Exit { code: 1, message });
                }
                (self.source, self.plan) = (Some(source), Some(plan));
            }
            Task::HaveRead { source, ends } => {
                self.source = Some(source);
                self.ready.extend(ends);
            }
            Task::Failed(message) => out.push(Output::Exit { code: 1, message }),
            Task::Open { .. } | Task::Read { .. } => {}
        }
    }

    /// Publishes what is ready, then has the next read, as far as the grant goes.
    fn go_on(&mut self, out: &mut Vec<Output>) {
        let Some(grant) = self.grant.clone().filter(|grant| !grant.finished && !self.draining) else { return };
        while self.sending.len() < IN_FLIGHT {
            let Some(end) = self.ready.pop_front() else { break };
            let end = match self.wanted {
                Wanted::Experts => {
                    self.cursor.expert += 1;
                    as_expert(end, self.cursor.expert - 1)
                }
                Wanted::Group => {
                    self.cursor.train += 1;
                    let last = self.ready.is_empty();
                    let end = as_member(end, self.cursor.group, self.cursor.train - 1, grant.version);
                    self.cursor.group += u64::from(last);
                    end
                }
            };
            self.send(&end, out);
        }
        if !self.ready.is_empty() || self.at_work {
            return;
        }
        let Some((wanted, ids)) = self.next(&grant) else { return };
        if let Some(source) = self.source.take() {
            self.wanted = wanted;
            self.start(Task::Read { source, ids }, out);
        }
    }

    /// The next episodes to read, of those that the grant allows.
    fn next(&self, grant: &Grant) -> Option<(Wanted, Vec<EpisodeId>)> {
        let plan = self.plan.as_ref()?;
        let left = grant.upto_expert.saturating_sub(self.cursor.expert);
        if left > 0 && !plan.experts.is_empty() {
            let first = (self.cursor.expert % plan.experts.len() as u64) as usize;
            let count = (left as usize).min(CHUNK).min(plan.experts.len() - first);
            return Some((Wanted::Experts, plan.experts[first..first + count].to_vec()));
        }
        let alone = self.pipeline.is_offline_only();
        if alone && self.cursor.group < grant.upto_group && !plan.groups.is_empty() {
            let group = &plan.groups[(self.cursor.group % plan.groups.len() as u64) as usize];
            return Some((Wanted::Group, group.clone()));
        }
        None
    }

    fn send(&mut self, end: &End, out: &mut Vec<Output>) {
        let ticket = self.ticket();
        let sending = Sending { id: end.id(), payload: encode(end), retry_ms: None };
        out.push(publish(&self.run, ticket, &sending));
        self.sending.insert(ticket, sending);
    }

    fn answered(&mut self, ticket: Ticket, result: Result<u64, PublishError>, now: Now) {
        let Some(sending) = self.sending.get_mut(&ticket) else { return };
        match result {
            Ok(_) | Err(PublishError::AlreadyThere) => {
                let gauge = if sending.id.split == schemas::Split::Train { "published_train" } else { "published_expert" };
                *self.published.entry(gauge).or_default() += 1;
                self.sending.remove(&ticket);
            }
            Err(_) => sending.retry_ms = Some(now.mono_ms + RETRY_MS),
        }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.files_retry_ms.is_some_and(|at| now.mono_ms >= at) {
            self.ask_files(out);
        }
        for (ticket, sending) in &mut self.sending {
            if sending.retry_ms.is_some_and(|at| now.mono_ms >= at) {
                sending.retry_ms = None;
                out.push(publish(&self.run, *ticket, sending));
            }
        }
        // Where no scene-loader reads the ends, someone must: the stream forgets an end when all its readers have acked it.
        if self.pipeline.is_offline_only() && !self.draining && self.fetching <= FETCH / 2 {
            let count = FETCH - self.fetching;
            self.fetching += count;
            out.push(Output::Fetch { durable: Durable { stream: Stream::Ends, name: ENDS_LOADER.into() }, count });
        }
    }
}

fn publish(run: &str, ticket: Ticket, sending: &Sending) -> Output {
    Output::PublishDurable {
        ticket,
        subject: subjects::ends(run, sending.id),
        headers: BTreeMap::new(),
        payload: sending.payload.clone(),
        expected_last_sequence: None,
    }
}

impl Stage for Replayer {
    fn needs(&self) -> Needs {
        Needs { stage: NAME, follow: vec![(Stream::Grants, kit::stage::Follow::Last)], ..Needs::default() }
    }

    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        let mut out = vec![];
        match input {
            Input::Started => self.ask_files(&mut out),
            Input::Object { name, bytes, .. } => self.file_came(&name, bytes, now, &mut out),
            Input::Worked { result, .. } => {
                if let Ok(task) = result.into_any().downcast::<Task>() {
                    self.worked(*task, &mut out);
                }
            }
            Input::Message { delivery: Some(delivered), .. } => {
                self.fetching = self.fetching.saturating_sub(1);
                out.push(Output::Ack(delivered.delivery));
            }
            Input::Message { subject, payload, .. } if subject == subjects::grants(&self.run) => match decode::<Grant>(&payload) {
                Ok(grant) if self.grant.as_ref().is_none_or(|known| grant.epoch >= known.epoch) => self.grant = Some(grant),
                Ok(_) => {}
                Err(error) => out.push(Output::Reject { subject, reason: error.to_string(), payload }),
            },
            Input::FetchEnded { missing, .. } => self.fetching = self.fetching.saturating_sub(missing),
            Input::Published { ticket, result } => self.answered(ticket, result, now),
            Input::Tick => self.tick(now, &mut out),
            Input::Drain => {
                self.draining = true;
                out.push(Output::Exit { code: 0, message: self.report().line });
            }
            _ => {}
        }
        if !out.iter().any(|output| matches!(output, Output::Exit { .. })) {
            self.go_on(&mut out);
        }
        out
    }

    fn report(&self) -> Report {
        let done = self.published.values().sum();
        let there = self.plan.as_ref().map_or(0, |plan| plan.experts.len() + plan.groups.iter().map(Vec::len).sum::<usize>());
        let gauges = self.published.iter().map(|(name, count)| (*name, *count as f64)).collect();
        let line = format!("{done} of a store of {there} trajectories handed on");
        Report { done, waiting: self.sending.len() as u64, free: 0, versions: vec![], gauges, line }
    }
}
