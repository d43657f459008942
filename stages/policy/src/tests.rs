//! Behaviour across the crate's parts, on small random models.

mod encoder;
mod engine;
mod folders;
mod parity;
mod pictures;
mod trainer;

use crate::SamplingParams;
use crate::{Engine, EngineOptions, ModelConfig, Request, Sequence, Span, Trainer, TrainerOptions};
use schemas::pipeline::PolicyConfig;
use std::collections::BTreeMap;

const VOCABULARY: usize = 96;
const STOP: u32 = 3;
const BANNED: [u32; 3] = [7, 8, 90];

fn config() -> ModelConfig {
    // Tests run side by side, so each computes with one thread.
    crate::set_threads(1);
    let policy = PolicyConfig { hidden: 32, layers: 3, heads: 4, kv_heads: 2, intermediate: 48, ..PolicyConfig::default() };
    ModelConfig::tiny(&policy, VOCABULARY).unwrap()
}

fn options() -> TrainerOptions {
    TrainerOptions { banned: BANNED.to_vec(), weight_decay: 0.0, ..TrainerOptions::default() }
}

/// A trainer whose distributions are far from flat, so that mistakes show.
fn trainer() -> Trainer {
    let mut trainer = Trainer::new(config(), 5, options()).unwrap();
    let sequence =
        |seed: u32| Sequence { tokens: words(seed, 60), trained: vec![Span { start: 1, end: 60, advantage: 0.0 }], ..Sequence::default() };
    let sequences: Vec<Sequence> = (0..4).map(sequence).collect();
    for _ in 0..15 {
        trainer.imitate(&sequences, 1e-2).unwrap();
    }
    trainer
}

/// Ids that look random, and are none of the banned ones.
fn words(seed: u32, count: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        10 + (state >> 16) % 80
    };
    (0..count).map(|_| next()).collect()
}

fn engine(trainer: &Trainer, options: EngineOptions) -> Engine {
    let mut engine = Engine::new(trainer.config().clone(), EngineOptions { banned: BANNED.to_vec(), ..options }).unwrap();
    engine.load(1, &trainer.weights()).unwrap();
    engine
}

fn request(ticket: u64, tokens: Vec<u32>, max_tokens: u32) -> Request {
    let sampling = SamplingParams { seed: 1000 + ticket, max_tokens, ..SamplingParams::default() };
    Request { ticket, rollout: ticket, tokens, version: 1, sampling, stop_ids: vec![STOP], ..Request::default() }
}

/// Steps until nothing is left; the replies by ticket.
fn drain(engine: &mut Engine) -> BTreeMap<u64, crate::Generated> {
    let mut all = BTreeMap::new();
    let mut steps = 0;
    while engine.running() + engine.waiting() > 0 {
        all.extend(engine.step().unwrap().into_iter().map(|g| (g.ticket, g)));
        steps += 1;
        assert!(steps < 20_000, "the engine makes no progress");
    }
    all
}

/// Several rollouts of several turns: what each ended as, ready to train on.
struct Play {
    rollouts: u64,
    turns: u64,
    prompt: usize,
    max_tokens: u32,
}

impl Play {
    /// Every rollout's turns, one after the other, all rollouts side by side. Members of a group of 4 start alike.
    fn run(&self, engine: &mut Engine, version: impl Fn(u64) -> u64) -> Vec<Sequence> {
        let mut all = vec![Sequence::default(); self.rollouts as usize];
        for (rollout, sequence) in all.iter_mut().enumerate() {
            sequence.tokens = words(rollout as u32 / 4, 2 * self.prompt);
        }
        for turn in 0..self.turns {
            for (rollout, sequence) in all.iter_mut().enumerate() {
                sequence.tokens.extend(words(1000 + rollout as u32 + 100 * turn as u32, self.prompt));
                let ticket = turn * self.rollouts + rollout as u64;
                let mut request = request(ticket, sequence.tokens.clone(), self.max_tokens);
                (request.rollout, request.version) = (rollout as u64, version(turn));
                engine.submit(request).unwrap();
            }
            let replies = drain(engine);
            for (rollout, sequence) in all.iter_mut().enumerate() {
                let reply = &replies[&(turn * self.rollouts + rollout as u64)];
                let start = sequence.tokens.len() as u32;
                sequence.tokens.extend(&reply.tokens);
                sequence.old_logprobs.extend(&reply.logprobs);
                sequence.trained.push(Span { start, end: sequence.tokens.len() as u32, advantage: 1.0 });
            }
        }
        all
    }
}

fn close(a: &[f32], b: &[f32], tolerance: f32) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
}
