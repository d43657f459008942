//! Sokoban: push every box onto a target.
//!
//! In: a seed. Out: a level that can be solved within its bound, and a live [`World`] on it. Rewards, symbols and texts are VAGEN's.

mod level;
mod play;
mod room;

use crate::grid::{self, Dice, Extent, Last, Set, Sign, View};
use crate::kinds;
use crate::sketch::{self, Tiles};
use crate::{ActionName, Kind, RewardBounds, Scene, Task, World};
use play::Push;
use room::{ORDER, Room, Solutions, State};
use serde::Deserialize;
use std::sync::Arc;

/// Smallest and largest side of a room in cells, walls included.
const SMALLEST: usize = 5;
const LARGEST: usize = 8;
/// The table of solutions grows with the floor to the power of boxes and player.
const MOST_BOXES: usize = 2;
const LONGEST_SOLUTION: usize = 30;
/// Rooms drawn before a seed is given up; one that fits comes within a few dozen.
const DRAWS: usize = 5_000;

/// Task rewards, as gym_sokoban has them.
const STEP_REWARD: f32 = -0.1;
const BOX_REWARD: f32 = 1.0;
const SOLVED_REWARD: f32 = 10.0;

const ACTIONS: [ActionName; 4] = [action("Up"), action("Down"), action("Left"), action("Right")];

const fn action(name: &'static str) -> ActionName {
    ActionName { name, aliases: &[], ends_reply: false }
}

/// Reward of one action, from the boxes on targets before and after.
fn reward(before: usize, after: usize, solved: bool) -> f32 {
    let boxes = if after > before {
        BOX_REWARD
    } else if after < before {
        -BOX_REWARD
    } else {
        0.0
    };
    STEP_REWARD + boxes + if solved { SOLVED_REWARD } else { 0.0 }
}

/// `[world.settings]` of Sokoban.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Cells, walls included, 5 to 8.
    pub width: usize,
    pub height: usize,
    /// Boxes, and as many targets: 1 or 2.
    pub boxes: usize,
    /// Moves of the shortest solution, both ends included, 1 to 30.
    pub solution_min: usize,
    pub solution_max: usize,
    /// How the room is put into words.
    pub view: View,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { width: 6, height: 6, boxes: 1, solution_min: 1, solution_max: 5, view: View::Grid }
    }
}

/// The kind `sokoban`.
pub struct Sokoban {
    settings: Settings,
    /// Drawn once; `None` in text pipelines.
    tiles: Option<Arc<Tiles>>,
}

impl Sokoban {
    /// # Errors
    /// A line that names the setting and what is allowed.
    pub fn new(pictures: bool, table: &toml::Table) -> Result<Sokoban, String> {
        let settings: Settings = kinds::settings("sokoban", table)?;
        kinds::within("width", settings.width, SMALLEST, LARGEST)?;
        kinds::within("height", settings.height, SMALLEST, LARGEST)?;
        kinds::within("boxes", settings.boxes, 1, MOST_BOXES)?;
        kinds::within("solution_max", settings.solution_max, 1, LONGEST_SOLUTION)?;
        kinds::within("solution_min", settings.solution_min, 1, settings.solution_max)?;
        Ok(Sokoban { settings, tiles: pictures.then(|| Arc::new(sketch::room_tiles())) })
    }

    fn draw(&self, mut dice: Dice, set: Set, low: usize, high: usize) -> Result<(Room, State, usize), String> {
        let extent = Extent { width: self.settings.width, height: self.settings.height };
        for _ in 0..DRAWS {
            let Some(room) = Room::draw(&mut dice, extent, self.settings.boxes) else { continue };
            let Some((state, length)) = Solutions::of(&room).draw(&mut dice, self.settings.boxes, low, high) else { continue };
            if room.set(&state.boxes) == set {
                return Ok((room, state, length));
            }
        }
        Err(format!("sokoban: no level with a solution of {low} to {high} moves in {DRAWS} rooms; hint: lower world.settings.solution_min"))
    }

    /// The lengths that a bucket and the settings both allow.
    fn lengths(&self, bucket: &str) -> Option<(usize, usize)> {
        let (low, high) = grid::lengths(bucket)?;
        let both = (low.max(self.settings.solution_min), high.min(self.settings.solution_max));
        (both.0 <= both.1).then_some(both)
    }
}

fn task(seed: u64, (room, state, length): (Room, State, usize)) -> Task {
    Task { seed, json: level::json(&room, &state), bucket: grid::bucket(length).into(), expert_length: length as u32 }
}

impl Kind for Sokoban {
    fn name(&self) -> &'static str {
        "sokoban"
    }

    fn actions(&self) -> &[ActionName] {
        &ACTIONS
    }

    fn rules(&self) -> String {
        let Settings { width, height, .. } = self.settings;
        let symbols = match (self.tiles.is_some(), self.settings.view) {
            (true, _) => "You are shown a picture of the room.".to_string(),
            (false, view) => format!(
                "{}: # wall, _ floor, O target, X box, {} box on target, P you, S you on a target. {}{}",
                if view == View::Grid { "Symbols" } else { "Letters" },
                if view == View::Grid { "√" } else { "V" },
                grid::view_words(view),
                if matches!(view, View::Cells | View::Relative) { " The outer wall is left out." } else { "" }
            ),
        };
        format!(
            "You are in a room of {width} x {height} cells and push boxes. Bring every box onto a target.\n{symbols}\n\
             You push a box by walking into it, if the cell behind it is free. You cannot pull, nor push two boxes at once.\n\
             Actions: Up, Down, Left, Right; each is one cell.\n\
             Rewards: each action {STEP_REWARD:.1}, a box onto a target +{BOX_REWARD:.1}, a box off a target -{BOX_REWARD:.1}, all boxes on targets +{SOLVED_REWARD:.1}."
        )
    }

    /// A success has at least one more box on target at its end than at its start; a failure at most all boxes but one, each by an action.
    fn reward_bounds(&self, steps: u32) -> RewardBounds {
        RewardBounds {
            worst_success: SOLVED_REWARD + BOX_REWARD + STEP_REWARD * steps as f32,
            best_failure: (self.settings.boxes - 1) as f32 * (BOX_REWARD + STEP_REWARD),
        }
    }

    fn sample(&self, seed: u64, bucket: Option<&str>) -> Result<Task, String> {
        let (low, high) = match bucket {
            None => (self.settings.solution_min, self.settings.solution_max),
            Some(name) => {
                self.lengths(name).ok_or_else(|| format!("sokoban has no bucket `{name}`: allowed are {}", self.buckets().join(", ")))?
            }
        };
        Ok(task(seed, self.draw(Dice::new("sokoban train", &[seed]), Set::Train, low, high)?))
    }

    fn held_out(&self, number: u64) -> Result<Task, String> {
        let mut dice = Dice::new("sokoban held out", &[number]);
        let seed = dice.seed();
        let Settings { solution_min, solution_max, .. } = self.settings;
        // Each second level needs four moves or more, so that at least half of any even list does, where the settings have such.
        let low = if number.is_multiple_of(2) { solution_min.max(4.min(solution_max)) } else { solution_min };
        Ok(task(seed, self.draw(dice, Set::HeldOut, low, solution_max)?))
    }

    fn buckets(&self) -> Vec<String> {
        grid::BUCKETS.into_iter().filter(|name| self.lengths(name).is_some()).map(String::from).collect()
    }

    fn scene(&self, _task: &Task) -> Result<Option<Scene>, String> {
        Ok(None)
    }

    fn start(&self, task: &Task, _scene: Option<&[u8]>) -> Result<Box<dyn World>, String> {
        let (room, state) = level::parse(&task.json)?;
        Ok(Box::new(Push::new(room, state, self.settings.view, self.tiles.clone())?))
    }

    fn corpus(&self, lines: usize) -> Vec<String> {
        (0..lines).map(|line| self.corpus_line(line)).collect()
    }
}

impl Sokoban {
    /// A room in which the line's number lays one sign down at one inner cell, so that every sign comes up at every cell equally often.
    fn corpus_line(&self, line: usize) -> String {
        const LAID: [Sign; 6] = [play::PLAYER, play::BOX, play::TARGET, play::WALL, play::PLAYER_ON_TARGET, play::BOX_ON_TARGET];
        let mut dice = Dice::new("sokoban corpus", &[line as u64]);
        if line % 17 == 16 {
            let deeds: Vec<_> = (0..1 + dice.below(6)).map(|_| (ORDER[dice.below(4)], dice.below(4) > 0)).collect();
            return grid::recount(&deeds, usize::MAX);
        }
        let extent = Extent { width: self.settings.width, height: self.settings.height };
        let inner: Vec<usize> = (0..extent.cells()).filter(|cell| !extent.on_border(*cell)).collect();
        let mut signs: Vec<Sign> =
            (0..extent.cells()).map(|cell| if extent.on_border(cell) { play::BORDER } else { play::FLOOR }).collect();
        for _ in 0..inner.len() / 3 {
            signs[inner[dice.below(inner.len())]] = play::WALL;
        }
        for sign in [play::TARGET, play::BOX, play::PLAYER] {
            signs[inner[dice.below(inner.len())]] = sign;
        }
        signs[inner[line % inner.len()]] = LAID[line / inner.len() % LAID.len()];
        let last = [Last::Worked, Last::Nothing, Last::Worked, Last::Failed][dice.below(4)];
        grid::write(self.settings.view, self.tiles.is_some(), last, extent, &signs)
    }
}
