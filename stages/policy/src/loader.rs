//! Weights on their way to the engine: read, checked, put where they are computed, on any thread.
//!
//! In: bytes of a safetensors file or a folder; an adapter's, where versions are adapters over a base. Out: [`Prepared`], which
//! [`crate::Engine::install`] takes up between two steps.

use crate::host::Decoder;
use crate::lora::Adapters;
use crate::model::{Model, Place};
use crate::{Error, LoraOptions, ModelConfig, Result, weights};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tch::Device;

/// Weights of one version, ready to be computed with.
#[derive(Debug)]
pub struct Prepared(pub(crate) Loaded);

#[derive(Debug)]
pub(crate) enum Loaded {
    /// The CPU's own decoder, with libtorch's vision tower where the model has one.
    Host(Box<Decoder>, Option<Box<Model>>),
    Device(Box<Model>),
}

impl Loaded {
    pub(crate) fn tower_mut(&mut self) -> Option<&mut Model> {
        match self {
            Loaded::Host(_, tower) => tower.as_deref_mut(),
            Loaded::Device(model) => Some(model),
        }
    }

    /// What pictures are seen with.
    pub(crate) fn tower(&self) -> Option<&Model> {
        match self {
            Loaded::Host(_, tower) => tower.as_deref(),
            Loaded::Device(model) => Some(model),
        }
    }
}

/// What the adapters of a run are added to.
#[derive(Clone, Copy, Debug)]
pub enum Base<'a> {
    /// A model folder.
    Folder(&'a Path),
    /// A policy drawn from a seed, as [`crate::Trainer::new`] draws it.
    Seed(u64),
}

/// A base, once for all versions, with rank and alpha of its adapters.
#[derive(Debug)]
pub(crate) struct Adapted {
    model: Model,
    numbers: serde_json::Map<String, serde_json::Value>,
}

impl Adapted {
    /// # Errors
    /// Whatever is wrong with the folder, by name; [`Error::Torch`] without memory.
    pub(crate) fn new(config: &ModelConfig, base: Base<'_>, lora: &LoraOptions, place: Option<Place>) -> Result<Adapted> {
        let weights = match base {
            Base::Folder(folder) => weights::read_folder(config, folder)?,
            Base::Seed(seed) => crate::init::draw(config, seed),
        };
        let model = Model::new(config, &weights, place.unwrap_or(Place::from(Device::Cpu)))?;
        let numbers = [("r", lora.r as f64), ("lora_alpha", lora.alpha)];
        Ok(Adapted { model, numbers: numbers.into_iter().map(|(key, value)| (key.to_string(), value.into())).collect() })
    }
}

/// Makes weights ready, beside the thread that computes.
#[derive(Clone, Debug)]
pub struct Loader {
    config: ModelConfig,
    place: Option<Place>,
    /// Where versions are adapters.
    base: Option<Arc<Mutex<Adapted>>>,
}

impl Loader {
    pub(crate) fn new(config: &ModelConfig, place: Option<Place>, base: Option<Arc<Mutex<Adapted>>>) -> Loader {
        Loader { config: config.clone(), place, base }
    }

    /// Makes the weights of a safetensors file's bytes ready; over a base, those of an adapter.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`], [`Error::Weights`] or [`Error::Adapter`] where they are not of this model.
    pub fn prepare(&self, safetensors: &[u8]) -> Result<Prepared> {
        let Some(base) = &self.base else { return self.ready(&weights::read(&self.config, safetensors)?) };
        // Whoever panicked while holding it changed nothing for good.
        let mut base = base.lock().unwrap_or_else(PoisonError::into_inner);
        let Adapted { model, numbers } = &mut *base;
        let file = weights::parse(safetensors)?;
        let adapters = Adapters::take(&self.config, &model.layout, &file, numbers.clone(), model.place)?;
        self.merged(model, adapters)
    }

    /// The same from a model folder.
    ///
    /// # Errors
    /// As [`Loader::prepare`], and [`Error::Io`].
    pub fn prepare_folder(&self, folder: &Path) -> Result<Prepared> {
        self.ready(&weights::read_folder(&self.config, folder)?)
    }

    /// The weights of a model folder with a LoRA adapter of another folder added in, `W + s B A`.
    ///
    /// # Errors
    /// As [`Loader::prepare_folder`]; [`Error::Adapter`] where the adapter is not of this model.
    pub fn prepare_adapter(&self, base: &Path, adapter: &Path) -> Result<Prepared> {
        let place = self.place.unwrap_or(Place::from(Device::Cpu));
        let mut model = Model::new(&self.config, &weights::read_folder(&self.config, base)?, place)?;
        let adapters = Adapters::read(&self.config, &model.layout, adapter, place)?;
        self.merged(&mut model, adapters)
    }

    /// A base with an adapter added in; the base stays as it is.
    fn merged(&self, base: &mut Model, adapters: Adapters) -> Result<Prepared> {
        let _guard = tch::no_grad_guard();
        if adapters.values.iter().any(|value| !bool::try_from(value.isfinite().all()).unwrap_or(false)) {
            return Err(Error::Adapter("it holds what is no finite number".into()));
        }
        if self.place.is_some() {
            return Ok(Prepared(Loaded::Device(Box::new(base.merged(&adapters)))));
        }
        base.adapters = Some(adapters);
        let whole = base.weights();
        base.adapters = None;
        self.ready(&whole)
    }

    fn ready(&self, weights: &weights::Weights) -> Result<Prepared> {
        Ok(Prepared(match self.place {
            Some(place) => Loaded::Device(Box::new(Model::new(&self.config, weights, place)?)),
            None => {
                let tower = Model::tower(&self.config, weights, Device::Cpu)?;
                Loaded::Host(Box::new(Decoder::new(&self.config, weights)?), tower.map(Box::new))
            }
        }))
    }
}
