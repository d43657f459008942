//! A policy with eyes, from two cameras to its weights.

use anyhow::{Context as _, Result};
use context::{ImageSettings, Tokenizer, image::Rgb};
use futures::TryStreamExt;
use journeys::Journey;
use schemas::{End, Segment, Source, Split};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const PIPELINE: &str = r#"
name = "tiny-vision"
seed = 3

[world]
name = "fetch"
pictures = true
settings = { tier = "near", width = 84, height = 56 }

[episodes]
generated_houses = 8
validation = 6
group_size = 2
group_size_hard = 2

[prompt]
observation_tokens = 72
segment_tokens = 320
segment_turns = 6
segment_images = 10

[limits]
steps = 120
turns = 24
reply_tokens = 8
episode_tokens = 8192

[sampling]
validation_temperature = 1.0

[policy]
hidden = 32
layers = 2
heads = 4
kv_heads = 2
intermediate = 64
vocabulary = 768

[policy.vision]
hidden = 32
layers = 2
heads = 2
intermediate = 64

[generator]
threads = 1
kv_cache_mib = 32

[learner]
threads = 1

[stages]
slots = 8

[[schedule]]
phase = "imitation"
batches = 4
batch = 4
learning_rate = 2e-3

[[schedule]]
phase = "dagger"
batches = 2
batch = 2

[[schedule]]
phase = "grpo"
batches = 2
batch = 2
"#;

/// What a checkpoint's policy looks with.
struct Eyes {
    trainer: policy::Trainer,
    images: ImageSettings,
    levels: policy::Levels,
}

impl Eyes {
    fn open(folder: &Path) -> Result<Eyes> {
        let read = |name: &str| std::fs::read(folder.join(name)).with_context(|| format!("{name} of the checkpoint's policy"));
        let tokenizer = Tokenizer::from_files(&read("tokenizer.json")?, &read("tokenizer_config.json")?)?;
        let config = policy::ModelConfig::from_json(&read("config.json")?)?;
        let images = ImageSettings::from_json(&read("preprocessor_config.json")?)?;
        let options = policy::TrainerOptions { banned: tokenizer.banned_ids(config.vocab_size), ..policy::TrainerOptions::default() };
        let levels = policy::Levels(Arc::new(images.levels()));
        Ok(Eyes { trainer: policy::Trainer::from_folder(folder, options)?, images, levels })
    }

    /// Log-probabilities of what a segment sampled, by a fresh pass; `dark` names a camera whose pictures are black.
    fn logprobs(&self, end: &End, segment: &Segment, dark: Option<&str>) -> Result<Vec<f32>> {
        let frames: BTreeMap<&str, &schemas::Frame> = end.frames.iter().map(|f| (f.digest.as_str(), f)).collect();
        let mut pictures = vec![];
        for span in &segment.images {
            let frame = frames.get(span.digest.as_str()).context("a picture of the segment is not in the record")?;
            let mut rgb = Rgb::from_png(&frame.png).map_err(anyhow::Error::msg)?;
            if dark == Some(frame.camera.as_str()) {
                rgb.pixels.fill(0);
            }
            let cut = self.images.patches(&rgb).map_err(anyhow::Error::msg)?;
            assert_eq!((cut.grid, self.images.tokens(cut.grid)), (span.grid, span.len), "the picture's tokens are its features");
            pictures.push(policy::Picture { offset: span.offset, grid: cut.grid, patches: cut.bytes.into(), levels: self.levels.clone() });
        }
        let live = segment.turns.iter().filter(|turn| turn.trainable && turn.source == Source::Policy);
        let trained = live.map(|turn| policy::Span { start: turn.reply, end: turn.end, advantage: 0.0 }).collect();
        let sequence = policy::Sequence { tokens: segment.tokens.0.clone(), trained, pictures, ..policy::Sequence::default() };
        Ok(self.trainer.logprobs(&sequence)?)
    }
}

fn greatest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn what_the_cameras_see_is_what_is_learned_from() -> Result<()> {
    let mut journey = Journey::start(PIPELINE, &[])?;
    let summary = journey.finish(Duration::from_secs(480))?;
    assert_eq!(summary["audit"]["clean"], true, "{summary:#}");
    let ends: Vec<End> = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let url = journey.folder().join("trajectories").to_string_lossy().into_owned();
        let reader = store::Reader::open(&url, &journey.run).await?;
        reader.trajectories().try_collect().await
    })?;
    let played: Vec<&End> = ends.iter().filter(|end| end.reason.is_played()).collect();
    assert!(played.iter().any(|end| end.id().split == Split::Train), "groups were played");
    for end in &played {
        let shown: BTreeMap<&str, &schemas::Frame> = end.frames.iter().map(|f| (f.digest.as_str(), f)).collect();
        assert!(end.frames.iter().all(|f| schemas::digest_of(&f.png) == f.digest), "{}: a picture changed on its way", end.id());
        assert!(end.segments.iter().flat_map(|s| &s.images).all(|i| shown.contains_key(i.digest.as_str())), "{}", end.id());
        for turn in &end.turns {
            let cameras: Vec<&str> = turn.frames.iter().filter_map(|d| shown.get(d.as_str()).map(|f| f.camera.as_str())).collect();
            assert_eq!(cameras, ["navigation", "manipulation"], "{} turn {}", end.id(), turn.turn);
        }
    }
    let latest = std::fs::read_to_string(journey.folder().join("checkpoints").join("latest"))?;
    let checkpoint = journey.folder().join("checkpoints").join(latest.trim());
    let eyes = Eyes::open(&checkpoint.join("policy"))?;
    let last = played.iter().map(|end| end.episode.validates).max().unwrap_or(0);
    let judged = played.iter().filter(|end| end.id().split == Split::Val && end.episode.validates == last);
    let (mut looked_at, mut dimmed) = (0, BTreeMap::new());
    for (end, segment) in judged.flat_map(|end| end.segments.iter().map(move |segment| (*end, segment))) {
        let fresh = eyes.logprobs(end, segment, None)?;
        let off = greatest(&fresh, &segment.logprobs.0);
        assert!(off < 1e-4, "{}, segment {}: the learner's pass is off by {off:e}", end.id(), segment.number);
        looked_at += fresh.len();
        for camera in ["navigation", "manipulation"] {
            let dark = greatest(&fresh, &eyes.logprobs(end, segment, Some(camera))?);
            let most: &mut f32 = dimmed.entry(camera).or_default();
            *most = most.max(dark);
        }
    }
    assert!(looked_at > 0, "the last version was validated");
    assert!(dimmed.values().all(|off| *off > 1e-3), "a blacked-out camera changes the log-probabilities: {dimmed:?}");
    Ok(())
}
