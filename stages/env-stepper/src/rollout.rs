//! One episode on its way: the live world, its segments, and the turn that is being asked for.
//!
//! In: a started world, replies. Out: observations, and at last the end. It knows no subject, delivery or generator.

use crate::segments::{self, NextTurn, TEMPLATE_SLACK};
use crate::setting::Setting;
use crate::{pictures, rewards, words};
use kit::Now;
use schemas::{Address, Completion, End, EndReason, Episode, Frame, Mode, Observation, Segment, SegmentHead, Turn, TurnSpan};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use worlds::{Acted, World};

/// What is to happen to a rollout next.
#[derive(Debug)]
pub(crate) enum Next {
    /// The turn in [`Rollout::asked`] is to be asked for.
    Ask,
    End(EndReason, String),
}

/// The turn that waits for its reply.
pub(crate) struct Asked {
    /// Holds the open segment while the turn is asked for.
    pub(crate) observation: Observation,
    pub(crate) state_key: String,
    /// When the turn began, Unix microseconds.
    began_us: u64,
    pub(crate) wait: Wait,
    /// Generators that refused this turn for now.
    pub(crate) refused: BTreeSet<String>,
}

/// What a turn waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// No generator is known.
    Generator,
    /// Asked; `heard_ms` is when the question or the last sign of life was.
    Answer { heard_ms: u64 },
    /// All refused: ask again then.
    Later { at_ms: u64 },
}

/// A live episode.
pub(crate) struct Rollout {
    pub(crate) episode: Arc<Episode>,
    pub(crate) attempt: u32,
    world: Box<dyn World>,
    started_us: u64,
    closed: Vec<Segment>,
    /// The open segment between two turns.
    open: Option<Segment>,
    segment_number: u32,
    /// Tokens that a segment of this episode starts with, memory line and carried turns aside; known after the first reply.
    head_tokens: u32,
    /// Tokens of all turns so far, copies aside.
    spent_tokens: u32,
    task_reward: f32,
    steps: u32,
    turns: Vec<Turn>,
    frames: BTreeMap<String, Frame>,
    frame_order: Vec<String>,
    pub(crate) asked: Option<Asked>,
    /// The generator that holds the prefix.
    pub(crate) generator: String,
    /// When the rollout last moved.
    pub(crate) moved_ms: u64,
}

impl Rollout {
    pub(crate) fn new(episode: Arc<Episode>, attempt: u32, world: Box<dyn World>, now: Now) -> Rollout {
        Rollout {
            episode,
            attempt,
            world,
            started_us: now.unix_us,
            closed: vec![],
            open: None,
            segment_number: 0,
            head_tokens: 0,
            spent_tokens: 0,
            task_reward: 0.0,
            steps: 0,
            turns: vec![],
            frames: BTreeMap::new(),
            frame_order: vec![],
            asked: None,
            generator: String::new(),
            moved_ms: now.mono_ms,
        }
    }

    /// Whether the policy answers, and not the expert.
    pub(crate) fn policy_speaks(&self) -> bool {
        matches!(self.episode.mode, Mode::Policy | Mode::Dagger)
    }

    /// Prepares the next turn, or ends the episode at one of its limits.
    pub(crate) fn next_turn(&mut self, setting: &Setting, now: Now) -> Next {
        let limits = &setting.pipeline.limits;
        let turn = self.turns.len() as u32;
        if self.steps >= limits.steps || turn >= limits.turns {
            return Next::End(EndReason::OutOfSteps, String::new());
        }
        let frames = match self.world.pictures().iter().map(pictures::encode).collect::<Result<Vec<Frame>, String>>() {
            Ok(frames) => frames,
            Err(error) => return Next::End(EndReason::EnvError, error),
        };
        let prompt = &setting.pipeline.prompt;
        let next = NextTurn { observation: prompt.observation_tokens, reply: limits.reply_tokens, images: frames.len() as u32 };
        let turn_tokens = next.observation.saturating_add(TEMPLATE_SLACK).saturating_add(self.spent_tokens);
        let left = limits.episode_tokens.saturating_sub(turn_tokens);
        if left == 0 {
            return Next::End(EndReason::LengthTotal, format!("limits.episode_tokens = {} are spent", limits.episode_tokens));
        }
        let (head, length) = self.place(setting, next);
        let room = segments::reply_room(length, next, prompt);
        if room == 0 {
            let note = format!("no reply fits: prompt.segment_tokens = {} are too few", prompt.segment_tokens);
            return Next::End(EndReason::LengthTotal, note);
        }
        let episode = Arc::clone(&self.episode);
        let expert_reply = match words::expert_reply(setting, episode.id, episode.mode, turn, self.world.as_mut()) {
            Ok(reply) => reply,
            Err(error) => return Next::End(EndReason::EnvError, error),
        };
        for frame in &frames {
            if self.frames.insert(frame.digest.clone(), frame.clone()).is_none() {
                self.frame_order.push(frame.digest.clone());
            }
        }
        let observation = Observation {
            at: Address { id: episode.id, turn, attempt: self.attempt, traceparent: episode.traceparent.clone() },
            group: episode.group,
            stepper: setting.stepper.clone(),
            generator: String::new(),
            policy: episode.policy,
            segment: self.open.take(),
            head,
            segment_number: self.segment_number,
            text: words::turn_text(setting, self.world.as_ref(), self.turns.last()),
            frames,
            expert_reply,
            expert_speaks: !self.policy_speaks(),
            sampling: setting.sampling(episode.id, turn, limits.reply_tokens.min(left).min(room)),
            sent_us: now.unix_us,
        };
        let state_key = format!("{:016x}", self.world.state_key());
        self.asked = Some(Asked { observation, state_key, began_us: now.unix_us, wait: Wait::Generator, refused: BTreeSet::new() });
        Next::Ask
    }

    /// Finds the turn's place: in the open segment, or in a new one, whose head is given back. Also says how many tokens
    /// stand before the turn.
    fn place(&mut self, setting: &Setting, next: NextTurn) -> (Option<SegmentHead>, u32) {
        let prompt = &setting.pipeline.prompt;
        let Some(open) = self.open.take() else {
            let head = words::head(setting, self.world.as_ref(), true);
            // Before the first reply the head's length in tokens is not known; text has rarely fewer than two bytes a token.
            let guess = (head.system.len() + head.instruction.len()) as u32 / 2;
            return (Some(head), guess.min(prompt.segment_tokens / 2));
        };
        if !segments::is_full(&open, next, prompt) {
            let length = open.len() as u32;
            self.open = Some(open);
            return (None, length);
        }
        let mut head = words::head(setting, self.world.as_ref(), false);
        let start = self.head_tokens + head.memory.len() as u32 / 2;
        let from = segments::carried_from(&open, start, next, prompt);
        let mut length = start;
        if from < open.turns.len() {
            let carried = context::carry(&open, from);
            length += carried.len() as u32;
            head.carried = Some(carried);
        }
        self.closed.push(open);
        self.segment_number += 1;
        if !setting.pipeline.brings_pictures(self.episode.id.split) {
            self.forget_frames(head.carried.as_ref());
        }
        (Some(head), length)
    }

    /// Drops the frames that no open segment shows.
    fn forget_frames(&mut self, carried: Option<&Segment>) {
        let shown: BTreeSet<&str> = carried.iter().flat_map(|s| &s.images).map(|i| i.digest.as_str()).collect();
        self.frames.retain(|digest, _| shown.contains(digest.as_str()));
        self.frame_order.retain(|digest| shown.contains(digest.as_str()));
    }

    /// The frames of these digests, as far as they are still held.
    pub(crate) fn frames(&self, digests: &[String]) -> Vec<Frame> {
        digests.iter().filter_map(|d| self.frames.get(d)).cloned().collect()
    }

    /// Whether a finished completion answers the turn that is asked for and goes on from what was asked.
    pub(crate) fn fits(&self, completion: &Completion) -> Result<(), String> {
        let asked = self.asked.as_ref().ok_or("no turn is asked for")?;
        let segment = completion.segment.as_ref().ok_or("it has no segment")?;
        let span = segment.turns.last().ok_or("its segment has no turn")?;
        if segment.number != asked.observation.segment_number || span.turn != asked.observation.at.turn {
            return Err(format!("it holds turn {} in segment {}", span.turn, segment.number));
        }
        let ordered = span.start <= span.reply && span.reply <= span.end && span.end <= span.close;
        if !ordered || span.close as usize > segment.len() {
            return Err("its turn lies outside its tokens".into());
        }
        let before = asked.observation.segment.as_ref();
        let before = before.or(asked.observation.head.as_ref().and_then(|h| h.carried.as_ref()));
        match (&asked.observation.segment, before) {
            (Some(open), _) if !segment.tokens.0.starts_with(&open.tokens.0) || !segment.turns.starts_with(&open.turns) => {
                Err("it rewrites what was there before".into())
            }
            (None, Some(carried)) if segment.turns.len() != carried.turns.len() + 1 => Err("it lost turns that were carried over".into()),
            _ => Ok(()),
        }
    }

    /// Takes the reply to the turn that was asked for: runs its actions and prepares what comes next.
    ///
    /// `completion` must fit, see [`Rollout::fits`].
    pub(crate) fn answer(&mut self, setting: &Setting, completion: Completion, now: Now) -> Next {
        let (Some(asked), Some(segment)) = (self.asked.take(), completion.segment) else {
            return Next::End(EndReason::EnvError, "a reply came to a turn that was not asked for".into());
        };
        let span = segment.turns.last().cloned();
        let span = span.expect("a completion that fits has the turn's span");
        let (length, most) = (span.end - span.reply, asked.observation.sampling.max_tokens);
        if !self.policy_speaks() && length > most {
            // The policy could never say it: an episode that is solved with it would promise what cannot be kept.
            let limit = setting.pipeline.limits.reply_tokens;
            let what = if most == limit { format!("limits.reply_tokens = {limit}") } else { format!("the {most} that are left") };
            self.asked = Some(asked);
            return Next::End(EndReason::LengthTotal, format!("the expert's reply of {length} tokens is over {what}"));
        }
        if segment.number == 0 && self.head_tokens == 0 {
            self.head_tokens = segment.turns.first().map_or(0, |t| t.start);
        }
        self.spent_tokens = self.spent_tokens.saturating_add(span.close - span.start);
        self.open = Some(segment);
        self.moved_ms = now.mono_ms;
        let parsed = context::format::parse(&setting.pipeline.prompt, &setting.actions, &completion.text);
        let mut turn = record(asked, &span, completion.text, completion.trail, now);
        turn.well_formed = parsed.well_formed;
        let run = self.run(setting, &parsed.actions, &mut turn);
        turn.dropped.extend(parsed.dropped);
        self.turns.push(turn);
        match run {
            Err(error) => Next::End(EndReason::EnvError, error),
            Ok(true) => Next::End(EndReason::Done, String::new()),
            Ok(false) => self.next_turn(setting, now),
        }
    }

    fn run(&mut self, setting: &Setting, actions: &[String], turn: &mut Turn) -> Result<bool, String> {
        run_actions(setting, self.world.as_mut(), actions, turn, &mut self.steps, &mut self.task_reward, &mut |_, _, _| {})
    }

    /// The one record of the episode.
    pub(crate) fn into_end(mut self, setting: &Setting, reason: EndReason, note: String, now: Now) -> End {
        let standing = self.world.standing();
        let open = self.open.take().or_else(|| self.asked.take().and_then(|a| a.observation.segment));
        self.closed.extend(open);
        let tally = rewards::Tally {
            task: self.task_reward,
            turns: self.turns.len() as u32,
            well_formed: self.turns.iter().filter(|t| t.well_formed).count() as u32,
            steps: self.steps,
        };
        let mut end = unplayed(setting, &self.episode, self.attempt, reason, note, now);
        // An episode that was not played to its end has no return: it must never pass for one of 0.
        if reason.is_played() {
            end.rewards = rewards::parts(&setting.pipeline, setting.pays_success, &standing, tally);
            end.success = standing.success;
            end.lenient = standing.lenient;
        }
        end.progress = standing.progress;
        end.milestones = standing.milestones;
        end.steps = self.steps;
        end.turns = self.turns;
        end.segments = self.closed;
        if setting.pipeline.brings_pictures(self.episode.id.split) {
            let mut frames = self.frames;
            end.frames = self.frame_order.iter().filter_map(|digest| frames.remove(digest)).collect();
        }
        end.started_us = self.started_us;
        end
    }

    /// Primitive actions run so far.
    pub(crate) fn steps(&self) -> u32 {
        self.steps
    }
}

/// Runs actions in order until one fails, ends the reply, or ends the episode; what follows is dropped. Says whether the
/// episode is over. `see` is shown each action after it was run.
pub(crate) fn run_actions(
    setting: &Setting,
    world: &mut dyn World,
    actions: &[String],
    turn: &mut Turn,
    steps: &mut u32,
    task_reward: &mut f32,
    see: &mut dyn FnMut(&str, &Acted, &dyn World),
) -> Result<bool, String> {
    let mut over = false;
    let mut rest = actions.iter();
    for action in rest.by_ref() {
        if *steps >= setting.pipeline.limits.steps {
            turn.dropped.push(action.clone());
            break;
        }
        let acted = world.act(action).map_err(|e| format!("`{action}`: {e}"))?;
        *steps += 1;
        *task_reward += acted.reward;
        turn.reward += acted.reward;
        turn.executed.push(action.clone());
        turn.worked.push(acted.worked);
        see(action, &acted, world);
        over = acted.over;
        let ends_reply = setting.actions.iter().any(|a| a.name == *action && a.ends_reply);
        if over || !acted.worked || ends_reply {
            break;
        }
    }
    turn.dropped.extend(rest.cloned());
    Ok(over)
}

/// The turn as it was lived, before its actions were run.
fn record(asked: Asked, span: &TurnSpan, reply: String, trail: Vec<(String, u64, u64)>, now: Now) -> Turn {
    let Observation { at, text, frames, sent_us, .. } = asked.observation;
    let mut whole = vec![("env-stepper".to_string(), asked.began_us, sent_us)];
    whole.extend(trail);
    whole.push(("env-stepper".to_string(), now.unix_us, now.unix_us));
    Turn {
        turn: at.turn,
        observation: text,
        reply,
        executed: vec![],
        worked: vec![],
        dropped: vec![],
        well_formed: false,
        reward: 0.0,
        state_key: asked.state_key,
        frames: frames.into_iter().map(|f| f.digest).collect(),
        cut: span.cut,
        version: span.versions.iter().map(|(version, _)| *version).max().unwrap_or(0),
        reply_tokens: span.end - span.reply,
        prompt_tokens: span.reply,
        trail: whole,
    }
}

/// The end of an episode of which nothing was lived.
pub(crate) fn unplayed(setting: &Setting, episode: &Episode, attempt: u32, reason: EndReason, note: String, now: Now) -> End {
    End {
        episode: episode.clone(),
        attempt,
        stepper: setting.stepper.clone(),
        reason,
        note,
        success: false,
        lenient: false,
        rewards: vec![],
        progress: 0.0,
        milestones: vec![],
        steps: 0,
        turns: vec![],
        segments: vec![],
        frames: vec![],
        started_us: now.unix_us,
        ended_us: now.unix_us,
    }
}
