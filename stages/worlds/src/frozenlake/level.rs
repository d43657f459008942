//! Levels of FrozenLake: drawn from a seed, read from a task, measured.

use crate::grid::{self, Dice, Direction, Extent, Set};
use serde::{Deserialize, Serialize};

/// Farther than any path.
pub(super) const FAR: u16 = u16::MAX;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) extent: Extent,
    /// By cell.
    pub(super) holes: Vec<bool>,
    pub(super) start: usize,
    pub(super) goal: usize,
    /// Moves to the goal by the shortest way round the holes, by cell; [`FAR`] where there is none.
    pub(super) distance: Vec<u16>,
}

/// A level as a task's JSON holds it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Rows from the top: S start, F frozen, H hole, G goal.
    map: Vec<String>,
}

impl Level {
    fn new(extent: Extent, holes: Vec<bool>, start: usize, goal: usize) -> Level {
        let mut distance = vec![FAR; extent.cells()];
        distance[goal] = 0;
        let mut queue = Vec::with_capacity(extent.cells());
        queue.push(goal);
        let mut next = 0;
        while next < queue.len() {
            let cell = queue[next];
            next += 1;
            for direction in Direction::ALL {
                if let Some(other) = extent.beside(cell, direction)
                    && !holes[other]
                    && distance[other] == FAR
                {
                    distance[other] = distance[cell] + 1;
                    queue.push(other);
                }
            }
        }
        Level { extent, holes, start, goal, distance }
    }

    /// One draw, perhaps without a way to the goal.
    pub(super) fn draw(dice: &mut Dice, size: usize, frozen_probability: f64) -> Level {
        let extent = Extent { width: size, height: size };
        let mut holes: Vec<bool> = (0..extent.cells()).map(|_| !dice.chance(frozen_probability)).collect();
        let start = dice.below(extent.cells());
        let goal = loop {
            let goal = dice.below(extent.cells());
            if goal != start {
                break goal;
            }
        };
        holes[start] = false;
        holes[goal] = false;
        Level::new(extent, holes, start, goal)
    }

    /// Moves from the start to the goal; `None` without a way.
    pub(super) fn length(&self) -> Option<usize> {
        let length = self.distance[self.start];
        (length != FAR).then_some(usize::from(length))
    }

    pub(super) fn set(&self) -> Set {
        grid::set_of(self.extent, &self.ground())
    }

    /// Holes and goal, one byte a cell.
    pub(super) fn ground(&self) -> Vec<u8> {
        (0..self.extent.cells())
            .map(|cell| match cell {
                _ if cell == self.goal => b'G',
                _ if self.holes[cell] => b'H',
                _ => b'F',
            })
            .collect()
    }

    pub(super) fn json(&self) -> String {
        let mut ground = self.ground();
        ground[self.start] = b'S';
        let map = ground.chunks(self.extent.width).map(|row| row.iter().map(|byte| char::from(*byte)).collect()).collect();
        serde_json::to_string(&Written { map }).expect("strings are always JSON")
    }

    pub(super) fn parse(json: &str) -> Result<Level, String> {
        let written: Written = serde_json::from_str(json).map_err(|error| format!("frozenlake task: {error}"))?;
        let size = written.map.len();
        if !(2..=super::LARGEST).contains(&size) || written.map.iter().any(|row| row.len() != size) {
            return Err(format!("frozenlake task: `map` is not a square of 2 to {} rows", super::LARGEST));
        }
        let cells: Vec<u8> = written.map.iter().flat_map(|row| row.bytes()).collect();
        if let Some(other) = cells.iter().find(|cell| !b"SFHG".contains(cell)) {
            return Err(format!("frozenlake task: `map` holds `{}`: allowed are S, F, H and G", char::from(*other)));
        }
        let only = |wanted: u8| {
            let mut found = cells.iter().enumerate().filter(|(_, cell)| **cell == wanted).map(|(at, _)| at);
            match (found.next(), found.next()) {
                (Some(at), None) => Ok(at),
                _ => Err(format!("frozenlake task: `map` must hold exactly one `{}`", char::from(wanted))),
            }
        };
        let (start, goal) = (only(b'S')?, only(b'G')?);
        let holes = cells.iter().map(|cell| *cell == b'H').collect();
        let level = Level::new(Extent { width: size, height: size }, holes, start, goal);
        level.length().map(|_| level).ok_or_else(|| "frozenlake task: `map` has no way from S to G".to_string())
    }

    /// Where a move leads; the same cell at the edge.
    pub(super) fn after(&self, cell: usize, direction: Direction) -> usize {
        self.extent.beside(cell, direction).unwrap_or(cell)
    }

    /// The first direction, in the fixed order, on a shortest way to the goal.
    pub(super) fn best(&self, cell: usize) -> Option<Direction> {
        let here = self.distance[cell];
        if here == 0 || here == FAR {
            return None;
        }
        Direction::ALL.into_iter().find(|direction| {
            // Holes are FAR, so no way leads through one.
            self.distance[self.after(cell, *direction)] == here - 1
        })
    }
}
