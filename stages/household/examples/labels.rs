//! Prints what an expert's label costs on a policy's own states: `cargo run --release -p household --example labels -- COUNT SHARE`.
//!
//! A policy is played by the expert with a share of its replies replaced by random ones, as DAgger's early rollouts look.

use household::{
    expert::Expert,
    generator::{HouseSplit, generate_compiled},
    robot::{ACTIONS, Action},
    sample::{Tier, sample},
    sim::Home,
    tasks::Episode,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{sync::Arc, time::Instant};

/// Replies of an episode, and actions in one, as in `pipelines/fetch-text.toml`.
const TURNS: usize = 24;
const REPLY_ACTIONS: usize = 5;

fn main() {
    let arguments: Vec<f64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let count = arguments.first().copied().unwrap_or(100.0) as u64;
    let share = arguments.get(1).copied().unwrap_or(0.5);
    let free: Vec<Action> = ACTIONS.iter().map(|spelling| spelling.action).filter(|action| !action.ends_reply()).collect();
    let (mut sampling, mut all) = (0.0, Vec::new());
    let (mut solved, mut episodes) = (0, 0);
    for number in 0..count {
        let Ok((_, scene)) = generate_compiled(HouseSplit::Train, number) else { continue };
        let home = Arc::new(Home::new(scene));
        let mut rng = ChaCha8Rng::seed_from_u64(number);
        let started = Instant::now();
        let sampled = sample(&home, Tier::Near, None, &mut rng);
        sampling += started.elapsed().as_secs_f64();
        let Ok(sampled) = sampled else { continue };
        let Ok(mut episode) = Episode::start(home, Arc::new(sampled.task)) else { continue };
        let mut expert = Expert::default();
        episodes += 1;
        for _ in 0..TURNS {
            if episode.over {
                break;
            }
            let started = Instant::now();
            let label = expert.next(&episode, REPLY_ACTIONS);
            all.push(started.elapsed().as_secs_f64() * 1e3);
            let slips = rng.random_bool(share);
            let reply = if slips { (0..3).map(|_| free[rng.random_range(0..free.len())]).collect() } else { label };
            for action in reply {
                if episode.over || !episode.act(action) {
                    break;
                }
            }
        }
        solved += u32::from(episode.success());
    }
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
    println!(
        "{episodes} episodes, {solved} solved; {} labels: mean {:.2} ms, median {:.2}, 90 % {:.2}, 99 % {:.2}, most {:.1}; sampling {:.1} ms an episode",
        all.len(),
        all.iter().sum::<f64>() / all.len() as f64,
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        sampling * 1e3 / f64::from(episodes)
    );
}
