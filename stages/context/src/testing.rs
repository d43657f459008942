//! Tokenizers and pictures for tests.

use crate::{Context, ImageSettings, train_small};
use schemas::Frame;
use std::sync::OnceLock;

/// Observation texts as a text world writes them.
pub(crate) fn corpus() -> Vec<String> {
    let cells = ["P", "_", "O", "G"];
    let row = |n: usize| (0..4).map(|c| cells[(n >> (2 * c)) % 4]).collect::<Vec<_>>().join(" ");
    (0..256)
        .map(|n| {
            format!("goal: fetch the mug\nmug left 2.{} m\nlast move_ahead worked, rotate_left failed\n{}\n{}", n % 10, row(n), row(n * 7))
        })
        .collect()
}

pub(crate) fn actions() -> Vec<String> {
    ["move_ahead", "rotate_left", "rotate_left_small", "pickup", "done", "Left"].map(String::from).to_vec()
}

/// A small tokenizer, trained once for all tests.
pub(crate) fn small() -> &'static Context {
    static SMALL: OnceLock<Context> = OnceLock::new();
    SMALL.get_or_init(|| {
        let (json, config) = train_small(&corpus(), &actions(), 400).expect("the corpus is sound");
        Context::from_files(&json, &config, ImageSettings::default()).expect("its own files are sound")
    })
}

/// The tokenizer of Qwen2.5, where the environment says that it has been made.
pub(crate) fn qwen() -> Option<&'static Context> {
    static QWEN: OnceLock<Option<Context>> = OnceLock::new();
    let load = || {
        let Some(folder) = std::env::var_os("ERRAND_QWEN_TOKENIZER") else {
            println!("skipped: ERRAND_QWEN_TOKENIZER names no folder; ops/make_qwen_tokenizer.py makes one");
            return None;
        };
        let read = |name: &str| std::fs::read(std::path::Path::new(&folder).join(name)).expect("the folder holds both files");
        Some(
            Context::from_files(&read("tokenizer.json"), &read("tokenizer_config.json"), ImageSettings::default())
                .expect("a sound tokenizer"),
        )
    };
    QWEN.get_or_init(load).as_ref()
}

/// A picture of one colour.
pub(crate) fn frame(width: u32, height: u32) -> Frame {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let rgb = vec![9; (width * height * 3) as usize];
    encoder.write_header().and_then(|mut w| w.write_image_data(&rgb)).expect("writing to memory");
    Frame { digest: blake3::hash(&bytes).to_hex().to_string(), png: bytes, width, height, camera: "navigation".into() }
}
