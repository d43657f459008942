//! What it costs to drive from any pose of the base to a goal, in actions: a grid of places and headings.
//!
//! In: the floor, what is light on it, and poses that are a goal with the price of what is left to do there. Out: a price for
//! every pose. It is the expert's sense of direction: places are rounded to cells of 0.1 m and headings to twelfths of a
//! circle, so it ranks the robot's own moves, which a search then takes exactly.

use crate::{
    field::Floor,
    geometry::{Vec2, forward, wrap},
    reach::UNIT,
    robot::{BODY_BEHIND, MOVE_M, Robot, TURN_DEG},
};

/// Headings of the grid.
pub(crate) const HEADINGS: usize = 12;
/// Going back costs more than it takes, since the robot does not look there.
pub(crate) const BACK: u32 = 10;
/// Pushing something light costs as much as going round it by this many quarters of an action.
pub(crate) const PUSH: u32 = 12;
/// A move that ends next to an obstacle is dearer by this.
const TIGHT: u32 = 1;
/// Prices are told up to this much above the pose that they were asked for, in quarters of an action.
const BEYOND: u32 = 120;
const NEVER: u32 = u32::MAX;

/// A pose of the grid that is a goal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The pivot's cell.
    pub(crate) cell: usize,
    pub(crate) heading: usize,
    /// What is left to do there, in quarters of an action.
    pub(crate) cost: u32,
}

/// The grid's headings and what each means in cells.
#[derive(Clone, Copy)]
pub(crate) struct Headings {
    /// The first one, degrees.
    first: f64,
    /// From the pivot's cell to the body's, to the next pivot's of a move ahead, and to the body's half-way there.
    shifts: [[(i64, i64); 3]; HEADINGS],
}

impl Headings {
    /// Such that a yaw is one of them.
    pub(crate) fn around(yaw: f64) -> Headings {
        let first = libm::fmod(wrap(yaw) + 360.0, TURN_DEG);
        let cells = |offset: Vec2| (libm::round(offset.x / Floor::CELL) as i64, libm::round(offset.z / Floor::CELL) as i64);
        let shifts = std::array::from_fn(|heading| {
            let ahead = forward(first + TURN_DEG * heading as f64);
            [ahead.times(-BODY_BEHIND), ahead.times(MOVE_M), ahead.times(MOVE_M / 2.0 - BODY_BEHIND)].map(cells)
        });
        Headings { first, shifts }
    }

    /// Degrees.
    pub(crate) fn yaw(&self, heading: usize) -> f64 {
        self.first + TURN_DEG * heading as f64
    }

    /// The pivot's cell where the body is over a cell.
    pub(crate) fn pivot(&self, floor: &Floor, body: usize, heading: usize) -> Option<usize> {
        let (across, along) = self.shifts[heading][0];
        floor.shifted(body, -across, -along)
    }

    /// The nearest one to a yaw.
    fn nearest(&self, yaw: f64) -> usize {
        libm::round(libm::fmod(yaw - self.first + 720.0, 360.0) / TURN_DEG) as usize % HEADINGS
    }
}

/// Prices of poses.
pub(crate) struct Lattice {
    headings: Headings,
    /// By cell and heading, quarters of an action.
    prices: Vec<u32>,
    /// Poses with no price are not cheaper than this.
    limit: u32,
    /// Every pose from which a way leads to a goal has its price.
    complete: bool,
    /// Headings, a bit each, by cell, where a goal is or is next to.
    near: Vec<u16>,
}

impl Lattice {
    /// Prices to the cheapest goal, up to a little beyond that of `from`. `light`: cells where the body touches what it can push.
    pub(crate) fn new(floor: &Floor, headings: Headings, targets: &[Target], light: &[bool], from: &Robot) -> Lattice {
        let mut lattice = Lattice {
            headings,
            prices: vec![NEVER; floor.cells() * HEADINGS],
            limit: NEVER,
            complete: false,
            near: vec![0; floor.cells()],
        };
        for target in targets {
            let around = [HEADINGS - 1, 0, 1].map(|turn| 1_u16 << ((target.heading + turn) % HEADINGS)).into_iter().sum::<u16>();
            lattice.near[target.cell] |= around;
            floor.around(target.cell).for_each(|(next, _)| lattice.near[next] |= around);
        }
        let start = floor.cell(from.position).map(|cell| cell * HEADINGS + headings.nearest(from.yaw));
        lattice.spread(floor, targets, light, start);
        lattice
    }

    /// Dijkstra's algorithm backwards over the moves, with one bucket a price.
    fn spread(&mut self, floor: &Floor, targets: &[Target], light: &[bool], start: Option<usize>) {
        const BUCKETS: usize = 512;
        let mut buckets: Vec<Vec<u32>> = vec![Vec::new(); BUCKETS];
        let offer = |prices: &mut Vec<u32>, buckets: &mut Vec<Vec<u32>>, pose: usize, price: u32| {
            if price < prices[pose] {
                prices[pose] = price;
                buckets[price as usize % BUCKETS].push(pose as u32);
            }
        };
        for target in targets {
            // What costs more than there are buckets is no goal that anyone would drive to first.
            offer(&mut self.prices, &mut buckets, target.cell * HEADINGS + target.heading, target.cost.min(BUCKETS as u32 - 64));
        }
        let body = |cell: usize, heading: usize, shift: usize| {
            let (across, along) = self.headings.shifts[heading][shift];
            floor.shifted(cell, across, along).filter(|&body| floor.is_free(body))
        };
        let (mut now, mut empty) = (0, 0);
        while empty < BUCKETS && now < self.limit {
            let slot = now as usize % BUCKETS;
            let Some(pose) = buckets[slot].pop() else {
                empty += 1;
                now += 1;
                continue;
            };
            empty = 0;
            let pose = pose as usize;
            if self.prices[pose] != now {
                continue;
            }
            if Some(pose) == start {
                self.limit = now + BEYOND;
            }
            let (cell, heading) = (pose / HEADINGS, pose % HEADINGS);
            let Some(here) = body(cell, heading, 0) else { continue };
            let entered = if light[here] { PUSH } else { 0 };
            let dear = |there: usize| if light[there] { 0 } else { entered };
            for other in [(heading + 1) % HEADINGS, (heading + HEADINGS - 1) % HEADINGS] {
                if let Some(there) = body(cell, other, 0) {
                    offer(&mut self.prices, &mut buckets, cell * HEADINGS + other, now + UNIT + dear(there));
                }
            }
            let tight = if floor.is_wide(here) { 0 } else { TIGHT };
            let (across, along) = self.headings.shifts[heading][1];
            for (sign, cost) in [(-1, UNIT), (1, BACK)] {
                let Some(before) = floor.shifted(cell, sign * across, sign * along) else { continue };
                let Some(there) = body(before, heading, 0) else { continue };
                let middle = if sign < 0 { body(before, heading, 2) } else { body(cell, heading, 2) };
                if middle.is_some() {
                    offer(&mut self.prices, &mut buckets, before * HEADINGS + heading, now + cost + tight + dear(there));
                }
            }
        }
        self.complete = empty == BUCKETS;
        self.limit = if self.complete { 0 } else { now };
    }

    /// Whether a goal is at or next to a pose.
    pub(crate) fn is_near(&self, floor: &Floor, robot: &Robot) -> bool {
        floor.cell(robot.position).is_some_and(|cell| self.near[cell] & (1 << self.headings.nearest(robot.yaw)) != 0)
    }

    /// The price of a pose, in quarters of an action; `None`: no way leads from there, or from the places around it, to a goal.
    pub(crate) fn price(&self, floor: &Floor, robot: &Robot) -> Option<u32> {
        let cell = floor.cell(robot.position)?;
        let heading = self.headings.nearest(robot.yaw);
        let at = |cell: usize| self.prices[cell * HEADINGS + heading];
        let here = at(cell);
        let price = if here == NEVER { floor.around(cell).map(|(next, _)| at(next)).min().unwrap_or(NEVER) } else { here };
        (price != NEVER).then_some(price)
    }

    /// Whether it was made for where a pose is: one beyond its limit is better asked of a new one.
    pub(crate) fn covers(&self, floor: &Floor, robot: &Robot) -> bool {
        self.complete || self.price(floor, robot).is_some()
    }

    /// What poses cost at least that it has no price for, though a way leads from there.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }
}
