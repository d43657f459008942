//! What the agent is told, and what the expert says.
//!
//! With a system prompt each turn tells what was run of the last reply, shows the state and says how to answer. Without
//! one (small policies trained from nothing) the world's own words stand alone.

use crate::setting::Setting;
use context::format::{self, ReplyParts};
use rand::{RngExt, SeedableRng};
use schemas::{EpisodeId, Mode, SegmentHead, Turn};
use worlds::World;

/// Said to a small policy whose last reply held no action at all.
const NOTHING_RUN: &str = "no action";

/// The text of a turn. `last`: the turn before it.
pub(crate) fn turn_text(setting: &Setting, world: &dyn World, last: Option<&Turn>) -> String {
    let seen = world.observe();
    if !setting.pipeline.prompt.system {
        return match last {
            Some(turn) if turn.executed.is_empty() => format!("{seen}\n{NOTHING_RUN}"),
            _ => seen,
        };
    }
    let before = match last {
        None => "You begin here:".to_string(),
        Some(turn) => format!("{}\nNow you are here:", account(setting, turn)),
    };
    format!("{before}\n{seen}\nWhat do you do next?\n{}", setting.reminder)
}

/// What came of a reply: executed, failed, dropped.
fn account(setting: &Setting, turn: &Turn) -> String {
    let unknown = unknown(setting, turn);
    if turn.executed.is_empty() {
        return format!("No action could be taken from your reply, nothing was run.{unknown}");
    }
    let mut account = format!("Of your reply was run: {}.", turn.executed.join(", "));
    if let (Some(action), Some(false)) = (turn.executed.last(), turn.worked.last()) {
        account += &format!(" It failed at {action}.");
    }
    if !turn.dropped.is_empty() {
        // Dropped pieces are the reply's own text, of any length and content: they are counted, not repeated.
        account += &format!(" Not run: {} more.", turn.dropped.len());
    }
    account + &unknown
}

/// The action that was meant by the first dropped piece that is none; empty where there is no such piece.
fn unknown(setting: &Setting, turn: &Turn) -> String {
    let strict = setting.pipeline.prompt.strict;
    let meant = turn.dropped.iter().find_map(|piece| format::nearest(&setting.actions, strict, piece));
    meant.map_or_else(String::new, |name| format!(" One name is no action; the nearest is {name}."))
}

/// What a new segment starts with, but for the turns carried over.
pub(crate) fn head(setting: &Setting, world: &dyn World, is_first: bool) -> SegmentHead {
    let memory_chars = setting.pipeline.prompt.memory_chars as usize;
    let memory = if is_first || memory_chars == 0 { String::new() } else { world.memory(memory_chars) };
    SegmentHead { system: setting.system.clone(), instruction: world.instruction(), memory, carried: None }
}

/// The expert's (or, in mode `Format`, a random) reply to this turn. `None`: the policy speaks alone.
///
/// # Errors
/// In mode `Expert`, that the expert has nothing to do from here.
pub(crate) fn expert_reply(
    setting: &Setting,
    id: EpisodeId,
    mode: Mode,
    turn: u32,
    world: &mut dyn World,
) -> Result<Option<String>, String> {
    let prompt = &setting.pipeline.prompt;
    let most = prompt.actions_per_turn.max(1) as usize;
    let plan = match mode {
        Mode::Policy => return Ok(None),
        Mode::Format => random_reply(setting, id, turn, most),
        Mode::Expert | Mode::Dagger => {
            let plan = world.expert(most);
            if plan.actions.is_empty() {
                return if mode == Mode::Dagger { Ok(None) } else { Err(format!("the expert has no action to offer at turn {turn}")) };
            }
            let worlds::Plan { actions, observation, reasoning, prediction } = plan;
            ReplyParts { actions, observation, reasoning, prediction }
        }
    };
    Ok(Some(format::write(prompt, &plan)))
}

/// One to `most` actions drawn evenly: teaches the form of a reply and nothing else.
fn random_reply(setting: &Setting, id: EpisodeId, turn: u32, most: usize) -> ReplyParts {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(setting.seed(id, turn));
    let count = rng.random_range(1..=most);
    let actions = (0..count).map(|_| setting.actions[rng.random_range(0..setting.actions.len())].name.clone()).collect();
    ReplyParts {
        actions,
        observation: "I am shown a state.".into(),
        reasoning: "I try some actions.".into(),
        prediction: "Another state follows.".into(),
    }
}
