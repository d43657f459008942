//! Times a model folder of any size: loading, a forward pass and training steps, with text or with two pictures a prompt.
//!
//!     cargo run --release -p policy --example bench_shapes -- FOLDER --rows 16 --tokens 2048 --steps 3 [--pictures] [--lora]
//!
//! On a GPU weights are bfloat16, the optimiser's moments f32, and layers are computed again on the way back. Prints one JSON object.

use policy::{Device, Levels, LoraOptions, Picture, Precision, Sequence, Span, Trainer, TrainerOptions, VisionConfig};
use std::sync::Arc;
use std::time::Instant;

/// Side of the pictures: two cameras of 384 x 224 pixels, 112 tokens each at Qwen2.5-VL's patches (28 pixels a token).
const GRID: [u32; 3] = [1, 16, 28];

fn pictures(tokens: &mut [u32], vision: &VisionConfig) -> Vec<Picture> {
    let levels = Levels(Arc::new([[0.5; 256]; 3]));
    let bytes: Arc<[u8]> = vec![7; 16 * 28 * 3 * vision.patch_size * vision.patch_size].into();
    let mut all = vec![];
    for offset in [20, 400] {
        let picture = Picture { offset, grid: GRID, patches: bytes.clone(), levels: levels.clone() };
        let end = offset as usize + picture.tokens(vision);
        tokens[offset as usize..end].fill(vision.image_token_id);
        all.push(picture);
    }
    all
}

fn sequences(rows: usize, tokens: usize, vision: Option<&VisionConfig>) -> Vec<Sequence> {
    let sequence = |row: usize| {
        let mut ids: Vec<u32> = (0..tokens).map(|i| ((row * 7919 + i * 104_729) % 100_000) as u32).collect();
        let pictures = vision.map_or(vec![], |vision| pictures(&mut ids, vision));
        // With pictures a reply of 100 tokens is trained, else everything.
        let start = if vision.is_some() { tokens as u32 - 100 } else { 1 };
        Sequence { tokens: ids, trained: vec![Span { start, end: tokens as u32, advantage: 1.0 }], pictures, ..Sequence::default() }
    };
    (0..rows).map(sequence).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or("a model folder is needed")?;
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|at| arguments.get(at + 1)).and_then(|n| n.parse().ok()).unwrap_or(default)
    };
    let flag = |name: &str| arguments.iter().any(|a| a == name);
    let (rows, tokens, steps) = (number("--rows", 16), number("--tokens", 2048), number("--steps", 3));
    let cuda = policy::register_cuda();
    let device = if cuda { Device::Cuda(0) } else { Device::Cpu };
    let wait = || {
        if cuda {
            tch::Cuda::synchronize(0)
        }
    };
    let precision = if cuda { Precision::Bf16 } else { Precision::F32 };
    let options =
        TrainerOptions { device, precision, recompute: true, microbatch_tokens: rows * (tokens + 16), ..TrainerOptions::default() };
    let started = Instant::now();
    let mut trainer = Trainer::from_folder(folder.as_ref(), options)?;
    wait();
    let load_s = started.elapsed().as_secs_f64();
    if flag("--lora") {
        trainer.adapt(&LoraOptions::default(), 1)?;
    }
    let vision = trainer.config().vision.clone().filter(|_| flag("--pictures"));
    let batch = sequences(rows, tokens, vision.as_ref());
    let mut forward_s = vec![];
    for _ in 0..steps {
        let started = Instant::now();
        trainer.imitation_loss(&batch)?;
        wait();
        forward_s.push(started.elapsed().as_secs_f64());
    }
    let (mut step_s, mut losses) = (vec![], vec![]);
    for _ in 0..steps {
        let started = Instant::now();
        losses.push(trainer.imitate(&batch, 1e-6)?.loss);
        wait();
        step_s.push(started.elapsed().as_secs_f64());
    }
    let best = |times: &[f64]| (rows * tokens) as f64 / times.iter().copied().fold(f64::MAX, f64::min);
    let report = serde_json::json!({
        "folder": folder, "device": format!("{device:?}"), "parameters": trainer.config().parameters(), "rows": rows, "tokens": tokens,
        "pictures": vision.is_some(), "lora": flag("--lora"), "load_s": load_s, "forward_s": forward_s, "step_s": step_s,
        "forward_tokens_per_s": best(&forward_s), "step_tokens_per_s": best(&step_s), "losses": losses,
    });
    println!("{report}");
    Ok(())
}
