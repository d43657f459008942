//! `env-stepper`: steps the worlds.
//!
//! In: `Episode`s, `Completion`s, presence of generators, cancelled groups, whether the run is finished. Does: starts the
//! episode's world, tells and shows what the agent perceives, runs the actions of each reply, cuts segments, keeps every
//! limit. Out: `Observation`s, and one `End` an episode. Each rollout moves on its own; none waits for another.
//!
//! On failure: an episode that cannot be read is rejected; a world's error ends its episode as `env_error`; a rollout that
//! stands still past its deadline is dropped and delivered again; an episode that has killed two processes is run in a
//! child process ([`alone`]).

pub mod again;
pub mod alone;
pub mod rewards;

mod fetches;
mod finish;
mod generators;
mod intake;
mod pictures;
mod play;
mod rollout;
mod scenes;
mod segments;
mod setting;
mod words;

#[cfg(test)]
mod tests;

use alone::AloneDone;
use fetches::Fetches;
use finish::{Ending, HandBack};
use generators::Generators;
use kit::{Delivered, Delivery, Durable, Follow, Identity, Input, Needs, Now, Output, Report, Stage, Ticket};
pub use pictures::encode as encode_picture;
use rollout::Rollout;
use scenes::Scenes;
use schemas::subjects::{self, Stream};
use schemas::{Cancel, Episode, EpisodeId, Split, decode};
use setting::Setting;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use worlds::Kind;

/// The stage's kind, as in its presence.
pub const STAGE: &str = "env-stepper";

/// How a stepper is to work.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Rollouts side by side.
    pub slots: u32,
    /// The command that runs one episode alone, see [`alone`]; its first word is the program. Empty: suspects are run here.
    pub alone_command: Vec<String>,
    /// Run this one episode, and end: its bytes, and its try.
    pub alone: Option<alone::Order>,
}

/// Where an episode in hand stands.
enum Stand {
    /// Waits for a slot.
    Backlog,
    /// Waits for its compiled scene.
    Scene,
    Live(Box<Rollout>),
    /// Its end is on the way to the stream.
    Ending(Box<Ending>),
    /// Has killed two processes: waits for a child process, or is in one.
    Suspect,
    /// Is being handed back.
    Back(HandBack),
}

/// An episode in hand.
struct Held {
    episode: Arc<Episode>,
    /// `None` in a child process: the parent holds it.
    delivery: Option<Delivery>,
    attempt: u32,
    progress_ms: u64,
    stand: Stand,
}

/// What an awaited answer of the driver belongs to.
enum Awaited {
    End(EpisodeId),
    Back(EpisodeId),
    Scene(String),
    Alone(EpisodeId),
    Cancel(Cancel),
}

/// Sums since the start.
#[derive(Debug, Default)]
struct Counts {
    ended: u64,
    already_ended: u64,
    turns: u64,
    steps: u64,
    asked_again: u64,
    stale: u64,
    misfits: u64,
    dropped_rollouts: u64,
    by_reason: BTreeMap<&'static str, u64>,
    /// Success of the last episodes that the policy played, newest last.
    recent: VecDeque<bool>,
}

/// The stage.
pub struct Stepper {
    setting: Setting,
    options: Options,
    held: BTreeMap<EpisodeId, Held>,
    backlog: VecDeque<EpisodeId>,
    suspects: VecDeque<EpisodeId>,
    child: Option<EpisodeId>,
    child_process: alone::Process,
    fetches: Fetches,
    scenes: Scenes,
    /// Scenes asked for: how often, and when to ask again where there was none.
    scenes_wanted: BTreeMap<String, (u32, Option<u64>)>,
    awaited: BTreeMap<Ticket, Awaited>,
    next_ticket: u64,
    generators: Generators,
    renderers: BTreeSet<String>,
    cancelled: BTreeSet<(Split, u64)>,
    /// Cancellations of its own that the stream has not taken yet.
    cancels: Vec<Cancel>,
    grant_epoch: u64,
    finished: bool,
    draining: bool,
    counts: Counts,
}

impl Stepper {
    /// A stepper of `kind`'s worlds.
    pub fn new(identity: &Identity, kind: Arc<dyn Kind>, options: Options) -> Stepper {
        Stepper {
            setting: Setting::new(&identity.run, &identity.id, identity.pipeline.clone(), kind),
            options,
            held: BTreeMap::new(),
            backlog: VecDeque::new(),
            suspects: VecDeque::new(),
            child: None,
            child_process: alone::Process::default(),
            fetches: Fetches::new(),
            scenes: Scenes::default(),
            scenes_wanted: BTreeMap::new(),
            awaited: BTreeMap::new(),
            next_ticket: 0,
            generators: Generators::default(),
            renderers: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            cancels: vec![],
            grant_epoch: 0,
            finished: false,
            draining: false,
            counts: Counts::default(),
        }
    }

    fn ticket(&mut self, awaited: Awaited) -> Ticket {
        self.next_ticket += 1;
        self.awaited.insert(Ticket(self.next_ticket), awaited);
        Ticket(self.next_ticket)
    }

    fn durable(&self, split: Split) -> Durable {
        Durable { stream: Stream::Episodes, name: subjects::episodes_durable(&self.setting.pipeline.world.name, split) }
    }

    fn split_of(&self, durable: &Durable) -> Option<Split> {
        Split::ALL.into_iter().find(|split| self.durable(*split) == *durable)
    }

    /// A message: an episode with its delivery, or a completion, a cancelled group, a grant.
    fn message(&mut self, subject: String, payload: Vec<u8>, delivered: Option<Delivered>, now: Now, out: &mut Vec<Output>) {
        if let Some(delivered) = delivered {
            return self.episode_came(subject, payload, delivered, now, out);
        }
        let run = &self.setting.run;
        let handled = if subject == subjects::completions(run, &self.setting.stepper) {
            decode(&payload).map(|completion| self.completion(completion, now, out))
        } else if subject == subjects::cancel(run) {
            decode(&payload).map(|cancel| self.cancel(cancel, now, out))
        } else if subject == subjects::grants(run) {
            decode(&payload).map(|grant| self.grant(grant, now, out))
        } else {
            Ok(())
        };
        if let Err(error) = handled {
            out.push(Output::Reject { subject, reason: error.to_string(), payload });
        }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Output>) {
        self.keep_deliveries(now, out);
        self.tend_rollouts(now, out);
        self.tend_ends(now, out);
        self.tend_scenes(now, out);
        self.publish_cancels(out);
        if self.draining {
            self.hand_back(now, out);
        }
    }
}

impl Stage for Stepper {
    fn needs(&self) -> Needs {
        Needs {
            stage: STAGE,
            subscribe: vec![(subjects::completions(&self.setting.run, &self.setting.stepper), None)],
            follow: vec![(Stream::Cancel, Follow::All), (Stream::Grants, Follow::Last)],
            lease: false,
            presence: true,
        }
    }

    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        let mut out = vec![];
        match input {
            Input::Started => self.begin_alone(now, &mut out),
            Input::Message { subject, payload, delivery, .. } => self.message(subject, payload, delivery, now, &mut out),
            Input::Published { ticket, result } => match self.awaited.remove(&ticket) {
                Some(Awaited::End(id)) => self.end_published(id, result, now, &mut out),
                Some(Awaited::Back(id)) => self.back_published(id, result, now, &mut out),
                Some(Awaited::Cancel(cancel)) if result.is_err() => self.cancels.push(cancel),
                _ => {}
            },
            Input::FetchEnded { durable, missing } => {
                if let Some(split) = self.split_of(&durable) {
                    self.fetches.ended(split, missing, now.mono_ms);
                }
            }
            Input::Object { ticket, bytes, .. } => {
                if let Some(Awaited::Scene(digest)) = self.awaited.remove(&ticket) {
                    self.scene_came(digest, bytes, now, &mut out);
                }
            }
            Input::Worked { ticket, result } => {
                if let Some(Awaited::Alone(id)) = self.awaited.remove(&ticket)
                    && let Ok(done) = result.into_any().downcast::<AloneDone>()
                {
                    self.child_ended(id, *done, now, &mut out);
                }
            }
            Input::Presence(presence) => self.present(&presence, now, &mut out),
            Input::Gone { stage, id } => self.gone(&stage, &id, now, &mut out),
            Input::Tick => self.tick(now, &mut out),
            Input::Drain => self.drain(now, &mut out),
            Input::Idle | Input::ObjectPut { .. } | Input::State { .. } | Input::StatePut { .. } => {}
        }
        self.take_more(now, &mut out);
        out
    }

    fn report(&self) -> Report {
        let counts = &self.counts;
        let live = self.slots_taken();
        let mut gauges = BTreeMap::from([
            ("turns_total", counts.turns as f64),
            ("steps_total", counts.steps as f64),
            ("episodes_total", counts.ended as f64),
            ("already_ended_total", counts.already_ended as f64),
            ("asked_again_total", counts.asked_again as f64),
            ("stale_completions_total", counts.stale as f64),
            ("misfit_completions_total", counts.misfits as f64),
            ("dropped_rollouts_total", counts.dropped_rollouts as f64),
            ("backlog", self.backlog.len() as f64),
            ("rollouts", f64::from(live)),
        ]);
        let share = counts.recent.iter().filter(|s| **s).count() as f64 / counts.recent.len().max(1) as f64;
        if !counts.recent.is_empty() {
            gauges.insert("success_recent", share);
        }
        for reason in schemas::EndReason::ALL {
            gauges.insert(finish::reason_gauge(reason), counts.by_reason.get(reason.as_str()).copied().unwrap_or(0) as f64);
        }
        let mut line = format!("{live} of {} slots, {} turns", self.options.slots, counts.turns);
        if !counts.recent.is_empty() {
            line += &format!(", success {:.0} % of the last {}", 100.0 * share, counts.recent.len());
        }
        if self.generators.is_empty() && live > 0 {
            line += ", waits for a generator";
        }
        Report {
            done: counts.ended,
            waiting: self.held.len() as u64,
            free: u64::from(self.options.slots.saturating_sub(live)),
            versions: vec![],
            gauges,
            line,
        }
    }
}
