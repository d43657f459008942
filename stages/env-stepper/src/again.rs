//! An episode lived again from its record: the same world, the same replies, and everything that came of them compared.
//!
//! In: an [`End`] and its compiled scene. Out: each place where the record and the world differ, and, to whoever looks on,
//! every turn's pictures and every primitive step. Nothing is tokenised and no policy is asked, so that a record is checked
//! at the world's own speed. Times, tokens and versions have nothing to be compared with and are left alone.

use crate::setting::Setting;
use crate::{pictures, rewards, rollout, words};
use schemas::pipeline::Pipeline;
use schemas::{End, EndReason, Episode, Frame, Turn};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use worlds::{Acted, Kind, Task, World};

/// One thing that is not as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `None`: of the episode as a whole.
    pub turn: Option<u32>,
    pub what: &'static str,
    pub recorded: String,
    pub again: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(turn) = self.turn {
            write!(f, "turn {turn}: ")?;
        }
        write!(f, "{} is {} in the record, {} when it is lived again", self.what, self.recorded, self.again)
    }
}

/// What an onlooker is shown.
pub enum Moment<'a> {
    /// A turn begins: its pictures, and the world before its actions.
    Turn { turn: &'a Turn, frames: &'a [Frame], world: &'a dyn World },
    /// A primitive action was run.
    Step { turn: u32, action: &'a str, acted: &'a Acted, world: &'a dyn World },
    /// The last action was run.
    Over { world: &'a dyn World },
}

/// Lives episodes of one pipeline again.
pub struct Again {
    setting: Setting,
}

/// What is told before the first turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// The rules and how a reply must look; empty where the pipeline says none.
    pub system: String,
    /// The task in words; empty where the rules say all.
    pub instruction: String,
}

/// How long an account of a long text may be.
const SHOWN: usize = 60;

fn shown(value: impl fmt::Debug) -> String {
    let text = format!("{value:?}");
    if text.chars().count() <= SHOWN { text } else { text.chars().take(SHOWN).chain("…".chars()).collect() }
}

/// Differences found so far.
#[derive(Default)]
struct Compared(Vec<Difference>);

impl Compared {
    fn same<T: PartialEq + fmt::Debug>(&mut self, turn: Option<u32>, what: &'static str, recorded: &T, again: &T) {
        if recorded != again {
            self.0.push(Difference { turn, what, recorded: shown(recorded), again: shown(again) });
        }
    }

    /// By bits: a NaN is equal to itself, 0 and -0 differ.
    fn same_number(&mut self, turn: Option<u32>, what: &'static str, recorded: f32, again: f32) {
        if recorded.to_bits() != again.to_bits() {
            self.0.push(Difference { turn, what, recorded: recorded.to_string(), again: again.to_string() });
        }
    }
}

impl Again {
    pub fn new(pipeline: Pipeline, kind: Arc<dyn Kind>) -> Again {
        Again { setting: Setting::new("", "", pipeline, kind) }
    }

    pub fn pipeline(&self) -> &Pipeline {
        &self.setting.pipeline
    }

    pub fn kind(&self) -> &Arc<dyn Kind> {
        &self.setting.kind
    }

    /// The compiled scene of an episode, made again; `None` where its world has none.
    ///
    /// # Errors
    /// A line that says what is missing, or that the scene is another than the one recorded.
    pub fn scene(&self, episode: &Episode) -> Result<Option<Vec<u8>>, String> {
        let Some(wanted) = &episode.scene else { return Ok(None) };
        let scene = self.setting.kind.scene(&task_of(episode)?)?;
        let bytes = scene.ok_or_else(|| format!("`{}` has no scenes, the record has `{}`", episode.world, wanted.origin))?.bytes;
        let digest = schemas::digest_of(&bytes);
        if digest == wanted.digest {
            return Ok(Some(bytes));
        }
        Err(format!(
            "house `{}` compiles to {:.12}, the record has {:.12}; hint: it needs the houses of its run",
            wanted.origin, digest, wanted.digest
        ))
    }

    fn start(&self, episode: &Episode, scene: Option<&[u8]>) -> Result<Box<dyn World>, String> {
        let world = &self.setting.pipeline.world.name;
        if episode.world != *world {
            return Err(format!("it is of world `{}`, the pipeline has `{world}`", episode.world));
        }
        self.setting.kind.start(&task_of(episode)?, scene)
    }

    /// What the agent is told before its first turn.
    ///
    /// # Errors
    /// A world that cannot be started.
    pub fn opening(&self, episode: &Episode, scene: Option<&[u8]>) -> Result<Opening, String> {
        let instruction = self.start(episode, scene)?.instruction();
        Ok(Opening { system: self.setting.system.clone(), instruction })
    }

    /// Lives the episode again and says what differs; nothing, where the record is true.
    ///
    /// # Errors
    /// A world that cannot be started, or a picture that cannot be encoded.
    pub fn live(&self, end: &End, scene: Option<&[u8]>, look: &mut dyn FnMut(Moment)) -> Result<Vec<Difference>, String> {
        let mut compared = Compared::default();
        for frame in &end.frames {
            compared.same(None, "a picture's digest", &frame.digest, &schemas::digest_of(&frame.png));
        }
        if end.turns.is_empty() && !end.reason.is_played() {
            return Ok(compared.0);
        }
        let mut world = self.start(&end.episode, scene)?;
        let mut played = Played::default();
        let mut before: Option<Turn> = None;
        for turn in &end.turns {
            if played.over {
                compared.same(None, "the number of turns", &(end.turns.len() as u32), &turn.turn);
                break;
            }
            before = Some(self.turn(turn, before.as_ref(), world.as_mut(), &mut played, look, &mut compared)?);
        }
        look(Moment::Over { world: world.as_ref() });
        self.compare_end(end, world.as_ref(), &played, &mut compared);
        Ok(compared.0)
    }

    fn turn(
        &self,
        turn: &Turn,
        before: Option<&Turn>,
        world: &mut dyn World,
        played: &mut Played,
        look: &mut dyn FnMut(Moment),
        compared: &mut Compared,
    ) -> Result<Turn, String> {
        let at = Some(turn.turn);
        let frames = world.pictures().iter().map(pictures::encode).collect::<Result<Vec<Frame>, String>>()?;
        let digests: Vec<String> = frames.iter().map(|frame| frame.digest.clone()).collect();
        compared.same(at, "the pictures' digests", &turn.frames, &digests);
        compared.same(at, "the observation", &turn.observation, &words::turn_text(&self.setting, world, before));
        compared.same(at, "the state", &turn.state_key, &format!("{:016x}", world.state_key()));
        look(Moment::Turn { turn, frames: &frames, world });
        let parsed = context::format::parse(&self.setting.pipeline.prompt, &self.setting.actions, &turn.reply);
        let mut again =
            Turn { executed: vec![], worked: vec![], dropped: vec![], reward: 0.0, well_formed: parsed.well_formed, ..turn.clone() };
        let number = turn.turn;
        let mut see = |action: &str, acted: &Acted, world: &dyn World| look(Moment::Step { turn: number, action, acted, world });
        played.over =
            rollout::run_actions(&self.setting, world, &parsed.actions, &mut again, &mut played.steps, &mut played.task, &mut see)?;
        again.dropped.extend(parsed.dropped);
        compared.same(at, "what was executed", &turn.executed, &again.executed);
        compared.same(at, "what worked", &turn.worked, &again.worked);
        compared.same(at, "what was dropped", &turn.dropped, &again.dropped);
        compared.same(at, "well_formed", &turn.well_formed, &again.well_formed);
        compared.same_number(at, "the reward", turn.reward, again.reward);
        played.turns += 1;
        played.well_formed += u32::from(again.well_formed);
        Ok(again)
    }

    fn compare_end(&self, end: &End, world: &dyn World, played: &Played, compared: &mut Compared) {
        compared.same(None, "the number of steps", &end.steps, &played.steps);
        let standing = world.standing();
        compared.same_number(None, "progress", end.progress, standing.progress);
        compared.same(None, "milestones", &end.milestones, &standing.milestones);
        let limits = &self.setting.pipeline.limits;
        let spent = played.steps >= limits.steps || played.turns >= limits.turns;
        let reason = match end.reason {
            _ if played.over => EndReason::Done,
            _ if spent => EndReason::OutOfSteps,
            // A token budget, a generator and a process are no part of the world: it only says that it was not over.
            EndReason::Done | EndReason::OutOfSteps => EndReason::LengthTotal,
            other => other,
        };
        compared.same(None, "the reason of the end", &end.reason.as_str(), &reason.as_str());
        let (mut success, mut lenient, mut parts) = (false, false, vec![]);
        if end.reason.is_played() {
            let tally = rewards::Tally { task: played.task, turns: played.turns, well_formed: played.well_formed, steps: played.steps };
            parts = rewards::parts(&self.setting.pipeline, self.setting.pays_success, &standing, tally);
            (success, lenient) = (standing.success, standing.lenient);
        }
        compared.same(None, "success", &end.success, &success);
        compared.same(None, "lenient success", &end.lenient, &lenient);
        let names = |parts: &[(String, f32)]| parts.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        compared.same(None, "the parts of the reward", &names(&end.rewards), &names(&parts));
        for ((_, recorded), (_, again)) in end.rewards.iter().zip(&parts) {
            compared.same_number(None, "a part of the reward", *recorded, *again);
        }
    }

    /// Every picture that the episode's turns show, each once, in the order in which they are first shown: what
    /// `record.pictures = "all"` keeps, whatever was kept.
    ///
    /// # Errors
    /// As [`Again::live`], or a turn that shows another picture than the one recorded.
    pub fn frames(&self, end: &End, scene: Option<&[u8]>) -> Result<Vec<Frame>, String> {
        let (mut seen, mut all) = (BTreeSet::new(), vec![]);
        let mut look = |moment: Moment| {
            if let Moment::Turn { frames, .. } = moment {
                all.extend(frames.iter().filter(|frame| seen.insert(frame.digest.clone())).cloned());
            }
        };
        let differences = self.live(end, scene, &mut look)?;
        match differences.first() {
            None => Ok(all),
            Some(first) => Err(format!("{}: {first}", end.id())),
        }
    }
}

/// What has been lived so far.
#[derive(Default)]
struct Played {
    steps: u32,
    task: f32,
    turns: u32,
    well_formed: u32,
    over: bool,
}

fn task_of(episode: &Episode) -> Result<Task, String> {
    let json = String::from_utf8(episode.task.clone()).map_err(|_| "its task is no text".to_string())?;
    Ok(Task { seed: episode.seed, json, bucket: episode.bucket.clone(), expert_length: episode.expert_length })
}
