//! How many tokens a second the engine samples from a model folder: `cargo run --release -p policy --example bench_generate --
//! FOLDER THREADS`. Prints one JSON object.

use policy::{Engine, EngineOptions, ModelConfig, Request, SamplingParams};
use std::path::Path;
use std::time::Instant;

const SEQUENCES: u64 = 16;
const NEW: u32 = 64;
const ROLLOUTS: u64 = 64;
const TURNS: u64 = 5;
const SYSTEM: u64 = 600;
const OBSERVATION: u64 = 40;
const REPLY: u32 = 32;

fn words(seed: u64, count: u64) -> Vec<u32> {
    (0..count).map(|i| (1000 + (seed * 7919 + i * 104_729) % 40_000) as u32).collect()
}

fn request(ticket: u64, rollout: u64, tokens: Vec<u32>, max_tokens: u32) -> Request {
    let sampling = SamplingParams { seed: ticket, max_tokens, ..SamplingParams::default() };
    Request { ticket, rollout, tokens, sampling, ..Request::default() }
}

/// Steps until nothing is left; what was sampled, by ticket.
fn drain(engine: &mut Engine) -> policy::Result<Vec<(u64, Vec<u32>)>> {
    let mut all = vec![];
    while engine.running() + engine.waiting() > 0 {
        all.extend(engine.step()?.into_iter().map(|g| (g.ticket, g.tokens)));
    }
    Ok(all)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: bench_generate FOLDER THREADS")?;
    let threads: usize = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(2);
    let config = ModelConfig::from_json(&std::fs::read(Path::new(&folder).join("config.json"))?)?;
    let options =
        EngineOptions { threads, kv_cache_mib: 2048, max_num_batched_tokens: 2048, max_num_seqs: 128, ..EngineOptions::default() };
    let mut engine = Engine::new(config, options)?;
    let started = Instant::now();
    let prepared = engine.loader().prepare_folder(Path::new(&folder))?;
    let load_s = started.elapsed().as_secs_f64();
    engine.install(0, prepared);
    engine.submit(request(0, 0, words(1, 32), 4))?;
    drain(&mut engine)?;
    let started = Instant::now();
    for ticket in 0..SEQUENCES {
        engine.submit(request(ticket, ticket, words(ticket + 5, 32), NEW))?;
    }
    drain(&mut engine)?;
    let batch = (SEQUENCES * u64::from(NEW)) as f64 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    let mut rollouts: Vec<Vec<u32>> = (0..ROLLOUTS).map(|_| words(77, SYSTEM)).collect();
    for turn in 0..TURNS {
        for (rollout, tokens) in rollouts.iter_mut().enumerate() {
            tokens.extend(words(1000 + turn * ROLLOUTS + rollout as u64, OBSERVATION));
            engine.submit(request(rollout as u64, rollout as u64, tokens.clone(), REPLY))?;
        }
        for (rollout, reply) in drain(&mut engine)? {
            rollouts[rollout as usize].extend(reply);
        }
    }
    let turns = (ROLLOUTS * TURNS * u64::from(REPLY)) as f64 / started.elapsed().as_secs_f64();
    let stats = engine.cache_stats();
    println!(
        "{}",
        serde_json::json!({ "threads": threads, "load_s": load_s, "sequences_16x64_tokens_per_s": batch,
            "rollouts_64x5_tokens_per_s": turns, "prompt_tokens": stats.queried, "prompt_tokens_from_cache": stats.hits })
    );
    Ok(())
}
