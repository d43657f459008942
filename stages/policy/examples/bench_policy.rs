//! Speed of the engine and the trainer on one machine; prints one JSON object.
//!
//! `cargo run --release -p policy --example bench_policy -- [threads] [hidden] [layers]`

use policy::{Branch, Engine, EngineOptions, ModelConfig, Request, SamplingParams, Sequence, Span, Trainer, TrainerOptions};
use schemas::pipeline::PolicyConfig;
use std::time::Instant;

/// Seconds of CPU that this process has had: what a busy machine leaves meaningful.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // User and system time, in hundredths of a second.
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

const ROLLOUTS: u64 = 64;
const FIRST_PROMPT: usize = 150;
const TURN_PROMPT: usize = 45;
const REPLY: u32 = 5;
/// Turns of one segment; then the rollout starts anew.
const TURNS: usize = 12;
const SECONDS: f64 = 8.0;

struct Rollout {
    tokens: Vec<u32>,
    turn: usize,
    life: u64,
}

fn words(seed: u64, count: usize) -> impl Iterator<Item = u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        10 + ((state >> 33) % 1000) as u32
    })
}

/// Turns a second with every rollout asking for its next turn as soon as it has the last one's reply.
fn turns_per_second(config: &ModelConfig, weights: &[u8], threads: usize, deterministic: bool) -> policy::Result<(f64, f64)> {
    let mut engine = Engine::new(config.clone(), EngineOptions { deterministic, threads, ..EngineOptions::default() })?;
    engine.load(0, weights)?;
    let mut rollouts: Vec<Rollout> = (0..ROLLOUTS).map(|i| Rollout { tokens: vec![], turn: i as usize % TURNS, life: i }).collect();
    for rollout in &mut rollouts {
        rollout.tokens = words(rollout.life, FIRST_PROMPT + rollout.turn * (TURN_PROMPT + REPLY as usize)).collect();
    }
    let submit = |engine: &mut Engine, index: usize, rollout: &Rollout| {
        let sampling = SamplingParams { seed: rollout.life + rollout.turn as u64, max_tokens: REPLY, ..SamplingParams::default() };
        let (ticket, tokens) = (index as u64, rollout.tokens.clone());
        engine.submit(Request { ticket, rollout: rollout.life, tokens, sampling, ..Request::default() })
    };
    for (index, rollout) in rollouts.iter().enumerate() {
        submit(&mut engine, index, rollout)?;
    }
    let (mut turns, mut lives) = (0u64, ROLLOUTS);
    let (mut started, mut cpu) = (Instant::now(), cpu_seconds());
    let mut warm = false;
    while started.elapsed().as_secs_f64() < SECONDS {
        for reply in engine.step()? {
            turns += 1;
            let rollout = &mut rollouts[reply.ticket as usize];
            rollout.turn += 1;
            if rollout.turn < TURNS {
                rollout.tokens.extend(&reply.tokens);
                rollout.tokens.extend(words(turns, TURN_PROMPT));
            } else {
                engine.forget(rollout.life);
                *rollout = Rollout { tokens: words(lives, FIRST_PROMPT).collect(), turn: 0, life: lives };
                lives += 1;
            }
            submit(&mut engine, reply.ticket as usize, &rollouts[reply.ticket as usize])?;
        }
        if !warm && turns >= ROLLOUTS {
            (warm, turns, started, cpu) = (true, 0, Instant::now(), cpu_seconds());
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok((turns as f64 / seconds, turns as f64 / (cpu_seconds() - cpu)))
}

/// Tokens a second, forward and backward, of segments as the engine makes them.
fn trained_tokens_per_second(trainer: &mut Trainer, branches: bool) -> policy::Result<(f64, f64)> {
    let sequence = |seed: u64| {
        let turns = 4 + seed as usize % 9;
        let len = FIRST_PROMPT + turns * (TURN_PROMPT + REPLY as usize);
        let starts = (1..=turns).map(|t| (FIRST_PROMPT + t * (TURN_PROMPT + REPLY as usize)) as u32 - REPLY);
        let trained = starts.clone().map(|start| Span { start, end: start + REPLY, advantage: 1.0 }).collect();
        let label = |after| Branch { after, tokens: words(u64::from(after), REPLY as usize).collect(), weight: 1.0 };
        let tokens = words(seed, len).collect();
        if branches {
            Sequence { tokens, branches: starts.map(label).collect(), ..Sequence::default() }
        } else {
            Sequence { tokens, trained, ..Sequence::default() }
        }
    };
    let sequences: Vec<Sequence> = (0..32).map(sequence).collect();
    let tokens: usize = sequences.iter().map(|s| s.tokens.len()).sum();
    trainer.imitate(&sequences[..2], 1e-3)?;
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let mut passes = 0;
    while started.elapsed().as_secs_f64() < SECONDS {
        trainer.imitate(&sequences, 1e-3)?;
        passes += 1;
    }
    let done = (tokens * passes) as f64;
    Ok((done / started.elapsed().as_secs_f64(), done / (cpu_seconds() - cpu)))
}

fn main() -> policy::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u32>().unwrap_or(0));
    let threads = arguments.next().unwrap_or(2);
    let (hidden, layers) = (arguments.next().unwrap_or(128), arguments.next().unwrap_or(4));
    policy::set_threads(threads as usize);
    let config = ModelConfig::tiny(&PolicyConfig { hidden, layers, intermediate: 3 * hidden, ..PolicyConfig::default() }, 1024)?;
    let mut trainer = Trainer::new(config.clone(), 1, TrainerOptions::default())?;
    let weights = trainer.weights();
    let (turns, turns_cpu) = turns_per_second(&config, &weights, threads as usize, false)?;
    let (turns_alone, alone_cpu) = turns_per_second(&config, &weights, threads as usize, true)?;
    let (trained, trained_cpu) = trained_tokens_per_second(&mut trainer, false)?;
    let (labelled, labelled_cpu) = trained_tokens_per_second(&mut trainer, true)?;
    let figures = serde_json::json!({
        "turns_per_s": turns, "turns_per_s_deterministic": turns_alone,
        "trained_tokens_per_s": trained, "labelled_tokens_per_s": labelled,
        "turns_per_cpu_s": turns_cpu, "turns_per_cpu_s_deterministic": alone_cpu,
        "trained_tokens_per_cpu_s": trained_cpu, "labelled_tokens_per_cpu_s": labelled_cpu,
    });
    println!("{}", serde_json::json!({ "bench": "policy", "threads": threads, "hidden": hidden, "layers": layers, "figures": figures }));
    Ok(())
}
