//! An adapter as one file: PEFT's `adapter_model.safetensors`, which carries the text of `adapter_config.json` in its metadata.

use crate::weights::write;
use crate::{Error, Result, Trainer};
use serde_json::{Map, Value};

/// Where the metadata hold the configuration.
const KEY: &str = "adapter_config";

impl Trainer {
    /// The adapter in training as one file; `None` where whole weights are trained.
    pub fn adapter(&self) -> Option<Vec<u8>> {
        let adapters = self.model.adapters.as_ref()?;
        let named = adapters.named(&self.model.config, &adapters.values);
        let plain = write(&named).expect("an adapter on the host has a type that the format knows");
        let (mut header, data) = split(&plain).expect("it was just written");
        let metadata = header.entry("__metadata__").or_insert_with(|| Value::Object(Map::new()));
        metadata[KEY] = Value::String(Value::Object(adapters.source().clone()).to_string());
        let mut text = Value::Object(header).to_string();
        // The format wants tensors to begin at a multiple of eight bytes.
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        Some([&(text.len() as u64).to_le_bytes(), text.as_bytes(), data].concat())
    }
}

/// The text of `adapter_config.json` that an adapter's file carries.
///
/// # Errors
/// [`Error::Adapter`] where the file is none that [`Trainer::adapter`] made.
pub fn adapter_config(safetensors: &[u8]) -> Result<String> {
    let (header, _) = split(safetensors).ok_or_else(|| Error::Adapter("it is no safetensors file".into()))?;
    let text = header.get("__metadata__").and_then(|metadata| metadata[KEY].as_str());
    text.map(str::to_string).ok_or_else(|| Error::Adapter(format!("its metadata hold no `{KEY}`; hint: these are whole weights")))
}

/// The header of a safetensors file, and what comes after it.
fn split(bytes: &[u8]) -> Option<(Map<String, Value>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (header, data) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((serde_json::from_slice(header).ok()?, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LoraOptions, ModelConfig, TrainerOptions};

    #[test]
    fn the_file_is_the_adapter_that_pefts_folder_holds() {
        let shape =
            schemas::pipeline::PolicyConfig { hidden: 16, layers: 1, heads: 2, kv_heads: 1, intermediate: 32, ..Default::default() };
        let config = ModelConfig::tiny(&shape, 40).unwrap();
        let trainer = || Trainer::new(config.clone(), 1, TrainerOptions::default()).unwrap();
        assert!(trainer().adapter().is_none());
        let mut first = trainer();
        first.adapt(&LoraOptions { r: 3, ..LoraOptions::default() }, 5).unwrap();
        let file = first.adapter().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("adapter_config.json"), adapter_config(&file).unwrap()).unwrap();
        std::fs::write(folder.path().join("adapter_model.safetensors"), &file).unwrap();
        let mut second = trainer();
        second.load_adapter(folder.path()).unwrap();
        assert_eq!(second.adapter().unwrap(), file);
        assert!(adapter_config(&first.weights()).unwrap_err().to_string().contains("whole weights"));
        assert!(adapter_config(b"torn").is_err());
    }
}
