//! Whatever is done, nothing is inside a wall, nothing is lost, and the same actions give the same bytes.

use super::*;
use crate::{geometry::Block, sim::Sim, view::cameras};

const SKIN_M: f64 = 0.001;

fn sim(home: &Arc<Home>, rng: &mut ChaCha8Rng) -> Sim {
    let (low, high) = home.space.bounds();
    let robot = loop {
        let place = vec2(rng.random_range(low.x..high.x), rng.random_range(low.z..high.z));
        let robot = Robot::stowed(place, rng.random_range(0.0..360.0));
        if robot.fits(&home.space) {
            break robot;
        }
    };
    Sim::new(Arc::clone(home), robot, cameras(rng))
}

/// How deep a box is in a wall of the scene; not positive: in none.
fn in_wall(home: &Home, block: &Block) -> f64 {
    home.space.walls().map(|wall| wall.overlap(block)).fold(-1.0, f64::max)
}

/// Runs random actions and checks after each that all is well; tells the state's digest.
fn shake(home: &Arc<Home>, seed: u64, actions: u32) -> Result<blake3::Hash, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut sim = sim(home, &mut rng);
    let mut inside = vec![f64::MIN; home.scene.things.len()];
    for step in 0..actions {
        let action = ACTIONS[rng.random_range(0..20)].action;
        let held_before = sim.held.clone();
        sim.act(action);
        let robot = sim.robot;
        let numbers = [robot.position.x, robot.position.z, robot.yaw, robot.lift, robot.extension, robot.wrist];
        if numbers.iter().any(|number| !number.is_finite()) || !robot.fits(&home.space) {
            return Err(format!("step {step}: {action:?} led to {robot:?}"));
        }
        for &held in &sim.held {
            let depth = in_wall(home, &sim.block(held));
            // What stood in a wall when it was taken may still leave it.
            if !held_before.contains(&held) {
                inside[held] = depth;
            }
            if depth > SKIN_M.max(inside[held] + 1e-6) {
                return Err(format!("step {step}: {action:?} put {} {depth} m into a wall", sim.thing(held).id));
            }
            inside[held] = inside[held].min(depth);
        }
        if sim.moved.values().any(|pose| !(pose.centre.x + pose.centre.z + pose.height + pose.yaw).is_finite()) {
            return Err(format!("step {step}: a thing is nowhere"));
        }
    }
    let mut hasher = blake3::Hasher::new();
    sim.hash(&mut hasher);
    Ok(hasher.finalize())
}

#[test]
fn random_actions_in_real_houses_leave_nothing_in_a_wall() {
    let Some(folder) = shared() else { return };
    for (number, (_, json)) in parse::lines(File::open(folder.join("val.jsonl.gz")).unwrap()).enumerate().step_by(3) {
        let home = Arc::new(Home::new(compile(&parse::house(&json.unwrap()).unwrap()).unwrap()));
        shake(&home, number as u64, 1_500).unwrap_or_else(|error| panic!("house {number}: {error}"));
    }
}

#[test]
fn the_same_seed_and_actions_give_the_same_bytes_on_any_machine() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/tests/small_house.json");
    let home = Arc::new(Home::new(compile(&parse::house(&std::fs::read(folder).unwrap()).unwrap()).unwrap()));
    let digest = shake(&home, 11, 4_000).unwrap();
    assert_eq!(digest, shake(&home, 11, 4_000).unwrap());
    assert_eq!(digest.to_hex().as_str(), GOLDEN, "the physics changed, or this machine computes otherwise");
}

/// Of the state after 4,000 random actions in the small house.
const GOLDEN: &str = "34612d8860628572dbf74fb36abbd866ff87084fb85858ecdbe39c1f033f3a5a";

#[test]
fn what_is_light_is_pushed_and_what_is_heavy_is_not() {
    let (mut pushed, mut stopped) = (0, 0);
    for number in 0..6 {
        let home = home(number);
        let mut rng = ChaCha8Rng::seed_from_u64(number);
        for _ in 0..8 {
            let mut sim = sim(&home, &mut rng);
            for _ in 0..60 {
                let before = sim.moved.len();
                let worked = sim.act(Action::MoveAhead);
                pushed += usize::from(sim.moved.len() > before);
                if !worked {
                    stopped += 1;
                    sim.act(Action::RotateRight);
                }
            }
            for &number in sim.moved.keys() {
                assert!(!home.scene.things[number].blocks, "{} was pushed", home.scene.things[number].id);
                let block = sim.block(number);
                assert!(block.low > -SKIN_M, "{} is under the floor", home.scene.things[number].id);
            }
        }
    }
    assert!(pushed > 0 && stopped > 0, "{pushed} pushed, {stopped} stopped");
}

#[test]
fn what_is_held_goes_with_the_hand_and_lies_on_something_once_let_go() {
    let mut episode = episode(4);
    let mut expert = Expert::default();
    while !episode.holds_target() {
        for action in expert.next(&episode, REPLY_ACTIONS) {
            episode.act(action);
        }
    }
    let held = episode.sim.held[0];
    let offset = |sim: &Sim| {
        let (hand, height) = sim.robot.hand();
        let pose = sim.pose(held);
        (pose.centre.distance(hand), pose.height - height)
    };
    let first = offset(&episode.sim);
    for action in [Action::MoveArmUp, Action::MoveBack, Action::RotateLeftSmall, Action::MoveArmInSmall] {
        episode.act(action);
        let now = offset(&episode.sim);
        assert!((now.0 - first.0).abs() < 1e-9 && (now.1 - first.1).abs() < 1e-9, "{action:?}");
    }
    assert!(episode.sim.act(Action::Dropoff) && !episode.sim.act(Action::Dropoff));
    let block = episode.sim.block(held);
    let below = Block { low: block.low - 0.01, high: block.low + 0.001, ..block };
    let lies = block.low.abs() < 1e-6
        || episode.sim.home.space.around(&block).any(|solid| solid.block.overlap(&below) > 0.0)
        || (0..episode.sim.home.scene.things.len()).any(|other| other != held && episode.sim.block(other).overlap(&below) > 0.0);
    assert!(lies, "it hangs at {}", block.low);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn random_actions_in_generated_houses_leave_nothing_in_a_wall(house in 0_u64..40, seed in 0_u64..1_000, actions in 1_u32..1_200) {
        let shaken = shake(&home(house), seed, actions);
        prop_assert!(shaken.is_ok(), "{}", shaken.unwrap_err());
    }
}
