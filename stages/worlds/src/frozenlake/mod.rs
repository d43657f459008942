//! FrozenLake: walk over ice to the goal, and into no hole.
//!
//! In: a seed. Out: a level, and a live [`World`] on it. Rewards, symbols and texts are VAGEN's; the map follows the seed, and the
//! rules say that the ice is slippery only where it is.

mod level;
mod play;

use crate::grid::{self, Dice, Direction, Last, Set, Sign, View};
use crate::kinds;
use crate::sketch::{self, Tiles};
use crate::{ActionName, Kind, RewardBounds, Scene, Task, World};
use level::Level;
use play::Walk;
use serde::Deserialize;
use std::sync::Arc;

/// Largest side of the lake in cells.
const LARGEST: usize = 10;
/// Draws after which a seed is given up; a level that fits comes within a few dozen.
const DRAWS: usize = 20_000;
/// Task reward of reaching the goal: the environment's 1 and VAGEN's bonus of 9.
const GOAL_REWARD: f32 = 10.0;

const ACTIONS: [ActionName; 4] = [action("Left"), action("Down"), action("Right"), action("Up")];

const fn action(name: &'static str) -> ActionName {
    ActionName { name, aliases: &[], ends_reply: false }
}

/// `[world.settings]` of FrozenLake.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Cells a side, 2 to 10.
    pub size: usize,
    /// The chance that a cell is frozen and not a hole, 0.5 to 1.
    pub frozen_probability: f64,
    /// A move goes as asked one time in three, else to one of its sides.
    pub slippery: bool,
    /// How the lake is put into words.
    pub view: View,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { size: 4, frozen_probability: 0.8, slippery: false, view: View::Grid }
    }
}

/// The kind `frozenlake`.
pub struct Lake {
    settings: Settings,
    /// Drawn once; `None` in text pipelines.
    tiles: Option<Arc<Tiles>>,
}

impl Lake {
    /// # Errors
    /// A line that names the setting and what is allowed.
    pub fn new(pictures: bool, table: &toml::Table) -> Result<Lake, String> {
        let settings: Settings = kinds::settings("frozenlake", table)?;
        kinds::within("size", settings.size, 2, LARGEST)?;
        kinds::within("frozen_probability", settings.frozen_probability, 0.5, 1.0)?;
        Ok(Lake { settings, tiles: pictures.then(|| Arc::new(sketch::lake_tiles())) })
    }

    fn draw(&self, mut dice: Dice, set: Set, low: usize, high: usize) -> Result<Level, String> {
        for _ in 0..DRAWS {
            let level = Level::draw(&mut dice, self.settings.size, self.settings.frozen_probability);
            if level.length().is_some_and(|length| (low..=high).contains(&length)) && level.set() == set {
                return Ok(level);
            }
        }
        Err(format!(
            "frozenlake: no level of {low} or more moves in {DRAWS} draws of size {}; hint: take another bucket or a larger size",
            self.settings.size
        ))
    }

    /// Whether shortest ways of seven and more moves come up often enough to be asked for.
    fn has_long(&self) -> bool {
        self.settings.size >= 4
    }
}

fn task(level: &Level, seed: u64) -> Task {
    let length = level.length().unwrap_or(0);
    Task { seed, json: level.json(), bucket: grid::bucket(length).into(), expert_length: length as u32 }
}

impl Kind for Lake {
    fn name(&self) -> &'static str {
        "frozenlake"
    }

    fn actions(&self) -> &[ActionName] {
        &ACTIONS
    }

    fn rules(&self) -> String {
        let size = self.settings.size;
        let ice = if self.settings.slippery {
            "The ice is slippery: a move goes where you want one time in three, and else to one of its two sides."
        } else {
            "The ice is firm: a move goes exactly where you want. A move past the edge leaves you where you are."
        };
        let symbols = match (self.tiles.is_some(), self.settings.view) {
            (true, _) => "You are shown a picture of the lake.".to_string(),
            (false, View::Grid) => {
                format!("Symbols: P you, _ frozen, O hole, G goal, X you in a hole, √ you on the goal. {}", grid::view_words(View::Grid))
            }
            (false, view) => {
                format!("Letters: P you, _ frozen, O hole, G goal, X you in a hole, V you on the goal. {}", grid::view_words(view))
            }
        };
        format!(
            "You walk on a frozen lake of {size} x {size} cells. Reach the goal and step into no hole: a hole ends the episode.\n\
             {symbols}\n{ice}\nActions: Left, Down, Right, Up; each is one cell.\nReward: reaching the goal +{GOAL_REWARD:.1}."
        )
    }

    fn reward_bounds(&self, _steps: u32) -> RewardBounds {
        RewardBounds { worst_success: GOAL_REWARD, best_failure: 0.0 }
    }

    fn sample(&self, seed: u64, bucket: Option<&str>) -> Result<Task, String> {
        let (low, high) = match bucket {
            None => (1, usize::MAX),
            Some(name) => grid::lengths(name)
                .filter(|_| self.buckets().iter().any(|known| known == name))
                .ok_or_else(|| format!("frozenlake has no bucket `{name}`: allowed are {}", self.buckets().join(", ")))?,
        };
        let level = self.draw(Dice::new("frozenlake train", &[seed]), Set::Train, low, high)?;
        Ok(task(&level, seed))
    }

    fn held_out(&self, number: u64) -> Result<Task, String> {
        let mut dice = Dice::new("frozenlake held out", &[number]);
        let seed = dice.seed();
        // Each second level needs four moves or more, so that at least half of any even list does. The smallest lake has none.
        let low = if number.is_multiple_of(2) && self.settings.size > 2 { 4 } else { 1 };
        Ok(task(&self.draw(dice, Set::HeldOut, low, usize::MAX)?, seed))
    }

    fn buckets(&self) -> Vec<String> {
        let known = match self.settings.size {
            2 => 1,
            _ if self.has_long() => 3,
            _ => 2,
        };
        grid::BUCKETS[..known].iter().map(|name| name.to_string()).collect()
    }

    fn scene(&self, _task: &Task) -> Result<Option<Scene>, String> {
        Ok(None)
    }

    fn start(&self, task: &Task, _scene: Option<&[u8]>) -> Result<Box<dyn World>, String> {
        let level = Level::parse(&task.json)?;
        Ok(Box::new(Walk::new(level, task.seed, self.settings.slippery, self.settings.view, self.tiles.clone())))
    }

    fn corpus(&self, lines: usize) -> Vec<String> {
        (0..lines).map(|line| self.corpus_line(line)).collect()
    }
}

impl Lake {
    /// A lake on which the line's number lays one sign down at one cell, so that every sign comes up at every cell equally often.
    fn corpus_line(&self, line: usize) -> String {
        const LAID: [Sign; 5] = [play::PLAYER, play::GOAL, play::HOLE, play::FALLEN, play::WON];
        let cells = self.settings.size * self.settings.size;
        let mut dice = Dice::new("frozenlake corpus", &[line as u64]);
        if line % 17 == 16 {
            let deeds: Vec<_> = (0..1 + dice.below(6)).map(|_| (Direction::ALL[dice.below(4)], dice.below(4) > 0)).collect();
            return grid::recount(&deeds, usize::MAX);
        }
        let level = Level::draw(&mut dice, self.settings.size, self.settings.frozen_probability);
        let mut signs: Vec<Sign> = level.holes.iter().map(|hole| if *hole { play::HOLE } else { play::FROZEN }).collect();
        signs[level.goal] = play::GOAL;
        signs[level.start] = play::PLAYER;
        signs[line % cells] = LAID[line / cells % LAID.len()];
        let last = [Last::Worked, Last::Nothing, Last::Worked, Last::Failed][dice.below(4)];
        grid::write(self.settings.view, self.tiles.is_some(), last, level.extent, &signs)
    }
}
