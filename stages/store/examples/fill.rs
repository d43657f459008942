//! Fills a store with made-up FrozenLake trajectories and says how fast: `cargo run --release -p store --example fill -- FOLDER RUN ENDS`.
//!
//! Each has 4 turns of some 400 tokens, as VAGEN's prompts with a large tokenizer give; every tenth shows pictures.

use schemas::{End, EpisodeId, Frame, Message, Segment, Source, Split, Turn, TurnSpan};
use std::time::Instant;
use store::{Store, Writer};

const TURNS: u32 = 4;
const PROMPT: u32 = 380;
const REPLY: u32 = 20;

fn segment(number: u64) -> Segment {
    let mut segment = Segment::default();
    for turn in 0..TURNS {
        let start = segment.tokens.0.len() as u32;
        segment.tokens.0.extend((0..PROMPT).map(|n| n * 397 % 150_000));
        segment.tokens.0.extend((0..REPLY).map(|n| (n + turn) * (number as u32 % 977) % 150_000));
        segment.logprobs.0.extend((0..REPLY).map(|n| -0.1 * (n as f32 + number as f32 % 7.0)));
        let (reply, end) = (start + PROMPT, start + PROMPT + REPLY);
        let versions = vec![(number / 512, REPLY)];
        segment.turns.push(TurnSpan { turn, start, reply, end, close: end, trainable: true, source: Source::Policy, versions, cut: false });
    }
    segment
}

fn turn(number: u64, turn: u32, frame: Option<&Frame>) -> Turn {
    let stage = |name: &str, at: u64| (name.to_string(), 1_700_000_000_000_000 + at, 1_700_000_000_000_100 + at);
    Turn {
        turn,
        observation: format!("[Initial Observation]:\n{}<image>Decide your next action.", "P\t_\tO\tG\n".repeat(4 + number as usize % 2)),
        reply: "<think>The goal is to the right.</think><answer>Right||Down</answer>".into(),
        executed: vec!["Right".into(), "Down".into()],
        worked: vec![true, number.is_multiple_of(3)],
        state_key: format!("{:016x}", number * 31 + u64::from(turn)),
        frames: frame.map(|frame| frame.digest.clone()).into_iter().collect(),
        version: number / 512,
        reply_tokens: REPLY,
        prompt_tokens: PROMPT,
        trail: vec![stage("env-stepper", 0), stage("prompt-renderer", 150), stage("generator", 300), stage("env-stepper", 600)],
        ..End::example().turns[0].clone()
    }
}

fn end(number: u64) -> End {
    let png = [b"\x89PNG\r\n\x1a\n".as_slice(), &number.to_le_bytes(), &[7; 800]].concat();
    let frame =
        number.is_multiple_of(10).then(|| Frame { digest: format!("{number:064x}"), png, width: 64, height: 64, camera: "board".into() });
    let mut end = End::example();
    end.episode.id = EpisodeId { split: if number % 8 == 7 { Split::Val } else { Split::Train }, number: number / 8 * 7 + number % 8 };
    if end.episode.id.split == Split::Val {
        end.episode.id.number = number / 8;
    }
    end.turns = (0..TURNS).map(|t| turn(number, t, frame.as_ref())).collect();
    end.frames = frame.into_iter().collect();
    end.segments = vec![segment(number)];
    end.success = number.is_multiple_of(2);
    end
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, run, count] = arguments.as_slice() else { return Err("usage: fill FOLDER RUN ENDS".into()) };
    let payloads: Vec<Vec<u8>> = (0..count.parse()?).map(|number| schemas::encode(&end(number))).collect();
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut writer = Writer::open(Store::open(folder, run)?, "fill").await?;
        let (mut decoding, mut committing, mut written) = (0.0, 0.0, 0);
        for batch in payloads.chunks(2000) {
            let begun = Instant::now();
            let ends: Vec<End> = batch.iter().map(|payload| schemas::decode(payload)).collect::<Result<_, _>>()?;
            decoding += begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            written += writer.commit(&ends, 0).await?.map_or(0, |entry| entry.bytes());
            committing += begun.elapsed().as_secs_f64();
        }
        let ends = payloads.len() as f64;
        let per = |seconds: f64| format!("{:.0} ends/s", ends / seconds);
        println!("{ends} ends, {} bytes each, {} bytes each on disk", bytes / payloads.len(), written / payloads.len() as u64);
        println!("decode {}, commit {}, both {}", per(decoding), per(committing), per(decoding + committing));
        Ok(())
    })
}
