//! Prints how fast houses are made and how well the expert does: `cargo run --release -p household --example measure -- [FILE...]`.

use household::{
    compile::compile,
    expert::Expert,
    fetch::Episode,
    generator::{HouseSplit, generate_compiled},
    parse,
    sample::{REPLY_ACTIONS, Tier, sample},
    scene::Scene,
    sim::Home,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::{fs::File, sync::Arc, time::Instant};

fn main() {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let start = Instant::now();
    let mut scenes: Vec<Scene> = Vec::new();
    if files.is_empty() {
        scenes.extend((0..200).filter_map(|number| generate_compiled(HouseSplit::HeldOut, number).ok()).map(|(_, scene)| scene));
        println!("generated {} houses of 200: {:.1} houses/s", scenes.len(), scenes.len() as f64 / start.elapsed().as_secs_f64());
    }
    for file in &files {
        let Ok(open) = File::open(file) else { continue };
        for (line, json) in parse::lines(open) {
            match json.and_then(|json| parse::house(&json)).and_then(|house| compile(&house)) {
                Ok(scene) => scenes.push(scene),
                Err(error) => println!("{file}:{line}: {error}"),
            }
        }
    }
    println!("read and compiled {} houses: {:.2} ms each", scenes.len(), start.elapsed().as_secs_f64() * 1e3 / scenes.len() as f64);
    let bytes: usize = scenes.iter().map(|scene| scene.to_bytes().len()).sum();
    println!(
        "{} bytes a scene, {} objects of assumed size",
        bytes / scenes.len().max(1),
        scenes.iter().map(|scene| scene.assumed).sum::<u32>()
    );
    let start = Instant::now();
    let homes: Vec<Arc<Home>> = scenes.into_iter().map(|scene| Arc::new(Home::new(scene))).collect();
    println!("indexed: {:.2} ms each", start.elapsed().as_secs_f64() * 1e3 / homes.len() as f64);
    for tier in [Tier::Near, Tier::All] {
        measure(&homes, tier);
    }
}

fn measure(homes: &[Arc<Home>], tier: Tier) {
    let start = Instant::now();
    let (mut lengths, mut none) = (Vec::new(), 0);
    let mut tasks = Vec::new();
    for (number, home) in homes.iter().enumerate() {
        match sample(home, tier, None, &mut ChaCha8Rng::seed_from_u64(number as u64)) {
            Ok(sampled) => {
                lengths.push(sampled.expert_length);
                tasks.push((home, Arc::new(sampled.task)));
            }
            Err(_) => none += 1,
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    lengths.sort_unstable();
    let mean = f64::from(lengths.iter().sum::<u32>()) / lengths.len().max(1) as f64;
    println!(
        "{tier:?}: {} episodes, {none} houses without; {:.1} ms each; length mean {mean:.1}, deciles {:?}",
        lengths.len(),
        seconds * 1e3 / homes.len() as f64,
        (0..=10).map(|tenth| lengths[tenth * (lengths.len() - 1) / 10]).collect::<Vec<_>>()
    );
    for bucket in tier.buckets() {
        println!("  {}: {}", bucket.name, lengths.iter().filter(|&&length| length >= bucket.least && length <= bucket.most).count());
    }
    let start = Instant::now();
    let (mut steps, mut plans) = (0, 0);
    for (home, task) in &tasks {
        let Ok(mut episode) = Episode::start(Arc::clone(home), Arc::clone(task)) else { continue };
        let mut expert = Expert::default();
        while !episode.over && episode.steps < 600 {
            plans += 1;
            for action in expert.next(&episode, REPLY_ACTIONS) {
                episode.act(action);
            }
        }
        steps += episode.steps;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("  expert and steps: {:.0} steps/s, {:.2} ms a reply", f64::from(steps) / seconds, seconds * 1e3 / f64::from(plans));
}
