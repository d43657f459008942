//! What a stepper can step.
//!
//! In: a seed, a task, a scene. Out: texts, pictures, rewards, an expert. Pure: no NATS, clock or files.

mod around;
mod blind;
pub mod delay;
pub mod fetch;
pub mod frozenlake;
mod grid;
mod kinds;
pub mod sensors;
mod sketch;
pub mod sokoban;

#[cfg(test)]
mod tests;

pub use around::{AroundKind, AroundWorld};
pub use blind::blind;
pub use kinds::{HouseFile, Houses, NAMES, kind};

use serde::{Deserialize, Serialize};

/// A primitive action of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionName {
    /// The canonical name, as `move_ahead`: what the expert writes, and one token of a policy trained from nothing.
    pub name: &'static str,
    /// Other spellings that the parser takes.
    pub aliases: &'static [&'static str],
    /// What follows it in a reply is dropped (pickup, dropoff, sub_done, done).
    pub ends_reply: bool,
}

/// A picture from a camera of the world, not yet encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub camera: &'static str,
    pub width: u32,
    pub height: u32,
    /// RGB, row by row from the top, `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

/// What one primitive action did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Acted {
    /// The action worked (moved, turned, grasped). What follows a failed one in a reply is dropped.
    pub worked: bool,
    /// Task reward of this action.
    pub reward: f32,
    /// The episode is over.
    pub over: bool,
}

/// What the expert would do now, with true observations and predictions for the prompt formats that ask for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The next actions, canonical names, at most as many as asked for; empty only where the episode is over or has no solution.
    pub actions: Vec<String>,
    /// A true sentence on what is seen.
    pub observation: String,
    /// A short reason.
    pub reasoning: String,
    /// A true sentence on what will be seen after the actions.
    pub prediction: String,
}

/// How an episode stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The strict rule.
    pub success: bool,
    /// The lenient rule; equals `success` where there is only one.
    pub lenient: bool,
    /// From 0 to 1; 1 is strict success.
    pub progress: f32,
    /// Names of the milestones reached so far, in order.
    pub milestones: Vec<String>,
}

/// A live world of one episode.
pub trait World: Send {
    /// What the agent is shown and told now. `<image>` stands once for each picture, in the order of [`World::pictures`].
    fn observe(&self) -> String;
    /// What the agent is told with its eyes shut: its own body at most, and one `<image>` for each picture.
    fn observe_blind(&self) -> String {
        "<image>".repeat(self.pictures().len())
    }
    /// The pictures of now; empty in text pipelines.
    fn pictures(&self) -> Vec<Picture>;
    /// The task in words; empty where the rules say all.
    fn instruction(&self) -> String;
    /// Runs one primitive action, given by canonical name.
    ///
    /// # Errors
    /// A line for people; the episode then ends as `env_error`.
    fn act(&mut self, action: &str) -> Result<Acted, String>;
    /// What the expert would do from here, at most `actions` actions. Callable from any state.
    fn expert(&mut self, actions: usize) -> Plan;
    fn standing(&self) -> Standing;
    /// What the robot knows of itself, by name, in metres and degrees; empty in worlds without a body.
    fn body(&self) -> Vec<(&'static str, f32)> {
        Vec::new()
    }
    /// What the robot's sensors hold; `None` in worlds without a body.
    fn sensors(&self) -> Option<sensors::Sensors> {
        None
    }
    /// The first action of an expert that knows nothing of what was done; `None` where it has none, or the world no body.
    fn advice(&self) -> Option<String> {
        None
    }
    /// A hash of the whole state; equal states have equal keys.
    fn state_key(&self) -> u64;
    /// A short account of what was done, for the memory line: only what the agent did and was told.
    fn memory(&self, max_chars: usize) -> String;
}

/// A task that an episode file or a sampler gives: world seed, bucket, expert length and the world's own JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub seed: u64,
    /// The world's own description, JSON; empty where the seed says all.
    pub json: String,
    /// The curriculum's bucket.
    pub bucket: String,
    /// Primitive actions the expert needs.
    pub expert_length: u32,
}

/// A kind of world with its settings: what the scene-loader, the stepper, the renderer and `errand` ask.
pub trait Kind: Send + Sync {
    fn name(&self) -> &'static str;
    fn actions(&self) -> &[ActionName];
    /// The rules in words, for a system prompt.
    fn rules(&self) -> String;
    /// The least task reward of a success and the greatest of a failure, over all episodes of at most `steps` actions. What an
    /// episode pays to a success and to a failure alike may be left out. Both 0: the pipeline says what a success is worth.
    fn reward_bounds(&self, steps: u32) -> RewardBounds;
    /// The training task of a seed. The same seed gives the same task, on any machine.
    fn sample(&self, seed: u64, bucket: Option<&str>) -> Result<Task, String>;
    /// The held-out task of this number, from a list that shares no level with training.
    fn held_out(&self, number: u64) -> Result<Task, String>;
    /// The buckets that [`Kind::sample`] can be asked for, easiest first.
    fn buckets(&self) -> Vec<String>;
    /// The compiled scene that a task is played in; `None` for worlds whose seed says all.
    fn scene(&self, task: &Task) -> Result<Option<Scene>, String>;
    /// A live world. `scene`: the compiled scene's bytes, where the task names one.
    fn start(&self, task: &Task, scene: Option<&[u8]>) -> Result<Box<dyn World>, String>;
    /// Observation texts of many states, to train a small tokenizer on.
    fn corpus(&self, lines: usize) -> Vec<String>;
}

/// A compiled scene: what a stepper needs of a house, and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// For people: `train.jsonl.gz:17`, `generated:93`.
    pub origin: String,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RewardBounds {
    pub worst_success: f32,
    pub best_failure: f32,
}
