//! How fast the engine answers on a GPU: `cargo run --release -p policy --example bench_gpu -- FOLDER [--context 1500] [--new 64]
//! [--batches 1,8,64,256] [--libtorch] [--turns] [--pause] [--mismatch]`. Weights and cache are bfloat16. Prints a JSON object a line.

use policy::{Device, Engine, EngineOptions, Levels, ModelConfig, Picture, Precision, Request, SamplingParams, Sequence, Shown, Span};
use policy::{Trainer, TrainerOptions};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Bytes a second of an H200's memory, as a copy was seen to move them.
const BANDWIDTH: f64 = 4.3e12;
/// Two cameras of 384 x 224 pixels, 112 tokens each.
const GRID: [u32; 3] = [1, 16, 28];

fn words(seed: u64, count: usize) -> Vec<u32> {
    (0..count as u64).map(|i| (1000 + (seed * 7919 + i * 104_729) % 40_000) as u32).collect()
}

fn request(ticket: u64, tokens: Vec<u32>, max_tokens: usize) -> Request {
    let sampling = SamplingParams { seed: ticket, max_tokens: max_tokens as u32, ..SamplingParams::default() };
    Request { ticket, rollout: ticket, tokens, sampling, ..Request::default() }
}

/// Seconds until all had their first token; then, until the first was done, steps of one token each and their seconds.
struct Run {
    prefill_s: f64,
    steps: usize,
    decode_s: f64,
    replies: Vec<policy::Generated>,
}

fn run(engine: &mut Engine, requests: Vec<Request>) -> policy::Result<Run> {
    let tickets: Vec<u64> = requests.iter().map(|r| r.ticket).collect();
    let started = Instant::now();
    for request in requests {
        engine.submit(request)?;
    }
    let mut replies = vec![];
    while !tickets.iter().all(|ticket| engine.sampled(*ticket).is_none_or(|said| !said.is_empty())) {
        replies.extend(engine.step()?);
    }
    let prefill_s = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let (mut steps, mut decode_s) = (0, 0.0);
    while engine.running() + engine.waiting() > 0 {
        let all_run = replies.is_empty();
        replies.extend(engine.step()?);
        if all_run {
            steps += 1;
            decode_s = started.elapsed().as_secs_f64();
        }
    }
    Ok(Run { prefill_s, steps, decode_s, replies })
}

fn decode(engine: &mut Engine, config: &ModelConfig, batches: &[usize], context: usize, new: usize, way: &str) -> policy::Result<()> {
    let kv = (2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim()) as f64;
    let tied = if config.tie_word_embeddings { 1 } else { 2 };
    let eyes: u64 = config.vision.as_ref().map_or(0, |_| config.parameters() - decoder_parameters(config));
    let read = 2.0 * (config.parameters() - eyes - (tied - 1) * (config.vocab_size * config.hidden_size) as u64) as f64;
    for (number, batch) in batches.iter().enumerate() {
        // Once for what is made on first use.
        let prompts = |seed: usize| (0..*batch).map(move |row| words((seed * 1000 + row) as u64 + 1, context));
        run(engine, prompts(2 * number).enumerate().map(|(row, tokens)| request(row as u64, tokens, 6)).collect())?;
        let measured = run(engine, prompts(2 * number + 1).enumerate().map(|(row, tokens)| request(row as u64, tokens, new)).collect())?;
        let rate = (batch * measured.steps) as f64 / measured.decode_s;
        let bytes = read + kv * (*batch * (context + new / 2)) as f64;
        let roofline = *batch as f64 * BANDWIDTH / bytes;
        println!(
            "{}",
            json!({ "who": way, "batch": batch, "context": context, "new": new, "prefill_tokens_per_s": (batch * context) as f64 / measured.prefill_s,
                "prefill_tflops": 2.0 * (read / 2.0) * (batch * context) as f64 / measured.prefill_s / 1e12,
                "tokens_per_s": rate, "steps": measured.steps, "ms_a_step": 1e3 * measured.decode_s / measured.steps as f64, "roofline_tokens_per_s": roofline, "share": rate / roofline })
        );
    }
    Ok(())
}

fn decoder_parameters(config: &ModelConfig) -> u64 {
    let (hidden, inner, dim) = (config.hidden_size, config.intermediate_size, config.head_dim());
    let (wide, kv) = (config.num_attention_heads * dim, config.num_key_value_heads * dim);
    let layer = hidden * (wide + 2 * kv) + wide + 2 * kv + wide * hidden + 3 * hidden * inner + 2 * hidden;
    let tables = if config.tie_word_embeddings { 1 } else { 2 };
    (config.num_hidden_layers * layer + tables * config.vocab_size * hidden + hidden) as u64
}

/// Rollouts of five turns, each with two pictures, a line of text and a reply: a turn computes its own tokens only.
fn turns(engine: &mut Engine, config: &ModelConfig) -> policy::Result<()> {
    let Some(vision) = &config.vision else { return Ok(()) };
    let levels = Levels(Arc::new([[0.5; 256]; 3]));
    let mut rollouts: Vec<(Vec<u32>, Vec<Shown>)> = (0..8).map(|_| (words(77, 600), vec![])).collect();
    for turn in 0..5u64 {
        let before = engine.cache_stats();
        let mut requests = vec![];
        for (number, (tokens, shown)) in rollouts.iter_mut().enumerate() {
            tokens.extend(words(1000 + turn * 8 + number as u64, 40));
            for camera in 0..2u8 {
                let bytes: Arc<[u8]> =
                    vec![(turn as u8) * 16 + camera + number as u8; 16 * 28 * 3 * vision.patch_size * vision.patch_size].into();
                let picture = Picture { offset: tokens.len() as u32, grid: GRID, patches: bytes.clone(), levels: levels.clone() };
                tokens.resize(tokens.len() + picture.tokens(vision), vision.image_token_id);
                shown.push(Shown { digest: picture.digest(), picture });
            }
            tokens.extend(words(5, 6));
            let mut asked = request(number as u64, tokens.clone(), 32);
            asked.pictures.clone_from(shown);
            requests.push(asked);
        }
        let prompt: usize = requests.iter().map(|r| r.tokens.len()).sum();
        let measured = run(engine, requests)?;
        let after = engine.cache_stats();
        measured.replies.iter().for_each(|reply| rollouts[reply.ticket as usize].0.extend(&reply.tokens));
        println!(
            "{}",
            json!({ "turn": turn, "rollouts": 8, "prompt_tokens": prompt, "from_cache": after.hits - before.hits, "pictures_seen": engine.pictures_seen(),
                "prefill_s": measured.prefill_s, "decode_s": measured.decode_s })
        );
    }
    Ok(())
}

/// New weights are taken in while 64 replies run: the longest time between two steps, before, while they are read, and at the change.
fn pause(engine: &mut Engine, folder: &Path) -> Outcome<()> {
    for ticket in 0..64 {
        engine.submit(request(ticket, words(ticket + 90_000, 1500), 4000))?;
    }
    let mut step = || -> policy::Result<f64> {
        let started = Instant::now();
        engine.step()?;
        Ok(started.elapsed().as_secs_f64())
    };
    (0..100).try_for_each(|_| step().map(|_| ()))?;
    let usual = (0..50).map(|_| step()).collect::<policy::Result<Vec<f64>>>()?;
    let loader = engine.loader();
    let folder = folder.to_path_buf();
    let started = Instant::now();
    let reading = std::thread::spawn(move || loader.prepare_folder(&folder));
    let mut beside = vec![];
    while !reading.is_finished() {
        let started = Instant::now();
        engine.step()?;
        beside.push(started.elapsed().as_secs_f64());
    }
    let prepared = reading.join().map_err(|_| "the reading thread panicked")??;
    let read_s = started.elapsed().as_secs_f64();
    let started = Instant::now();
    engine.install(1, prepared);
    engine.move_requests(0, 1);
    engine.drop_version(0);
    let change_s = started.elapsed().as_secs_f64();
    let after: Vec<f64> = (0..4)
        .map(|_| {
            let started = Instant::now();
            engine.step().map(|_| started.elapsed().as_secs_f64())
        })
        .collect::<policy::Result<_>>()?;
    let most = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    let mut sorted = usual.clone();
    sorted.sort_by(f64::total_cmp);
    println!(
        "{}",
        json!({ "running": engine.running(), "usual_step_s": sorted[sorted.len() / 2], "read_s": read_s, "steps_while_reading": beside.len(),
            "longest_step_while_reading_s": most(&beside), "change_s": change_s, "steps_after_s": after, "pause_s": change_s + after[0] })
    );
    (0..64).for_each(|ticket| assert!(engine.cancel(ticket)));
    Ok(())
}

/// Log-probabilities of the engine against a fresh pass of the trainer, both in bfloat16.
fn mismatch(engine: &mut Engine, folder: &Path) -> Outcome<()> {
    let prompts: Vec<Vec<u32>> = (0..16).map(|row| words(row + 500_000, 300)).collect();
    let measured = run(engine, prompts.iter().enumerate().map(|(row, tokens)| request(row as u64, tokens.clone(), 128)).collect())?;
    let options = TrainerOptions { device: Device::Cuda(0), precision: Precision::Bf16, recompute: true, ..TrainerOptions::default() };
    let trainer = Trainer::from_folder(folder, options)?;
    let (mut kl, mut mean, mut most, mut count) = (0.0, 0.0, 0.0f64, 0.0);
    for reply in measured.replies {
        let mut tokens = prompts[reply.ticket as usize].clone();
        let start = tokens.len() as u32;
        tokens.extend(&reply.tokens);
        let trained = vec![Span { start, end: tokens.len() as u32, advantage: 0.0 }];
        let fresh = trainer.logprobs(&Sequence { tokens, trained, ..Sequence::default() })?;
        for (fresh, engine) in fresh.iter().zip(&reply.logprobs) {
            let off = f64::from(fresh - engine);
            // Schulman's estimate of the divergence of what sampled from what is trained, never below 0.
            (kl, mean, most, count) = (kl + off.exp() - 1.0 - off, mean + off.abs(), most.max(off.abs()), count + 1.0);
        }
    }
    println!("{}", json!({ "tokens": count, "mismatch_kl": kl / count, "mean_abs": mean / count, "largest": most }));
    Ok(())
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = Path::new(arguments.first().ok_or("a model folder is needed")?);
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    let number = |name: &str, default: usize| value(name).and_then(|n| n.parse().ok()).unwrap_or(default);
    let flag = |name: &str| arguments.iter().any(|a| a == name);
    let list = value("--batches").map_or("1,8,64,256", String::as_str);
    let batches: Vec<usize> = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
    if !policy::register_cuda() {
        return Err("no GPU is found".into());
    }
    let (context, new) = (number("--context", 1500), number("--new", 64));
    let config = ModelConfig::from_json(&std::fs::read(folder.join("config.json"))?)?;
    let options = EngineOptions {
        device: Device::Cuda(0),
        bfloat16: true,
        kernels: !flag("--libtorch"),
        kv_cache_mib: number("--kv-cache-mib", 40_960),
        max_num_batched_tokens: number("--max-num-batched-tokens", 16_384),
        max_num_seqs: 256,
        ..EngineOptions::default()
    };
    let started = Instant::now();
    let mut engine = Engine::new(config.clone(), options)?;
    let prepared = engine.loader().prepare_folder(folder)?;
    engine.install(0, prepared);
    println!("{}", json!({ "load_s": started.elapsed().as_secs_f64(), "decoder_parameters": decoder_parameters(&config) }));
    decode(&mut engine, &config, &batches, context, new, if flag("--libtorch") { "libtorch" } else { "kernels" })?;
    if flag("--turns") {
        turns(&mut engine, &config)?;
    }
    if flag("--mismatch") {
        mismatch(&mut engine, folder)?;
    }
    if flag("--pause") {
        pause(&mut engine, folder)?;
    }
    Ok(())
}
