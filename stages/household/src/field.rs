//! How far the body has to go, from anywhere, to be within reach of a target: the expert's sense of direction.

use crate::{
    geometry::{Vec2, vec2},
    space::Space,
};
use std::{cmp::Reverse, collections::BinaryHeap};

const CELL: f64 = 0.1;
/// The field is 0 from where the hand could reach.
pub(crate) const REACH_M: f64 = 0.95;
/// Cost of a straight and of a slanted step between cells, in hundredths of a metre.
const STRAIGHT: u32 = 10;
const SLANTED: u32 = 14;
const NEVER: u32 = u32::MAX;

/// Shortest ways over the floor, to any of the cells that are the goal.
#[derive(Clone)]
pub(crate) struct Field {
    origin: Vec2,
    columns: usize,
    rows: usize,
    /// Hundredths of a metre.
    way: Vec<u32>,
}

impl Field {
    /// To within reach of any of some points.
    pub(crate) fn new(space: &Space, goals: &[Vec2]) -> Field {
        Field::to(space, |middle| goals.iter().any(|goal| goal.distance(middle) <= REACH_M))
    }

    /// To the free cells whose middles are a goal.
    pub(crate) fn to(space: &Space, goal: impl Fn(Vec2) -> bool) -> Field {
        let (low, high) = space.bounds();
        let (columns, rows) =
            ((libm::ceil((high.x - low.x) / CELL) as usize).max(1), (libm::ceil((high.z - low.z) / CELL) as usize).max(1));
        let mut field = Field { origin: low, columns, rows, way: vec![NEVER; columns * rows] };
        let mut open = BinaryHeap::new();
        for cell in 0..columns * rows {
            let middle = field.middle(cell);
            if space.body_fits(middle) && goal(middle) {
                field.way[cell] = 0;
                open.push(Reverse((0, cell)));
            }
        }
        field.spread(space, open);
        field
    }

    fn spread(&mut self, space: &Space, mut open: BinaryHeap<Reverse<(u32, usize)>>) {
        while let Some(Reverse((way, cell))) = open.pop() {
            if way > self.way[cell] {
                continue;
            }
            let (column, row) = ((cell % self.columns) as i64, (cell / self.columns) as i64);
            for (across, along) in [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)] {
                let (next_column, next_row) = (column + across, row + along);
                if next_column < 0 || next_row < 0 || next_column >= self.columns as i64 || next_row >= self.rows as i64 {
                    continue;
                }
                let next = next_row as usize * self.columns + next_column as usize;
                let further = way + if across != 0 && along != 0 { SLANTED } else { STRAIGHT };
                if further < self.way[next] && space.body_fits(self.middle(next)) {
                    self.way[next] = further;
                    open.push(Reverse((further, next)));
                }
            }
        }
    }

    fn middle(&self, cell: usize) -> Vec2 {
        vec2(self.origin.x + ((cell % self.columns) as f64 + 0.5) * CELL, self.origin.z + ((cell / self.columns) as f64 + 0.5) * CELL)
    }

    /// Whether a way leads from such a cell to the goal.
    pub(crate) fn reaches(&self, from: impl Fn(Vec2) -> bool) -> bool {
        (0..self.way.len()).any(|cell| self.way[cell] != NEVER && from(self.middle(cell)))
    }

    pub(crate) fn size(&self) -> (usize, usize) {
        (self.columns, self.rows)
    }

    /// The cell that a point is in.
    pub(crate) fn cell(&self, point: Vec2) -> Option<usize> {
        let (column, row) = (libm::floor((point.x - self.origin.x) / CELL), libm::floor((point.z - self.origin.z) / CELL));
        let within = column >= 0.0 && row >= 0.0 && column < self.columns as f64 && row < self.rows as f64;
        within.then(|| row as usize * self.columns + column as usize)
    }

    /// Metres to go from here; the best of the cells around where this one is too near a wall; `None`: no way.
    pub(crate) fn way(&self, point: Vec2) -> Option<f64> {
        let cell = self.cell(point)?;
        if self.way[cell] != NEVER {
            return Some(f64::from(self.way[cell]) / 100.0);
        }
        let (column, row) = ((cell % self.columns) as i64, (cell / self.columns) as i64);
        let around = (-1..=1).flat_map(|along| (-1..=1).map(move |across| (column + across, row + along)));
        let best = around
            .filter(|&(column, row)| column >= 0 && row >= 0 && column < self.columns as i64 && row < self.rows as i64)
            .map(|(column, row)| self.way[row as usize * self.columns + column as usize])
            .min()?;
        (best != NEVER).then(|| f64::from(best) / 100.0)
    }
}
