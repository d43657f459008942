//! What a model folder is, and whether it computes what transformers computes from it.
//!
//! In: a Hugging Face folder, and `parity.safetensors` in it where there is one. Out: its shape, what it takes in memory, and the
//! greatest difference of a score.

use crate::batch::Microbatch;
use crate::pass::scores;
use crate::picture::positions;
use crate::{Error, ModelConfig, Picture, Result, Trainer, TrainerOptions};
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

/// Bytes by use. Weights and moments for the whole model, keys and values for one token.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    pub weights_f32: u64,
    pub weights_bf16: u64,
    /// AdamW's two, in f32, of what is trained.
    pub moments: u64,
    pub kv_per_token_f32: u64,
}

impl Memory {
    pub fn of(config: &ModelConfig) -> Memory {
        let count = config.parameters();
        let kv = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim();
        Memory {
            weights_f32: 4 * count,
            weights_bf16: 2 * count,
            moments: 8 * config.trained_parameters(),
            kv_per_token_f32: 4 * kv as u64,
        }
    }
}

/// A picture as `parity.safetensors` holds it: height, width and levels, row by row, three a pixel.
pub type RawPicture = (u32, u32, Vec<u8>);

/// Scores that transformers computed, beside those of this code.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Sequences compared.
    pub sequences: usize,
    pub scores: usize,
    pub greatest_difference: f64,
}

/// Loads a folder on the CPU in f32, and compares it with `parity.safetensors` where that is there. `cut` makes pictures of what
/// the file holds: offset, then the picture.
///
/// # Errors
/// Whatever is wrong with the folder, by name.
pub fn check_folder(folder: &Path, cut: &mut dyn FnMut(u32, RawPicture) -> Result<Picture>) -> Result<(ModelConfig, Option<Compared>)> {
    let trainer = Trainer::from_folder(folder, TrainerOptions::default())?;
    let config = trainer.config().clone();
    let path = folder.join("parity.safetensors");
    if !path.exists() {
        return Ok((config, None));
    }
    let expected: BTreeMap<String, Tensor> = Tensor::read_safetensors(&path)?.into_iter().collect();
    let mut compared = Compared { sequences: 0, scores: 0, greatest_difference: 0.0 };
    let _guard = tch::no_grad_guard();
    while let Some(logits) = expected.get(&format!("logits.{}", compared.sequences)) {
        let number = compared.sequences;
        let lacks = |what: &str| Error::Weights(format!("{}: `{what}` is missing or of another type", path.display()));
        let name = format!("ids.{number}");
        let tokens: Vec<i64> = expected.get(&name).and_then(|ids| Vec::try_from(ids).ok()).ok_or_else(|| lacks(&name))?;
        let pictures = pictures(&expected, number, cut).ok_or_else(|| lacks("offset or image"))??;
        if tokens.is_empty() || logits.size() != [tokens.len() as i64, config.vocab_size as i64] {
            return Err(lacks(&format!("logits.{number}")));
        }
        let (positions, _) = positions(tokens.len(), &pictures, config.vision.as_ref());
        let placed = pictures.into_iter().map(|picture| (picture.offset as usize, picture)).collect();
        let found = scores(&trainer.model, &Microbatch { tokens, positions, pictures: placed, ..Microbatch::default() });
        let difference = (found - logits).abs().max().double_value(&[]);
        compared.sequences += 1;
        compared.scores += logits.numel();
        compared.greatest_difference = compared.greatest_difference.max(difference);
    }
    Ok((config, Some(compared)))
}

fn pictures(
    expected: &BTreeMap<String, Tensor>,
    number: usize,
    cut: &mut dyn FnMut(u32, RawPicture) -> Result<Picture>,
) -> Option<Result<Vec<Picture>>> {
    let Some(offsets) = expected.get(&format!("offset.{number}")) else { return Some(Ok(vec![])) };
    let offsets: Vec<i64> = Vec::try_from(offsets).ok()?;
    let mut all = vec![];
    for (i, offset) in offsets.iter().enumerate() {
        let image = expected.get(&format!("image.{number}.{i}")).filter(|image| image.dim() == 3)?;
        let (height, width) = (image.size()[0] as u32, image.size()[1] as u32);
        all.push(cut(*offset as u32, (height, width, Vec::try_from(image.flatten(0, -1)).ok()?)));
    }
    Some(all.into_iter().collect())
}
