//! The prompt-renderer: puts a turn's observation into token ids.
//!
//! In: [`Observation`]s, in a queue group with the other renderers. Does: opens a segment where the observation asks for
//! one, adds the turn's text and pictures, and the expert's reply as a reply or as a label. Out: a [`Prompt`] to the
//! generator that holds the prefix, or, where the expert speaks, a finished [`Completion`] to the stepper. On failure: what
//! cannot be rendered is rejected whole, and the stepper gets a `Failed` completion with the reason.
//!
//! It holds nothing between two observations. The tokenizer comes from the run's artifacts; what arrives before it is
//! there waits in a bounded queue, and what does not fit is dropped: the stepper asks again.

use context::{Context, ImageSettings, Reply};
use kit::stage::{Identity, Input, Needs, Now, Output, Report, Stage, Ticket};
use schemas::{Completion, Observation, Prompt, Source, Status, decode, encode, subjects};
use std::collections::{BTreeMap, VecDeque};

/// The stage's kind: its queue group, and its name in trails and presences.
pub const NAME: &str = "prompt-renderer";
/// Who a completion says that it is from, where the expert speaks.
pub const EXPERT: &str = "expert";

/// Observations that wait for the tokenizer, at most, and their bytes.
const WAITING_MAX: usize = 4096;
const WAITING_BYTES_MAX: usize = 64 << 20;
/// The artifacts are asked for again after this long.
const ASK_AGAIN_MS: u64 = 1000;

/// The run's artifacts that it needs, in the order of their tickets. The last may be missing.
const ARTIFACTS: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"];

/// See the module's text.
pub struct Renderer {
    identity: Identity,
    /// There once the artifacts are.
    context: Option<Context>,
    /// The artifacts that have come, until all have.
    files: [Option<Vec<u8>>; 3],
    /// Answers still to come, and when the last question was asked.
    pending: usize,
    asked_ms: u64,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    counts: Counts,
}

/// An observation that came before the tokenizer.
struct Waiting {
    subject: String,
    payload: Vec<u8>,
    arrived_us: u64,
}

#[derive(Debug, Default)]
struct Counts {
    done: u64,
    rejected: u64,
    dropped: u64,
    tokens: u64,
    images: u64,
}

/// What an observation is answered with.
enum Answer {
    Prompt(Box<Prompt>),
    Completion(Box<Completion>),
}

impl Renderer {
    pub fn new(identity: Identity) -> Renderer {
        Renderer {
            identity,
            context: None,
            files: [None, None, None],
            pending: 0,
            asked_ms: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            counts: Counts::default(),
        }
    }

    fn ask(&mut self, now: Now) -> Vec<Output> {
        self.pending = ARTIFACTS.len();
        self.asked_ms = now.mono_ms;
        let get = |(ticket, name): (usize, &&str)| Output::GetObject { ticket: Ticket(ticket as u64), name: name.to_string() };
        ARTIFACTS.iter().enumerate().map(get).collect()
    }

    /// Takes one of the artifacts in. When all are there the tokenizer is loaded and what waited is rendered.
    fn object(&mut self, ticket: Ticket, bytes: Option<Vec<u8>>, now: Now) -> Vec<Output> {
        let Some(file) = self.files.get_mut(ticket.0 as usize) else { return vec![] };
        if self.context.is_some() || self.pending == 0 {
            return vec![];
        }
        *file = bytes;
        self.pending -= 1;
        if self.pending > 0 {
            return vec![];
        }
        let [Some(tokenizer), Some(config), processor] = std::mem::take(&mut self.files) else { return vec![] };
        let images = processor.map_or_else(|| Ok(ImageSettings::default()), |json| ImageSettings::from_json(&json));
        match images.and_then(|images| Context::from_files(&tokenizer, &config, images)) {
            Ok(context) => self.context = Some(context),
            Err(error) => return vec![Output::Exit { code: 1, message: format!("artifacts of run {}: {error}", self.identity.run) }],
        }
        self.waiting_bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().flat_map(|w| self.answer(w.subject, w.payload, w.arrived_us, now)).collect()
    }

    fn message(&mut self, subject: String, payload: Vec<u8>, now: Now) -> Vec<Output> {
        if self.context.is_some() {
            return self.answer(subject, payload, now.unix_us, now);
        }
        if self.waiting.len() >= WAITING_MAX || self.waiting_bytes + payload.len() > WAITING_BYTES_MAX {
            self.counts.dropped += 1;
            return vec![];
        }
        self.waiting_bytes += payload.len();
        self.waiting.push_back(Waiting { subject, payload, arrived_us: now.unix_us });
        vec![]
    }

    fn answer(&mut self, subject: String, payload: Vec<u8>, arrived_us: u64, now: Now) -> Vec<Output> {
        let Some(context) = &self.context else { return vec![] };
        let observation: Observation = match decode(&payload) {
            Ok(observation) => observation,
            Err(error) => {
                self.counts.rejected += 1;
                return vec![Output::Reject { subject, reason: error.to_string(), payload }];
            }
        };
        let run = &self.identity.run;
        let trail = vec![(NAME.to_string(), arrived_us, now.unix_us)];
        let completions = subjects::completions(run, &observation.stepper);
        let (at, generator) = (observation.at.clone(), observation.generator.clone());
        match render(context, &self.identity.pipeline.prompt, observation, trail.clone()) {
            Ok(answer) => {
                let (subject, payload, segment) = match &answer {
                    Answer::Prompt(prompt) => (subjects::prompts(run, &generator), encode(&**prompt), Some(&prompt.segment)),
                    Answer::Completion(done) => (completions, encode(&**done), done.segment.as_ref()),
                };
                self.counts.done += 1;
                if let Some(segment) = segment {
                    self.counts.tokens += u64::from(segment.prompt_end - segment.turn_start);
                    self.counts.images += segment.images.iter().filter(|i| i.offset >= segment.turn_start).count() as u64;
                }
                vec![Output::Publish { subject, payload }]
            }
            Err(reason) => {
                self.counts.rejected += 1;
                let status = Status::Failed(reason.clone());
                let failed = Completion { at, generator: NAME.into(), status, segment: None, text: String::new(), trail };
                vec![Output::Reject { subject, reason, payload }, Output::Publish { subject: completions, payload: encode(&failed) }]
            }
        }
    }
}

/// Renders one observation.
///
/// # Errors
/// Why it cannot be: no segment and no head, pictures that do not fit their text, or a turn over `observation_tokens`.
fn render(
    context: &Context,
    settings: &schemas::pipeline::PromptConfig,
    observation: Observation,
    trail: Vec<(String, u64, u64)>,
) -> Result<Answer, String> {
    let Observation { at, group, stepper, generator, policy, segment, head, segment_number, text, frames, .. } = observation;
    let mut segment = match (segment, head) {
        (Some(segment), _) => segment,
        (None, Some(head)) => context.open(&head, segment_number).map_err(|e| e.to_string())?,
        (None, None) => return Err("an observation without a segment has no head to open one with".into()),
    };
    let own = own_frames(&segment, &text, &frames);
    context.push_turn(&mut segment, &text, &frames[..own]).map_err(|e| e.to_string())?;
    let tokens = segment.prompt_end - segment.turn_start;
    if tokens > settings.observation_tokens {
        let allowed = settings.observation_tokens;
        return Err(format!("turn {} of {} takes {tokens} tokens; prompt.observation_tokens allows {allowed}", at.turn, at.id));
    }
    let reply = observation.expert_reply;
    if observation.expert_speaks {
        let text = reply.ok_or("the expert is to speak, but has no reply")?;
        return speak(context, at, segment, text, observation.sampling.max_tokens as usize, trail).map(|c| Answer::Completion(Box::new(c)));
    }
    if let Some(label) = reply {
        context.push_label(&mut segment, at.turn, context.reply_ids(&label));
    }
    if generator.is_empty() {
        return Err("the policy is to reply, but no generator is named".into());
    }
    let stop_ids = context.tokenizer.stop_ids();
    let sampling = observation.sampling;
    Ok(Answer::Prompt(Box::new(Prompt { at, group, stepper, policy, segment, frames, stop_ids, sampling, trail })))
}

/// How many of the frames are this turn's. A generator that had forgotten earlier ones is sent them again, after these.
fn own_frames(segment: &schemas::Segment, text: &str, frames: &[schemas::Frame]) -> usize {
    let own = text.matches(context::segment::IMAGE).count().min(frames.len());
    let earlier = |frame: &schemas::Frame| segment.images.iter().any(|image| image.digest == frame.digest);
    if frames[own..].iter().all(earlier) { own } else { frames.len() }
}

/// The expert's reply, as if it had been sampled. It meets the limit that a policy's reply meets.
fn speak(
    context: &Context,
    at: schemas::Address,
    mut segment: schemas::Segment,
    mut text: String,
    limit: usize,
    trail: Vec<(String, u64, u64)>,
) -> Result<Completion, String> {
    let mut ids = context.reply_ids(&text);
    let cut = ids.len() > limit;
    if cut {
        ids.truncate(limit);
        text = context.tokenizer.decode(&ids);
    }
    let reply = Reply { turn: at.turn, ids, logprobs: vec![], versions: vec![], source: Source::Expert, cut, trainable: true };
    context.push_reply(&mut segment, reply).map_err(|e| e.to_string())?;
    Ok(Completion { at, generator: EXPERT.into(), status: Status::Done, segment: Some(segment), text, trail })
}

impl Stage for Renderer {
    fn needs(&self) -> Needs {
        let observations = subjects::observations(&self.identity.run);
        Needs { stage: NAME, subscribe: vec![(observations, Some(NAME.to_string()))], ..Needs::default() }
    }

    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        match input {
            Input::Started => self.ask(now),
            Input::Object { ticket, bytes, .. } => self.object(ticket, bytes, now),
            Input::Message { subject, payload, .. } => self.message(subject, payload, now),
            Input::Tick if self.context.is_none() && self.pending == 0 && now.mono_ms >= self.asked_ms + ASK_AGAIN_MS => self.ask(now),
            Input::Drain => vec![Output::Exit { code: 0, message: format!("{} observations rendered", self.counts.done) }],
            _ => vec![],
        }
    }

    fn report(&self) -> Report {
        let line = if self.context.is_none() { format!("waiting for {} in the run's artifacts", ARTIFACTS[0]) } else { String::new() };
        Report {
            done: self.counts.done,
            waiting: self.waiting.len() as u64,
            free: (WAITING_MAX - self.waiting.len()) as u64,
            versions: vec![],
            gauges: BTreeMap::from([
                ("rejected_total", self.counts.rejected as f64),
                ("dropped_total", self.counts.dropped as f64),
                ("observation_tokens_total", self.counts.tokens as f64),
                ("images_total", self.counts.images as f64),
            ]),
            line,
        }
    }
}

#[cfg(test)]
mod tests;
