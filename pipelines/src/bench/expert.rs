//! `errand bench expert`: how often the expert does each errand, from its start and after 50 random actions, in generated
//! houses and in those of a file; why it fails, and how fast it is.

use super::report;
use ::household::{
    compile::compile,
    generator::{HouseSplit, generate_compiled},
    parse,
    sim::Home,
    tasks::Task,
    trials::{draw, play},
};
use anyhow::{Context as _, Result};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc, time::Instant};

/// Random actions before the expert begins, in the second half of the figures.
const SCRAMBLE: u32 = 50;
/// Episodes of each errand in each house of a file.
const REPEATS: u64 = 3;

pub(crate) fn run(houses: &Path, generated: u64) -> Result<Value> {
    let mut figures = Map::new();
    let made = (0..generated).filter_map(|number| generate_compiled(HouseSplit::HeldOut, number).ok());
    measure("generated", made.map(|(_, scene)| Arc::new(Home::new(scene))).collect(), 1, &mut figures);
    if houses.exists() {
        let file = File::open(houses).with_context(|| format!("open {}", houses.display()))?;
        let mut homes = Vec::new();
        for (line, json) in parse::lines(file) {
            let scene = json.and_then(|json| parse::house(&json)).and_then(|house| compile(&house));
            homes.push(Arc::new(Home::new(scene.with_context(|| format!("{}:{line}", houses.display()))?)));
        }
        measure("file", homes, REPEATS, &mut figures);
    } else {
        figures.insert("file".into(), json!(format!("no houses at {}", houses.display())));
    }
    Ok(report("expert", figures, Map::new()))
}

fn measure(name: &str, homes: Vec<Arc<Home>>, repeats: u64, figures: &mut Map<String, Value>) {
    for task in Task::ALL {
        for scramble in [0, SCRAMBLE] {
            let row = row(&homes, task, scramble, repeats);
            let after = if scramble > 0 { format!("_after_{scramble}_random") } else { String::new() };
            figures.insert(format!("{name}_{}{after}", task.name()), row);
        }
    }
}

fn row(homes: &[Arc<Home>], task: Task, scramble: u32, repeats: u64) -> Value {
    let (mut asked, mut solved, mut not_drawn, mut steps) = (0_u32, 0_u32, 0_u32, 0_u64);
    let mut failures: BTreeMap<String, u32> = BTreeMap::new();
    let mut seconds = 0.0;
    for (number, home) in homes.iter().enumerate() {
        for repeat in 0..repeats {
            let mut rng = ChaCha8Rng::seed_from_u64(number as u64 * 1000 + repeat);
            let Ok(spec) = draw(home, task, &mut rng) else {
                not_drawn += 1;
                continue;
            };
            let started = Instant::now();
            let Ok(trial) = play(home, &Arc::new(spec), scramble, &mut rng) else { continue };
            seconds += started.elapsed().as_secs_f64();
            asked += 1;
            steps += u64::from(trial.steps + scramble);
            match trial.failure {
                None => solved += 1,
                Some(failure) => *failures.entry(format!("{} after {}", failure.name(), trial.milestone)).or_default() += 1,
            }
        }
    }
    json!({
        "success": f64::from(solved) / f64::from(asked.max(1)),
        "episodes": asked,
        "houses_without": not_drawn,
        "mean_steps": steps as f64 / f64::from(asked.max(1)),
        "steps_per_second": steps as f64 / seconds.max(1e-9),
        "failures": failures,
    })
}
