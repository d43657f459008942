//! Says what a model folder is, what it takes, and whether it computes what transformers computes from it.
//!
//!     model-check FOLDER
//!
//! `errand model check` runs it: the command line itself links no libtorch. Exit code 1: the folder is refused, or its scores differ.

use context::ImageSettings;
use context::image::{Fit, Rgb};
use policy::{Levels, Memory, Picture};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Greatest difference of a score in f32.
const ALLOWED: f64 = 1e-4;

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("model-check: error: a folder is needed");
        return ExitCode::FAILURE;
    };
    match check(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("model-check: error: {folder}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(folder: &Path) -> Result<(), String> {
    let read = |name: &str| std::fs::read(folder.join(name)).ok();
    let config = read("config.json").ok_or("it has no config.json")?;
    let config = policy::ModelConfig::from_json(&config).map_err(|e| e.to_string())?;
    let mut settings = match read("preprocessor_config.json") {
        Some(json) => ImageSettings::from_json(&json).map_err(|e| e.to_string())?,
        None => ImageSettings::default(),
    };
    if let Some(vision) = &config.vision {
        if read("preprocessor_config.json").is_none() {
            (settings.patch, settings.merge) = (vision.patch_size as u32, vision.spatial_merge_size as u32);
            let token = u64::from(settings.factor()).pow(2);
            (settings.min_pixels, settings.max_pixels) = (token, 12 * token);
        }
        if let Some(encoder) = &vision.encoder {
            // Files of encoders' own processors name no patch, and a folder without one has the size that the encoder was trained on.
            settings.patch = vision.patch_size as u32;
            if settings.fit == Fit::Area {
                let side = encoder.image_size as u32;
                (settings.merge, settings.fit) = (1, Fit::Exact { height: side, width: side });
            }
        }
        let (patch, merge) = (settings.patch as usize, settings.merge as usize);
        if (patch, merge) != (vision.patch_size, vision.spatial_merge_size) {
            let (p, m) = (vision.patch_size, vision.spatial_merge_size);
            return Err(format!("preprocessor_config.json has patches of {patch} merged by {merge}, config.json of {p} by {m}"));
        }
    }
    policy::set_threads(std::thread::available_parallelism().map_or(1, usize::from));
    let levels = Levels(Arc::new(settings.levels()));
    let (config, compared) = policy::check_folder(folder, &mut |offset, (height, width, pixels)| {
        let patches = settings.patches(&Rgb { width, height, pixels }).map_err(policy::Error::Options)?;
        Ok(Picture { offset, grid: patches.grid, patches: patches.bytes.into(), levels: levels.clone() })
    })
    .map_err(|e| e.to_string())?;
    let memory = Memory::of(&config);
    let tokens = |grid: [u32; 3]| config.vision.as_ref().map(|vision| vision.tokens(grid));
    let cost = |width: u32, height: u32| settings.grid(height, width).ok().and_then(tokens);
    let report = serde_json::json!({
        "family": format!("{:?}", config.family),
        "encoder": config.encoder().map(|encoder| format!("{:?}", encoder.kind)),
        "parameters": config.parameters(),
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "heads": [config.num_attention_heads, config.num_key_value_heads],
        "vocabulary": config.vocab_size,
        "tied": config.tie_word_embeddings,
        "bytes": {
            "weights_f32": memory.weights_f32, "weights_bf16": memory.weights_bf16, "moments": memory.moments,
            "kv_per_token_f32": memory.kv_per_token_f32,
        },
        "image_tokens": config.vision.as_ref().map(|_| serde_json::json!({"384x224": cost(384, 224), "512x512": cost(512, 512)})),
        "compared": compared.as_ref().map(|c| serde_json::json!({
            "sequences": c.sequences, "scores": c.scores, "greatest_difference": c.greatest_difference,
        })),
    });
    println!("{report:#}");
    match compared {
        Some(c) if c.greatest_difference > ALLOWED || c.greatest_difference.is_nan() => {
            Err(format!("parity.safetensors: a score differs by {}; allowed: {ALLOWED}", c.greatest_difference))
        }
        _ => Ok(()),
    }
}
