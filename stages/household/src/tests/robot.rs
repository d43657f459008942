//! The robot as it was measured: reach, heights, limits, cameras, and what counts as success of an action.

use super::*;
use crate::{
    robot::{BODY_HIGH, BODY_LOW, BODY_RADIUS},
    view::{HEIGHT, cameras},
};

/// The house's widest free place, so that nothing is in the way.
fn open_robot(home: &Home) -> Robot {
    let (low, high) = home.space.bounds();
    let grid = |low: f64, high: f64| (0..60).map(move |step| low + (high - low) * f64::from(step) / 60.0);
    let places = grid(low.x, high.x).flat_map(|x| grid(low.z, high.z).map(move |z| vec2(x, z)));
    let clear = |place: &crate::geometry::Vec2| {
        (0..16)
            .map(|turn| home.space.free_way(*place, crate::geometry::forward(22.5 * f64::from(turn)), 0.05, 1.5))
            .fold(f64::MAX, f64::min)
    };
    let best = places.filter(|place| home.space.body_fits(*place)).max_by(|one, other| clear(one).total_cmp(&clear(other))).unwrap();
    Robot::stowed(best, 0.0)
}

#[test]
fn the_hand_reaches_as_far_and_as_high_as_the_robots() {
    let robot = |lift, extension, wrist| Robot { lift, extension, wrist, ..Robot::stowed(vec2(0.0, 0.0), 0.0) };
    let start = robot(0.1645, 0.0, -180.0).hand();
    assert!((start.0.x + 0.061).abs() < 1e-3 && (start.0.z + 0.024).abs() < 1e-3 && (start.1 - 0.252).abs() < 1e-3, "{start:?}");
    let near = robot(LIFT.0, EXTENSION.0, 0.0).hand();
    let far = robot(LIFT.1, EXTENSION.1, 0.0).hand();
    assert!((near.0.x - 0.348).abs() < 1e-3 && (far.0.x - 0.864).abs() < 1e-3, "{near:?} {far:?}");
    assert!((near.1 - 0.032).abs() < 1e-3 && (far.1 - 1.133).abs() < 1e-3);
    assert!((WRIST.1 - WRIST.0 - 335.0).abs() < 1e-9);
    assert!((BODY_RADIUS - 0.185_462_8).abs() < 1e-9 && (BODY_HIGH - BODY_LOW - 1.435_714).abs() < 1e-9);
}

#[test]
fn cameras_are_where_they_are_measured_and_tilt_anew_each_episode() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let [navigation, manipulation] = cameras(&mut ChaCha8Rng::seed_from_u64(seed));
        assert!((navigation.height - 1.4457).abs() < 1e-4 && (manipulation.height - 1.4248).abs() < 1e-4);
        assert!((25.0..=29.0).contains(&navigation.pitch) && (31.0..=35.0).contains(&manipulation.pitch));
        assert!([navigation, manipulation].iter().all(|camera| (58.0..=60.0).contains(&camera.fov)));
        assert!((manipulation.yaw - 90.0).abs() < 1e-9 && navigation.yaw.abs() < 1e-9);
        seen.insert((navigation.pitch * 10.0) as i32);
    }
    assert!(seen.len() >= 15, "{seen:?}");
    let focal = f64::from(HEIGHT) / 2.0 / libm::tan(29.5_f64.to_radians());
    assert!((focal - 197.96).abs() < 0.01, "{focal}");
}

#[test]
fn each_action_changes_what_it_says_by_as_much_as_it_says() {
    let home = home(0);
    let first = Robot { lift: 0.5, extension: 0.2, ..open_robot(&home) };
    for (index, (way, turn, lift, extension, wrist)) in [
        (0.2, 0.0, 0.0, 0.0, 0.0),
        (0.0, 30.0, 0.0, 0.0, 0.0),
        (0.0, 330.0, 0.0, 0.0, 0.0),
        (-0.2, 0.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, 0.0),
        (0.0, 354.0, 0.0, 0.0, 0.0),
        (0.0, 6.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, -0.1, 0.0),
        (0.0, 0.0, 0.0, 0.1, 0.0),
        (0.0, 0.0, 0.1, 0.0, 0.0),
        (0.0, 0.0, -0.1, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, -10.0),
        (0.0, 0.0, 0.0, 0.0, 10.0),
        (0.0, 0.0, -0.02, 0.0, 0.0),
        (0.0, 0.0, 0.0, -0.02, 0.0),
        (0.0, 0.0, 0.0, 0.02, 0.0),
        (0.0, 0.0, 0.02, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, 0.0),
    ]
    .into_iter()
    .enumerate()
    {
        let action = ACTIONS[index].action;
        let (robot, worked) = first.after(action, &home.space);
        assert!(worked, "{action:?}");
        assert!((first.local(robot.position).z - way).abs() < 1e-9, "{action:?}");
        assert!((robot.yaw - turn).abs() < 1e-9, "{action:?}");
        assert!((robot.lift - first.lift - lift).abs() < 1e-9 && (robot.extension - first.extension - extension).abs() < 1e-9);
        assert!((robot.wrist - first.wrist - wrist).abs() < 1e-9, "{action:?}");
    }
}

#[test]
fn an_arm_at_its_stop_moves_the_rest_of_the_way_or_not_at_all() {
    let home = home(0);
    let first = Robot { lift: LIFT.1 - 0.03, ..open_robot(&home) };
    let (robot, worked) = first.after(Action::MoveArmUp, &home.space);
    assert!(worked && (robot.lift - LIFT.1).abs() < 1e-9);
    assert!(!robot.after(Action::MoveArmUp, &home.space).1);
    assert!(!Robot { lift: LIFT.1 - 0.0005, ..first }.after(Action::MoveArmUp, &home.space).1, "a millimetre is the least");
    let wrist = Robot { wrist: WRIST.1, ..first };
    assert!(!wrist.after(Action::WristClose, &home.space).1 && wrist.after(Action::WristOpen, &home.space).1);
}

#[test]
fn a_blocked_move_ends_part_way_and_a_blocked_turn_not_at_all() {
    let home = home(0);
    let mut robot = open_robot(&home);
    let mut moves = 0;
    let last = loop {
        let (after, worked) = robot.after(Action::MoveAhead, &home.space);
        let way = after.position.distance(robot.position);
        if way < 0.19 {
            assert_eq!(worked, way > 0.01);
            break after;
        }
        robot = after;
        moves += 1;
        assert!(moves < 200);
    };
    assert!(last.fits(&home.space));
    let ahead = last.place(vec2(0.0, 0.021));
    assert!(!Robot { position: ahead, ..last }.fits(&home.space), "it stopped within 2 cm of what stopped it");
    // With the arm stretched into something, a turn is taken back as a whole.
    let tested = (0..60).map(|step| Robot { yaw: 6.0 * f64::from(step), extension: EXTENSION.1, wrist: 0.0, lift: 0.5, ..last });
    let blocked = tested.filter(|robot| robot.fits(&home.space)).find_map(|robot| {
        let (after, worked) = robot.after(Action::RotateRight, &home.space);
        (!worked).then_some((robot, after))
    });
    assert!(blocked.is_none_or(|(before, after)| before == after));
}

#[test]
fn turns_are_noisy_where_asked_for() {
    let first = episode(1);
    let noisy = crate::tasks::Spec { rotation_noise: true, ..(*first.task).clone() };
    let mut episode = Episode::start(Arc::clone(&first.sim.home), Arc::new(noisy)).unwrap();
    let mut errors = Vec::new();
    for step in 0..60 {
        let before = episode.sim.robot.yaw;
        let right = step % 2 == 0;
        if episode.act(if right { Action::RotateRight } else { Action::RotateLeft }) {
            errors.push(crate::geometry::signed(episode.sim.robot.yaw - before - if right { 30.0 } else { -30.0 }));
        }
    }
    let spread = (errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64).sqrt();
    assert!(errors.len() > 20 && (0.3..0.8).contains(&spread), "{} turns, {spread} degrees", errors.len());
}
