//! Weights by their Hugging Face names, and the safetensors format.
//!
//! In: bytes of a safetensors file, or a folder with one file or several and their index. Out: every tensor that the configuration
//! asks for, of the right shape, and nothing else. Tensors of a folder are read one by one as they are asked for, so that
//! a model is never on the host twice.

use crate::error::io;
use crate::layout::Layout;
use crate::{Error, ModelConfig, Result};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView, serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Tensors by their Hugging Face name.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    tensors: BTreeMap<String, Stored>,
}

#[derive(Debug)]
enum Stored {
    /// On the host.
    Held(Tensor),
    Lies(Lying),
}

/// A tensor `offset` bytes into a file.
#[derive(Clone, Debug)]
struct Lying {
    file: Arc<File>,
    offset: u64,
    kind: Kind,
    shape: Vec<usize>,
}

impl Lying {
    fn read(&self, name: &str) -> Result<Tensor> {
        let mut bytes = vec![0; self.shape.iter().product::<usize>() * self.kind.elt_size_in_bytes()];
        let cut = |e: std::io::Error| Error::Weights(format!("tensor `{name}`: {e}; hint: the file is cut short"));
        self.file.read_exact_at(&mut bytes, self.offset).map_err(cut)?;
        Ok(Tensor::f_from_data_size(&bytes, &dimensions(&self.shape), self.kind)?)
    }
}

/// Threads that read a folder.
const READERS: usize = 8;

/// Every tensor of a model, in the order of its layers, with its shape.
pub(crate) fn layout(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    Layout::new(config).parts().map(|part| (part.name.clone(), part.shape.clone())).collect()
}

impl Weights {
    pub(crate) fn insert(&mut self, name: String, tensor: Tensor) {
        self.tensors.insert(name, Stored::Held(tensor));
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor on the host.
    pub(crate) fn get(&self, name: &str) -> Result<Tensor> {
        match self.tensors.get(name) {
            Some(Stored::Held(tensor)) => Ok(tensor.shallow_clone()),
            Some(Stored::Lies(lying)) => lying.read(name),
            None => Err(Error::Weights(format!("tensor `{name}` is missing"))),
        }
    }

    /// Tensors on a device, in order. What lies in files is read and brought there by several threads: one alone is slower than
    /// memory and bus.
    pub(crate) fn fetch(&self, names: &[&str], device: Device) -> Result<Vec<Tensor>> {
        let mut found: Vec<Option<Result<Tensor>>> = names.iter().map(|_| None).collect();
        let mut asked: Vec<(usize, &str, Lying)> = vec![];
        for (at, name) in names.iter().enumerate() {
            match self.tensors.get(*name) {
                Some(Stored::Lies(lying)) => asked.push((at, name, lying.clone())),
                _ => found[at] = Some(self.get(name).and_then(|tensor| Ok(tensor.f_to_device(device)?))),
            }
        }
        let share = asked.len().div_ceil(READERS).max(1);
        let read = |part: &[(usize, &str, Lying)]| -> Vec<(usize, Result<Tensor>)> {
            part.iter().map(|(at, name, lying)| (*at, lying.read(name).and_then(|t| Ok(t.f_to_device(device)?)))).collect()
        };
        let parts: Vec<Vec<(usize, Result<Tensor>)>> = std::thread::scope(|scope| {
            let running: Vec<_> = asked.chunks(share).map(|part| scope.spawn(move || read(part))).collect();
            running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        for (at, tensor) in parts.into_iter().flatten() {
            found[at] = Some(tensor);
        }
        found.into_iter().map(|tensor| tensor.expect("every name was looked up")).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.tensors.get(name)? {
            Stored::Held(tensor) => Some(tensor.size().iter().map(|n| *n as usize).collect()),
            Stored::Lies(lying) => Some(lying.shape.clone()),
        }
    }

    /// Takes what is named `<prefix><name>` out, under its name without the prefix.
    pub(crate) fn split_off(&mut self, prefix: &str) -> Weights {
        let (inside, rest) = std::mem::take(&mut self.tensors).into_iter().partition(|(name, _)| name.starts_with(prefix));
        self.tensors = rest;
        let inside: BTreeMap<String, Stored> = inside;
        Weights { tensors: inside.into_iter().map(|(name, stored)| (name[prefix.len()..].to_string(), stored)).collect() }
    }

    /// Holds the tensors against a list: each must be there with its shape, and no other.
    pub(crate) fn check(&self, wanted: &[(String, Vec<usize>)]) -> Result<()> {
        let mut names: BTreeSet<&str> = self.names().collect();
        for (name, expected) in wanted {
            match self.shape(name) {
                None => return Err(Error::Missing { name: name.clone(), expected: expected.clone() }),
                Some(found) if found != *expected => {
                    return Err(Error::Shape { name: name.clone(), expected: expected.clone(), found });
                }
                Some(_) => names.remove(name.as_str()),
            };
        }
        match names.first() {
            Some(name) => Err(Error::Weights(format!("tensor `{name}` has no place in this model"))),
            None => Ok(()),
        }
    }

    /// Brings the spellings that are in use to the one of the hub's files.
    fn canonical(self, config: &ModelConfig) -> Weights {
        let mut tensors: BTreeMap<String, Stored> =
            self.tensors.into_iter().map(|(name, stored)| (spelled(&name, config), stored)).collect();
        // Some programs write the tied output layer out in full; it is the embedding again.
        if config.tie_word_embeddings {
            tensors.remove(&format!("{}lm_head.weight", config.decoder_prefix()));
        }
        // Old Llama files hold the rotary frequencies, which follow from the configuration.
        tensors.retain(|name, _| !name.ends_with("rotary_emb.inv_freq"));
        Weights { tensors }
    }
}

/// A tensor's or module's name as the hub's files have it, from that or the name of the model in memory.
pub(crate) fn spelled(name: &str, config: &ModelConfig) -> String {
    let spellings: &[(&str, &str)] = match (&config.vision, config.encoder()) {
        (None, _) => &[],
        (Some(_), None) => &[("model.language_model.", "model."), ("model.visual.", "visual.")],
        (Some(_), Some(_)) => &[
            ("model.language_model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
            ("model.vision_tower.", "vision_tower."),
            ("vision_tower.vision_model.", "vision_tower."),
        ],
    };
    let respelled = |(from, to): &(&str, &str)| name.strip_prefix(from).map(|rest| format!("{to}{rest}"));
    spellings.iter().find_map(respelled).unwrap_or_else(|| name.to_string())
}

/// Reads a safetensors file of exactly this model.
pub(crate) fn read(config: &ModelConfig, bytes: &[u8]) -> Result<Weights> {
    let weights = parse(bytes)?.canonical(config);
    weights.check(&layout(config))?;
    Ok(weights)
}

/// Reads any safetensors file.
pub(crate) fn parse(bytes: &[u8]) -> Result<Weights> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| Error::Weights(format!("not a safetensors file: {e}")))?;
    let mut weights = Weights::default();
    for (name, view) in file.iter() {
        let kind = kind(name, view.dtype())?;
        weights.insert(name.to_string(), Tensor::f_from_data_size(view.data(), &dimensions(view.shape()), kind)?);
    }
    Ok(weights)
}

/// Reads the weights of a Hugging Face folder, in one file or several.
pub(crate) fn read_folder(config: &ModelConfig, folder: &Path) -> Result<Weights> {
    let weights = open_folder(folder)?.canonical(config);
    weights.check(&layout(config))?;
    Ok(weights)
}

/// What a folder's index promises must lie where it says.
fn open_folder(folder: &Path) -> Result<Weights> {
    let index = folder.join("model.safetensors.index.json");
    let single = folder.join("model.safetensors");
    if !index.exists() || single.exists() {
        return open(&single);
    }
    let wrong = |what: String| Error::Weights(format!("{}: {what}", index.display()));
    let text = std::fs::read(&index).map_err(io(&index))?;
    let parsed: serde_json::Value = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    let map = parsed["weight_map"].as_object().ok_or_else(|| wrong("lacks `weight_map`".into()))?;
    let mut found = Weights::default();
    for file in map.values().filter_map(serde_json::Value::as_str).collect::<BTreeSet<&str>>() {
        if file.contains('/') || file == ".." {
            return Err(wrong(format!("names `{file}`, which lies outside the folder")));
        }
        let shard = open(&folder.join(file))?;
        let promised = map.iter().filter(|(_, place)| *place == file).map(|(name, _)| name);
        if let Some(name) = promised.into_iter().find(|name| !shard.tensors.contains_key(*name)) {
            return Err(Error::Weights(format!("tensor `{name}` is not in `{file}`, where the index has it")));
        }
        found.tensors.extend(shard.tensors);
    }
    Ok(found)
}

/// Longest header that the format allows, bytes.
const HEADER: u64 = 100_000_000;

/// Takes a file's table of contents up.
pub(crate) fn open(path: &Path) -> Result<Weights> {
    let wrong = |what: String| Error::Weights(format!("{}: {what}", path.display()));
    let file = Arc::new(File::open(path).map_err(io(path))?);
    let size = file.metadata().map_err(io(path))?.len();
    let mut head = vec![0; 8];
    file.read_exact_at(&mut head, 0).map_err(|_| wrong("not a safetensors file: it is shorter than its header".into()))?;
    let length = u64::from_le_bytes(head[..8].try_into().expect("eight bytes were read"));
    if length > HEADER || length + 8 > size {
        return Err(wrong(format!("not a safetensors file: a header of {length} bytes in {size}; hint: the file may be cut short")));
    }
    head.resize(length as usize + 8, 0);
    file.read_exact_at(&mut head, 0).map_err(io(path))?;
    let contents: Metadata = serde_json::from_slice(&head[8..]).map_err(|e| wrong(format!("not a safetensors file: {e}")))?;
    let mut weights = Weights::default();
    for (name, info) in contents.tensors() {
        let (start, end) = info.data_offsets;
        let offset = length + 8 + start as u64;
        if length + 8 + end as u64 > size {
            return Err(wrong(format!(
                "tensor `{name}` ends at byte {}, the file at {size}; hint: it is cut short",
                length + 8 + end as u64
            )));
        }
        let lying = Lying { file: file.clone(), offset, kind: kind(&name, info.dtype)?, shape: info.shape.clone() };
        weights.tensors.insert(name, Stored::Lies(lying));
    }
    Ok(weights)
}

fn kind(name: &str, dtype: Dtype) -> Result<Kind> {
    match dtype {
        Dtype::F32 => Ok(Kind::Float),
        Dtype::BF16 => Ok(Kind::BFloat16),
        Dtype::F16 => Ok(Kind::Half),
        other => Err(Error::Weights(format!("tensor `{name}` is {other:?}; allowed: F32, BF16, F16"))),
    }
}

fn dimensions(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|n| *n as i64).collect()
}

/// The bytes of a safetensors file; the same weights always give the same bytes.
pub(crate) fn write(weights: &Weights) -> Result<Vec<u8>> {
    let mut held = vec![];
    for name in weights.names() {
        let tensor = weights.get(name)?.contiguous();
        let dtype = match tensor.kind() {
            Kind::BFloat16 => Dtype::BF16,
            Kind::Half => Dtype::F16,
            _ => Dtype::F32,
        };
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        held.push((name, dtype, weights.shape(name).expect("the name is its own"), bytes));
    }
    let views = held.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).expect("the data was made from the shape");
        (*name, view)
    });
    let format = [("format".to_string(), "pt".to_string())].into();
    Ok(serialize(views, Some(format)).expect("names are unique and views are whole"))
}
