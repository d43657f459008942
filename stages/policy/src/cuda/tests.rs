//! The decoder on a real GPU; each test says so and ends where there is none. Fixed draws of small models cover what kernels are
//! made for: heads of 64 and 128, groups of 1 to 16 heads, norms of heads, biases, batches of 1 to 70, one page and many.

use super::gpu::compile;
use super::{Decoder, Sampling};
use crate::init::unit;
use crate::sample::{Draw, sample};
use crate::{Device, Engine, EngineOptions, ModelConfig, Request, SamplingParams, Sequence, Span, Trainer, TrainerOptions};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::json;
use tch::{Kind, Tensor};

fn no_gpu() -> bool {
    let none = !crate::register_cuda();
    if none {
        println!("skipped: no GPU");
    }
    none
}

#[test]
fn kernels_compile_where_the_compiler_is() {
    for (source, overlap) in [(include_str!("kernels.cu"), false), (include_str!("kernels.cu"), true), (include_str!("adamw.cu"), false)] {
        match compile(source, overlap) {
            Ok(_) => {}
            Err(error) => assert!(error.to_string().contains("is not found"), "{error}"),
        }
    }
}

fn config(family: &str, hidden: usize, heads: usize, kv_heads: usize, dim: usize) -> ModelConfig {
    let config = json!({
        "model_type": family, "hidden_act": "silu", "hidden_size": hidden, "intermediate_size": 2 * hidden + 64, "num_hidden_layers": 3,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim, "vocab_size": 1003, "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0, "max_position_embeddings": 4096, "tie_word_embeddings": hidden.is_multiple_of(128),
    });
    ModelConfig::from_json(config.to_string().as_bytes()).unwrap()
}

fn trainer(config: &ModelConfig) -> Trainer {
    let mut trainer = Trainer::new(config.clone(), 5, TrainerOptions::default()).unwrap();
    let sequence =
        |seed: u32| Sequence { tokens: words(seed, 60), trained: vec![Span { start: 1, end: 60, advantage: 0.0 }], ..Sequence::default() };
    // Distributions far from flat, so that mistakes show.
    for step in 0..6 {
        trainer.imitate(&[sequence(step), sequence(step + 1)], 3e-3).unwrap();
    }
    trainer
}

fn words(seed: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (seed * 7919 + i * i * 31 + i * 104_729) % 1000).collect()
}

/// Replies to prompts of many lengths, as sequences with log-probabilities.
fn play(trainer: &Trainer, options: &EngineOptions, rows: usize, new: u32) -> Vec<Sequence> {
    let mut engine = Engine::new(trainer.config().clone(), options.clone()).unwrap();
    engine.load(1, &trainer.weights()).unwrap();
    let prompt = |row: usize| words(row as u32, [1, 15, 16, 17, 40, 129, 300][row % 7] + row / 7);
    for row in 0..rows {
        let sampling = SamplingParams { seed: row as u64, max_tokens: new, ..SamplingParams::default() };
        engine
            .submit(Request { ticket: row as u64, rollout: row as u64, tokens: prompt(row), version: 1, sampling, ..Request::default() })
            .unwrap();
    }
    let mut all = vec![];
    while engine.running() + engine.waiting() > 0 {
        all.extend(engine.step().unwrap());
    }
    let sequence = |reply: crate::Generated| {
        let mut tokens = prompt(reply.ticket as usize);
        let start = tokens.len() as u32;
        tokens.extend(&reply.tokens);
        let trained = vec![Span { start, end: tokens.len() as u32, advantage: 0.0 }];
        Sequence { tokens, trained, old_logprobs: reply.logprobs, ..Sequence::default() }
    };
    all.into_iter().map(sequence).collect()
}

/// Mean and largest distance of the engine's log-probabilities from those of a pass in f32 on the CPU.
fn distance(trainer: &Trainer, sequences: &[Sequence]) -> (f64, f64) {
    let (mut sum, mut most, mut count) = (0.0, 0.0f64, 0.0);
    for sequence in sequences {
        let fresh = trainer.logprobs(sequence).unwrap();
        assert_eq!(fresh.len(), sequence.old_logprobs.len());
        for (a, b) in fresh.iter().zip(&sequence.old_logprobs) {
            let off = f64::from((a - b).abs());
            (sum, most, count) = (sum + off, most.max(off), count + 1.0);
        }
    }
    (sum / count, most)
}

#[test]
fn log_probabilities_are_as_near_to_f32_as_libtorchs() {
    if no_gpu() {
        return;
    }
    let shapes = [
        ("qwen2", 256, 4, 2, 64, 5),
        ("qwen2", 512, 16, 2, 128, 3),
        ("qwen3", 192, 7, 1, 128, 9),
        ("llama", 576, 9, 3, 64, 17),
        ("qwen2", 256, 4, 4, 64, 33),
        ("qwen3", 320, 16, 1, 64, 70),
    ];
    for (family, hidden, heads, kv_heads, dim, rows) in shapes {
        let trainer = trainer(&config(family, hidden, heads, kv_heads, dim));
        let options =
            EngineOptions { device: Device::Cuda(0), bfloat16: true, banned: vec![], kv_cache_mib: 64, ..EngineOptions::default() };
        let ours = distance(&trainer, &play(&trainer, &options, rows, 40));
        let theirs = distance(&trainer, &play(&trainer, &EngineOptions { kernels: false, ..options.clone() }, rows, 40));
        println!("{family} {hidden} {heads}/{kv_heads}x{dim}, {rows} rows: kernels {ours:?}, libtorch {theirs:?}");
        assert!(ours.0 <= 1.3 * theirs.0 + 1e-4 && ours.1 <= 2.0 * theirs.1 + 1e-3, "{family} {heads}/{kv_heads}: {ours:?} {theirs:?}");
        // Requests that ask for more than a temperature are sampled on the host, from the same scores.
        let held = EngineOptions { max_num_seqs: 4, max_num_batched_tokens: 64, ..options };
        let cut = distance(&trainer, &play(&trainer, &held, rows, 20));
        assert!(cut.0 <= 1.3 * theirs.0 + 1e-4, "{family} in small steps: {cut:?}");
    }
}

#[test]
fn the_gpu_draws_what_the_host_draws() {
    if no_gpu() {
        return;
    }
    let config = config("qwen2", 256, 4, 2, 64);
    let banned = [3, 40, 41, 1002];
    let mut decoder = Decoder::new(&config, 256, &banned, 0).unwrap();
    let (mut differ, mut all) = (0, 0);
    for round in 0..40u64 {
        let scores: Vec<f32> = (0..256 * 1003u64).map(|i| ((i * 7919 + round * 104_729) % 1009) as f32 / 90.0).collect();
        let rows = Tensor::from_slice(&scores).view([256, 1003]).to_device(Device::Cuda(0));
        let mut rngs: Vec<ChaCha8Rng> = (0..256).map(|row| ChaCha8Rng::seed_from_u64(round * 256 + row)).collect();
        let temperature = |row: usize| [1.0, 0.0, 0.7, 1.6][row % 4];
        let sampling: Vec<Sampling> = rngs
            .iter()
            .enumerate()
            .map(|(row, rng)| Sampling { temperature: temperature(row), draw: unit(&mut rng.clone()), obey: row % 3 > 0 })
            .collect();
        let drawn = decoder.draw(&rows, &sampling).unwrap();
        for (row, (drawn, rng)) in drawn.iter().zip(&mut rngs).enumerate() {
            let params = SamplingParams { temperature: temperature(row), ban: row % 3 > 0, ..SamplingParams::default() };
            let draw = Draw { params: &params, stop_ids: &[], banned: &banned, prompt: &[], reply: &[] };
            let token = sample(&mut scores[row * 1003..][..1003].to_vec(), &draw, rng).unwrap();
            all += 1;
            if drawn.id == Some(token.id) {
                assert!((drawn.logprob - token.logprob).abs() < 2e-5, "{drawn:?} {token:?}");
            } else {
                // The sums are rounded differently, so a draw at the very border may fall on either side.
                differ += 1;
                assert!(temperature(row) > 0.0 && drawn.id.unwrap().abs_diff(token.id) <= 6, "{drawn:?} {token:?}");
            }
        }
    }
    println!("{differ} of {all} draws differ");
    assert!(differ * 500 < all, "{differ} of {all}");
    let broken = Tensor::from_slice(&vec![f32::NAN; 1003]).view([1, 1003]).to_device(Device::Cuda(0));
    assert_eq!(decoder.draw(&broken, &[Sampling { temperature: 1.0, draw: 0.5, obey: true }]).unwrap()[0].id, None);
}

/// 102,400 draws for each temperature; chi-square of 11 degrees of freedom passes 31.3 once in a thousand.
#[test]
fn draws_of_the_gpu_follow_the_distribution() {
    if no_gpu() {
        return;
    }
    let mut config = config("qwen2", 256, 4, 2, 64);
    config.vocab_size = 13;
    let mut decoder = Decoder::new(&config, 256, &[12], 0).unwrap();
    let weights = [0.02f64, 0.2, 0.05, 0.01, 0.15, 0.1, 0.03, 0.17, 0.04, 0.08, 0.06, 0.09, 0.5];
    let row: Vec<f32> = weights.iter().map(|p| p.ln() as f32).collect();
    let scores = Tensor::from_slice(&row.repeat(256)).view([256, 13]).to_device(Device::Cuda(0));
    for temperature in [1.0f32, 0.6, 1.7] {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut counts = [0u32; 13];
        for _ in 0..400 {
            let sampling: Vec<Sampling> = (0..256).map(|_| Sampling { temperature, draw: unit(&mut rng), obey: true }).collect();
            decoder.draw(&scores, &sampling).unwrap().iter().for_each(|drawn| counts[drawn.id.unwrap() as usize] += 1);
        }
        let powers: Vec<f64> = weights[..12].iter().map(|p| p.powf(1.0 / f64::from(temperature))).collect();
        let total: f64 = powers.iter().sum();
        let chi: f64 =
            counts.iter().zip(&powers).map(|(n, p)| (f64::from(*n) - 102_400.0 * p / total).powi(2) / (102_400.0 * p / total)).sum();
        assert!(counts[12] == 0 && chi < 31.3, "temperature {temperature}: chi-square {chi}, {counts:?}");
    }
}

#[test]
fn adapters_over_bfloat16_learn() {
    if no_gpu() {
        return;
    }
    let options =
        TrainerOptions { device: Device::Cuda(0), precision: crate::Precision::Bf16, recompute: true, ..TrainerOptions::default() };
    let mut trainer = Trainer::new(config("qwen2", 256, 4, 2, 64), 5, options).unwrap();
    trainer.adapt(&crate::LoraOptions::default(), 3).unwrap();
    let sequence = Sequence { tokens: words(1, 60), trained: vec![Span { start: 1, end: 60, advantage: 0.0 }], ..Sequence::default() };
    let losses: Vec<f64> = (0..40).map(|_| trainer.imitate(std::slice::from_ref(&sequence), 3e-3).unwrap().loss).collect();
    assert!(losses[39] < 0.7 * losses[0], "{losses:?}");
}

/// What a bfloat16 and its rest are together.
fn joined(weight: &Tensor, rest: &Tensor) -> Tensor {
    let bits = weight.view_dtype(Kind::Int16).to_kind(Kind::Int) * 65_536 + rest.to_kind(Kind::Int);
    bits.view_dtype(Kind::Float)
}

#[test]
fn a_weight_and_its_rest_move_as_an_f32_does() {
    if no_gpu() {
        return;
    }
    let device = Device::Cuda(0);
    let _guard = tch::no_grad_guard();
    tch::manual_seed(3);
    let kernels = super::Adamw::new(0).unwrap();
    let draw = |scale: f64| (Tensor::randn([64, 33 * 4], (Kind::Float, device)) * scale).to_kind(Kind::BFloat16);
    let weight = draw(0.02);
    let rest = weight.zeros_like().to_kind(Kind::Int16);
    let zeros = || Tensor::zeros([64, 33 * 4], (Kind::Float, device));
    let (first, second) = (zeros(), zeros());
    let mut reference = weight.to_kind(Kind::Float);
    let before = reference.copy();
    let (mut m, mut v) = (zeros(), zeros());
    for number in 1..=30 {
        let gradient = draw(1e-3);
        let step = super::Step { scale: 0.5, keep: 1.0 - 1e-7, rate: 1e-6, epsilon: 1e-8, shares: [0.1, 0.001] };
        kernels.step(&super::Moved { weight: &weight, rest: &rest, gradient: &gradient, first: &first, second: &second }, &step).unwrap();
        crate::optimizer::with_libtorch(&mut reference, &gradient, &mut m, &mut v, &step);
        let squares = kernels.squares(&[&gradient, &weight]).unwrap();
        let expected =
            [&gradient, &weight].map(|t| t.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[])).iter().sum::<f64>();
        assert!((squares / expected - 1.0).abs() < 1e-5, "step {number}: {squares} {expected}");
    }
    let whole = joined(&weight, &rest);
    let moved = (&reference - &before).abs().mean(Kind::Double).double_value(&[]);
    let off = (&whole - &reference).abs().max().double_value(&[]);
    // Far below what a bfloat16 could hold: 0.02 / 256.
    assert!(moved > 1e-6 && off < 1e-7 && off < 0.1 * moved, "moved {moved:e}, off {off:e}");
    let halves = weight.to_kind(Kind::Float);
    let away = ((&whole - &halves).abs() / (halves.abs() + 1e-30)).max().double_value(&[]);
    assert!(away <= 1.0 / 256.0, "the bfloat16 is the f32, rounded to nearest: {away:e}");
}

#[test]
fn training_in_bfloat16_goes_on_where_it_was_saved() {
    if no_gpu() {
        return;
    }
    let config = config("qwen2", 256, 4, 2, 64);
    let options =
        TrainerOptions { device: Device::Cuda(0), precision: crate::Precision::Bf16, deterministic: true, ..TrainerOptions::default() };
    let sequence =
        |seed: u32| Sequence { tokens: words(seed, 60), trained: vec![Span { start: 1, end: 60, advantage: 0.0 }], ..Sequence::default() };
    let step = |trainer: &mut Trainer, seed: u32| trainer.imitate(&[sequence(seed)], 1e-5).unwrap().loss;
    let mut trainer = Trainer::new(config.clone(), 5, options.clone()).unwrap();
    let first: Vec<f64> = (0..20).map(|_| step(&mut trainer, 1)).collect();
    assert!(first[19] < first[0] - 0.01, "small steps add up: {first:?}");
    let folder = tempfile::tempdir().unwrap();
    trainer.save(folder.path()).unwrap();
    let mut other = Trainer::new(config, 6, options).unwrap();
    other.load(folder.path()).unwrap();
    let rest = |trainer: &Trainer| trainer.optimizer.saved(&trainer.model).rest;
    for (a, b) in rest(&trainer).iter().zip(&rest(&other)) {
        assert!(a.equal(b), "the rests of weights");
    }
    assert!(trainer.weights() == other.weights());
    // Sums that a GPU takes in any order may part the two by a rounding.
    let after = |trainer: &mut Trainer| (0..5).map(|seed| step(trainer, seed)).collect::<Vec<f64>>();
    let (a, b) = (after(&mut trainer), after(&mut other));
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3), "{a:?} {b:?}");
}
