//! Light things give way: they are shifted over the floor, or over what they stand on, until they touch no more.
//!
//! An approximation of a physics engine, in four rules. What is touched moves along the shortest way out of the contact,
//! without turning or tipping over. What stands on it goes with it. It stops at what is fixed or heavy, and stops the robot
//! there; light things pass through each other. After the action it falls to what is then below it.

use crate::{
    geometry::{Block, Vec2, forward, right, vec2},
    robot::{ARM_RADIUS, BODY_HIGH, BODY_RADIUS, Limb, Robot},
    sim::{Pose, SKIN_M, Sim},
    space::clearance,
};

/// A thing may be shifted this often in one step of a motion before it counts as stuck.
const SHIFTS: u32 = 4;
/// A shift where there is no shortest way, metres; and what is added to the others.
const SHOVE_M: f64 = 0.02;
const PARTING_M: f64 = 1e-4;

impl Sim {
    /// The light things that the robot may touch in one action, and where they are.
    pub(crate) fn light_around(&self) -> Vec<(usize, Block)> {
        let robot = &self.robot;
        let stretched = robot.limbs().next().is_some() || !self.held.is_empty();
        let reach = if stretched { 1.3 } else { 0.55 } + if self.held.is_empty() { 0.0 } else { 0.5 };
        let near = |&number: &usize| {
            let (pose, size) = (self.rest(number), self.thing(number).size.map(f64::from));
            let far = reach + (size[0] + size[2]) / 2.0;
            let offset = pose.centre.minus(robot.position);
            offset.x.abs() < far && offset.z.abs() < far && pose.height - size[1] / 2.0 < BODY_HIGH
        };
        let near = self.home.light.iter().copied().filter(|number| near(number) && !self.held.contains(number));
        near.map(|number| (number, self.boxed(number, &self.rest(number)))).collect()
    }

    /// Shifts what is in the way of a step, and its boxes among those nearby; false: something cannot give way. What was
    /// shifted is added to `pushed`.
    pub(crate) fn push(&mut self, from: &Robot, to: &Robot, near: &mut [(usize, Block)], pushed: &mut Vec<usize>) -> bool {
        let step = Step { from, to, bodies: [from.body(), to.body()], limbs: [from.limbs().collect(), to.limbs().collect()] };
        (0..near.len()).all(|at| {
            let shifted = pushed.len();
            let free = self.push_one(near[at], &step, pushed);
            for &number in &pushed[shifted..] {
                for (_, block) in near.iter_mut().filter(|(other, _)| *other == number) {
                    *block = self.boxed(number, &self.rest(number));
                }
            }
            free
        })
    }

    fn push_one(&mut self, (number, first): (usize, Block), step: &Step, pushed: &mut Vec<usize>) -> bool {
        if self.contact(&first, step).is_none() {
            return true;
        }
        let mut block = first;
        for _ in 0..SHIFTS {
            let Some(shift) = self.contact(&block, step) else { break };
            block = block.shifted(shift);
        }
        if self.contact(&block, step).is_some() || !self.enters_nothing(&first, &block) {
            return false;
        }
        let way = block.centre.minus(first.centre);
        for moved in self.riders(number, &first).into_iter().chain([number]) {
            let pose = self.rest(moved);
            self.moved.insert(moved, Pose { centre: pose.centre.plus(way), ..pose });
            pushed.push(moved);
        }
        true
    }

    /// How a box must be shifted so that the robot at `to` touches it no more; `None`: it touches it no deeper than before,
    /// so that what stands among things, or took one from among others, can leave.
    fn contact(&self, block: &Block, step: &Step) -> Option<Vec2> {
        body_contact(block, step).or_else(|| arm_contact(block, step)).or_else(|| {
            let mut loads = self.loads(step.from).zip(self.loads(step.to));
            let deeper = |(before, after): &(Block, Block)| {
                let depth = after.overlap(block);
                depth > 2.0 * SKIN_M && depth > before.overlap(block) + 1e-9
            };
            loads.find(deeper).map(|_| carried(block.centre, step.from, step.to))
        })
    }
}

/// One step of a motion, with what of the robot is where before and after it.
struct Step<'a> {
    from: &'a Robot,
    to: &'a Robot,
    bodies: [Vec2; 2],
    limbs: [Vec<Limb>; 2],
}

fn body_contact(block: &Block, step: &Step) -> Option<Vec2> {
    let [before, axis] = step.bodies;
    let far = block.floor_distance(axis);
    if far >= BODY_RADIUS {
        return None;
    }
    let wanted = clearance(block);
    if far >= wanted || far >= block.floor_distance(before) {
        return None;
    }
    if far < 1e-6 {
        return Some(shove(axis.minus(before)));
    }
    Some(block.nearest(axis).minus(axis).times((wanted - far + PARTING_M) / far))
}

fn arm_contact(block: &Block, step: &Step) -> Option<Vec2> {
    // A cheap bound first: most things are nowhere near the arm.
    let bound = block.half.length() + ARM_RADIUS;
    let far = |limb: &Limb| {
        let (middle, half) = (limb.a.plus(limb.b).times(0.5), limb.a.distance(limb.b) / 2.0);
        middle.distance(block.centre) > bound + half + SKIN_M
    };
    if step.limbs[1].iter().all(far) {
        return None;
    }
    let near = |limbs: &[Limb]| limbs.iter().map(|limb| limb.distance(block)).fold(f64::MAX, f64::min);
    let now = near(&step.limbs[1]);
    if now >= ARM_RADIUS || now >= near(&step.limbs[0]) {
        return None;
    }
    let limb = step.limbs[1].iter().min_by(|one, other| one.distance(block).total_cmp(&other.distance(block)))?;
    let gap = block.gap(limb.low, limb.high);
    let wanted = (ARM_RADIUS * ARM_RADIUS - gap * gap).max(0.0).sqrt();
    let missing = wanted - block.segment_distance(limb.a, limb.b) + PARTING_M;
    let carried = carried(block.centre, step.from, step.to);
    // An arm that comes from above or below shoves aside what it meets, away from its line.
    let direction = if carried.length() > 1e-9 { carried } else { block.centre.minus(limb.a.plus(limb.b).times(0.5)) };
    Some(shove(direction).times((missing / SHOVE_M).clamp(0.05, 1.0)))
}

/// A shift in a direction.
fn shove(direction: Vec2) -> Vec2 {
    let length = direction.length();
    if length < 1e-9 { vec2(SHOVE_M, 0.0) } else { direction.times(SHOVE_M / length) }
}

/// How a point would move if it were fixed to the hand.
fn carried(point: Vec2, from: &Robot, to: &Robot) -> Vec2 {
    let (before, after) = (from.hand().0, to.hand().0);
    let (was, is) = (from.hand_yaw(), to.hand_yaw());
    let offset = point.minus(before);
    let local = vec2(offset.dot(right(was)), offset.dot(forward(was)));
    after.plus(right(is).times(local.x)).plus(forward(is).times(local.z)).minus(point)
}
