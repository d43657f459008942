//! Plays the expert in generated houses, or those of files: `cargo run --release -p household --example trials -- COUNT SCRAMBLE [FILE...]`.

use household::{
    compile::compile,
    generator::{HouseSplit, generate_compiled},
    parse,
    scene::Scene,
    sim::Home,
    tasks::Task,
    trials::{draw, play},
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::{collections::BTreeMap, fs::File, sync::Arc};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count: u64 = arguments.first().and_then(|count| count.parse().ok()).unwrap_or(100);
    let scramble: u32 = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(0);
    let mut scenes: Vec<Scene> = Vec::new();
    for file in arguments.iter().skip(2) {
        let Ok(open) = File::open(file) else { continue };
        scenes.extend(parse::lines(open).filter_map(|(_, json)| compile(&parse::house(&json.ok()?).ok()?).ok()));
    }
    let from_files = !scenes.is_empty();
    if !from_files {
        scenes.extend((0..count).filter_map(|number| generate_compiled(HouseSplit::HeldOut, number).ok()).map(|(_, scene)| scene));
    }
    let homes: Vec<Arc<Home>> = scenes.into_iter().map(|scene| Arc::new(Home::new(scene))).collect();
    let repeats = if from_files { count / homes.len().max(1) as u64 } else { 1 };
    for task in Task::ALL {
        let (mut solved, mut asked, mut none, mut steps, mut failed) = (0, 0, 0, 0_u64, 0);
        let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
        let mut lengths = Vec::new();
        for (number, home) in homes.iter().enumerate() {
            for repeat in 0..repeats {
                let mut rng = ChaCha8Rng::seed_from_u64(number as u64 * 1000 + repeat);
                let Ok(spec) = draw(home, task, &mut rng) else {
                    none += 1;
                    continue;
                };
                let Ok(trial) = play(home, &Arc::new(spec), scramble, &mut rng) else { continue };
                asked += 1;
                steps += u64::from(trial.steps);
                failed += trial.failed_actions;
                match trial.failure {
                    None => {
                        solved += 1;
                        lengths.push(trial.steps);
                    }
                    Some(failure) => {
                        *reasons.entry(format!("{} after {}", failure.name(), trial.milestone)).or_default() += 1;
                        if std::env::var_os("VERBOSE").is_some() {
                            println!("  house {number} repeat {repeat}: {} {} {:?}", failure.name(), trial.milestone, trial.spec);
                        }
                    }
                }
            }
        }
        lengths.sort_unstable();
        println!(
            "{}: {solved} of {asked} ({:.1} %), {none} not drawn, {} steps, {failed} failed actions, {reasons:?}, lengths {:?}",
            task.name(),
            100.0 * f64::from(solved) / f64::from(asked.max(1)),
            steps,
            (0..=4).map(|quarter| lengths.get(quarter * lengths.len().saturating_sub(1) / 4).copied().unwrap_or(0)).collect::<Vec<_>>()
        );
    }
}
