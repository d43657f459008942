//! A live episode of FrozenLake.

use super::level::{FAR, Level};
use super::{ACTIONS, GOAL_REWARD};
use crate::grid::{self, Dice, Direction, Last, Sign, View};
use crate::kinds::listed;
use crate::sketch::Tiles;
use crate::{Acted, Picture, Plan, Standing, World};
use std::sync::Arc;

pub(super) const FROZEN: Sign = Sign { symbol: "_", word: "_", turn: 0 };
pub(super) const PLAYER: Sign = Sign { symbol: "P", word: "P", turn: 1 };
pub(super) const FALLEN: Sign = Sign { symbol: "X", word: "X", turn: 1 };
pub(super) const WON: Sign = Sign { symbol: "√", word: "V", turn: 1 };
pub(super) const GOAL: Sign = Sign { symbol: "G", word: "G", turn: 2 };
pub(super) const HOLE: Sign = Sign { symbol: "O", word: "O", turn: 3 };

/// How often values are swept; far more than they need to settle on the largest lake.
const SWEEPS: usize = 2_000;
/// Prefers the shorter of two ways that are equally safe.
const DISCOUNT: f64 = 0.999;

pub(super) struct Walk {
    level: Level,
    seed: u64,
    slippery: bool,
    view: View,
    tiles: Option<Arc<Tiles>>,
    at: usize,
    over: bool,
    last: Last,
    /// The least distance to the goal so far.
    nearest: u16,
    deeds: Vec<(Direction, bool)>,
    /// The chance of success by cell under the best play on slippery ice, made when the expert is first asked.
    values: Option<Vec<f64>>,
}

impl Walk {
    pub(super) fn new(level: Level, seed: u64, slippery: bool, view: View, tiles: Option<Arc<Tiles>>) -> Walk {
        let (at, nearest) = (level.start, level.distance[level.start]);
        Walk { level, seed, slippery, view, tiles, at, over: false, last: Last::Nothing, nearest, deeds: Vec::new(), values: None }
    }

    fn sign(&self, cell: usize) -> Sign {
        match (cell == self.at, self.level.holes[cell], cell == self.level.goal) {
            (true, true, _) => FALLEN,
            (true, _, true) => WON,
            (true, ..) => PLAYER,
            (_, true, _) => HOLE,
            (_, _, true) => GOAL,
            _ => FROZEN,
        }
    }

    fn signs(&self) -> Vec<Sign> {
        (0..self.level.extent.cells()).map(|cell| self.sign(cell)).collect()
    }

    /// Where the ice takes a move: as asked, or on slippery ice to either side with the same chance, drawn from seed and step.
    fn drift(&self, asked: Direction) -> Direction {
        if !self.slippery {
            return asked;
        }
        match Dice::new("frozenlake slip", &[self.seed, self.deeds.len() as u64]).below(3) {
            0 => asked,
            side => asked.across()[side - 1],
        }
    }

    fn won(&self) -> bool {
        self.at == self.level.goal
    }

    /// The best move on slippery ice, by value iteration over the chance of success.
    fn best_on_slippery(&mut self) -> Option<Direction> {
        let level = &self.level;
        let values = self.values.get_or_insert_with(|| values(level));
        let worth = |direction: Direction| value(level, values, self.at, direction);
        // The first of equals stands, so that the expert is one function of the state.
        Direction::ALL.into_iter().fold(None, |best: Option<Direction>, direction| match best {
            Some(other) if worth(other) >= worth(direction) => best,
            _ => Some(direction),
        })
    }

    fn seen(&self) -> String {
        let extent = self.level.extent;
        let holes: Vec<String> = (0..extent.cells()).filter(|cell| self.level.holes[*cell]).map(|cell| extent.place(cell)).collect();
        let holes = match holes.as_slice() {
            [] => "There is no hole".to_string(),
            [hole] => format!("There is a hole at {hole}"),
            holes => format!("There are holes at {}", holes.join("; ")),
        };
        format!(
            "The player is at {}. The goal is at {}, {} of the player. {holes}.",
            extent.place(self.at),
            extent.place(self.level.goal),
            extent.offset(self.at, self.level.goal)
        )
    }

    fn plan_on_firm_ice(&self, most: usize) -> Plan {
        let extent = self.level.extent;
        let mut at = self.at;
        let mut actions = Vec::new();
        while actions.len() < most
            && let Some(direction) = self.level.best(at)
        {
            at = self.level.after(at, direction);
            actions.push(direction.name().to_string());
        }
        let left = self.level.distance[at];
        let prediction = if left == 0 {
            "The player will be on the goal.".to_string()
        } else {
            format!("The player will be at {}, {} from the goal.", extent.place(at), count(left))
        };
        let reasoning = format!(
            "The shortest way round the holes has {}; it goes on with {}.",
            count(self.level.distance[self.at]),
            grid::steps(&actions)
        );
        Plan { actions, observation: self.seen(), reasoning, prediction }
    }

    fn plan_on_slippery_ice(&mut self) -> Plan {
        let Some(direction) = self.best_on_slippery() else { return Plan::default() };
        let extent = self.level.extent;
        let [one, other] = direction.across();
        let ends: Vec<String> = [direction, one, other].into_iter().map(|way| extent.place(self.level.after(self.at, way))).collect();
        Plan {
            actions: vec![direction.name().to_string()],
            observation: self.seen(),
            reasoning: format!(
                "The ice is slippery: a move may drift {} or {}. {} is the safest.",
                one.word(),
                other.word(),
                direction.name()
            ),
            prediction: format!("The player will be at one of these: {}.", ends.join("; ")),
        }
    }
}

fn count(moves: u16) -> String {
    if moves == 1 { "1 move".into() } else { format!("{moves} moves") }
}

fn value(level: &Level, values: &[f64], cell: usize, direction: Direction) -> f64 {
    let [one, other] = direction.across();
    let sum: f64 = [direction, one, other].into_iter().map(|way| values[level.after(cell, way)]).sum();
    sum / 3.0 * DISCOUNT
}

fn values(level: &Level) -> Vec<f64> {
    let mut values = vec![0.0; level.extent.cells()];
    values[level.goal] = 1.0;
    for _ in 0..SWEEPS {
        let mut change: f64 = 0.0;
        for cell in 0..values.len() {
            if cell == level.goal || level.holes[cell] {
                continue;
            }
            let best = Direction::ALL.into_iter().map(|way| value(level, &values, cell, way)).fold(0.0, f64::max);
            change = change.max((best - values[cell]).abs());
            values[cell] = best;
        }
        if change < 1e-12 {
            break;
        }
    }
    values
}

impl World for Walk {
    fn observe(&self) -> String {
        grid::write(self.view, self.tiles.is_some(), self.last, self.level.extent, &self.signs())
    }

    fn pictures(&self) -> Vec<Picture> {
        let Some(tiles) = &self.tiles else { return Vec::new() };
        let cells: Vec<&str> = self.signs().iter().map(|sign| sign.word).collect();
        vec![tiles.picture(self.level.extent, &cells)]
    }

    fn instruction(&self) -> String {
        String::new()
    }

    fn act(&mut self, action: &str) -> Result<Acted, String> {
        if self.over {
            return Err(format!("frozenlake: `{action}` was asked for after the episode's end"));
        }
        let asked = Direction::from_name(action)
            .ok_or_else(|| format!("frozenlake has no action `{action}`: allowed are {}", listed(&ACTIONS.map(|action| action.name))))?;
        let there = self.level.after(self.at, self.drift(asked));
        let worked = there != self.at;
        self.at = there;
        self.last = Last::of(worked);
        self.deeds.push((asked, worked));
        self.over = self.won() || self.level.holes[there];
        if self.level.distance[there] != FAR {
            self.nearest = self.nearest.min(self.level.distance[there]);
        }
        Ok(Acted { worked, reward: if self.won() { GOAL_REWARD } else { 0.0 }, over: self.over })
    }

    fn expert(&mut self, actions: usize) -> Plan {
        match (self.over || actions == 0, self.slippery) {
            (true, _) => Plan::default(),
            (_, false) => self.plan_on_firm_ice(actions),
            (_, true) => self.plan_on_slippery_ice(),
        }
    }

    fn standing(&self) -> Standing {
        let whole = self.level.distance[self.level.start];
        let won = self.won();
        let reached = [
            ("moved", self.deeds.iter().any(|(_, worked)| *worked)),
            ("closer", self.nearest < whole),
            ("half_way", self.nearest * 2 <= whole),
            ("goal", won),
        ];
        Standing {
            success: won,
            lenient: won,
            progress: f32::from(whole - self.nearest) / f32::from(whole),
            milestones: reached.into_iter().filter(|(_, reached)| *reached).map(|(name, _)| name.to_string()).collect(),
        }
    }

    fn state_key(&self) -> u64 {
        let mut bytes = self.level.ground();
        bytes.extend((self.at as u16).to_le_bytes());
        bytes.push(self.last as u8);
        if self.slippery {
            bytes.extend(self.seed.to_le_bytes());
            bytes.extend((self.deeds.len() as u64).to_le_bytes());
        }
        grid::hash(&bytes)
    }

    fn memory(&self, max_chars: usize) -> String {
        grid::recount(&self.deeds, max_chars)
    }
}
