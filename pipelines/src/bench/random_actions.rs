//! `errand bench random-actions`: whether anything that a robot can do leaves it, or a thing, where nothing can be.
//!
//! Robots begin with something in the hand or empty-handed, do random things for some hundred actions, and are looked at after
//! each by [`household::soundness`]. Depths are the deepest of all states, in metres; under 0 is the least distance that was
//! kept, where anything was near at all.

use super::{household::scenes_of, report};
use anyhow::Result;
use household::{
    generator::{HouseSplit, generate_compiled},
    robot::{ACTIONS, Action},
    scene::Scene,
    sim::{Home, Sim},
    soundness::{ALLOWED_M, Audit, grasping, somewhere},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use std::{path::Path, sync::Arc, time::Instant};

/// Actions from one start.
const STEPS: u64 = 250;

/// What was counted.
#[derive(Default)]
struct Counts {
    actions: u64,
    starts: u64,
    /// States with something in the hand.
    holding: u64,
    /// Things that were pushed or let go of, over all starts.
    moved: u64,
    unsound: u64,
}

pub(super) fn run(houses: &Path, generated: u64, actions: u64) -> Result<Value> {
    let mut figures = Map::new();
    let real = scenes_of(houses)?.unwrap_or_default();
    figures.insert("houses_from_file".into(), json!(real.len()));
    let made = (0..generated).map(|number| Ok(generate_compiled(HouseSplit::HeldOut, number)?.1));
    let scenes: Vec<Scene> = real.into_iter().map(Ok).chain(made).collect::<Result<_>>()?;
    figures.insert("houses".into(), json!(scenes.len()));
    let mut audits: Vec<(Arc<Home>, Audit)> = scenes
        .into_iter()
        .map(|scene| {
            let home = Arc::new(Home::new(scene));
            (Arc::clone(&home), Audit::new(home))
        })
        .collect();
    anyhow::ensure!(!audits.is_empty(), "no house; hint: --generated 32");
    let mut counts = Counts::default();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let started = Instant::now();
    while counts.actions < actions {
        let before = counts.actions;
        for (home, audit) in &mut audits {
            let sim = if rng.random_bool(0.5) { grasping(home, &mut rng) } else { somewhere(home, &mut rng) };
            if let Some(sim) = sim {
                shake(sim, audit, STEPS.min(actions - counts.actions), &mut rng, &mut counts)?;
            }
        }
        anyhow::ensure!(counts.actions > before, "no house has a place for the robot");
    }
    let worst = audits.iter().map(|(_, audit)| audit.worst).reduce(|one, other| one.deeper(other));
    if let Some(worst) = worst {
        for (name, depth) in [("body", worst.body), ("arm", worst.arm), ("held", worst.held), ("moved", worst.moved)] {
            figures.insert(format!("deepest_{name}_m"), json!(depth));
        }
    }
    figures.insert("allowed_m".into(), json!(ALLOWED_M));
    let numbers = [
        ("actions", counts.actions),
        ("starts", counts.starts),
        ("states_with_something_held", counts.holding),
        ("things_moved", counts.moved),
        ("states_not_allowed", counts.unsound),
    ];
    figures.extend(numbers.map(|(name, count)| (name.to_string(), json!(count))));
    figures.insert("seconds".into(), json!(started.elapsed().as_secs_f64()));
    Ok(report("random-actions", figures, Map::new()))
}

/// Random actions from one start.
fn shake(mut sim: Sim, audit: &mut Audit, steps: u64, rng: &mut ChaCha8Rng, counts: &mut Counts) -> Result<()> {
    audit.begin();
    counts.starts += 1;
    audit.look(&sim).map_err(anyhow::Error::msg)?;
    for _ in 0..steps {
        let action: Action = ACTIONS[rng.random_range(0..ACTIONS.len())].action;
        sim.act(action);
        counts.actions += 1;
        counts.holding += u64::from(!sim.held.is_empty());
        let depths = audit.look(&sim).map_err(anyhow::Error::msg)?;
        if !depths.sound() {
            counts.unsound += 1;
            if counts.unsound <= 5 {
                eprintln!("start {}, {action:?}: {depths:?} at {:?}, held {:?}", counts.starts, sim.robot, sim.held);
            }
        }
    }
    counts.moved += sim.moved.len() as u64;
    Ok(())
}
