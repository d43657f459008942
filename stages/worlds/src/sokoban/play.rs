//! A live episode of Sokoban.

use super::ACTIONS;
use super::room::{DEAD, Move, ORDER, Room, Solutions, State};
use crate::grid::{self, Direction, Last, Sign, View};
use crate::kinds::listed;
use crate::sketch::Tiles;
use crate::{Acted, Picture, Plan, Standing, World};
use std::sync::Arc;

pub(super) const FLOOR: Sign = Sign { symbol: "_", word: "_", turn: 0 };
/// Every room has a wall around it, so that it need not be told.
pub(super) const BORDER: Sign = Sign { symbol: "#", word: "#", turn: 0 };
pub(super) const PLAYER: Sign = Sign { symbol: "P", word: "P", turn: 1 };
pub(super) const PLAYER_ON_TARGET: Sign = Sign { symbol: "S", word: "S", turn: 1 };
pub(super) const BOX: Sign = Sign { symbol: "X", word: "X", turn: 2 };
pub(super) const BOX_ON_TARGET: Sign = Sign { symbol: "√", word: "V", turn: 2 };
pub(super) const TARGET: Sign = Sign { symbol: "O", word: "O", turn: 3 };
pub(super) const WALL: Sign = Sign { symbol: "#", word: "#", turn: 4 };

/// What stands on a cell.
pub(super) fn sign(room: &Room, state: &State, cell: usize) -> Sign {
    if room.walls[cell] {
        return if room.extent.on_border(cell) { BORDER } else { WALL };
    }
    match (room.targets.contains(&cell), state.player == cell, state.boxes.contains(&cell)) {
        (false, true, _) => PLAYER,
        (true, true, _) => PLAYER_ON_TARGET,
        (false, _, true) => BOX,
        (true, _, true) => BOX_ON_TARGET,
        (true, ..) => TARGET,
        _ => FLOOR,
    }
}

pub(super) struct Push {
    room: Room,
    state: State,
    solutions: Solutions,
    view: View,
    tiles: Option<Arc<Tiles>>,
    last: Last,
    /// Moves of the start's solution, and the fewest that were left so far.
    whole: u16,
    nearest: u16,
    pushed: bool,
    been_on_target: bool,
    deeds: Vec<(Direction, bool)>,
}

impl Push {
    pub(super) fn new(room: Room, state: State, view: View, tiles: Option<Arc<Tiles>>) -> Result<Push, String> {
        let solutions = Solutions::of(&room);
        let whole = solutions.moves(&state);
        if whole == DEAD || whole == 0 {
            return Err("sokoban task: `room` has no solution, or is solved already".into());
        }
        Ok(Push {
            room,
            state,
            solutions,
            view,
            tiles,
            last: Last::Nothing,
            whole,
            nearest: whole,
            pushed: false,
            been_on_target: false,
            deeds: Vec::new(),
        })
    }

    fn signs(&self) -> Vec<Sign> {
        (0..self.room.extent.cells()).map(|cell| sign(&self.room, &self.state, cell)).collect()
    }

    fn seen(&self) -> String {
        let extent = self.room.extent;
        let player = self.state.player;
        let mut text = format!("The player is at {}.", extent.place(player));
        for cell in &self.state.boxes {
            let on = if self.room.targets.contains(cell) { ", on a target" } else { "" };
            text.push_str(&format!(" A box is at {}, {} of the player{on}.", extent.place(*cell), extent.offset(player, *cell)));
        }
        for cell in self.room.targets.iter().filter(|cell| !self.state.boxes.contains(cell)) {
            let whence =
                if *cell == player { "under the player".into() } else { format!("{} of the player", extent.offset(player, *cell)) };
            text.push_str(&format!(" A target is at {}, {whence}.", extent.place(*cell)));
        }
        text
    }

    fn foreseen(&self, state: &State) -> String {
        let extent = self.room.extent;
        let places: Vec<String> = state.boxes.iter().map(|cell| extent.place(*cell)).collect();
        let end = match (self.room.solved(state), state.boxes.len()) {
            (true, 1) => "the box on the target".to_string(),
            (true, _) => "each box on a target".to_string(),
            (false, 1) => format!("the box at {}", places[0]),
            (false, _) => format!("the boxes at {}", places.join("; ")),
        };
        format!("The player will be at {}, {end}.", extent.place(state.player))
    }

    /// A move that changes nothing that matters: a walk, else one that is blocked.
    fn harmless(&self) -> (Direction, State) {
        let mut blocked = (ORDER[0], self.state.clone());
        for direction in ORDER {
            match self.room.after(&self.state, direction) {
                Move::Walk(next) => return (direction, next),
                Move::Blocked => blocked = (direction, self.state.clone()),
                Move::Push(_) => {}
            }
        }
        blocked
    }
}

impl World for Push {
    fn observe(&self) -> String {
        grid::write(self.view, self.tiles.is_some(), self.last, self.room.extent, &self.signs())
    }

    fn pictures(&self) -> Vec<Picture> {
        let Some(tiles) = &self.tiles else { return Vec::new() };
        let cells: Vec<&str> = self.signs().iter().map(|sign| sign.word).collect();
        vec![tiles.picture(self.room.extent, &cells)]
    }

    fn instruction(&self) -> String {
        String::new()
    }

    fn act(&mut self, action: &str) -> Result<Acted, String> {
        if self.room.solved(&self.state) {
            return Err(format!("sokoban: `{action}` was asked for after the episode's end"));
        }
        let direction = Direction::from_name(action)
            .ok_or_else(|| format!("sokoban has no action `{action}`: allowed are {}", listed(&ACTIONS.map(|action| action.name))))?;
        let before = self.room.on_target(&self.state);
        let worked = match self.room.after(&self.state, direction) {
            Move::Blocked => false,
            Move::Walk(next) => {
                self.state = next;
                true
            }
            Move::Push(next) => {
                self.state = next;
                self.pushed = true;
                true
            }
        };
        self.last = Last::of(worked);
        self.deeds.push((direction, worked));
        // DEAD is the largest number, so that a dead end is never nearer.
        self.nearest = self.nearest.min(self.solutions.moves(&self.state));
        let after = self.room.on_target(&self.state);
        self.been_on_target |= after > before;
        let over = self.room.solved(&self.state);
        Ok(Acted { worked, reward: super::reward(before, after, over), over })
    }

    fn expert(&mut self, actions: usize) -> Plan {
        if actions == 0 || self.room.solved(&self.state) {
            return Plan::default();
        }
        let left = self.solutions.moves(&self.state);
        let observation = self.seen();
        if left == DEAD {
            let (direction, state) = self.harmless();
            let reasoning = "No move can bring every box to a target any more; this one does no further harm.".into();
            return Plan { actions: vec![direction.name().into()], observation, reasoning, prediction: self.foreseen(&state) };
        }
        let mut state = self.state.clone();
        let mut names = Vec::new();
        while names.len() < actions
            && let Some((direction, next)) = self.solutions.best(&self.room, &state)
        {
            state = next;
            names.push(direction.name().to_string());
        }
        let moves = if left == 1 { "1 move".to_string() } else { format!("{left} moves") };
        let reasoning = format!("The shortest solution has {moves}; it goes on with {}.", grid::steps(&names));
        Plan { actions: names, observation, reasoning, prediction: self.foreseen(&state) }
    }

    fn standing(&self) -> Standing {
        let solved = self.room.solved(&self.state);
        let reached = [
            ("moved", self.deeds.iter().any(|(_, worked)| *worked)),
            ("pushed", self.pushed),
            ("closer", self.nearest < self.whole),
            ("half_way", self.nearest * 2 <= self.whole),
            ("on_target", self.been_on_target),
            ("solved", solved),
        ];
        Standing {
            success: solved,
            lenient: solved,
            progress: f32::from(self.whole - self.nearest) / f32::from(self.whole),
            milestones: reached.into_iter().filter(|(_, reached)| *reached).map(|(name, _)| name.to_string()).collect(),
        }
    }

    fn state_key(&self) -> u64 {
        let mut bytes = self.room.ground();
        bytes.push(self.last as u8);
        bytes.push(self.state.player as u8);
        bytes.extend(self.state.boxes.iter().map(|cell| *cell as u8));
        grid::hash(&bytes)
    }

    fn memory(&self, max_chars: usize) -> String {
        grid::recount(&self.deeds, max_chars)
    }
}
