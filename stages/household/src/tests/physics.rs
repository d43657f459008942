//! Whatever is done, nothing is inside a wall, nothing is lost, and the same actions give the same bytes.

use super::*;
use crate::{
    geometry::Block,
    sim::Sim,
    soundness::{Audit, grasping, somewhere},
    view::cameras,
};
use std::sync::OnceLock;

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

/// Runs actions and checks after each that all is well.
fn run(mut sim: Sim, actions: impl Iterator<Item = Action>) -> Result<Sim, String> {
    let mut audit = Audit::new(Arc::clone(&sim.home));
    audit.look(&sim)?;
    for (step, action) in actions.enumerate() {
        sim.act(action);
        let depths = audit.look(&sim).map_err(|error| format!("step {step}: {action:?}: {error}"))?;
        if !depths.sound() || !sim.robot.fits(&sim.home.space) {
            return Err(format!("step {step}: {action:?} led to {depths:?}, {:?}", sim.robot));
        }
    }
    Ok(sim)
}

/// Random actions; tells the state's digest.
fn shake(home: &Arc<Home>, seed: u64, actions: u32) -> Result<blake3::Hash, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let sim = sim(home, &mut rng);
    let sim = run(sim, (0..actions).map(|_| ACTIONS[rng.random_range(0..20)].action))?;
    let mut hasher = blake3::Hasher::new();
    sim.hash(&mut hasher);
    Ok(hasher.finalize())
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

/// The 32 validation houses, where they are at hand.
fn real_houses() -> &'static [Arc<Home>] {
    static HOUSES: OnceLock<Vec<Arc<Home>>> = OnceLock::new();
    HOUSES.get_or_init(|| {
        let Some(folder) = shared() else { return Vec::new() };
        let house = |(_, json): (u64, Result<Vec<u8>, _>)| compile(&parse::house(&json.unwrap()).unwrap()).unwrap();
        parse::lines(File::open(folder.join("val.jsonl.gz")).unwrap()).map(|line| Arc::new(Home::new(house(line)))).collect()
    })
}

/// From a start with something in the hand, where the seed gives one, and from elsewhere.
fn shaken(home: &Arc<Home>, seed: u64, actions: &[usize]) -> Result<(), String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let starts = [grasping(home, &mut rng), somewhere(home, &mut rng)];
    starts.into_iter().flatten().try_for_each(|sim| run(sim, actions.iter().map(|&index| ACTIONS[index].action)).map(|_| ()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_actions_in_generated_houses_leave_nothing_in_a_wall(
        house in 0_u64..40, seed in 0_u64..1_000, actions in proptest::collection::vec(0_usize..20, 1..800),
    ) {
        let shaken = shaken(&home(house), seed, &actions);
        prop_assert!(shaken.is_ok(), "{}", shaken.unwrap_err());
    }

    #[test]
    fn random_actions_in_real_houses_leave_nothing_in_a_wall(
        house in 0_usize..32, seed in 0_u64..1_000, actions in proptest::collection::vec(0_usize..20, 1..800),
    ) {
        if let Some(home) = real_houses().get(house) {
            let shaken = shaken(home, seed, &actions);
            prop_assert!(shaken.is_ok(), "{}", shaken.unwrap_err());
        }
    }
}
