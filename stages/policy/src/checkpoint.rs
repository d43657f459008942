//! A trainer in a folder: weights, AdamW's state, its step count, and the reference policy where there is one.
//!
//! The weights lie as Hugging Face has them (`config.json`, `model.safetensors`), so a checkpoint is a model folder too.
//! Files are written one by one: whoever needs the whole folder to appear at once writes beside it and renames.

use crate::error::io;
use crate::lora::Adapters;
use crate::model::{Model, Place};
use crate::optimizer::State;
use crate::weights::{Weights, layout, open, read_folder, write};
use crate::{Error, ModelConfig, Result, Trainer};
use std::path::Path;
use tch::Kind;

const FIRST: &str = "first_moment.";
const SECOND: &str = "second_moment.";
/// What a bfloat16 weight leaves of its f32.
const REST: &str = "rest.";
/// The folder of the adapter, where one is trained.
const ADAPTER: &str = "adapter";

impl Trainer {
    /// Writes the trainer into a folder, which is made if it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(io(&path))
        };
        let dtype = if self.model.place.kind == Kind::BFloat16 { "bfloat16" } else { "float32" };
        put("config.json", self.config().with_dtype(dtype).to_json().as_bytes())?;
        put("model.safetensors", &self.weights())?;
        let mut moments = Weights::default();
        let state = self.optimizer.saved(&self.model);
        for (prefix, values) in [(FIRST, &state.first), (SECOND, &state.second), (REST, &state.rest)] {
            if values.is_empty() {
                continue;
            }
            let named = self.model.named(values);
            for name in named.names() {
                moments.insert(format!("{prefix}{name}"), named.get(name)?);
            }
        }
        put("optimizer.safetensors", &write(&moments)?)?;
        if let Some(reference) = &self.reference {
            put("reference.safetensors", &write(&reference.weights())?)?;
        }
        if let Some(adapters) = &self.model.adapters {
            adapters.save(self.config(), &folder.join(ADAPTER))?;
        }
        put("trainer.json", serde_json::json!({ "step": self.optimizer.step }).to_string().as_bytes())
    }

    /// Takes up what [`Trainer::save`] wrote; training goes on with the same bits as if it had not stopped.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Shape`], [`Error::Missing`], [`Error::Weights`] or [`Error::Config`]; the trainer is unchanged then.
    pub fn load(&mut self, folder: &Path) -> Result<()> {
        let get = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(io(&path))
        };
        let found = ModelConfig::from_json(&get("config.json")?)?;
        if found != *self.config() {
            return Err(Error::Config(format!("{} is of another model than the one in training", folder.join("config.json").display())));
        }
        let config = self.config().clone();
        let wanted = layout(&config);
        let state: serde_json::Value =
            serde_json::from_slice(&get("trainer.json")?).map_err(|e| Error::Weights(format!("trainer.json: {e}")))?;
        let step = state["step"].as_u64().ok_or_else(|| Error::Weights("trainer.json lacks `step`".into()))?;
        let path = folder.join("reference.safetensors");
        let reference = if path.exists() {
            let weights = open(&path)?;
            weights.check(&wanted)?;
            Some(Model::new(&config, &weights, self.model.place)?)
        } else {
            None
        };
        let mut moments = open(&folder.join("optimizer.safetensors"))?;
        let (first, second, rest) = (moments.split_off(FIRST), moments.split_off(SECOND), moments.split_off(REST));
        let has_rest = rest.names().next().is_some();
        let place = self.model.place;
        if self.model.adapters.is_some() {
            // The base never moved, so it is there as it was.
            let adapters = Adapters::read(&config, &self.model.layout, &folder.join(ADAPTER), place)?;
            let float = Place { kind: Kind::Float, ..place };
            let take = |named| Ok::<_, Error>(Adapters::take(&config, &self.model.layout, named, adapters.source().clone(), float)?.values);
            let state = State { first: take(&first)?, second: take(&second)?, rest: if has_rest { take(&rest)? } else { vec![] } };
            self.model.adapters = Some(adapters);
            self.optimizer.resume(&self.model, state, step);
        } else {
            let model = Model::new(&config, &read_folder(&config, folder)?, place)?;
            let rest = if has_rest { model.unnamed(&rest)? } else { vec![] };
            let state = State { first: model.unnamed(&first)?, second: model.unnamed(&second)?, rest };
            self.model = model;
            self.optimizer.resume(&self.model, state, step);
        }
        self.reference = reference;
        Ok(())
    }
}
