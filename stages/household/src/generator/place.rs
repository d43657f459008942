//! A room as a place to put things: its straight walls, what is taken, and whether one can still walk through.

use super::{plan::Plan, walls::FIRST};
use crate::{
    compile::hole_ends,
    geometry::{Vec2, segment_distance, vec2, yaw_of},
    robot::BODY_RADIUS,
    schema::{House, Wall},
};
use std::collections::BTreeMap;

/// Between furniture and the wall behind it, metres.
pub(super) const GAP: f64 = 0.025;
/// Free floor in front of a door: half its width plus this, and how deep.
const BESIDE_DOOR: f64 = 0.1;
const BEFORE_DOOR: f64 = 0.9;
/// Cells of the floor map.
const CELL: f64 = 0.1;
/// The body's circle with some air around it.
const BODY: f64 = BODY_RADIUS + 0.025;
/// Floor that the robot must be able to reach in each room, square metres.
const LEAST_FLOOR_M2: f64 = 0.9;

/// An axis-aligned rectangle of floor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patch {
    pub(super) low: Vec2,
    pub(super) high: Vec2,
}

impl Patch {
    pub(super) fn around(centre: Vec2, half: Vec2) -> Patch {
        Patch { low: centre.minus(half), high: centre.plus(half) }
    }

    pub(super) fn grown(self, by: f64) -> Patch {
        Patch { low: self.low.minus(vec2(by, by)), high: self.high.plus(vec2(by, by)) }
    }

    pub(super) fn meets(&self, other: &Patch) -> bool {
        self.low.x < other.high.x && other.low.x < self.high.x && self.low.z < other.high.z && other.low.z < self.high.z
    }

    fn distance(&self, point: Vec2) -> f64 {
        let x = (self.low.x - point.x).max(point.x - self.high.x).max(0.0);
        let z = (self.low.z - point.z).max(point.z - self.high.z).max(0.0);
        (x * x + z * z).sqrt()
    }
}

/// Half sides of the rectangle around a footprint (x and z at yaw 0) that is turned by a yaw.
pub(super) fn footprint(size: [f64; 3], yaw: f64) -> Vec2 {
    let (sin, cos) = libm::sincos(yaw.to_radians());
    let (x, z) = (size[0] / 2.0, size[2] / 2.0);
    vec2(cos.abs() * x + sin.abs() * z, sin.abs() * x + cos.abs() * z)
}

/// A straight wall of a room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub(super) a: Vec2,
    pub(super) along: Vec2,
    /// Into the room.
    pub(super) inward: Vec2,
    pub(super) length: f64,
    /// The yaw of what stands with its back to it.
    pub(super) yaw: f64,
    /// Whether the room goes around a corner at its end, so that something fits into it.
    pub(super) corner: bool,
}

/// A part of a wall that nothing may hang on: distances along the side, heights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) side: usize,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Span {
    pub(super) fn meets(&self, other: &Span) -> bool {
        self.side == other.side && self.from < other.to && other.from < self.to && self.low < other.high && other.low < self.high
    }
}

/// A room's floor and walls.
pub(super) struct Site<'a> {
    plan: &'a Plan,
    pub(super) number: usize,
    rim: Vec<(Vec2, Vec2)>,
    pub(super) sides: Vec<Side>,
    pub(super) low: Vec2,
    pub(super) high: Vec2,
    /// Floor in front of doors and passages.
    pub(super) doorsteps: Vec<Patch>,
    /// Where one comes in.
    gates: Vec<Vec2>,
    pub(super) spans: Vec<Span>,
}

/// Walls by id.
pub(super) type Walls<'a> = BTreeMap<&'a str, &'a Wall>;

impl<'a> Site<'a> {
    pub(super) fn new(plan: &'a Plan, house: &House, walls: &Walls, number: usize) -> Site<'a> {
        let rim: Vec<(Vec2, Vec2)> = plan.rims[number].iter().map(|edge| plan.ends(edge)).collect();
        let fold = |pick: fn(f64, f64) -> f64, start: f64| {
            rim.iter().fold(vec2(start, start), |so_far, (a, _)| vec2(pick(so_far.x, a.x), pick(so_far.z, a.z)))
        };
        let (low, high) = (fold(f64::min, f64::MAX), fold(f64::max, f64::MIN));
        let mut site =
            Site { plan, number, rim, sides: Vec::new(), low, high, doorsteps: Vec::new(), gates: Vec::new(), spans: Vec::new() };
        site.find_sides(house, walls);
        site.find_openings(house, walls);
        site
    }

    /// Joins stretches of wall in a line; an open passage is no wall.
    fn find_sides(&mut self, house: &House, walls: &Walls) {
        let own = format!("room|{}", self.number + FIRST);
        let empty: Vec<bool> = {
            let mut own_walls = house.walls.iter().filter(|wall| wall.room == own && !wall.id.starts_with("wall|exterior"));
            self.rim.iter().map(|_| own_walls.next().is_some_and(|wall| wall.empty)).collect()
        };
        debug_assert!(walls.len() >= self.rim.len());
        let count = self.rim.len();
        let direction = |index: usize| {
            let (a, b) = self.rim[index % count];
            b.minus(a).times(1.0 / a.distance(b))
        };
        let joined =
            |index: usize| direction(index).dot(direction(index + 1)) > 0.99 && !empty[index % count] && !empty[(index + 1) % count];
        let start = (0..count).find(|&index| !joined(index)).map_or(0, |index| index + 1);
        let mut index = start;
        let mut sides = Vec::new();
        while index < start + count {
            let first = index;
            while index + 1 < start + count && joined(index) {
                index += 1;
            }
            let ((a, _), (_, b)) = (self.rim[first % count], self.rim[index % count]);
            if !empty[first % count] {
                let along = direction(first);
                let inward = vec2(along.z, -along.x);
                let turn = along.cross(direction(index + 1)) < -0.5 && !empty[(index + 1) % count];
                let (length, yaw) = (a.distance(b), libm::round(yaw_of(inward)));
                sides.push(Side { a, along, inward, length, yaw, corner: turn });
            }
            index += 1;
        }
        self.sides = sides;
        for (edge, _) in self.rim.iter().zip(&empty).filter(|(_, empty)| **empty).map(|(edge, empty)| (*edge, empty)).collect::<Vec<_>>() {
            self.add_gate(edge.0, edge.1);
        }
    }

    /// Keeps the floor at the middle of a way in free.
    fn add_gate(&mut self, a: Vec2, b: Vec2) {
        let along = b.minus(a).times(1.0 / a.distance(b).max(1e-9));
        let inward = vec2(along.z, -along.x);
        let middle = a.plus(b).times(0.5);
        let half = (a.distance(b) / 2.0 + BESIDE_DOOR).min(0.9);
        let corner = middle.plus(along.times(half)).plus(inward.times(BEFORE_DOOR));
        let other = middle.minus(along.times(half));
        let low = vec2(corner.x.min(other.x), corner.z.min(other.z));
        let high = vec2(corner.x.max(other.x), corner.z.max(other.z));
        self.doorsteps.push(Patch { low, high });
        self.gates.push(middle.plus(inward.times(BODY + 0.06)));
    }

    fn find_openings(&mut self, house: &House, walls: &Walls) {
        let own = format!("wall|{}|", self.number + FIRST);
        let doors = house.doors.iter().map(|door| (door, true)).chain(house.windows.iter().map(|window| (window, false)));
        for (opening, door) in doors {
            let Some(wall) =
                [&opening.wall0, &opening.wall1].into_iter().find(|id| id.starts_with(&own)).and_then(|id| walls.get(id.as_str()))
            else {
                continue;
            };
            let [from, to] = hole_ends(wall, opening);
            if door && opening.room0 != opening.room1 {
                self.add_gate(from, to);
            } else if door {
                self.add_gate(from, to);
                self.gates.pop();
            }
            for (side, line) in self.sides.iter().enumerate() {
                if segment_distance(from, line.a, line.a.plus(line.along.times(line.length))) > 1e-3
                    || segment_distance(to, line.a, line.a.plus(line.along.times(line.length))) > 1e-3
                {
                    continue;
                }
                let (one, two) = (from.minus(line.a).dot(line.along), to.minus(line.a).dot(line.along));
                let (low, high) = (opening.hole[0].y, opening.hole[1].y);
                self.spans.push(Span { side, from: one.min(two) - 0.05, to: one.max(two) + 0.05, low: low - 0.1, high: high + 0.1 });
            }
        }
    }

    /// Whether a rectangle of floor is inside the room.
    pub(super) fn holds(&self, patch: &Patch) -> bool {
        let cell = |value: f64| libm::floor(value / self.plan.cell);
        let (left, right) = (cell(patch.low.x + 2e-3), cell(patch.high.x - 2e-3));
        let (low, high) = (cell(patch.low.z + 2e-3), cell(patch.high.z - 2e-3));
        if left < 0.0
            || low < 0.0
            || patch.low.x < self.low.x
            || patch.low.z < self.low.z
            || patch.high.x > self.high.x
            || patch.high.z > self.high.z
        {
            return false;
        }
        (left as usize..=right as usize)
            .all(|column| (low as usize..=high as usize).all(|row| self.plan.at(column, row) == Some(self.number)))
    }

    /// The cells that the robot reaches between the room's ways in, or none where it cannot get from one to the other.
    ///
    /// `blocked`: what stands on the floor.
    pub(super) fn reached(&self, blocked: &[Patch]) -> Option<Vec<Vec2>> {
        let columns = (libm::ceil((self.high.x - self.low.x) / CELL) as usize).max(1);
        let rows = (libm::ceil((self.high.z - self.low.z) / CELL) as usize).max(1);
        let middle =
            |cell: usize| vec2(self.low.x + ((cell % columns) as f64 + 0.5) * CELL, self.low.z + ((cell / columns) as f64 + 0.5) * CELL);
        let mut free: Vec<bool> = (0..columns * rows)
            .map(|cell| {
                let at = middle(cell);
                self.plan.at((at.x / self.plan.cell) as usize, (at.z / self.plan.cell) as usize) == Some(self.number)
            })
            .collect();
        let mut clear = |patch: Patch| {
            let wide = patch.grown(BODY);
            let index = |value: f64, count: usize| (libm::floor(value / CELL).max(0.0) as usize).min(count - 1);
            let (left, right) = (index(wide.low.x - self.low.x, columns), index(wide.high.x - self.low.x, columns));
            let (low, high) = (index(wide.low.z - self.low.z, rows), index(wide.high.z - self.low.z, rows));
            for row in low..=high {
                for column in left..=right {
                    let cell = row * columns + column;
                    if free[cell] && patch.distance(middle(cell)) < BODY {
                        free[cell] = false;
                    }
                }
            }
        };
        for side in &self.sides {
            let (a, b) = (side.a, side.a.plus(side.along.times(side.length)));
            clear(Patch { low: vec2(a.x.min(b.x), a.z.min(b.z)), high: vec2(a.x.max(b.x), a.z.max(b.z)) });
        }
        blocked.iter().for_each(|&patch| clear(patch));
        let cell_of = |point: Vec2| {
            let (column, row) = (libm::floor((point.x - self.low.x) / CELL), libm::floor((point.z - self.low.z) / CELL));
            (column >= 0.0 && row >= 0.0 && column < columns as f64 && row < rows as f64).then(|| row as usize * columns + column as usize)
        };
        // A gate's own cell may be just too near to the wall: its neighbours count as well.
        let near_gate = |gate: Vec2| -> Option<usize> {
            let around = [(0.0, 0.0), (0.1, 0.0), (-0.1, 0.0), (0.0, 0.1), (0.0, -0.1)];
            around.into_iter().filter_map(|(x, z)| cell_of(gate.plus(vec2(x, z)))).find(|&cell| free[cell])
        };
        let gates: Option<Vec<usize>> = self.gates.iter().map(|&gate| near_gate(gate)).collect();
        let gates = gates?;
        let starts: Vec<usize> = match gates.first() {
            Some(&gate) => vec![gate],
            None => (0..free.len()).filter(|&cell| free[cell]).step_by(7).collect(),
        };
        let mut seen = vec![false; free.len()];
        for start in starts {
            if seen[start] {
                continue;
            }
            let cells = flood(start, &free, &mut seen, columns);
            if cells.len() as f64 * CELL * CELL >= LEAST_FLOOR_M2 && gates.iter().all(|gate| seen[*gate]) {
                return Some(cells.into_iter().map(middle).collect());
            }
        }
        None
    }
}

fn flood(start: usize, free: &[bool], seen: &mut [bool], columns: usize) -> Vec<usize> {
    let mut open = vec![start];
    let mut cells = Vec::new();
    seen[start] = true;
    while let Some(cell) = open.pop() {
        cells.push(cell);
        let column = cell % columns;
        let next = [
            (column > 0).then(|| cell - 1),
            (column + 1 < columns).then_some(cell + 1),
            cell.checked_sub(columns),
            (cell + columns < free.len()).then_some(cell + columns),
        ];
        for next in next.into_iter().flatten() {
            if free[next] && !seen[next] {
                seen[next] = true;
                open.push(next);
            }
        }
    }
    cells
}
