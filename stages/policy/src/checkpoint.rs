//! A trainer in a folder: weights, AdamW's moments, its step count, and the reference policy where there is one.
//!
//! The weights lie as Hugging Face has them (`config.json`, `model.safetensors`), so a checkpoint is a model folder too.
//! Files are written one by one: whoever needs the whole folder to appear at once writes beside it and renames.

use crate::error::io;
use crate::model::Model;
use crate::optimizer::refill;
use crate::weights::{HostTensor, Weights, parse, read_folder, take, write};
use crate::{Error, ModelConfig, Result, Trainer};
use std::path::Path;
use tch::Tensor;

const FIRST: &str = "first_moment.";
const SECOND: &str = "second_moment.";

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
        put("config.json", self.config().to_json().as_bytes())?;
        put("model.safetensors", &self.weights())?;
        let named = |prefix: &str, moments: &[Tensor]| -> Weights {
            self.model.export(moments).into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
        };
        let mut moments = named(FIRST, &self.optimizer.first);
        moments.extend(named(SECOND, &self.optimizer.second));
        put("optimizer.safetensors", &write(&moments))?;
        if let Some(reference) = &self.reference {
            let parameters: Vec<Tensor> = reference.parameters().iter().map(|(p, _)| p.shallow_clone()).collect();
            put("reference.safetensors", &write(&reference.export(&parameters)))?;
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
        let weights = read_folder(&config, folder)?;
        let mut moments = parse(&get("optimizer.safetensors")?)?;
        let first = take(&config, &mut moments, FIRST)?;
        let second = take(&config, &mut moments, SECOND)?;
        let state: serde_json::Value =
            serde_json::from_slice(&get("trainer.json")?).map_err(|e| Error::Weights(format!("trainer.json: {e}")))?;
        let step = state["step"].as_u64().ok_or_else(|| Error::Weights("trainer.json lacks `step`".into()))?;
        let reference = if folder.join("reference.safetensors").exists() {
            let mut weights = parse(&get("reference.safetensors")?)?;
            Some(Model::new(&config, &take(&config, &mut weights, "")?, self.options.device)?)
        } else {
            None
        };
        self.reference = reference;
        let _guard = tch::no_grad_guard();
        let place = |into: Vec<&Tensor>, weights: &std::collections::BTreeMap<String, HostTensor>| -> Result<()> {
            let fused = Model::new(&config, weights, self.options.device)?;
            let into: Vec<Tensor> = into.into_iter().map(Tensor::detach).collect();
            let from: Vec<Tensor> = fused.parameters().iter().map(|(p, _)| p.shallow_clone()).collect();
            refill(&into, &from)
        };
        place(self.model.parameters().into_iter().map(|(p, _)| p).collect(), &weights)?;
        place(self.optimizer.first.iter().collect(), &first)?;
        place(self.optimizer.second.iter().collect(), &second)?;
        self.optimizer.step = step;
        Ok(())
    }
}
