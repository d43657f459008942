//! Holds the engine's greedy replies against transformers', which `tests/parity/greedy.py` wrote into the model's folder.
//!
//!     cargo run --release -p policy --example greedy -- FOLDER
//!
//! Where transformers' best two scores are closer than 2e-4 either token is right: such a place is counted, and the comparison goes on
//! from the reference's token. Prints one JSON object; exit code 1 where a token differs otherwise.

use policy::{Engine, EngineOptions, ModelConfig, Request, SamplingParams};
use serde::Deserialize;
use std::path::Path;

const CLOSE: f32 = 2e-4;

#[derive(Deserialize)]
struct File {
    ends: Vec<u32>,
    replies: Vec<Reply>,
}

#[derive(Deserialize)]
struct Reply {
    prompt: String,
    ids: Vec<u32>,
    reply: Vec<u32>,
    gaps: Vec<f32>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("a model folder is needed")?;
    let folder = Path::new(&folder);
    let config = ModelConfig::from_json(&std::fs::read(folder.join("config.json"))?)?;
    let file: File = serde_json::from_slice(&std::fs::read(folder.join("greedy.json"))?)?;
    let mut engine = Engine::new(config, EngineOptions { threads: 2, ..EngineOptions::default() })?;
    let weights = engine.loader().prepare_folder(folder)?;
    engine.install(1, weights);
    let (mut equal, mut close, mut tokens) = (0, 0, 0);
    for reply in &file.replies {
        let (mut from, mut whole) = (0, true);
        while from < reply.reply.len() {
            let prompt = [&reply.ids[..], &reply.reply[..from]].concat();
            let sampling = SamplingParams { temperature: 0.0, max_tokens: (reply.reply.len() - from) as u32, ..SamplingParams::default() };
            let request =
                Request { ticket: 1, rollout: 1, tokens: prompt, version: 1, sampling, stop_ids: file.ends.clone(), ..Request::default() };
            engine.submit(request)?;
            let mut found = vec![];
            while engine.running() + engine.waiting() > 0 {
                found.extend(engine.step()?);
            }
            let found = &found.first().ok_or("no reply came")?.tokens;
            let Some(at) = (0..reply.reply.len() - from).find(|i| found.get(*i) != Some(&reply.reply[from + i])) else { break };
            from += at;
            if reply.gaps[from] >= CLOSE {
                return Err(
                    format!("{:?}: token {from} is {:?}, the reference's {}", reply.prompt, found.get(at), reply.reply[from]).into()
                );
            }
            (from, close, whole) = (from + 1, close + 1, false);
        }
        tokens += reply.reply.len();
        equal += usize::from(whole);
    }
    let replies = file.replies.len();
    println!("{}", serde_json::json!({ "replies": replies, "equal": equal, "tokens": tokens, "too_close_to_tell": close }));
    Ok(())
}
