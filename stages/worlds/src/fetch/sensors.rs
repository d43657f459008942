//! The robot's sensors: from the episode as it stands, without a picture.

use crate::sensors::{BOX_PIXELS, Sensors};
use household::{
    geometry::{forward, right, signed, yaw_of},
    robot::{PIVOT_HEIGHT, hand_height, wrist_root},
    sim::Sim,
    tasks::Episode,
    view::Eye,
};
use render::{Size, optics::View};

/// A target this near counts, metres.
const NEAR_M: f64 = 4.0;
const EYES: [Eye; 2] = [Eye::Navigation, Eye::Manipulation];

pub(super) fn sensors(episode: &Episode) -> Sensors {
    let (sim, targets) = (&episode.sim, &episode.targets);
    let robot = &sim.robot;
    let shown = EYES.map(|eye| {
        let frame = sim.frame(eye);
        targets.iter().map(|&target| frame.shows(sim, target)).collect::<Vec<bool>>()
    });
    let distance = |target: usize| {
        let (place, height) = sim.centre(target);
        let (flat, rise) = (place.distance(robot.position), height - PIVOT_HEIGHT);
        libm::sqrt(flat * flat + rise * rise)
    };
    let off = |target: usize| signed(yaw_of(sim.centre(target).0.minus(robot.position)) - robot.yaw).abs();
    let seen = |at: usize| shown[0][at] || shown[1][at];
    let alignments = (0..targets.len()).filter(|&at| seen(at)).map(|at| off(targets[at]));
    let near = (0..targets.len()).filter(|&at| shown[0][at] && distance(targets[at]) <= NEAR_M);
    let room = episode.room();
    let home = &sim.home.scene.rooms;
    let names = |things: &[usize]| things.iter().map(|&thing| sim.thing(thing).id.clone()).collect();
    Sensors {
        agent: [robot.position.x, PIVOT_HEIGHT, robot.position.z, 0.0, robot.yaw, 0.0],
        arm: [wrist_root().x + robot.extension, hand_height(robot.lift), wrist_root().z, robot.wrist],
        held: names(&sim.held),
        target_distance: targets.iter().map(|&target| distance(target)).min_by(f64::total_cmp).unwrap_or(-1.0),
        target_alignment: alignments.min_by(f64::total_cmp).unwrap_or(-1.0),
        targets_near: near.count() as u32,
        would_succeed: episode.accomplished(),
        room: home.get(room).map(|room| room.id.clone()).unwrap_or_default(),
        room_kind: home.get(room).map(|room| room.kind.clone()).unwrap_or_default(),
        rooms_seen: episode.claimed.len() as u32,
        room_seen: episode.claimed.contains(&room),
        targets: names(targets),
        boxes: [0, 1]
            .map(|eye| (0..targets.len()).map(|at| shown[eye][at].then(|| boxed(sim, EYES[eye], targets[at])).flatten()).collect()),
    }
}

/// A thing's upright box in a camera's picture, cut off at the picture's edge.
fn boxed(sim: &Sim, eye: Eye, thing: usize) -> Option<[f32; 4]> {
    let (width, height) = (BOX_PIXELS.0 as f32, BOX_PIXELS.1 as f32);
    let view = View::of(&sim.cameras[eye as usize], &sim.robot, Size { width: BOX_PIXELS.0 as usize, height: BOX_PIXELS.1 as usize });
    let (pose, half) = (sim.pose(thing), sim.thing(thing).size.map(|side| f64::from(side) / 2.0));
    let (aside, ahead) = (right(pose.yaw), forward(pose.yaw));
    let corner = |number: usize| {
        let side = |bit: usize| if number >> bit & 1 == 0 { -1.0 } else { 1.0 };
        let place = pose.centre.plus(aside.times(side(0) * half[0])).plus(ahead.times(side(2) * half[2]));
        view.project([place.x as f32, (pose.height + side(1) * half[1]) as f32, place.z as f32])
    };
    // A corner behind the eye has no place in the picture; the others bound what is to be seen.
    let corners: Vec<[f32; 3]> = (0..8).filter_map(corner).collect();
    let bounds = |axis: usize, most: f32| {
        let values = corners.iter().map(|corner| corner[axis].clamp(0.0, most));
        (values.clone().fold(most, f32::min), values.fold(0.0, f32::max))
    };
    let ((left, right), (top, bottom)) = (bounds(0, width - 1.0), bounds(1, height - 1.0));
    (!corners.is_empty()).then_some([top, bottom, left, right])
}

#[cfg(test)]
mod tests {
    use super::super::Fetch;
    use crate::{Houses, Kind as _};

    #[test]
    fn sensors_follow_the_robot_to_what_it_takes() {
        let kind = Fetch::new(false, &toml::Table::new(), Houses { generated: 64, ..Houses::default() }).unwrap();
        let task = kind.sample(11, None).unwrap();
        let scene = kind.scene(&task).unwrap().unwrap();
        let mut world = kind.start(&task, Some(&scene.bytes)).unwrap();
        let first = world.sensors().unwrap();
        assert!(first.target_distance > 0.0 && first.held.is_empty() && !first.would_succeed && !first.room.is_empty());
        assert!(first.targets.len() == first.boxes[0].len() && first.targets.len() == first.boxes[1].len());
        let (mut boxes, mut taken) = (0, false);
        for _ in 0..200 {
            let Some(action) = world.expert(1).actions.first().cloned() else { break };
            assert!(world.advice().is_some());
            let over = world.act(&action).unwrap().over;
            let now = world.sensors().unwrap();
            for [top, bottom, left, right] in now.boxes.iter().flatten().flatten().copied() {
                assert!(0.0 <= top && top <= bottom && bottom <= 223.0 && 0.0 <= left && left <= right && right <= 383.0);
                boxes += 1;
            }
            assert_eq!(now.target_alignment < 0.0, now.boxes.iter().flatten().all(Option::is_none));
            taken |= now.would_succeed && now.targets.contains(&now.held[0]);
            if over {
                break;
            }
        }
        assert!(taken && boxes > 0, "taken {taken}, {boxes} boxes");
    }
}
