//! How well the expert does: episodes drawn without asking it first, played by it, and the reason of every failure.
//!
//! In: houses. Out: one [`Trial`] an episode. What [`Episode::check`] calls impossible is not drawn; all else counts.

use crate::{
    error::Error,
    expert::Expert,
    geometry::vec2,
    robot::{ACTIONS, Action, Robot},
    sim::Home,
    tasks::{Episode, Spec, Task},
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Starts and targets that are tried for one episode.
const TRIES: u32 = 40;
/// Actions the expert plans at once.
const REPLY_ACTIONS: usize = 5;
/// PickUp begins this near to the target at most, metres.
const PICK_UP_M: f64 = 1.8;

/// Why the expert failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// It knew nothing to do: no pose was found from which the arm or the eye comes to the target.
    NoPlan,
    /// It acted until the step limit.
    OutOfSteps,
    /// It said `done` too early.
    WrongDone,
}

impl Failure {
    pub fn name(self) -> &'static str {
        match self {
            Failure::NoPlan => "no_plan",
            Failure::OutOfSteps => "out_of_steps",
            Failure::WrongDone => "wrong_done",
        }
    }
}

/// What became of an episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    pub failure: Option<Failure>,
    /// Primitive actions, those of the scramble apart.
    pub steps: u32,
    /// Actions of the expert that did not work.
    pub failed_actions: u32,
    /// The furthest milestone.
    pub milestone: &'static str,
    pub spec: Arc<Spec>,
}

/// Draws an episode: a target type that the house has, a start anywhere on the floor (PickUp: near the target and in view).
///
/// # Errors
/// The house has nothing to do of this kind; the message is the last try's.
pub fn draw(home: &Arc<Home>, task: Task, rng: &mut ChaCha8Rng) -> Result<Spec, Error> {
    let mut last = Error::Scene { what: format!("the house has no target of {}", task.name()) };
    let fits = |kind: &str| home.scene.things.iter().any(|thing| thing.kind == kind && (!task.takes() || thing.pickupable));
    let kinds: Vec<&str> = task.targets().iter().copied().filter(|kind| fits(kind)).collect();
    if kinds.is_empty() && task != Task::RoomVisit {
        return Err(last);
    }
    for _ in 0..TRIES {
        let target = if kinds.is_empty() { "" } else { kinds[rng.random_range(0..kinds.len())] };
        let counts = |number: &usize| {
            let thing = &home.scene.things[*number];
            thing.kind == target && (!task.takes() || thing.pickupable)
        };
        let things: Vec<usize> = (0..home.scene.things.len()).filter(counts).collect();
        let Some(start) = start(home, task, &things, rng) else { continue };
        let spec = Spec {
            task,
            target: target.into(),
            ids: things.iter().map(|&thing| home.scene.things[thing].id.clone()).collect(),
            start: [start.position.x, start.position.z],
            yaw: start.yaw,
            seed: rng.random_range(0..u64::MAX),
            ..Spec::default()
        };
        match possible(home, &spec) {
            Ok(()) => return Ok(spec),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn possible(home: &Arc<Home>, spec: &Spec) -> Result<(), Error> {
    let episode = Episode::start(Arc::clone(home), Arc::new(spec.clone()))?;
    episode.check()?;
    if spec.task == Task::PickUp && episode.remembered.is_none() {
        return Err(Error::Scene { what: "the target is not in view at the start".into() });
    }
    Ok(())
}

fn start(home: &Home, task: Task, things: &[usize], rng: &mut ChaCha8Rng) -> Option<Robot> {
    let (low, high) = home.space.bounds();
    let near = (task == Task::PickUp && !things.is_empty()).then(|| things[rng.random_range(0..things.len())]);
    let (low, high) = match near.map(|thing| home.scene.things[thing].floor_centre()) {
        Some(centre) => (centre.minus(vec2(PICK_UP_M, PICK_UP_M)), centre.plus(vec2(PICK_UP_M, PICK_UP_M))),
        None => (low, high),
    };
    (0..30).find_map(|_| {
        let round = |value: f64| libm::round(value * 100.0) / 100.0;
        let place = vec2(round(rng.random_range(low.x..high.x)), round(rng.random_range(low.z..high.z)));
        let robot = Robot::stowed(place, 30.0 * f64::from(rng.random_range(0_u32..12)));
        robot.fits(&home.space).then_some(robot)
    })
}

/// Plays an episode by the expert, after `scramble` random actions that claim and end nothing.
///
/// # Errors
/// The episode does not begin.
pub fn play(home: &Arc<Home>, spec: &Arc<Spec>, scramble: u32, rng: &mut ChaCha8Rng) -> Result<Trial, Error> {
    let mut episode = Episode::start(Arc::clone(home), Arc::clone(spec))?;
    for _ in 0..scramble {
        let free: Vec<Action> =
            ACTIONS.iter().map(|spelling| spelling.action).filter(|action| !matches!(action, Action::Done | Action::SubDone)).collect();
        episode.act(free[rng.random_range(0..free.len())]);
    }
    let mut expert = Expert::default();
    let mut failed_actions = 0;
    let failure = loop {
        if episode.over {
            break match (episode.success(), episode.last) {
                (true, _) => None,
                (false, Some((Action::Done, _))) => Some(Failure::WrongDone),
                (false, _) => Some(Failure::OutOfSteps),
            };
        }
        let actions = expert.next(&episode, REPLY_ACTIONS);
        if actions.is_empty() {
            break Some(Failure::NoPlan);
        }
        for action in actions {
            if !episode.act(action) {
                failed_actions += 1;
                break;
            }
        }
    };
    let milestone = episode.milestones.last().map_or("none", |milestone| milestone.name());
    Ok(Trial { failure, steps: episode.steps - scramble, failed_actions, milestone, spec: Arc::clone(spec) })
}
