//! Properties of houses, robot, expert and episode files.

use crate::{
    compile::compile,
    error::Error,
    expert::Expert,
    fetch::{Episode, FetchTask},
    freeze::{Frozen, freeze},
    generator::{HouseSplit, generate, generate_compiled},
    geometry::vec2,
    parse,
    robot::{ACTIONS, Action, EXTENSION, LIFT, Robot, WRIST},
    sample::{REPLY_ACTIONS, Tier, sample, solve},
    scene::Scene,
    sim::Home,
};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs::File, path::PathBuf, sync::Arc};

mod bad_houses;
mod generated;
mod real_houses;

/// A folder of real houses, where there is one.
fn shared() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = std::env::var_os("ERRAND_SHARED").map_or(beside, PathBuf::from).join("houses");
    let found = folder.join("val.jsonl.gz").exists();
    if !found {
        println!("no houses at {}: nothing tested", folder.display());
    }
    found.then_some(folder)
}

fn home(number: u64) -> Arc<Home> {
    Arc::new(Home::new(generate_compiled(HouseSplit::Train, number).unwrap().1))
}

/// The episode of the first house from this number on that gives one.
fn episode(number: u64) -> Episode {
    let given = (number..number + 5).find_map(|number| {
        let home = home(number);
        let sampled = sample(&home, Tier::Near, None, &mut ChaCha8Rng::seed_from_u64(number)).ok()?;
        Some(Episode::start(home, Arc::new(sampled.task)).unwrap())
    });
    given.unwrap()
}

#[test]
fn a_number_gives_the_same_house_and_another_number_another() {
    let bytes = |number| generate(HouseSplit::Train, number).unwrap().to_json();
    assert_eq!(bytes(7), bytes(7));
    assert_ne!(bytes(7), bytes(8));
    assert_ne!(bytes(7), generate(HouseSplit::HeldOut, 7).unwrap().to_json());
}

#[test]
fn generated_houses_are_of_the_schema_and_compile_alike() {
    for number in 0..20 {
        let (house, scene) = generate_compiled(HouseSplit::Train, number).unwrap();
        let read = parse::house(&house.to_json()).unwrap();
        assert_eq!(compile(&read).unwrap(), scene);
        assert_eq!(Scene::from_bytes(&scene.to_bytes()).unwrap(), scene);
        assert_eq!(scene.assumed, 0);
        let kinds: BTreeSet<&str> = scene.things.iter().map(|thing| thing.kind.as_str()).collect();
        assert!(kinds.len() >= 5, "house {number} has {kinds:?}");
        let ids: BTreeSet<&str> = scene.things.iter().map(|thing| thing.id.as_str()).collect();
        assert_eq!(ids.len(), scene.things.len(), "ids of house {number} are unique");
    }
}

#[test]
fn assets_of_training_and_held_out_houses_are_disjoint_where_marked() {
    let used = |split| -> BTreeSet<String> {
        let houses = (0..40).map(|number| generate(split, number).unwrap());
        houses.flat_map(|house| house.all_objects().map(|object| object.asset.clone()).collect::<Vec<_>>()).collect()
    };
    let (train, held_out) = (used(HouseSplit::Train), used(HouseSplit::HeldOut));
    for both in train.intersection(&held_out) {
        assert_eq!(crate::assets::find(both).unwrap().split, None, "{both} is in both");
    }
}

#[test]
fn every_action_has_one_name_and_its_code() {
    let mut names = BTreeSet::new();
    for (index, spelling) in ACTIONS.iter().enumerate() {
        assert_eq!(spelling.action as usize, index);
        for name in std::iter::once(&spelling.name).chain(spelling.aliases) {
            assert!(names.insert(*name), "{name} is used twice");
            assert_eq!(Action::named(name), Some(spelling.action));
        }
    }
}

#[test]
fn the_stowed_hand_is_where_a_real_episode_has_it() {
    // From the first frame's metadata of a recorded episode: agent at (4.2, 5.0), yaw 90.
    let robot = Robot { lift: 0.3274765 - 0.1629765, ..Robot::stowed(vec2(4.2, 5.0), 90.0) };
    let (hand, height) = robot.hand();
    assert!(hand.distance(vec2(4.17615, 5.06099)) < 2e-3, "{hand:?}");
    assert!((height - 0.2524).abs() < 1e-3);
}

#[test]
fn arm_and_wrist_stop_at_their_limits() {
    let home = home(0);
    let episode = episode(0);
    let mut robot = episode.sim.robot;
    let open = |robot: &Robot, action| robot.after(action, &home.space);
    for (action, reached) in [(Action::MoveArmUp, LIFT.1), (Action::MoveArmDown, LIFT.0)] {
        for _ in 0..15 {
            robot = open(&robot, action).0;
        }
        assert!((robot.lift - reached).abs() < 1e-9, "{action:?}: {}", robot.lift);
        assert!(!open(&robot, action).1);
    }
    assert!(!open(&Robot { extension: EXTENSION.0, ..robot }, Action::MoveArmIn).1);
    let twisted = Robot { wrist: WRIST.1 - 5.0, ..robot }.after(Action::WristClose, &home.space);
    assert!(twisted.0.wrist <= WRIST.1);
}

#[test]
fn strict_success_needs_done_while_held_and_lenient_does_not() {
    let mut episode = episode(3);
    let mut expert = Expert::default();
    while !episode.holds_target() {
        for action in expert.next(&episode, REPLY_ACTIONS) {
            assert!(episode.act(action), "{action:?} failed");
        }
    }
    assert!(episode.lenient() && !episode.success() && episode.progress() < 1.0);
    let mut dropped = episode.clone();
    assert!(dropped.act(Action::Dropoff));
    dropped.act(Action::Done);
    assert!(dropped.over && !dropped.success() && dropped.lenient());
    episode.act(Action::Done);
    assert!(episode.over && episode.success());
    assert!((episode.progress() - 1.0).abs() < f32::EPSILON);
    let names: Vec<&str> = episode.milestones.iter().map(|milestone| milestone.name()).collect();
    assert_eq!(names, ["seen", "within_2m", "in_hand_sphere", "held", "done"]);
}

#[test]
fn what_is_dropped_falls_and_can_be_taken_again() {
    let mut episode = episode(5);
    let mut expert = Expert::default();
    let mut take = |episode: &mut Episode| {
        while !episode.holds_target() {
            let actions = expert.next(episode, REPLY_ACTIONS);
            assert!(!actions.is_empty());
            actions.into_iter().for_each(|action| {
                episode.act(action);
            });
        }
    };
    take(&mut episode);
    episode.act(Action::Dropoff);
    let (thing, height) = episode.sim.moved.iter().next().map(|(thing, pose)| (*thing, pose.height)).unwrap();
    assert!((height - f64::from(episode.sim.thing(thing).size[1]) / 2.0) > -1e-6, "it lies on something");
    take(&mut episode);
}

#[test]
fn equal_states_have_equal_keys() {
    let (mut one, mut other) = (episode(6), episode(6));
    assert_eq!(one.key(), other.key());
    one.act(Action::RotateLeft);
    assert_ne!(one.key(), other.key());
    other.act(Action::RotateLeft);
    assert_eq!(one.key(), other.key());
}

#[test]
fn the_expert_solves_what_is_sampled() {
    let (mut solved, mut steps) = (0, 0);
    for number in 0..60 {
        let home = home(number);
        let Ok(sampled) = sample(&home, Tier::Near, None, &mut ChaCha8Rng::seed_from_u64(number)) else { continue };
        assert!(sampled.expert_length <= 50);
        assert_eq!(solve(&home, &sampled.task, 50), Some(sampled.expert_length));
        solved += 1;
        steps += sampled.expert_length;
    }
    println!("{solved} of 60 houses gave an episode, {:.1} actions each", f64::from(steps) / f64::from(solved));
    assert!(solved >= 57);
}

#[test]
fn the_expert_recovers_from_slips() {
    let mut solved = 0;
    for number in 0..30 {
        let mut episode = episode(number);
        let mut expert = Expert::default();
        let mut slips = (0..).map(|step: u32| step % 4 == 3);
        while !episode.over && episode.steps < 200 {
            if slips.next() == Some(true) && !episode.holds_target() {
                episode.act(ACTIONS[(episode.steps as usize * 7 + number as usize) % 4].action);
                if episode.over {
                    break;
                }
            }
            let actions = expert.next(&episode, REPLY_ACTIONS);
            if actions.is_empty() {
                break;
            }
            actions.into_iter().for_each(|action| {
                episode.act(action);
            });
        }
        solved += u32::from(episode.success() || episode.last == Some((Action::Done, true)));
    }
    assert!(solved >= 26, "only {solved} of 30");
}

#[test]
fn a_frozen_file_is_made_again_byte_by_byte() {
    let text = freeze(Tier::Near, 12).unwrap();
    assert_eq!(text, freeze(Tier::Near, 12).unwrap());
    assert_eq!(text.lines().count(), 12);
    for line in text.lines() {
        let frozen = Frozen::from_line(line).unwrap();
        let (_, scene) = generate_compiled(HouseSplit::HeldOut, frozen.house_index).unwrap();
        assert_eq!(crate::freeze::digest(&scene.to_bytes()), frozen.house_digest);
        let task = frozen.task().unwrap();
        assert_eq!(solve(&Arc::new(Home::new(scene)), &task, 50), Some(frozen.expert_length));
    }
}

/// The committed file's first lines are what the program makes today.
#[test]
fn the_committed_episodes_are_reproducible() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../pipelines/episodes");
    for (name, tier) in [("fetch-near.jsonl", Tier::Near), ("fetch-all.jsonl", Tier::All)] {
        let committed = std::fs::read_to_string(folder.join(name)).unwrap();
        let made = freeze(tier, 20).unwrap();
        assert!(committed.starts_with(&made), "{name} differs from what the generator makes now");
        assert_eq!(committed.lines().count(), 200);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is asked for, body and arm stay out of walls and furniture, and within their limits.
    #[test]
    fn the_robot_never_leaves_free_space(number in 0_u64..12, actions in proptest::collection::vec(0_usize..20, 1..120)) {
        let mut episode = episode(number);
        for index in actions {
            let action = ACTIONS[index].action;
            if action == Action::Done {
                continue;
            }
            let before = episode.sim.robot;
            let worked = episode.act(action);
            let robot = episode.sim.robot;
            prop_assert!(robot.fits(&episode.sim.home.space), "{action:?} led to {robot:?}");
            prop_assert!(robot.lift >= LIFT.0 && robot.lift <= LIFT.1);
            prop_assert!(robot.extension >= EXTENSION.0 && robot.extension <= EXTENSION.1);
            prop_assert!(robot.wrist >= WRIST.0 && robot.wrist <= WRIST.1);
            prop_assert!(before.position.distance(robot.position) <= 0.2 + 1e-9);
            if !worked && !action.is_base() {
                prop_assert_eq!(before, robot);
            }
        }
    }

    /// The same actions from the same start lead to the same state.
    #[test]
    fn episodes_are_deterministic(number in 0_u64..6, actions in proptest::collection::vec(0_usize..20, 1..40)) {
        let (mut one, mut other) = (episode(number), episode(number));
        for index in actions {
            prop_assert_eq!(one.act(ACTIONS[index].action), other.act(ACTIONS[index].action));
        }
        prop_assert_eq!(one.key(), other.key());
    }
}
